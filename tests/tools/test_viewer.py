"""The viewer in a headless Chromium: what a person does with it, by hand and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.test_viewer_page import nasty_recordings
from tools.bench.browser import browser, complaints, missing, open_page
from tools.bench.made_up_trace import gpu_recording, lpu_recording
from tools.viewer.page import page

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "page.html"
    path.write_text(page([lpu_recording(2_000), gpu_recording(20_000)], "two machines"), encoding="utf-8")
    return path


@pytest.fixture
def view(driver: Any, file: Path) -> Iterator[Any]:
    """The page, freshly loaded, on its timeline; the console must stay silent."""
    open_page(driver, file)
    driver.execute_script("decodelab.showView('timeline')")
    frame(driver)
    yield driver
    assert complaints(driver) == []


def frame(driver: Any) -> None:
    """Wait until what was asked for is painted."""
    driver.execute_async_script(
        "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))")


def press(driver: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(driver).send_keys(key).perform()
    frame(driver)


def point(driver: Any, label: str, ns: float, kind: str = "unit") -> tuple[float, float]:
    """Where on the page a row is at a moment."""
    x, y = driver.execute_script(
        """const t = decodelab.timeline, all = [], visit = (r) => { all.push(r); r.children.forEach(visit); };
        t.roots.forEach(visit);
        const row = all.find((r) => r.label === arguments[0] && r.kind === arguments[2]);
        t.showRow(row); t.draw();
        const box = t.canvas.getBoundingClientRect();
        const at = t.tops[t.rows.indexOf(row)] + t.rowHeight(row) / 2 - t.scroll + t.top;
        return [box.left + (t.gutter + t.x(arguments[1])) / t.ratio, box.top + at / t.ratio];""", label, ns, kind)
    return x, y


def move(driver: Any, x: float, y: float, click: bool = False) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    chain = ActionChains(driver)
    chain.w3c_actions.pointer_action.move_to_location(int(round(x)), int(round(y)))
    if click:
        chain.w3c_actions.pointer_action.click()
    chain.perform()
    frame(driver)


def span(driver: Any) -> tuple[float, float]:
    t0, t1 = driver.execute_script("return [decodelab.timeline.t0, decodelab.timeline.t1]")
    return t0, t1


def text(driver: Any, selector: str) -> str:
    found: str = driver.execute_script("return document.querySelector(arguments[0]).textContent", selector)
    return found


def test_every_event_arrives_and_both_machines_share_the_axis(view: Any) -> None:
    counts = view.execute_script("return decodelab.traces.map((t) => [t.chip, t.e.start.length, t.count])")
    lpu, gpu = lpu_recording(2_000).trace, gpu_recording(20_000).trace
    assert counts == [["groq_tsp_v1", len(lpu), len(lpu)], ["h100_sxm", len(gpu), len(gpu)]]
    sums = view.execute_script(
        "return decodelab.traces.map((t) => [t.e.end.reduce((a, b) => a + b, 0), t.e.bytes.reduce((a, b) => a + b, 0)])")
    assert sums == [[int(t.end.sum()), int(t.bytes.sum())] for t in (lpu, gpu)]
    # Cycle 900 of a 900 MHz clock and cycle 1,755 of a 1,755 MHz clock are both 1 us after the start.
    at = view.execute_script("const [a, b] = decodelab.traces; return [a.nsOf(900), b.nsOf(1755)]")
    assert at == pytest.approx([1000, 1000])


def test_zoom_and_pan_by_wheel_and_keys(view: Any) -> None:
    t0, t1 = span(view)
    press(view, "w")
    a, b = span(view)
    assert b - a < t1 - t0
    press(view, "d")
    c, d = span(view)
    assert d - c == pytest.approx(b - a) and c > a
    press(view, "f")
    assert span(view) == pytest.approx((t0, t1))


def test_hover_tells_instruction_source_stall_and_advice(view: Any) -> None:
    view.execute_script("decodelab.timeline.setView(100, 140)")
    trace = gpu_recording(20_000).trace
    unit = trace.units.name.index("SM0.1")
    stalls = [i for i in range(len(trace)) if trace.unit[i] == unit and trace.kind[i] == 1
              and trace.start[i] > 200 and trace.end[i] - trace.start[i] > 3]  # fmt: skip
    i = stalls[0]
    middle = (trace.start[i] + trace.end[i]) / 2 / 1.755
    view.execute_script("decodelab.timeline.setView(arguments[0] - 20, arguments[0] + 20)", middle)
    move(view, *point(view, "SM0.1", middle))
    said = text(view, "#tip")
    reason = trace.reasons[trace.reason[i]]
    assert reason.name in said and reason.cause in said and reason.advice in said
    n = int(trace.instruction[i])
    assert trace.instructions.asm[n] in said and trace.instructions.source[n] in said
    assert trace.instructions.node[n] in said and "SM0.1" in said


def test_text_of_a_program_is_shown_as_text(driver: Any, tmp_path: Path) -> None:
    path = tmp_path / "nasty.html"
    path.write_text(page(nasty_recordings(), "</title><script>window.broken = 3</script>"), encoding="utf-8")
    open_page(driver, path)
    for view in ("summary", "timeline", "roofline", "compare"):
        driver.execute_script("decodelab.showView(arguments[0])", view)
        frame(driver)
    driver.execute_script("decodelab.showView('timeline'); decodelab.timeline.setView(60, 100)")
    name = driver.execute_script("return decodelab.traces[1].units[0].name")
    assert "<img" in name
    move(driver, *point(driver, name, 80))
    assert "<img" in text(driver, "#tip")
    assert driver.execute_script("return window.broken === undefined")
    assert driver.execute_script("return document.querySelectorAll('img').length") == 0
    assert complaints(driver) == []
