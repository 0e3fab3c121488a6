// Level of detail: shares of each category by pixel, lanes of overlapping work, pyramids of long rows.

const LANES_MAX = 24;

// Sub-lanes of one unit by greedy interval colouring. On a unit that issues, lane 0 holds issue slots and stalls, and
// what is in flight lies below; lane[i - offset] is an event's lane in flight, 255 for what is only in lane 0.
function lanesOf(trace, unit) {
  const known = trace.lanes.get(unit);
  if (known) return known;
  const { start, end, offsets, kind } = trace.e;
  const from = offsets[unit], to = offsets[unit + 1];
  const lane = new Uint8Array(to - from).fill(255);
  const base = trace.slotted[unit] ? 1 : 0;
  const ends = [];
  for (let i = from; i < to; i++) {
    if (base ? kind[i] !== trace.issueKind : kind[i] === trace.stallKind) continue;
    let at = ends.findIndex((e) => e <= start[i]);
    if (at < 0) at = ends.length < LANES_MAX ? ends.length : LANES_MAX - 1;
    ends[at] = Math.max(ends[at] || 0, end[i]);
    lane[i - from] = base + at;
  }
  const found = { lane, count: base + ends.length };
  trace.lanes.set(unit, found);
  return found;
}

// Shares of categories in columns of equal width, `left` the first of them: a partial sum and a difference array for
// each category. What a column holds does not depend on which columns lie beside it, to the last bit.
class Shares {
  constructor() { this.width = 0; this.columns = 0; this.part = []; this.step = []; this.used = []; }

  begin(left, columns) {
    for (const c of this.used) { this.part[c].fill(0, 0, this.columns + 2); this.step[c].fill(0, 0, this.columns + 2); }
    if (columns > this.width) { this.part = []; this.step = []; this.width = columns; }
    this.used = [];
    this.left = left;
    this.columns = columns;
  }

  room(category) {  // the array of a category that occurs here
    if (this.part[category] === undefined) {
      this.part[category] = new Float32Array(this.width + 2);
      this.step[category] = new Float32Array(this.width + 2);
    }
    if (!this.used.includes(category)) this.used.push(category);
    return this.part[category];
  }

  add(category, from, to) {  // in columns, fractions allowed
    const first = Math.floor(from), last = Math.floor(to);
    const a = first - this.left, b = last - this.left;
    if (to <= from || b < 0 || a >= this.columns) return;
    const part = this.room(category);
    if (a === b) { part[a] += to - from; return; }
    const step = this.step[category];
    if (a >= 0) part[a] += first + 1 - from;
    step[a >= 0 ? a + 1 : 0] += 1;
    if (b >= this.columns) return;
    part[b] += to - last;
    step[b] -= 1;
  }

  // Share arrays by category, divided by `units`.
  finish(units) {
    this.used.sort((a, b) => a - b);
    for (const c of this.used) {
      const part = this.part[c], step = this.step[c];
      let level = 0;
      for (let x = 0; x < this.columns; x++) { level += step[x]; part[x] = (part[x] + level) / units; }
    }
    return this;
  }
}

// Add a unit's events to shares of `scale` columns a cycle; the window's first cycle begins at column `zero`.
// lane: -1 what takes the unit, else only that lane.
function addUnit(shares, trace, unit, zero, scale, lane = -1) {
  const { start, end, offsets, latest, kind, reason } = trace.e;
  const from = offsets[unit], to = offsets[unit + 1];
  const t0 = (shares.left - 1 - zero) / scale, t1 = (shares.left + shares.columns + 1 - zero) / scale;
  const issue = trace.issueKind, stall = trace.stallKind, kinds = trace.kinds.length;
  const slotted = trace.slotted[unit];
  const lanes = lane >= 0 ? lanesOf(trace, unit).lane : null;
  for (let i = lowerBound(latest, t0, from, to); i < to && start[i] < t1; i++) {
    const k = kind[i];
    const inSlot = k === issue || k === stall;
    let stop = end[i];
    if (lanes === null || (lane === 0 && slotted)) {
      if (slotted && !inSlot) continue;
      if (k === issue) stop = start[i] + 1;
    } else if (lanes[i - from] !== lane) continue;
    shares.add(k === stall ? kinds + reason[i] : k, zero + start[i] * scale, zero + stop * scale);
  }
}

// ------------------------------------------------------------------ pyramids

const PYRAMID_EVENTS = 4096;  // rows with fewer are drawn from their events

const rowEvents = (row) => {
  const { offsets } = row.trace.e;
  let count = 0;
  for (const u of row.units) count += offsets[u + 1] - offsets[u];
  return count;
};

const scratch = new Shares();

const WHOLE = 65535;  // a share of 1 in a pyramid

function inSteps(shares, count) {
  const steps = new Uint16Array(count);
  for (let i = 0; i < count; i++) steps[i] = Math.ceil(Math.min(1, shares[i]) * WHOLE);
  return steps;
}

// Levels of a row: bins of `size` cycles, each level four times as coarse; a share is 0 .. WHOLE of a bin, and
// never rounded down to nothing.
function pyramidOf(row) {
  const known = row.trace.pyramids.get(row.key);
  if (known !== undefined) return known;
  let made = null;
  const count = rowEvents(row);
  if (count > PYRAMID_EVENTS || row.units.length > 64) {
    let bins = 1024;  // powers of two: every coarser bin is made of four whole ones
    while (bins < 16384 && bins * 4 < count) bins *= 2;
    while (bins > 1 && bins > row.trace.span) bins /= 2;
    const size = row.trace.span / bins;
    scratch.begin(0, bins);
    for (const u of row.units) addUnit(scratch, row.trace, u, 0, bins / row.trace.span);
    scratch.finish(row.units.length);
    const categories = [...scratch.used];
    let values = categories.map((c) => inSteps(scratch.part[c], bins));
    made = { categories, levels: [{ size, bins, values }] };
    while (bins > 64) {
      const next = Math.ceil(bins / 4);
      values = values.map((fine) => {
        const coarse = new Uint16Array(next);
        for (let b = 0; b < next; b++) {
          const stop = Math.min(bins, 4 * b + 4);
          let sum = 0;
          for (let x = 4 * b; x < stop; x++) sum += fine[x];
          coarse[b] = Math.ceil(sum / (stop - 4 * b));
        }
        return coarse;
      });
      bins = next;
      made.levels.push({ size: made.levels[made.levels.length - 1].size * 4, bins, values });
    }
  }
  row.trace.pyramids.set(row.key, made);
  return made;
}

// Shares of a row in `width` columns from `left` on, `scale` columns a cycle, the window's first cycle at column `zero`:
// from its pyramid where a column is wider than a bin, else from the events themselves.
function columnsOf(row, shares, zero, scale, left, width) {
  shares.begin(left, width);
  const cycles = 1 / scale;  // a column
  const pyramid = row.lane < 0 ? pyramidOf(row) : null;
  if (pyramid && pyramid.levels[0].size <= cycles) {
    let level = pyramid.levels[0];
    for (const one of pyramid.levels) if (one.size <= cycles) level = one;
    pyramid.categories.forEach((category, c) => fromLevel(shares, category, level, level.values[c], zero, cycles));
    shares.used.sort((a, b) => a - b);
    return shares;
  }
  for (const u of row.units) addUnit(shares, row.trace, u, zero, scale, row.lane);
  return shares.finish(row.units.length);
}

// Shares of a row for `width` columns from cycle t0 (since the window's start) on, `scale` columns a cycle.
const sharesOf = (row, shares, t0, scale, width) => columnsOf(row, shares, -t0 * scale, scale, 0, width);

function fromLevel(shares, category, level, values, zero, cycles) {
  const part = shares.room(category);
  for (let x = 0; x < shares.columns; x++) {
    const from = (shares.left + x - zero) * cycles / level.size;
    let a = Math.floor(from), b = Math.ceil(from + cycles / level.size);
    if (a < 0) a = 0;
    if (b > level.bins) b = level.bins;
    let sum = 0;
    for (let i = a; i < b; i++) sum += values[i];
    part[x] = b > a ? sum / (WHOLE * (b - a)) : 0;
  }
}
