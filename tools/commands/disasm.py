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
    from tools.programs import open_program, write_disassembly

    console.check_writable(output)
    program = open_program(program_file)
    if output is None:
        from isa.disassembler import disassemble

        text, _ = disassemble(program)
        console.data(text.rstrip("\n"))
        return
    for path in write_disassembly(program, output):
        console.message(f"wrote {path}")
