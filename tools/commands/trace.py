"""`decodelab trace`: every event of one step, as a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tools import console
from tools.options import (
    DEFAULT_CHIPS,
    DEFAULT_MODEL,
    Count,
    CycleRange,
    Layers,
    Names,
    arithmetic_options,
    engine_option,
    ideal_option,
    launch_option,
    option_group,
    prompt_options,
    set_option,
    system_options,
    with_ideal,
)

model_options = option_group(
    click.option("--model", default=None, help=f"Name, folder or .gguf file [default: {DEFAULT_MODEL}]."),
    click.option("--chip", "chips", multiple=True,
                 help=f"Chip to run on; repeatable [default: {', '.join(DEFAULT_CHIPS)}]."),
    prompt_options,
    click.option("--batch", type=Count(), default=None, help="Sequences [default: one a prompt]."),
    click.option("--context", type=Count(), default=None, help="KV capacity [default: as for generate]."),
    click.option("--timing-only", is_flag=True, help="No values: cycles and traffic only; weights are not needed."),
    arithmetic_options,
    system_options,
    click.option("--layers", type=Layers(), default=None, help="Only these layers, without embedding and head."),
)  # fmt: skip
ONLY_MODELS = ("model", "chips", "prompts", "prompt_ids", "tokens", "batch", "context", "timing_only", "arithmetic",
               "weights", "kv_format", "layers", "system_chips", "tensor_parallel", "pipeline_parallel")


@click.command("trace", short_help="Record every event of one step, for query, heat, view, export.")
@click.argument("program_file", metavar="[PROGRAM]", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", "folder", metavar="DIR", required=True, type=click.Path(path_type=Path),
              help="Folder to write; each chip gets a folder in it.")
@click.option("--window", type=CycleRange(), default=None, help="Only events that overlap cycles A to B - 1.")
@click.option("--token", type=click.IntRange(0), default=None, help="Which step, 0 the first [default: the last].")
@click.option("--layer", type=click.IntRange(0), default=None, help="Only this layer.")
@click.option("--kernel", default=None, metavar="GLOB", help="GPU: only launches with such a kernel or node.")
@click.option("--kinds", type=Names(), default=None, metavar="NAME,...",
              help="Only these kinds of event: issue,stall,hbm_read")
@model_options
@launch_option
@set_option
@ideal_option
@engine_option
def command(program_file: Path | None, folder: Path, ideal: str | None, **options: Any) -> None:
    """Run PROGRAM (a .s file or a program file), or one step of a model on each chip, and write every event to
    DIR/CHIP. What lies outside --window, --token, --layer, --kernel or --kinds is not recorded.
    """
    from emulator.trace import Window
    from emulator.trace_file import check_place
    from tools.record import Wanted, told, trace_job, trace_program

    kinds = options.pop("kinds")
    wanted = Wanted(options.pop("window"), options.pop("token"), options.pop("layer"), options.pop("kernel"),
                    None if kinds is None else frozenset(kinds))
    Window(kinds=wanted.kinds).mask()  # refuses before the work a kind that does not exist
    check_folder(folder)
    given = {name: value for name, value in options.items() if value not in (None, False, ())}
    if program_file is not None:
        if foreign := [name for name in ONLY_MODELS if name in given]:
            raise ValueError(f"--{'chip' if foreign[0] == 'chips' else foreign[0].replace('_', '-')} is for models, "
                             f"and {program_file} is a program")
        if ideal is not None:
            raise ValueError(f"--ideal {ideal} is for models, and {program_file} is a program")
        with console.Progress(f"trace {program_file.name}"):
            trace = trace_program(program_file, options["settings"], options["engine"], options["launch"], wanted,
                                  folder, given)
        console.data(told(trace, folder / trace.chip))
        return
    for job, own in _jobs(options, ideal, given):
        check_place(folder / job.chip)
        with console.Progress(f"trace {job.model} on {job.chip}"):
            trace = trace_job(job, wanted, folder / job.chip, own)
        console.data(told(trace, folder / job.chip))


def _jobs(options: dict[str, Any], ideal: str | None, given: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """A checked job a chip, with its options for run.json. Raises ValueError."""
    from tools.compare import check_kinds, for_kind
    from tools.jobs import kinds_of
    from tools.measure import check, chosen_job
    from tools.options import load_chips

    settings = with_ideal(ideal, options["chips"], options["settings"])
    chips = load_chips(options.pop("chips"), settings)
    options["settings"] = settings
    if ideal is not None:  # run.json has the settings that it stands for: views rebuild the chip from them
        given = given | {"ideal": ideal, "settings": settings}
    check_kinds(options, kinds_of(chips))
    jobs = [chosen_job(for_kind(options, chip.kind) | {"chip": chip.name}) for chip in chips]
    return [(check(job).job, given | {"chip": job.chip}) for job in jobs]


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written, before the work. Raises ValueError."""
    import tempfile

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot write {folder}: it is a file, and a trace is a folder")
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"cannot write {folder}: {place} is a file")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {folder}: folder {place} takes no new file ({error.strerror})") from None
