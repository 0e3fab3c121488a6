"""`decodelab sensitivity`: how a token's time moves with each number of a chip that is not public."""

from __future__ import annotations

from typing import Any

import click

from tools import console
from tools.options import (
    DEFAULT_CHIPS,
    Count,
    Layers,
    arithmetic_options,
    json_option,
    model_option,
    set_option,
    system_options,
)


@click.command("sensitivity", short_help="How a token's time moves with each assumed number of a chip.")
@model_option
@click.option("--chip", default=DEFAULT_CHIPS[0], show_default=True, help="Chip whose assumed numbers are swept.")
@click.option("--number", "numbers", multiple=True, metavar="KEY",
              help="Only this number, such as mxm.latency_cycles; repeatable [default: all with a range].")  # fmt: skip
@click.option("--batch", type=Count(), default=1, show_default=True, help="Sequences in lock step.")
@click.option("--context", type=Count(), default=None, help="KV capacity in positions [default: 1024].")
@arithmetic_options
@system_options
@click.option("--layers", type=Layers(), default=None, help="Only these layers, without embedding and head.")
@set_option
@json_option
def command(numbers: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Set every assumed number of a chip to both ends of its range, compile and run, and print what changes.

    No values are computed, so any model will do. A value that machine or compiler refuse is shown as refused.
    """
    from tools import sensitivity
    from tools.measure import check, chosen_job
    from tools.options import load_chips

    load_chips((options["chip"],), options["settings"])  # refuses a setting for another chip
    job = check(chosen_job(options | {"timing_only": True})).job
    found = sensitivity.measure_sensitivity(job, numbers)
    console.data(console.to_json(sensitivity.as_json(found)) if as_json else sensitivity.as_text(found))
