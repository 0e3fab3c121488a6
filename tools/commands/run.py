"""`decodelab run`: any program, from a .s file or a program file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tools import console
from tools.options import Binding, Count, CycleRange, TokenIds, engine_option, json_option, launch_option, set_option


@click.command("run", short_help="Run a .s file or a program file; show units x cycles.")
@click.argument("program_file", metavar="PROGRAM", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--in", "inputs", multiple=True, type=Binding(), help="Bind an array (.npy) to data; repeatable.")
@click.option("--out", "outputs", multiple=True, type=Binding(), help="Write data to an .npy file; repeatable.")
@click.option("--grid", type=CycleRange(), default=None, help="Print units x cycles of these cycles.")
@click.option("--prompt-ids", type=TokenIds(), multiple=True, metavar="5,77,640",
              help="Decode programs: ids to feed, one option a sequence.")  # fmt: skip
@click.option("--tokens", type=Count(), default=None, help="Decode programs: tokens to generate [default: 1].")
@click.option("--dram-trace", type=click.Path(path_type=Path), default=None,
              help="GPU programs: write what goes to DRAM as an address trace (DRAMsim3's format, 32-byte requests).")
@launch_option
@set_option
@engine_option
@json_option
def command(
    program_file: Path,
    inputs: tuple[tuple[str, Path], ...],
    outputs: tuple[tuple[str, Path], ...],
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Run PROGRAM (a .s file or a program file) on the chip that it names.

    Exit code 1 when an .expect of the file does not hold.
    """
    from isa.disassembler import blobs_path
    from tools.execute import execute
    from tools.programs import example_or_file

    source = example_or_file(program_file)
    for path in (*(path for _, path in outputs), options["dram_trace"]):
        console.check_writable(path, source, blobs_path(source))
    report = execute(program_file, dict(inputs), dict(outputs), settings, options)
    console.data(console.to_json(report.json()) if as_json else report.text())
    if report.failures:
        for failure in report.failures:
            console.message(f"expectation failed: {failure}")
        raise click.exceptions.Exit(1)
