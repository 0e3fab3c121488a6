"""`decodelab validate`: emulated kernels beside measured ones."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console
from tools.options import Finite, json_option, set_option

DEFAULT_ROWS = 60  # of each file, data type and size class


@click.command("validate", short_help="Emulated kernels beside measured ones, and how far they are off.")
@click.option("--chip", required=True, help="GPU to emulate.")
@click.option("--data", "files", multiple=True, type=click.Path(dir_okay=False, exists=True, path_type=Path),
              help="CSV of measured kernels; repeatable [default: published points that ship].")  # fmt: skip
@click.option("--rows", type=click.IntRange(min=1), default=DEFAULT_ROWS, show_default=True,
              help="Rows of each file, data type and size class, drawn by --seed.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Every row; what is done is kept in --results, to go on from.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the sample.")
@click.option("--dtype", "dtypes", multiple=True, help="Only rows of this data type; repeatable.")
@click.option("--max", "limit", type=Finite(min=0), default=None,
              help="Exit with 1 when a median error of scored rows is over this, such as 0.05.")  # fmt: skip
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="CSV that keeps every emulated row [--all: validate-CHIP.csv].")  # fmt: skip
@click.option("--plot", "picture", type=click.Path(dir_okay=False, path_type=Path), default=None,
              help="Picture of emulated over measured times (needs matplotlib).")  # fmt: skip
@click.option("--show-rows", is_flag=True, help="Also print every row.")
@set_option
@json_option
def command(chip: str, files: tuple[Path, ...], rows: int, every: bool, seed: int, dtypes: tuple[str, ...],
            limit: float | None, results: Path | None, picture: Path | None, show_rows: bool,
            settings: tuple[str, ...], as_json: bool) -> None:
    """Emulate measured kernels and print the error by size class, beside a trivial model and a fitted line.

    A row's measured time is that of its fastest framework, of at least two. Products below 10 us and attention calls
    below 20 us are told apart: launches and frameworks decide there.
    """
    from emulator.chip import load_chip
    from tools import validate
    from tools.validate_points import points
    from tools.validate_rows import device_of

    console.check_writable(picture)
    if every and results is None:
        results = Path(f"validate-{chip}.csv")
    console.check_writable(results)
    if files:
        for file in files:
            if (device := device_of(file)) not in (None, name := load_chip(chip).name):
                console.message(f"warning: {file} was measured on {device}, and {name} is emulated")
        chosen, left = validate.gather(files, None if every else rows, seed, dtypes)
    else:
        chosen, left = [row for row in points(chip) if not dtypes or row.dtype in dtypes], {}
    try:
        found = validate.validate(chosen, left, chip, settings, results)
    except KeyboardInterrupt:
        kept = f"; rows that are done are in {results}, and the next run goes on from there" if results else ""
        console.message(f"interrupted{kept}")
        raise click.exceptions.Exit(130) from None
    console.data(console.to_json(validate.as_json(found)) if as_json else validate.as_text(found, show_rows))
    if picture is not None:
        from tools.validate_plot import plot

        plot(found, picture)
        console.message(f"wrote {picture}")
    over = [] if limit is None else validate.exceeded(found, limit)
    for sentence in over:
        console.message(sentence)
    if over:
        raise click.exceptions.Exit(1)
