// The summary: both machines side by side, from the step's results; it needs no events.

function summaryView(traces) {
  const note = traces.every((t) => t.summary.whole) ? null
    : element('p', { class: 'dim' }, 'A part of the step was recorded: sums that come from the trace, and everything on the timeline, are of that part.');
  return [note, element('div', { class: 'machines' }, traces.map(summaryCard)), nodesCard(traces)];
}

function summaryCard(trace) {
  const { summary } = trace;
  const ns = trace.cycles * (1e9 / trace.clockHz);
  const options = Object.entries(summary.options).map(([name, value]) => `${name.replaceAll('_', ' ')} ${value}`).join(' · ');
  const recorded = trace.window[1] - trace.window[0];
  const parts = [element('h2', {}, trace.chip, ' ', element('span', { class: 'dim' }, trace.label)), options ? element('div', { class: 'dim' }, options) : null,
    element('div', { class: 'big' }, timeText(ns)), element('div', {}, `${whole(trace.cycles)} cycles at ${(trace.clockHz / 1e6).toFixed(0)} MHz`),
    element('div', { class: 'dim' }, `${whole(trace.count)} events of cycles ${whole(trace.window[0])} to ${whole(trace.window[1])} (${percent(recorded, trace.cycles)} of the step)`)];
  if (trace.recordedLaunches) parts.push(element('div', { class: 'dim' }, `of ${trace.recordedLaunches.length} launches; the others are hatched`));
  const standing = trace.chips.reduce((sum, c) => sum + c.rows.length, 0);
  if (standing > trace.chips.length) parts.push(element('div', { class: 'dim' }, `${standing} chips; ${trace.chips.length} ran, for all that do the same`));
  if (summary.floor) {
    const share = summary.floor.cycles / trace.cycles;
    parts.push(element('h3', {}, 'floor'), element('div', {}, `${whole(summary.floor.cycles)} cycles${summary.floor.boundBy ? `, bound by ${summary.floor.boundBy}` : ''}: ${(100 * share).toFixed(1)} % of the time`),
      element('div', { class: 'bar' }, element('i', { style: { width: `${Math.min(100, 100 * share)}%`, background: cssColour('good') } })));
  }
  if (summary.waterfall.length) parts.push(element('h3', {}, 'from the floor to the time, limit by limit'), waterfallNode(trace));
  parts.push(element('h3', {}, 'where the unit cycles went'), ...accountingNodes(trace));
  if (summary.timeTree.length) parts.push(element('h3', {}, 'time tree'), treeNode(trace));
  parts.push(element('h3', {}, 'moved'), trafficNode(trace));
  return element('article', { class: 'card' }, parts);
}

// Steps from the floor to the total; a step may be negative.
function waterfallNode(trace) {
  const { waterfall } = trace.summary;
  let sum = 0, most = 1;
  const steps = waterfall.map((step) => {
    const from = sum;
    sum += step.cycles;
    most = Math.max(most, from, sum);
    return { ...step, from, to: sum };
  });
  return element('table', { class: 'grid waterfall' }, element('tbody', {}, steps.map((step, n) => element('tr', { title: step.why },
    element('td', {}, step.name), element('td', { class: 'n' }, `${step.cycles < 0 ? '−' : n ? '+' : ''}${whole(Math.abs(step.cycles))}`),
    element('td', { style: { width: '45%' } }, element('div', { class: 'track' }, element('i', { style: {
      left: `${(100 * Math.min(step.from, step.to)) / most}%`, width: `${Math.max(0.4, (100 * Math.abs(step.cycles)) / most)}%`,
      background: n === 0 ? cssColour('good') : step.cycles < 0 ? cssColour('accent') : cssColour('bad') } }))))),
  element('tr', {}, element('td', {}, element('b', {}, 'total')), element('td', { class: 'n' }, element('b', {}, whole(sum))), element('td', {}, ''))));
}

function accountingNodes(trace) {
  const known = new Map(trace.reasons.map((r) => [r.name, r]));
  return Object.entries(trace.summary.accounting).map(([kind, buckets]) => {
    const total = Object.values(buckets).reduce((a, b) => a + b, 0);
    const list = Object.entries(buckets).filter(([, v]) => v > 0).sort((a, b) => b[1] - a[1]);
    const shares = list.map(([name, v]) => [name === 'busy' ? 'issue' : name, v / Math.max(1, total)]);
    const worst = list.find(([name]) => name !== 'busy' && name !== 'idle');
    const reason = worst && known.get(worst[0]);
    return element('div', { class: 'account' }, element('div', {}, Object.hasOwn(CLASS_NAMES, kind) ? CLASS_NAMES[kind] : kind),
      shareBar(shares, 1), element('div', { class: 'legend' }, shares.slice(0, 5).map(([name, s]) => element('span', {},
        element('span', { class: 'swatch', style: { background: colourOf(name) } }), `${name === 'issue' ? 'busy' : name} ${(100 * s).toFixed(1)} %`))),
      reason && reason.advice ? element('div', { class: 'dim' }, `${reason.name}: ${reason.cause} → ${reason.advice}`) : null);
  });
}

function trafficNode(trace) {
  const list = Object.entries(trace.summary.traffic).filter(([, v]) => v > 0).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1, ...list.map(([, v]) => v));
  return element('table', { class: 'grid' }, element('tbody', {}, list.map(([name, v]) => element('tr', {}, element('td', {}, name.replaceAll('_', ' ')),
    element('td', { class: 'n' }, bytesText(v)), element('td', { style: { width: '45%' } }, element('div', { class: 'bar thin' }, element('i', { style: { width: `${(100 * v) / most}%`, background: colourOf(name) } })))))));
}

// Exclusive leaves by path -> nested sums, the largest first; open what matters.
function treeNode(trace) {
  const leaves = trace.summary.timeTree;
  const common = leaves.every((leaf) => leaf.path.length > 1 && leaf.path[0] === leaves[0].path[0]);
  const root = { name: common ? leaves[0].path[0] : 'step', cycles: 0, children: new Map() };
  for (const { path, cycles } of leaves) {
    let at = root;
    root.cycles += cycles;
    for (const part of common ? path.slice(1) : path) {
      if (!at.children.has(part)) at.children.set(part, { name: part, cycles: 0, children: new Map() });
      at = at.children.get(part);
      at.cycles += cycles;
    }
  }
  const line = (node) => [element('span', { class: 'tree-bar' }, element('i', { style: { width: `${(100 * node.cycles) / Math.max(1, root.cycles)}%` } })),
    element('span', { class: 'n' }, percent(node.cycles, root.cycles)), ' ', node.name, element('span', { class: 'dim' }, `  ${whole(node.cycles)}`)];
  const show = (node, depth) => {
    const children = [...node.children.values()].filter((c) => c.cycles !== 0).sort((a, b) => b.cycles - a.cycles);
    if (!children.length) return element('div', { class: 'leaf' }, line(node));
    const made = element('details', {}, element('summary', {}, line(node)));
    if (depth < 1) made.setAttribute('open', '');
    let filled = false;
    const fillIn = () => { if (!filled) { filled = true; made.append(...children.map((c) => show(c, depth + 1))); } };
    if (depth < 1) fillIn(); else made.addEventListener('toggle', fillIn);
    return made;
  };
  return element('div', { class: 'tree' }, show(root, 0));
}

// Every node of every machine: cycles, bytes, the longest wait.
function nodesCard(traces) {
  return element('div', {}, traces.filter((t) => t.nodes.length).map((trace) => {
    const rows = trace.nodes.slice().sort((a, b) => b.cycles - a.cycles).slice(0, 60);
    const levels = ['hbm_read', 'hbm_write', 'l2_read', 'mxm_ingest', 'sram_read', 'sram_write'].filter((l) => rows.some((n) => n.bytes[l]));
    return element('article', { class: 'card', style: { marginTop: '1rem' } }, element('h2', {}, `${trace.chip}, node by node`, element('span', { class: 'dim' }, `  ${trace.label}, as recorded`)),
      element('div', { class: 'scroll' }, element('table', { class: 'grid nodes' }, element('thead', {}, element('tr', {}, element('th', {}, 'node'), element('th', {}, 'kernel'), element('th', { class: 'n' }, 'cycles'), element('th', { class: 'n' }, 'issues'),
        levels.map((l) => element('th', { class: 'n' }, l.replaceAll('_', ' '))), element('th', {}, 'waits most for'))),
      element('tbody', {}, rows.map((node) => {
        const stall = Object.entries(node.stalls).filter(([name]) => name !== 'idle').sort((a, b) => b[1] - a[1])[0];
        return element('tr', { tabindex: '0', onclick: () => findNode(node.name) }, element('td', {}, node.name), element('td', { class: 'dim' }, node.kernel), element('td', { class: 'n' }, whole(node.cycles)), element('td', { class: 'n' }, whole(node.issues)),
          levels.map((l) => element('td', { class: 'n' }, node.bytes[l] ? bytesText(node.bytes[l]) : '')), element('td', {}, stall ? [element('span', { class: 'swatch', style: { background: colourOf(stall[0]) } }), ` ${stall[0]}`] : ''));
      })))));
  }));
}

function findNode(name) {
  const query = document.getElementById('query');
  query.value = name;
  query.dispatchEvent(new Event('input'));
  showView('timeline');
  app.search.move(1);
}
