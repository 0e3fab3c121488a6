"""A trace as Kanata 0004 text for Konata: one row an issued instruction, from the wait before it to its result.

Rows are numbered in the order of issue. Lane 0 holds the execute stage (from issue to result), lane 1 what the
instruction waited for, under the reason's own name: on the GPU the cycles since its warp's issue before, on the LPU
the queue's wait right before it. A row's label has unit, warp (w3; on the LPU the iteration of a REPEAT, #3) and
assembly line; its tooltip the true cycle, since Konata counts from the first line of a file whatever `C=` says.
Arrows (W) lead from the instruction that made a value to the one that uses it, where registers tell.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emulator.trace import ISSUE, STALL, Trace
from isa.opcodes import BY_NAME
from tools.export.depend import NONE, producers
from tools.export.kanata_lines import fill
from tools.export.output import BLOCK_BYTES, packed_file
from tools.export.pieces import Texts

ROWS_MAX = 10_000_000
NOT_SELECTED = "not_selected"  # a wait with reason "busy": the warp could issue, others were issued first
LINE_BYTES = 160  # what a row's lines take beside its texts


def export(trace: Trace, path: Path) -> int:
    """Write the issue events of a trace; gives the number of rows. Raises OSError, ValueError."""
    rows = np.flatnonzero(trace.kind == ISSUE)
    if len(rows) == 0:
        raise ValueError("the trace holds no issue events; Kanata shows nothing else (--kinds issue,stall)")
    if len(rows) > ROWS_MAX:
        raise ValueError(f"{len(rows):,} rows are more than Konata takes ({ROWS_MAX:,}); name less with --window or "
                         "--units")
    start, end = trace.start[rows], trace.end[rows]
    wait, reason = waits(trace, rows)
    begin = np.maximum(start - wait, 0)
    first = np.minimum.accumulate(begin[::-1])[::-1]  # ids appear in their order: a row opens with or before later ones
    instruction = np.maximum(trace.instruction[rows], 0).astype(np.int64)
    launch = (trace.launch[rows] + 1).astype(np.int64)
    texts = _texts(trace)
    number_actor = (trace.dialect == "gpu") or bool((trace.actor[rows] > 0).any())
    actor = trace.actor[rows].astype(np.int64) if number_actor else np.full(len(rows), NONE)
    longest = sum(text.longest for text in texts.values())
    block = np.empty(max(BLOCK_BYTES, 2 * (longest + LINE_BYTES)), dtype=np.uint8)
    places = np.zeros(5, dtype=np.int64)
    places[4] = first[0]
    flat = [part for text in texts.values() for part in (text.data, text.starts)]
    columns = (first, begin, start, end, np.argsort(begin, kind="stable"), np.argsort(end, kind="stable"),
               trace.unit[rows].astype(np.int64), instruction, launch, actor, wait, reason.astype(np.int64),
               producers(trace, rows), ord("w" if trace.dialect == "gpu" else "#"), *flat)
    with packed_file(path) as file:
        file.write(b"Kanata\t0004\nC=\t%d\n" % first[0])
        while used := fill(block, longest + LINE_BYTES, places, *columns):
            file.write(block[:used].data)
    return len(rows)


def waits(trace: Trace, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cycles, reason) of what each issue waited for right before it. int64, uint8 [rows].

    GPU: the warp's own wait. LPU: the stall of its queue that ends where it is issued.
    """
    wait, reason = trace.wait[rows].astype(np.int64), trace.reason[rows].copy()
    if trace.dialect == "lpu":
        stalls = np.flatnonzero(trace.kind == STALL)
        span = int(trace.end.max()) + 1
        ended = trace.unit[stalls].astype(np.int64) * span + trace.end[stalls]
        order = np.argsort(ended)
        wanted = trace.unit[rows].astype(np.int64) * span + trace.start[rows]
        at = np.searchsorted(ended[order], wanted)
        found = (at < len(order)) & (ended[order][np.minimum(at, len(order) - 1)] == wanted) if len(order) else at < 0
        stall = stalls[order[at[found]]]
        wait[found] = trace.end[stall] - trace.start[stall]
        reason[found] = trace.reason[stall]
    return wait, reason


def stage(opcode: str, dialect: str) -> str:
    """Name of an instruction's execute stage: X and its unit. Konata draws arrows at stages with a capital X."""
    op = BY_NAME.get(opcode)
    unit = op.unit if op is not None else ""
    if dialect == "lpu" and unit.startswith("alu"):
        unit = "vxm"
    return f"X{unit}"


def _clean(text: str) -> str:
    """Text of a label: one line without tabs, a backslash doubled, since Konata reads backslash n as a new line."""
    return " ".join(text.replace("\\", "\\\\").split())


def _texts(trace: Trace) -> dict[str, Texts]:
    """The texts that lines are made of, in the order that `fill` takes them."""
    table = trace.instructions
    many = len(trace.chips) > 1
    units = [f"chip {chip} {name}" if many else name for name, chip in zip(trace.units.name, trace.units.chip)]
    places = [f", line {line}: {source}" if line else "" for line, source in zip(table.line, table.source)]
    nodes = [f", {node}" if node else "" for node in table.node]
    launches = [f", {node}: {kernel}" if node else f", {kernel}"
                for node, kernel in zip(trace.launches.node, trace.launches.kernel)]
    reasons = [NOT_SELECTED, *(reason.name for reason in trace.reasons[1:])]
    return {
        "unit": Texts.of(_clean(unit).encode("utf-8", "replace") for unit in units),
        "asm": Texts.of(_clean(asm).encode("utf-8", "replace") for asm in table.asm or [""]),
        "place": Texts.of(_clean(node + place).encode("utf-8", "replace")
                          for node, place in (list(zip(nodes, places)) or [("", "")])),
        "launch": Texts.of([b"", *(_clean(text).encode("utf-8", "replace") for text in launches)]),
        # a capital X would draw arrows at the wait, see `stage`
        "reason": Texts.of(reason.replace("X", "x").encode() for reason in reasons),
        "stage": Texts.of(stage(opcode, trace.dialect).encode() for opcode in table.opcode or [""]),
    }
