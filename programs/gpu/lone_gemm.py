"""One matrix product by itself on a GPU, as a graph of copies on distinct weights in rotation.

y[m, n] = x[m, k] W[n, k]. A copy is what a library launches: where both operands are 8-bit a kernel that quantises
x, the product, and the reduction where k is split. x is the same for all copies.
"""

from __future__ import annotations

import numpy as np

from emulator.chip import Chip
from isa.program import Program
from programs.errors import CapacityError
from programs.gpu.gemm_plan import FORMS, GemmPlan
from programs.gpu.kernels.gemm import gemm_kernel
from programs.gpu.kernels.gemm_ends import (
    output_form,
    quantise_kernel,
    quantise_warps,
    reduce_grid,
    reduce_kernel,
    reduce_shared_bytes,
    reduce_warps,
    source_values,
)
from programs.gpu.launches import Argument, Launches
from programs.gpu.layout import Arena
from programs.gpu.plan import round_up

# Data type of a case -> number type.
WORDS = {"bfloat16": "bf16", "float16": "f16", "fp8": "e4m3", "int8": "s8", "int8_wo": "s8_bf16"}
# Weights to be widened lie so that the four bytes that LDSM gives a lane are those of its 16-bit fragment: of 16
# values of k, lane l % 4 = c has 2 c, 2 c + 1, 8 + 2 c, 9 + 2 c.
LANE_ORDER = [8 * half + 2 * c + e for c in range(4) for half in range(2) for e in range(2)]


def gemm_program(chip: Chip, plan: GemmPlan, copies: int = 1, weights: np.ndarray | None = None,
                 row_scales: np.ndarray | None = None) -> Program:
    """The program of `copies` products. Tensors: x [m, k] (16-bit), y [m, n], weights0, weights1, ...

    weights: raw values [n, k] of plan.form, the same for every copy; None: phantom, timing only. row_scales:
    fp32 [n], of 8-bit weights. Raises CapacityError when the chip's memory is too small.
    """
    timing_only = weights is None
    arena, launches = Arena(timing_only), Launches()
    eight = FORMS[plan.form] == 1
    both: dict[str, Argument] = {}
    place = arena.place
    if plan.quantised:
        x = place("x", output_form(plan.form), (plan.m, source_values(plan)), "activation")
        operand = place("operand", "u8", (plan.m, plan.x_pitch), "activation")
        both["x_scales"] = scales = place("x_scales", "f32", (1, plan.m), "activation")
    else:
        operand = x = place("x", plan.mma_form, (plan.m, plan.x_pitch // 2), "activation")
    if eight:
        row = None
        if row_scales is not None:
            row = np.zeros((1, plan.y_values), dtype=np.float32)
            row[0, :plan.n] = row_scales
        both["row_scales"] = place("row_scales", "f32", (1, plan.y_values), "weight", data=row)
    y = place("y", output_form(plan.form), (plan.m, plan.y_values), "output")
    x.shape, y.shape = (plan.m, plan.k), (plan.m, plan.n)
    if plan.splits > 1:
        parts = place("parts", "f32", (plan.splits * plan.m, plan.y_values), "activation")
    data = None
    if weights is not None:
        data = np.zeros((plan.n, plan.row_bytes), dtype=np.uint8)
        raw = np.ascontiguousarray(weights).view(np.uint8).reshape(plan.n, -1)
        data[:, :raw.shape[1]] = raw
        if plan.widened:
            data = data.reshape(plan.n, -1, 16)[:, :, LANE_ORDER].reshape(plan.n, -1)
    all_weights = [place(f"weights{c}", "u8", (plan.n, plan.row_bytes), "weight", data=data) for c in range(copies)]
    size, there = round_up(arena.bytes, 512), int(chip["dram.capacity_bytes"])
    if size > there:
        times = "" if copies == 1 else f" with {copies} copies of its weights"
        raise CapacityError(f"a product of {plan.m} x {plan.n} x {plan.k}{times} takes {size:,} bytes; {chip.name} has "
                            f"{there:,}", -(-size // there))
    if plan.quantised:
        launches.add(quantise_kernel("quantise", plan))
    launches.add(gemm_kernel("gemm", plan))
    if plan.splits > 1:
        launches.add(reduce_kernel("reduce", plan))
    for c, one in enumerate(all_weights):
        node = f"copy{c}"
        if plan.quantised:
            warps = quantise_warps(plan)
            launches.launch("quantise", plan.m, 32 * warps, 4 * warps, node, source=x, out=operand, scales=scales)
        out = parts if plan.splits > 1 else y
        launches.launch("gemm", plan.grid, 32 * plan.warps, plan.shared_bytes, node, weights=one, x=operand, out=out,
                        **({} if plan.splits > 1 else both))
        if plan.splits > 1:
            launches.launch("reduce", reduce_grid(plan), 32 * reduce_warps(plan), reduce_shared_bytes(plan), node,
                            parts=parts, out=y, **both)
    meta = {"op": "gemm", "timing_only": timing_only, "copies": copies}
    return launches.program(chip, arena.close(), arena.tensors, meta)
