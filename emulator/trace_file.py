"""Traces on disk: a folder with events, units, instructions and launches as Parquet, and run.json beside them.

    events.parquet        start, duration, unit, kind, reason, launch, instruction, actor, wait, bytes (emulator.trace)
    units.parquet         name, chip, unit_class
    instructions.parquet  opcode, asm, line, source, node, kernel, level, tensor
    launches.parquet      node, kernel, start, end, grid, block, times, tensors (JSON)
    run.json              schema, what was run and recorded, names of kinds and reasons, results of the step

Parquet is written and read by DuckDB. A folder is written beside its place and then renamed, so that it is whole or
not there; the same trace gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from emulator.trace import COLUMNS, KINDS, Instructions, Launches, Trace, TracedChip, TraceError, Units

SCHEMA = "decodelab.trace/2"
RUN, EVENTS = "run.json", "events.parquet"
# "end" is kept as a duration: it repeats far more often.
ON_DISK = {"duration" if name == "end" else name: dtype for name, dtype in COLUMNS.items()}
TABLES: dict[str, type] = {"units": Units, "instructions": Instructions, "launches": Launches}  # fields of a Trace
_SQL_TYPES = {"int64": "BIGINT", "int32": "INTEGER", "uint8": "UTINYINT"}
_EVENT_TYPES = {name: _SQL_TYPES[np.dtype(dtype).name] for name, dtype in ON_DISK.items()}
_OPTIONS = "FORMAT parquet, COMPRESSION snappy"  # half the time of zstd, a quarter larger


class Head(msgspec.Struct):
    """What run.json must say for the tables to be read; other keys are free."""

    schema: str
    dialect: str
    chip: str
    cycles: int
    window: tuple[int, int]
    kinds_recorded: list[str]
    launches_recorded: list[int] | None
    chips: list[TracedChip]
    kinds: list[str]
    reasons: list[str]


def write_trace(trace: Trace, folder: str | Path, facts: dict[str, Any] | None = None) -> None:
    """Write a trace as a folder, whole or not at all; an older trace in its place is replaced.

    facts: more keys of run.json (options, traffic_bytes, unit_accounting, ...). Raises TraceError for a folder that
    holds something else, OSError where nothing can be written.
    """
    import duckdb

    folder = Path(folder)
    check_place(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    head = Head(SCHEMA, trace.dialect, trace.chip, trace.cycles, trace.window, trace.kinds, trace.launches_recorded,
                trace.chips, [kind.name for kind in KINDS], [reason.name for reason in trace.reasons])
    run = {**msgspec.to_builtins(head), **{k: v for k, v in (facts or {}).items() if k not in head.__struct_fields__}}
    new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with duckdb.connect() as db:
            columns = trace.columns()
            end = columns.pop("end")
            columns["duration"] = end - columns["start"]
            _write(db, new / EVENTS, {n: columns[n] for n in ON_DISK}, _EVENT_TYPES)
            for name, table in TABLES.items():
                types = _types(table)
                _write(db, new / f"{name}.parquet", {
                    column: np.array(getattr(getattr(trace, name), column),
                                     dtype=object if sql == "VARCHAR" else np.int64)
                    for column, sql in types.items()}, types)
        (new / RUN).write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.chmod(new, 0o755)
        _put_in_place(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def check_place(folder: Path) -> None:
    """Raise TraceError where a trace must not be written: over a file, or a folder that is no trace."""
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"cannot write {folder}: it is a file, and a trace is a folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / RUN).is_file():
        raise TraceError(f"cannot write {folder}: the folder holds something other than a trace; name another one")


def _types(table: type) -> dict[str, str]:
    """SQL types of a table's columns."""
    return {f.name: "VARCHAR" if "str" in str(f.type) else "BIGINT" for f in fields(table)}


def _put_in_place(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(new, folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    os.rename(folder, old / "old")
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(db: Any, path: Path, columns: dict[str, np.ndarray], types: dict[str, str]) -> None:
    """A table of columns as a Parquet file. An empty object column has no type of its own, hence the casts."""
    db.register("given", columns)
    casts = ", ".join(f'CAST("{name}" AS {sql}) AS "{name}"' for name, sql in types.items())
    target = str(path).replace("'", "''")
    db.execute(f"COPY (SELECT {casts} FROM given) TO '{target}' ({_OPTIONS})")
    db.unregister("given")


def read_run(folder: str | Path) -> tuple[Head, dict[str, Any]]:
    """run.json of a trace folder: what is needed to read the tables, and all of it. Raises TraceError."""
    folder = Path(folder)
    path = folder / RUN
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "there is no such folder" if not folder.exists() else f"it holds no {RUN}"
        raise TraceError(f"{folder}: not a trace: {what}") from None
    except NotADirectoryError:
        raise TraceError(f"{folder}: not a trace: a trace is a folder, this is a file") from None
    except (ValueError, RecursionError):
        raise TraceError(f"{path}: not a trace: the file is no JSON that can be read") from None
    if not isinstance(run, dict) or not str(run.get("schema", "")).startswith("decodelab.trace/"):
        raise TraceError(f"{path}: not a trace: it does not say schema {SCHEMA}")
    if run["schema"] != SCHEMA:
        raise TraceError(f"{path}: the trace is of version {run['schema']}, this program reads {SCHEMA}; make it again "
                         "with decodelab trace")
    try:
        head = msgspec.convert(run, Head)
    except msgspec.ValidationError as error:
        raise TraceError(f"{path}: not a trace of this version: {str(error)[:1].lower()}{str(error)[1:]}") from None
    if head.dialect not in ("gpu", "lpu"):
        raise TraceError(f"{path}: not a trace of this version: dialect {head.dialect} is unknown")
    return head, run


def trace_folders(folder: str | Path) -> list[Path]:
    """The trace folders that a name means: the folder itself, or those in it, one a chip. Raises TraceError when there
    is none."""
    folder = Path(folder)
    inside = sorted(path for path in folder.iterdir() if (path / RUN).is_file()) if folder.is_dir() else []
    if not (folder / RUN).is_file() and inside:
        return inside
    read_run(folder)
    return [folder]


def read_trace(folder: str | Path) -> tuple[Trace, dict[str, Any]]:
    """(trace, run.json) of a folder. Raises TraceError with one sentence for what is no whole trace of this version."""
    import duckdb

    folder = Path(folder)
    head, run = read_run(folder)
    with duckdb.connect() as db:
        columns: dict[str, Any] = _read(db, folder / EVENTS, _EVENT_TYPES)
        tables: dict[str, Any] = {}
        for name, table in TABLES.items():
            found = _read(db, folder / f"{name}.parquet", _types(table))
            tables[name] = table(**{column: values.tolist() for column, values in found.items()})
    columns["end"] = columns["start"] + columns.pop("duration")
    trace = Trace(head.dialect, head.chip, head.cycles, head.window, **columns, **tables, chips=head.chips,
                  kinds=head.kinds_recorded, launches_recorded=head.launches_recorded)
    if head.kinds != [kind.name for kind in KINDS] or head.reasons != [reason.name for reason in trace.reasons]:
        raise TraceError(f"{folder / RUN}: not a trace of this version: its kinds or reasons have other names")
    try:
        trace.check()
    except TraceError as error:
        raise TraceError(f"{folder}: {error}") from None
    return trace, run


def _read(db: Any, path: Path, types: dict[str, str]) -> dict[str, np.ndarray]:
    """Columns of a Parquet file that must have exactly these columns and types."""
    import duckdb

    if not path.is_file():
        raise TraceError(f"{path}: not a whole trace: the file is missing")
    try:
        relation = db.read_parquet(str(path), hive_partitioning=False)
        found = dict(zip(relation.columns, map(str, relation.types), strict=True))
        if found != types:
            wrong = sorted(set(found.items()) ^ set(types.items()))[0]
            raise TraceError(f"{path}: not a trace of this version: column {wrong[0]} is not as expected")
        columns = relation.fetchnumpy()
    except duckdb.Error:
        raise TraceError(f"{path}: not a Parquet file that can be read (is it truncated?)") from None
    if any(isinstance(values, np.ma.MaskedArray) and values.mask.any() for values in columns.values()):
        raise TraceError(f"{path}: not a trace of this version: a value is missing")
    return {name: np.asarray(values) for name, values in columns.items()}


