// Search by instruction or source line, graph node, tensor, kernel, unit and stall, or in one of these fields alone
// ("tensor: layers.0.kv"); matches are events, gone through in order of time. A stall is named in full, all else in part.

const holds = (text, wanted) => typeof text === 'string' && text.toLowerCase().includes(wanted);

const FIELDS = ['instruction', 'node', 'tensor', 'kernel', 'unit', 'stall'];

// What is searched for, and the field that it is searched in (null: all of them).
function searchWords(text) {
  const wanted = text.trim().toLowerCase(), field = FIELDS.find((name) => wanted.startsWith(`${name}:`));
  return field ? [wanted.slice(field.length + 1).trim(), field] : [wanted, null];
}

// Numbers of a trace's events that match, ascending: by unit, instruction, launch or stall. An LPU's instructions name
// their tensors themselves; a GPU's say which parameter they use, and the launch says which tensor that is.
function matchesIn(trace, wanted, field) {
  const table = trace.instructions;
  const asked = (name, test) => (field === null || field === name) && test();
  const hit = table.asm.map((asm, n) => asked('instruction', () => holds(asm, wanted) || holds(table.source[n], wanted))
    || asked('node', () => holds(table.node[n], wanted)) || asked('kernel', () => holds(table.kernel[n], wanted))
    || asked('tensor', () => trace.bound.length === 0 && holds(table.tensor[n], wanted)));
  const launches = trace.launches.node.map((node, n) => asked('node', () => holds(node, wanted))
    || asked('kernel', () => holds(trace.launches.kernel[n], wanted)));
  // For each launch, what its instructions call the tensors that match.
  const tensors = trace.bound.map((names) => new Set(asked('tensor', () => true)
    ? [...names].filter(([, tensor]) => holds(tensor, wanted)).map(([said]) => said) : []));
  const units = trace.units.map((u) => asked('unit', () => holds(u.name, wanted)));
  const stalls = trace.reasons.map((r) => asked('stall', () => r.name === wanted));
  const { instruction, launch, offsets, kind, reason } = trace.e;
  const found = [];
  for (let u = 0; u < trace.units.length; u++) {
    for (let i = offsets[u]; i < offsets[u + 1]; i++) {
      const n = instruction[i], l = launch[i];
      if (units[u] || (n >= 0 && hit[n]) || (l >= 0 && (launches[l] || (n >= 0 && tensors[l].has(table.tensor[n]))))
        || (kind[i] === trace.stallKind && stalls[reason[i]])) found.push(i);
    }
  }
  return Int32Array.from(found);
}

class Search {
  constructor(timeline) {
    this.timeline = timeline;
    this.total = 0;
    this.at = null;  // the match that is shown
    this.chosen = -1;  // the instruction whose bars are the matches
  }

  run(text) {
    const [wanted, field] = searchWords(text);
    this.at = null;
    this.chosen = -1;
    if (!wanted) {
      this.timeline.match = null;
      this.total = 0;
    } else {
      this.timeline.match = new Map(this.timeline.traces.map((t) => [t, matchesIn(t, wanted, field)]));
      this.total = [...this.timeline.match.values()].reduce((sum, m) => sum + m.length, 0);
    }
    this.timeline.changed();
    return this.total;
  }

  // All bars of one instruction, as a search; direction: go to the next or the one before.
  instruction(trace, n, direction) {
    const { instruction, kind } = trace.e;
    const found = [];
    for (let i = 0; i < instruction.length; i++) if (instruction[i] === n && kind[i] === trace.issueKind) found.push(i);
    const same = this.chosen === n && this.timeline.match && this.timeline.match.has(trace);
    this.chosen = n;
    this.timeline.match = new Map([[trace, Int32Array.from(found)]]);
    this.total = found.length;
    if (!same) this.at = null;
    document.getElementById('query').value = '';
    document.getElementById('found').textContent = `${whole(this.total)} bar${this.total === 1 ? '' : 's'} of ${trace.instructions.asm[n].slice(0, 40)}`;
    this.move(direction);
    this.timeline.changed();
  }

  // The match after (or before) the one that is shown; the first one after the cursor to begin with.
  move(direction) {
    if (!this.total) return;
    const from = this.at || this.begin(direction);
    let best = null;
    const before = (a, b) => a.ns < b.ns || (a.ns === b.ns && (a.trace.index < b.trace.index || (a.trace === b.trace && a.i < b.i)));
    const closer = (a, b) => (direction > 0 ? before(a, b) : before(b, a));
    for (const [trace, list] of this.timeline.match) {
      const { start } = trace.e;
      let one = null;
      for (let m = 0; m < list.length; m++) {
        const ns = trace.nsOf(start[list[m]] + trace.first);
        if (direction > 0 ? ns < from.ns : ns > from.ns) continue;
        if (one && (direction > 0 ? ns >= one.ns : ns < one.ns)) continue;
        const candidate = { trace, i: list[m], ns };
        if (closer(from, candidate)) one = candidate;
      }
      if (one && (!best || closer(one, best))) best = one;
    }
    if (!best) {  // around
      this.at = { trace: null, ns: direction > 0 ? -Infinity : Infinity, i: -1 };
      if (from.ns !== this.at.ns) this.move(direction);
      return;
    }
    this.at = best;
    select(this.timeline, best.trace, best.i);
  }

  begin(direction) {
    const cursor = this.timeline.cursor;
    const ns = cursor ? cursor.trace.nsOf(cursor.cycle) : direction > 0 ? -Infinity : Infinity;
    return { trace: { index: direction > 0 ? -1 : Infinity }, i: -1, ns };
  }
}
