"""`decodelab predict`: a CSV of cases in, the same rows with cycles and traffic out."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools import console
from tools.cases import Case, check_machine, measure_case, parse_case
from tools.jobs import announce_compilation
from tools.options import load_chip_with

if TYPE_CHECKING:
    from emulator.chip import Chip

ADDED = ("cycles", "time_us", "utilisation", "bound_by")
SAVE_SECONDS = 5.0  # between two writes of the rows that are done


@dataclass
class Row:
    """One row of the input: its line, cells, and what became of it."""

    line: int
    cells: tuple[str, ...]
    case: Case | None = None
    error: str = ""
    added: dict[str, str] = field(default_factory=dict)  # column -> cell; empty while it is not done


@dataclass
class Table:
    """A CSV file: its columns, and its rows in order."""

    columns: tuple[str, ...]
    rows: list[Row]


def read_table(path: Path) -> Table:
    """A CSV file with a header; leading lines that begin with # are skipped. Raises ValueError, OSError."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            text = file.read()
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a CSV file in UTF-8") from None
    skipped = 0
    lines = text.splitlines(keepends=True)
    while skipped < len(lines) and (lines[skipped].startswith("#") or not lines[skipped].strip()):
        skipped += 1
    reader = csv.reader(io.StringIO("".join(lines[skipped:]), newline=""), strict=True)
    try:
        columns = tuple(name.strip() for name in next(reader, []))
        if not columns:
            raise ValueError(f"{path}: empty; its first line names the columns")
        twice = next((name for n, name in enumerate(columns) if name in columns[:n]), None)
        if twice is not None:
            raise ValueError(f"{path}: column {twice} stands twice in the header")
        rows = [Row(skipped + reader.line_num, tuple(cells)) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"{path}: line {skipped + reader.line_num}: not CSV ({error})") from None
    return Table(columns, rows)


def check_rows(table: Table, chip: Chip) -> None:
    """Give every row its case, or what is wrong with it."""
    width = len(table.columns)
    for row in table.rows:
        if len(row.cells) > width:
            row.error = f"has {len(row.cells)} cells for {width} columns"
            row.cells = row.cells[:width]
            continue
        row.cells += ("",) * (width - len(row.cells))
        try:
            row.case = parse_case(dict(zip(table.columns, row.cells)), chip)
        except ValueError as error:
            row.error = str(error)


class Output:
    """The output file: the input's columns and rows, and what was measured. Written whole every time.

    Beside it, FILE.run.json says which chip and which program version the rows come from: rows of
    another one are not kept.
    """

    def __init__(self, path: Path, columns: Sequence[str], chip: Chip) -> None:
        self.path, self.columns, self.chip = path, tuple(columns), chip
        self.note = path.with_name(path.name + ".run.json")

    def origin(self) -> dict[str, str]:
        """What the rows depend on beside their cells."""
        from isa.jit import source_hash

        return {"schema": "decodelab.predict/1", "chip": self.chip.name, "chip_hash": self.chip.hash,
                "source_hash": source_hash(Path(__file__))}

    def keep(self, rows: Iterable[Row]) -> int:
        """Fill in rows that the file has already; how many. Raises ValueError for a file of another kind."""
        if not self.path.exists():
            return 0
        old = read_table(self.path)
        width = len(self.columns)
        if old.columns[: width + len(ADDED)] != (*self.columns, *ADDED):
            raise ValueError(f"{self.path} holds other columns than {', '.join(self.columns)} and {', '.join(ADDED)}: "
                             "remove it, or name another --out")
        if self.note.exists():
            try:
                same = json.loads(self.note.read_text(encoding="utf-8")) == self.origin()
            except (OSError, ValueError):
                same = False
            if not same:
                return 0
        done = {}
        for row in old.rows:
            cells = row.cells + ("",) * (len(old.columns) - len(row.cells))
            if cells[width]:
                done[cells[:width]] = dict(zip(old.columns[width:], cells[width:]))
        kept = 0
        for row in rows:
            if not row.error and row.cells in done:
                row.added = dict(done[row.cells])
                kept += 1
        return kept

    def save(self, rows: Sequence[Row], whole: bool) -> None:
        """Write the rows that are done, in the input's order; whole: all rows, bad ones with blank cells."""
        levels = list(dict.fromkeys(name for row in rows for name in row.added if name not in ADDED))
        added = [*ADDED, *levels]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self.columns, *added])
        for row in rows:
            if whole or row.added:
                writer.writerow([*row.cells, *(row.added.get(name, "") for name in added)])
        console.write_file(self.note, json.dumps(self.origin(), indent=2) + "\n")
        console.write_file(self.path, text.getvalue())


def added_cells(found: dict[str, Any]) -> dict[str, str]:
    """The cells that a measurement adds to a row."""
    cells = {"cycles": str(found["cycles"]), "time_us": f"{found['time_us']:.6g}",
             "utilisation": f"{found['utilisation']:.4f}", "bound_by": found["bound_by"]}
    return cells | {f"{level}_bytes": str(count) for level, count in found["traffic"].items()}


def attempt(chip_name: str, settings: tuple[str, ...], case: Case) -> dict[str, Any]:
    """`measure_case`, with what went wrong as {"error": sentence}: one bad case does not end the others."""
    from emulator.gpu.errors import MachineError
    from emulator.lpu.errors import ScheduleError

    try:
        return measure_case(load_chip_with(chip_name, settings), case)
    except ScheduleError as error:
        return {"error": f"{case.op}: the machine refused our own schedule: {error}"}
    except MachineError as error:
        return {"error": f"{case.op}: the machine refused our own kernel: {error}"}
    except (ValueError, AssertionError, MemoryError) as error:
        return {"error": f"{case.op}: {error or type(error).__name__}"}


def predict(cases: Path, out: Path, chip_name: str, settings: tuple[str, ...]) -> list[str]:
    """Measure every row of `cases` into `out`; gives a sentence for each bad row.

    Raises ValueError for files that cannot be used at all.
    """
    chip = load_chip_with(chip_name, settings)
    check_machine(chip)
    table = read_table(cases)
    ours = (name for name in table.columns if name in ADDED or name.endswith("_bytes") and name != "message_bytes")
    taken = next(ours, None)
    if taken is not None:
        raise ValueError(f"{cases}: column {taken} is one that predict adds; name it otherwise")
    if "op" not in table.columns:
        raise ValueError(f"{cases}: there is no column op; each row names its operation there")
    if out.exists() and cases.resolve() == out.resolve():
        raise ValueError(f"--out {out} is the file of the cases; name another one")
    check_rows(table, chip)
    output = Output(out, table.columns, chip)
    kept = output.keep(table.rows)
    if kept:
        console.message(f"{kept} of {len(table.rows)} rows are in {out} already")
    wanted: dict[Case, list[Row]] = {}
    for row in table.rows:
        if row.case is not None and not row.added:
            wanted.setdefault(row.case, []).append(row)
    if wanted:
        _run(wanted, table.rows, output, chip, settings)
    output.save(table.rows, whole=True)
    return [f"{cases} line {row.line}: {row.error}" for row in table.rows if row.error]


def _run(wanted: dict[Case, list[Row]], rows: Sequence[Row], output: Output, chip: Chip, settings: tuple[str, ...]
         ) -> None:
    """Measure each distinct case once, on all cores; equal rows share the outcome."""
    cold = announce_compilation({chip.kind})
    saved = time.monotonic()
    done = 0

    def take(case: Case, found: dict[str, Any]) -> None:
        nonlocal saved, done
        done += 1
        for row in wanted[case]:
            row.error = found.get("error", "")
            if not row.error:
                row.added = added_cells(found)
        progress.step(done, len(wanted), f"{case.op} {' '.join(str(value) for _, value in case.values)}")
        if time.monotonic() - saved > SAVE_SECONDS:
            output.save(rows, whole=False)
            saved = time.monotonic()

    with console.Progress("predicting") as progress:
        cases = list(wanted)
        workers = min(len(cases), os.cpu_count() or 1, int(os.environ.get("DECODELAB_JOBS", "64")))
        alone = workers <= 1 or getattr(sys.modules["__main__"], "__file__", None) is None
        first = len(cases) if alone else 1 if cold else 0  # a cold engine is compiled once, not in every process
        try:
            for case in cases[:first]:
                take(case, attempt(chip.name, settings, case))
            if first < len(cases):
                _side_by_side(cases[first:], chip.name, settings, workers, take)
        except BaseException:  # an interrupt keeps what is done: the next run goes on from there
            output.save(rows, whole=False)
            raise


def _side_by_side(cases: Sequence[Case], chip_name: str, settings: tuple[str, ...], workers: int, take: Any) -> None:
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(attempt, chip_name, settings, case): case for case in cases}
        for future in as_completed(futures):
            take(futures[future], future.result())
    except BrokenProcessPool:
        raise ValueError("a worker process was ended from outside (out of memory?); rows that are done are kept: run "
                         "again, with DECODELAB_JOBS=1 if it happens again") from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
