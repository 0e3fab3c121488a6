// Pointer and wheel on the timeline. Keys are in keys.js.

function listenToPointer(timeline, tooltip) {
  const canvas = timeline.canvas;
  let drag = null;
  const inGutter = (event) => (event.clientX - canvas.getBoundingClientRect().left) * timeline.ratio < timeline.gutter;
  const inRuler = (event) => (event.clientY - canvas.getBoundingClientRect().top) * timeline.ratio < timeline.top;

  canvas.addEventListener('pointerdown', (event) => {
    canvas.setPointerCapture(event.pointerId);
    drag = { x: event.clientX, y: event.clientY, t0: timeline.t0, t1: timeline.t1, scroll: timeline.scroll, moved: false,
      range: inRuler(event) ? timeline.nsAt(event.clientX) : null };
  });
  canvas.addEventListener('pointermove', (event) => {
    if (drag) {
      const dx = event.clientX - drag.x, dy = event.clientY - drag.y;
      if (Math.abs(dx) + Math.abs(dy) > 4) drag.moved = true;
      if (drag.moved && drag.range === null) {
        const ns = (dx * timeline.ratio / timeline.plot) * (drag.t1 - drag.t0);
        timeline.scroll = drag.scroll - dy * timeline.ratio;
        timeline.setView(drag.t0 - ns, drag.t1 - ns);
      }
      tooltip.hide();
      return;
    }
    const row = timeline.rowAt(event.clientY);
    if (inGutter(event) || !row) { timeline.hover = null; tooltip.hide(); timeline.invalidate(); return; }
    const ns = timeline.nsAt(event.clientX);
    timeline.hover = { ns, row };
    const facts = factsAt(timeline, row, ns);
    if (facts) tooltip.show(factsNode(facts), event.clientX, event.clientY); else tooltip.hide();
    timeline.invalidate();
  });
  canvas.addEventListener('pointerup', (event) => {
    const was = drag;
    drag = null;
    if (!was) return;
    if (was.range !== null) {
      const to = timeline.nsAt(event.clientX);
      if (was.moved) timeline.setView(Math.min(was.range, to), Math.max(was.range, to));
      else setCursorNs(timeline, to);
      return;
    }
    if (was.moved) return;
    const row = timeline.rowAt(event.clientY);
    if (!row) return;
    timeline.focus = row;
    if (inGutter(event)) { toggle(timeline, row); return; }
    const ns = timeline.nsAt(event.clientX);
    const facts = factsAt(timeline, row, ns);
    timeline.selected = facts && facts.event !== undefined ? { trace: row.trace, i: facts.event } : null;
    setCursorNs(timeline, ns);
  });
  canvas.addEventListener('dblclick', (event) => {
    if (inGutter(event) || inRuler(event)) return;
    if (timeline.selected) zoomToSelected(timeline); else timeline.zoom(0.25, timeline.nsAt(event.clientX));
  });
  canvas.addEventListener('pointerleave', () => { timeline.hover = null; tooltip.hide(); timeline.invalidate(); });
  canvas.addEventListener('wheel', (event) => {
    event.preventDefault();
    tooltip.hide();
    const lines = event.deltaMode === 1 ? 16 : 1;
    if (event.ctrlKey || event.metaKey || event.altKey) {
      timeline.zoom(Math.exp(event.deltaY * lines * 0.002), timeline.nsAt(event.clientX));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      timeline.pan(((event.deltaX || event.deltaY) * lines * timeline.ratio) / timeline.plot);
    } else {
      timeline.scroll += event.deltaY * lines * timeline.ratio;
      timeline.invalidate();
    }
  }, { passive: false });
}

function toggle(timeline, row) {
  if (!row.expandable) return;
  if (row.kind === 'unit') openLanes(row);
  row.open = !row.open;
  timeline.changed();
}

function setCursorNs(timeline, ns) {
  const trace = timeline.focus.trace;
  setCursor(timeline, trace, trace.cycleOf(ns));
}

function setCursor(timeline, trace, cycle) {
  cycle = Math.max(0, Math.min(trace.cycles - 1, cycle));
  timeline.cursor = { trace, cycle };
  timeline.changed();
}

function stepCursor(timeline, by) {
  const trace = timeline.focus.trace;
  const was = timeline.cursor;
  const now = was ? (was.trace === trace ? was.cycle : trace.cycleOf(was.trace.nsOf(was.cycle))) : Math.max(trace.first, trace.cycleOf(timeline.t0)) - by;
  setCursor(timeline, trace, now + by);
  timeline.reveal(trace.nsOf(timeline.cursor.cycle));
}

function select(timeline, trace, i, zoom = true) {
  const unit = trace.unitOf(i);
  timeline.selected = { trace, i };
  const row = timeline.unitRow(trace, unit);
  timeline.focus = row;
  timeline.resize();
  timeline.showRow(row);
  const start = trace.e.start[i] + trace.first;
  timeline.reveal(trace.nsOf(start), zoom ? (trace.slotEnd(i) - trace.e.start[i]) * trace.nsPerCycle : 0);
  setCursor(timeline, trace, start);
}

function zoomToSelected(timeline) {
  if (!timeline.selected) return;
  const { trace, i } = timeline.selected;
  const start = trace.nsOf(trace.e.start[i] + trace.first), length = (trace.e.end[i] - trace.e.start[i]) * trace.nsPerCycle;
  const span = Math.max(3 * length, timeline.leastSpan * 3);
  timeline.setView(start + length / 2 - span / 2, start + length / 2 + span / 2);
}

// The event before or after the selected one (or the cursor) in the focused row.
function neighbour(timeline, direction) {
  const row = timeline.focus;
  if (row.units.length !== 1) return;
  const { trace } = row, unit = row.units[0], { start, offsets } = trace.e;
  let i;
  if (timeline.selected && timeline.selected.trace === trace && trace.unitOf(timeline.selected.i) === unit) i = timeline.selected.i + direction;
  else {
    const at = timeline.cursor ? timeline.cursor.trace.nsOf(timeline.cursor.cycle) : timeline.t0;
    i = lowerBound(start, at / trace.nsPerCycle - trace.first, offsets[unit], offsets[unit + 1]);
    if (direction < 0) i--;
  }
  if (i < offsets[unit] || i >= offsets[unit + 1]) return;
  select(timeline, trace, i, false);
}
