"""`decodelab microbench`: latencies, rates and launch costs of an emulated GPU beside published ones."""

from __future__ import annotations

import click

from tools import console
from tools.options import ideal_option, json_option, set_option, with_ideal


@click.command("microbench", short_help="A GPU's latencies and rates, emulated beside published.")
@click.option("--chip", "chip_name", default="h100_sxm", show_default=True, help="GPU to measure.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this microbenchmark; repeatable.")
@click.option("--listing", is_flag=True, help="Print the kernels as assembly instead of running them.")
@set_option
@ideal_option
@json_option
def command(
    chip_name: str, only: tuple[str, ...], listing: bool, settings: tuple[str, ...], ideal: str | None, as_json: bool
) -> None:
    """Run small kernels on an emulated GPU, each isolating one mechanism, and print what they measure beside what was
    published for the real chip: about a minute for all."""
    from tools import microbench
    from tools.options import load_chips

    if listing:
        console.data(microbench.listings(only))
        return
    chip = load_chips((chip_name,), with_ideal(ideal, (chip_name,), settings))[0]
    rows = microbench.microbench(chip, only)
    if as_json:
        console.data(console.to_json(microbench.as_json(chip, rows)))
    else:
        console.data(microbench.as_text(chip, rows))
