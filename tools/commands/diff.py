"""`decodelab diff`: what changed between two results; a performance gate."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console
from tools.options import Finite, Names, json_option

SHOWN = 8  # lines a section


@click.command("diff", short_help="What changed between two traces or results; a performance gate.")
@click.argument("a", metavar="A", type=click.Path(path_type=Path))
@click.argument("b", metavar="B", type=click.Path(path_type=Path))
@click.option("--watch", type=Names(), default="cycles", show_default=True, metavar="COUNTER,...",
              help="Counters that must not rise: cycles, traffic.hbm_read, units.sub_core.*; * stands for anything.")
@click.option("--tolerance", type=Finite(0, 1e9), default=0.0, show_default=True, metavar="PERCENT",
              help="By how much a watched counter may rise.")
@click.option("--all", "everything", is_flag=True, help="Every counter that differs, not only the biggest changes.")
@json_option
def command(a: Path, b: Path, watch: tuple[str, ...], tolerance: float, everything: bool, as_json: bool) -> None:
    """Name what changed from A to B: cycles, by kernel and cause, stalls by reason, traffic by level.

    A and B are trace folders, or JSON that `compare`, `explain`, `run` or `generate` wrote with --json. Exit code 1
    when a watched counter rose by more than the tolerance on any chip.
    """
    from tools.diff import compare, text
    from tools.diff_read import read

    if not watch:
        raise ValueError("--watch names no counter")
    found = compare(read(a), read(b), watch, tolerance)
    console.data(console.to_json(found.json()) if as_json else text(found, 10**9 if everything else SHOWN))
    if failures := found.failures():
        for pair, change in failures:
            console.message(f"rose: {pair.name}: {change.counter} {change.a:,} -> {change.b:,} ({change.told()}, "
                            f"tolerance {tolerance:g} %)")
        raise click.exceptions.Exit(1)
