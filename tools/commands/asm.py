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
    from isa.disassembler import blobs_path
    from isa.programfile import save_program
    from tools.programs import assemble_with, example_or_file, summary

    found = example_or_file(source)
    if output is None:
        output = source.with_suffix(".npz") if found == source else Path(source.name).with_suffix(".npz")
        if blobs_path(found).exists() and output.exists():
            raise ValueError(f"{output} may be the program that {source} is a listing of: name the output with -o")
    source = found
    console.check_writable(output, source, blobs_path(source))
    program = assemble_with(source, settings)
    save_program(program, output)
    console.message(f"{output}: {summary(program)}")
