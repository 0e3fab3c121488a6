// The pane beside the timeline: what is selected, and what the focused row did in the range that is shown.

function detailsPane(timeline) {
  const { selected, focus } = timeline;
  const parts = [];
  if (selected) {
    const facts = eventFacts(selected.trace, selected.i);
    parts.push(element('h3', {}, 'selected event'), ...factsNode(facts), relatedNode(timeline, selected));
  }
  if (timeline.cursor) parts.push(...busyAt(timeline));
  parts.push(element('h3', {}, `${focus.kind === 'trace' ? focus.trace.chip : focus.label} in the range shown`), rangeTable(timeline, focus));
  return parts;
}

function relatedNode(timeline, { trace, i }) {
  const n = trace.e.instruction[i];
  const buttons = [];
  if (n >= 0) {
    buttons.push(element('button', { type: 'button', onclick: () => showPane('listing') }, 'its line (l)'));
    buttons.push(' ', element('button', { type: 'button', onclick: () => app.search.instruction(trace, n, 1) }, 'its next bar'));
  }
  buttons.push(' ', element('button', { type: 'button', onclick: () => zoomToSelected(timeline) }, 'zoom to it (z)'));
  return element('p', {}, buttons);
}

// What each class of units does in the cursor's cycle: "sub-cores: 3 issue, 12 global_memory".
function busyAt({ cursor: { trace, cycle } }) {
  const at = cycle - trace.first;
  const title = element('h3', {}, `${trace.chip}, cycle ${whole(cycle)}`);
  if (at < 0 || at >= trace.span) return [title, element('p', { class: 'dim' }, 'not recorded')];
  const classes = new Map();
  for (const unit of trace.units) {
    const i = takes(trace, unit.number, at);
    if (!classes.has(unit.kind)) classes.set(unit.kind, new Map());
    const states = classes.get(unit.kind);
    const name = i < 0 ? 'nothing' : trace.categories[trace.category(i)];
    states.set(name, (states.get(name) || 0) + 1);
  }
  return [title, element('table', { class: 'facts' }, element('tbody', {}, [...classes].map(([kind, states]) => element('tr', {},
    element('th', {}, Object.hasOwn(CLASS_NAMES, kind) ? CLASS_NAMES[kind] : kind),
    element('td', {}, [...states].sort((a, b) => b[1] - a[1]).map(([name, count]) => `${whole(count)} ${name}`).join(', '))))))];
}

// The event that takes a unit in a cycle (since the window's start), -1 where none does.
function takes(trace, unit, at) {
  const { start, end, offsets, latest, kind } = trace.e;
  const slot = trace.slotted[unit];
  for (let i = lowerBound(latest, at + 1, offsets[unit], offsets[unit + 1]); i < offsets[unit + 1] && start[i] <= at; i++) {
    if (slot && kind[i] !== trace.issueKind && kind[i] !== trace.stallKind) continue;
    if ((slot ? trace.slotEnd(i) : end[i]) > at) return i;
  }
  return -1;
}

const rangeShares = new Shares();

function rangeTable(timeline, row) {
  const { trace } = row;
  if (row.kind === 'spans') return spansTable(timeline, row);
  const from = Math.max(trace.first, timeline.t0 / trace.nsPerCycle), to = Math.min(trace.end, timeline.t1 / trace.nsPerCycle);
  if (to <= from) return element('p', { class: 'dim' }, 'nothing was recorded here');
  if (row.kind === 'trace' || row.kind === 'chip') return classesTable(row, from, to);
  sharesOf(row, rangeShares, from - trace.first, 1 / (to - from), 1);
  const list = rangeShares.used.map((c) => [c, rangeShares.part[c][0]]).filter(([, s]) => s > 0).sort((a, b) => b[1] - a[1]);
  const kinds = trace.kinds.length;
  const rows = list.map(([c, share]) => element('tr', {},
    element('td', { class: 'name' }, element('span', { class: 'swatch', style: { background: colourOf(trace.categories[c]) } }), ' ', trace.categories[c]),
    element('td', { class: 'n' }, `${(100 * share).toFixed(1)} %`),
    element('td', { class: 'dim' }, c >= kinds ? [trace.reasons[c - kinds].cause, trace.reasons[c - kinds].advice ? element('div', {}, `→ ${trace.reasons[c - kinds].advice}`) : null] : trace.meanings[c])));
  const rest = 1 - list.reduce((sum, [, s]) => sum + s, 0);
  return element('div', {},
    element('p', { class: 'dim' }, `cycles ${whole(Math.floor(from))} to ${whole(Math.ceil(to))}, ${row.units.length > 1 ? `${row.units.length} units` : 'one unit'}`),
    element('table', { class: 'grid' }, element('tbody', {}, rows, rest > 0.0005 ? element('tr', {}, element('td', {}, 'nothing recorded'),
      element('td', { class: 'n' }, `${(100 * rest).toFixed(1)} %`), element('td', {}, '')) : null)));
}

function classesTable(row, from, to) {
  const { trace } = row;
  const lines = [];
  const visit = (one) => {
    if (one.kind === 'class') {
      sharesOf(one, rangeShares, from - trace.first, 1 / (to - from), 1);
      const shares = rangeShares.used.map((c) => [trace.categories[c], rangeShares.part[c][0]]).filter(([, s]) => s > 0);
      lines.push(element('tr', {}, element('td', {}, one.label), element('td', { style: { width: '65%' } }, shareBar(shares, 1))));
    } else one.children.forEach(visit);
  };
  visit(row);
  return element('div', {}, element('p', { class: 'dim' }, `cycles ${whole(Math.floor(from))} to ${whole(Math.ceil(to))}`),
    element('table', { class: 'grid' }, element('tbody', {}, lines)), legendOf(trace));
}

function spansTable(timeline, row) {
  const { trace } = row;
  const inside = trace.spans.filter((s) => trace.nsOf(s.end) > timeline.t0 && trace.nsOf(s.start) < timeline.t1).slice(0, 200);
  return element('table', { class: 'grid' }, element('thead', {}, element('tr', {}, element('th', {}, 'node'), element('th', { class: 'n' }, 'cycles'), element('th', { class: 'n' }, 'time'))),
    element('tbody', {}, inside.map((s) => element('tr', {}, element('td', {}, s.name), element('td', { class: 'n' }, whole(s.end - s.start)),
      element('td', { class: 'n' }, timeText((s.end - s.start) * trace.nsPerCycle))))));
}

// A stacked bar of (name, share); shares beyond `total` are scaled.
function shareBar(shares, total, title = (name, share) => `${name} ${(100 * share).toFixed(1)} %`) {
  const sum = Math.max(total, shares.reduce((s, [, v]) => s + v, 0));
  return element('div', { class: 'bar' }, shares.map(([name, share]) => element('i', { title: title(name, share),
    style: { width: `${(100 * share) / sum}%`, background: colourOf(name) } })));
}

function legendOf(trace) {
  const used = new Set();
  for (let i = 0, e = trace.e.start.length, step = Math.max(1, Math.floor(e / 20000)); i < e; i += step) used.add(trace.category(i));
  return element('div', { class: 'legend' }, [...used].sort((a, b) => a - b).map((c) => element('span', {},
    element('span', { class: 'swatch', style: { background: colourOf(trace.categories[c]) } }), trace.categories[c])));
}
