"""Cycles and bytes of a decode step against batch or context, one line a chip, from a sweep of `compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.plot.figure import chip_colours, entries, pyplot, save
from tools.report import size

MADE_BY = "decodelab compare --batch 1,8,64 --json (or --context 1k,8k)"
MEMORY = ("hbm_read", "hbm_write", "sram_read", "sram_write")  # where weights and KV live, on either machine
MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class Measured:
    """One chip at one point. bytes: from and to its main memory, a token."""

    chip: str
    batch: int
    context: int
    cycles: int
    bytes: float


def measured(path: Path) -> tuple[str, list[Measured]]:
    """(model, every result of a sweep); chips that could not run are left out. Raises ValueError."""
    found = entries(path, "decodelab.compare/1", MADE_BY)
    points: list[Any] = found["points"] if isinstance(found.get("points"), list) else [found]
    rows = []
    try:
        for point in points:
            for one in point["chips"]:
                if "error" in one:
                    continue
                moved = sum(int(one["traffic_bytes"].get(level, 0)) for level in MEMORY)
                batch = int(one["batch"])
                rows.append(Measured(str(one["chip"]), batch, int(one["context"]), int(one["cycles_per_token"]),
                                     moved / batch))
        model = str(points[0]["model"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise ValueError(f"{path}: not a whole result; make it again with {MADE_BY}") from None
    if not rows:
        raise ValueError(f"{path}: no chip has a result")
    return model, rows


def axis_of(path: Path, rows: list[Measured], against: str | None) -> str:
    """"batch" or "context": what was asked for, else what varies (context where both do). Raises ValueError."""
    varying = [name for name in ("context", "batch") if len({getattr(row, name) for row in rows}) > 1]
    if against is None:
        if not varying:
            raise ValueError(f"{path}: one point only; sweep with {MADE_BY}")
        return varying[0]
    if against not in varying:
        raise ValueError(f"--against {against}: {path} has one {against} only; sweep with {MADE_BY}")
    return against


def plot(path: Path, output: Path, against: str | None = None) -> None:
    """Draw a sweep: cycles of a step, and bytes from and to memory a token."""
    model, rows = measured(path)
    x = axis_of(path, rows, against)
    other = "batch" if x == "context" else "context"
    lines = list(dict.fromkeys((row.chip, getattr(row, other)) for row in rows))
    others = sorted({value for _, value in lines})
    colours = chip_colours([chip for chip, _ in lines])
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for chip, value in lines:
        mine = sorted((row for row in rows if (row.chip, getattr(row, other)) == (chip, value)),
                      key=lambda row: int(getattr(row, x)))
        told = chip + (f", {other} {value:,}" if len(others) > 1 else "")
        look = {"color": colours[chip], "marker": MARKERS[others.index(value) % len(MARKERS)], "markersize": 4,
                "label": told, "linestyle": ("-", "--", ":", "-.")[others.index(value) % 4]}
        at = [getattr(row, x) for row in mine]
        left.plot(at, [row.cycles for row in mine], **look)
        right.plot(at, [row.bytes for row in mine], **look)
    from matplotlib.ticker import FixedLocator, LogLocator

    for axes, title, word in ((left, "cycles of a step", "{:,.0f}".format), (right, "memory traffic of a token", size)):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted({getattr(row, x) for row in rows})))
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.yaxis.set_major_formatter(lambda value, _, word=word: word(value))
        axes.grid(True, alpha=0.3)
        axes.set_title(title, loc="left")
        axes.set_xlabel({"batch": "batch: sequences, each gets a token", "context": "context: positions read"}[x])
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=min(4, len(lines)), fontsize=8)
    figure.suptitle(model + (f", {other} {others[0]:,}" if len(others) == 1 else ""), fontsize=10)
    save(figure, output)
