"""What programs, results and traces show in Jupyter, and what they give as arrays and DuckDB relations."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from decodelab import assemble, run
from emulator.result import Result, StepResult
from emulator.trace import TraceError
from isa import html
from isa.program import Program
from tests.traces import small_gpu, small_lpu

EVIL = "<script>alert(1)</script>&\"'"
VOID = {"br", "rect"}


class Page(HTMLParser):
    """Tags and texts of a page; fails unless every tag is closed in its order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


ALLOWED = {"div", "b", "table", "tr", "th", "td", "span", "svg", "rect", "text"}


def shown(thing: object) -> Page:
    page = Page(thing._repr_html_())  # type: ignore[attr-defined]
    assert page.tags <= ALLOWED
    return page


def step(name: str = "sub_core") -> StepResult:
    return StepResult(1000, {"hbm_read": 4096, name: 7}, {name: {"busy": 300, "global_memory": 700}}, {"ctas": 2},
                      kernels=[{"node": name, "kernel": name, "start": 0, "end": 900}])


def test_a_step_shows_cycles_units_bytes_and_kernels() -> None:
    page = shown(step())
    words = " ".join(page.texts)
    for told in ("1,000 cycles", "sub_core", "global_memory 70.0 %", "busy 30.0 %", "hbm_read", "4,096", "900"):
        assert told in words


def test_every_text_of_a_program_is_escaped() -> None:
    things = [step(EVIL), small_gpu(EVIL), small_lpu(EVIL),
              Result([step(EVIL)], [EVIL], [[1]], 10**9, outputs={EVIL: np.ones((1, 2))}),
              Program("gpu", EVIL, "", [], [], [(0, 0, ())], {}, meta={"model": EVIL})]
    small = small_gpu()
    small.units.unit_class[0] = small.chip = EVIL
    for thing in [*things, small]:
        content = thing._repr_html_()  # type: ignore[attr-defined]
        assert "<script" not in content and "\"'" not in content
        shown(thing)


def test_a_real_program_and_its_result_show_themselves() -> None:
    from emulator.assemble import assemble as assemble_text

    program = assemble_text(
        ".chip toy_gpu\n.data x f32 [1,32] 2\n.data y f32 [1,32]\n.kernel k(x, y)\nS2R R1, LANEID\nSHL R1, R1, 2\n"
        "LDG.32 R2, [R1 + UR0]\nADD.f32 R2, R2, R2\nSTG.32 [R1 + UR1], R2\nEXIT\n.launch k 1 32 0 (x, y)\n")
    assert {"LDG", "k", "y"} <= set(shown(program).texts)
    result = run(program)
    assert repr(result) == f"<Result 1 steps, {result.cycles_per_token:,} cycles a token>"
    assert repr(result.steps[0]) == f"<StepResult {result.cycles_per_token:,} cycles, 1 kernels>"
    page = shown(result)
    assert "2 2 2" not in page.texts and any(text.startswith("4 4 4 4") for text in page.texts)
    assert assemble is assemble_text


def test_a_trace_shows_its_kinds_and_what_units_waited_for() -> None:
    page = shown(small_gpu())
    words = " ".join(page.texts)
    for told in ("18 events", "cycles 0 to 20 of 20", "no_warp", "issue loads earlier", "dram_bank"):
        assert told in words
    # SM0.0 waits 4 + 10 + 2 cycles, SM0.1 4 + 14
    assert [page.texts[i + 1] for i, text in enumerate(page.texts) if text in ("no_warp", "global_memory", "launch")][
        -3:] == ["16", "10", "8"]


def test_bars_are_shares_of_the_whole() -> None:
    assert html.bar({"a": 1, "b": 3, "c": 0}, width=100).count("width:75.0px") == 1
    assert "a: 1 (25.0 %)" in html.bar({"a": 1, "b": 3}, width=100)


def test_numbers_come_as_arrays_and_relations() -> None:
    one = step()
    arrays = one.arrays()
    assert arrays["value"].tolist() == [1000, 4096, 7, 300, 700, 2]
    assert one.relation().filter("what = 'units'").aggregate("sum(value)").fetchall() == [(1000,)]
    result = Result([one, one], ["prompt", "generate"], [[1]], 10**9)
    assert result.relation().fetchall() == [(0, "prompt", 1000, 4096, 7), (1, "generate", 1000, 4096, 7)]
    assert result.arrays()["hbm_read_bytes"].tolist() == [4096, 4096]


def test_a_trace_answers_sql_in_words() -> None:
    trace = small_gpu()
    found = trace.query("SELECT unit, start, \"end\", asm, layer, node, line, wait FROM events "
                        "WHERE kind = 'issue' AND reason = 'global_memory'").fetchall()
    assert found == [("SM0.0", 15, 19, "ADD.F32 R2, R1, R1", 0, "layers.0.add", 4, 10)]
    assert trace.relation().aggregate("count(*), sum(bytes)").fetchall() == [(18, 640)]
    assert trace.query("SELECT sum(bytes) FROM events WHERE kind = 'hbm_read'").fetchall() == [(128,)]
    with pytest.raises(TraceError, match="the query cannot be answered"):
        trace.query("SELEC 1")


def test_events_in_words_are_the_events() -> None:
    for trace in (small_gpu(EVIL), small_lpu(EVIL)):
        rows = trace.query("SELECT start, \"end\", unit, chip, opcode, actor, bytes, weight FROM events").fetchall()
        weights = trace.weights()
        for i, row in enumerate(rows):
            instruction, actor = int(trace.instruction[i]), int(trace.actor[i])
            assert row == (
                trace.start[i], trace.end[i], trace.units.name[trace.unit[i]], trace.units.chip[trace.unit[i]],
                trace.instructions.opcode[instruction] if instruction >= 0 else None, actor if actor >= 0 else None,
                trace.bytes[i], weights[i])
        assert len(rows) == len(trace)
