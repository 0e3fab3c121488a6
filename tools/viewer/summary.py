"""The first thing that the page shows of a run: model, time, floor, where the cycles went, what was moved."""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.trace import ISSUE, STALL, Trace
from tools.viewer.recording import Recording

OPTION_WORDS = ("model", "arithmetic", "weights", "kv_format", "batch", "context", "layers", "tokens", "token", "layer",
                "launch", "program", "ideal")  # fmt: skip


def summary(recording: Recording) -> dict[str, Any]:
    """What run.json says of the step, with sums of the trace where it says nothing (whole: the trace has the whole
    step, so that its sums are the step's)."""
    run, trace = recording.run, recording.trace
    options = {**{k: v for k, v in run.items() if k in OPTION_WORDS}, **_table(run.get("options"))}
    return {
        "options": {name: value if isinstance(value, (int, float, str)) else ":".join(map(str, value))
                    for name, value in options.items()
                    if name in OPTION_WORDS and isinstance(value, (int, float, str, list)) and value not in ("", [])},
        "version": str(run.get("version", "")),
        "programHash": str(run.get("program_hash", "")),
        "whole": trace.whole(),
        "floor": _floor(run, recording.clock_hz),
        "waterfall": [{"name": str(step.get("name", "")), "cycles": step["cycles"], "why": str(step.get("why", ""))}
                      for step in _list(run.get("waterfall")) if isinstance(step.get("cycles"), int)],
        "timeTree": [{"path": _path(leaf.get("path")), "cycles": int(leaf["cycles"])}
                     for leaf in _list(run.get("time_tree")) if isinstance(leaf.get("cycles"), int)],
        "traffic": _counts(run.get("traffic_bytes")) or trace.traffic(),
        "accounting": {str(name): _counts(buckets) for name, buckets in _table(run.get("unit_accounting")).items()}
                      or accounting(trace),
    }  # fmt: skip


def accounting(trace: Trace) -> dict[str, dict[str, int]]:
    """Unit class -> bucket -> unit-cycles of the recorded window: distinct issue cycles as "busy", stalls by reason,
    the rest "idle". Only classes that issue."""
    found: dict[str, dict[str, int]] = {}
    classes = np.array(trace.units.unit_class, dtype=object)
    first, end = trace.window
    for name in dict.fromkeys(trace.units.unit_class):
        mine = np.flatnonzero(classes == name)
        inside = np.isin(trace.unit, mine)
        issue, stall = inside & (trace.kind == ISSUE), inside & (trace.kind == STALL)
        if not issue.any() and not stall.any():
            continue
        span = max(1, end - first)
        cycles = trace.start[issue]
        within = (cycles >= first) & (cycles < end)
        buckets = {"busy": len(np.unique(trace.unit[issue][within].astype(np.int64) * span + (cycles[within] - first)))}
        length = np.minimum(trace.end, end) - np.maximum(trace.start, first)
        for r, reason in enumerate(trace.reasons):
            cycles_lost = int(length[stall & (trace.reason == r)].sum())
            if cycles_lost:
                buckets[reason.name] = buckets.get(reason.name, 0) + cycles_lost
        buckets["idle"] = buckets.get("idle", 0) + len(mine) * (end - first) - sum(buckets.values())
        found[name] = buckets
    return found


def _floor(run: dict[str, Any], clock_hz: int) -> dict[str, Any] | None:
    """Cycles of the floor and what bounds it, whichever way run.json tells it."""
    given = run.get("floor")
    if isinstance(given, (int, float)):
        given = {"seconds": given}
    table = _table(given)
    seconds = table.get("seconds", run.get("floor_seconds"))
    cycles = table.get("cycles")
    if not isinstance(cycles, int):
        cycles = round(seconds * clock_hz) if isinstance(seconds, (int, float)) else None
    bound_by = table.get("bound_by", run.get("bound_by", ""))
    return None if cycles is None else {"cycles": cycles, "boundBy": str(bound_by)}


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _counts(value: Any) -> dict[str, int]:
    return {str(name): number for name, number in _table(value).items() if isinstance(number, int)}


def _path(value: Any) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list) else str(value or "").split("/")
