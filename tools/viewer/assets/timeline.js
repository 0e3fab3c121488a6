// The timeline: rows of units on one time axis (ns since each step's start), both machines one above the other.

class Timeline {
  constructor(canvas, traces) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.traces = traces;
    this.picture = new Picture(this);
    this.roots = traces.map(buildRows);
    this.longest = Math.max(...traces.map((t) => t.nsOf(t.cycles)), 1);
    this.scroll = 0;
    this.focus = this.roots[0];
    this.selected = null;  // {trace, i}
    this.cursor = null;  // {trace, cycle}
    this.hover = null;
    this.match = null;  // {trace -> sorted event numbers}
    this.listeners = [];
    this.fit();
  }

  // -------------------------------------------------------------- view

  get leastSpan() { return Math.min(...this.traces.map((t) => t.nsPerCycle)) * 6; }

  setView(t0, t1) {
    let span = Math.min(Math.max(t1 - t0, this.leastSpan), this.longest * 1.2);
    if (Math.abs(span - (this.t1 - this.t0)) < 1e-9 * span) span = this.span;  // a pan: to the bit what it was
    this.span = span;
    const centre = (t0 + t1) / 2;
    t0 = centre - span / 2;
    t0 = Math.max(-0.1 * span - this.longest * 0.02, Math.min(t0, this.longest * 1.05 - 0.1 * span));
    this.t0 = t0;
    this.t1 = t0 + span;
    if (this.onview) this.onview();
    this.invalidate();
  }

  fit() {
    const first = Math.min(...this.traces.map((t) => t.nsOf(t.first)));
    const end = Math.max(...this.traces.map((t) => t.nsOf(t.end)));
    const margin = 0.02 * (end - first);
    this.setView(first - margin, end + margin);
  }

  fitAll() { this.setView(-0.02 * this.longest, 1.02 * this.longest); }

  zoom(factor, at = (this.t0 + this.t1) / 2) {
    const span = Math.min(Math.max((this.t1 - this.t0) * factor, this.leastSpan), this.longest * 1.2);
    const part = (at - this.t0) / (this.t1 - this.t0);
    this.setView(at - part * span, at + (1 - part) * span);
  }

  pan(part) { const d = part * (this.t1 - this.t0); this.setView(this.t0 + d, this.t1 + d); }

  reveal(ns, length = 0) {  // pan, and zoom where needed, until a moment can be seen
    const span = this.t1 - this.t0;
    if (length > 0 && (length > span || length < span / 400)) {
      const wide = Math.max(length * 12, this.leastSpan * 6);
      this.setView(ns + length / 2 - wide / 2, ns + length / 2 + wide / 2);
    } else if (ns < this.t0 + 0.05 * span || ns > this.t1 - 0.05 * span) this.setView(ns - span / 2, ns + span / 2);
    this.invalidate();
  }

  invalidate() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; this.draw(); });
  }

  changed() {
    this.listeners.forEach((f) => f());
    this.invalidate();
  }

  // -------------------------------------------------------------- geometry (device pixels)

  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    this.width = Math.max(200, Math.round(box.width * this.ratio));
    this.height = Math.max(100, Math.round(box.height * this.ratio));
    if (this.canvas.width !== this.width || this.canvas.height !== this.height) {
      this.canvas.width = this.width;
      this.canvas.height = this.height;
      this.canvas.style.width = `${this.width / this.ratio}px`;
      this.canvas.style.height = `${this.height / this.ratio}px`;
    }
    this.gutter = Math.round(168 * this.ratio * ui.unit);
    this.top = Math.round(26 * this.ratio * ui.unit);  // ruler
  }

  get plot() { return this.width - this.gutter; }

  // Columns are counted from the time 0, each `pixel` ns wide; `left` is the first one in sight.
  place() {
    this.pixel = this.span / this.plot;
    this.left = Math.round(this.t0 / this.pixel);
  }

  column(ns) { return ns / this.pixel; }

  x(ns) { return this.column(ns) - this.left; }  // from the first one in sight

  nsAt(clientX) {
    const box = this.canvas.getBoundingClientRect();
    return (this.left + (clientX - box.left) * this.ratio - this.gutter) * this.pixel;
  }

  rowHeight(row) { return Math.round(row.height * this.ratio); }

  layout() {
    this.rows = visibleRows(this.roots);
    let y = 0;
    this.tops = this.rows.map((row) => { const at = y; y += this.rowHeight(row); return at; });
    this.total = y;
    this.scroll = Math.round(Math.max(0, Math.min(this.scroll, this.total - (this.height - this.top) + 20)));  // whole pixels
  }

  rowAt(clientY) {
    const y = (clientY - this.canvas.getBoundingClientRect().top) * this.ratio - this.top + this.scroll;
    if (y < this.scroll) return null;
    for (let r = 0; r < this.rows.length; r++) if (y >= this.tops[r] && y < this.tops[r] + this.rowHeight(this.rows[r])) return this.rows[r];
    return null;
  }

  showRow(row) {
    for (let up = row.parent; up; up = up.parent) up.open = true;
    this.layout();
    const at = this.tops[this.rows.indexOf(row)];
    const space = this.height - this.top;
    if (at < this.scroll) this.scroll = at;
    if (at + 60 > this.scroll + space) this.scroll = at - space / 2;
    this.scroll = Math.max(0, this.scroll);
  }

  unitRow(trace, unit) {
    const find = (row) => {
      if (row.kind === 'unit' && row.units[0] === unit) return row;
      for (const child of row.children) { const found = find(child); if (found) return found; }
      return null;
    };
    return find(this.roots[trace.index]);
  }

  // -------------------------------------------------------------- drawing

  palette() {
    const key = `${ui.light}`;
    if (this.paletteKey !== key) {
      this.paletteKey = key;
      const names = ['canvas', 'row', 'header', 'grid', 'hatch', 'mark', 'match', 'focus'];
      this.ink = Object.fromEntries(names.map((n) => [n, packed(cssColour(n))]));
      this.text = { plain: cssColour('text'), dim: cssColour('dim'), onbar: ui.light ? '#ffffff' : '#0b1018' };
      this.colours = this.traces.map((t) => t.categories.map((name) => packed(colourOf(name))));
      this.nodeInk = new Map();
    }
  }

  draw() {
    if (this.canvas.offsetParent === null) return;
    const began = performance.now();
    this.resize();
    this.palette();
    this.layout();
    this.place();
    this.picture.refresh();
    const c = this.context;
    c.fillStyle = cssColour('canvas');
    c.fillRect(0, 0, this.width, this.height);
    c.putImageData(this.picture.raster.image, this.gutter, this.top);
    this.drawLabels(c);
    this.drawLines(c);
    this.drawGutter(c);
    this.drawRuler(c);
    this.took = performance.now() - began;
  }

  drawLabels(c) {
    c.textBaseline = 'middle';
    c.textAlign = 'left';
    c.fillStyle = this.text.onbar;
    c.font = ui.font(10.5 * this.ratio);
    const pad = 3 * this.ratio;
    const widths = this.widths ||= new Map();
    for (const [text, x0, y0, x1, y1] of this.picture.labels()) {
      const space = x1 - x0 - 2 * pad;
      const key = `${c.font}${text}`;
      let width = widths.get(key);
      if (width === undefined) widths.set(key, width = c.measureText(text).width);
      let shown = text;
      if (width > space) {
        const letters = Math.floor((text.length * space) / width) - 1;
        if (letters < 2) continue;
        shown = `${text.slice(0, letters)}…`;
      }
      c.fillText(shown, this.gutter + x0 + pad, this.top + (y0 + y1) / 2 + 1);
    }
  }

  drawLines(c) {
    const line = (ns, colour, dash) => {
      const x = this.gutter + this.x(ns);
      if (x < this.gutter) return;
      c.strokeStyle = colour;
      c.lineWidth = Math.max(1, this.ratio);
      c.setLineDash(dash);
      c.beginPath();
      c.moveTo(x, 0);
      c.lineTo(x, this.height);
      c.stroke();
      c.setLineDash([]);
    };
    if (this.hover) line(this.hover.ns, cssColour('dim'), [3, 4]);
    if (this.cursor) {
      const { trace, cycle } = this.cursor;
      const x0 = this.gutter + this.x(trace.nsOf(cycle)), x1 = this.gutter + this.x(trace.nsOf(cycle + 1));
      if (x1 > this.gutter) {
        c.fillStyle = cssColour('cursorfill');
        c.fillRect(Math.max(this.gutter, x0), 0, Math.max(1, x1 - Math.max(this.gutter, x0)), this.height);
      }
      line(trace.nsOf(cycle), cssColour('mark'), []);
    }
  }

  drawGutter(c) {
    c.fillStyle = cssColour('panel');
    c.fillRect(0, 0, this.gutter, this.height);
    c.textBaseline = 'middle';
    c.save();
    c.beginPath();
    c.rect(0, this.top, this.width, this.height - this.top);
    c.clip();
    this.rows.forEach((row, r) => {
      const y = this.top + this.tops[r] - this.scroll, h = this.rowHeight(row);
      if (y + h < this.top || y > this.height) return;
      if (row.kind === 'trace') {
        c.fillStyle = cssColour('header');
        c.fillRect(0, y, this.gutter, h);
        this.drawCycles(c, row.trace, y, h);
      }
      if (row === this.focus) {
        c.fillStyle = cssColour('focusfill');
        c.fillRect(0, y, this.gutter, h);
        c.fillStyle = cssColour('focus');
        c.fillRect(0, y, 3 * this.ratio, h);
      }
      const indent = (7 + 10 * row.depth) * this.ratio;
      c.fillStyle = row.kind === 'lane' ? this.text.dim : this.text.plain;
      c.font = ui.font((row.kind === 'lane' ? 8.5 : row.kind === 'trace' ? 13 : 11) * this.ratio, row.kind === 'trace');
      const sign = row.expandable ? (row.open ? '▾ ' : '▸ ') : '';
      const used = row.active && row.active.length < row.units.length ? `${row.active.length} of ${row.units.length}` : row.units.length;
      const count = (row.kind === 'class' || row.kind === 'group') && row.units.length > 1 ? ` (${used})` : '';
      const label = row.kind === 'trace' ? traceName(row.trace, this.traces) : row.label;
      c.save();
      c.beginPath();
      c.rect(0, y, this.gutter - 4, h);
      c.clip();
      c.fillText(`${sign}${label}${count}`, indent, y + h / 2 + 1);
      c.restore();
    });
    c.restore();
    c.fillStyle = cssColour('line');
    c.fillRect(this.gutter - 1, 0, 1, this.height);
  }

  ticks(from, to, space) {  // round values with at least `space` pixels between them
    const rough = ((to - from) / this.plot) * space;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((s) => s >= rough);
    const found = [];
    for (let v = Math.ceil(from / step) * step; v <= to; v += step) found.push(Math.abs(v) < step / 2 ? 0 : v);
    return found;
  }

  drawRuler(c) {
    c.fillStyle = cssColour('panel');
    c.fillRect(0, 0, this.width, this.top);
    c.font = ui.font(10.5 * this.ratio);
    c.textAlign = 'center';
    c.textBaseline = 'middle';
    const ticks = this.ticks(this.t0, this.t1, 95 * this.ratio * ui.unit);
    for (const ns of ticks) {
      const x = this.gutter + this.x(ns);
      if (x < this.gutter + 20 || ns < 0) continue;
      c.fillStyle = this.text.dim;
      c.fillText(tickText(ns, ticks.length > 1 ? ticks[1] - ticks[0] : 1), x, this.top / 2);
      c.fillStyle = cssColour('line');
      c.fillRect(x, this.top - 5 * this.ratio, 1, 5 * this.ratio);
    }
    c.textAlign = 'left';
    c.fillStyle = this.text.dim;
    c.fillText('time since the step began', 7 * this.ratio, this.top / 2, this.gutter - 12 * this.ratio);
    c.fillStyle = cssColour('line');
    c.fillRect(0, this.top - 1, this.width, 1);
  }

  drawCycles(c, trace, y, h) {  // a machine's own axis, in its header row
    c.save();
    c.font = ui.font(10 * this.ratio);
    c.textAlign = 'center';
    for (const cycle of this.ticks(this.t0 / trace.nsPerCycle, this.t1 / trace.nsPerCycle, 110 * this.ratio * ui.unit)) {
      if (cycle < 0 || cycle > trace.cycles || cycle !== Math.round(cycle)) continue;
      const x = this.gutter + this.x(trace.nsOf(cycle));
      if (x < this.gutter) continue;
      c.fillStyle = this.text.dim;
      c.fillText(`${whole(cycle)} cyc`, x, y + h / 2);
      c.fillStyle = cssColour('line');
      c.fillRect(x, y + h - 6 * this.ratio, 1, 6 * this.ratio);
    }
    c.textAlign = 'left';
    c.restore();
  }
}
