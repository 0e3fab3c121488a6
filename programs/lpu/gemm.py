"""Matrix products with many rows on one LPU: a periodic schedule, one pass after the other.

The stationary operand's tiles (outputs x inner lanes) sit in the planes; the rows of the streamed operand
run through them, one every cycle (int8, four planes) or every second one (fp16, two plane pairs). While
a tile works, the next one is loaded into the shadow weights, so that a pass follows the last one
without a gap. The sums of a pass over the inner tiles meet in the VXM: each pass adds its products to the
partial sums of the one before, which come back from memory in step.

A partial sum is read a few cycles before the next one is written, in the same slices; gemm_plan.Sums says how
the banks are shared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.chip import Chip, ChipError
from emulator.lpu.geometry import MXM_ABC, MXM_ACC, MXM_LW, Geometry, geometry
from isa.opcodes import ALU_BASE, F16, F32, NO_STREAM, S8, S32, TYPE_BYTES
from isa.program import Program, Tensor
from programs.errors import CapacityError
from programs.lpu.board import EAST, WEST
from programs.lpu.core import stream_field
from programs.lpu.direct import Direct, Region, Slices
from programs.lpu.gemm_plan import Pass, Plan, Shape

TYPES = {"float16": F16, "int8": S8}


@dataclass
class Unit:
    """A plane (or pair): its queues, streams, ALUs and slices."""

    number: int
    plane: int
    side: int
    sums: tuple[int, ...]
    out: Region
    acts: Region
    weights: Region

    @property
    def row(self) -> int:
        """VXM row: planes have a row each."""
        return self.plane


class Gemm(Direct):
    """The schedule of one product, its result f32, or f16 with out_type F16.

    Tensor "c" [rows * tiles, height]: row r * tiles + t holds outputs t * height on of streamed row r.
    """

    def __init__(self, chip: Chip, shape: Shape, streamed: np.ndarray | None, stationary: np.ndarray | None,
                 out_type: int) -> None:
        super().__init__(chip, "gemm")
        self.shape, self.out_type = shape, out_type
        self.plan = self._best_plan()
        self.units = self._place()
        self.blocks = [self._weight_blocks(unit) for unit in range(len(self.units))]
        self._contents(streamed, stationary)
        for unit, passes in zip(self.units, self.plan.passes):
            self._run(unit, passes)

    # -- planning ---------------------------------------------------------------------------
    def _best_plan(self) -> Plan:
        """Rows an LW takes and number of tiles that give the shortest schedule; of equal ones the fewest streams."""
        g, size = self.g, self.shape.size
        per_side = 1 if self.shape.kind == F16 else g.planes // 2
        most = min(g.load_streams, (g.streams // per_side - size) // size)
        plans = [Plan(g, self.shape, r, tiles) for tiles in tile_counts(g, self.shape) for r in range(1, most + 1)]
        failed: CapacityError | None = None
        for plan in sorted(plans, key=lambda p: (p.cycles, p.load_rows)):
            try:
                self._fit(plan)
                return plan
            except CapacityError as error:
                failed = error
        assert failed is not None
        raise CapacityError(f"a product of {self.shape.rows} x {self.shape.inner} with {self.shape.stationary} "
                            f"outputs does not fit one {g.chip}: {failed}")

    def _fit(self, plan: Plan) -> list[Unit]:
        """Slices of every unit, from the VXM outward: sums, results, activations, weights."""
        g, size = self.g, self.shape.size
        sides = [Slices(g, 0), Slices(g, 1)]
        near = []
        for number, plane in enumerate(plan.units):
            side = int(plane >= g.planes // 2)
            sums = sides[side].region(0, 4).parts[0]
            near.append((number, plane, side, sums))
        results = []
        for number, _, side, _ in near:
            results.append(sides[side].region(sum(s.rows for s in plan.segments[number]), TYPE_BYTES[self.out_type]))
        for slices in sides:
            slices.next_column()  # results share streams with activations and weights, which come from beyond
        units = []
        for (number, plane, side, sums), out in zip(near, results):
            acts = sides[side].region(plan.inner_tiles * self.shape.rows, size)
            blocks = sum(p.loads for p in plan.distinct(number))
            units.append(Unit(number, plane, side, sums, out, acts, sides[side].region(
                blocks, plan.load_rows * size)))
        return units

    def _place(self) -> list[Unit]:
        units = self._fit(self.plan)
        columns = {abs(self.g.column[s]) for u in units for s in u.sums}
        assert columns == set(range(1, len(self.plan.lags) + 1)), "the plan's lags are those of the sums' slices"
        return units

    def _weight_blocks(self, unit: int) -> dict[tuple[int, int], int]:
        """First block of each tile (output tile, inner tile)."""
        found, at = {}, 0
        for p in self.plan.distinct(unit):
            found[p.segment.tile, p.k] = at
            at += p.loads
        return found

    # -- contents ---------------------------------------------------------------------------
    def _contents(self, streamed: np.ndarray | None, stationary: np.ndarray | None) -> None:
        """What is in memory at the start, and the result's place."""
        shape, plan = self.shape, self.plan
        self.fill_operands(streamed, stationary)
        words = np.zeros((shape.rows, plan.tiles, TYPE_BYTES[self.out_type]), dtype=np.int32)
        for unit, segments in zip(self.units, plan.segments):
            at = 0
            for s in segments:
                words[s.first : s.first + s.rows, s.tile] = unit.out.words(np.arange(at, at + s.rows))
                at += s.rows
        kind = {F16: "f16", F32: "f32"}[self.out_type]
        self.tensors["c"] = Tensor("c", kind, (shape.rows * plan.tiles, plan.height), "output", streamed is None, False,
                                   words.reshape(-1, 1, words.shape[2]))

    def fill_operands(self, streamed: np.ndarray | None, stationary: np.ndarray | None) -> None:
        """Every unit's activations and weights: streamed [rows, inner], stationary [outputs, inner]; None: unknown."""
        g, shape, plan = self.g, self.shape, self.plan
        for unit in self.units:
            vectors = np.arange(plan.inner_tiles * shape.rows)
            self.fill(unit.acts.words(vectors), None if streamed is None else _vectors(streamed, g.lanes))
            for (tile, k), first in self.blocks[unit.number].items():
                count = plan.loads(tile)
                data = None
                if stationary is not None:
                    data = _tile(stationary, tile * plan.height, k * g.lanes, count * plan.load_rows, plan.height,
                                 g.lanes)
                    data = data.reshape(count, plan.load_rows * shape.size, g.lanes)
                self.fill(unit.weights.words(np.arange(first, first + count)), data)

    # -- instructions -----------------------------------------------------------------------
    def _run(self, unit: Unit, passes: list[Pass]) -> None:
        """All passes of one unit."""
        written = 0
        for n, p in enumerate(passes):
            self._load(unit, p)
            self._feed(unit, p)
            self._vector(unit, p, written)
            if p.k == 0:
                self._partials(unit, passes[n : n + self.plan.inner_tiles])
            if p.k == self.plan.inner_tiles - 1:
                written += p.segment.rows

    def _directions(self, unit: Unit) -> tuple[int, int]:
        return (EAST, WEST) if unit.side else (WEST, EAST)

    def _streams(self, unit: Unit) -> tuple[int, int, int, int, int, int]:
        """First streams: weights and activations (outward), products and partial sums (inward), new partial
        sums and results (outward)."""
        size = self.shape.size
        local = unit.number % (len(self.units) // 2)
        acts = local * size
        weights = len(self.units) // 2 * size + local * self.plan.load_rows * size
        # What planes of one hemisphere send inward and of the other one outward moves the same way: on other streams
        order = range(4) if unit.side else (2, 3, 0, 1)
        return (weights, acts, *(4 * ((2 * unit.row + i) % 8) for i in order))  # type: ignore[return-value]

    def _load(self, unit: Unit, p: Pass) -> None:
        """Weights into the shadow right before the pass, and the swap."""
        g, kind, out = self.g, self.shape.kind, self._directions(unit)[0]
        queue, rows = g.mxm_queue(unit.plane, MXM_LW), self.plan.load_rows
        weights = self._streams(unit)[0]
        at, block = p.start - p.loads, self.blocks[unit.number][p.segment.tile, p.k]
        for done, slices, address, n in unit.weights.runs(block, p.loads):
            for i, s in enumerate(slices):
                travel = abs(g.column[queue] - g.column[s])
                self.add(at + done - travel, s, "READ", address, stream_field(out, weights + i), n=n, stride=1)
        whole = min(p.loads, g.rows // rows)  # the last LW may have fewer rows
        self.add(at, queue, "LW", kind, stream_field(out, weights), rows, 0, n=whole, stride=rows)
        if whole < p.loads:
            self.add(at + whole, queue, "LW", kind, stream_field(out, weights), g.rows % rows, whole * rows)
        self.add(p.start, queue, "IW", kind)

    def _feed(self, unit: Unit, p: Pass) -> None:
        g, kind, d = self.g, self.shape.kind, self.plan.d
        out, back = self._directions(unit)
        _, acts, products, *_ = self._streams(unit)
        queue, rows = g.mxm_queue(unit.plane, MXM_ABC), p.segment.rows
        for done, slices, address, n in unit.acts.runs(p.k * self.shape.rows + p.segment.first, rows):
            for byte, s in enumerate(slices):
                at = p.start + done * d - abs(g.column[queue] - g.column[s])
                self.add(at, s, "READ", address, stream_field(out, acts + byte), n=n, d=d, stride=1)
        self.add(p.start, queue, "ABC", kind, stream_field(out, acts), n=rows, d=d)
        landed = p.start + g.abc_delay(self.shape.size)
        self.add(landed, g.mxm_queue(unit.plane, MXM_ACC), "ACC", stream_field(back, products), n=rows, d=d)

    def _sampled(self, p: Pass) -> int:
        """Cycle in which the pass's first product is at the VXM."""
        return p.start + self.g.abc_delay(self.shape.size) + abs(self.g.column[self.g.mxm_queue(0, MXM_ABC)])

    def _alus(self, unit: Unit) -> tuple[int, int]:
        """(adder, converter): two ALUs of the unit's row, the second one large."""
        row = range(4 * unit.row, 4 * unit.row + 4)
        large = next((a for a in row if a in self.g.large_alus), None)
        if large is None:
            raise ChipError(f"{self.g.chip}.vxm.large_alus = {','.join(map(str, sorted(self.g.large_alus)))}: a matrix "
                            "product needs one in every row of four ALUs")
        return next(a for a in row if a != large), large

    def _vector(self, unit: Unit, p: Pass, written: int) -> None:
        """Products into sums: kept, added to the ones before, or converted and stored."""
        g, d, rows = self.g, self.plan.d, p.segment.rows
        out, back = self._directions(unit)
        _, _, products, partials, sums, result = self._streams(unit)
        add, convert = self._alus(unit)
        kind = F32 if self.shape.kind == F16 else S32
        product, partial, target = (stream_field(back, products), stream_field(back, partials),
                                    stream_field(out, sums))
        at, last = self._sampled(p), p.k == self.plan.inner_tiles - 1
        if p.k == 0 and not last:  # bit for bit
            self.add(at, g.vxm_queue(add), "ADDI", S32, target, product, 0, n=rows, d=d)
        elif p.k:
            to = NO_STREAM if last else target
            self.add(at, g.vxm_queue(add), "ADD", kind, to, product, partial, n=rows, d=d)
        if not last:
            return
        if p.k:
            at += g.entry + g.op
        source = ALU_BASE + add if p.k else product
        self.add(at, g.vxm_queue(convert), "CVT", self.out_type, kind, stream_field(out, result), source, n=rows, d=d)
        appears = at + g.vxm_delay("CVT", p.k > 0)
        for done, slices, address, n in unit.out.runs(written, rows):
            for byte, s in enumerate(slices):
                when = appears + done * d + abs(g.column[s]) - g.result_column
                self.add(when, s, "WRITE", address, stream_field(out, result + byte), n=n, d=d, stride=1)

    def _partials(self, unit: Unit, passes: list[Pass]) -> None:
        """READs and WRITEs of a segment's partial sums."""
        g, d = self.g, self.plan.d
        if len(passes) == 1:
            return
        out, back = self._directions(unit)
        _, _, _, partials, new, _ = self._streams(unit)
        for byte, s in enumerate(unit.sums):
            column = abs(g.column[s])
            for k, row, address, n in self.plan.sums(passes[0].segment, column).runs(len(passes) - 1):
                written = self._sampled(passes[k]) + row * d + g.entry + g.op + column - g.result_column
                self.add(written, s, "WRITE", address, stream_field(out, new + byte), n=n, d=d, stride=1)
                read = self._sampled(passes[k + 1]) + row * d - column
                self.add(read, s, "READ", address, stream_field(back, partials + byte), n=n, d=d, stride=1)


def tile_counts(g: Geometry, shape: Shape) -> list[int]:
    """Numbers of output tiles to try: the fewest, and as many as all units can share evenly."""
    fewest, units = -(-shape.stationary // g.rows), g.planes // shape.size
    return sorted({fewest, min(-(-fewest // units) * units, shape.stationary)})


def _vectors(values: np.ndarray, lanes: int) -> np.ndarray:
    """uint8 [inner tiles * rows, bytes, lanes] of values [rows, inner], zeros in padding lanes."""
    rows, inner = values.shape
    tiles = -(-inner // lanes)
    padded = np.zeros((rows, tiles * lanes), dtype=values.dtype)
    padded[:, :inner] = values
    size = values.dtype.itemsize
    split = padded.reshape(rows, tiles, lanes).transpose(1, 0, 2).copy().view(np.uint8).reshape(-1, lanes, size)
    return np.ascontiguousarray(split.transpose(0, 2, 1))


def _tile(values: np.ndarray, row: int, column: int, count: int, rows: int, lanes: int) -> np.ndarray:
    """uint8 [count, bytes, lanes]: `count` rows of a tile of values [outputs, inner], zeros beyond the edges."""
    out = np.zeros((count, lanes), dtype=values.dtype)
    block = values[row : row + min(rows, count), column : column + lanes]
    out[: block.shape[0], : block.shape[1]] = block
    return np.ascontiguousarray(out.view(np.uint8).reshape(count, lanes, -1).transpose(0, 2, 1))


def fitting_schedule(chip: Chip, m: int, n: int, k: int, dtype: str, a: np.ndarray | None = None,
                     b: np.ndarray | None = None) -> Program:
    """C = A B with A [m, k] and B [k, n], float16 or int8; C is float16, or float32 for int8.

    Timing only without values. The operand with the shorter schedule is the stationary one. Tensor "c" is C, or
    its transpose where meta["transposed"], in tiles (see Gemm). Raises CapacityError when operands and result
    do not fit.
    """
    kind = TYPES[dtype]
    g = geometry(chip)
    a_stays, b_stays = Shape(m, n, k, kind), Shape(n, m, k, kind)
    shapes = sorted((b_stays, a_stays), key=lambda s: min(
        Plan(g, s, g.load_streams - 1, tiles).cycles for tiles in tile_counts(g, s)))
    failed: CapacityError | None = None
    for shape in shapes:
        transposed = shape is a_stays
        streamed, stationary = None, None
        if a is not None and b is not None:
            streamed, stationary = (b.T, a) if transposed else (a, b.T)
        try:
            made = Gemm(chip, shape, streamed, stationary, F16 if kind == F16 else F32)
        except CapacityError as error:
            failed = failed or error
            continue
        return made.program({"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype, "transposed": transposed})
    assert failed is not None
    raise failed


__all__ = ["TYPES", "Gemm", "Unit", "fitting_schedule", "tile_counts"]
