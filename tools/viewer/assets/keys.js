// Everything by keyboard. One table: what a key does, and how the help names it.

const KEYS = [
  ['views', [
    [['1', '2', '3', '4'], '1 – 4', 'summary, timeline, roofline, compare', (key) => showView(VIEWS[Number(key) - 1])],
    [['t'], 't', 'dark or light', () => setTheme(!ui.light)],
    [['b'], 'b', 'large type, for a projector', () => setLarge(!ui.large)],
    [['?'], '?', 'this help', () => showHelp()],
    [['Escape'], 'Esc', 'close, or leave the search and the selection', () => leave()],
  ]],
  ['move', [
    [['w', '+', '='], 'w +', 'zoom in', () => app.timeline.zoom(0.7, cursorNs())],
    [['s', '-'], 's -', 'zoom out', () => app.timeline.zoom(1 / 0.7, cursorNs())],
    [['a', 'ArrowLeft'], 'a ←', 'pan left', () => app.timeline.pan(-0.15)],
    [['d', 'ArrowRight'], 'd →', 'pan right', () => app.timeline.pan(0.15)],
    [['f'], 'f', 'fit what was recorded', () => app.timeline.fit()],
    [['F'], 'F', 'fit the whole step', () => app.timeline.fitAll()],
    [['z'], 'z', 'zoom to the selected event', () => zoomToSelected(app.timeline)],
    [['g'], 'g', 'go to a cycle', () => goToCycle()],
  ]],
  ['rows', [
    [['ArrowUp', 'k'], '↑ k', 'row above', () => moveFocus(-1)],
    [['ArrowDown', 'j'], '↓ j', 'row below', () => moveFocus(1)],
    [['Enter', ' '], 'Enter', 'open or close the row (a unit opens its lanes)', () => toggle(app.timeline, app.timeline.focus)],
    [['PageUp'], 'PgUp', 'ten rows up', () => moveFocus(-10)],
    [['PageDown'], 'PgDn', 'ten rows down', () => moveFocus(10)],
    [['Home'], 'Home', 'first row', () => moveFocus(-1e9)],
    [['x'], 'x', 'close all rows', () => closeAll()],
  ]],
  ['cycles and events', [
    [['.'], '.', 'next cycle', () => stepCursor(app.timeline, 1)],
    [[','], ',', 'cycle before', () => stepCursor(app.timeline, -1)],
    [['>'], '>', 'ten cycles on', () => stepCursor(app.timeline, 10)],
    [['<'], '<', 'ten cycles back', () => stepCursor(app.timeline, -10)],
    [[']'], ']', 'next event of the row', () => neighbour(app.timeline, 1)],
    [['['], '[', 'event before', () => neighbour(app.timeline, -1)],
  ]],
  ['panes', [
    [['l'], 'l', 'listing: the line of the selected bar', () => showPane('listing')],
    [['i'], 'i', 'details', () => showPane('details')],
    [['c'], 'c', 'state in the cycle: warps, banks, streams', () => showPane('state')],
    [['p'], 'p', 'panes on or off', () => toggleSide()],
    [['P'], 'P', 'wide pane', () => { document.getElementById('side').classList.toggle('wide'); app.timeline.invalidate(); renderPane(); }],
    [['e'], 'e', 'into the pane and back', () => (document.getElementById('side').contains(document.activeElement) ? document.getElementById('canvas') : document.querySelector('#pane .listing') || document.getElementById('pane')).focus()],
  ]],
  ['search', [
    [['/'], '/', 'search; Enter for the next match', () => { const q = document.getElementById('query'); q.focus(); q.select(); }],
    [['n'], 'n', 'next match', () => { showView('timeline'); app.search.move(1); }],
    [['N'], 'N', 'match before', () => { showView('timeline'); app.search.move(-1); }],
  ]],
];

const TIMELINE_KEYS = new Set(['move', 'rows', 'cycles and events', 'panes']);

function cursorNs() {
  const { cursor, t0, t1 } = app.timeline;
  const ns = cursor ? cursor.trace.nsOf(cursor.cycle) : NaN;
  return ns > t0 && ns < t1 ? ns : (t0 + t1) / 2;
}

function moveFocus(by) {
  const timeline = app.timeline;
  const rows = visibleRows(timeline.roots).filter((row) => row.kind !== 'spans' || row.label);
  const at = Math.max(0, Math.min(rows.length - 1, rows.indexOf(timeline.focus) + by));
  timeline.focus = rows[at];
  timeline.resize();
  timeline.showRow(rows[at]);
  timeline.changed();
}

function closeAll() {
  const close = (row) => { row.open = row.kind === 'trace'; row.children.forEach(close); };
  app.timeline.roots.forEach(close);
  app.timeline.focus = app.timeline.roots[app.timeline.focus.trace.index];
  app.timeline.changed();
}

function goToCycle() {
  const dialog = document.getElementById('help');
  const trace = app.timeline.focus.trace;
  const input = element('input', { type: 'number', min: '0', max: String(trace.cycles - 1), 'aria-label': 'cycle' });
  const form = element('form', { method: 'dialog' }, `cycle of ${trace.chip}: `, input, ' ', element('button', {}, 'go'));
  form.addEventListener('submit', () => {
    const cycle = Math.round(Number(input.value));
    if (input.value === '' || !Number.isFinite(cycle)) return;
    setCursor(app.timeline, trace, cycle);
    app.timeline.reveal(trace.nsOf(app.timeline.cursor.cycle), trace.nsPerCycle);
  });
  fill(dialog, form);
  dialog.showModal();
  input.focus();
}

function leave() {
  if (document.activeElement === document.getElementById('query')) { document.getElementById('canvas').focus(); return; }
  const { timeline } = app;
  if (timeline.selected) timeline.selected = null;
  else if (timeline.match) { document.getElementById('query').value = ''; document.getElementById('found').textContent = ''; app.search.run(''); }
  else timeline.cursor = null;
  timeline.changed();
}

function showHelp() {
  const dialog = document.getElementById('help');
  fill(dialog, element('h2', {}, 'keys'), element('div', { class: 'keys' }, KEYS.map(([title, rows]) => element('div', { style: { display: 'block' } },
    element('h3', {}, title), element('dl', { style: { margin: '0' } }, rows.map(([, shown, what]) => element('div', {},
      element('dt', {}, shown.split(' ').map((k) => (k === '–' ? ' – ' : element('kbd', {}, k)))), element('dd', {}, what))))))),
  element('h3', {}, 'pointer'),
  element('div', { class: 'dim' }, 'drag: pan · wheel: rows · Ctrl + wheel: zoom · Shift + wheel: pan · drag on the ruler: zoom to it · '
    + 'click on a name: open · click on a bar: select it and set the cycle · double click: zoom to it'),
  element('form', { method: 'dialog', style: { marginTop: '1rem' } }, element('button', { autofocus: '' }, 'close')));
  dialog.showModal();
  dialog.scrollTop = 0;
}

function listenToKeys() {
  const actions = new Map();
  for (const [section, rows] of KEYS) for (const [keys, , , action] of rows) for (const key of keys) actions.set(key, [section, action]);
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById('help').open) return;
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
    if (typing && event.key !== 'Escape') return;
    if (event.target instanceof HTMLButtonElement && (event.key === 'Enter' || event.key === ' ')) return;
    if (event.key === 'Enter' && event.target.matches && event.target.matches('tr[tabindex]')) { event.target.click(); event.preventDefault(); return; }
    const found = actions.get(event.key);
    if (!found || !app.timeline || (TIMELINE_KEYS.has(found[0]) && app.view !== 'timeline')) return;
    if (event.target.closest && event.target.closest('#pane') && ['ArrowUp', 'ArrowDown', 'Enter', 'PageUp', 'PageDown', 'Home', ' '].includes(event.key)) return;
    event.preventDefault();
    found[1](event.key);
  });
}
