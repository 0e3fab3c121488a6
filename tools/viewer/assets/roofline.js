// Roofline: operations a second over operations a byte, one point a kernel or node, the roofs of every chip.

const LEVEL_CHOICES = { gpu: [['hbm_read', 'DRAM', ['hbm_read', 'hbm_write']], ['l2_read', 'L2', ['l2_read', 'l2_write']]],
  lpu: [['mxm_ingest', 'weights into the MXM', ['mxm_ingest']], ['sram_read', 'SRAM', ['sram_read']]] };
const MACHINE_COLOURS = [['#4c8dff', '#2f6fe0'], ['#f0944a', '#d26a16'], ['#5fce8b', '#1d8a50'], ['#c56ad8', '#a548bb']];
const machineColour = (n) => MACHINE_COLOURS[n % MACHINE_COLOURS.length][ui.light ? 1 : 0];

const rooflineChoice = {};  // trace index -> level

// A trace's nodes, those of all its layers as one.
function nodesOfAllLayers(trace) {
  const found = new Map();
  for (const node of trace.nodes) {
    const name = node.name.replace(/^layers\.\d+\./, '');
    if (!found.has(name)) found.set(name, { name, kernel: node.kernel, cycles: 0, macs: 0, layers: 0, bytes: {} });
    const sum = found.get(name);
    sum.cycles += node.cycles;
    sum.macs += node.macs;
    sum.layers++;
    for (const [level, bytes] of Object.entries(node.bytes)) sum.bytes[level] = (sum.bytes[level] || 0) + bytes;
  }
  return [...found.values()];
}

// Points of a trace at a level: [{node, x, y, seconds}] in operations a byte and a second.
function rooflinePoints(trace, level) {
  const [, , names] = LEVEL_CHOICES[trace.dialect].find(([key]) => key === level);
  return nodesOfAllLayers(trace).map((node) => {
    const bytes = names.reduce((sum, n) => sum + (node.bytes[n] || 0), 0);
    const seconds = node.cycles / trace.clockHz;
    return { node, bytes, seconds, x: bytes ? (2 * node.macs) / bytes : 0, y: seconds ? (2 * node.macs) / seconds : 0 };
  }).filter((p) => p.x > 0 && p.y > 0);
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const opsText = (value) => scaled(value, [[1e15, 'Pop/s'], [1e12, 'Top/s'], [1e9, 'Gop/s'], [1e6, 'Mop/s'], [1, 'op/s']]);

function rooflineView(traces) {
  const known = traces.filter((t) => t.roofs);
  if (!known.length) return [element('p', {}, 'The numbers of these chips are not at hand.')];
  const series = known.map((trace) => {
    const choices = LEVEL_CHOICES[trace.dialect].filter(([key]) => trace.roofs.bytes[key]);
    const best = choices.find(([key]) => rooflinePoints(trace, key).length) || choices[0];
    const level = rooflineChoice[trace.index] || (best && best[0]);
    return { trace, choices, level, points: level ? rooflinePoints(trace, level) : [] };
  }).filter((s) => s.level);
  const all = series.flatMap((s) => s.points);
  const xs = all.map((p) => p.x), ridge = series.map((s) => Math.max(...Object.values(s.trace.roofs.operations)) / s.trace.roofs.bytes[s.level]);
  const x0 = Math.min(0.25, ...xs) / 2, x1 = Math.max(...ridge, ...xs) * 4;
  const y1 = Math.max(...series.flatMap((s) => Object.values(s.trace.roofs.operations))) * 3;
  const y0 = Math.min(...all.map((p) => p.y), ...series.map((s) => s.trace.roofs.bytes[s.level] * x0)) / 2;
  const width = 1000, height = 520, left = 92, bottom = 46, top = 12, right = 16;
  const X = (v) => left + (Math.log(v / x0) / Math.log(x1 / x0)) * (width - left - right);
  const Y = (v) => height - bottom - (Math.log(v / y0) / Math.log(y1 / y0)) * (height - bottom - top);
  const chart = svg('svg', { viewBox: `0 0 ${width} ${height}`, class: 'roof', role: 'img', 'aria-label': 'roofline' });
  const text = (x, y, value, extra = {}) => { const node = svg('text', { x, y, class: 'axis', ...extra }); node.textContent = value; return node; };
  for (let e = Math.ceil(Math.log10(x0)); 10 ** e <= x1; e++) chart.append(svg('line', { x1: X(10 ** e), x2: X(10 ** e), y1: top, y2: height - bottom, class: 'gridline' }), text(X(10 ** e), height - bottom + 16, e < 0 ? `0.${'0'.repeat(-e - 1)}1` : whole(10 ** e), { 'text-anchor': 'middle' }));
  for (let e = Math.ceil(Math.log10(y0)); 10 ** e <= y1; e++) chart.append(svg('line', { x1: left, x2: width - right, y1: Y(10 ** e), y2: Y(10 ** e), class: 'gridline' }), text(left - 6, Y(10 ** e) + 4, opsText(10 ** e), { 'text-anchor': 'end' }));
  chart.append(text((left + width) / 2, height - 8, 'operations a byte (two a multiply-accumulate)', { 'text-anchor': 'middle' }));
  series.filter((s, n) => n === series.findIndex((o) => o.trace.chip === s.trace.chip && o.level === s.level)).forEach((s) => {
    const colour = machineColour(s.trace.index);
    const rate = s.trace.roofs.bytes[s.level];
    const roofs = Object.entries(s.trace.roofs.operations).sort((a, b) => b[1] - a[1]);
    chart.append(svg('line', { x1: X(x0), y1: Y(rate * x0), x2: X(roofs[0][1] / rate), y2: Y(roofs[0][1]), stroke: colour, 'stroke-width': 2.2 }));
    const middle = Math.sqrt(x0 * Math.min(x1, roofs[0][1] / rate));
    const slope = Math.atan2(Y(rate * x0 * 10) - Y(rate * x0), X(x0 * 10) - X(x0)) * (180 / Math.PI);
    chart.append(text(X(middle), Y(rate * middle) - 7, `${s.trace.chip}: ${bytesText(rate)}/s`, { fill: colour, transform: `rotate(${slope} ${X(middle)} ${Y(rate * middle) - 7})`, 'text-anchor': 'middle' }));
    for (const [name, ops] of roofs) {
      chart.append(svg('line', { x1: X(ops / rate), y1: Y(ops), x2: width - right, y2: Y(ops), stroke: colour, 'stroke-width': 1.6, 'stroke-dasharray': ops === roofs[0][1] ? '' : '5 4' }),
        text(width - right - 4, Y(ops) - 5, `${name} ${opsText(ops)}`, { fill: colour, 'text-anchor': 'end' }));
    }
  });
  const longest = Math.max(1e-30, ...all.map((p) => p.seconds));
  for (const s of series) {
    const colour = machineColour(s.trace.index);
    for (const p of s.points.slice().sort((a, b) => b.seconds - a.seconds)) {
      const dot = svg('circle', { cx: X(p.x), cy: Y(p.y), r: 3.5 + 9 * Math.sqrt(p.seconds / longest), fill: colour, 'fill-opacity': 0.62, stroke: cssColour('page'), tabindex: 0, role: 'button', 'aria-label': p.node.name });
      const facts = () => factsNode(pointFacts(s, p));
      dot.addEventListener('pointermove', (event) => app.tooltip.show(facts(), event.clientX, event.clientY));
      dot.addEventListener('pointerleave', () => app.tooltip.hide());
      dot.addEventListener('focus', () => { const box = dot.getBoundingClientRect(); app.tooltip.show(facts(), box.right, box.bottom); });
      dot.addEventListener('blur', () => app.tooltip.hide());
      dot.addEventListener('click', () => findNode(p.node.name));
      dot.addEventListener('keydown', (event) => { if (event.key === 'Enter') { event.preventDefault(); findNode(p.node.name); } });
      chart.append(dot);
    }
  }
  const controls = element('div', { class: 'legend' }, series.map((s) => {
    const select = element('select', { 'aria-label': `bytes of ${s.trace.chip}` }, s.choices.map(([key, name]) => { const o = element('option', { value: key }, name); if (key === s.level) o.setAttribute('selected', ''); return o; }));
    select.addEventListener('change', () => { rooflineChoice[s.trace.index] = select.value; renderView(); });
    return element('span', {}, element('span', { class: 'swatch', style: { background: machineColour(s.trace.index) } }), `${s.trace.chip} ${s.trace.label}, bytes of: `, select);
  }));
  return [element('h2', {}, 'roofline'), element('p', { class: 'dim' }, 'One point a kernel or graph node, all its layers together, as recorded; its size is its time. Below the slanted line, time goes where bytes do not: latency, waves, launches. Operations are those of matrix instructions and FMAs, padding included.'),
    controls, chart, ...series.map(pointsTable)];
}

function pointFacts(s, p) {
  const rate = s.trace.roofs.bytes[s.level], peak = Math.max(...Object.values(s.trace.roofs.operations));
  return { title: p.node.name, category: null, facts: [...pair('chip', s.trace.chip), ...pair('kernel', p.node.kernel), ...(p.node.layers > 1 ? pair('layers', whole(p.node.layers)) : []), ...pair('time', `${timeText(p.seconds * 1e9)}, ${whole(p.node.cycles)} cycles`), ...pair('bytes', bytesText(p.bytes)),
    ...pair('operations', `${whole(2 * p.node.macs)}, ${significant(p.x)} a byte`), ...pair('rate', opsText(p.y)), ...pair('of its roof', percent(p.y, Math.min(peak, rate * p.x)))] };
}

function pointsTable(s) {
  const rate = s.trace.roofs.bytes[s.level], peak = Math.max(...Object.values(s.trace.roofs.operations));
  return element('article', { class: 'card', style: { marginTop: '1rem' } }, element('h3', { style: { marginTop: '0' } }, `${s.trace.chip} ${s.trace.label}`), s.points.length ? element('div', { class: 'scroll' }, element('table', { class: 'grid' }, element('thead', {}, element('tr', {},
    element('th', {}, 'node'), ['time', 'ops/byte', 'rate', 'of its roof'].map((n) => element('th', { class: 'n' }, n)))), element('tbody', {}, s.points.slice().sort((a, b) => b.seconds - a.seconds).slice(0, 80).map((p) => element('tr', { onclick: () => findNode(p.node.name), tabindex: '0' },
    element('td', {}, p.node.name), element('td', { class: 'n' }, timeText(p.seconds * 1e9)), element('td', { class: 'n' }, significant(p.x)), element('td', { class: 'n' }, opsText(p.y)), element('td', { class: 'n' }, percent(p.y, Math.min(peak, rate * p.x)))))))) : element('p', { class: 'dim' }, 'no node multiplies and moves bytes at this level'));
}
