// The panes beside the timeline: details, listing, state.

const PANES = ['details', 'listing', 'state'];

function showPane(name) {
  app.pane = name;
  for (const tab of document.querySelectorAll('#panes button')) tab.setAttribute('aria-selected', String(tab.dataset.pane === name));
  renderPane();
}

function renderPane() {
  const pane = document.getElementById('pane');
  if (!app.timeline || app.view !== 'timeline' || document.getElementById('side').hidden) return;
  pane.classList.toggle('fixed', app.pane === 'listing');
  if (app.pane === 'listing') { app.listing.render(pane); return; }
  const top = pane.scrollTop;
  fill(pane, ...(app.pane === 'state' ? statePane(app.timeline) : detailsPane(app.timeline)));
  pane.scrollTop = top;
}

let paneTimer = 0;

function paneLater() {  // after the frame: the timeline comes first
  clearTimeout(paneTimer);
  paneTimer = setTimeout(renderPane, 30);
}

function toggleSide() {
  const side = document.getElementById('side');
  side.hidden = !side.hidden;
  app.timeline.invalidate();
  renderPane();
}
