"""Kanata export: read by a strict reader of the grammar; rows, stages, waits, labels and arrows are the trace's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emulator.trace import KIND_INDEX, Trace
from tests.tools.kanata_reader import Row, read
from tests.tools.made_traces import AWKWARD, gpu_trace, lpu_trace
from tests.traces import small_gpu, small_lpu
from tools.export import kanata

ISSUE = KIND_INDEX["issue"]


def exported(tmp_path: Path, trace: Trace) -> tuple[int, list[Row]]:
    count = kanata.export(trace, tmp_path / "t.kanata")
    start, rows = read(tmp_path / "t.kanata")
    assert count == len(rows) == int((trace.kind == ISSUE).sum())
    return start, rows


def test_a_small_trace_line_by_line(tmp_path) -> None:
    """SM0.0 of `small_gpu`: LDG at 4, ADD at 15 after 10 cycles of memory (its own issue cycle is none of them)."""
    kanata.export(small_gpu(), tmp_path / "t.kanata")
    lines = (tmp_path / "t.kanata").read_text().split("\n")
    assert lines[:8] == [
        "Kanata\t0004", "C=\t4",
        "I\t0\t0\t0", "L\t0\t0\tSM0.0 w0: LDG.32 R1, [UR1 + R0]",
        "L\t0\t1\tissued in cycle 4, layers.0.add, line 3: LDG.32 R1, [UR1 + R0], layers.0.add: add",
        "I\t1\t1\t1", "L\t1\t0\tSM0.1 w1: ADD.F32 R2, R1, R1",
        "L\t1\t1\tissued in cycle 4, layers.0.add, line 4: ADD.F32 R2, R1, R1, layers.0.add: add"]
    assert "S\t3\t1\tglobal_memory" in lines and "E\t3\t1\tglobal_memory" in lines


def test_stages_are_the_waits_and_executions_of_the_trace(tmp_path) -> None:
    trace = gpu_trace(4000)
    start, rows = exported(tmp_path, trace)
    issues = np.flatnonzero(trace.kind == ISSUE)
    assert start == min(int(trace.start[i] - trace.wait[i]) for i in issues)
    for row, i in zip(rows, issues.tolist()):
        execution = [(name, a, b) for name, a, b in row.stages[0]]
        assert [(a, b) for _, a, b in execution] == [(trace.start[i], trace.end[i])]
        assert "X" in execution[0][0]
        assert row.retired == trace.end[i] and row.opened <= trace.start[i] - trace.wait[i]
        reason = "not_selected" if trace.reason[i] == 0 else trace.reasons[trace.reason[i]].name
        wait = [(reason, trace.start[i] - trace.wait[i], trace.start[i])] if trace.wait[i] else []
        assert row.stages.get(1, []) == wait
        unit, actor = trace.units.name[trace.unit[i]], trace.actor[i]
        asm = trace.instructions.asm[trace.instruction[i]]
        assert row.left == " ".join(f"{unit} w{actor}: {asm}".replace("\\", "\\\\").split())
        assert f"issued in cycle {trace.start[i]}" in row.tooltip
    opened = [row.opened for row in rows]
    assert opened == sorted(opened), "Konata stops drawing at the first row that opens after the screen"


def test_an_lpu_wait_is_the_stall_right_before_the_issue(tmp_path) -> None:
    """`small_lpu`: READ at 2 after NOP 2 ("order"), again at 4 by REPEAT, WRITE at 12 after NOP 12 ("data")."""
    _, rows = exported(tmp_path, small_lpu())
    assert [(row.left, row.stages) for row in rows] == [
        ("MEM.E0 #0: READ 5, S1.E", {0: [("Xmem", 2, 3)], 1: [("order", 0, 2)]}),
        ("MEM.E0 #1: READ 5, S1.E", {0: [("Xmem", 4, 5)]}),
        ("MEM.E4 #0: WRITE 7, S1.E", {0: [("Xmem", 12, 13)], 1: [("data", 0, 12)]})]


def test_several_chips_are_told_apart(tmp_path) -> None:
    _, rows = exported(tmp_path, lpu_trace(40))
    assert {row.left.split(": ")[0] for row in rows} == {
        f"chip {chip} {queue}" for chip in (0, 1) for queue in ("MEM.E4", "MXM0.LW")}


def test_awkward_text_stays_on_its_line(tmp_path) -> None:
    trace = gpu_trace(300)
    _, rows = exported(tmp_path, trace)
    assert "\t" in AWKWARD and "\\" in AWKWARD
    assert any("<script>alert('x')</script> & \"quotes\" \\\\ \u00e9" in row.left for row in rows)


def test_arrows_lead_from_the_last_writer_of_a_register_in_the_warp(tmp_path) -> None:
    """LDG.128 writes R8 to R11; FMA reads R8, R9 and R4 and writes R4; MMA reads R8.., R12, R13, R0.. writes R0.."""
    trace = gpu_trace(2000, warps=3)
    _, rows = exported(tmp_path, trace)
    issues = np.flatnonzero(trace.kind == ISSUE).tolist()
    effects = {0: ({1}, {8, 9, 10, 11}), 1: ({8, 9, 4}, {4}),
               2: ({8, 9, 10, 11, 12, 13, 0, 1, 2, 3}, {0, 1, 2, 3}), 3: (set(), set())}
    writers: dict[tuple[int, int, int], int] = {}
    arrows = 0
    for row, i in enumerate(issues):
        warp = int(trace.launch[i]), int(trace.actor[i])
        reads, writes = effects[int(trace.instruction[i])]
        known = [writers[(*warp, r)] for r in reads if (*warp, r) in writers]
        assert rows[row].producers == ([max(known)] if known else [])
        arrows += len(known) > 0
        writers |= {(*warp, r): row for r in writes}
    assert arrows > 100


def test_what_kanata_cannot_show_is_refused(tmp_path, monkeypatch) -> None:
    trace = gpu_trace(300)
    with monkeypatch.context() as patch:
        patch.setattr(kanata, "ROWS_MAX", 10)
        with pytest.raises(ValueError, match="more than Konata takes"):
            kanata.export(trace, tmp_path / "t.kanata")
    for name in trace.columns():
        setattr(trace, name, getattr(trace, name)[trace.kind != ISSUE] if name != "kind" else trace.kind)
    trace.kind = trace.kind[trace.kind != ISSUE]
    with pytest.raises(ValueError, match="no issue events"):
        kanata.export(trace, tmp_path / "t.kanata")
    assert list(tmp_path.iterdir()) == []


def test_a_long_file_is_written_in_blocks_that_fit_together(tmp_path, monkeypatch) -> None:
    trace = gpu_trace(3000)
    kanata.export(trace, tmp_path / "one.kanata")
    monkeypatch.setattr(kanata, "BLOCK_BYTES", 2000)
    kanata.export(trace, tmp_path / "many.kanata")
    assert (tmp_path / "one.kanata").read_bytes() == (tmp_path / "many.kanata").read_bytes()
