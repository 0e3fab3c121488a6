"""Part of a trace: what other programs get to see of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from emulator.trace import KIND_INDEX, Trace, TraceError


def select(traces: Sequence[Trace], window: tuple[int, int] | None = None, units: Sequence[str] = (),
           kinds: Sequence[str] = ()) -> list[Trace]:
    """The events that overlap `window`, on units whose names match one of `units` (SM3.*, MEM.E4), of these kinds.

    Nothing given: the traces as they are. Raises TraceError for a window of which nothing was recorded, a unit or a
    kind that none of the traces has.
    """
    names = [name for trace in traces for name in trace.units.name]
    for pattern in units:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:: max(1, len(names) // 5)][:6])
            raise TraceError(f"--units {pattern}: no such unit in the trace; some of its {len(names)}: {some}")
    known = list(dict.fromkeys(kind for trace in traces for kind in trace.kinds))
    for kind in kinds:
        if kind not in known:
            raise TraceError(f"--kinds {kind}: not in the trace; it has {', '.join(known)}")
    if window is not None:
        spans = {trace.chip: (max(0, trace.window[0]), min(trace.window[1], trace.cycles)) for trace in traces}
        if all(window[0] < first or window[1] > end for first, end in spans.values()):
            told = ", ".join(f"{first}:{end} of {chip}" for chip, (first, end) in spans.items())
            raise TraceError(f"--window {window[0]}:{window[1]} is not inside what was recorded: {told}")
    return [_part(trace, window, units, kinds) for trace in traces]


def _part(trace: Trace, window: tuple[int, int] | None, units: Sequence[str], kinds: Sequence[str]) -> Trace:
    if window is None and not units and not kinds:
        return trace
    keep = np.ones(len(trace), dtype=bool)
    if window is not None:
        keep &= (trace.start < window[1]) & (trace.end > window[0])
        window = max(window[0], trace.window[0]), min(window[1], trace.window[1])
    if units:
        wanted = np.array([any(fnmatchcase(name, p) for p in units) for name in trace.units.name], dtype=bool)
        keep &= wanted[trace.unit]
    if kinds:
        keep &= np.isin(trace.kind, [KIND_INDEX[kind] for kind in kinds if kind in trace.kinds])
    columns: dict[str, Any] = {name: column[keep] for name, column in trace.columns().items()}
    recorded = [kind for kind in trace.kinds if not kinds or kind in kinds]
    return replace(trace, window=window or trace.window, kinds=recorded, **columns)
