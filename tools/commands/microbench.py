"""`decodelab microbench`: latencies, rates and launch costs of an emulated GPU beside published ones."""

from __future__ import annotations

import click

from tools import console
from tools.options import ideal_option, json_option, set_option, with_ideal

DEFAULT_CHIP = "h100_sxm"


@click.command("microbench", short_help="A GPU's latencies and rates, emulated beside published.")
@click.option("--chip", "chip_name", default=None, help=f"GPU to measure [default: {DEFAULT_CHIP}].")
@click.option("--only", multiple=True, metavar="NAME", help="Only this microbenchmark; repeatable.")
@click.option("--listing", is_flag=True, help="Print the kernels as assembly instead of running them.")
@set_option
@ideal_option
@json_option
def command(
    chip_name: str | None, only: tuple[str, ...], listing: bool, settings: tuple[str, ...], ideal: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Run small kernels on an emulated GPU, each isolating one mechanism, and print what they measure beside what was
    published for the real chip: about a minute for all."""
    from tools import microbench
    from tools.options import load_chips

    if listing:
        for option, value in (("--chip", chip_name), ("--set", settings), ("--ideal", ideal), ("--json", as_json)):
            if value:
                raise ValueError(f"{option} makes no sense with --listing: kernels are printed as text, and none runs")
        console.data(microbench.listings(only))
        return
    names = (chip_name or DEFAULT_CHIP,)
    chip = load_chips(names, with_ideal(ideal, names, settings))[0]
    rows = microbench.microbench(chip, only)
    if as_json:
        console.data(console.to_json(microbench.as_json(chip, rows)))
    else:
        console.data(microbench.as_text(chip, rows))
