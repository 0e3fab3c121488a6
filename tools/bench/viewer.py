"""How fast the viewer is: a page of a million events, from disk to its first picture, and panned over."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tools.bench.browser import browser, missing, open_page
from tools.bench.engines import Shown
from tools.bench.made_up_trace import gpu_recording, lpu_recording
from tools.viewer.page import page

EVENTS = 1_000_000
PAN_SECONDS = 4

# Pan to and fro over a tenth of the trace with every row of the sub-cores open; mean milliseconds of a frame's drawing.
PAN = """
const done = arguments[1], t = decodelab.timeline, span = t.longest / 10;
const cores = t.roots[1].children.find((row) => row.label === 'sub-cores');
cores.open = true;
cores.children.forEach((row) => { row.open = true; });
t.focus = cores;
t.resize();
t.showRow(cores);
let at = t.longest * 0.1, step = span / 200, drawing = 0, frames = 0, from = performance.now();
const frame = () => {
  if (at > t.longest * 0.8 || at < t.longest * 0.1) step = -step;
  at += step;
  t.setView(at, at + span);
  t.draw();
  drawing += t.took;
  frames++;
  const now = performance.now();
  if (now - from < 1000 * arguments[0]) requestAnimationFrame(frame);
  else done([1000 * frames / (now - from), drawing / frames, t.rows.length]);
};
requestAnimationFrame(frame);
"""


def viewer() -> list[Shown]:
    """Wall-clock measurements: other work on this computer shows in them."""
    if missing():
        return [Shown("viewer", "skipped", missing(), "")]
    began = time.process_time()
    text = page([lpu_recording(EVENTS // 8), gpu_recording(EVENTS * 7 // 8, sms=132)])
    packing = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder, browser() as driver:
        path = Path(folder) / "page.html"
        path.write_text(text, encoding="utf-8")
        painted = []
        for _ in range(3):
            open_page(driver, path, fragment="timeline")
            painted.append(driver.execute_script("return decodelab.painted") / 1000)
        driver.set_script_timeout(60)
        rate, drawing, rows = driver.execute_async_script(PAN, PAN_SECONDS)
    return [
        Shown("viewer, page of 1 M events made", f"{packing:.1f}", "s of processor time", ""),
        Shown("viewer, its size", f"{len(text) / 1e6:.1f}", "MB", ""),
        Shown("viewer, opened to first timeline", f"{min(painted):.2f}", "s, best of 3", "3"),
        Shown(f"viewer, pan over {rows} rows", f"{rate:.0f}", "frames/s", "30"),
        Shown("viewer, drawing of a frame", f"{drawing:.1f}", "ms", "33"),
    ]
