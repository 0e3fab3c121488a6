"""One step of an LSTM cell with the program structure that Groq published cycle counts for.

The structure follows the public counts of the Groq API's LSTM notebook (hidden 512, int8: 670, 718, 790, 838,
1413 cycles at batch 1, 3, 6, 8, 32): the joined input and hidden vector and each gate's outputs are cut
into equal tiles; one gate a matrix plane; phases that go from memory to memory, each after the one
before has ended:

  copy west       Kt vectors a row to the slices of the western planes
  copy east       the same through the VXM to the eastern ones
  passes          Kt x Nt, one every 52 + batch cycles: 40 for two loads through the 16 slices that the planes of
                  a hemisphere share, 12 more, and the batch's rows; no load overlaps a pass
  dequantise      scale and bias of all gates side by side (3 operations)
  activate i, o   sigmoid through tanh (6 operations each)
  activate f, c   sigmoid (6) and tanh (5)
  reduce          c' = f c + i g, h = o tanh(c') (8 operations deep)

So a row of the batch adds 2 Kt + Kt Nt + 4 Nt cycles. The source's tanh works on int16; here the operand of the
fp32 tanh is rounded to a fixed-point grid instead, with as many operations. This is tutorial code kept for
validation: lstm.py has the compiler's own schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import MXM_ABC, MXM_LW
from isa.opcodes import S8
from isa.program import Program
from programs.errors import CapacityError
from programs.lpu.chain import Op, arrange, copy, cvt, f32, imm, s32
from programs.lpu.core import Dst, Mat, Mem
from programs.lpu.lone import Lone
from programs.lpu.lstm import GATES, CellValues, check_cell
from programs.lpu.memory import Buffer
from programs.lpu.partition import BLOCK
from programs.lpu.patterns import Load, install
from programs.lpu.place import Fill, lane_vectors

# Calibrated, and the only number here that is: cycles that the published program spends between its phases,
# beyond what the phases take on this machine. Chosen so that hidden 512 at batch 1 takes 670 cycles; every other
# batch and hidden size follows without it being touched.
PHASE_SLACK = 14  # cycles, status: calibrated
LOAD_CYCLES = 20  # of a plane, through 16 slices
PASS_WAIT = 12  # cycles between the loads and the first row
GRID = 4096.0  # steps of tanh's operand a unit
PASSES_MAX = 4096  # hidden sizes without a good divisor make too many tiles
PAUSES = 6  # between the seven phases
CALIBRATED = f"phase slack of {PHASE_SLACK} cycles calibrated on hidden 512, batch 1"


def equal_tiles(size: int, most: int) -> int:
    """The fewest equal tiles of at most `most` that `size` divides into."""
    return next(n for n in range(-(-size // most), size + 1) if size % n == 0)


class PublishedCell(Lone):
    """Values mode: x and h int8 and c f32 [batch, hidden], one scale a gate (equal rows of values.scale).

    Tensors "h" and "c" (the new ones): f32 [Nt * batch, hidden / Nt], row tile * batch + sequence.
    """

    def __init__(self, chip: Chip, hidden: int, batch: int, values: CellValues | None = None,
                 x: np.ndarray | None = None, h: np.ndarray | None = None, c: np.ndarray | None = None,
                 slack: int = PHASE_SLACK) -> None:
        super().__init__(chip, "lstm_published", 0, batch, barrier=False)
        g = self.g
        check_cell(g, hidden, batch)
        self.hidden, self.batch, self.values = hidden, batch, values
        self.inner, self.outer = equal_tiles(2 * hidden, g.lanes), equal_tiles(hidden, g.rows)
        if self.inner * self.outer > PASSES_MAX:
            raise CapacityError(f"hidden {hidden} cuts into {self.inner} x {self.outer} equal tiles of at most "
                                f"{g.rows}; at most {PASSES_MAX} are taken: choose a size with small divisors")
        self.timing_only = values is None
        self.pauses = [slack * (n + 1) // PAUSES - slack * n // PAUSES for n in range(PAUSES)]
        self.now = 0
        self._place(x, h, c)
        self.b.memory.check(0)
        self._schedule()

    # -- memory -----------------------------------------------------------------------------
    def _layout(self, size: int, tiles: int) -> list[np.ndarray]:
        return list(np.arange(size).reshape(tiles, -1))

    def _vectors(self, values: np.ndarray | None, tiles: int) -> np.ndarray | None:
        """[tiles * batch, lanes] of values [batch, n] cut into equal tiles."""
        if values is None:
            return None
        layout = self._layout(values.shape[1], tiles)
        found = np.stack([lane_vectors(row, layout, self.g.lanes) for row in values])
        return found.transpose(1, 0, 2).reshape(-1, self.g.lanes)

    def _four(self, n: int, group: int) -> list[Buffer]:
        """f32 vectors of each gate in the hemisphere of its plane, in two neighbouring slice groups."""
        return [self.place(4, n, side, (group + number,)) for side in (0, 1) for number in (0, 1)]

    def _place(self, x: np.ndarray | None, h: np.ndarray | None, c: np.ndarray | None) -> None:
        batch, memory = self.batch, self.b.memory
        rows, vectors = self.inner * batch, self.outer * batch
        joined = None if x is None or h is None else np.concatenate([x, h], axis=1)
        self.source = self.place(1, rows, 1, (0,))
        self.give(self.source, self._vectors(joined, self.inner))
        # a copy for each plane: planes side by side read theirs in the same cycle
        self.acts = [self.place(1, rows, side, (2,)) for side in (0, 0, 1, 1)]
        self.sums, self.gates = self._four(vectors, 0), self._four(vectors, 0)
        self.others = self._four(vectors, 5)  # every second partial sum: a slice cannot read and write side by side
        self.inputs = self._four(vectors, 2)  # of the gates' functions
        self.bias = self._four(vectors, 4)  # a copy for each row, so that they stream side by side with the sums
        for gate, buffer in enumerate(self.bias):
            bias = None
            if self.values is not None:
                scaled = (self.values.bias[gate] * self._factor(gate)).astype(np.float32)
                bias = self._vectors(np.repeat(scaled[None], batch, axis=0), self.outer)
            self.give(buffer, bias)
        self.old, self.new = self.place(4, vectors, 0, (2,)), self.place(4, vectors, 0, (3,))
        self.give(self.old, self._vectors(None if c is None else c.astype(np.float32), self.outer))
        self.out = self.place(4, vectors, 1, (2,))
        self.blocks = -(-self.hidden // self.outer // BLOCK)
        self.weights = []
        for side in (0, 1):
            slices = tuple(s for k in range(memory.columns - 4, memory.columns) for s in memory.group(side, k))
            for number in (0, 1):
                buffer = memory.buffer(slices, self.blocks * self.inner * self.outer)
                self.b.place.fills.append(Fill(buffer, make=self._tiles_of(2 * side + number)))
                self.weights.append(buffer)

    def _factor(self, gate: int) -> float:
        """What scale and bias of a gate are multiplied by: sigmoids take half of their operand, on tanh's grid."""
        return 1.0 if GATES[gate] == "c" else 0.5 * GRID

    def _scale(self, gate: int) -> float:
        if self.values is None:
            return 1.0
        scale = self.values.scale[gate]
        if not (scale == scale[0]).all():
            raise ValueError("this program takes one scale a gate")
        return float(scale[0]) * self._factor(gate)

    def _tiles_of(self, gate: int) -> Callable[[int], np.ndarray]:
        """Contents of a gate's tiles: [words, 16 slices, lanes], output tile by output tile."""
        def make(layer: int) -> np.ndarray:
            assert self.values is not None
            tall, wide = self.hidden // self.outer, 2 * self.hidden // self.inner
            out = np.zeros((self.outer, self.inner, self.blocks * BLOCK, self.g.lanes), dtype=np.int8)
            tiles = self.values.weights[gate].reshape(self.outer, tall, self.inner, wide)
            out[:, :, :tall, :wide] = tiles.transpose(0, 2, 1, 3)
            return out.view(np.uint8).reshape(-1, BLOCK, self.g.lanes)

        return make

    # -- phases -----------------------------------------------------------------------------
    def _schedule(self) -> None:
        s, rows, vectors = self.s, self.inner * self.batch, self.outer * self.batch
        west, east = self.acts[:2], self.acts[2:]
        s.move(Mem(self.source), [Dst(a) for a in west], rows)
        self._end(west)
        self._vector([(cvt("s8", "s8", Mem(west[0])), east)], rows)
        self._passes()
        self._vector([(self._dequantised(gate), [self.inputs[gate]]) for gate in range(4)], vectors)
        for pair in ("io", "fc"):
            numbers = [GATES.index(name) for name in pair]
            self._vector([(self._activated(gate), [self.gates[gate]]) for gate in numbers], vectors)
        i, f, candidate, o = (Mem(gate) for gate in self.gates)
        cell = f32("ADD", f32("MUL", f, Mem(self.old)), f32("MUL", i, candidate))
        hidden = f32("MUL", on_grid_tanh(cell), o)
        self._vector([(cell, [self.new]), (hidden, [self.out])], vectors)
        for name, buffer in (("h", self.out), ("c", self.new)):
            self.tensor(name, "f32", self.hidden // self.outer, "output", buffer.words(self.g)[:, None],
                        self.timing_only)

    def _dequantised(self, gate: int) -> Op:
        scaled = imm("MULI", cvt("f32", "s32", Mem(self.sums[gate])), self._scale(gate))
        return f32("ADD", scaled, Mem(self.bias[gate]))

    def _activated(self, gate: int) -> Op:
        value = Mem(self.inputs[gate])
        if GATES[gate] == "c":
            return on_grid_tanh(value)
        rounded = imm("MULI", cvt("f32", "s32", cvt("s32", "f32", value)), 1 / GRID)
        return imm("ADDI", imm("MULI", f32("TANH", rounded), 0.5), 0.5)

    def _end(self, results: Sequence[Buffer]) -> None:
        """A phase has ended when all its results can be read; the pause that follows is calibrated."""
        self.now = max(max(buffer.ready) for buffer in results)
        if self.pauses:
            self.now += self.pauses.pop(0)

    def _vector(self, outs: Sequence[tuple[Op, Sequence[Buffer]]], n: int) -> None:
        """A phase of n vectors, one a cycle, whose first READ is in the cycle in which the phase begins."""
        ops = [op for op, _ in outs]
        chain = arrange(self.g, ops, lambda leaf: 0)
        lead = max(abs(self.g.column[leaf.buffer.slices[0]]) - sampled for leaf, sampled in chain.leaves
                   if isinstance(leaf, Mem))
        start = self.s.vop([(op, [Dst(buffer) for buffer in buffers]) for op, buffers in outs], n,
                           after=self.now + lead)
        assert start == self.now + lead, "phases run alone: nothing can be in their way"
        self._end([buffer for _, buffers in outs for buffer in buffers])

    def _passes(self) -> None:
        """One pass every 52 + batch cycles; each plane adds its products to its gate's sums."""
        g, s, batch = self.g, self.s, self.batch
        mxm = abs(g.column[g.mxm_queue(0, MXM_LW)])
        first = self.now + mxm - min(abs(g.column[x]) for x in self.weights[0].slices)
        land = g.abc_delay(1) + abs(g.column[g.mxm_queue(0, MXM_ABC)])  # activation at the plane to product at the VXM
        for number in range(self.inner * self.outer):
            at = first + number * (2 * LOAD_CYCLES + PASS_WAIT + batch)
            tile, inner = divmod(number, self.inner)
            for plane in range(g.planes):
                load = Load(self.weights[plane], number * self.blocks, self.blocks, 0)
                install(s, plane, S8, [load], at + plane % 2 * LOAD_CYCLES)
            fed = at + 2 * LOAD_CYCLES + PASS_WAIT
            new, old = (self.sums, self.others) if (self.inner - inner) % 2 else (self.others, self.sums)
            for plane, act in enumerate(self.acts):
                product = Mat(plane, S8, act, inner * batch)
                value = s32("ADD", product, Mem(old[plane], tile * batch)) if inner else copy(product)
                start = s.vop([(value, [Dst(new[plane], tile * batch)])], batch, after=fed + land, own_half=plane % 2)
                assert start == fed + land, "every pass begins in its own cycle"
        self._end(self.sums)


def on_grid_tanh(value: Op | Mem) -> Op:
    """tanh of a value rounded to the grid, in five operations."""
    rounded = cvt("f32", "s32", cvt("s32", "f32", imm("MULI", value, GRID)))
    return f32("TANH", imm("MULI", rounded, 1 / GRID))


def published_program(chip: Chip, hidden: int, batch: int) -> Program:
    """The program for a hidden size and batch, timing only. Raises CapacityError for sizes it cannot cut."""
    meta = {"op": "lstm_cell_published", "hidden": hidden, "batch": batch, "calibrated": CALIBRATED}
    return PublishedCell(chip, hidden, batch).finish(meta)


__all__ = ["CALIBRATED", "PHASE_SLACK", "PublishedCell", "equal_tiles", "published_program"]
