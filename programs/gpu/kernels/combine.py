"""The combine of split-KV attention: one CTA a query head adds the splits' results to a common maximum."""

from __future__ import annotations

from isa.builder import UZERO, ZERO, Kernel, Reg, UReg
from programs.gpu.attention_plan import AttentionPlan
from programs.gpu.kernels.attention import LOWEST
from programs.gpu.kernels.attention_end import score_factor, store_dims
from programs.gpu.kernels.common import Maker, below, float_constant, max_lanes, sum_lanes, thread, uniform_divide
from programs.gpu.plan import ceil_div


def combine_shared_bytes(plan: AttentionPlan) -> int:
    """Weights of all splits for every warp, then the warps' sums."""
    return plan.combine_warps * (4 * 32 * ceil_div(plan.splits, 32) + 16 * 32 * ceil_div(plan.dim, 128))


def combine_kernel(name: str, plan: AttentionPlan, out_pitch: int, make: Maker = Kernel) -> Kernel:
    """out = sum over splits of O 2**((m - M) c) / sum of l 2**((m - M) c), M the largest m.

    Parameters: partial [batch, unit, split, head, dim], ml, positions, out (fp32 rows of out_pitch
    bytes). A warp takes every combine_warps-th split that the position reaches; the warps' sums are added in order.
    """
    k = make(name, ("partial", "ml", "positions", "out"))
    t, warps = thread(k), plan.combine_warps
    partial, ml, positions, out = (k.parameter(n) for n in k.parameters)
    k.comment("cta = sequence * heads + head")
    row, group_head, sequence, head, at = (k.ureg(n) for n in ("row", "group_head", "sequence", "head", "at"))
    uniform_divide(k, row, group_head, t.cta, plan.group, plan.batch * plan.heads)
    uniform_divide(k, sequence, head, t.cta, plan.heads, plan.batch * plan.heads)
    live = k.ureg("live")  # splits that have keys
    k.USHL(at, sequence, 2)
    k.UADD(at, at, positions)
    k.ULDG(32, live, at, 0)
    with k.scratch():
        position, rest = k.ureg("position"), k.ureg("rest")
        k.UADD(position, live, UZERO)
        uniform_divide(k, live, rest, position, plan.split, plan.context)
    k.UADDI(live, live, 1)
    k.UMULI(at, row, plan.splits * plan.group)
    k.UADD(at, at, group_head)
    offset = k.ureg("offset")
    k.UMULI(offset, at, 8)
    k.UADD(ml, ml, offset)
    k.UMULI(offset, at, plan.dim * 4)
    k.UADD(partial, partial, offset)
    k.UMULI(offset, sequence, out_pitch)
    k.UADD(out, out, offset)

    total = _weights(k, plan, t.lane, ml, live)

    k.comment("this warp's splits")
    columns = ceil_div(plan.dim, 128)
    sums = [k.reg(f"sum{c}", 4) for c in range(columns)]
    for value in sums:
        for i in range(4):
            k.MOV(value[i], ZERO)
    lane16 = k.reg("lane16")
    k.SHL(lane16, t.lane, 4)
    guards = [below(k, t.lane, (plan.dim - 128 * c) // 4) if plan.dim < 128 * (c + 1) else None
              for c in range(columns)]
    split, weight_at = k.ureg("split"), k.reg("weight_at")
    k.UADD(split, t.warp, UZERO)
    k.UMULI(offset, t.warp, plan.group * plan.dim * 4)
    k.UADD(partial, partial, offset)
    k.S2R(weight_at, "WARPID")
    k.MULI("s32", weight_at, weight_at, 4 + 4 * 32 * ceil_div(plan.splits, 32))
    stride = warps * plan.group * plan.dim * 4
    for count in dict.fromkeys((plan.combine_ahead, 1)):
        skip, loop = k.fresh("skip"), k.fresh("splits")
        last = k.ureg("last")
        k.UADDI(last, split, warps * (count - 1))
        k.UBR("GE", last, live, skip)
        k.label(loop)
        with k.scratch():
            weights = [k.reg(f"weight{u}") for u in range(count)]
            values = [[k.reg(f"o{u}_{c}", 4) for c in range(columns)] for u in range(count)]
            for u in range(count):
                k.LDS(32, weights[u], weight_at, 4 * warps * u)
                for c in range(columns):
                    k.LDG(128, values[u][c], lane16, partial, 512 * c, guard=guards[c])
                k.UADDI(partial, partial, stride)
            for u in range(count):
                for c in range(columns):
                    for i in range(4):
                        k.FMA("f32", sums[c][i], values[u][c][i], weights[u], sums[c][i])
        k.ADDI("s32", weight_at, weight_at, 4 * warps * count)
        k.UADDI(split, split, warps * count)
        k.UADDI(last, last, warps * count)
        k.UBR("LT", last, live, loop)
        k.label(skip)
        k.free(last)

    k.comment("add the warps in order, divide, write")
    area = warps * 4 * 32 * ceil_div(plan.splits, 32)
    mine = k.reg("mine")
    k.SHL(mine, t.tid, 4)
    for c in range(columns):
        k.STS(128, mine, area + c * warps * 512, sums[c])
    k.BAR()
    k.UBR("GT", t.warp, UZERO, "leave")
    k.RCP("f32", total, total)
    for c in range(columns):
        with k.scratch():
            for w in range(1, warps):
                other = k.reg("other", 4)
                k.LDS(128, other, lane16, area + (c * warps + w) * 512)
                for i in range(4):
                    k.ADD("f32", sums[c][i], sums[c][i], other[i])
                k.free(other)
            for i in range(4):
                k.MUL("f32", sums[c][i], sums[c][i], total)
            head_r, column = k.reg("head_r"), k.reg("column")
            k.MOV(head_r, head)
            k.ADDI("s32", column, t.lane, 32 * c)
            store_dims(k, plan, head_r, column, out, sums[c], None)
    k.label("leave")
    k.EXIT()
    return k


def _weights(k: Kernel, plan: AttentionPlan, lane: Reg, ml: UReg, live: UReg) -> Reg:
    """Every split's weight to this warp's shared words; returns the sum of all l times weight."""
    k.comment("weights of the splits, a lane each")
    rounds = ceil_div(plan.splits, 32)
    factor = float_constant(k, "factor", score_factor(plan))
    total = k.reg("total")
    with k.scratch():
        pairs = [k.reg(f"ml{r}", 2) for r in range(rounds)]
        number, at, other, exists = k.reg("number"), k.reg("ml_at"), k.reg("other"), k.pred("exists")
        highest = k.reg("highest")
        for r, pair in enumerate(pairs):
            k.MOVI("f32", pair[0], LOWEST)
            k.MOVI("f32", pair[1], 0.0)
            k.ADDI("s32", number, lane, 32 * r)
            k.SETP("LT", "s32", exists, number, live)
            k.MULI("s32", at, number, plan.group * 8)
            k.LDG(64, pair, at, ml, 0, guard=exists)
        k.MOV(highest, pairs[0][0])
        for pair in pairs[1:]:
            k.MAX("f32", highest, highest, pair[0])
        max_lanes(k, highest, other)
        k.S2R(at, "WARPID")
        k.MULI("s32", at, at, 4 * 32 * rounds)
        k.SHL(other, lane, 2)
        k.ADD("s32", at, at, other)
        k.MOVI("f32", total, 0.0)
        for r, pair in enumerate(pairs):
            k.SUB("f32", pair[0], pair[0], highest)
            k.MUL("f32", pair[0], pair[0], factor)
            k.EXP2("f32", pair[0], pair[0])
            k.FMA("f32", total, pair[0], pair[1], total)
            k.STS(32, at, 4 * 32 * r, pair[0])
        sum_lanes(k, total, other)
    return total
