"""Panning repaints only what comes into sight: the canvas must be, to the pixel, the one drawn from nothing there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.test_viewer import complaints, needs_browser
from tools.bench.browser import browser, open_page
from tools.bench.made_up_trace import gpu_recording, lpu_recording
from tools.viewer.page import page

pytestmark = needs_browser

# Rows to open; ns in sight; what else is to be seen.
SCENES = {
    "classes, the whole trace": ("", 3000, ""),
    "groups from a pyramid": ("cores", 2000, ""),
    "units from their events": ("cores", 500, ""),
    "units with a match in many columns": ("cores", 700, "match"),
    "bars with texts": ("cores", 60, ""),
    "bars, one of them selected, matches": ("cores", 30, "match, selected"),
    "lanes": ("lanes", 40, "selected"),
}

OPEN = """
const [open, span, more] = arguments, t = decodelab.timeline, gpu = t.roots[1];
const cores = gpu.children.find((row) => row.label === 'sub-cores');
const all = (row) => [row, ...row.children.flatMap(all)];
t.roots.flatMap(all).forEach((row) => { row.open = row.kind === 'trace'; });
t.scroll = 0;
if (open) all(cores).forEach((row) => { row.open = row.kind !== 'unit'; });
if (open === 'lanes') {
  const row = all(cores).find((one) => one.kind === 'unit');
  decodelab.openLanes(row);
  row.open = true;
}
t.focus = cores;
t.resize();
t.showRow(cores);
t.setView(300, 300 + span);
decodelab.search.run(more.includes('match') ? 'MMA' : '');
t.selected = null;
if (more.includes('selected')) {
  const { e } = gpu.trace, unit = gpu.trace.units.findIndex((u) => u.name === 'SM0.0');
  let i = e.offsets[unit];
  while (e.start[i] < 330 * 1.755) i++;
  t.selected = { trace: gpu.trace, i };
}
t.draw();
"""

# Move the view by these parts of its width and rows of pixels; after each step compare with the canvas from nothing.
# Gives for each step: pixels that differ, the part of the picture that the step painted.
MOVE = """
const t = decodelab.timeline, found = [];
const copy = Object.assign(document.createElement('canvas'), { width: t.width, height: t.height });
const reader = copy.getContext('2d', { willReadFrequently: true });
const shot = () => {
  reader.drawImage(t.canvas, 0, 0);
  return new Uint32Array(reader.getImageData(0, 0, t.width, t.height).data.buffer);
};
for (const [part, rows] of arguments[0]) {
  t.pan(part);
  t.scroll += rows;
  t.draw();
  const painted = t.picture.painted / (t.plot * (t.height - t.top)), moved = shot();
  t.picture.forget();
  t.draw();
  const whole = shot();
  let differ = 0;
  for (let p = 0; p < whole.length; p++) if (whole[p] !== moved[p]) differ++;
  found.push([differ, painted, new Set(whole).size]);
}
return found;
"""

STEPS = [(0.0031, 0), (0.0173, 0), (-0.0107, 0), (0.0, 37), (0.023, 11), (-0.031, -29), (0.0049, 3), (0.21, 0),
         (-0.4, 0)]  # fmt: skip


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("pan") / "page.html"
    path.write_text(page([lpu_recording(2_000), gpu_recording(60_000)]), encoding="utf-8")
    with browser() as driver:
        open_page(driver, path, fragment="timeline")
        yield driver
        assert complaints(driver) == []


@pytest.mark.parametrize("scene", SCENES)
def test_a_panned_canvas_is_the_one_drawn_from_nothing(view: Any, scene: str) -> None:
    view.execute_script(OPEN, *SCENES[scene])
    found = view.execute_script(MOVE, STEPS)
    for step, (differ, painted, colours) in zip(STEPS, found, strict=True):
        assert differ == 0, (scene, step)
        assert painted <= abs(step[0]) + (0.1 if step[1] else 0.01), (scene, step)  # a strip, not the whole
        assert colours > 10, (scene, step)  # there is something to see


def test_a_jump_paints_everything_and_standing_still_nothing(view: Any) -> None:
    view.execute_script(OPEN, *SCENES["units from their events"])
    found = view.execute_script(MOVE, [(1.5, 0), (0.0, 0)])
    assert [differ for differ, _, _ in found] == [0, 0]
    assert [painted for _, painted, _ in found] == [1, 0]


@pytest.mark.parametrize("change", [
    "t.zoom(0.9)", "decodelab.setTheme(!decodelab.ui.light)", "decodelab.setLarge(!decodelab.ui.large)",
    "decodelab.search.run('FMA')", "t.selected = {trace: t.traces[1], i: 9}", "t.roots[1].children[1].open = false",
])  # fmt: skip
def test_what_else_changes_the_picture_paints_it_anew(view: Any, change: str) -> None:
    view.execute_script(OPEN, *SCENES["bars with texts"])
    view.execute_script(f"const t = decodelab.timeline; {change}; t.draw();")
    assert [found[0] for found in view.execute_script(MOVE, [(0.0, 0)])] == [0]


def test_hatches_of_what_was_not_recorded_have_no_seam(tmp_path: Path) -> None:
    recording = gpu_recording(5_000, sms=2)
    trace = recording.trace
    trace.window = (400, 900)
    inside = (trace.end > 400) & (trace.start < 900) & (trace.launch != 1)
    for name, values in trace.columns().items():
        setattr(trace, name, values[inside])
    trace.launches_recorded = [0, 2]
    path = tmp_path / "window.html"
    path.write_text(page([lpu_recording(400), recording]), encoding="utf-8")
    with browser() as driver:
        open_page(driver, path, fragment="timeline")
        driver.execute_script(OPEN, "cores", 400, "")
        assert all(differ == 0 for differ, _, _ in driver.execute_script(MOVE, STEPS))
        assert complaints(driver) == []
