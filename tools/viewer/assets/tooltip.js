// What lies under the pointer, in words.

// The event of a row at a moment: on a unit's row what takes the unit, on a lane what lies in it; -1 where none.
function eventAt(row, ns, slackNs) {
  const { trace } = row;
  const unit = row.units[0];
  const { start, end, offsets, latest, kind } = trace.e;
  const from = offsets[unit], to = offsets[unit + 1];
  const at = ns / trace.nsPerCycle - trace.first, slack = slackNs / trace.nsPerCycle;
  const lanes = row.kind === 'lane' ? lanesOf(trace, unit).lane : null;
  const slot = trace.slotted[unit] && (row.kind === 'unit' || row.lane === 0);
  let best = -1, nearest = Infinity;
  for (let i = lowerBound(latest, at - slack, from, to); i < to && start[i] <= at + slack; i++) {
    if (slot && kind[i] !== trace.issueKind && kind[i] !== trace.stallKind) continue;
    if (!slot && lanes && lanes[i - from] !== row.lane) continue;
    const stop = slot ? trace.slotEnd(i) : end[i];
    if (stop <= at - slack) continue;
    const far = at < start[i] ? start[i] - at : Math.max(0, at - stop);
    const rank = far + (kind[i] === trace.stallKind ? slack * 1e-3 : 0);
    if (rank < nearest || (rank === nearest && best >= 0 && stop - start[i] < end[best] - start[best])) { best = i; nearest = rank; }
  }
  return best;
}

const pair = (name, value) => (value === '' || value === null || value === undefined ? [] : [[name, value]]);

const ASKED_BY_SM = new Set(['l2_read', 'l2_write', 'nvlink']);  // kinds whose actor is an SM, not a warp

// [title, rows of (name, value)] of an event.
function eventFacts(trace, i) {
  const e = trace.e;
  const unit = trace.units[trace.unitOf(i)];
  const stall = e.kind[i] === trace.stallKind;
  const instruction = trace.instruction(i);
  const launch = trace.launch(e.launch[i]);
  const start = e.start[i] + trace.first, cycles = e.end[i] - e.start[i];
  const reason = trace.reasons[e.reason[i]];
  const facts = [
    ...pair('unit', `${unit.name} of ${trace.chip}`),
    ...pair('cycles', `${whole(start)} to ${whole(start + cycles)} (${whole(cycles)} cycle${cycles === 1 ? '' : 's'}, `
      + `${timeText(cycles * trace.nsPerCycle)})`),
  ];
  if (instruction) {
    facts.push(...pair('instruction', instruction.asm));
    if (instruction.line > 0) facts.push(...pair(`line ${instruction.line}`, instruction.source));
    facts.push(...pair('tensor', trace.tensorOf(e.instruction[i], e.launch[i])));
    facts.push(...pair('node', instruction.node || (launch && launch.node)), ...pair('kernel', instruction.kernel));
  } else if (launch) facts.push(...pair('node', launch.node), ...pair('kernel', launch.kernel));
  if (ASKED_BY_SM.has(trace.kinds[e.kind[i]])) {
    if (e.actor[i] >= 0) facts.push(...pair('asked by', `SM${e.actor[i]}`));
  } else if (launch && e.actor[i] >= 0) {
    const warps = Math.max(1, Math.ceil(launch.block / 32));
    facts.push(...pair('warp', `${e.actor[i]} (CTA ${Math.floor(e.actor[i] / warps)}, warp ${e.actor[i] % warps})`));
  } else if (e.actor[i] > 0) facts.push(...pair('iteration', whole(e.actor[i])));
  if (e.bytes[i]) facts.push(...pair('bytes', whole(e.bytes[i])));
  if (stall || (e.wait[i] > 0 && e.reason[i] > 0)) {
    facts.push(...pair(stall ? 'waits' : 'waited', stall ? reason.name : `${whole(e.wait[i])} cycles: ${reason.name}`));
    facts.push(...pair('cause', reason.cause), ...pair('advice', reason.advice));
  }
  const title = stall ? `stall: ${reason.name}` : instruction && e.kind[i] === trace.issueKind ? instruction.opcode : trace.kinds[e.kind[i]];
  return { title, facts, category: trace.categories[trace.category(i)] };
}

function spanFacts(trace, span) {
  const launch = trace.launch(span.launch);
  return { title: span.name, category: null, facts: [
    ...pair('kernel', span.kernel), ...(launch ? pair('grid', `${whole(launch.grid)} CTAs of ${launch.block} threads`) : []),
    ...pair('cycles', `${whole(span.start)} to ${whole(span.end)} (${whole(span.end - span.start)}, ${timeText((span.end - span.start) * trace.nsPerCycle)})`)] };
}

const shareScratch = new Shares();

// Shares of what a row of several units, or a long stretch of one, did in one pixel.
function shareFacts(row, ns, slackNs) {
  const { trace } = row;
  const t0 = (ns - slackNs) / trace.nsPerCycle - trace.first;
  const cycles = Math.max(1, (2 * slackNs) / trace.nsPerCycle);
  sharesOf(row, shareScratch, Math.floor(t0), 1 / cycles, 1);
  const list = shareScratch.used.map((c) => [trace.categories[c], shareScratch.part[c][0]]).filter(([, s]) => s > 0.0005)
    .sort((a, b) => b[1] - a[1]).slice(0, 7);
  return { title: `${row.label}${row.units.length > 1 ? ` (${row.units.length} units)` : ''}`, category: list.length ? list[0][0] : null,
    facts: [...pair('cycle', whole(Math.max(0, trace.cycleOf(ns)))), ...list.map(([name, s]) => [name, `${(100 * s).toFixed(1)} %`])] };
}

function factsNode({ title, facts, category }) {
  const head = element('div', { class: 'tip-title' });
  if (category) head.append(element('span', { class: 'swatch', style: { background: colourOf(category) } }));
  head.append(title);
  return [head, element('table', { class: 'facts' }, element('tbody', {},
    facts.map(([name, value]) => element('tr', {}, element('th', {}, name), element('td', {}, value)))))];
}

class Tooltip {
  constructor(node) { this.node = node; }

  hide() { this.node.hidden = true; }

  show(content, x, y) {
    fill(this.node, ...content);
    this.node.hidden = false;
    const box = this.node.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth ? Math.max(4, x - box.width - 12) : x + 16;
    const top = y + 14 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 14;
    this.node.style.left = `${left}px`;
    this.node.style.top = `${top}px`;
  }
}

// Facts of whatever is under a point of the timeline, null where nothing is.
function factsAt(timeline, row, ns) {
  if (!row || row.kind === 'trace') return null;
  const { trace } = row;
  const cycle = ns / trace.nsPerCycle;
  if (cycle < 0 || cycle >= trace.cycles) return null;
  if (row.kind === 'spans') {
    const span = row.spans.find((s) => s.start <= cycle && cycle < s.end);
    return span ? spanFacts(trace, span) : null;
  }
  if (!trace.recorded(Math.floor(cycle), trace.units[row.units[0]].kind)) {
    return { title: 'not recorded', category: null, facts: [['recorded', `cycles ${whole(trace.first)} to ${whole(trace.end)}`],
      ...(trace.recordedLaunches ? [['launches', trace.recordedLaunches.map((n) => trace.launches.node[n] || trace.launches.kernel[n]).slice(0, 12).join(', ')]] : []),
      ['kinds', trace.recordedKinds.join(', ')]] };
  }
  const pixel = ((timeline.t1 - timeline.t0) / timeline.plot) * timeline.ratio;
  if (row.kind === 'unit' || row.kind === 'lane') {
    const i = eventAt(row, ns, pixel);
    if (i >= 0) return { ...eventFacts(trace, i), event: i };
    return row.kind === 'lane' ? null : { title: row.label, category: null, facts: [['', 'nothing here']] };
  }
  return shareFacts(row, ns, pixel);
}
