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
PAN_SECONDS = 3
PIXELS_A_FRAME = 12  # a lively drag: some 700 pixels a second at 60 frames
CYCLES_IN_SIGHT = {"bars": 300, "shares of events": 1_000, "shares of a pyramid": 5_000}

# Pan to and fro with every row of the sub-cores open, the page drawing as it does for a drag: once a frame. Gives
# frames a second, mean milliseconds of drawing, and milliseconds of one frame that is drawn from nothing.
PAN = """
const [seconds, cycles, pixels, done] = arguments, t = decodelab.timeline, gpu = t.roots[1];
const span = cycles * gpu.trace.nsPerCycle, step = pixels * span / t.plot;
const cores = gpu.children.find((row) => row.label === 'sub-cores');
cores.open = true;
cores.children.forEach((row) => { row.open = true; });
t.focus = cores;
t.resize();
t.showRow(cores);
let at = t.longest * 0.1, forwards = 1, drawing = 0, first = 0, frames = 0, from = 0;
t.setView(at, at + span);
t.draw();
t.picture.forget();
t.draw();
first = t.took;
const frame = (now) => {
  if (!frames++) from = now; else drawing += t.took;
  const shown = frames - 1;
  if (now - from >= 1000 * seconds) { done([1000 * shown / (now - from), drawing / shown, first]); return; }
  if (at > t.longest * 0.8 || at < t.longest * 0.1) forwards = -forwards;
  at += forwards * step;
  t.setView(at, at + span);
  requestAnimationFrame(frame);
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
        panned = {what: driver.execute_async_script(PAN, PAN_SECONDS, cycles, PIXELS_A_FRAME)
                  for what, cycles in CYCLES_IN_SIGHT.items()}  # fmt: skip
    rows = [
        Shown("viewer, page of 1 M events made", f"{packing:.1f}", "s of processor time", ""),
        Shown("viewer, its size", f"{len(text) / 1e6:.1f}", "MB", ""),
        Shown("viewer, opened to first timeline", f"{min(painted):.2f}", "s, best of 3", "3"),
    ]
    for what, (rate, drawing, first) in panned.items():
        rows.append(Shown(f"viewer, pan, {what}", f"{rate:.0f}", "frames/s (the browser makes at most 60)", "30"))
        rows.append(Shown("  drawing of a panned frame", f"{drawing:.1f}", f"ms ({first:.1f} from nothing)", "33"))
    return rows
