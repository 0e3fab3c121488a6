"""A trace's tables in DuckDB, and the view that has its events in words.

    raw           the event columns as numbers, "row" first
    units, instructions, launches, kinds, reasons   the tables that they point into, "number" first
    events        a row an event: chip, unit, unit_class, start, "end", kind, reason, launch, layer, node, kernel,
                  opcode, asm, line, source, actor, wait, bytes, weight (how often the event counts in the step)
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.trace import KINDS, layer_of

if TYPE_CHECKING:
    from emulator.trace import Trace

NUMBERS = ("chip", "line", "start", "end", "grid", "block", "times", "layer")  # columns that are no texts
EVENTS = """
CREATE VIEW events AS SELECT
    units.chip AS chip, units.name AS unit, units.unit_class, raw.start, raw."end", kinds.name AS kind,
    CASE WHEN raw.reason > 0 THEN reasons.name END AS reason, nullif(raw.launch, -1) AS launch,
    nullif(CASE WHEN raw.launch >= 0 THEN launches.layer ELSE instructions.layer END, -1) AS layer,
    nullif(CASE WHEN raw.launch >= 0 THEN launches.node ELSE instructions.node END, '') AS node,
    nullif(CASE WHEN raw.launch >= 0 THEN launches.kernel ELSE instructions.kernel END, '') AS kernel,
    instructions.opcode, instructions.asm, nullif(instructions.line, 0) AS line, instructions.source,
    nullif(raw.actor, -1) AS actor, raw.wait, raw.bytes, raw.weight
FROM raw
JOIN units ON units.number = raw.unit
JOIN kinds ON kinds.number = raw.kind
JOIN reasons ON reasons.number = raw.reason
LEFT JOIN instructions ON instructions.number = raw.instruction
LEFT JOIN launches ON launches.number = raw.launch
ORDER BY raw.row
"""


def connect(trace: Trace) -> Any:
    """A DuckDB connection with the tables and the view of this module's head, made from a trace in memory."""
    import duckdb

    db = duckdb.connect()
    columns: dict[str, np.ndarray] = {"row": np.arange(len(trace))}
    _add(db, "raw", columns | trace.columns() | {"weight": trace.weights()})
    for name, table in (("units", trace.units), ("instructions", trace.instructions), ("launches", trace.launches)):
        words: dict[str, Any] = {f.name: getattr(table, f.name) for f in fields(table)}
        if "node" in words:
            words["layer"] = [layer_of(node) for node in words["node"]]
        _add(db, name, _numbered(words))
    _add(db, "kinds", _numbered({"name": [k.name for k in KINDS], "meaning": [k.meaning for k in KINDS]}))
    _add(db, "reasons", _numbered({
        "name": [r.name for r in trace.reasons], "cause": [r.cause for r in trace.reasons],
        "advice": [r.advice for r in trace.reasons]}))
    db.execute(EVENTS)
    return db


def _numbered(words: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    """Lists as columns, with the number that events use first."""
    columns = {name: np.array(values, dtype=np.int64 if name in NUMBERS else object) for name, values in words.items()}
    return {"number": np.arange(len(next(iter(words.values()))))} | columns


def _add(db: Any, name: str, columns: dict[str, np.ndarray]) -> None:
    """Columns as a table of the database. An empty column of texts has no type of its own, hence the casts."""
    db.register("given", columns)
    casts = ", ".join(f'CAST("{column}" AS {"VARCHAR" if values.dtype == object else "BIGINT"}) AS "{column}"'
                      for column, values in columns.items())
    db.execute(f"CREATE TABLE {name} AS SELECT {casts} FROM given")
    db.unregister("given")
