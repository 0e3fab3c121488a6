"""`decodelab predict`: cycles and traffic of single operations, from a CSV of cases."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console
from tools.options import ideal_option, set_option, with_ideal


@click.command("predict", short_help="Cycles and traffic of single operations, from a CSV of cases.")
@click.option("--chip", "chip", required=True, help="Chip to run on.")
@click.option("--cases", type=click.Path(dir_okay=False, exists=True, path_type=Path), required=True,
              help="CSV with a column op and the operation's columns.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="CSV to write: the same rows with cycles, time, utilisation, bound and traffic.")  # fmt: skip
@set_option
@ideal_option
def command(chip: str, cases: Path, out: Path, settings: tuple[str, ...], ideal: str | None) -> None:
    """Run every operation of CASES on an emulated chip and write OUT.

    Rows of OUT that have the same input cells and come from the same chip and version are kept, so an interrupted
    run goes on where it was. Bad rows are told by line, their new cells stay blank, and the exit code is 2.
    """
    from tools.predict import predict

    console.check_writable(out)
    settings = with_ideal(ideal, (chip,), settings)
    try:
        bad = predict(cases, out, chip, settings)
    except KeyboardInterrupt:
        console.message(f"interrupted; rows that are done are in {out}, and the next run goes on from there")
        raise click.exceptions.Exit(130) from None
    for sentence in bad:
        console.message(f"error: {sentence}")
    console.message(f"wrote {out}")
    if bad:
        raise click.exceptions.Exit(2)
