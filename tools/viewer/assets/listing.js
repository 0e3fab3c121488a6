// The listing: every instruction of a kernel or queue with its source line and its heat; click one for its bars.

class Listing {
  constructor(timeline, search) {
    this.timeline = timeline;
    this.search = search;
    this.trace = null;
    this.group = null;
    this.hottest = false;
    this.chosen = -1;
    this.top = 0;
  }

  // Issues and waited cycles of each instruction, over everything that was recorded.
  heat(trace) {
    if (trace.heat) return trace.heat;
    const { kind, instruction, wait, start, end } = trace.e;
    const count = trace.instructions.asm.length;
    const issues = new Float64Array(count), waits = new Float64Array(count);
    const gpu = trace.dialect === 'gpu';
    for (let i = 0; i < kind.length; i++) {
      const n = instruction[i];
      if (n < 0) continue;
      if (kind[i] === trace.issueKind) { issues[n]++; waits[n] += wait[i]; }
      else if (!gpu && kind[i] === trace.stallKind) waits[n] += end[i] - start[i];
    }
    const groups = new Map();
    trace.instructions.kernel.forEach((name, n) => {
      if (!groups.has(name)) groups.set(name, { name, rows: [], heat: 0 });
      const group = groups.get(name);
      group.rows.push(n);
      group.heat += issues[n] + waits[n];
    });
    trace.heat = { issues, waits, groups };
    return trace.heat;
  }

  // The instruction to show: the selected event's, else the group last looked at.
  follow() {
    const { selected, focus } = this.timeline;
    const trace = selected ? selected.trace : focus.trace;
    const n = selected ? trace.e.instruction[selected.i] : -1;
    const groups = this.heat(trace).groups;
    if (n >= 0 && (n !== this.chosen || trace !== this.trace)) {
      this.chosen = n;
      this.group = trace.instructions.kernel[n];
      this.scrollTo = true;
    }
    if (trace !== this.trace || !groups.has(this.group)) {
      if (n < 0) this.chosen = -1;
      this.trace = trace;
      if (!groups.has(this.group)) this.group = [...groups.values()].sort((a, b) => b.heat - a.heat).map((g) => g.name)[0];
    }
  }

  render(pane) {
    this.follow();
    const { trace } = this;
    const { groups } = this.heat(trace);
    if (!groups.size) { fill(pane, element('p', { class: 'dim' }, 'the trace has no instructions')); return; }
    const select = element('select', { 'aria-label': 'kernel or queue' }, [...groups.values()].map((g) => {
      const option = element('option', { value: g.name }, `${g.name || '(no name)'} · ${g.rows.length} instructions`);
      if (g.name === this.group) option.setAttribute('selected', '');
      return option;
    }));
    select.style.maxWidth = '100%';
    select.addEventListener('change', () => { this.group = select.value; this.chosen = -1; this.top = 0; this.render(pane); });
    const order = element('button', { type: 'button', 'aria-pressed': String(this.hottest),
      onclick: () => { this.hottest = !this.hottest; this.top = 0; this.render(pane); } }, this.hottest ? 'in order' : 'hottest first');
    this.body = element('div', { class: 'listing mono', tabindex: '0', role: 'listbox', 'aria-label': 'instructions' });
    const head = element('div', { class: 'listing-head mono' }, element('span', {}, 'issues'), element('span', {}, 'waited'), element('span', {}, 'line'), element('span', {}, 'instruction'));
    fill(pane, element('p', {}, `${trace.chip}: `, select, ' ', order), head, this.body);
    this.order = groups.get(this.group).rows.slice();
    const { issues, waits } = this.heat(trace);
    if (this.hottest) this.order.sort((a, b) => issues[b] + waits[b] - issues[a] - waits[a]);
    this.most = Math.max(1, ...this.order.map((n) => issues[n] + waits[n]));
    this.rowHeight = Math.round(19 * ui.unit);
    this.inner = element('div', { style: { height: `${this.order.length * this.rowHeight}px`, position: 'relative' } });
    this.body.append(this.inner);
    this.body.addEventListener('scroll', () => { this.top = this.body.scrollTop; this.paint(); });
    this.body.addEventListener('keydown', (event) => this.key(event));
    this.body.addEventListener('click', (event) => {
      const row = event.target.closest('[data-n]');
      if (row) this.choose(Number(row.dataset.n), true);
    });
    if (this.scrollTo && this.chosen >= 0) {
      const at = this.order.indexOf(this.chosen) * this.rowHeight;
      const space = this.body.clientHeight || 400;
      if (at < this.top || at > this.top + space - 2 * this.rowHeight) this.top = Math.max(0, at - space / 2);
      this.scrollTo = false;
    }
    this.body.scrollTop = this.top;
    this.paint();
  }

  paint() {
    const { trace } = this;
    const { issues, waits } = this.heat(trace);
    const first = Math.max(0, Math.floor(this.body.scrollTop / this.rowHeight) - 4);
    const end = Math.min(this.order.length, first + Math.ceil((this.body.clientHeight || 600) / this.rowHeight) + 8);
    const rows = [];
    for (let r = first; r < end; r++) {
      const n = this.order[r];
      const row = trace.instructionRow(n);
      const hot = Math.sqrt((issues[n] + waits[n]) / this.most);
      const node = element('div', { 'data-n': String(n), role: 'option', 'aria-selected': String(n === this.chosen), title: `${row.asm}${row.source ? `\n${row.source}` : ''}\n${row.node}` },
        element('span', {}, issues[n] ? whole(issues[n]) : ''), element('span', { style: { background: hot > 0.02 ? `rgba(var(--heat), ${(0.75 * hot).toFixed(3)})` : '' } }, waits[n] ? whole(waits[n]) : ''),
        element('span', {}, row.line > 0 ? String(row.line) : ''), element('span', {}, row.asm));
      Object.assign(node.style, { position: 'absolute', left: '0', right: '0', top: `${r * this.rowHeight}px`, height: `${this.rowHeight}px` });
      if (row.source) node.lastChild.append(element('span', { class: 'dim' }, `   ${row.source}`));
      rows.push(node);
    }
    this.inner.replaceChildren(...rows);
  }

  // Mark an instruction's bars on the timeline, and go to the first one after the cursor.
  choose(n, go) {
    this.chosen = n;
    this.paint();
    if (go) this.search.instruction(this.trace, n, 1);
  }

  key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15 };
    if (event.key in steps) {
      const at = Math.max(0, Math.min(this.order.length - 1, this.order.indexOf(this.chosen) + steps[event.key]));
      this.choose(this.order[at], false);
      const y = at * this.rowHeight;
      if (y < this.body.scrollTop) this.body.scrollTop = y;
      if (y + this.rowHeight > this.body.scrollTop + this.body.clientHeight) this.body.scrollTop = y + this.rowHeight - this.body.clientHeight;
      this.paint();
    } else if (event.key === 'Enter' && this.chosen >= 0) this.choose(this.chosen, true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
