"""The waterfall as a picture: from the floor to the emulated time, one limit after another, a panel a chip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.plot.figure import FALL, RISE, TOTAL, entries, pyplot, save
from tools.report import seconds

MADE_BY = "decodelab explain --json"


def waterfalls(path: Path) -> list[dict[str, Any]]:
    """The chips of an `explain` file: chip, cycles, seconds (None unknown), steps [(name, cycles)]. Raises ValueError
    for another file, or steps that do not add up to the cycles."""
    found = []
    for one in entries(path, "decodelab.explain/1", MADE_BY).get("chips", []):
        if "error" in one:
            continue
        try:
            steps = [(str(step["name"]), int(step["cycles"])) for step in one["waterfall"]]
            chip, cycles, clock = str(one["chip"]), int(one["cycles_per_token"]), one.get("clock_hz")
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: a chip has no whole waterfall; make it again with {MADE_BY}") from None
        if sum(count for _, count in steps) != cycles:
            raise ValueError(f"{path}: the steps of {chip} do not add up to its {cycles:,} cycles")
        found.append({"chip": chip, "cycles": cycles, "seconds": cycles / clock if clock else None, "steps": steps})
    if not found:
        raise ValueError(f"{path}: no chip has a waterfall")
    return found


def spans(steps: list[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """(name, from, to) of each step's bar: it begins where the one before ended; a negative step goes back."""
    found, at = [], 0
    for name, count in steps:
        found.append((name, at, at + count))
        at += count
    return found


def plot(path: Path, output: Path) -> None:
    """Draw the waterfalls of an `explain` file."""
    chips = waterfalls(path)
    plt = pyplot()
    rows = [len(chip["steps"]) + 1 for chip in chips]
    figure, panels = plt.subplots(len(chips), 1, figsize=(8, 0.6 * len(chips) + 0.34 * sum(rows)), squeeze=False,
                                  height_ratios=rows, layout="constrained")
    for axes, chip in zip(panels[:, 0], chips):
        _draw(axes, chip)
    panels[-1, 0].set_xlabel("cycles of one decode step")
    save(figure, output)


def _draw(axes: Any, chip: dict[str, Any]) -> None:
    bars = spans(chip["steps"])
    for y, (_, start, end) in enumerate(bars):
        colour = TOTAL if y == 0 else RISE if end >= start else FALL
        axes.barh(y, end - start, left=start, height=0.72, color=colour)
        told = f"{end - start:,}" if y == 0 else f"{end - start:+,}"
        axes.annotate(told, (max(start, end), y), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axes.plot([end, end], [y, y + 1], color="gray", linewidth=0.6)
    axes.barh(len(bars), chip["cycles"], height=0.72, color=TOTAL)
    axes.annotate(f"{chip['cycles']:,}", (chip["cycles"], len(bars)), (4, 0), textcoords="offset points", va="center",
                  fontsize=8)
    axes.set_yticks(range(len(bars) + 1), [*(name for name, _, _ in bars), "emulated"])
    axes.invert_yaxis()
    farthest = max(max(start, end) for _, start, end in bars)
    axes.set_xlim(0, 1.14 * max(farthest, chip["cycles"]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_title(chip["chip"] + (f": {seconds(chip['seconds'])}" if chip["seconds"] else ""), loc="left")
