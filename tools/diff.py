"""What changed between two results, biggest first, and whether a watched counter rose."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from tools.diff_read import DiffError, Entry
from tools.report import size, table

SCHEMA = "decodelab.diff/1"
WATCHED = ("cycles",)
SECTIONS = {  # beginning of a counter's name -> heading, in the order of the screen
    "cycles": "cycles",
    "kernel.": "cycles by kernel",
    "cause.": "cycles by cause",
    "time.": "cycles by layer, kernel and cause",
    "waterfall.": "steps from the floor to the total, cycles",
    "stalls.": "unit cycles waited, by kernel and reason",
    "units.": "unit cycles by class and bucket",
    "traffic.": "bytes moved, by level",
    "counters.": "other counters",
}


@dataclass(frozen=True)
class Change:
    """A counter's two values."""

    counter: str
    a: int
    b: int

    @property
    def by(self) -> int:
        return self.b - self.a

    @property
    def percent(self) -> float | None:
        """Change in per cent of a; None from nothing to something."""
        if self.a == 0:
            return 0.0 if self.b == 0 else None
        return 100.0 * self.by / abs(self.a)

    def rose_over(self, tolerance: float) -> bool:
        """Whether it rose by more than `tolerance` per cent."""
        return self.by > 0 and (self.percent is None or self.percent > tolerance)

    def told(self) -> str:
        """The change in per cent, in words."""
        return "new" if self.percent is None else f"{self.percent:+.2f} %"

    def json(self) -> dict[str, Any]:
        """Plain data."""
        return {"counter": self.counter, "a": self.a, "b": self.b, "change": self.by, "percent": self.percent}


@dataclass
class Pair:
    """The same chip and work in both results."""

    a: Entry
    b: Entry
    changes: list[Change]  # every counter that either has, those that differ and those that do not
    watched: list[Change]

    @property
    def name(self) -> str:
        """What tells the pair from others; both names where they differ."""
        one, other = ", ".join(self.a.name), ", ".join(self.b.name)
        return one if one == other else f"{one} -> {other}"

    def differing(self) -> list[Change]:
        """Counters that differ, by section, biggest first; units' idle cycles, which follow the total, last."""
        order = list(SECTIONS)
        found = [change for change in self.changes if change.by]
        return sorted(found, key=lambda c: (order.index(section(c.counter)), c.counter.endswith(".idle"),
                                             -abs(c.by), c.counter))


@dataclass
class Difference:
    """Everything that a diff found. only_b: results that A does not have."""

    pairs: list[Pair]
    tolerance: float
    only_b: list[Entry]

    def failures(self) -> list[tuple[Pair, Change]]:
        """Watched counters that rose by more than the tolerance."""
        return [(pair, c) for pair in self.pairs for c in pair.watched if c.rose_over(self.tolerance)]

    def json(self) -> dict[str, Any]:
        """Plain data, of the schema SCHEMA."""
        return {
            "schema": SCHEMA,
            "tolerance_percent": self.tolerance,
            "passed": not self.failures(),
            "chips": [
                {
                    "chip": pair.b.chip, "name": pair.name,
                    "watched": [c.json() | {"rose": c.rose_over(self.tolerance)} for c in pair.watched],
                    "changes": [c.json() for c in pair.differing()],
                    "made_with": made_with(pair),
                }
                for pair in self.pairs
            ],
            "only_in_b": [list(entry.name) for entry in self.only_b],
        }  # fmt: skip


def section(counter: str) -> str:
    """Key of SECTIONS that a counter belongs to."""
    return next(start for start in SECTIONS if counter.startswith(start))


def compare(a: Sequence[Entry], b: Sequence[Entry], watch: Sequence[str] = WATCHED,
            tolerance: float = 0.0) -> Difference:
    """Pair the results of two runs and compare every counter.

    Results belong together that have the same chip, model, context and batch; if each side has one result only, these
    two, whatever they are. Raises DiffError where B lacks a result of A, or nothing has a watched counter.
    """
    if len(a) == len(b) == 1:
        pairs = [(a[0], b[0])]
    else:
        other = {entry.name: entry for entry in b}
        for entry in a:
            if entry.name not in other:
                raise DiffError(f"B has no result for {', '.join(entry.name)}; it has "
                                f"{'; '.join(', '.join(name) for name in other)}")
        pairs = [(entry, other[entry.name]) for entry in a]
    found = [_pair(one, two, watch) for one, two in pairs]
    for pattern in watch:
        if not any(fnmatchcase(change.counter, pattern) for pair in found for change in pair.watched):
            known = sorted({change.counter for pair in found for change in pair.changes})
            near = difflib.get_close_matches(pattern, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:8])}"
            raise DiffError(f"--watch {pattern}: no such counter; {hint}")
    names = {entry.name for entry in a}
    only = [] if len(a) == len(b) == 1 else [entry for entry in b if entry.name not in names]
    return Difference(found, tolerance, only)


def _pair(a: Entry, b: Entry, watch: Sequence[str]) -> Pair:
    # What only one side measured (a trace has more than a `run`) is no change; a counter of a group that both have is.
    groups = [{section(name) for name in entry.counters} for entry in (a, b)]
    names = [name for name in dict.fromkeys([*a.counters, *b.counters]) if all(section(name) in g for g in groups)]
    if a.facts.get("window") != b.facts.get("window") and not same_share(a, b):
        names = [name for name in names if not name.startswith("stalls.")]
    changes = [Change(name, a.counters.get(name, 0), b.counters.get(name, 0)) for name in names]
    return Pair(a, b, changes, [c for c in changes if any(fnmatchcase(c.counter, pattern) for pattern in watch)])


def same_share(a: Entry, b: Entry) -> bool:
    """Whether both traces recorded their whole step, however long it was."""
    return all(entry.facts.get("window") == f"0:{entry.counters['cycles']}" for entry in (a, b))


def made_with(pair: Pair) -> list[str]:
    """What the two results were not made with alike, in words."""
    words = {"chip_hash": "the chip's numbers differ", "program_hash": "the programs differ"}
    found = []
    for key in dict.fromkeys([*pair.a.facts, *pair.b.facts]):
        one, other = pair.a.facts.get(key), pair.b.facts.get(key)
        if one is None or other is None or one == other:
            continue
        if key != "window":
            found.append(words.get(key, f"{key}: {one} -> {other}"))
        elif not same_share(pair.a, pair.b):
            found.append(f"other cycles were recorded ({one} -> {other}), so stalls by kernel are not compared")
    return found


def text(found: Difference, most: int) -> str:
    """The screen: for each chip its cycles, then what changed, `most` lines a section."""
    lines: list[str] = []
    for pair in found.pairs:
        total = next(c for c in pair.changes if c.counter == "cycles")
        change = "unchanged" if not total.by else f"{total.by:+,} ({total.told()})"
        lines.append(f"{pair.name}: {total.a:,} -> {total.b:,} cycles, {change}")
        lines += [f"  {words}" for words in made_with(pair)]
        differing = [c for c in pair.differing() if c.counter != "cycles"]
        if not differing:
            lines.append("  no other counter differs")
        for start, heading in SECTIONS.items():
            part = [c for c in differing if section(c.counter) == start]
            if not part:
                continue
            lines.append(f"  {heading}")
            rows = [[c.counter.removeprefix(start), f"{c.a:,}", "->", f"{c.b:,}", f"{c.by:+,}", c.told(),
                     size(abs(c.by)) if start == "traffic." else ""] for c in part[:most]]
            lines.append(_right(rows))
            if len(part) > most:
                lines.append(f"    and {len(part) - most} smaller (--all)")
    if found.only_b:
        lines.append("only in B: " + "; ".join(", ".join(entry.name) for entry in found.only_b))
    return "\n".join(lines)


def _right(rows: list[list[str]]) -> str:
    """Rows as a table whose number columns stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return table([[row[0], *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))] for row in rows], indent=4)
