"""Appending the new K and V rows of a step to the cache, as a kernel of its own."""

from __future__ import annotations

from isa.builder import Kernel
from programs.gpu.attention_plan import PAGE, AttentionPlan
from programs.gpu.kernels.common import add_offset, below, scale_offset, thread, uniform_divide

UNIT_BYTES = 16  # of a lane
WARPS_MAX = 16


def append_warps(plan: AttentionPlan) -> int:
    """Warps of a CTA: a warp has one row, the CTAs have equal shares of all rows."""
    rows = 2 * plan.kv_heads
    return next(warps for warps in range(min(WARPS_MAX, rows), 0, -1) if rows % warps == 0)


def append_grid(plan: AttentionPlan) -> int:
    """CTAs for all sequences."""
    return plan.batch * 2 * plan.kv_heads // append_warps(plan)


def append_kernel(name: str, plan: AttentionPlan) -> Kernel:
    """K and V rows of every sequence to its position in the cache.

    Parameters: new ([batch, 2, kv_heads, dim], K before V, in the cache's format), kv (the layer's region), positions.
    """
    k = Kernel(name, ("new", "kv", "positions", "table")[:4 if plan.paged else 3])
    t = thread(k)
    new, kv, positions = (k.parameter(n) for n in k.parameters[:3])
    row, sequence, which, head, rest, at = (k.ureg(n) for n in ("row", "sequence", "which", "head", "rest", "at"))
    k.comment("row = (sequence * 2 + K or V) * kv_heads + head, a warp each")
    k.UMULI(row, t.cta, append_warps(plan))
    k.UADD(row, row, t.warp)
    uniform_divide(k, rest, head, row, plan.kv_heads, plan.batch * 2 * plan.kv_heads)
    k.UANDI(which, rest, 1)
    k.USHR(sequence, rest, 1)
    k.UMULI(at, row, plan.row_bytes)
    k.UADD(new, new, at)
    lane16, value = k.reg("lane16"), k.reg("value", 4)
    k.SHL(lane16, t.lane, 4)
    there = below(k, t.lane, plan.row_bytes // UNIT_BYTES)
    k.LDG(128, value, lane16, new, 0, guard=there)
    k.USHL(at, sequence, 2)
    k.UADD(at, at, positions)
    k.ULDG(32, at, at, 0)
    strides = [(sequence, plan.kv_stride), (which, plan.v_at - plan.k_at), (head, plan.capacity * plan.row_bytes)]
    if plan.paged:
        page, entry = k.ureg("page"), k.parameter("table")
        k.UMULI(page, sequence, plan.table_row)
        k.USHR(rest, at, PAGE.bit_length() - 1)
        k.UADD(page, page, rest)
        k.USHL(page, page, 2)
        k.UADD(entry, entry, page)
        k.ULDG(32, page, entry, 0)
        k.UANDI(at, at, PAGE - 1)
        strides = [(page, plan.page_bytes), (which, plan.v_at - plan.k_at), (head, plan.row_bytes)]
    k.UMULI(at, at, plan.key_stride)
    k.UADD(kv, kv, at)
    for count, stride in strides:
        scale_offset(k, at, count, stride)
        k.UADD(kv, kv, at)
    add_offset(k, kv, kv, plan.k_at)
    k.STG(128, lane16, kv, 0, value, guard=there)
    k.EXIT()
    return k
