"""How results and traces show themselves in Jupyter, and as DuckDB relations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isa import html

if TYPE_CHECKING:
    from emulator.result import Result, StepResult
    from emulator.trace import Trace

SHOWN = 12  # rows of a table
BINS = 100  # of a trace's picture


# -- results ------------------------------------------------------------------------------------
def step_html(step: StepResult) -> str:
    """Cycles, where they went on each class of units, bytes by level, the longest kernels."""
    parts = [html.head(f"{step.cycles:,} cycles")]
    if step.accounting:
        parts.append(html.table(
            ("units", "unit cycles", "where they went", "largest"),
            [(name, sum(buckets.values()), html.bar(buckets), html.legend(buckets))
             for name, buckets in step.accounting.items()], raw=("where they went", "largest")))
    moved = [(level, count) for level, count in step.traffic.items() if count]
    if moved:
        parts.append(html.table(("level", "bytes"), moved))
    if step.kernels:
        longest = sorted(step.kernels, key=lambda k: k["start"] - k["end"])[:SHOWN]
        rows = [(k.get("node") or "", k.get("kernel", ""), k["end"] - k["start"]) for k in longest]
        parts.append(html.table(("node", "kernel", "cycles"), rows))
        if len(step.kernels) > SHOWN:
            parts.append(html.head("", f"the longest {SHOWN} of {len(step.kernels)} kernels"))
    return "".join(parts)


def result_html(result: Result) -> str:
    """Each step with its phase, cycles and token; then where the measured step's cycles went."""
    told = f"{result.cycles_per_token:,} cycles, {1e6 * result.seconds_per_token:,.2f} us for the last of them"
    parts = [html.head(f"{len(result.steps)} steps", told)]
    rows: list[tuple[object, ...]]
    rows = [(at, phase, step.cycles, ", ".join(map(str, step.tokens)) if step.tokens else "")
            for at, (step, phase) in enumerate(zip(result.steps, result.phases))]
    if len(rows) > SHOWN:
        rows = [*rows[: SHOWN // 2], ("...", "", "", ""), *rows[-(SHOWN // 2) :]]
    parts.append(html.table(("step", "phase", "cycles", "next token"), rows))
    if result.outputs:
        parts.append(html.table(("output", "shape", "first values"), [
            (name, " x ".join(map(str, array.shape)), " ".join(f"{v:.6g}" for v in array.reshape(-1)[:8]))
            for name, array in result.outputs.items()]))
    return "".join(parts) + step_html(result.steps[-1])


def step_table(step: StepResult) -> dict[str, np.ndarray]:
    """Every count of a step as a long table: what ("cycles", "traffic", "units", "counters"), of, name, value."""
    rows: list[tuple[str, str, str, int]] = [("cycles", "", "cycles", step.cycles)]
    rows += [("traffic", "", level, count) for level, count in step.traffic.items()]
    rows += [("units", unit, bucket, count) for unit, buckets in step.accounting.items()
             for bucket, count in buckets.items()]
    rows += [("counters", "", name, count) for name, count in step.counters.items()]
    return {name: np.array([row[at] for row in rows], dtype=object if at < 3 else np.int64)
            for at, name in enumerate(("what", "of", "name", "value"))}


def result_table(result: Result) -> dict[str, np.ndarray]:
    """One row a step: step, phase, cycles, and bytes of every level."""
    columns = {"step": np.arange(len(result.steps)), "phase": np.array(result.phases, dtype=object),
               "cycles": np.array([step.cycles for step in result.steps], dtype=np.int64)}
    for level in dict.fromkeys(level for step in result.steps for level in step.traffic):
        columns[f"{level}_bytes"] = np.array([step.traffic.get(level, 0) for step in result.steps], dtype=np.int64)
    return columns


def relation(columns: dict[str, np.ndarray]) -> Any:
    """Columns as a DuckDB relation of a connection of its own: filter, aggregate, `.df()`, `.fetchnumpy()`."""
    import duckdb

    texts = [name for name, column in columns.items() if column.dtype == object]
    db = duckdb.connect()
    db.register("given", columns)
    casts = ", ".join(f'CAST("{name}" AS VARCHAR) AS "{name}"' if name in texts else f'"{name}"' for name in columns)
    return db.sql(f"SELECT {casts} FROM given")


# -- traces ---------------------------------------------------------------------------------------
def trace_html(trace: Trace) -> str:
    """What was recorded, when each class of units worked, where the units' waiting went."""
    from emulator.trace import KINDS, STALL

    first, end = recorded(trace)
    told = f"{len(trace):,} events of {len(trace.units):,} units, cycles {first:,} to {end:,} of {trace.cycles:,}"
    parts = [html.head(f"trace of {trace.chip}", told), _picture(trace)]
    counts = np.bincount(trace.kind, minlength=len(KINDS))
    moved = np.bincount(trace.kind, weights=trace.bytes, minlength=len(KINDS)).astype(np.int64)
    rows = [(kind.name, int(counts[at]), int(moved[at]), kind.meaning) for at, kind in enumerate(KINDS) if counts[at]]
    parts.append(html.table(("kind", "events", "bytes", "meaning"), rows))
    stalls = trace.kind == STALL
    spent = np.bincount(trace.reason[stalls], weights=(trace.end - trace.start)[stalls], minlength=len(trace.reasons))
    waits = {reason.name: int(spent[at]) for at, reason in enumerate(trace.reasons) if spent[at]}
    if waits:
        ranked = sorted(trace.reasons, key=lambda r: -waits.get(r.name, 0))
        parts.append(html.bar(waits))
        parts.append(html.table(("waited for", "unit cycles", "cause", "what to try"),
                                [(r.name, waits[r.name], r.cause, r.advice) for r in ranked if r.name in waits]))
    return "".join(parts)


def recorded(trace: Trace) -> tuple[int, int]:
    """The cycles [first, end) of the step that were recorded."""
    return max(0, trace.window[0]), min(trace.cycles, trace.window[1])


def busy(trace: Trace, bins: int = BINS) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(edges of `bins` spans of the recorded cycles, for each class of units the cycles in which each of its events
    but stalls lies, by the span in which the event starts)."""
    from emulator.trace import STALL

    first, end = recorded(trace)
    edges = np.linspace(first, max(end, first + 1), bins + 1)
    names = list(dict.fromkeys(trace.units.unit_class))
    number = np.array([names.index(name) for name in trace.units.unit_class], dtype=np.int64)
    found = {}
    work = trace.kind != STALL
    place = np.clip(np.searchsorted(edges, trace.start, side="right") - 1, 0, bins - 1)
    for at, name in enumerate(names):
        mine = work & (number[trace.unit] == at)
        found[name] = np.bincount(place[mine], weights=(trace.end - trace.start)[mine], minlength=bins)
    return edges, found


def _picture(trace: Trace) -> str:
    """Classes of units x time, darker where more is under way; each class against its own fullest span."""
    edges, classes = busy(trace)
    rows = [(name, amounts) for name, amounts in classes.items() if amounts.max(initial=0) > 0]
    lines = []
    for y, (name, amounts) in enumerate(rows):
        lines.append(f'<text x="0" y="{14 * y + 11}" font-size="11" fill="currentColor">{html.text(name)}</text>')
        for x in np.flatnonzero(amounts).tolist():
            lines.append(f'<rect x="{110 + 5 * x}" y="{14 * y + 1}" width="5" height="12" fill="{html.COLOURS[0]}" '
                         f'fill-opacity="{0.15 + 0.85 * amounts[x] / amounts.max():.2f}"/>')
    bottom = 14 * len(rows) + 12
    for x in range(0, BINS + 1, 25):
        anchor = "start" if x == 0 else "end" if x == BINS else "middle"
        lines.append(f'<text x="{110 + 5 * x}" y="{bottom}" font-size="10" text-anchor="{anchor}" '
                     f'fill="currentColor">{int(edges[x]):,}</text>')
    return f'<svg width="{115 + 5 * BINS}" height="{bottom + 4}" role="img">{"".join(lines)}</svg>'
