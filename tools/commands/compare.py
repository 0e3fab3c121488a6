"""`decodelab compare`: the same token on several chips, side by side."""

from __future__ import annotations

from typing import Any

import click

from tools import console
from tools.options import (
    DEFAULT_CHIPS,
    DEFAULT_MODEL,
    Count,
    Layers,
    arithmetic_options,
    engine_option,
    ideal_option,
    json_option,
    launch_option,
    option_group,
    prompt_options,
    set_option,
    system_options,
    with_ideal,
)

# With none of these given, compare shows its three blocks.
CHOICES = (
    "model", "prompts", "prompt_ids", "tokens", "batch", "context", "timing_only", "arithmetic", "weights",
    "kv_format", "layers", "sample_layers", "stop_at_eos", "system_chips", "tensor_parallel", "pipeline_parallel",
)  # fmt: skip

work_options = option_group(
    click.option("--model", default=None, help=f"Name, folder or .gguf file [default: {DEFAULT_MODEL}]."),
    click.option(
        "--chip", "chips", multiple=True,
        help=f"Chip to run on; repeatable, in output order [default: {', '.join(DEFAULT_CHIPS)}].",
    ),
    prompt_options,
    click.option(
        "--batch", type=Count(many=True), default=None,
        help="Sequences; a list (1,8,64) sweeps [default: one a prompt given, else 1].",
    ),
    click.option(
        "--context", type=Count(many=True), default=None,
        help="KV capacity; a list (1k,8k) sweeps [default: as for generate].",
    ),
    click.option("--timing-only", is_flag=True, help="No values: cycles and traffic only; weights are not needed."),
    arithmetic_options,
    launch_option,
    system_options,
    click.option("--layers", type=Layers(), default=None, help="Only these layers, without embedding and head."),
    click.option(
        "--sample-layers", type=Count(), default=None,
        help="GPU: run so many layers, the last of them standing for the rest.",
    ),
    click.option("--stop-at-eos", is_flag=True, help="Stop when every sequence has met the end-of-text token."),
)  # fmt: skip


@click.command("compare", short_help="The same token on several chips, side by side: start here.")
@work_options
@set_option
@ideal_option
@engine_option
@json_option
@click.option("--csv", "csv_file", type=click.Path(), default=None, help="Write one row a chip and sweep point.")
def command(as_json: bool, csv_file: str | None, ideal: str | None, **options: Any) -> None:
    """The same token on several chips, side by side.

    Without options it answers in three blocks: the same tokens of a small real model on both chips, one layer of
    llama-3.1-8b where memory decides, and how far to trust the numbers. Exit code 1 when a token or a logit is
    further from the float64 reference than the error bound.
    """
    from tools.compare import default_comparison, sweep

    console.check_writable(csv_file)
    options["settings"] = with_ideal(ideal, options["chips"], options["settings"])
    given = [name for name in CHOICES if options[name] not in (None, False, ())]
    outcome = sweep(options) if given else default_comparison(options)
    if csv_file is not None and not outcome.failed:
        console.write_file(csv_file, outcome.csv())
    if as_json:
        console.data(console.to_json(outcome.json()))
    elif not outcome.failed:
        console.data(outcome.text())
    if outcome.failed:
        for line in outcome.errors():
            console.message(f"error: {line}")
        raise click.exceptions.Exit(2)
    if wrong := outcome.disagreements():
        for line in wrong:
            console.message(f"comparison failed: {line}")
        raise click.exceptions.Exit(1)
