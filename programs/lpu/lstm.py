"""One step of an LSTM cell on one LPU, scheduled by the compiler.

int8 weights x int8 activations: gate = scale * (W [x; h]) + bias with x and h in units of 1 / 127, one gate
a matrix plane. sigmoid(a) = (1 + tanh(a / 2)) / 2: the halves are folded into scale and bias. The state (c
in fp32, h in int8 where the next step reads it) stays in the SRAM, so that steps follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import Geometry, geometry
from isa.program import Program
from programs.decode.stored import StoredLinear
from programs.errors import CapacityError
from programs.lpu.chain import Op, cvt, f32, imm
from programs.lpu.core import Dst, Mat, Mem
from programs.lpu.kernels.linear import Partials, linear
from programs.lpu.lone import Lone
from programs.lpu.memory import Buffer
from programs.lpu.partition import LinearPlan, natural
from programs.lpu.place import NEAR_GROUPS, lane_vectors
from programs.lpu.skinny import activation_buffers, distinct

GATES = ("i", "f", "c", "o")
WORDS_A_ROW = 4 * 7 + 9  # a sequence: gates, c, h, sums in fp32; four copies of x and h, and x itself
STATE_SCALE = 127.0  # h and x in int8 stand for h / 127


@dataclass(frozen=True)
class CellValues:
    """weights int8 [4, hidden, 2 hidden] (gates i, f, c, o; columns x, then h), scale and bias f32 [4, hidden]."""

    weights: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def check_cell(g: Geometry, hidden: int, batch: int) -> None:
    """Raise CapacityError for a cell whose weights and vectors one chip cannot hold."""
    tiles = -(-hidden // g.lanes)
    need = len(GATES) * hidden * 2 * tiles + batch * tiles * WORDS_A_ROW
    if need > g.words:
        raise CapacityError(f"an LSTM cell of hidden {hidden} and batch {batch} needs {need:,} SRAM words and one "
                            f"{g.chip} has {g.words:,}", -(-need // g.words))


class LstmCell(Lone):
    """Tensors: "x" int8 [batch, hidden] (input), "c" and "h" f32 [batch, hidden] (state, result), "h8" int8."""

    def __init__(self, chip: Chip, hidden: int, batch: int, values: CellValues | None) -> None:
        g = geometry(chip)
        lanes = g.lanes
        check_cell(g, hidden, batch)
        self.hidden, self.batch, self.values = hidden, batch, values
        self.tiles = natural(hidden, lanes)
        columns = [*self.tiles, *(t + hidden for t in self.tiles)]
        rows = [t + gate * hidden for gate in range(len(GATES)) for t in self.tiles]
        self.plan = LinearPlan("lstm", rows, columns)
        super().__init__(chip, "lstm", self.plan.words, batch)
        self.timing_only = values is None
        self._place()
        self._schedule()

    def _place(self) -> None:
        n, batch = len(self.tiles), self.batch
        raw = None if self.values is None else self.values.weights.reshape(-1, 2 * self.hidden)
        source = StoredLinear("lstm", "s8", len(GATES) * self.hidden, 2 * self.hidden, True, True, raw)
        self.placed = self.b.place.linear(self.plan, "s8", False, lambda layer: source)
        self.acts = activation_buffers(self, 2 * n * batch, "lstm")
        for act in distinct(self.acts):
            self.zero(act)
        self.x = self.place(1, n * batch, 0, NEAR_GROUPS[-1:])
        self.give(self.x, None if self.values is None else np.zeros((n * batch, self.g.lanes), np.int8))
        self.c = self.place(4, n * batch, 0)
        self.zero(self.c)

    def _gate_constant(self, gate: int, n: int, values: np.ndarray, side: int, group: int) -> Buffer:
        buffer = self.b.place.scratch(4, 1, side, group=group)
        self.give(buffer, lane_vectors(values[gate].astype(np.float32), [self.tiles[n]], self.g.lanes))
        return buffer

    def _schedule(self) -> None:
        b, s, batch, count = self.b, self.s, self.batch, len(self.tiles)
        # x to the planes' inputs while the first weights load; h is there from the step before
        targets = distinct(self.acts)
        s.move(Mem(self.x), [Dst(act) for act in targets], count * batch)
        gates = [b.scratch(4, count * batch, 0) for _ in GATES]
        ones = np.ones((len(GATES), self.hidden))
        scale, bias = (ones, ones) if self.values is None else (self.values.scale, self.values.bias)
        halves = np.array([0.5, 0.5, 1.0, 0.5])[:, None]

        def final(n: int, value: Op | Mat, rest: int, side: int) -> Sequence[tuple[Op, Sequence[Dst]]]:
            gate, tile = divmod(n, count)
            value = f32("MUL", value, Mem(self._gate_constant(gate, tile, scale * halves, side, rest), 0, 0))
            value = f32("ADD", value, Mem(self._gate_constant(gate, tile, bias * halves, side, rest), 0, 0))
            value = f32("TANH", value)
            if GATES[gate] != "c":
                value = imm("ADDI", imm("MULI", value, 0.5), 0.5)
            return [(value, [Dst(gates[gate], tile * batch)])]

        linear(b, self.placed, self.acts, Partials(b), final)
        out = self.place(4, count * batch, 1)
        i, f, candidate, o = gates
        for tile in range(count):
            at = tile * batch
            cell = f32("ADD", f32("MUL", Mem(f, at), Mem(self.c, at)), f32("MUL", Mem(i, at), Mem(candidate, at)))
            hidden = f32("MUL", f32("TANH", cell), Mem(o, at))
            s.vop([(cell, [Dst(self.c, at)]), (hidden, [Dst(out, at)])], batch)
            scaled = imm("MULI", Mem(out, at), STATE_SCALE)
            s.vop([(cvt("s8", "f32", scaled), [Dst(act, (count + tile) * batch) for act in targets if act.side == side])
                   for side in (0, 1)], batch)
        state = [("x", "s8", self.x, 0, "activation"), ("c", "f32", self.c, 0, "state"), ("h", "f32", out, 0, "output"),
                 ("h8", "s8", targets[0], count * batch, "state")]
        for name, dtype, buffer, first, role in state:
            self.tensor(name, dtype, self.hidden, role, self.rows(buffer, first, count, batch), self.timing_only)


def lstm_program(chip: Chip, hidden: int, batch: int, values: CellValues | None = None) -> Program:
    """One step of a cell; timing only without values. Raises CapacityError when the weights do not fit."""
    return LstmCell(chip, hidden, batch, values).finish({"op": "lstm_cell", "hidden": hidden, "batch": batch})


__all__ = ["GATES", "STATE_SCALE", "CellValues", "LstmCell", "check_cell", "lstm_program"]
