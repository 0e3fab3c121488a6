"""The plan of a matrix product with many rows: which plane works on what when, and where its sums lie.

Output tiles of the stationary operand go over the units (planes, or pairs for fp16); for each, the streamed
rows pass once for every inner tile. A pass takes as long as its rows, or as the loading of the next tile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from emulator.lpu.geometry import MXM_LW, Geometry
from isa.opcodes import F16, TYPE_BYTES

BLOCK_MIN = 8  # rows; shorter blocks of sums are not worth their instructions
SLOTS_MORE = 24  # longer passes that are tried before sums take the banks in turn


@dataclass(frozen=True)
class Shape:
    """out[r, s] = sum over k of streamed[r, k] * stationary[s, k]."""

    stationary: int
    rows: int
    inner: int
    kind: int  # F16 or S8

    @property
    def size(self) -> int:
        return TYPE_BYTES[self.kind]


@dataclass(frozen=True)
class Segment:
    """One unit's passes over output tile `tile` for streamed rows first .. first + rows - 1."""

    tile: int
    first: int
    rows: int


@dataclass(frozen=True)
class Pass:
    """Inner tile k of a segment: its first activation enters in cycle `start`, after `loads` LW instructions."""

    segment: Segment
    k: int
    start: int
    loads: int


@dataclass(frozen=True)
class Sums:
    """Partial sums of a segment in one slice. A pass takes `slots` activation times, of which `rows` are used;
    element pass * slots + row is written `lag` slots after its own, and read in the next pass's slot.

    A slice reads and writes in one cycle only in different banks. What is read and what is written then are
    slots - lag elements apart, so elements lie in blocks of slots - lag, even blocks at the end of bank 0,
    odd ones at the beginning of bank 1: an even block and the odd one after it are one run of addresses.
    Where passes have gaps (`turns`), all sums of a pass lie in one bank, and the passes take them in turn.
    """

    words_per_bank: int
    rows: int
    slots: int
    lag: int
    turns: bool

    def runs(self, passes: int) -> Iterator[tuple[int, int, int, int]]:
        """(pass, row, address, count) of the instructions that cover the sums of passes 0 .. passes - 1."""
        bank, block = self.words_per_bank, self.slots - self.lag
        if self.turns:
            yield from ((p, 0, p % 2 * bank, self.rows) for p in range(passes))
            return
        pending: tuple[int, int, int] | None = None  # element, address, count
        for p in range(passes):
            x, end = p * self.slots, p * self.slots + self.rows
            while x < end:
                inside = x % (2 * block)
                n = min(end - x, 2 * block - inside)
                if pending is not None and inside and pending[0] + pending[2] == x:
                    pending = (pending[0], pending[1], pending[2] + n)
                else:
                    if pending is not None:
                        yield (*divmod(pending[0], self.slots), *pending[1:])
                    pending = (x, bank - block + inside, n)
                x += n
        if pending is not None:
            yield (*divmod(pending[0], self.slots), *pending[1:])

    def issues_meet(self, passes: int) -> bool:
        """Whether a READ and a WRITE would be issued in one cycle: a queue issues one of them."""
        starts = [p * self.slots + row for p, row, _, _ in self.runs(passes)]
        return not self.turns and bool({x + self.slots for x in starts} & {x + self.lag for x in starts})


@lru_cache(maxsize=4096)
def pass_slots(words_per_bank: int, rows: int, least: int, lags: tuple[int, ...], passes: int) -> tuple[int, bool]:
    """(activation slots of a pass, whether its sums take the banks in turn): at least `least` and `rows`.

    lags: in slots, of the columns with sums.
    """
    least = max(rows, least)
    if passes == 0:
        return least, False
    in_turn = max(least, rows + max(lags) + 1)
    for slots in range(max(least, max(lags) + BLOCK_MIN), min(in_turn, least + max(lags) + SLOTS_MORE)):
        if slots - min(lags) > words_per_bank:
            break
        if not any(Sums(words_per_bank, rows, slots, lag, False).issues_meet(min(passes, 64)) for lag in lags):
            return slots, False
    return in_turn, True


class Plan:
    """Who computes what when. load_rows: rows that an LW takes; tiles: output tiles, of equal height."""

    def __init__(self, g: Geometry, shape: Shape, load_rows: int, tiles: int) -> None:
        self.g, self.shape, self.load_rows = g, shape, load_rows
        self.d = g.f16_feed if shape.kind == F16 else 1
        self.units = list(range(0, g.planes, 2 if shape.kind == F16 else 1))
        self.height = -(-shape.stationary // tiles)
        self.tiles = -(-shape.stationary // self.height)
        self.inner_tiles = -(-shape.inner // g.lanes)
        self.lags = tuple(-(-self.lag(column + 1) // self.d) for column in range(len(self.units) // 2))
        first = g.barrier + abs(g.column[g.mxm_queue(0, MXM_LW)]) + self.loads(0)
        self.cycles = 1 << 62  # when the last pass of the slowest unit has been fed
        for cut in (False, True):
            segments = self._segments(cut)
            passes = [self._passes(own, first) for own in segments]
            cycles = max(p[-1].start + p[-1].segment.rows * self.d for p in passes if p)
            if cycles < self.cycles:
                self.segments, self.passes, self.cycles = segments, passes, cycles

    def loads(self, tile: int) -> int:
        """LW instructions of an output tile."""
        return -(-min(self.height, self.shape.stationary - tile * self.height) // self.load_rows)

    def lag(self, column: int) -> int:
        """Cycles from a partial sum's READ in a slice at `column` to the WRITE of its successor there."""
        return 2 * column + self.g.entry + self.g.op - self.g.result_column

    def slots(self, segment: Segment) -> tuple[int, bool]:
        """See pass_slots: a pass waits for the next tile's LW and its IW."""
        least = -(-(self.loads(segment.tile) + self.g.install) // self.d)
        return pass_slots(self.g.words_per_bank, segment.rows, least, self.lags, self.inner_tiles - 1)

    def sums(self, segment: Segment, column: int) -> Sums:
        """Where a segment's partial sums lie in a slice at `column`."""
        slots, turns = self.slots(segment)
        return Sums(self.g.words_per_bank, segment.rows, slots, -(-self.lag(column) // self.d), turns)

    def _segments(self, cut: bool) -> list[list[Segment]]:
        """Output tiles, dealt to the units in runs of equal time; cut: between units a tile's rows are divided.

        Segments have at most as many rows as a bank has words.
        """
        rows, count = self.shape.rows, len(self.units)
        waits = [self.loads(t) + self.g.install for t in range(self.tiles)]
        cost = [max(rows * self.d, wait) for wait in waits]
        total = sum(cost)
        parts: list[list[Segment]] = [[] for _ in self.units]
        done = 0
        for tile, c in enumerate(cost):
            if not cut:
                parts[min(count - 1, (2 * done + c) * count // (2 * total))].append(Segment(tile, 0, rows))
            else:
                ends = ((total * u // count - done) // self.d for u in range(1, count))
                edges = sorted({0, rows, *(at for at in ends if 0 < at < rows)})
                for first, end in zip(edges, edges[1:]):
                    unit = min(count - 1, (done + first * self.d + 1) * count // total)
                    parts[unit].append(Segment(tile, first, end - first))
            done += c
        limit = self.g.words_per_bank
        return [[Segment(s.tile, s.first + a, min(limit, s.rows - a)) for s in part for a in range(0, s.rows, limit)]
                for part in parts]

    def _passes(self, segments: list[Segment], first: int) -> list[Pass]:
        found: list[Pass] = []
        free = first
        for segment in segments:
            loads = self.loads(segment.tile)
            slots = self.slots(segment)[0]
            for k in range(self.inner_tiles):
                start = free if not found else max(free, found[-1].start + loads + self.g.install)
                found.append(Pass(segment, k, start, loads))
                free = start + (slots if k < self.inner_tiles - 1 else segment.rows) * self.d
        return found

    def distinct(self, unit: int) -> list[Pass]:
        """One pass for each tile of a unit: rows that are cut into several segments use the same weights."""
        return list({(p.segment.tile, p.k): p for p in self.passes[unit]}.values())


__all__ = ["Pass", "Plan", "Segment", "Shape", "Sums", "pass_slots"]
