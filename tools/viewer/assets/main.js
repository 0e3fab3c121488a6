// Start: read what is embedded, show the summary, then unpack the events.

const VIEWS = ['summary', 'timeline', 'roofline', 'compare'];

const app = { view: 'summary', traces: [], timeline: null };

function showView(name) {
  app.view = name;
  for (const view of VIEWS) document.getElementById(view).hidden = view !== name;
  for (const tab of document.querySelectorAll('#tabs button')) tab.setAttribute('aria-selected', String(tab.dataset.view === name));
  if (app.tooltip) app.tooltip.hide();
  renderView();
  if (name === 'timeline' && app.timeline) { app.timeline.invalidate(); document.getElementById('canvas').focus(); renderPane(); }
}

function renderView() {
  if (!app.timeline) return;
  const section = document.getElementById(app.view);
  if (app.view === 'summary') fill(section, ...summaryView(app.traces));
  if (app.view === 'roofline') fill(section, ...rooflineView(app.traces));
  if (app.view === 'compare') fill(section, ...compareView(app.traces));
}

function setTheme(light) {
  ui.light = light;
  document.documentElement.dataset.theme = light ? 'light' : 'dark';
  redraw();
}

function setLarge(large) {
  ui.large = large;
  document.documentElement.classList.toggle('large', large);
  redraw();
}

function redraw() {
  if (app.timeline) { app.timeline.paletteKey = null; app.timeline.changed(); renderView(); }
}

async function start() {
  const meta = JSON.parse(document.getElementById('meta').textContent);
  document.title = meta.title;
  document.getElementById('title').textContent = meta.title;
  for (const view of VIEWS) {
    const tab = element('button', { type: 'button', role: 'tab', 'data-view': view, onclick: () => showView(view) }, view);
    document.getElementById('tabs').append(tab);
  }
  ui.light = matchMedia('(prefers-color-scheme: light)').matches;
  document.documentElement.dataset.theme = ui.light ? 'light' : 'dark';
  showView('summary');
  fill(document.getElementById('summary'), ...summaryView(meta.traces));  // before the events are unpacked
  for (let n = 0; n < meta.traces.length; n++) {
    const [tables, events] = await Promise.all([blobOf(`tables${n}`), blobOf(`events${n}`)]);
    const known = JSON.parse(new TextDecoder().decode(tables));
    app.traces.push(new Trace(meta.traces[n], n, known, unpackEvents(events, known.units.length, meta.traces[n].count)));
  }
  const timeline = app.timeline = new Timeline(document.getElementById('canvas'), app.traces);
  const tooltip = app.tooltip = new Tooltip(document.getElementById('tip'));
  app.search = new Search(timeline);
  app.listing = new Listing(timeline, app.search);
  for (const pane of PANES) {
    document.getElementById('panes').append(element('button', { type: 'button', role: 'tab', 'data-pane': pane, onclick: () => showPane(pane) }, pane));
  }
  listenToPointer(timeline, tooltip);
  new ResizeObserver(() => timeline.invalidate()).observe(document.getElementById('stage'));
  document.getElementById('theme').addEventListener('click', () => setTheme(!ui.light));
  document.getElementById('large').addEventListener('click', () => setLarge(!ui.large));
  listenToSearch();
  listenToKeys();
  document.getElementById('helpbutton').addEventListener('click', showHelp);
  timeline.listeners.push(showStatus, paneLater);
  timeline.onview = paneLater;
  showPane('details');
  showStatus();
  showView(VIEWS.includes(location.hash.slice(1)) ? location.hash.slice(1) : 'summary');
  if (app.view === 'timeline') timeline.draw();
  requestAnimationFrame(() => { app.painted = performance.now(); document.body.dataset.ready = 'yes'; });
}

function listenToSearch() {
  const query = document.getElementById('query');
  const go = (direction) => { showView('timeline'); app.search.move(direction); };
  query.addEventListener('input', () => {
    const total = app.search.run(query.value);
    document.getElementById('found').textContent = query.value.trim() ? `${whole(total)} match${total === 1 ? '' : 'es'}` : '';
  });
  document.getElementById('search').addEventListener('submit', (event) => { event.preventDefault(); go(1); query.focus(); });
  document.getElementById('next').addEventListener('click', () => go(1));
  document.getElementById('previous').addEventListener('click', () => go(-1));
}

function showStatus() {
  const { cursor, selected, focus } = app.timeline;
  const parts = [];
  if (cursor) parts.push(`${cursor.trace.chip}: cycle ${whole(cursor.cycle)} = ${timeText(cursor.trace.nsOf(cursor.cycle))}`);
  if (focus.kind !== 'trace') parts.push(focus.label);
  else parts.push(...app.traces.map((t) => `${traceName(t, app.traces)}: ${whole(t.count)} events`));
  if (selected) {
    const { title, facts } = eventFacts(selected.trace, selected.i);
    parts.push(title, ...facts.filter(([n]) => ['instruction', 'tensor', 'node', 'bytes'].includes(n)).map(([n, v]) => `${n} ${v}`));
  }
  parts.push('? keys');
  document.getElementById('status').textContent = parts.join('  ·  ');
}

window.decodelab = app;  // for the curious, and for tests
app.ui = ui;
Object.assign(app, { showView, showPane, setTheme, setLarge, openLanes, valuesAt, lanesOf, sharesOf, newShares: () => new Shares() });
start().catch((error) => { document.getElementById('status').textContent = `the page cannot be shown: ${error.message}`; throw error; });
