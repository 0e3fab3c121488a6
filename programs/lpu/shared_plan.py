"""The plan of a matrix product over several chips: what gemm_plan has, and when partial sums cross the links.

`width` chips (2 or 4, of one node) divide the inner dimension; rank r owns a run of result rows. Segments hold
some rows of every owner, and each rank streams its own ones first, so all run one text. When a segment's
last pass is done, its sums lie in memory (`stage`, `own`), in the bank of the segment's parity; while the
next segments compute, those of the other owners leave over one link each, and the ones of the peers come in
and are added in the VXM: an Exchange.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from emulator.lpu.geometry import C2C, MXM_ABC, Geometry
from programs.errors import CapacityError
from programs.lpu.gemm_plan import Pass, Plan, Segment, Shape

WIDTHS = (2, 4)  # one row of the VXM takes no more than four vectors to add


@dataclass(frozen=True)
class Exchange:
    """Partial sums of a unit's segment number `segment`: `rows` of them for each owner, one every `period` cycles.

    sent: cycle of the first SEND; added: cycle in which row 0 of all ranks is at the VXM; bank: of what is received.
    """

    unit: int
    segment: int
    rows: int
    first: int  # own row
    sent: int
    added: int
    bank: int


class SharedPlan(Plan):
    """A Plan whose segments' sums are exchanged. shape: this chip's part, with rows for `width` owners.

    chunks: runs that the rows are cut into: more of them end sooner after the last pass.
    """

    def __init__(self, g: Geometry, shape: Shape, load_rows: int, tiles: int, width: int, chunks: int) -> None:
        self.width = width
        self.owned = shape.rows // width
        size = -(-self.owned // chunks)
        self.chunks = [(at, min(size, self.owned - at)) for at in range(0, self.owned, size)]
        if size * width > g.words_per_bank:
            raise CapacityError(f"{size * width:,} rows at once are more than a bank's {g.words_per_bank:,} words")
        super().__init__(g, shape, load_rows, tiles)
        links = [q for q in range(g.queues) if g.queue_kind[q] == C2C]
        self.link_column = abs(g.column[links[0]]) if links else 0
        # between two rows; each of the other owners' rows gets its own time to be read, each byte plane to be sent
        step = lcm(4, width - 1)
        self.period = -(-4 * g.slot // step) * step
        self.exchanges: list[Exchange] = []
        self.passes = self._exchanged()

    # -- places, as SharedGemm gives them ------------------------------------------------------
    def stage_column(self, unit: int) -> int:
        """Column of a unit's sums for other owners: behind the columns of the partial sums."""
        per_side = len(self.units) // 2
        return 1 + per_side + unit % per_side

    def own_column(self, unit: int) -> int:
        """Column of a unit's sums of rows that this rank owns."""
        return self.stage_column(unit) + len(self.units) // 2

    def offset(self, port: int, byte: int) -> int:
        """Cycles from an exchange's first SEND to that of a byte plane of row 0 over a port."""
        return self.period // (self.width - 1) * (port - 1) + self.period // 4 * byte

    # -- segments --------------------------------------------------------------------------------
    def _segments(self, cut: bool) -> list[list[Segment]]:
        """Output tiles x chunks, tile by tile, dealt to the units in runs of equal time."""
        every = [Segment(tile, self.width * at, self.width * rows)
                 for tile in range(self.tiles) for at, rows in self.chunks]
        cost = [max(s.rows * self.d, self.loads(s.tile) + self.g.install) for s in every]
        total, count, done = sum(cost), len(self.units), 0
        parts: list[list[Segment]] = [[] for _ in self.units]
        for segment, c in zip(every, cost):
            parts[min(count - 1, (2 * done + c) * count // (2 * total))].append(segment)
            done += c
        return parts

    # -- when --------------------------------------------------------------------------------------
    def totals(self, last: Pass) -> int:
        """Cycle in which a segment's first total appears, one register beyond the VXM."""
        g = self.g
        sampled = last.start + g.abc_delay(self.shape.size) + abs(g.column[g.mxm_queue(0, MXM_ABC)])
        return sampled + g.entry + g.op

    def writes(self, unit: int, last: Pass) -> tuple[int, int]:
        """First cycles in which totals are written: (to `own`, to `stage`)."""
        own = last.segment.rows // self.width
        at = self.totals(last) - self.g.result_column
        return at + self.own_column(unit), at + self.stage_column(unit) + own * self.d

    def reads(self, exchange: Exchange) -> tuple[int, ...]:
        """Cycles in which the first totals are read: from `own`, and each byte plane from `stage`."""
        way = self.link_column - self.stage_column(exchange.unit)
        return (exchange.added - self.own_column(exchange.unit),
                *(exchange.sent - way + self.offset(1, byte) for byte in range(4)))

    def _exchanged(self) -> list[list[Pass]]:
        """Passes of each unit, late enough for the exchanges before; and the exchanges."""
        passes: list[list[Pass]] = [[] for _ in self.units]
        begin = min(p[0].start for p in self.passes if p)
        mine: list[list[Exchange]] = [[] for _ in self.units]
        for n in range(max(map(len, self.segments))):
            for unit, segments in enumerate(self.segments):
                if n >= len(segments):
                    continue
                segment, found, start = segments[n], passes[unit], begin
                if found:
                    before, waits = found[-1], self.loads(segment.tile) + self.g.install
                    start = max(before.start + before.segment.rows * self.d, before.start + waits)
                added = self._passes([segment], start)
                while late := self._late(unit, added[-1], mine[unit]):
                    start += late
                    added = self._passes([segment], start)
                found += added
                mine[unit].append(self._exchange(unit, n, added[-1]))
        self.cycles = max(x.added + self.period * x.rows for x in self.exchanges)
        return passes

    def _late(self, unit: int, last: Pass, exchanges: list[Exchange]) -> int:
        """Cycles that a segment has to wait: for its bank, or for a cycle in which no READ is issued there."""
        own, stage = self.writes(unit, last)
        if len(exchanges) > 1:
            old = exchanges[-2]
            end = max(self.reads(old)) + self.period * (old.rows - 1) + (self.width - 2) * self.offset(2, 0)
            if end >= min(own, stage):
                return end + 1 - min(own, stage)
        issued = [self.reads(x) for x in exchanges[-2:]]
        return int(any(own == x[0] or stage in x[1:] for x in issued))

    def _exchange(self, unit: int, number: int, last: Pass) -> Exchange:
        """The exchange of a segment's totals, after those before it, and when all are written."""
        g, rows = self.g, last.segment.rows // self.width
        own, stage = self.writes(unit, last)
        there = stage + (rows * (self.width - 1) - 1) * self.d + 1
        sent = there + self.link_column - self.stage_column(unit)
        before = self.exchanges[-1] if self.exchanges else None
        if before is not None:
            sent = max(sent, before.sent + self.period * before.rows)
        arrives = [self.offset(port, byte) for port in range(1, self.width) for byte in range(4)]
        wait = max(arrives) + 1  # from the way over a link to the additions
        while any((wait - x) % self.period == 0 for x in arrives):  # READ and WRITE of a bank in one cycle
            wait += 1
        way = g.hop + self.link_column
        if before is not None:  # a WRITE of what is received may not be issued with a READ of the exchange before
            while before.added - way - sent in arrives:
                sent += 1
        found = Exchange(unit, number, rows, last.segment.first // self.width, sent, sent + way + wait,
                         len(self.exchanges) % 2)
        self.exchanges.append(found)
        return found


__all__ = ["WIDTHS", "Exchange", "SharedPlan"]
