"""`decodelab schedule`: the plan of an LPU program as units x cycles, without running it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tools import console
from tools.options import (
    DEFAULT_CHIPS,
    DEFAULT_MODEL,
    Count,
    CycleRange,
    Layers,
    arithmetic_options,
    json_option,
    set_option,
    system_options,
)

if TYPE_CHECKING:
    from emulator.chip import Chip
    from isa.program import Program

NOT_WITH_FILE = ("model", "chip", "arithmetic", "weights", "kv_format", "batch", "context", "layers", "system_chips",
                 "tensor_parallel", "pipeline_parallel")


class StageRank(click.ParamType):
    """STAGE,RANK: which chip of a system."""

    name = "STAGE,RANK"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        found = re.fullmatch(r"(\d{1,6}),(\d{1,6})", value)
        if not found:
            self.fail(f"{value!r} is not a stage and a rank such as 0,0", param, ctx)
        return int(found[1]), int(found[2])


@click.command("schedule", short_help="An LPU program's plan, read without running it.")
@click.argument("program_file", metavar="[PROGRAM]", required=False, default=None,
                type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", default=None, help=f"Model to compile instead of PROGRAM [default: {DEFAULT_MODEL}].")
@click.option("--chip", default=None, help=f"Chip to compile for [default: {DEFAULT_CHIPS[0]}].")
@click.option("--batch", type=Count(), default=None, help="Sequences in lock step [default: 1].")
@click.option("--context", type=Count(), default=None, help="KV capacity in positions [default: 1024].")
@arithmetic_options
@system_options
@click.option("--layers", type=Layers(), default=None, help="Only these layers, without embedding and head.")
@click.option("--of", "chosen", type=StageRank(), default="0,0", show_default=True,
              help="Which chip of a system: pipeline stage and tensor-parallel rank.")
@click.option("--cycles", type=CycleRange(), default=None, help="Show these cycles of the chip [default: all].")
@click.option("--node", default=None, help="Show the cycles of this graph node, such as layers.0.gate_up.")
@click.option("--queues", is_flag=True, help="One row a queue instead of one a class of units.")
@click.option("--at", type=click.IntRange(min=0), default=None, metavar="CYCLE",
              help="Show what is where in this cycle instead.")
@set_option
@json_option
def command(
    program_file: Path | None,
    chosen: tuple[int, int],
    cycles: tuple[int, int] | None,
    node: str | None,
    queues: bool,
    at: int | None,
    settings: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Show the plan of PROGRAM (a .s file or a program file), or of a model's decode step, without running it.

    Cycles are those of the chip that is shown: each chip of a system begins in a cycle of its own.
    """
    from tools.plan import Plan, choose_chip, node_window
    from tools.plan_at import moment
    from tools.plan_view import moment_json, moment_text, schedule_json, schedule_text, window_of

    if sum(option is not None for option in (cycles, node, at)) > 1:
        raise ValueError("--cycles, --node and --at exclude each other: give one of them")
    program, chip = _program(program_file, settings, options)
    plan = Plan(program, chip, choose_chip(program, *chosen))
    if at is not None:
        now = moment(plan, at)
        console.data(console.to_json(moment_json(plan, now)) if as_json else moment_text(plan, now))
        return
    window = window_of(plan, node_window(plan, node) if node is not None else cycles)
    console.data(console.to_json(schedule_json(plan, window, queues)) if as_json
                 else schedule_text(plan, window, queues))


def _program(file: Path | None, settings: tuple[str, ...], options: dict[str, Any]) -> tuple[Program, Chip]:
    """The program of the file, or of the model that the options name, and its chip."""
    from tools.options import load_chip_with, load_chips, option_name

    if file is not None:
        from tools.programs import open_program

        for name in NOT_WITH_FILE:
            if options[name] is not None:
                raise ValueError(f"{option_name(name)} is for compiling a model, and {file} is a program already; "
                                 "leave one of them out")
        program = open_program(file, settings)
        return program, load_chip_with(program.chip, settings)
    from programs.compile import compile_decode
    from tools.measure import open_model

    chip = load_chips((options.pop("chip") or DEFAULT_CHIPS[0],), settings)[0]
    if chip.kind != "lpu":
        raise ValueError(f"--chip {chip.name} is a GPU, which decides as it runs: only an LPU has a plan")
    model = open_model(options.pop("model") or DEFAULT_MODEL)
    options["batch"] = options["batch"] or 1
    options["chips"] = options.pop("system_chips")
    with console.Progress(f"compiling {model.name} for {chip.name}"):
        return compile_decode(model, chip, timing_only=True, **options), chip
