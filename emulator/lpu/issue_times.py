"""When the instructions of an LPU text are issued, from its queues alone: nothing in them depends on data."""

from __future__ import annotations

import numpy as np

from emulator.lpu.geometry import Geometry
from emulator.trace import TraceError
from isa.encoding import CODE, FIELD0, decode_words
from isa.opcodes import code
from isa.program import LpuText


def issue_times(g: Geometry, text: LpuText) -> np.ndarray:
    """(first, last cycle in which each instruction is issued) on the chip's clock: int64 [n, 2]; the same twice for
    all but the repeated ones. Raises TraceError for a text with several launch barriers."""
    raw = decode_words("lpu", np.asarray(text.words, dtype=np.uint64))
    op, n = raw[:, CODE], raw[:, FIELD0]
    starts = np.asarray(text.starts, dtype=np.int64)
    takes = np.where(op == code("NOP"), n, np.where(op == code("REPEAT"), 0, 1))
    before = np.cumsum(takes) - takes
    first_row = np.repeat(starts[:-1], np.diff(starts))  # of each instruction's queue
    times = before - before[first_row] if len(before) else before
    notify = np.flatnonzero(op == code("NOTIFY"))
    if len(notify) > 1:
        raise TraceError("the program has several launch barriers: name cycles with --window instead of a layer")
    if len(notify):
        resume = int(times[notify[0]]) + g.barrier
        for row in np.flatnonzero((op == code("SYNC")) | (op == code("NOTIFY"))).tolist():
            end = int(starts[np.searchsorted(starts, row, side="right")])
            times[row + 1 : end] += resume - (int(times[row]) + 1)
    last = times.copy()
    again = np.flatnonzero(op == code("REPEAT"))
    last[again - 1] += n[again] * raw[again, FIELD0 + 1]
    times[again], last[again] = times[again - 1], last[again - 1]
    return np.stack([times, last], axis=1)


def layer_window(g: Geometry, texts: list[LpuText], starts: list[int], wanted: np.ndarray | list[np.ndarray]
                 ) -> tuple[int, int] | None:
    """Cycles of the step in which chips issue the wanted instructions: a mask for each chip's text; None for none."""
    found: list[tuple[int, int]] = []
    for text, start, mask in zip(texts, starts, wanted, strict=True):
        if mask.any():
            times = issue_times(g, text)[mask]
            found.append((start + int(times[:, 0].min()), start + int(times[:, 1].max()) + 1))
    return (min(a for a, _ in found), max(b for _, b in found)) if found else None
