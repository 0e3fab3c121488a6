"""`decodelab asm`: an assembly file to a program file."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console
from tools.options import set_option


@click.command("asm", short_help="Assemble a .s file to a program file.")
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="File [default: SOURCE.npz].")
@set_option
def command(source: Path, output: Path | None, settings: tuple[str, ...]) -> None:
    """Assemble SOURCE; errors name file, line and column."""
    from isa.programfile import save_program
    from tools.programs import assemble_with, summary

    output = output or source.with_suffix(".npz")
    console.check_writable(output)
    program = assemble_with(source, settings)
    save_program(program, output)
    console.message(f"{output}: {summary(program)}")
