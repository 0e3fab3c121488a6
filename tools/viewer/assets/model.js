// A trace in the page: typed arrays, the tree of rows, and questions about them.

const QUEUES = ['mem', 'vxm', 'mxm', 'sxm', 'c2c'];  // classes of units that a queue each feeds

class Trace {
  constructor(meta, index, tables, events) {
    Object.assign(this, meta);
    this.index = index;
    this.e = events;
    this.nsPerCycle = 1e9 / meta.clockHz;
    [this.first, this.end] = meta.window;
    this.span = this.end - this.first;  // recorded cycles; events count from `first`
    this.units = tables.units.map(([name, chip, kind], number) => ({ name, chip, kind, number }));
    this.instructions = tables.instructions;
    this.launches = tables.launches;
    this.bound = tables.launches.tensors.map((text) => new Map(text ? Object.entries(JSON.parse(text)) : []));
    this.streams = tables.streams;
    this.issueKind = meta.kinds.indexOf('issue');
    this.stallKind = meta.kinds.indexOf('stall');
    this.categories = [...meta.kinds, ...meta.reasons.map((r) => r.name)];
    this.prepare();
  }

  // latest[i]: the latest end of the unit's events up to i, so that what covers a cycle is found by bisection.
  prepare() {
    const { start, end, kind, offsets } = this.e;
    const latest = new Int32Array(start.length);
    this.slotted = new Uint8Array(this.units.length);  // units that issue: their row shows issue slots and stalls
    for (let u = 0; u < this.units.length; u++) {
      let most = -1;
      for (let i = offsets[u]; i < offsets[u + 1]; i++) {
        if (end[i] > most) most = end[i];
        latest[i] = most;
        if (kind[i] === this.issueKind || kind[i] === this.stallKind) this.slotted[u] = 1;
      }
    }
    this.e.latest = latest;
    const recorded = new Set(this.recordedKinds.flatMap((name) => this.kindClasses[this.kinds.indexOf(name)] || []));
    this.recordedClass = (kind) => recorded.has(kind) || (recorded.has('queue') && QUEUES.includes(kind));
    const launches = this.recordedLaunches && new Set(this.recordedLaunches);
    this.leftOut = launches ? launchSpans(this).filter((span) => !launches.has(span.launch) && span.end > span.start) : [];
    this.lanes = new Map();
    this.pyramids = new Map();
  }

  // Whether a cycle of the step was recorded for a class of units.
  recorded(cycle, kind) {
    if (cycle < this.first || cycle >= this.end || (kind && !this.recordedClass(kind))) return false;
    return !this.leftOut.some((span) => span.start <= cycle && cycle < span.end);
  }

  active(unit) { return this.e.offsets[unit + 1] > this.e.offsets[unit]; }

  category(i) {
    const k = this.e.kind[i];
    return k === this.stallKind ? this.kinds.length + this.e.reason[i] : k;
  }

  // End of what an event takes of its unit: an instruction takes its issue slot alone.
  slotEnd(i) { return this.e.kind[i] === this.issueKind ? this.e.start[i] + 1 : this.e.end[i]; }

  nsOf(cycle) { return cycle * this.nsPerCycle; }  // of the step
  cycleOf(ns) { return Math.floor(ns / this.nsPerCycle + 1e-6); }

  unitOf(i) {
    const { offsets } = this.e;
    let low = 0, high = this.units.length;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (offsets[middle] <= i) low = middle; else high = middle;
    }
    while (low > 0 && offsets[low] === offsets[low + 1]) low--;
    return low;
  }

  instruction(i) {
    const n = this.e.instruction[i];
    return n < 0 ? null : this.instructionRow(n);
  }

  instructionRow(n) {
    const t = this.instructions;
    return { opcode: t.opcode[n], asm: t.asm[n], line: t.line[n], source: t.source[n], node: t.node[n],
      kernel: t.kernel[n] };
  }

  // What an instruction reads or writes in a launch (-1: an LPU's, whose addresses are fixed); '' where nothing is known.
  tensorOf(n, l) {
    const said = n < 0 ? '' : this.instructions.tensor[n];
    return said && l >= 0 ? this.bound[l].get(said) || '' : said;
  }

  launch(n) {
    const t = this.launches;
    if (n < 0 || n >= t.node.length) return null;
    return { node: t.node[n], kernel: t.kernel[n], start: t.start[n], end: t.end[n], grid: t.grid[n],
      block: t.block[n] };
  }

  barLabel(i) {  // a few letters on a bar
    const k = this.e.kind[i];
    if (k === this.stallKind) return this.reasons[this.e.reason[i]].name;
    const n = this.e.instruction[i];
    return k === this.issueKind && n >= 0 ? this.instructions.opcode[n] : this.kinds[k];
  }
}

function lowerBound(values, wanted, low, high) {  // first index whose value is >= wanted
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < wanted) low = middle + 1; else high = middle;
  }
  return low;
}

// First place in low .. high of a list of events, in order of time, whose event starts at `wanted` or later.
function firstFrom(list, start, wanted, low, high) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (start[list[middle]] < wanted) low = middle + 1; else high = middle;
  }
  return low;
}

// A trace's name among those of the page: the chip, with its run where several are of that chip.
const traceName = (trace, traces) => (traces.some((t) => t !== trace && t.chip === trace.chip)
  ? `${trace.chip} · ${trace.label}` : trace.chip);

// ------------------------------------------------------------------ rows

class Row {
  constructor(kind, label, trace, parent, units = []) {
    Object.assign(this, { kind, label, trace, parent, units, open: false, children: [], lane: -1 });
    this.depth = parent ? parent.depth + 1 : 0;
    if (parent) parent.children.push(this);
  }

  get expandable() { return this.children.length > 0 || (this.kind === 'unit' && this.units.length === 1); }

  get height() {
    const base = { trace: 34, chip: 22, class: 24, group: 18, unit: 16, lane: 10, spans: 18 }[this.kind];
    return Math.round(base * ui.unit);
  }

  get key() { return `${this.kind}:${this.units[0]}:${this.units.length}`; }
}

const CLASS_NAMES = { gpu: 'GPU', sm: 'CTAs on SMs', lsu: 'load-store units', stream: 'streams', nvlink: 'NVLink', host: 'host',
  sub_core: 'sub-cores', bulk_engine: 'bulk copies', l2_slice: 'L2 slices', dram_bank: 'DRAM banks',
  mem: 'MEM slices', vxm: 'VXM ALUs', mxm: 'MXM planes', sxm: 'SXM units', c2c: 'links', tensor: 'tensor cores' };

const groupName = (unit) => {  // "SM3.1" -> "SM3", "ch3.1 bank 5" -> "ch3.1", "MEM.E4" -> "MEM.E", "VXM5" -> ""
  const space = unit.lastIndexOf(' bank');
  if (space > 0) return unit.slice(0, space);
  const dot = unit.lastIndexOf('.');
  if (dot < 0) return '';
  if (/^S\d+\.[EW]$/.test(unit)) return unit.endsWith('E') ? 'eastward' : 'westward';
  const hemisphere = /^(.*\.[EW])\d+$/.exec(unit);
  return hemisphere ? hemisphere[1] : unit.slice(0, dot);
};

function buildRows(trace) {
  const root = new Row('trace', trace.chip, trace, null, trace.units.map((u) => u.number));
  root.open = true;
  addSpans(trace, root);
  const chips = [...new Set(trace.units.map((u) => u.chip))];
  for (const chip of chips) {
    const ofChip = trace.units.filter((u) => u.chip === chip);
    const above = chips.length > 1 ? new Row('chip', `chip ${chip}`, trace, root, ofChip.map((u) => u.number)) : root;
    above.open = above.open || chip === chips[0];
    for (const kind of new Set(ofChip.map((u) => u.kind))) {
      const members = ofChip.filter((u) => u.kind === kind);
      // Launches have their own row; what seldom does anything gets one when it does.
      if (kind === 'gpu' || (['nvlink', 'host'].includes(kind) && !members.some((u) => trace.active(u.number)))) continue;
      const row = new Row('class', Object.hasOwn(CLASS_NAMES, kind) ? CLASS_NAMES[kind] : kind, trace, above,
        members.map((u) => u.number));
      const groups = new Map();
      row.active = members.filter((u) => trace.active(u.number));
      for (const unit of row.active) {  // units without an event get no row of their own
        const name = groupName(unit.name);
        if (!groups.has(name)) groups.set(name, []);
        groups.get(name).push(unit);
      }
      const nested = groups.size > 1 && groups.size < row.active.length;
      for (const [name, list] of groups) {
        const under = nested
          ? new Row('group', name || kind, trace, row, list.map((u) => u.number)) : row;
        for (const unit of list) new Row('unit', unit.name, trace, under, [unit.number]);
      }
    }
  }
  return root;
}

// Launches of a GPU, or the extent of each graph node of an LPU, in as many lanes as overlap.
function addSpans(trace, root) {
  const spans = trace.launches.node.length ? launchSpans(trace) : nodeSpans(trace);
  const ends = [];
  const lanes = [];
  for (const span of spans.sort((a, b) => a.start - b.start)) {
    let lane = ends.findIndex((end) => end <= span.start);
    if (lane < 0) lane = ends.length < 6 ? ends.length : 5;
    ends[lane] = Math.max(ends[lane] || 0, span.end);
    (lanes[lane] ||= []).push(span);
  }
  lanes.forEach((list, lane) => {
    const name = trace.launches.node.length ? 'kernels' : 'graph nodes';
    const row = new Row('spans', lane ? '' : name, trace, root);
    row.spans = list;
    row.lane = lane;
  });
  trace.spans = spans;
}

function launchSpans(trace) {
  return trace.launches.node.map((node, n) => ({ start: trace.launches.start[n], end: trace.launches.end[n],
    name: node || trace.launches.kernel[n], kernel: trace.launches.kernel[n], launch: n }));
}

function nodeSpans(trace) {
  const { start, end, kind, instruction } = trace.e;
  const spans = new Map();
  for (let i = 0; i < start.length; i++) {
    if (kind[i] !== trace.issueKind || instruction[i] < 0) continue;
    const node = trace.instructions.node[instruction[i]];
    if (!node) continue;
    const span = spans.get(node);
    if (!span) spans.set(node, { start: start[i] + trace.first, end: end[i] + trace.first, name: node, kernel: '', launch: -1 });
    else {
      if (start[i] + trace.first < span.start) span.start = start[i] + trace.first;
      if (end[i] + trace.first > span.end) span.end = end[i] + trace.first;
    }
  }
  return [...spans.values()];
}

// Rows of the lanes in which a unit's overlapping work lies.
function openLanes(row) {
  if (row.children.length) return;
  const { count } = lanesOf(row.trace, row.units[0]);
  for (let lane = 0; lane < count; lane++) {
    const slot = lane === 0 && row.trace.slotted[row.units[0]];
    const child = new Row('lane', slot ? 'issue, stall' : slotless(row, lane), row.trace, row, row.units);
    child.lane = lane;
  }
}

const slotless = (row, lane) => (row.trace.slotted[row.units[0]] ? `in flight ${lane}` : `lane ${lane}`);

function visibleRows(roots) {
  const rows = [];
  const visit = (row) => {
    rows.push(row);
    if (row.open) row.children.forEach(visit);
  };
  roots.forEach(visit);
  return rows;
}
