"""One chip's part of a matrix product whose inner dimension is divided over 2 or 4 chips of a node.

Every chip has partial sums of all rows; each owns a run of rows, gets the others' partial sums of them over the
links while the next tiles compute, and adds them up. The result stays where it was added. shared_plan.py has the
times; all chips run one text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from emulator.chip import Chip, ChipError
from emulator.lpu.geometry import C2C, geometry
from isa.opcodes import ALU_BASE, F16, F32, NO_STREAM, S8, S32, TYPE_BYTES
from isa.program import LpuImage, Tensor
from programs.errors import CapacityError
from programs.lpu.board import EAST, WEST
from programs.lpu.core import stream_field
from programs.lpu.direct import Slices
from programs.lpu.gemm import Gemm, Unit, tile_counts
from programs.lpu.gemm_plan import Pass, Shape
from programs.lpu.shared_plan import Exchange, SharedPlan

CHUNKS = (1, 2, 4, 8)  # runs of rows that are tried
# Quads of streams that the planes leave free next to the VXM (see Gemm._streams), by type: those of sums of several
# chips on their way inward, by hemisphere (own ones, what the links bring) and by port.
OWN_QUAD, RECEIVE_QUAD, PORT_QUAD = {F16: (0, 6), S8: (0, 0)}, {F16: (6, 7), S8: (6, 1)}, (1, 2, 3)
SEND_STREAM = (24, 23)  # outward, to the links: beyond the streams of weights and activations
RESULT_QUAD = 7  # westward, to memory
LOAD_ROWS = 10  # most rows of an LW, so that weights keep clear of SEND_STREAM


@dataclass(frozen=True)
class _Places:
    """Slices of everything. stage, own: of each unit; got: of each port, from port 1 on."""

    units: list[Unit]
    stage: list[tuple[int, ...]]
    own: list[tuple[int, ...]]
    got: list[tuple[int, ...]]


def _port_side(port: int) -> int:
    """Hemisphere in which what comes over a port is kept."""
    return int(port > 1)


class SharedGemm(Gemm):
    """The schedule of one chip's part; the same text for all. shape: its outputs, all rows, its inner lanes."""

    plan: SharedPlan

    def __init__(self, chip: Chip, shape: Shape, width: int, out_type: int) -> None:
        self.width = width
        owned = -(-shape.rows // width)
        if geometry(chip).result_column == 0 and shape.kind == S8:
            raise CapacityError(f"{chip.name}.vxm.result_column = 0: int8 sums of several chips would be overwritten "
                                "where they enter the VXM")
        super().__init__(chip, replace(shape, rows=owned * width), None, None, out_type)
        self.alus = self._adders()
        queues = [[q for q in range(self.g.queues) if self.g.queue_kind[q] == C2C and (self.g.column[q] > 0) == side]
                  for side in (False, True)]
        need = width - 1 + max(1, width - 2)  # SENDs over each port, RECVs of those ports that end in a hemisphere
        if min(map(len, queues)) < need or self.g.local_ports < width - 1:
            raise CapacityError(f"sums of {width} chips need {width - 1} links to others and {need} queues for them in "
                                f"a hemisphere; {self.g.chip} has {self.g.local_ports} and {len(queues[0])}")
        self.link_queues = queues
        written = 0
        for exchange in self.plan.exchanges:
            self._send(exchange)
            self._add(exchange, written)
            written += exchange.rows

    # -- planning ------------------------------------------------------------------------------------
    def _best_plan(self) -> SharedPlan:
        failed: CapacityError | None = None
        plans = []
        for chunks in CHUNKS:
            for tiles in tile_counts(self.g, self.shape):
                for rows in range(1, min(self.g.load_streams, LOAD_ROWS) + 1):
                    try:
                        plans.append(SharedPlan(self.g, self.shape, rows, tiles, self.width, chunks))
                    except CapacityError as error:
                        failed = error
        for plan in sorted(plans, key=lambda p: (p.cycles, len(p.chunks), p.load_rows)):
            try:
                self._layout(plan)
                return plan
            except CapacityError as error:
                failed = error
        assert failed is not None
        raise CapacityError(f"{self.shape.rows} x {self.shape.inner} with {self.shape.stationary} outputs, a share of "
                            f"a product, does not fit one {self.g.chip}: {failed}")

    def _layout(self, plan: SharedPlan) -> _Places:
        """Slices from the VXM outward: partial sums, stage, own, received, results, activations, weights."""
        g, size = self.g, self.shape.size
        sides = [Slices(g, 0), Slices(g, 1)]
        side_of = [int(plane >= g.planes // 2) for plane in plan.units]

        def quads(for_sides: list[int]) -> list[tuple[int, ...]]:
            return [sides[side].region(0, 4).parts[0] for side in for_sides]

        sums, stage, own = quads(side_of), quads(side_of), quads(side_of)
        got = quads([_port_side(port) for port in range(1, self.width)])
        out = sides[0].region(plan.owned * plan.tiles, TYPE_BYTES[self.out_type])
        units = []
        for number, (plane, side) in enumerate(zip(plan.units, side_of)):
            acts = sides[side].region(plan.inner_tiles * self.shape.rows, size)
            blocks = sum(p.loads for p in plan.distinct(number))
            weights = sides[side].region(blocks, plan.load_rows * size)
            units.append(Unit(number, plane, side, sums[number], out, acts, weights))
        return _Places(units, stage, own, got)

    def _place(self) -> list[Unit]:
        self.places = self._layout(self.plan)
        for unit in self.places.units:
            for slices, column in ((unit.sums, 1 + unit.number % (len(self.plan.units) // 2)),
                                   (self.places.stage[unit.number], self.plan.stage_column(unit.number)),
                                   (self.places.own[unit.number], self.plan.own_column(unit.number))):
                assert {abs(self.g.column[s]) for s in slices} == {column}, "the plan's columns are those of the slices"
        return self.places.units

    def _adders(self) -> list[int]:
        """ALUs that add what the ranks have and convert it: [a, convert], or [a, b, a + b, convert]."""
        g = self.g
        free = [alu for alu in range(16) if alu not in [self._alus(unit)[0] for unit in self.units]]
        needs = [{*OWN_QUAD[self.shape.kind], PORT_QUAD[0]}, {*PORT_QUAD[1:]}, set(), {RESULT_QUAD}]
        for a, b, both, convert in permutations(free, 4):
            last = a if self.width == 2 else both
            if convert in g.large_alus and g.can_chain(last, convert) and (
                    self.width == 2 or g.can_chain(a, both) and g.can_chain(b, both)) and all(
                    need <= set(g.reach(alu)) for need, alu in zip(needs, (a, b, both, convert))):
                return [a, convert] if self.width == 2 else [a, b, both, convert]
        raise ChipError(f"{g.chip}.vxm.large_alus: none is where sums of several chips could be converted")

    @property
    def cycles(self) -> int:
        """Length of the program."""
        return self.end + self.g.superlanes - 1

    # -- contents --------------------------------------------------------------------------------------
    def _contents(self, streamed: np.ndarray | None, stationary: np.ndarray | None) -> None:
        """Nothing yet: each chip has its own contents."""

    def contents(self, rank: int, streamed: np.ndarray | None, stationary: np.ndarray | None) -> LpuImage:
        """A chip's memory. streamed [rows, inner], stationary [outputs, inner]: its share; None: unknown."""
        self.filled, self.phantom = [], []
        if streamed is not None:
            rows = self._order(rank)
            padded = np.zeros((self.shape.rows, streamed.shape[1]), dtype=streamed.dtype)
            padded[: len(streamed)] = streamed
            streamed = padded[rows]
        self.fill_operands(streamed, stationary)
        return self.image()

    def _order(self, rank: int) -> np.ndarray:
        """Rows of A in the order in which a rank streams them: of every chunk its own ones, then row by row those
        of the ranks behind ports 1, 2, ..."""
        found: list[int] = []
        for first, count in self.plan.chunks:
            rows = range(first, first + count)
            found += [rank * self.plan.owned + row for row in rows]
            found += [(rank ^ port) * self.plan.owned + row for row in rows for port in range(1, self.width)]
        return np.array(found)

    def result(self, name: str, chip: int, phantom: bool) -> Tensor:
        """A chip's part of the result: row r * tiles + t holds outputs t * height on of the r-th row it owns."""
        plan, size = self.plan, TYPE_BYTES[self.out_type]
        words, at = np.zeros((plan.owned, plan.tiles, size), dtype=np.int32), 0
        for x in plan.exchanges:
            tile = plan.segments[x.unit][x.segment].tile
            words[x.first : x.first + x.rows, tile] = self.units[0].out.words(np.arange(at, at + x.rows))
            at += x.rows
        kind = {F16: "f16", F32: "f32"}[self.out_type]
        return Tensor(name, kind, (plan.owned * plan.tiles, plan.height), "output", phantom, False,
                      words.reshape(-1, 1, size), chips=(chip,))

    # -- instructions -----------------------------------------------------------------------------------
    def _vector(self, unit: Unit, p: Pass, written: int) -> None:
        """Products into sums; the last pass's go where the links and the additions take them from, bit for bit."""
        g, plan, rows = self.g, self.plan, p.segment.rows
        out, back = self._directions(unit)
        _, _, products, partials, sums, totals = self._streams(unit)
        last = p.k == plan.inner_tiles - 1
        target = stream_field(out, totals if last else sums)
        queue, at = g.vxm_queue(self._alus(unit)[0]), self._sampled(p)
        if p.k == 0:
            self.add(at, queue, "ADDI", S32, target, stream_field(back, products), 0, n=rows, d=plan.d)
        else:
            self.add(at, queue, "ADD", self._sum_type, target, stream_field(back, products),
                     stream_field(back, partials), n=rows, d=plan.d)
        if not last:
            return
        owned = rows // self.width
        bank = plan.segments[unit.number].index(p.segment) % 2 * g.words_per_bank
        own, stage = plan.writes(unit.number, p)
        for byte in range(4):
            stream = stream_field(out, totals + byte)
            self.add(own, self.places.own[unit.number][byte], "WRITE", bank, stream, n=owned, d=plan.d, stride=1)
            self.add(stage, self.places.stage[unit.number][byte], "WRITE", bank, stream, n=rows - owned, d=plan.d,
                     stride=1)

    @property
    def _sum_type(self) -> int:
        return F32 if self.shape.kind == F16 else S32

    def _send(self, x: Exchange) -> None:
        """One unit's sums for the other owners, and theirs for this one."""
        g, plan, unit = self.g, self.plan, self.units[x.unit]
        out, others = self._directions(unit)[0], self.width - 1
        bank = x.segment % 2 * g.words_per_bank
        for byte, at in enumerate(plan.reads(x)[1:]):
            self.add(at, self.places.stage[x.unit][byte], "READ", bank, stream_field(out, SEND_STREAM[unit.side]),
                     n=x.rows * others, d=plan.period // others, stride=1)
        for port in range(1, self.width):
            sent = x.sent + plan.offset(port, 0)
            self.add(sent, self.link_queues[unit.side][port - 1], "SEND", port,
                     stream_field(out, SEND_STREAM[unit.side]), n=4 * x.rows, d=plan.period // 4)
            side = _port_side(port)
            stream = stream_field(WEST if side else EAST, 4 * RECEIVE_QUAD[self.shape.kind][side])
            # ports 2 and 3 share a hemisphere and have a queue each; SENDs have the others
            queue = self.link_queues[side][others + (port - 2 if side else 0)]
            self.add(sent + g.hop, queue, "RECV", port, stream, n=4 * x.rows, d=plan.period // 4)
            for byte, s in enumerate(self.places.got[port - 1]):
                at = x.sent + plan.offset(port, byte) + g.hop + plan.link_column - abs(g.column[s])
                self.add(at, s, "WRITE", x.bank * g.words_per_bank, stream, n=x.rows, d=plan.period, stride=1)

    def _add(self, x: Exchange, written: int) -> None:
        """What all ranks have of this rank's rows, added up, converted and stored as results `written` on."""
        g, plan, side = self.g, self.plan, self.units[x.unit].side

        def read(slices: tuple[int, ...], bank: int, side: int, quad: int) -> int:
            for byte, s in enumerate(slices):
                stream = stream_field(WEST if side else EAST, 4 * quad + byte)
                self.add(x.added - abs(g.column[s]), s, "READ", bank * g.words_per_bank, stream, n=x.rows,
                         d=plan.period, stride=1)
            return stream_field(WEST if side else EAST, 4 * quad)

        parts = [read(self.places.own[x.unit], x.segment % 2, side, OWN_QUAD[self.shape.kind][side])]
        for port in range(1, self.width):
            parts.append(read(self.places.got[port - 1], x.bank, _port_side(port), PORT_QUAD[port - 1]))
        *adders, convert = self.alus
        at = x.added
        for k in range(0, len(parts), 2):
            self.add(at, g.vxm_queue(adders[k // 2]), "ADD", self._sum_type, NO_STREAM, *parts[k : k + 2], n=x.rows,
                     d=plan.period)
        at += g.entry + g.op
        if len(adders) > 1:
            self.add(at, g.vxm_queue(adders[2]), "ADD", self._sum_type, NO_STREAM, ALU_BASE + adders[0],
                     ALU_BASE + adders[1], n=x.rows, d=plan.period)
            at += g.op
        self.add(at, g.vxm_queue(convert), "CVT", self.out_type, self._sum_type, stream_field(WEST, 4 * RESULT_QUAD),
                 ALU_BASE + adders[-1], n=x.rows, d=plan.period)
        appears = at + g.vxm_delay("CVT", True)
        for done, slices, address, n in self.units[0].out.runs(written, x.rows):
            for byte, s in enumerate(slices):
                self.add(appears + done * plan.period + abs(g.column[s]) - g.result_column, s, "WRITE", address,
                         stream_field(WEST, 4 * RESULT_QUAD + byte), n=n, d=plan.period, stride=1)


__all__ = ["SharedGemm"]
