"""CSV export: read by Python's csv module, every cell is what the trace says."""

from __future__ import annotations

import csv

import pytest

from emulator.trace import KINDS, layer_of
from tests.tools.made_traces import gpu_trace, lpu_trace
from tools.export import csv as export_csv


@pytest.mark.parametrize("make", [gpu_trace, lpu_trace])
def test_rows_are_the_events_in_words(tmp_path, make, monkeypatch) -> None:
    monkeypatch.setattr(export_csv, "BLOCK_BYTES", 3000)
    trace = make(2000)
    assert export_csv.export([trace, trace], tmp_path / "t.csv") == 2 * len(trace)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(trace) and rows[: len(trace)] == rows[len(trace) :]
    t, table = trace, trace.instructions
    for i, row in enumerate(rows[: len(trace)]):
        launch, instruction = int(t.launch[i]), int(t.instruction[i])
        node = t.launches.node[launch] if launch >= 0 else table.node[instruction] if instruction >= 0 else ""
        kernel = t.launches.kernel[launch] if launch >= 0 else table.kernel[instruction] if instruction >= 0 else ""
        assert row == {
            "chip": t.chip, "chip_row": str(t.units.chip[t.unit[i]]), "unit": t.units.name[t.unit[i]],
            "unit_class": t.units.unit_class[t.unit[i]], "start": str(t.start[i]), "end": str(t.end[i]),
            "kind": KINDS[t.kind[i]].name, "reason": t.reasons[t.reason[i]].name if t.reason[i] else "",
            "launch": str(launch), "layer": str(layer_of(node)) if layer_of(node) >= 0 else "", "node": node,
            "kernel": kernel, "opcode": table.opcode[instruction] if instruction >= 0 else "",
            "asm": table.asm[instruction] if instruction >= 0 else "",
            "line": str(table.line[instruction] or "") if instruction >= 0 else "", "actor": str(t.actor[i]),
            "wait": str(t.wait[i]), "bytes": str(t.bytes[i])}  # fmt: skip


def test_cells_are_quoted_as_the_format_asks() -> None:
    assert export_csv.cell('say "a, b"\n') == b'"say ""a, b""\n"'
    assert export_csv.cell("a b\t'") == b"a b\t'"
