"""A trace's tables in DuckDB, and the view that has its events in words.

    raw           the event columns as numbers, "row" first
    units, instructions, launches, kinds, reasons   the tables that they point into, "number" first
    bound         launch, parameter, tensor: which tensor a GPU's instructions.tensor is in a launch
    events        a row an event: machine (name of the chip), chip (row of the program's chips), unit, unit_class,
                  start, "end", kind, reason, launch, layer, node, kernel, opcode, asm, line, source, actor, wait,
                  bytes, weight (how often the event counts in the step), level (of its bytes), tensor (that the
                  instruction reads or writes)
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.trace import KINDS, layer_of

if TYPE_CHECKING:
    from emulator.trace import Trace

NUMBERS = ("chip", "line", "start", "end", "grid", "block", "times", "layer", "in_step")  # columns that are no texts
EVENTS = """
CREATE VIEW events AS SELECT
    raw.machine, units.chip AS chip, units.name AS unit, units.unit_class, raw.start, raw."end", kinds.name AS kind,
    CASE WHEN reasons.name <> 'busy' THEN reasons.name END AS reason, nullif(launches.in_step, -1) AS launch,
    nullif(CASE WHEN raw.launch >= 0 THEN launches.layer ELSE instructions.layer END, -1) AS layer,
    nullif(CASE WHEN raw.launch >= 0 THEN launches.node ELSE instructions.node END, '') AS node,
    nullif(CASE WHEN raw.launch >= 0 THEN launches.kernel ELSE instructions.kernel END, '') AS kernel,
    instructions.opcode, instructions.asm, nullif(instructions.line, 0) AS line, instructions.source,
    nullif(raw.actor, -1) AS actor, raw.wait, raw.bytes, raw.weight,
    CASE WHEN raw.bytes > 0 THEN nullif(coalesce(kinds.level, instructions.level), '') END AS level,
    CASE WHEN raw.launch >= 0 THEN bound.tensor ELSE nullif(instructions.tensor, '') END AS tensor
FROM raw
JOIN units ON units.number = raw.unit
JOIN kinds ON kinds.number = raw.kind
JOIN reasons ON reasons.number = raw.reason
LEFT JOIN instructions ON instructions.number = raw.instruction
LEFT JOIN launches ON launches.number = raw.launch
LEFT JOIN bound ON bound.launch = raw.launch AND bound.parameter = instructions.tensor
ORDER BY raw.row
"""


def connect(*traces: Trace) -> Any:
    """A DuckDB connection with the tables and the view of this module's head, made from traces in memory.

    The tables of several traces stand one after another. The connection reads and writes no files.
    """
    import duckdb

    db = duckdb.connect()
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("raw", "units", "instructions", "launches", "reasons")}
    first = dict.fromkeys(("row", *tables), 0)  # numbers that traces before this one have taken
    for trace in traces:
        raw = {"row": np.arange(len(trace)) + first["row"]} | trace.columns() | {"weight": trace.weights()}
        for column, table in (("unit", "units"), ("instruction", "instructions"), ("launch", "launches"),
                              ("reason", "reasons")):
            if first[table]:
                raw[column] = np.where(raw[column] >= 0, raw[column].astype(np.int64) + first[table], -1)
        words: dict[str, dict[str, Any]] = {"raw": raw}
        for name, rows in (("units", trace.units), ("instructions", trace.instructions), ("launches", trace.launches)):
            words[name] = {f.name: getattr(rows, f.name) for f in fields(rows)}
            if "node" in words[name]:
                words[name]["layer"] = [layer_of(node) for node in words[name]["node"]]
        words["launches"]["in_step"] = list(range(len(trace.launches)))
        words["reasons"] = {"name": [r.name for r in trace.reasons], "cause": [r.cause for r in trace.reasons],
                            "advice": [r.advice for r in trace.reasons]}
        for name, columns in words.items():
            count = len(next(iter(columns.values())))
            columns["machine"] = np.full(count, trace.chip, dtype=object)
            tables[name].append(columns)
            first["row" if name == "raw" else name] += count
    _add(db, "bound", _bound([text for trace in traces for text in trace.launches.tensors]))
    for name, parts in tables.items():
        joined = {column: np.concatenate([_column(column, part[column]) for part in parts]) for column in parts[0]}
        _add(db, name, joined if name == "raw" else _numbered(joined))
    _add(db, "kinds", _numbered({
        "name": np.array([k.name for k in KINDS], dtype=object),
        "meaning": np.array([k.meaning for k in KINDS], dtype=object),
        "level": np.array([None if k.level == "opcode" else k.level for k in KINDS], dtype=object)}))
    db.execute(EVENTS)
    db.execute("SET enable_external_access = false")
    db.execute("SET lock_configuration = true")
    return db


def _bound(texts: list[str]) -> dict[str, np.ndarray]:
    """Launches' JSON objects of tensors as the columns of `bound`."""
    rows = [(number, parameter, tensor) for number, text in enumerate(texts) if text
            for parameter, tensor in json.loads(text).items()]
    launch, parameter, tensor = zip(*rows) if rows else ((), (), ())
    return {"launch": np.array(launch, dtype=np.int64), "parameter": np.array(parameter, dtype=object),
            "tensor": np.array(tensor, dtype=object)}


def _column(name: str, values: Any) -> np.ndarray:
    """A list as a column of numbers or of texts; an array as it is."""
    return values if isinstance(values, np.ndarray) else np.array(values, dtype=np.int64 if name in NUMBERS else object)


def _numbered(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns with the number that events use first."""
    return {"number": np.arange(len(next(iter(columns.values()))))} | columns


def _add(db: Any, name: str, columns: dict[str, np.ndarray]) -> None:
    """Columns as a table of the database. An empty column of texts has no type of its own, hence the casts."""
    db.register("given", columns)
    casts = ", ".join(f'CAST("{column}" AS {"VARCHAR" if values.dtype == object else "BIGINT"}) AS "{column}"'
                      for column, values in columns.items())
    db.execute(f"CREATE TABLE {name} AS SELECT {casts} FROM given")
    db.unregister("given")
