"""`decodelab explain`: why a token takes as long as it does, from the floor to the emulated time."""

from __future__ import annotations

import sys
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
    prompt_options,
    set_option,
    system_options,
    with_ideal,
)


@click.command("explain", short_help="Why a token takes as long as it does: floor, one limit after another, total.")
@click.option("--model", default=None, help=f"Name, folder or .gguf file [default: {DEFAULT_MODEL}].")
@click.option(
    "--chip", "chips", multiple=True,
    help=f"Chip to run on; repeatable, in output order [default: {', '.join(DEFAULT_CHIPS)}].",
)
@prompt_options
@click.option("--batch", type=Count(), default=None, help="Sequences [default: one a prompt given, else 1].")
@click.option("--context", type=Count(), default=None, help="KV capacity [default: as for generate].")
@click.option("--timing-only", is_flag=True, help="No values: cycles and traffic only; weights are not needed.")
@arithmetic_options
@launch_option
@system_options
@click.option("--layers", type=Layers(), default=None, help="Only these layers, without embedding and head.")
@click.option(
    "--sample-layers", type=Count(), default=None,
    help="GPU: run so many layers, the last of them standing for the rest [default: 2 where there are more than 8].",
)
@click.option("--full", is_flag=True, help="Run every layer.")
@click.option("--stop-at-eos", is_flag=True, help="Stop when every sequence has met the end-of-text token.")
@set_option
@ideal_option
@engine_option
@json_option
@click.option("--csv", "csv_file", type=click.Path(), default=None, help="Write one row a chip and step.")
def command(as_json: bool, csv_file: str | None, ideal: str | None, full: bool, **options: Any) -> None:
    """Why a token takes as long as it does.

    The floor is what bytes and operations alone would take. Then the chip is run without any of its limits, with one
    of them, with two, until it is the chip itself: what each adds is its step, and the steps add up to the total,
    exactly. In words, as a table, as a chart, with advice; every cycle by layer, kernel and cause with --json.
    """
    from tools.explain import explain
    from tools.explain_view import csv_text, text
    from tools.measure import disagreement

    console.check_writable(csv_file)
    options["settings"] = with_ideal(ideal, options["chips"], options["settings"])
    found = explain(options, full)
    failed = all("error" in entry for entry in found["chips"])
    if csv_file is not None and not failed:
        console.write_file(csv_file, csv_text(found))
    if as_json:
        console.data(console.to_json(found))
    elif not failed:
        console.data(text(found, console.is_utf8(sys.stdout), options["timing_only"]))
    if failed:
        for reason in dict.fromkeys(e["error"] for e in found["chips"]):
            console.message(f"error: {reason}")
        raise click.exceptions.Exit(2)
    if wrong := [told for told in map(disagreement, found["chips"]) if told is not None]:
        for line in wrong:
            console.message(f"comparison failed: {line}")
        raise click.exceptions.Exit(1)
