"""`decodelab disasm`: a program file to assembly text."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console


@click.command("disasm", short_help="Turn a program file back into assembly text.")
@click.argument("program_file", metavar="PROGRAM", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None,
              help="Write FILE.s, and the arrays it refers to beside it; else print the text.")  # fmt: skip
def command(program_file: Path, output: Path | None) -> None:
    """Disassemble PROGRAM; `decodelab asm` turns the text (with -o) into the same program."""
    from isa.disassembler import blobs_path, disassemble, save_listing
    from tools.programs import example_or_file, open_program, queue_names

    if output is not None:
        program_file = example_or_file(program_file)
        for path in (output, blobs_path(output)):
            console.check_writable(path, program_file, blobs_path(program_file))
    program = open_program(program_file)
    names = queue_names(program)
    if output is None:
        console.data(disassemble(program, names)[0].rstrip("\n"))
        return
    save_listing(program, output, names)
    console.message(f"wrote {output}")
