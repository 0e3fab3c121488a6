"""The roofline of both machines as a picture: operations a second over operations a byte, a point a kernel."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.plot.figure import chip_colours, pyplot, save
from tools.viewer.nodes import nodes, roofs
from tools.viewer.recording import recordings_of

LEVELS = {  # traffic level of a roof -> what is summed over it, and its name
    "hbm_read": (("hbm_read", "hbm_write"), "HBM"),
    "l2_read": (("l2_read", "l2_write"), "L2"),
    "mxm_ingest": (("mxm_ingest",), "weights into the MXM"),
}
NAMED = 8  # points of a chip that bear their name: those that take the longest


@dataclass
class Point:
    """One kernel or graph node over all its layers. operations: two a multiply-accumulate."""

    name: str
    seconds: float = 0.0
    operations: int = 0
    bytes: dict[str, int] = field(default_factory=dict)

    def moved(self, level: str) -> int:
        """Bytes at a level of LEVELS."""
        return sum(self.bytes.get(name, 0) for name in LEVELS[level][0])


@dataclass
class Roofline:
    """A chip's roofs and points. level: the memory level whose bytes are counted."""

    chip: str
    level: str
    bytes_per_second: float
    operations_per_second: dict[str, float]
    points: list[Point]


def rooflines(folder: Path) -> list[Roofline]:
    """One roofline for each trace of a folder. Raises TraceError, ValueError where a chip's numbers are not known."""
    found = []
    for recording in recordings_of([folder]):
        chip, trace = recording.chip, recording.trace
        if chip is None:
            raise ValueError(f"{folder}: the numbers of {trace.chip} that the trace was made with are not known here")
        points: dict[str, Point] = {}
        for node in nodes(trace, chip):
            name = re.sub(r"^layers\.\d+\.", "", node.name)
            point = points.setdefault(name, Point(name))
            point.seconds += node.cycles / recording.clock_hz
            point.operations += 2 * node.macs
            for level, count in node.bytes.items():
                point.bytes[level] = point.bytes.get(level, 0) + count
        ceilings = roofs(chip)
        # the level next to the memory through which most of the time's operands came: weights may lie in L2
        working = [p for p in points.values() if p.operations]
        covered = {name: sum(p.seconds for p in working if p.moved(name)) for name in LEVELS
                   if name in ceilings["bytes"]}
        half = sum(p.seconds for p in working) / 2
        known = next((name for name, seconds in covered.items() if seconds > 0 and seconds >= half), None)
        if known is None:
            raise ValueError(f"{folder}: nothing that {trace.chip} did has both multiply-accumulates and bytes; "
                             "record issue events and traffic (decodelab trace without --kinds)")
        shown = [p for p in points.values() if p.operations and p.moved(known) and p.seconds]
        found.append(Roofline(trace.chip, known, ceilings["bytes"][known], ceilings["operations"], shown))
    return found


def plot(folder: Path, output: Path) -> None:
    """Draw the rooflines of a trace folder in one picture."""
    found = rooflines(folder)
    colours = chip_colours([one.chip for one in found])
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    everything = [(p.operations / p.moved(one.level), p.operations / p.seconds) for one in found for p in one.points]
    low = min(min(x for x, _ in everything), 0.5) / 2
    high = max(*(x for x, _ in everything),
               *(max(one.operations_per_second.values()) / one.bytes_per_second for one in found)) * 4
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(min(y for _, y in everything) / 3, 3 * max(max(one.operations_per_second.values()) for one in found))
    for one in found:
        _draw(axes, one, colours[one.chip], low, high)
    _names(figure, axes, found)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: rate_words(value))
    axes.grid(True, which="major", alpha=0.25)
    axes.set_xlabel("operations a byte (two a multiply-accumulate, padding included)")
    axes.set_ylabel("operations a second")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    save(figure, output)


def _draw(axes: Any, one: Roofline, colour: str, low: float, high: float) -> None:
    rate, best = one.bytes_per_second, max(one.operations_per_second.values())
    axes.plot([low, best / rate], [rate * low, best], color=colour, linewidth=1.5,
              label=f"{one.chip}: {LEVELS[one.level][1]} {rate / 1e12:,.3g} TB/s")
    for name, operations in one.operations_per_second.items():
        axes.plot([operations / rate, high], [operations] * 2, color=colour, linewidth=1.2,
                  linestyle="-" if operations == best else "--")
        axes.annotate(f"{name} {operations / 1e12:,.0f} Top/s", (high, operations), (-2, 3),
                      textcoords="offset points", ha="right", fontsize=7, color=colour)
    longest = max(p.seconds for p in one.points)
    for p in one.points:
        axes.scatter([p.operations / p.moved(one.level)], [p.operations / p.seconds], color=colour, alpha=0.75,
                     s=12 + 90 * p.seconds / longest, edgecolors="none", zorder=3)


def rate_words(value: float) -> str:
    """Operations a second in the largest unit that fits: 1e13 -> "10 Top/s"."""
    for unit, word in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= unit:
            return f"{value / unit:g} {word}op/s"
    return f"{value:g} op/s"


def _names(figure: Any, axes: Any, found: list[Roofline]) -> None:
    """Names of the points that take longest, where there is room: to the right or left, above or below."""
    figure.canvas.draw()  # places the axes
    taken: list[tuple[float, float, float, float]] = []
    for one in found:
        for p in sorted(one.points, key=lambda p: (-p.seconds, p.name))[:NAMED]:
            at = (p.operations / p.moved(one.level), p.operations / p.seconds)
            x, y = (value * 72 / figure.dpi for value in axes.transData.transform(at))  # points
            width = 4.2 * len(p.name)
            for right, up in ((True, 4), (True, -10), (False, 4), (False, -10), (True, 13), (True, -19)):
                left = x + 6 if right else x - 6 - width
                box = (left, y + up, left + width, y + up + 7)
                if not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                    taken.append(box)
                    axes.annotate(p.name, at, (6 if right else -6, up), textcoords="offset points", fontsize=7,
                                  ha="left" if right else "right")
                    break
