"""`decodelab plot`: results as pictures."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console

output_option = click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(path_type=Path),
                             help="Picture to write: .png or .svg.")  # fmt: skip
source_argument = click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group("plot", short_help="Pictures: waterfall, roofline, sweeps (needs the plot extra).")
def command() -> None:
    """Results as pictures, PNG or SVG; the same input gives the same bytes. Needs matplotlib: pip install
    'decodelab[plot]'."""


@command.command("waterfall")
@source_argument
@output_option
def waterfall(source: Path, output: Path) -> None:
    """From the floor to the emulated time, one limit after another: FILE is what `decodelab explain --json` wrote."""
    from tools.plot import waterfall as picture

    _check(output, source)
    picture.plot(source, output)
    console.message(f"wrote {output}")


@command.command("sweep")
@source_argument
@click.option("--against", type=click.Choice(["batch", "context"]), default=None,
              help="What the horizontal axis shows [default: what the sweep varies].")
@output_option
def sweep(source: Path, against: str | None, output: Path) -> None:
    """Cycles of a step and bytes a token against batch or context: FILE is what `decodelab compare --batch 1,8,64
    --json` or `--context 1k,8k --json` wrote."""
    from tools.plot import sweep as picture

    _check(output, source)
    picture.plot(source, output, against)
    console.message(f"wrote {output}")


@command.command("roofline")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@output_option
def roofline(folder: Path, output: Path) -> None:
    """Operations a second over operations a byte, a point a kernel: DIR is what `decodelab trace` wrote."""
    from tools.plot import roofline as picture

    _check(output)
    picture.plot(folder, output)
    console.message(f"wrote {output}")


def _check(output: Path, *sources: Path) -> None:
    """Refuse before the work what cannot be written."""
    from tools.plot.figure import check_format, pyplot

    check_format(output)
    console.check_writable(output, *sources)
    pyplot()
