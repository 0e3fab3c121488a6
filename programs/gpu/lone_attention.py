"""One decode attention call by itself on a GPU: K and V of the step appended, split-KV attention, the combine.

Every sequence attends to `kv_len` positions, its own included. The cache lies head by head, as the
decode step's does, or in pages, as serving frameworks have it; q is there already, rotated.
"""

from __future__ import annotations

import numpy as np

from emulator.chip import Chip
from isa.program import Program
from programs.errors import CapacityError
from programs.gpu.attention_plan import PAGE, AttentionPlan
from programs.gpu.kernels.append import append_grid, append_kernel, append_warps
from programs.gpu.kernels.attention import attention_kernel
from programs.gpu.kernels.combine import combine_kernel, combine_shared_bytes
from programs.gpu.kernels.copy import CTA_BYTES, copy_kernel
from programs.gpu.kernels.copy import WARPS as COPY_WARPS
from programs.gpu.launches import Argument, Launches
from programs.gpu.layout import Arena
from programs.gpu.plan import ceil_div

WORDS = {"bfloat16": "bf16", "float16": "f16", "fp8": "e4m3"}  # K and V type of a case -> number type


def page_table(plan: AttentionPlan, shuffled: bool = False) -> np.ndarray:
    """Numbers of a sequence's pages, s32 [batch, table_row]: one after the other, as a benchmark that has just made its
    cache has them, or in random order, as after hours of serving."""
    pages = np.zeros((plan.batch, plan.table_row), dtype=np.int32)
    own = plan.capacity // PAGE
    numbers = np.arange(plan.batch * own)
    pages[:, :own] = (np.random.default_rng(0).permutation(numbers) if shuffled else numbers).reshape(plan.batch, own)
    return pages


def attention_program(chip: Chip, plan: AttentionPlan, kv: str, cache: np.ndarray | None = None,
                      shuffled: bool = False) -> Program:
    """The program of one call. kv: bf16, f16 or e4m3 (q is f16 then).

    Tensors: query [batch * heads, dim] (where the plan copies it, else q is in kv), position [batch, 1],
    new [batch * 2 * kv_heads, dim] (rows of K, then of V, of each sequence), table [batch, pages] (of a paged cache),
    kv (the region of plan's layout), attention [batch, heads * head_dim] (fp32). cache: the region's bytes; None:
    phantom, timing only. shuffled: pages in random order. Raises CapacityError when the chip's memory is too small.
    """
    timing_only = cache is None
    arena, launches = Arena(timing_only), Launches()
    place = arena.place
    positions = place("position", "s32", (plan.batch, 1), "state", phantom=False,
                      data=np.full((plan.batch, 1), plan.context - 1, dtype=np.int32))
    new = place("new", kv, (plan.batch * 2 * plan.kv_heads, plan.dim), "activation")
    out = place("attention", "f32", (plan.batch, plan.heads * plan.head_dim), "output")
    partial, ml = out, out
    if plan.splits > 1:
        partial = place("attention_partial", "f32", (plan.grid, plan.group * plan.dim), "activation")
        ml = place("attention_ml", "f32", (plan.grid, plan.group * 2), "activation")
    tables = {}
    if plan.paged:
        pages = page_table(plan, shuffled)
        tables["table"] = place("table", "s32", pages.shape, "table", phantom=False, data=pages)
    region = place("kv", "u8", (1, plan.region_bytes), "kv", data=cache)
    size, there = arena.bytes, int(chip["dram.capacity_bytes"])
    if size > there:
        raise CapacityError(f"K and V of {plan.batch} sequences of {plan.context} take {size:,} bytes; {chip.name} has "
                            f"{there:,}", -(-size // there))
    launches.add(append_kernel("append", plan))
    launches.add(attention_kernel("attention", plan, kv, out.pitch))
    query, swapped = (region, 0), out
    if plan.copies:
        swapped = place("swapped", "f32", out.shape, "activation", pitch=out.pitch)
        launches.add(copy_kernel("copy_out", plan.batch * out.pitch))
    if plan.copies > 1:
        query = (place("query", "f16" if kv == "e4m3" else kv, (plan.batch * plan.heads, plan.dim), "activation"), 0)
        launches.add(copy_kernel("copy_q", plan.batch * plan.q_stride))

    def copy(kernel: str, source: Argument, target: Argument, size: int) -> None:
        launches.launch(kernel, ceil_div(size, CTA_BYTES), 32 * COPY_WARPS, 0, "attention", source=source,
                        target=target)

    launches.launch("append", append_grid(plan), 32 * append_warps(plan), 0, "attention", new=new, kv=region,
                    positions=positions, **tables)
    if plan.copies > 1:
        copy("copy_q", query, region, plan.batch * plan.q_stride)
    if plan.splits == 1:
        partial = ml = swapped
    launches.launch("attention", plan.grid, 32 * plan.warps, plan.shared_bytes, "attention", kv=region,
                    positions=positions, out=partial, out_ml=ml, **tables)
    if plan.splits > 1:
        launches.add(combine_kernel("combine", plan, out.pitch))
        launches.launch("combine", plan.batch * plan.heads, 32 * plan.combine_warps, combine_shared_bytes(plan),
                        "attention", partial=partial, ml=ml, positions=positions, out=swapped)
    if plan.copies > 1:
        copy("copy_q", region, query, plan.batch * plan.q_stride)
        copy("copy_out", swapped, out, plan.batch * out.pitch)
    if plan.copies:
        copy("copy_out", swapped, out, plan.batch * out.pitch)
    meta = {"op": "decode_attention", "timing_only": timing_only}
    return launches.program(chip, arena.close(), arena.tensors, meta)
