// The picture of the rows. What is painted stays: when the view moves, only what comes into sight is painted.
//
// Column X of the plane shows the time X * pixel .. (X + 1) * pixel since the steps began, row 0 is the first row's
// top. What a pixel shows depends on its place in the plane alone, so that a strip fits to what is there without a seam.

const LABELS_MAX = 700;  // texts on bars in one frame

class Picture {
  constructor(timeline) {
    this.timeline = timeline;
    this.raster = new Raster();
    this.shares = new Shares();
    this.forget();
  }

  forget() { this.state = []; }  // the next frame is painted from nothing

  // Everything that a pixel depends on but its place.
  unchanged() {
    const t = this.timeline;
    const state = [t.pixel, t.plot, t.height, t.top, t.ratio, ui.light, t.match, t.selected, ...t.rows, ...t.tops];
    const same = state.length === this.state.length && state.every((value, n) => value === this.state[n]);
    this.state = state;
    return same;
  }

  refresh() {
    const { timeline, raster } = this;
    const same = this.unchanged();
    raster.resize(timeline.plot, timeline.height - timeline.top);
    this.painted = 0;  // pixels of this frame that were not there
    for (const box of same ? raster.move(timeline.left, timeline.scroll) : raster.place(timeline.left, timeline.scroll)) {
      raster.clip = box;
      raster.clear(timeline.ink.canvas);
      this.painted += (box.x1 - box.x0) * (box.y1 - box.y0);
      this.eachRow(box.y0, box.y1, (row, y0, y1) => this.paint(row, y0, y1));
    }
  }

  eachRow(from, to, visit) {  // rows of which something lies in from .. to of the plane
    const { rows, tops } = this.timeline;
    for (let r = 0; r < rows.length && tops[r] < to; r++) {
      const below = tops[r] + this.timeline.rowHeight(rows[r]);
      if (below > from) visit(rows[r], tops[r], below);
    }
  }

  // Where a trace's recorded cycles lie: the column of the first one, and columns a cycle.
  axis(trace) {
    const { timeline } = this;
    return { zero: timeline.column(trace.nsOf(trace.first)), scale: trace.nsPerCycle / timeline.pixel };
  }

  paint(row, y0, below) {
    const { timeline, raster } = this, { ink, ratio } = timeline, { clip } = raster;
    const trace = row.trace, column = (cycle) => timeline.column(trace.nsOf(cycle)), y1 = below - 1;
    if (row.kind === 'trace') { raster.rect(clip.x0, y0, clip.x1, below, ink.header); return; }
    const a = column(0), b = column(trace.cycles), w0 = column(trace.first), w1 = column(trace.end);
    raster.rect(a, y0, b, y1, ink.row);
    if (row.kind === 'spans') { this.paintSpans(row, y0, y1); return; }
    const step = Math.round(6 * ratio);
    raster.hatch(a, y0, Math.min(w0, b), y1, ink.hatch, step);
    raster.hatch(Math.max(w1, a), y0, b, y1, ink.hatch, step);
    if (row.units.length && !trace.recordedClass(trace.units[row.units[0]].kind)) {
      raster.hatch(Math.max(w0, a), y0, Math.min(w1, b), y1, ink.hatch, step);
      return;
    }
    for (const span of trace.leftOut) raster.hatch(column(span.start), y0, column(span.end), y1, ink.hatch, step);
    const { zero, scale } = this.axis(trace);
    const x0 = Math.max(clip.x0, Math.floor(w0)), x1 = Math.min(clip.x1, Math.ceil(w1));
    if (x1 > x0) {
      if (this.inBars(row, scale)) this.paintBars(row, y0, y1);
      else raster.stack(columnsOf(row, this.shares, zero, scale, x0, x1 - x0), y0, y1, timeline.colours[trace.index]);
    }
    if (timeline.match) this.paintMatches(row, y0, y1);
    this.paintSelected(row, y0, y1);
  }

  // Whether a row shows each event as a bar: only what never overlaps, and where a cycle is wide enough.
  inBars(row, scale) {
    return scale >= 1.5 && (row.kind === 'lane' || (row.kind === 'unit' && row.trace.slotted[row.units[0]]));
  }

  // Bars of a row from column `from` to `to`: visit(event, its first column, its end).
  eachBar(row, from, to, visit) {
    const { trace } = row, { zero, scale } = this.axis(trace);
    const { start, end, offsets, latest, kind } = trace.e;
    const [unit] = row.units, last = offsets[unit + 1];
    const lanes = row.lane >= 0 ? lanesOf(trace, unit).lane : null;
    const slot = row.lane <= 0 && trace.slotted[unit];
    const t1 = (to + 1 - zero) / scale;  // a column more on both sides: a bar is never narrower than one
    for (let i = lowerBound(latest, (from - 1 - zero) / scale, offsets[unit], last); i < last && start[i] < t1; i++) {
      if (slot ? kind[i] !== trace.issueKind && kind[i] !== trace.stallKind : lanes[i - offsets[unit]] !== row.lane) continue;
      visit(i, zero + start[i] * scale, zero + (slot ? trace.slotEnd(i) : end[i]) * scale);
    }
  }

  paintBars(row, y0, y1) {
    const { raster } = this, { clip } = raster, { trace } = row, colours = this.timeline.colours[trace.index];
    this.eachBar(row, clip.x0, clip.x1, (i, x0, x1) => {
      raster.rect(x0, y0, x1 - x0 >= 3 ? x1 - 1 : Math.max(x1, x0 + 1), y1, colours[trace.category(i)]);
    });
  }

  paintSpans(row, y0, y1) {
    const { timeline, raster } = this, { clip } = raster;
    for (const span of row.spans) {
      const x0 = timeline.column(row.trace.nsOf(span.start)), x1 = timeline.column(row.trace.nsOf(span.end));
      if (x1 < clip.x0 - 1 || x0 > clip.x1) continue;
      let ink = timeline.nodeInk.get(span.name);
      if (ink === undefined) timeline.nodeInk.set(span.name, ink = packed(nameColour(span.name.replace(/\d+/g, ''))));
      raster.rect(x0, y0, Math.max(x1 - 1, x0 + 1), y1, ink);
    }
  }

  paintMatches(row, y0, y1) {
    const { timeline, raster } = this, { clip } = raster;
    const found = timeline.match.get(row.trace);
    if (!found || row.lane > 0) return;
    const { zero, scale } = this.axis(row.trace), { start, offsets } = row.trace.e;
    const thick = Math.max(2, Math.round(2 * timeline.ratio)), width = Math.max(thick, Math.round(scale));
    const earliest = (clip.x0 - width - 1 - zero) / scale;
    for (const unit of row.units) {
      const high = lowerBound(found, offsets[unit + 1], 0, found.length);
      let last = -Infinity;
      for (let m = firstFrom(found, start, earliest, lowerBound(found, offsets[unit], 0, high), high); m < high; m++) {
        const x = Math.round(zero + start[found[m]] * scale);
        if (x >= clip.x1) break;
        if (x === last) continue;
        last = x;
        raster.rect(x, y0, x + width, y0 + thick, timeline.ink.match);
      }
    }
  }

  paintSelected(row, y0, y1) {
    const { selected, ink, ratio } = this.timeline;
    if (!selected || selected.trace !== row.trace || row.units.length !== 1) return;
    const { trace, i } = selected, unit = trace.unitOf(i), { start, end, offsets } = trace.e;
    if (row.units[0] !== unit) return;
    let stop = trace.slotEnd(i);
    if (row.lane > 0 || (row.lane === 0 && !trace.slotted[unit])) {
      if (lanesOf(trace, unit).lane[i - offsets[unit]] !== row.lane) return;
      stop = end[i];
    }
    const { zero, scale } = this.axis(trace), x0 = zero + start[i] * scale;
    this.raster.frame(x0 - 2, y0, Math.max(zero + stop * scale, x0 + 3) + 1, y1, ink.mark, Math.max(2, Math.round(1.5 * ratio)));
  }

  // Texts for the bars in sight: [text, first column, top, end, bottom] in pixels of the picture.
  labels() {
    const { timeline } = this, { left, scroll, plot, ratio } = timeline, found = [];
    const add = (text, x0, y0, x1, y1) => {
      if (x1 - x0 > 26 * ratio && found.length < LABELS_MAX) found.push([text(), Math.max(0, x0 - left), y0 - scroll, Math.min(plot, x1 - left), y1 - scroll]);
    };
    this.eachRow(scroll, scroll + timeline.height - timeline.top, (row, y0, below) => {
      const { trace } = row, y1 = below - 1;
      if (row.kind === 'spans') {
        for (const span of row.spans) {
          const x0 = timeline.column(trace.nsOf(span.start)), x1 = timeline.column(trace.nsOf(span.end));
          if (x1 >= left && x0 <= left + plot) add(() => span.name, x0, y0, x1, y1);
        }
      } else if (y1 - y0 > 10 && this.inBars(row, this.axis(trace).scale)) {
        this.eachBar(row, left, left + plot, (i, x0, x1) => add(() => trace.barLabel(i), x0, y0, x1, y1));
      }
    });
    return found;
  }
}
