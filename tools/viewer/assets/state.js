// The state of a GPU in one cycle: every warp of every SM, and DRAM banks by channel.

// A canvas of cells in rows and columns. cells: [{row, column, colour}]; tell(row, column) gives facts to show.
function cellMap({ rows, columns, cells, size, label, tell, choose, gap = 1, background = null }) {
  const canvas = element('canvas', { class: 'map', role: 'img', 'aria-label': label });
  const ratio = window.devicePixelRatio || 1;
  canvas.width = columns * size * ratio;
  canvas.height = rows * size * ratio;
  canvas.style.width = `${columns * size}px`;
  const c = canvas.getContext('2d');
  c.scale(ratio, ratio);
  if (background) { c.fillStyle = background; c.fillRect(0, 0, columns * size, rows * size); }
  for (const cell of cells) {
    c.fillStyle = cell.colour;
    c.fillRect(cell.column * size, cell.row * size, size - gap, size - gap);
  }
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [Math.floor(((event.clientY - box.top) / box.height) * rows), Math.floor(((event.clientX - box.left) / box.width) * columns)];
  };
  canvas.addEventListener('pointermove', (event) => {
    const facts = tell(...at(event));
    if (facts) app.tooltip.show(factsNode(facts), event.clientX, event.clientY); else app.tooltip.hide();
  });
  canvas.addEventListener('pointerleave', () => app.tooltip.hide());
  if (choose) canvas.addEventListener('click', (event) => choose(...at(event)));
  return canvas;
}

// Issue events of each warp that ran on a sub-core, in order: [{launch, actor, events, begin, end}].
function warpsOf(trace, unit) {
  trace.warps ||= new Map();
  const known = trace.warps.get(unit);
  if (known) return known;
  const { start, end, launch, actor, wait, kind, offsets } = trace.e;
  const found = new Map();
  for (let i = offsets[unit]; i < offsets[unit + 1]; i++) {
    if (kind[i] !== trace.issueKind || actor[i] < 0) continue;
    const key = launch[i] * 16777216 + actor[i];
    let warp = found.get(key);
    if (!warp) found.set(key, warp = { launch: launch[i], actor: actor[i], events: [], begin: start[i] - wait[i], end: 0 });
    warp.events.push(i);
    warp.end = Math.max(warp.end, end[i]);
  }
  const list = [...found.values()];
  trace.warps.set(unit, list);
  return list;
}

// What a warp does in a cycle since the window's start: its next or present issue, and the reason of its wait. Where
// nothing of its own holds it, that is what its sub-core waits for, or another warp is issued (taken: its event then).
function warpState(trace, warp, at, taken) {
  const { start, reason, kind } = trace.e;
  const next = firstFrom(warp.events, start, at, 0, warp.events.length), before = warp.events[next - 1];
  if (next === warp.events.length) return { name: 'idle', said: 'its last result is on the way', event: before, since: start[before] + 1 };
  const i = warp.events[next];
  if (start[i] === at) return { name: 'issue', said: 'issues', event: i, since: at };
  const since = next ? start[before] + 1 : warp.begin;
  const held = reason[i] || (taken >= 0 && kind[taken] === trace.stallKind ? reason[taken] : 0);
  const r = trace.reasons[held];
  return held ? { name: r.name, said: `waits: ${r.name}`, event: i, since, reason: r }
    : { name: 'ready', said: 'ready, another is issued', event: i, since };
}

const READY = ['#7fb0ff', '#9cc0f7'];
const stateColour = (name) => (name === 'ready' ? READY[ui.light ? 1 : 0] : colourOf(name));

function warpsAt(trace, unit, at) {
  return warpsOf(trace, unit).filter((w) => w.begin <= at && at < w.end).sort((a, b) => a.launch - b.launch || a.actor - b.actor);
}

function warpFacts(trace, unit, warp, state) {
  const { asm, line, source, node } = trace.instruction(state.event) || { asm: '', line: 0, source: '', node: '' };
  const launch = trace.launch(warp.launch);
  return { title: `warp ${warp.actor}: ${state.said}`, category: state.name === 'ready' ? 'issue' : state.name, facts: [
    ...pair('unit', trace.units[unit].name), ...pair(state.name === 'issue' ? 'instruction' : state.name === 'idle' ? 'last' : 'next', asm),
    ...(line > 0 ? pair(`line ${line}`, source) : []), ...pair('node', node || (launch && launch.node)),
    ...pair('since cycle', whole(state.since + trace.first)),
    ...(state.reason ? [...pair('cause', state.reason.cause), ...pair('advice', state.reason.advice)] : [])] };
}

function gpuState(timeline, trace, cycle) {
  const at = cycle - trace.first;
  const cores = trace.units.filter((u) => u.kind === 'sub_core');
  const sms = new Map();
  for (const unit of cores) {
    const name = `${groupName(unit.name) || unit.name}${unit.chip ? ` of GPU ${unit.chip}` : ''}`;
    if (!sms.has(name)) sms.set(name, []);
    sms.get(name).push(unit);
  }
  const rows = [...sms.entries()];
  const size = Math.round((ui.large ? 9 : 6));
  const cells = [], where = new Map();
  const counts = new Map();
  let columns = 16;
  rows.forEach(([, units], r) => {
    let column = 0;
    for (const unit of units) {
      const taken = takes(trace, unit.number, at);
      for (const warp of warpsAt(trace, unit.number, at)) {
        const state = warpState(trace, warp, at, taken);
        counts.set(state.name, (counts.get(state.name) || 0) + 1);
        where.set(`${r},${column}`, [unit.number, warp, state]);
        cells.push({ row: r, column: column++, colour: stateColour(state.name) });
      }
    }
    columns = Math.max(columns, column);
  });
  const focusUnit = timeline.focus.trace === trace ? timeline.focus.units[0] : -1;
  const focused = rows.findIndex(([, units]) => units.some((u) => u.number === focusUnit));
  const shown = focused >= 0 && timeline.focus.kind !== 'class' && timeline.focus.kind !== 'trace' ? focused : Math.max(0, rows.findIndex((_, r) => where.has(`${r},0`)));
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  const parts = [element('h3', {}, `warps in cycle ${whole(cycle)}`),
    element('p', { class: 'dim' }, total ? `${whole(total)} warps on ${rows.length} SMs; one row an SM, one cell a warp` : 'no warp is there in this cycle'),
    element('div', { class: 'legend' }, [...counts].sort((a, b) => b[1] - a[1]).map(([name, n]) => element('span', {},
      element('span', { class: 'swatch', style: { background: stateColour(name) } }), `${name} ${whole(n)}`)))];
  if (total) {
    parts.push(element('div', { class: 'scroll', style: { maxHeight: '16rem', overflow: 'auto', margin: '.4rem 0' } }, cellMap({ rows: rows.length, columns, cells, size,
      label: 'state of every warp', background: cssColour('row'),
      tell: (r, c) => { const w = where.get(`${r},${c}`); return w ? warpFacts(trace, ...w) : rows[r] ? { title: rows[r][0], facts: [] } : null; },
      choose: (r) => { const unit = rows[r] && rows[r][1][0]; if (unit) { timeline.focus = timeline.unitRow(trace, unit.number); timeline.showRow(timeline.focus); timeline.changed(); } } })));
    const [name, units] = rows[shown];
    parts.push(element('h3', {}, `${name}, warp by warp`), element('table', { class: 'grid', id: 'warps' }, element('tbody', {},
      units.flatMap((unit) => warpsAt(trace, unit.number, at).map((warp) => {
        const state = warpState(trace, warp, at, takes(trace, unit.number, at));
        const instruction = trace.instruction(state.event);
        const row = element('tr', { tabindex: '0', onclick: () => select(timeline, trace, state.event, false) },
          element('td', { class: 'dim' }, unit.name), element('td', { class: 'n' }, `warp ${warp.actor}`),
          element('td', {}, element('span', { class: 'swatch', style: { background: stateColour(state.name) } }), ` ${state.said}`),
          element('td', { class: 'mono' }, instruction ? instruction.asm : ''), element('td', { class: 'n dim' }, `${whole(at - state.since)} cyc`));
        return row;
      })))));
  }
  return [...parts, ...banksAt(trace, at, cycle)];
}

function banksAt(trace, at, cycle) {
  const banks = trace.units.filter((u) => u.kind === 'dram_bank');
  if (!banks.length) return [];
  const channels = new Map();
  for (const unit of banks) {
    const name = groupName(unit.name) || unit.name;
    if (!channels.has(name)) channels.set(name, []);
    channels.get(name).push(unit);
  }
  const rows = [...channels.entries()];
  const columns = Math.max(...rows.map(([, units]) => units.length));
  const cells = [], where = new Map(), counts = new Map();
  rows.forEach(([, units], r) => units.forEach((unit, column) => {
    const i = takes(trace, unit.number, at);
    where.set(`${r},${column}`, [unit, i]);
    const name = i < 0 ? '' : trace.kinds[trace.e.kind[i]];
    counts.set(name, (counts.get(name) || 0) + 1);
    cells.push({ row: r, column, colour: i < 0 ? cssColour('line') : colourOf(name) });
  }));
  const open = banks.length - (counts.get('') || 0);
  return [element('h3', {}, `DRAM banks in cycle ${whole(cycle)}`), element('p', { class: 'dim' }, `${whole(open)} of ${whole(banks.length)} banks have a row open; one row a channel, one cell a bank`),
    element('div', { class: 'scroll', style: { maxHeight: '20rem', overflow: 'auto' } }, cellMap({ rows: rows.length, columns, cells, size: ui.large ? 12 : 8, label: 'DRAM banks by channel',
      background: cssColour('row'), tell: (r, c) => {
        const found = where.get(`${r},${c}`);
        if (!found) return null;
        return found[1] < 0 ? { title: found[0].name, facts: [['', 'no row open for a recorded access']] } : eventFacts(trace, found[1]);
      } }))];
}
