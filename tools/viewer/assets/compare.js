// Two runs, node by node and laid over each other; of one chip where there are two, else the two machines.

const compareChoice = { a: null, b: null };

function comparePair(traces) {
  const same = traces.flatMap((a) => traces.filter((b) => b.index > a.index && b.chip === a.chip).map((b) => [a, b]))[0];
  const [a, b] = same || [traces[0], traces[1]];
  return [traces[compareChoice.a ?? (a ? a.index : 0)], traces[compareChoice.b ?? (b ? b.index : 0)]];
}

const signed = (value, text) => (value === 0 ? '0' : `${value > 0 ? '+' : '−'}${text(Math.abs(value))}`);

function deltaCell(a, b, text) {
  const change = b - a;
  return element('td', { class: `n ${change > 0 ? 'up' : change < 0 ? 'down' : ''}` }, signed(change, text), a ? element('span', { class: 'dim' }, ` ${change < 0 ? '−' : '+'}${Math.abs((100 * change) / a).toFixed(1)} %`) : '');
}

function compareView(traces) {
  if (traces.length < 2) return [element('p', {}, 'There is one trace in this page. Give view a second folder, such as a run of the same chip with another setting: decodelab view A B -o page.html')];
  const [a, b] = comparePair(traces);
  const choose = (which, now) => {
    const select = element('select', { 'aria-label': `run ${which.toUpperCase()}` }, traces.map((t) => { const o = element('option', { value: String(t.index) }, `${t.chip} · ${t.label}`); if (t === now) o.setAttribute('selected', ''); return o; }));
    select.addEventListener('change', () => { compareChoice[which] = Number(select.value); renderView(); });
    return select;
  };
  const cycles = a.chip === b.chip && a.clockHz === b.clockHz;
  const value = (trace, node) => (cycles ? node.cycles : node.cycles * (1e9 / trace.clockHz));
  const text = cycles ? whole : timeText;
  const names = [...new Set([...a.nodes, ...b.nodes].map((n) => n.name))];
  const table = names.map((name) => {
    const one = a.nodes.find((n) => n.name === name), two = b.nodes.find((n) => n.name === name);
    return { name, one, two, a: one ? value(a, one) : 0, b: two ? value(b, two) : 0 };
  }).sort((x, y) => Math.abs(y.b - y.a) - Math.abs(x.b - x.a));
  const bytes = (node) => (node ? ['hbm_read', 'hbm_write', 'mxm_ingest'].reduce((s, l) => s + (node.bytes[l] || 0), 0) : 0);
  const moved = (one, two) => {
    const change = [...new Set([...Object.keys(one ? one.stalls : {}), ...Object.keys(two ? two.stalls : {})])].filter((n) => n !== 'idle')
      .map((n) => [n, ((two && two.stalls[n]) || 0) - ((one && one.stalls[n]) || 0)]).sort((x, y) => Math.abs(y[1]) - Math.abs(x[1]))[0];
    return change && change[1] ? `${change[0]} ${signed(change[1], whole)}` : '';
  };
  const totals = [a.cycles, b.cycles].map((c, n) => (cycles ? c : c * (1e9 / [a, b][n].clockHz)));
  return [element('h2', {}, 'compare'), element('p', {}, 'A: ', choose('a', a), '  B: ', choose('b', b)),
    element('article', { class: 'card' }, element('div', {}, element('b', {}, text(totals[0])), ' → ', element('b', {}, text(totals[1])), cycles ? ' cycles  ' : '  ', element('table', { class: 'inline' }, element('tbody', {}, element('tr', {}, deltaCell(totals[0], totals[1], text))))), overlayNode(a, b, cycles)),
    element('article', { class: 'card', style: { marginTop: '1rem' } }, element('div', { class: 'scroll' }, element('table', { class: 'grid', id: 'deltas' }, element('thead', {}, element('tr', {}, element('th', {}, 'node'), element('th', { class: 'n' }, cycles ? 'A, cycles' : 'A'), element('th', { class: 'n' }, cycles ? 'B, cycles' : 'B'), element('th', { class: 'n' }, 'B − A'),
      element('th', { class: 'n' }, 'memory A'), element('th', { class: 'n' }, 'memory B'), element('th', {}, cycles ? 'stall that changed most (unit cycles)' : ''))),
    element('tbody', {}, table.slice(0, 200).map((row) => element('tr', { tabindex: '0', onclick: () => findNode(row.name) }, element('td', {}, row.name), element('td', { class: 'n' }, row.one ? text(row.a) : '–'), element('td', { class: 'n' }, row.two ? text(row.b) : '–'),
      deltaCell(row.a, row.b, text), element('td', { class: 'n' }, row.one ? bytesText(bytes(row.one)) : ''), element('td', { class: 'n' }, row.two ? bytesText(bytes(row.two)) : ''), element('td', {}, cycles ? moved(row.one, row.two) : '')))))))];
}

const overlayShares = new Shares();

// How busy each class of units is over time: A filled, B as a line over it.
function overlayNode(a, b, cycles) {
  const canvas = element('canvas', { class: 'overlay', role: 'img', 'aria-label': 'both runs over time' });
  const classes = [...new Set([...a.units, ...b.units].map((u) => u.kind))].filter((k) => k !== 'host');
  const ratio = window.devicePixelRatio || 1, width = Math.max(700, document.getElementById('compare').clientWidth - 80), rowHeight = Math.round(44 * ui.unit), left = Math.round(150 * ui.unit), spans = Math.round(20 * ui.unit);
  const height = 2 * (spans + 4) + classes.length * (rowHeight + 6) + 26;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  const c = canvas.getContext('2d');
  c.scale(ratio, ratio);
  const longest = Math.max(a.cycles * (1e9 / a.clockHz), b.cycles * (1e9 / b.clockHz));
  const plot = width - left - 10;
  const colours = [machineColour(a.index), machineColour(b.index === a.index ? b.index + 1 : b.index)];
  c.textBaseline = 'middle';
  [a, b].forEach((trace, n) => {
    const y = n * (spans + 4);
    c.font = ui.font(12);
    c.fillStyle = colours[n];
    c.fillText(`${'AB'[n]}  ${trace.chip === (n ? a : b).chip ? trace.label : trace.chip}`, 4, y + spans / 2, left - 10);
    for (const span of trace.spans) {
      const x0 = left + (span.start * trace.nsPerCycle / longest) * plot, x1 = left + (span.end * trace.nsPerCycle / longest) * plot;
      c.fillStyle = nameColour(span.name.replace(/\d+/g, ''));
      c.fillRect(x0, y, Math.max(1, x1 - x0 - 1), spans);
      c.fillStyle = ui.light ? '#ffffff' : '#0b1018';
      c.font = ui.font(10.5);
      if (c.measureText(span.name).width < x1 - x0 - 6) c.fillText(span.name, x0 + 3, y + spans / 2 + 1);
    }
  });
  classes.forEach((kind, k) => {
    const y = 2 * (spans + 4) + k * (rowHeight + 6);
    c.fillStyle = cssColour('row');
    c.fillRect(left, y, plot, rowHeight);
    c.fillStyle = cssColour('text');
    c.font = ui.font(12);
    c.fillText(Object.hasOwn(CLASS_NAMES, kind) ? CLASS_NAMES[kind] : kind, 4, y + rowHeight / 2, left - 10);
    [a, b].forEach((trace, n) => {
      const units = trace.units.filter((u) => u.kind === kind).map((u) => u.number);
      if (!units.length) return;
      const row = { trace, units, lane: -1, key: `overlay:${kind}` };
      const scale = plot / (longest / trace.nsPerCycle);
      sharesOf(row, overlayShares, -trace.first, scale, plot);
      const busy = overlayShares.used.filter((cat) => cat < trace.kinds.length);
      c.beginPath();
      c.moveTo(left, y + rowHeight);
      let most = 0;
      for (let x = 0; x < plot; x++) {
        let sum = 0;
        for (const cat of busy) sum += overlayShares.part[cat][x];
        most = Math.max(most, sum);
        c.lineTo(left + x, y + rowHeight - Math.min(1, sum) * rowHeight);
      }
      c.lineTo(left + plot, y + rowHeight);
      if (n === 0) { c.globalAlpha = 0.55; c.fillStyle = colours[0]; c.fill(); c.globalAlpha = 1; } else { c.strokeStyle = colours[1]; c.lineWidth = 1.4; c.stroke(); }
    });
  });
  c.fillStyle = cssColour('dim');
  c.font = ui.font(11);
  for (let n = 0; n <= 4; n++) {
    const text = cycles ? `${whole((longest / a.nsPerCycle) * n / 4)} cyc` : timeText(longest * n / 4);
    c.textAlign = n === 4 ? 'right' : n ? 'center' : 'left';
    c.fillText(text, left + (plot * n) / 4, height - 10);
  }
  return element('div', { class: 'scroll' }, canvas, element('p', { class: 'dim' }, 'How busy each class of units is: A filled, B as a line.'));
}
