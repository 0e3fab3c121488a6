"""`decodelab chips`: the chips that can be emulated, and where each of their numbers comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tools import console
from tools.options import json_option, set_option

if TYPE_CHECKING:
    from emulator.chip import Chip


@click.command("chips")
@click.argument("name", required=False)
@set_option
@json_option
def command(name: str | None, settings: tuple[str, ...], as_json: bool) -> None:
    """List the chips; with NAME show every number of one, with unit, status and source."""
    from tools.options import load_chip_with, split_setting

    if name is None:
        if settings:
            raise ValueError(f"--set {settings[0]}: name the chip to show, as in: decodelab chips h100_sxm")
        _list(as_json)
        return
    for setting in settings:
        if split_setting(setting)[0] != name:
            raise ValueError(f"--set {setting}: only {name} is shown here")
    chip = load_chip_with(name, settings)
    check_numbers(chip)
    _show(chip, as_json)


def check_numbers(chip: Chip) -> None:
    """Raise ChipError for numbers that no machine can have."""
    from emulator.lpu.geometry import geometry
    from tools.predict_gpu import check_machine

    (geometry if chip.kind == "lpu" else check_machine)(chip)


def _list(as_json: bool) -> None:
    from emulator.chip import STATUSES, chip_names, load_chip
    from tools.report import table

    chips = [load_chip(name) for name in chip_names()]
    if as_json:
        entries = [
            {"chip": c.name, "kind": c.kind, "title": c.title, "hash": c.hash, "numbers": c.status_counts()}
            for c in chips
        ]
        console.data(console.to_json({"schema": "decodelab.chips/1", "chips": entries}))
        return
    rows = [[c.name, c.kind, *c.status_counts().values(), c.title] for c in chips]
    console.data(table(rows, ["chip", "kind", *STATUSES, "what it is"]))
    console.data("\nEvery number with its source: decodelab chips NAME")


def _show(chip: Chip, as_json: bool) -> None:
    from tools.report import table

    if as_json:
        numbers = {
            key: {"value": n.value, "unit": n.unit, "status": n.status, "source": n.source}
            | ({"range": list(n.range)} if n.range else {})
            for key, n in chip.numbers.items()
        }
        head = {"schema": "decodelab.chip/1", "chip": chip.name, "kind": chip.kind, "title": chip.title}
        queues = {"queues": list(queue_names(chip))} if chip.kind == "lpu" else {}
        console.data(console.to_json(head | {"hash": chip.hash, "numbers": numbers} | queues))
        return
    counts = ", ".join(f"{count} {status}" for status, count in chip.status_counts().items() if count)
    console.data(f"{chip.name} ({chip.kind}): {chip.title}\n{len(chip.numbers)} numbers: {counts}; hash {chip.hash}\n")
    rows = []
    for key, n in chip.numbers.items():
        value = f"{n.value:,}" if isinstance(n.value, int) and n.value >= 10_000 else str(n.value)
        spread = f" ({n.range[0]:g} to {n.range[1]:g})" if n.range else ""
        rows.append([key, value, n.unit, n.status + spread, n.source])
    console.data(table(rows, ["number", "value", "unit", "status (range)", "source"]))
    if chip.kind == "lpu":
        console.data(f"\nQueues, as assembly names them: {ranges(queue_names(chip))}")
    console.data(f"\nWhat if: decodelab compare --set {chip.name}.{rows[0][0]}=VALUE")


def queue_names(chip: Chip) -> Sequence[str]:
    """Queues of an LPU, in their order."""
    from emulator.lpu.geometry import geometry

    return geometry(chip).queue_names


def ranges(names: Sequence[str]) -> str:
    """Numbered names by their first and last: MEM.W0..MEM.W43, VXM0..VXM15, MXM0.LW..MXM3.LW."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub("[0-9]+", "#", name), []).append(name)
    return ", ".join(group[0] if len(group) == 1 else f"{group[0]}..{group[-1]}" for group in groups.values())
