"""Matrix products with many rows on one LPU: a periodic schedule, one pass after the other.

The stationary operand's tiles (outputs x inner lanes) sit in the planes; the rows of the streamed operand
run through them, one every cycle (int8, four planes) or every second one (fp16, two plane pairs). While
a tile works, the next one is loaded into the shadow weights, so that a pass follows the last one
without a gap. The sums of a pass over the inner tiles meet in the VXM: each pass adds its products to the
partial sums of the one before, which come back from memory in step.

A partial sum is read a few cycles before the next one is written, in the same slices. A slice can do both
in one cycle only in different banks, so the sums go round: element x of a segment lies in bank
x // (rows - lag) % 2, and what is read is always in the other bank (see _Sums).
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

TYPES = {"float16": F16, "int8": S8}


@dataclass(frozen=True)
class Segment:
    """One unit's passes over output tile `tile` for streamed rows first .. first + rows - 1."""

    tile: int
    first: int
    rows: int


@dataclass(frozen=True)
class Pass:
    """Inner tile k of a segment: its first activation enters at `start`, `slots` activations after the
    last pass's (rows of them are real), `at` is the number of the segment's first partial sum."""

    segment: Segment
    k: int
    start: int
    loads: int  # LW instructions


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


class Plan:
    """Who computes what when: segments of every unit (plane, or pair for fp16), and the passes' times."""

    def __init__(self, g: Geometry, shape: Shape, load_rows: int) -> None:
        self.g, self.shape, self.load_rows = g, shape, load_rows
        self.d = g.f16_feed if shape.kind == F16 else 1
        self.units = list(range(0, g.planes, 2 if shape.kind == F16 else 1))
        self.tiles = -(-shape.stationary // g.rows)
        self.inner_tiles = -(-shape.inner // g.lanes)
        self.segments = self._segments()
        far = abs(g.column[g.mxm_queue(0, MXM_LW)])
        first = g.barrier + far + self._loads(0)
        self.passes = [self._passes(segments, first) for segments in self.segments]

    @property
    def cycles(self) -> int:
        """When the last pass of the slowest unit has been fed."""
        return max(p[-1].start + p[-1].segment.rows * self.d for p in self.passes if p)

    def _loads(self, tile: int) -> int:
        rows = min(self.g.rows, self.shape.stationary - tile * self.g.rows)
        return -(-rows // self.load_rows)

    def lag(self, column: int) -> int:
        """Cycles from a partial sum's READ in a slice at `column` to the WRITE of its successor there."""
        g = self.g
        return abs(column) + g.entry + g.op + abs(column) - g.result_column

    def slots(self, rows: int, loads: int) -> int:
        """Cycles of a pass of `rows` rows before which `loads` LW and one IW must be done."""
        return max(rows * self.d, loads + 1)

    def gapless(self, segment: Segment) -> bool:
        """Whether a segment's passes follow each other without a gap: then its sums go round."""
        rows = segment.rows
        return rows * self.d >= self._loads(segment.tile) + 1 and rows - self.furthest // self.d >= 8

    @property
    def furthest(self) -> int:
        """The largest lag of a slice that holds partial sums."""
        return self.lag(2 * len(self.units) // 2)

    def _segments(self) -> list[list[Segment]]:
        """Output tiles x rows, dealt to the units in runs of equal time; long ones cut to a bank's words."""
        rows, count = self.shape.rows, len(self.units)
        cost = [self.slots(rows, self._loads(t)) for t in range(self.tiles)]
        total, parts = sum(cost), [[] for _ in self.units]  # type: ignore[var-annotated]
        cut = rows * self.d >= 4 * max(self._loads(t) + 1 for t in range(self.tiles))
        done = 0
        for tile, c in enumerate(cost):
            if not cut:
                parts[min(count - 1, (2 * done + c) * count // (2 * total))].append(Segment(tile, 0, rows))
            else:
                edges = {0, rows}
                for u in range(1, count):
                    at = (total * u // count - done) // self.d
                    if 0 < at < rows:
                        edges.add(at)
                for first, end in zip(sorted(edges), sorted(edges)[1:]):
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
            loads = self._loads(segment.tile)
            for k in range(self.inner_tiles):
                start = free if not found else max(free, found[-1].start + loads + 1)
                found.append(Pass(segment, k, start, loads))
                free = start + segment.rows * self.d
                if not self.gapless(segment):  # sums lie in the banks in turn: the last one must be written before
                    free += self.furthest + 1
        return found


@dataclass(frozen=True)
class _Sums:
    """Partial sums of a segment in one slice: element x = pass * rows + row.

    A gapless segment has them in blocks of rows - lag elements, even blocks at the end of bank 0, odd
    ones at the beginning of bank 1: an even and the odd one after it are one run of addresses.
    """

    words_per_bank: int
    rows: int
    lag: int  # rows by which a READ comes before the WRITE to the same slice
    gapless: bool

    def runs(self, first_pass: int, passes: int) -> list[tuple[int, int, int]]:
        """(first element, address, count) of the instructions that cover some passes."""
        rows, bank = self.rows, self.words_per_bank
        if not self.gapless:
            return [(p * rows, p % 2 * bank, rows) for p in range(first_pass, first_pass + passes)]
        block = rows - self.lag
        found, x, end = [], first_pass * rows, (first_pass + passes) * rows
        while x < end:
            pair, inside = divmod(x, 2 * block)
            n = min(end - x, 2 * block - inside)
            found.append((x, bank - block + inside, n))
            x += n
        return found


@dataclass
class _Unit:
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
    """The schedule of one product; result tensor "c" [rows, stationary], f32, or f16 with out_type F16."""

    def __init__(self, chip: Chip, shape: Shape, streamed: np.ndarray | None, stationary: np.ndarray | None,
                 out_type: int) -> None:
        super().__init__(chip, "gemm")
        self.shape, self.out_type = shape, out_type
        self.plan = self._best_plan()
        self.units = self._place()
        self.blocks = [self._weight_blocks(passes) for passes in self.plan.passes]
        self._contents(streamed, stationary)
        for unit, passes in zip(self.units, self.plan.passes):
            self._run(unit, passes)

    # -- planning ---------------------------------------------------------------------------
    def _best_plan(self) -> Plan:
        """The number of rows an LW takes that gives the shortest schedule; of equal ones the fewest streams."""
        g, size = self.g, self.shape.size
        per_side = 1 if self.shape.kind == F16 else g.planes // 2
        most = min(g.load_streams, (g.streams // per_side - size) // size)
        plans = [Plan(g, self.shape, r) for r in range(1, most + 1)]
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

    def _fit(self, plan: Plan) -> list[_Unit]:
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
            blocks = sum(p.loads for p in _distinct(plan.passes[number]))
            units.append(_Unit(number, plane, side, sums, out, acts, sides[side].region(
                blocks, plan.load_rows * size)))
        return units

    def _place(self) -> list[_Unit]:
        units = self._fit(self.plan)
        assert all(self.plan.lag(self.g.column[s]) <= self.plan.furthest for u in units for s in u.sums)
        return units

    @staticmethod
    def _weight_blocks(passes: list[Pass]) -> dict[tuple[int, int], int]:
        """First block of each tile (output tile, inner tile)."""
        found, at = {}, 0
        for p in _distinct(passes):
            found[p.segment.tile, p.k] = at
            at += p.loads
        return found

    # -- contents ---------------------------------------------------------------------------
    def _contents(self, streamed: np.ndarray | None, stationary: np.ndarray | None) -> None:
        g, shape, plan = self.g, self.shape, self.plan
        words = np.zeros((shape.rows, plan.tiles, TYPE_BYTES[self.out_type]), dtype=np.int32)
        for unit, segments in zip(self.units, plan.segments):
            vectors = np.arange(plan.inner_tiles * shape.rows)
            self.fill(unit.acts.words(vectors), None if streamed is None else _vectors(streamed, g.lanes))
            at = 0
            for s in segments:
                words[s.first : s.first + s.rows, s.tile] = unit.out.words(np.arange(at, at + s.rows))
                at += s.rows
            for (tile, k), first in self.blocks[unit.number].items():
                count = plan._loads(tile)
                data = None
                if stationary is not None:
                    data = _tile(stationary, tile * g.rows, k * g.lanes, count * plan.load_rows, g.rows, g.lanes)
                    data = data.reshape(count, plan.load_rows * shape.size, g.lanes)
                self.fill(unit.weights.words(np.arange(first, first + count)), data)
        kind = {F16: "f16", F32: "f32"}[self.out_type]
        # rows of the tensor are padded to whole tiles of outputs, which may be fewer than the lanes
        assert g.rows == g.lanes
        self.tensors["c"] = Tensor("c", kind, (shape.rows, shape.stationary), "output", streamed is None, False, words)

    # -- instructions -----------------------------------------------------------------------
    def _run(self, unit: _Unit, passes: list[Pass]) -> None:
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

    def _directions(self, unit: _Unit) -> tuple[int, int]:
        return (EAST, WEST) if unit.side else (WEST, EAST)

    def _streams(self, unit: _Unit) -> tuple[int, int, int, int, int, int]:
        """First streams: weights and activations (outward), products and partial sums (inward), new partial
        sums and results (outward)."""
        size = self.shape.size
        local = unit.number % (len(self.units) // 2)
        acts = local * size
        weights = len(self.units) // 2 * size + local * self.plan.load_rows * size
        quad = 2 * unit.row
        return (weights, acts, *(4 * ((quad + i) % 8) for i in range(4)))  # type: ignore[return-value]

    def _load(self, unit: _Unit, p: Pass) -> None:
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

    def _feed(self, unit: _Unit, p: Pass) -> None:
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

    def _alus(self, unit: _Unit) -> tuple[int, int]:
        """(adder, converter): two ALUs of the unit's row, the second one large."""
        row = range(4 * unit.row, 4 * unit.row + 4)
        large = next((a for a in row if a in self.g.large_alus), None)
        if large is None:
            raise ChipError(f"{self.g.chip}.vxm.large_alus = {','.join(map(str, sorted(self.g.large_alus)))}: a matrix "
                            "product needs one in every row of four ALUs")
        return next(a for a in row if a != large), large

    def _vector(self, unit: _Unit, p: Pass, written: int) -> None:
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

    def _partials(self, unit: _Unit, passes: list[Pass]) -> None:
        """READs and WRITEs of a segment's partial sums."""
        g, d = self.g, self.plan.d
        if len(passes) == 1:
            return
        out, back = self._directions(unit)
        _, _, _, partials, new, _ = self._streams(unit)
        segment = passes[0].segment
        gapless = self.plan.gapless(segment)
        for byte, s in enumerate(unit.sums):
            column = abs(g.column[s])
            sums = _Sums(g.words_per_bank, segment.rows, -(-self.plan.lag(column) // d), gapless)
            for x, address, n in sums.runs(0, len(passes) - 1):
                k, row = divmod(x, segment.rows)
                written = self._sampled(passes[k]) + row * d + g.entry + g.op + column - g.result_column
                self.add(written, s, "WRITE", address, stream_field(out, new + byte), n=n, d=d, stride=1)
                read = self._sampled(passes[k + 1]) + row * d - column
                self.add(read, s, "READ", address, stream_field(back, partials + byte), n=n, d=d, stride=1)


def _distinct(passes: list[Pass]) -> list[Pass]:
    """One pass for each tile: rows that are cut into several segments use the same weights."""
    return list({(p.segment.tile, p.k): p for p in passes}.values())


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
    its transpose where meta["transposed"]. Raises CapacityError when operands and result do not fit.
    """
    kind = TYPES[dtype]
    g = geometry(chip)
    a_stays, b_stays = Shape(m, n, k, kind), Shape(n, m, k, kind)
    shapes = sorted((b_stays, a_stays), key=lambda s: Plan(g, s, g.load_streams - 1).cycles)
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


__all__ = ["TYPES", "Gemm", "Plan", "Segment", "Shape", "fitting_schedule"]
