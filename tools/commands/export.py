"""`decodelab export`: a trace as a file that other programs read."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console
from tools.options import CycleRange, Names

FORMATS = ("kanata", "perfetto", "csv")


@click.command("export", short_help="A trace for Konata, Perfetto or a spreadsheet.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--format", "format_", type=click.Choice(FORMATS), required=True,
              help="kanata: Konata's pipeline view; perfetto: ui.perfetto.dev; csv: a table in words.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FILE",
              help="File to write; a name that ends in .gz packs it (Konata and Perfetto read it packed).")
@click.option("--window", type=CycleRange(), default=None, help="Only events that overlap cycles A to B - 1.")
@click.option("--units", type=Names(), default=(), metavar="GLOB,...", help="Only units with such names: SM3.*,MEM.E?")
@click.option("--kinds", type=Names(), default=(), metavar="NAME,...",
              help="Only these kinds of event: issue,stall,hbm_read")
def command(folder: Path, format_: str, output: Path, window: tuple[int, int] | None, units: tuple[str, ...],
            kinds: tuple[str, ...]) -> None:
    """Write the trace in DIR (of one chip, or of several as `decodelab trace` makes it) as one file.

    One cycle is one nanosecond in Perfetto and one cycle in Konata, where cycle 0 is the first of the file. A Kanata
    file holds one chip: name its folder, as in DIR/h100_sxm.
    """
    from emulator.trace_file import read_trace, trace_folders
    from tools.export import csv, kanata, perfetto
    from tools.export.select import select

    folders = trace_folders(folder)
    console.check_writable(output, *(path for one in folders for path in one.iterdir()))
    if format_ == "kanata" and len(folders) > 1:
        raise ValueError(f"a Kanata file holds one chip, {folder} has {len(folders)}: name one, such as {folders[0]}")
    with console.Progress(f"export {folder}"):
        read = [read_trace(one) for one in folders]
        traces = select([trace for trace, _ in read], window, units, kinds)
        if format_ == "kanata":
            told = f"{kanata.export(traces[0], output):,} instructions"
        elif format_ == "csv":
            told = f"{csv.export(traces, output):,} events"
        else:
            facts = {f"{trace.chip} {key}": str(run[key]) for trace, run in read
                     for key in ("chip_hash", "program_hash", "version", "cycles", "clock_hz") if key in run}
            told = f"{perfetto.export(traces, output, facts):,} slices"
    console.message(f"wrote {output}: {told}")
