"""The viewer in a headless Chromium: what a person does with it, by hand and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emulator.trace import KIND_INDEX
from tests.tools.test_viewer_page import nasty_recordings
from tools.bench.browser import browser, complaints, missing, open_page
from tools.bench.made_up_trace import gpu_recording, lpu_recording
from tools.viewer.page import page

needs_browser = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")
pytestmark = needs_browser


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
    from selenium.webdriver.common.keys import Keys

    named = {"ArrowDown": Keys.ARROW_DOWN, "ArrowUp": Keys.ARROW_UP, "Enter": Keys.ENTER, "Escape": Keys.ESCAPE}
    for key in keys:
        ActionChains(driver).send_keys(named.get(key, key)).perform()
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
    sums = view.execute_script("""const sum = (values) => values.reduce((a, b) => a + b, 0);
        return decodelab.traces.map((t) => [sum(t.e.end), sum(t.e.bytes)])""")
    assert sums == [[int(t.end.sum()), int(t.bytes.sum())] for t in (lpu, gpu)]
    for trace in (lpu, gpu):
        assert f"{trace.chip}: {len(trace):,} events" in text(view, "#status")
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


def lines(driver: Any, selector: str) -> list[str]:
    found: list[str] = driver.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)
    return found


def selected(driver: Any) -> tuple[int, int, int, int] | None:
    """(trace, unit, start, instruction) of the selected event."""
    found = driver.execute_script(
        """const s = decodelab.timeline.selected, e = s && s.trace.e;
        return s && [s.trace.index, s.trace.unitOf(s.i), e.start[s.i] + s.trace.first, e.instruction[s.i]]""")
    return tuple(found) if found else None


def cursor(driver: Any) -> int:
    found: int = driver.execute_script("return decodelab.timeline.cursor.cycle")
    return found


def search(driver: Any, wanted: str) -> str:
    from selenium.webdriver.common.keys import Keys

    press(driver, "/")
    driver.switch_to.active_element.send_keys(wanted + Keys.ENTER)
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    frame(driver)
    return text(driver, "#found")


def test_search_by_instruction_node_unit_and_stall_counts_and_visits_matches_in_time(view: Any) -> None:
    trace = gpu_recording(20_000).trace
    n = next(n for n, asm in enumerate(trace.instructions.asm) if asm.startswith("MMA"))
    asm = trace.instructions.asm[n]
    same = [k for k, other in enumerate(trace.instructions.asm) if asm in other]
    starts = sorted(int(s) for s, i in zip(trace.start, trace.instruction) if int(i) in same)
    assert search(view, asm.lower()) == f"{len(starts):,} matches"
    visited = []
    for _ in range(4):
        found = selected(view)
        assert found is not None and found[0] == 1 and found[3] in same
        visited.append(found[2])
        press(view, "n")
    assert visited == starts[:4]
    press(view, "N", "N")
    found = selected(view)
    assert found is not None and found[2] == starts[2]
    for wanted, count in (
        ("layers.0.attention", int((trace.launch == trace.launches.node.index("layers.0.attention")).sum())),
        ("ch2.1 bank 3", int((trace.unit == trace.units.name.index("ch2.1 bank 3")).sum())),
        ("memory_queue", int(((trace.kind == 1) & (trace.reason == 7)).sum())),
    ):
        assert search(view, wanted) == f"{count:,} matches", wanted
    assert search(view, "nothing is called this") == "0 matches"


def test_step_forwards_and_back_one_cycle(view: Any) -> None:
    view.execute_script("decodelab.timeline.focus = decodelab.timeline.roots[1]")
    press(view, ".")
    first = cursor(view)
    press(view, ".", ".", ">")
    assert cursor(view) == first + 12
    press(view, ",", "<")
    assert cursor(view) == first + 1


def test_a_bar_leads_to_its_line_and_a_line_to_its_bars(view: Any) -> None:
    trace = gpu_recording(20_000).trace
    unit = trace.units.name.index("SM1.2")
    i = next(i for i in range(len(trace)) if trace.unit[i] == unit and trace.kind[i] == 0 and trace.start[i] > 300)
    ns = (int(trace.start[i]) + 0.5) / 1.755
    view.execute_script("decodelab.timeline.setView(arguments[0] - 10, arguments[0] + 10)", ns)
    move(view, *point(view, "SM1.2", ns), click=True)
    assert selected(view) == (1, unit, int(trace.start[i]), int(trace.instruction[i]))
    press(view, "l")
    chosen = lines(view, ".listing [aria-selected=true]")
    assert len(chosen) == 1
    n = int(trace.instruction[i])
    assert trace.instructions.asm[n] in chosen[0] and trace.instructions.source[n] in chosen[0]
    issues = int(((trace.instruction == n) & (trace.kind == 0)).sum())
    waits = int(trace.wait[(trace.instruction == n) & (trace.kind == 0)].sum())
    assert chosen[0].startswith(f"{issues:,}{waits:,}")  # the heat columns
    # The other way: another line of the listing, by click.
    view.execute_script("decodelab.timeline.selected = null; decodelab.timeline.cursor = null")
    other = view.execute_script("""const row = [...document.querySelectorAll('.listing [data-n]')][3];
        row.click(); return Number(row.dataset.n)""")
    frame(view)
    first = min(int(s) for s, k, instruction in zip(trace.start, trace.kind, trace.instruction)
                if k == 0 and instruction == other)  # fmt: skip
    found = selected(view)
    assert found is not None and found[2:] == (first, other)
    count = int(((trace.instruction == other) & (trace.kind == 0)).sum())
    assert text(view, "#found").startswith(f"{count:,} bars of {trace.instructions.asm[other]}")


def test_values_on_the_streams_move_a_column_a_cycle(view: Any) -> None:
    """MEM.W0 (column -1) reads S0.E in cycle 40 and every five cycles from then on; MEM.E0 (column 1, unit 16) reads
    S16.W in cycles 56, 61 and so on; nobody takes their place."""
    view.execute_script("decodelab.timeline.focus = decodelab.timeline.roots[0]; decodelab.timeline.cursor = null")

    def columns(cycle: int, stream: int) -> list[int]:
        found: list[int] = view.execute_script(
            """const t = decodelab.traces[0];
            const values = decodelab.valuesAt(t, 0, arguments[0]);
            return values.filter((v) => v.stream === arguments[1]).map((v) => v.column)""",
            cycle, stream)
        return found

    assert columns(40, 0)[0] == -1
    assert columns(47, 0) == sorted(columns(47, 0)) and {-1 + 7, -1 + 2} <= set(columns(47, 0))
    assert {1 - 4, 1 - 9} <= set(columns(65, 32 + 16))
    press(view, "c")
    view.execute_script("""const t = decodelab.timeline; t.cursor = {trace: t.traces[0], cycle: 60}; t.changed()""")
    for _ in range(3):  # each step of the cursor moves everything by one
        view.execute_script("decodelab.showPane('state')")
        before = columns(cursor(view), 0)
        press(view, ".")
        view.execute_script("decodelab.showPane('state')")
        after = columns(cursor(view), 0)
        assert [c + 1 for c in before if c < 18] == [c for c in after if c - 1 in before]
        shown = [row for row in lines(view, "#values tbody tr") if row.startswith("S0.E")]
        assert len(shown) == len(after)


def test_every_warp_and_bank_has_a_state_in_the_cycle(view: Any) -> None:
    trace = gpu_recording(20_000).trace
    cycle = 500
    press(view, "c")
    view.execute_script("""const t = decodelab.timeline; t.focus = t.unitRow(t.traces[1], arguments[0]);
        t.cursor = {trace: t.traces[1], cycle: arguments[1]}; t.changed(); decodelab.showPane('state')""",
        trace.units.name.index("SM2.0"), cycle)  # fmt: skip
    rows = lines(view, "#warps tr")
    unit = trace.units.name.index("SM2.0")
    events = [i for i in range(len(trace)) if trace.unit[i] == unit and trace.kind[i] == 0 and trace.launch[i] == 0]
    expected = {}
    for i in sorted(events, key=lambda i: -int(trace.start[i])):  # the next issue from this cycle on wins
        if trace.start[i] >= cycle:
            expected[int(trace.actor[i])] = i
    mine = [row for row in rows if row.startswith("SM2.0")]
    assert len(mine) == 4
    for warp, i in expected.items():
        said = next(row for row in mine if f"warp {warp} " in row or f"warp {warp}" == row[5:5 + len(f"warp {warp}")])
        state = "issues" if trace.start[i] == cycle else trace.reasons[int(trace.reason[i])].name
        assert state in said and trace.instructions.asm[int(trace.instruction[i])] in said
    banks = {name for name, kind in zip(trace.units.name, trace.units.unit_class) if kind == "dram_bank"}
    open_banks = {trace.units.name[u] for u, a, b in zip(trace.unit, trace.start, trace.end)
                  if a <= cycle < b and trace.units.name[u] in banks}  # fmt: skip
    assert f"{len(open_banks)} of {len(banks)} banks have a row open" in text(view, "#pane")


def test_rows_open_by_keyboard_down_to_lanes_that_never_overlap(view: Any) -> None:
    view.execute_script("decodelab.timeline.focus = decodelab.timeline.roots[1]")
    press(view, "ArrowDown", "ArrowDown")  # kernels, sub-cores
    assert view.execute_script("return decodelab.timeline.focus.label") == "sub-cores"
    press(view, "Enter", "ArrowDown", "Enter", "ArrowDown", "Enter")
    assert view.execute_script("return decodelab.timeline.focus.label") == "SM0.0"
    overlaps, lanes = view.execute_script("""
        const row = decodelab.timeline.focus, t = row.trace, u = row.units[0];
        const { lane, count } = decodelab.lanesOf(t, u);
        const ends = {}; let overlaps = 0;
        for (let i = t.e.offsets[u]; i < t.e.offsets[u + 1]; i++) {
          const at = lane[i - t.e.offsets[u]];
          if (at === 255) continue;
          if (t.e.start[i] < (ends[at] || 0)) overlaps++;
          ends[at] = t.e.end[i];
        }
        return [overlaps, count]""")
    assert overlaps == 0 and lanes > 2
    assert view.execute_script("return decodelab.timeline.focus.children.length") == lanes
    press(view, "x")
    assert view.execute_script("return decodelab.timeline.rows.length") < 20


def test_what_was_not_recorded_is_hatched_and_said(driver: Any, tmp_path: Path) -> None:
    recording = gpu_recording(5_000, sms=2)
    trace = recording.trace
    trace.window = (400, 900)
    inside = (trace.end > 400) & (trace.start < 900)
    for name, values in trace.columns().items():
        setattr(trace, name, values[inside])
    path = tmp_path / "window.html"
    path.write_text(page([recording]), encoding="utf-8")
    open_page(driver, path)
    driver.execute_script("decodelab.showView('timeline'); decodelab.timeline.fitAll()")
    frame(driver)
    x, y = point(driver, "sub-cores", 100 / 1.755, "class")
    move(driver, x, y)
    assert "not recorded" in text(driver, "#tip") and "cycles 400 to 900" in text(driver, "#tip")
    colours = driver.execute_script("""
        const t = decodelab.timeline, box = t.canvas.getBoundingClientRect(), { pixels, width } = t.picture.raster;
        const y = Math.round((arguments[0] - box.top) * t.ratio - t.top);
        const at = (cycle) => { const middle = Math.round(t.x(cycle / 1.755)), seen = new Set();
          for (let dy = -4; dy < 4; dy++) for (let x = middle - 12; x < middle + 12; x++) {
            const p = pixels[(y + dy) * width + x];
            seen.add(`${p & 255},${(p >> 8) & 255},${(p >> 16) & 255}`);
          }
          return [...seen]; };
        const hatch = getComputedStyle(document.documentElement).getPropertyValue('--hatch').trim();
        const rgb = [1, 3, 5].map((n) => parseInt(hatch.slice(n, n + 2), 16)).join(',');
        return [at(200).includes(rgb), at(650).includes(rgb), at(1000).includes(rgb)]""", y)
    assert colours == [True, False, True]
    assert complaints(driver) == []


def test_an_access_of_l2_tells_the_sm_that_asked(driver: Any, tmp_path: Path) -> None:
    """Its actor is no warp."""
    recording = gpu_recording(5_000, sms=8)
    trace = recording.trace
    reads = trace.kind == KIND_INDEX["l2_read"]
    trace.actor[reads] = 5
    i = int((reads & (trace.unit == trace.units.name.index("L2.0"))).argmax())
    path = tmp_path / "l2.html"
    path.write_text(page([recording]), encoding="utf-8")
    open_page(driver, path, fragment="timeline")
    ns = (int(trace.start[i]) + 0.5) / 1.755
    driver.execute_script("decodelab.timeline.setView(arguments[0] - 10, arguments[0] + 10)", ns)
    move(driver, *point(driver, "L2.0", ns))
    said = text(driver, "#tip")
    assert "asked bySM5" in said and "warp" not in said
    assert complaints(driver) == []


def test_summary_roofline_and_comparison(driver: Any, tmp_path: Path) -> None:
    a, b = gpu_recording(20_000, label="before"), gpu_recording(20_000, label="after", slower=1.3)
    a.run = {"options": {"model": "made-up"}, "floor": {"cycles": 950, "bound_by": "HBM read"},
             "waterfall": [{"name": "floor", "cycles": 950, "why": ""},
                           {"name": "DRAM timing", "cycles": -50, "why": "?"},
                           {"name": "issue", "cycles": a.trace.cycles - 900, "why": ""}],
             "time_tree": [{"path": "layers.0/attention/issue", "cycles": 300}, {"path": "head/launch", "cycles": 100}]}
    path = tmp_path / "compare.html"
    path.write_text(page([a, b], "before and after"), encoding="utf-8")
    open_page(driver, path)
    assert f"h100_sxm · after: {len(b.trace):,} events" in text(driver, "#status")
    said = text(driver, "#summary")
    for part in ("made-up", f"{a.trace.cycles:,} cycles", "950 cycles, bound by HBM read", "DRAM timing", "75.0 %"):
        assert part in said, part
    assert lines(driver, ".waterfall tr")[-1] == f"total{a.trace.cycles:,}"
    press(driver, "3")
    assert driver.execute_script("return document.querySelectorAll('svg circle').length") == 2 * 3
    press(driver, "4")
    rows = lines(driver, "#deltas tbody tr")
    change = b.trace.launches.end[1] - b.trace.launches.start[1] - (a.trace.launches.end[1] - a.trace.launches.start[1])
    assert any("layers.0.attention" in row and f"+{change:,}" in row for row in rows)
    assert f"+{b.trace.cycles - a.trace.cycles:,}" in text(driver, "#compare")
    assert complaints(driver) == []


def test_themes_large_type_and_help_by_keyboard(view: Any) -> None:
    seen = set()
    for _ in range(2):
        press(view, "t")
        seen.add(view.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(seen) == 2
    before = view.execute_script("return decodelab.timeline.top")
    press(view, "b")
    assert view.execute_script("return decodelab.timeline.top") > before
    press(view, "b", "?")
    keys = text(view, "#help")
    assert "zoom in" in keys and "next match" in keys
    press(view, "Escape")
    assert view.execute_script("return document.getElementById('help').open") is False
    for key, name in zip("1234", ("summary", "timeline", "roofline", "compare")):
        press(view, key)
        assert view.execute_script("return document.getElementById(arguments[0]).hidden", name) is False


def test_pixels_stay_in_their_columns_when_rows_are_scrolled(view: Any) -> None:
    """A bar begins in the column of its cycle, whatever part of a pixel the rows were scrolled by."""
    trace = gpu_recording(20_000).trace
    unit = trace.units.name.index("SM0.0")
    first = min(int(s) for s, u in zip(trace.start, trace.unit) if u == unit)
    view.execute_script("""const t = decodelab.timeline, row = t.unitRow(t.traces[1], arguments[0]);
        for (let up = row.parent; up; up = up.parent) up.open = true;
        t.setView((arguments[1] - 40) / 1.755, (arguments[1] + 60) / 1.755); t.draw(); t.scroll = 40.5; t.draw();""",
        unit, first)  # fmt: skip
    column, expected = view.execute_script("""const t = decodelab.timeline, { pixels, width } = t.picture.raster;
        const row = t.rows.findIndex((r) => r.label === 'SM0.0'), y = t.tops[row] - Math.round(t.scroll) + 5;
        let x = 0;
        while (x < width && pixels[y * width + x] === t.ink.row) x++;
        return [x, t.x(arguments[0] / 1.755)]""", first)
    assert abs(column - expected) <= 1


def test_launches_and_kinds_that_were_left_out_are_not_recorded(driver: Any, tmp_path: Path) -> None:
    recording = gpu_recording(5_000, sms=2)
    trace = recording.trace
    trace.launches_recorded = [0, 2]
    trace.kinds = [kind for kind in trace.kinds if kind != "hbm_read" and kind != "hbm_write"]
    left = (trace.launch != 1) & (trace.kind != KIND_INDEX["hbm_read"])
    for name, values in trace.columns().items():
        setattr(trace, name, values[left])
    path = tmp_path / "left_out.html"
    path.write_text(page([recording]), encoding="utf-8")
    open_page(driver, path, fragment="timeline")
    middle = [(a + b) / 2 / 1.755 for a, b in zip(trace.launches.start, trace.launches.end)]
    for ns, row, recorded in ((middle[0], "sub-cores", True), (middle[1], "sub-cores", False),
                              (middle[2], "sub-cores", True), (middle[0], "DRAM banks", False)):  # fmt: skip
        move(driver, *point(driver, row, ns, "class"))
        assert ("not recorded" not in text(driver, "#tip")) == recorded, (row, ns)
    assert complaints(driver) == []


def test_shares_of_a_long_row_are_those_of_its_events(driver: Any, tmp_path: Path) -> None:
    """Sub-cores over the whole step: issue cycles and stalls as a count of the trace gives them, from the pyramid."""
    recording = gpu_recording(60_000)
    trace = recording.trace
    path = tmp_path / "long.html"
    path.write_text(page([recording]), encoding="utf-8")
    open_page(driver, path, fragment="timeline")
    shown = driver.execute_script("""const t = decodelab.timeline, trace = t.traces[0];
        const row = t.roots[0].children.find((r) => r.label === 'sub-cores');
        const shares = decodelab.sharesOf(row, decodelab.newShares(), 0, 1 / trace.span, 1);
        return [trace.pyramids.size > 0, shares.used.map((c) => [trace.categories[c], shares.part[c][0]])]""")
    assert shown[0]
    total = 32 * trace.cycles  # 8 SMs of four sub-cores
    cores = trace.unit < 32
    expected = {"issue": int((cores & (trace.kind == 0)).sum()) / total}
    for number, reason in enumerate(trace.reasons):
        mine = cores & (trace.kind == 1) & (trace.reason == number)
        if mine.any():
            expected[reason.name] = int((trace.end - trace.start)[mine].sum()) / total
    assert dict(shown[1]) == pytest.approx(expected, abs=2e-4)
