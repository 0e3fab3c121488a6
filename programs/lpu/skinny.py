"""Matrix products with few rows on one LPU: the compiler's linear layer, bound by weight ingest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import geometry
from isa.opcodes import F16, S8
from isa.program import Program
from programs.decode.stored import StoredLinear
from programs.errors import CapacityError
from programs.lpu.chain import Op, copy, cvt
from programs.lpu.core import Dst, Mat
from programs.lpu.kernels.linear import Partials, linear
from programs.lpu.lone import Lone
from programs.lpu.memory import Buffer
from programs.lpu.partition import LinearPlan, natural
from programs.lpu.place import NEAR_GROUPS, lane_vectors


def activation_buffers(lone: Lone, n: int, name: str) -> list[Buffer]:
    """Placed inputs of a linear layer for each plane, away from its partial sums and weights."""
    b, g = lone.b, lone.g
    if not b.place.roomy:
        found = b.activations(n, name)
    else:
        group = NEAR_GROUPS[-1:]  # partial sums rest in the others
        sides = [b.memory.later(b.act_bytes, n, side, group) for side in (0, 1)]
        if b.act_bytes == 1:
            found = [b.memory.later(1, n, int(p >= g.planes // 2), group) for p in range(g.planes)]
        else:
            found = [sides[int(p >= g.planes // 2)] for p in range(g.planes)]
    for buffer in found:
        lone.s.settle(buffer)
    return found


def distinct(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Each buffer once, in order."""
    return list({id(buffer): buffer for buffer in buffers}.values())


def skinny_program(chip: Chip, kind: int, outputs: int, inputs: int, batch: int = 1, weights: np.ndarray | None = None,
                   x: np.ndarray | None = None) -> Program:
    """y = x W^T with W [outputs, inputs] and x [batch, inputs], int8 or float16.

    Tensor "c" [batch, outputs] is float16, or float32 for int8. Timing only without values.
    Raises CapacityError when W does not fit.
    """
    form, size = ("s8", 1) if kind == S8 else ("f16", 2)
    g = geometry(chip)
    lanes = g.lanes
    plan = LinearPlan("linear", natural(outputs, lanes), natural(inputs, lanes))
    if plan.words * size > g.words:
        raise CapacityError(f"weights of {outputs} x {inputs} need {plan.words * size:,} SRAM words in tiles and one "
                            f"{g.chip} has {g.words:,}", -(-plan.words * size // g.words))
    lone = Lone(chip, "linear", plan.words * size, batch, "int8" if kind == S8 else "fp16")
    b, memory = lone.b, lone.b.memory
    raw = None if weights is None else weights.view(np.uint16 if kind == F16 else np.int8)
    source = StoredLinear("linear", form, outputs, inputs, False, False, raw)
    lone.timing_only = weights is None or x is None
    placed = b.place.linear(plan, form, False, lambda layer: source)
    acts = activation_buffers(lone, len(plan.columns) * batch, "linear")
    values = None
    if x is not None:
        vectors = np.stack([lane_vectors(row, plan.columns, lanes) for row in x])  # [batch, vectors, lanes]
        values = vectors.transpose(1, 0, 2).reshape(-1, lanes)
    for act in distinct(acts):
        lone.give(act, values)
    results: dict[int, Buffer] = {}

    def final(n: int, value: Op | Mat, rest: int, side: int) -> Sequence[tuple[Op, Sequence[Dst]]]:
        size = 4 if kind == S8 else 2
        results[n] = memory.later(size, batch, side, (rest,))
        if batch > 1 and len(plan.columns) % 2 == 0:  # the sum that is read is in the first bank
            results[n] = memory.top(memory.group(side, rest)[:size], batch)
        elif batch > 1:
            results[n] = memory.buffer(memory.group(side, rest)[:size], batch)
        if kind == F16:
            value = cvt("f16", "f32", value)
        return [(value if isinstance(value, Op) else copy(value), [Dst(results[n])])]

    linear(b, placed, acts, Partials(b), final)
    words = np.concatenate([lone.rows(results[n], 0, 1, batch) for n in sorted(results)], axis=1)
    lone.tensor("c", "f32" if kind == S8 else "f16", outputs, "output", words, lone.timing_only)
    return lone.finish({"op": "linear", "outputs": outputs, "inputs": inputs, "batch": batch})
