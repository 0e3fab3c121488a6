"""One SQL question to a trace folder, and its answer as table, CSV or plain data."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.trace import TraceError


@dataclass
class Answer:
    """Columns by name, rows of plain values."""

    columns: list[str]
    rows: list[list[Any]]

    def text(self, most: int) -> str:
        """A table of at most so many rows."""
        from tools.report import table

        shown = [["" if value is None else value for value in row] for row in self.rows[:most]]
        lines = [table(shown, self.columns)]
        if len(self.rows) > most:
            lines.append(f"... {len(self.rows) - most:,} more rows: add LIMIT, or --csv for all")
        return "\n".join(lines)

    def csv(self) -> str:
        """Comma-separated values with a head, without a last line break."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return stream.getvalue().rstrip("\n")


def ask(folder: Path, sql: str) -> Answer:
    """The answer to one SELECT over the traces of a folder. Raises TraceError for a folder that is no trace, SQL that
    is wrong, and SQL that does not only read."""
    import duckdb

    from emulator.trace_file import read_trace, trace_folders
    from emulator.trace_sql import connect

    db = connect(*(read_trace(place)[0] for place in trace_folders(folder)))
    try:
        statements = db.extract_statements(sql)
        if len(statements) != 1:
            raise TraceError(f"the query has {len(statements)} statements: give one SELECT")
        if statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
            raise TraceError(f"the query can only read: give a SELECT, not {statements[0].type.name}")
        cursor = db.execute(statements[0])
        columns = [column[0] for column in cursor.description]
        return Answer(columns, [[_plain(value) for value in row] for row in cursor.fetchall()])
    except duckdb.Error as error:
        raise TraceError(f"the query cannot be answered: {_first_line(error)}") from None
    finally:
        db.close()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _plain(value: Any) -> Any:
    """A value as JSON has it: DuckDB's wide integers and decimals as numbers, no number (1/0, 0/0) for what is none,
    anything else as text."""
    import decimal

    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
