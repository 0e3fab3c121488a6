"""Who uses what when: reservation masks of every resource of one LPU, and the search for free places.

A resource's mask is one Python integer; bit t + BIAS is set when the resource is taken in cycle t.
Streams are taken by invariant (see emulator.lpu.geometry), so that a value in flight is one bit, and
by segment of the chip (a column of slices), so that a value only takes the way from its producer to
its last reader.

A use is (resource, offset, span, mode): the resource is needed in cycles t + offset .. + span - 1 of
something placed at t. Mode CHECK only looks, MARK only reserves, BOTH does both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from emulator.lpu.geometry import MXM_ABC, MXM_ACC, MXM_LW, Geometry
from isa.opcodes import PORTS

BIAS = 512  # room for invariants and operands before cycle 0
BOTH, CHECK, MARK = 0, 1, 2
Use = tuple[int, int, int, int]
EAST, WEST = 0, 1  # directions
FAILURES, STEPS = 64, 400  # times and combinations tried before a pattern is held to be impossible
FAR = 1 << 17  # cycles that a search goes forward before it gives up


class Resources:
    """Numbers of all resources of a chip, and the uses that make up streams and memory accesses."""

    def __init__(self, g: Geometry) -> None:
        self.g = g
        self.outer = max(abs(c) for c in g.column[: g.slices]) + 1  # columns beyond the slices are one segment
        self.segments = 2 * self.outer
        self.slice0 = 2 * g.streams * self.segments
        self.queue0 = self.slice0 + 6 * g.slices
        self.alu0 = self.queue0 + g.queues
        self.link0 = self.alu0 + 16
        self.finish0 = self.link0 + PORTS
        self.count = self.finish0 + 16

    def kind(self, resource: int) -> str:
        """Reason in emulator.accounting.LPU_REASONS for waiting for a resource."""
        if resource < self.slice0:
            return "stream"
        return "port" if resource < self.queue0 else "network" if self.link0 <= resource < self.finish0 else "unit"

    def segment(self, direction: int, column: int) -> int:
        """Segment of a column, from west to east; column 0 belongs to the side that a value comes from."""
        if column == 0:
            column = -1 if direction == EAST else 1
        far = min(abs(column), self.outer)
        return self.outer + far - 1 if column > 0 else self.outer - far

    def flow(self, direction: int, stream: int, start: int, end: int, offset: int, span: int) -> list[Use]:
        """A value on `stream` at column start at `offset`, alive up to column end."""
        low, high = sorted((self.segment(direction, start), self.segment(direction, end)))
        invariant = offset - start if direction == EAST else offset + start
        base = (direction * self.g.streams + stream) * self.segments
        return [(base + s, invariant, span, BOTH) for s in range(low, high + 1)]

    def read(self, slice_number: int, bank: int, offset: int, span: int, whole: bool = False) -> list[Use]:
        """A READ, repeated without gaps; bank -1 (or whole, a GATHER): both banks."""
        return self._access(slice_number, bank, offset, span, 0, 2, 4, whole)

    def write(self, slice_number: int, bank: int, offset: int, span: int, whole: bool = False) -> list[Use]:
        """A WRITE (whole: SCATTER)."""
        return self._access(slice_number, bank, offset, span, 1, 4, 2, whole)

    def _access(self, slice_number: int, bank: int, offset: int, span: int, port: int, own: int, other: int,
                whole: bool) -> list[Use]:
        base = self.slice0 + 6 * slice_number
        uses = [(self.queue0 + slice_number, offset, 1, BOTH), (base + port, offset, span, BOTH)]
        for b in (0, 1) if bank < 0 or whole else (bank,):
            uses.append((base + other + b, offset, span, CHECK))
            uses.append((base + own + b, offset, span, MARK))
        return uses

    def queue(self, queue: int, offset: int, span: int) -> Use:
        return (self.queue0 + queue, offset, span, BOTH)

    def link(self, port: int, offset: int) -> Use:
        """A SEND over a port, which then is taken for a slot."""
        return (self.link0 + port, offset, self.g.slot, BOTH)

    def alu(self, alu: int, issue: int, execute: int, span: int) -> list[Use]:
        """Issue slot and execution slot of a VXM instruction."""
        return [(self.queue0 + self.g.vxm_queue(alu), issue, span, BOTH), (self.alu0 + alu, execute, span, BOTH)]

    def finish(self, alu: int, result: int, span: int) -> list[Use]:
        """Slot in which an ALU's operation ends; where all operations take equally long, none can meet another."""
        return [(self.finish0 + alu, result, span, BOTH)] if self.g.special != self.g.op else []

    def matrix_queues(self, plane: int) -> tuple[int, int, int]:
        return tuple(self.g.mxm_queue(plane, kind) for kind in (MXM_LW, MXM_ABC, MXM_ACC))  # type: ignore[return-value]


@dataclass
class Alternative:
    """One way to fill a choice: its uses, and a tag for the caller."""

    uses: list[Use]
    tag: tuple[int, ...] = ()


@dataclass
class Placement:
    """Where something went: cycle, what it waited for ("data" when nothing was in the way), chosen alternatives."""

    time: int
    reason: str
    chosen: list[int] = field(default_factory=list)


class Board:
    """Masks of all resources."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.masks = [0] * resources.count

    def conflicts(self, uses: Iterable[Use], start: int, width: int) -> int:
        """Bit i is set when placing at start + i would meet something reserved."""
        masks, found = self.masks, 0
        for resource, offset, span, mode in uses:
            if mode == MARK:
                continue
            busy = masks[resource] >> (start + offset + BIAS)
            if busy:
                busy &= (1 << (width + span)) - 1
                done = 1
                while done < span:
                    step = min(done, span - done)
                    busy |= busy >> step
                    done += step
                found |= busy
        return found & ((1 << width) - 1)

    @staticmethod
    def clash(uses: Iterable[Use]) -> int | None:
        """A resource that a pattern needs twice in one cycle, None when there is none."""
        taken: dict[int, int] = {}
        checked: dict[int, int] = {}
        for resource, offset, span, mode in uses:
            bits = ((1 << span) - 1) << (offset + BIAS)
            if mode != MARK and taken.get(resource, 0) & bits or mode != CHECK and checked.get(resource, 0) & bits:
                return resource
            if mode != CHECK:
                taken[resource] = taken.get(resource, 0) | bits
            if mode != MARK:
                checked[resource] = checked.get(resource, 0) | (bits if mode == CHECK else 0)
        return None

    def mark(self, uses: Iterable[Use], time: int) -> None:
        masks = self.masks
        for resource, offset, span, mode in uses:
            if mode != CHECK:
                masks[resource] |= ((1 << span) - 1) << (time + offset + BIAS)

    def find(self, fixed: list[Use], choices: list[list[Alternative]], start: int, *, limit: int | None = None,
             agree: Callable[[list[int]], bool] | None = None, checked: bool = False) -> Placement | None:
        """First time >= start at which `fixed` and one alternative of every choice are free.

        Alternatives of different choices must not disturb each other; `agree` may refuse a partial
        list of chosen indices. None when nothing is found up to `limit`. Marks nothing. checked: the
        caller knows that `fixed` does not clash with itself.
        """
        begin, width, failed = start, 64, 0
        limit = start + FAR if limit is None else limit
        twice = None if checked else self.clash(fixed)
        if twice is not None:
            raise AssertionError(f"a pattern needs resource {twice} twice in one cycle")
        while start <= limit:
            blocked = self.conflicts(fixed, start, width)
            table: list[list[int]] = []
            full = (1 << width) - 1
            for choice in choices:
                if blocked == full:
                    break
                masks = [self.conflicts(a.uses, start, width) for a in choice]
                every = full
                for mask in masks:
                    every &= mask
                blocked |= every
                table.append(masks)
            free = ~blocked & full
            while free:
                bit = (free & -free).bit_length() - 1
                free &= free - 1
                if start + bit > limit:
                    return None
                chosen = _combine(choices, table, bit, agree) if choices else []
                if chosen is None:
                    failed += 1
                    if failed > FAILURES:
                        return None
                else:
                    time = start + bit
                    return Placement(time, "data" if time == begin else self._blame(fixed, choices, time - 1), chosen)
            start += width
            width = min(4 * width, 4096)
        return None

    def _blame(self, fixed: list[Use], choices: list[list[Alternative]], time: int) -> str:
        """What kind of resource was in the way at `time`."""
        for use in fixed:
            if self.conflicts((use,), time, 1):
                return self.resources.kind(use[0])
        for choice in choices:
            for use in choice[0].uses:
                if self.conflicts((use,), time, 1):
                    return self.resources.kind(use[0])
        return "stream"


def _combine(choices: list[list[Alternative]], table: list[list[int]], bit: int,
             agree: Callable[[list[int]], bool] | None) -> list[int] | None:
    """An alternative for every choice that is free at `bit`, none disturbing another; None if there is none."""
    chosen: list[int] = []
    own: dict[int, int] = {}
    steps = [0]

    def extend(k: int) -> bool:
        if k == len(choices):
            return True
        steps[0] += 1
        if steps[0] > STEPS:
            return False
        for index, alternative in enumerate(choices[k]):
            if table[k][index] >> bit & 1:
                continue
            if any(own.get(r, 0) & (((1 << span) - 1) << (offset + BIAS))
                   for r, offset, span, mode in alternative.uses if mode != MARK):
                continue
            chosen.append(index)
            if agree is None or agree(chosen):
                saved = {r: own.get(r, 0) for r, _, _, _ in alternative.uses}
                for r, offset, span, mode in alternative.uses:
                    if mode != CHECK:
                        own[r] = own.get(r, 0) | (((1 << span) - 1) << (offset + BIAS))
                if extend(k + 1):
                    return True
                own.update(saved)
            chosen.pop()
        return False

    return chosen if extend(0) else None
