"""`decodelab query`: SQL over a trace."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console

ROWS_SHOWN = 40  # in the table; --json and --csv have all


@click.command("query", short_help="Ask a trace in SQL.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("sql", metavar="SQL")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: columns and rows.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def command(folder: Path, sql: str, as_json: bool, as_csv: bool) -> None:
    """Ask the trace in DIR (of one chip, or of several) one question in DuckDB's SQL, which can only read.

    Tables: events (in words: machine, unit, start, "end", kind, reason, layer, kernel, node, opcode, asm, line, bytes,
    level, tensor, ...), raw, units, instructions, launches, bound, kinds, reasons.

    \b
    decodelab query t "SELECT level, sum(bytes * weight) FROM events WHERE level IS NOT NULL GROUP BY ALL"
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv cannot be given together")
    from tools.query import ask

    found = ask(folder, sql)
    if as_json:
        console.data(console.to_json({"schema": "decodelab.query/1", "columns": found.columns, "rows": found.rows}))
    elif as_csv:
        console.data(found.csv())
    else:
        console.data(found.text(ROWS_SHOWN))
