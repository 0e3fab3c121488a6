"""`decodelab compile`: the program of one decode step, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tools import console
from tools.options import (
    DEFAULT_CHIPS,
    Count,
    Layers,
    arithmetic_options,
    launch_option,
    model_option,
    set_option,
    system_options,
)


@click.command("compile", short_help="Compile a model's decode step for one chip to a program file.")
@model_option
@click.option("--chip", default=DEFAULT_CHIPS[0], show_default=True, help="Chip to compile for.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, help="File [default: MODEL.CHIP.npz].")
@click.option("--batch", type=Count(), default=1, show_default=True, help="Sequences in lock step.")
@click.option("--context", type=Count(), default=None,
              help="KV capacity in positions [default: 1024, or the model's limit].")  # fmt: skip
@arithmetic_options
@system_options
@click.option("--layers", type=Layers(), default=None, help="Only these layers, without embedding and head.")
@click.option("--timing-only", is_flag=True, help="No values: weights and KV are phantom.")
@launch_option
@set_option
def command(output: Path | None, settings: tuple[str, ...], **options: Any) -> None:
    """Compile one decode step for one chip; `decodelab run FILE` runs it, `disasm` shows it."""
    from isa.programfile import save_program
    from programs.compile import compile_decode
    from tools.measure import open_model
    from tools.options import load_chips
    from tools.programs import summary

    name = options.pop("model")
    model = open_model(name)
    chip = load_chips((options.pop("chip"),), settings)[0]
    output = output or Path(f"{model.name}.{chip.name}.npz")
    console.check_writable(output, Path(name))
    options["chips"] = options.pop("system_chips")
    with console.Progress(f"compiling {model.name} for {chip.name}"):
        program = compile_decode(model, chip, **options)
        save_program(program, output)
    console.message(f"{output}: {summary(program)}")
