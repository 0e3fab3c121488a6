"""Which value is on which stream register in which cycle, worked out from a plan without running it.

An eastward value at column p in cycle t keeps t - p while it moves, a westward one t + p. A register is
followed by stream and that number: a value leaves it at the edge, or when another value of the same
stream and number is born downstream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from emulator.lpu.geometry import Geometry
from isa.encoding import decode
from isa.opcodes import ALU_BASE, NO_STREAM, S8, TYPE_BYTES, WEST, code
from tools.plan import Plan

SXM_STREAMS = 16  # of a TRANSPOSE


@dataclass
class Reading:
    """A value is sampled: issue is a number in the plan's issues."""

    cycle: int
    column: int
    issue: int


@dataclass
class Value:
    """A vector on a stream (encoded as in a STREAM field: 32 and more go west) from cycle `born`, where it
    appears at `column`, to cycle `last`. byte: which of its producer's streams; issue: the producer."""

    stream: int
    born: int
    column: int
    byte: int
    issue: int
    last: int
    readings: list[Reading] = field(default_factory=list)

    @property
    def west(self) -> bool:
        return self.stream >= WEST

    def at(self, cycle: int) -> int:
        """Column in a cycle."""
        return self.column + (self.born - cycle if self.west else cycle - self.born)


@lru_cache(maxsize=65536)
def effects(g: Geometry, queue: int, word: int) -> tuple[tuple[int, ...], tuple[int, int, tuple[int, ...]] | None]:
    """(streams that an instruction samples at its issue, what it puts out: (cycles later, column, streams) or None)."""
    op, _, values = decode("lpu", word)
    fields = dict(zip((f.name for f in op.fields("lpu")), values, strict=True))
    column, size = g.column[queue], TYPE_BYTES[fields.get("type", S8)]

    def group(first: int, count: int) -> tuple[int, ...]:
        return tuple(range(first, first + count))

    if op.name in ("READ", "RECV"):
        return (), (0, column, (fields["s"],))
    if op.name in ("WRITE", "SEND"):
        return (fields["s"],), None
    if op.name == "GATHER":
        return (fields["map"],), (g.gather, column, (fields["s"],))
    if op.name == "SCATTER":
        return (fields["s"], fields["map"]), None
    if op.name == "LW":
        return group(fields["s"], fields["rows"] * size), None
    if op.name == "ABC":
        return group(fields["s"], size), None
    if op.name == "ACC":
        return (), (0, column, group(fields["s"], 4))
    if op.unit.startswith("sxm"):
        count = fields.get("streams", SXM_STREAMS)
        done = g.sxm_delay(op.name, fields.get("n", 0))
        return group(fields["src"], count), (done, column, group(fields["dst"], count))
    if op.unit.startswith("alu"):
        operand = TYPE_BYTES[fields.get("from_type", fields["type"])]
        sources = [fields[name] for name in "abc" if name in fields]
        taken = tuple(s + byte for s in sources if s < ALU_BASE for byte in range(operand))
        if fields["dst"] == NO_STREAM:
            return taken, None
        at = -g.result_column if fields["dst"] >= WEST else g.result_column
        return taken, (g.vxm_delay(op.name, not taken), at, group(fields["dst"], size))
    return (), None


def longest_delay(g: Geometry) -> int:
    """No result appears on a stream later than this many cycles after its issue."""
    return max(g.gather, g.vxm_delay("EXP2", False), g.vxm_delay("ADD", False), g.sxm_delay("SHIFT", -512),
               g.sxm_delay("PERMUTE"), g.sxm_delay("DISTRIBUTE"), g.sxm_delay("TRANSPOSE"))


def stream_values(plan: Plan, first: int, end: int) -> list[Value]:
    """Every value that is on a stream in a cycle from `first` to `end` - 1, with all that read it, in order of
    stream and birth. Costs time in proportion to what issues in these cycles."""
    g = plan.g
    crossing = 2 * g.edge + 1
    registers: dict[tuple[int, int], list[Value]] = {}
    readings: list[tuple[int, Reading]] = []
    for issue, cycle, queue, word in _issues(plan, first - crossing - longest_delay(g), end + crossing):
        taken, put = effects(g, queue, word)
        for s in taken:
            readings.append((s, Reading(cycle, g.column[queue], issue)))
        if put is not None:
            delay, column, streams = put
            for byte, s in enumerate(streams):
                value = Value(s, cycle + delay, column, byte, issue, 0)
                value.last = _invariant(s, value.born, column) + g.edge
                registers.setdefault((s, _invariant(s, value.born, column)), []).append(value)
    for values in registers.values():
        values.sort(key=lambda value: value.born)
        for value, following in zip(values, values[1:]):
            value.last = min(value.last, following.born - 1)
    for s, reading in readings:
        for value in registers.get((s, _invariant(s, reading.cycle, reading.column)), ()):
            if value.born <= reading.cycle <= value.last:
                value.readings.append(reading)
    found = [value for values in registers.values() for value in values if value.born < end and value.last >= first]
    return sorted(found, key=lambda value: (value.stream, value.born, value.column))


def _invariant(stream: int, cycle: int, column: int) -> int:
    return cycle + column if stream >= WEST else cycle - column


def _issues(plan: Plan, first: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, cycle, queue, word) of every issue in cycles first .. end - 1."""
    found = plan.issues
    low, high = np.searchsorted(found.cycle, (first, end))
    for number in range(int(low), int(high)):
        if found.opcode[number] not in _CONTROL:
            yield (number, int(found.cycle[number]), int(found.queue[number]),
                   int(plan.text.words[found.index[number]]))


_CONTROL = (code("SYNC"), code("NOTIFY"))
