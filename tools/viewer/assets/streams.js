// Where every live value of an LPU is in one cycle. An eastward value at column p in cycle t keeps t - p, a westward
// one t + p; it is there from its birth until it falls off the edge or another value takes its place.

const WEST = 32, STREAMS = 64;
const streamName = (s) => `S${s % WEST}.${s >= WEST ? 'W' : 'E'}`;

// Live values of chip `chip` in a cycle since the window's start: [{stream, column, born, event}].
function valuesAt(trace, chip, at) {
  const { flow, flows, edge, reach } = trace.streams;
  const { start, kind, instruction, offsets } = trace.e;
  const places = new Map();  // stream, column -> the value last born there
  for (const unit of trace.units) {
    if (unit.chip !== chip || !trace.slotted[unit.number]) continue;
    const from = offsets[unit.number], to = offsets[unit.number + 1];
    for (let i = lowerBound(start, at - reach, from, to); i < to && start[i] <= at; i++) {
      if (kind[i] !== trace.issueKind || instruction[i] < 0) continue;
      const f = flow[instruction[i]];
      if (f < 0 || !flows[f][2]) continue;
      const [later, column, streams] = flows[f][2];
      const born = start[i] + later;
      if (born > at) continue;
      streams.forEach((stream, byte) => {
        const now = stream >= WEST ? column - (at - born) : column + (at - born);
        if (now < -edge || now > edge) return;
        const place = stream * 1024 + now + 512;
        const other = places.get(place);
        if (!other || other.born < born) places.set(place, { stream, column: now, born, byte, of: streams.length, event: i });
      });
    }
  }
  return [...places.values()].sort((a, b) => a.stream - b.stream || a.column - b.column);
}

// Instructions that sample a value from this cycle on: [{event, cycle}], the next ones first.
function readersOf(trace, chip, value, at) {
  const { flow, flows, edge } = trace.streams;
  const { start, kind, instruction, offsets } = trace.e;
  const west = value.stream >= WEST;
  const found = [];
  for (const unit of trace.units) {
    if (unit.chip !== chip || !trace.slotted[unit.number]) continue;
    const to = offsets[unit.number + 1];
    for (let i = lowerBound(start, at, offsets[unit.number], to); i < to && start[i] <= at + 2 * edge; i++) {
      if (kind[i] !== trace.issueKind || instruction[i] < 0) continue;
      const f = flow[instruction[i]];
      if (f < 0 || !flows[f][1].includes(value.stream)) continue;
      const there = west ? value.column - (start[i] - at) : value.column + (start[i] - at);
      if (there === flows[f][0]) found.push({ event: i, cycle: start[i] });
    }
  }
  return found.sort((a, b) => a.cycle - b.cycle);
}

function valueFacts(trace, chip, value, at) {
  const producer = trace.instruction(value.event);
  const reader = readersOf(trace, chip, value, at)[0];
  const unit = trace.units[trace.unitOf(value.event)];
  return { title: `${streamName(value.stream)} at column ${value.column}`, category: null, facts: [
    ...pair('made by', `${unit.name}  ${producer.asm}`), ...pair('tensor', trace.tensorOf(trace.e.instruction[value.event], -1)), ...pair('node', producer.node), ...(value.of > 1 ? pair('stream', `${value.byte + 1} of ${value.of}`) : []),
    ...pair('born', `cycle ${whole(value.born + trace.first)}`),
    ...pair('next read', reader ? `cycle ${whole(reader.cycle + trace.first)} by ${trace.units[trace.unitOf(reader.event)].name}  ${trace.instruction(reader.event).asm}` : 'not within its way to the edge')] };
}

const classColour = (kind) => colourOf({ mem: 'sram_read', vxm: 'issue', mxm: 'mxm_ingest', sxm: 'stream', c2c: 'network' }[kind] || 'issue');

function lpuState(timeline, trace, cycle) {
  const at = cycle - trace.first;
  if (!trace.streams) return [element('p', { class: 'dim' }, 'This trace was made with chip numbers that are not at hand, so the columns of its units are not known.')];
  const chips = [...new Set(trace.units.map((u) => u.chip))];
  const focus = timeline.focus.trace === trace ? timeline.focus.units[0] : undefined;
  const chip = focus === undefined ? chips[0] : trace.units[focus].chip;
  const { edge, markers } = trace.streams;
  const values = valuesAt(trace, chip, at);
  const width = 2 * edge + 1;
  const cells = values.map((v) => ({ row: v.stream, column: v.column + edge, colour: classColour(trace.units[trace.unitOf(v.event)].kind) }));
  const guides = [];
  for (const [kind, columns] of Object.entries(markers)) {
    for (const column of columns) for (let row = 0; row < STREAMS; row++) guides.push({ row, column: column + edge, colour: kind === 'VXM' || kind === 'SXM' || kind === 'MXM' ? cssColour('header') : cssColour('row') });
  }
  const where = new Map(values.map((v) => [`${v.stream},${v.column + edge}`, v]));
  const kinds = [...new Set(values.map((v) => trace.units[trace.unitOf(v.event)].kind))];
  const size = Math.max(5, Math.min(ui.large ? 14 : 9, Math.floor(document.getElementById('pane').clientWidth * 0.82 / width)));
  const names = element('div', { class: 'stream-units', style: { width: `${width * size}px` } }, Object.entries(markers).flatMap(([kind, columns]) => columns
    .filter((column, n) => kind !== 'MEM' || n === 0 || n === columns.length - 1).map((column) => (kind === 'C2C' ? null : element('span', { style: { left: `${(column + edge + 0.5) * size}px`, top: kind === 'MXM' ? '0' : '1.05em' } }, kind)))));
  return [element('h3', {}, `values on the streams in cycle ${whole(cycle)}${chips.length > 1 ? `, chip ${chip}` : ''}`),
    element('p', { class: 'dim' }, `${whole(values.length)} values; rows S0.E – S31.E (they move right), then S0.W – S31.W (left); columns ${-edge} to ${edge}`),
    element('div', { class: 'legend' }, kinds.map((kind) => element('span', {}, element('span', { class: 'swatch', style: { background: classColour(kind) } }), `from ${kind.toUpperCase()}`))),
    element('div', { class: 'scroll', id: 'streammap' }, names, cellMap({ rows: STREAMS, columns: width, cells: [...guides, ...cells], size, label: 'values on the streams by column', background: cssColour('canvas'),
      tell: (r, c) => { const v = where.get(`${r},${c}`); return v ? valueFacts(trace, chip, v, at) : { title: `${streamName(r)} at column ${c - edge}`, facts: [['', 'empty']] }; },
      choose: (r, c) => { const v = where.get(`${r},${c}`); if (v) select(timeline, trace, v.event, false); } })),
    element('table', { class: 'grid', id: 'values' }, element('thead', {}, element('tr', {}, element('th', {}, 'stream'), element('th', { class: 'n' }, 'column'), element('th', {}, 'made by'), element('th', { class: 'n' }, 'cycles ago'))),
      element('tbody', {}, values.slice(0, 300).map((v) => element('tr', { tabindex: '0', onclick: () => select(timeline, trace, v.event, false) },
        element('td', { class: 'mono' }, streamName(v.stream)), element('td', { class: 'n' }, String(v.column)),
        element('td', { class: 'mono' }, `${trace.units[trace.unitOf(v.event)].name}  ${trace.instruction(v.event).asm}`), element('td', { class: 'n' }, whole(at - v.born))))))];
}

// The state pane: of the machine that the cursor belongs to.
function statePane(timeline) {
  const trace = timeline.focus.trace;
  const { cursor } = timeline;
  if (!cursor) return [element('p', { class: 'dim' }, 'Choose a cycle: click into the timeline, or press . to step into it.')];
  const cycle = cursor.trace === trace ? cursor.cycle : trace.cycleOf(cursor.trace.nsOf(cursor.cycle));
  const step = (by, text) => element('button', { type: 'button', onclick: () => stepCursor(timeline, by) }, text);
  const buttons = element('p', {}, step(-10, '« 10'), ' ', step(-1, '‹ 1'), ' ', step(1, '1 ›'), ' ', step(10, '10 »'), ' ', element('b', {}, `cycle ${whole(cycle)}`), ` of ${trace.chip}`);
  if (cycle < trace.first || cycle >= trace.end) return [buttons, element('p', { class: 'dim' }, 'This cycle was not recorded.')];
  return [buttons, ...(trace.dialect === 'lpu' ? lpuState(timeline, trace, cycle) : gpuState(timeline, trace, cycle))];
}
