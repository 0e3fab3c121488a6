"""The end of an attention CTA: its warps' results become one, which is written."""

from __future__ import annotations

from isa.builder import UZERO, ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.attention_plan import ROWS, AttentionPlan
from programs.gpu.kernels.attention_tiles import Tiles
from programs.gpu.kernels.common import (
    LOG2_E,
    below,
    constant,
    divide,
    reach,
    skip_idle_warps,
    sum_lanes,
)
from programs.gpu.plan import ceil_div

QUAD = (1, 2)  # lanes that hold the same heads


def score_factor(plan: AttentionPlan) -> float:
    """Scores times this are exponents of two."""
    return LOG2_E / float(plan.head_dim) ** 0.5 * value_scale(plan)


def value_scale(plan: AttentionPlan) -> float:
    """What K and V are larger than what products see: the bits of an e4m3 number, as f16, are 2**-8 of it."""
    return 256.0 if plan.kv_bytes == 1 else 1.0


class End(Tiles):
    """What comes after the loop over tiles; see programs/gpu/kernels/attention.py."""

    out_pitch: int
    halves: int  # of a fragment's rows
    factor: UReg
    ml: list[Reg]  # (running maximum, this lane's sum of P) of the lane's heads
    o: list[Reg]
    column: Reg  # 2 (lane % 4)

    def _combine_warps(self) -> None:
        """Maxima and sums of all warps of a head; every lane scales its part of O to the common maximum."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("maxima and sums of the warps")
        with k.scratch():
            other, at, mine = k.reg("other"), k.reg("at"), k.reg("mine")
            for ml in self.ml:
                sum_lanes(k, ml[1], other, QUAD)
            row = k.reg("row")  # of this lane in a key warp's rows
            k.S2R(mine, "WARPID")
            k.ANDI("s32", row, mine, plan.row_warps - 1)
            k.SHL(row, row, 4)
            k.SHR(other, t.lane, 2)
            k.ADD("s32", row, row, other)
            k.SHL(mine, mine, 4)
            k.ADD("s32", mine, mine, other)  # warp * 16 + lane / 4: of all warps' rows
            leader = k.pred("leader")
            k.SETP("EQ", "s32", leader, self.column, UZERO)
            if plan.key_warps > 1:
                k.SHL(at, mine, 3)
                for h, ml in enumerate(self.ml):
                    k.STS(64, at, 64 * h, ml, guard=leader)
            k.BAR()
            factors = [self._common(h, row) for h in range(self.halves)]
            if plan.splits > 1:
                self._write_ml(row, leader)
            k.comment("O of this warp, [head][dim]")
            k.MULI("s32", at, mine, plan.output_pitch)
            k.SHL(other, self.column, 3 if plan.kv_bytes == 1 else 2)
            k.ADD("s32", at, at, other)
            k.ADDI("s32", at, at, plan.ring_at)
            for d, o in enumerate(self.o):
                for h in range(self.halves):
                    for e in range(2):
                        k.MUL("f32", o[2 * h + e], o[2 * h + e], factors[h])
                    half = 8 * h * plan.output_pitch
                    if plan.kv_bytes == 2:
                        k.STS(64, at, half + 32 * d, o.part(2 * h, 2))
                        continue
                    for e in range(2):  # even or odd dims 4 (lane % 4) .. + 3 of sixteen
                        k.STS(32, at, half + 64 * (d // 2) + 4 * (d % 2) + 8 * e, o[2 * h + e])
            k.BAR()

    def _common(self, h: int, row: Reg) -> Reg:
        """What this lane's O of a half is multiplied by; ml becomes the CTA's maximum and sum."""
        k, plan = self.kernel, self.plan
        factor = k.reg(f"factor{h}")
        ml = self.ml[h]
        if plan.key_warps == 1:
            if plan.splits == 1:
                k.RCP("f32", factor, ml[1])
                self._rescale(factor)
            else:
                k.MOVI("f32", factor, value_scale(plan))
            return factor
        with k.scratch():
            at = k.reg("ml_at")
            k.SHL(at, row, 3)
            all_warps = [k.reg(f"ml_w{w}", 2) for w in range(plan.key_warps)]
            for w, other in enumerate(all_warps):
                k.LDS(64, other, at, 8 * (ROWS * plan.row_warps * w + 8 * h))
            highest = k.reg("highest")
            k.MOV(highest, all_warps[0][0])
            for other in all_warps[1:]:
                k.MAX("f32", highest, highest, other[0])
            k.SUB("f32", factor, ml[0], highest)
            k.MUL("f32", factor, factor, self.factor)
            k.EXP2("f32", factor, factor)
            self._rescale(factor)
            k.MOV(ml[0], highest)
            k.MOV(ml[1], ZERO)
            for other in all_warps:
                k.SUB("f32", other[0], other[0], highest)
                k.MUL("f32", other[0], other[0], self.factor)
                k.EXP2("f32", other[0], other[0])
                k.FMA("f32", ml[1], other[0], other[1], ml[1])
            if plan.splits == 1:
                k.RCP("f32", highest, ml[1])
                k.MUL("f32", factor, factor, highest)
        return factor

    def _rescale(self, factor: Reg) -> None:
        if self.plan.kv_bytes == 1:
            self.kernel.MULI("f32", factor, factor, value_scale(self.plan))

    def _write_ml(self, row: Reg, leader: Pred) -> None:
        """(maximum, sum) of every head, by the first key warp."""
        k, plan = self.kernel, self.plan
        base, at = k.parameter("out_ml"), k.ureg("at")
        k.UMULI(at, self.head, plan.splits)
        k.UADD(at, at, self.split)
        k.UMULI(at, at, plan.group * 8)
        k.UADD(base, base, at)
        end = "ml_written"
        k.UBR("GT", self.key_warp, UZERO, end)
        with k.scratch():
            head, far, exists = k.reg("head"), k.reg("far"), k.pred("exists")
            limit = constant(k, "limit", plan.group)
            for h, ml in enumerate(self.ml):
                k.MOVI("s32", far, 1 << 20)
                k.ADDI("s32", far, row, 8 * h, guard=leader)
                k.SETP("LT", "s32", exists, far, limit)
                k.SHL(head, far, 3)
                k.STG(64, head, base, 0, ml, guard=exists)
        k.label(end)

    def _write(self) -> None:
        """Sum of the warps' O, four dims a thread."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("add the warps' O in order and write")
        out, at = k.parameter("out"), k.ureg("out_at")
        if plan.splits > 1:
            k.UMULI(at, self.head, plan.splits)
            k.UADD(at, at, self.split)
            k.UMULI(at, at, plan.group * plan.dim * 4)
        else:
            other = k.ureg("out_head")
            k.UMULI(at, self.sequence, self.out_pitch)
            k.UMULI(other, self.unit, plan.group * plan.head_dim * 4)
            k.UADD(at, at, other)
        k.UADD(out, out, at)
        threads, total = 32 * plan.warps, plan.group * plan.dim // 4
        for r in range(ceil_div(total, threads)):
            with k.scratch():
                number, head, column = k.reg("number"), k.reg("head"), k.reg("column")
                k.ADDI("s32", number, t.tid, r * threads)
                guard = None
                if (r + 1) * threads > total:
                    skip_idle_warps(k, t, total - r * threads, "leave")
                    guard = below(k, number, total) if total % 32 else None
                divide(k, head, column, number, plan.dim // 4, total + threads)
                source = k.reg("source")
                k.MULI("s32", source, head, plan.output_pitch)
                k.SHL(number, column, 4)
                k.ADD("s32", source, source, number)
                parts = [k.reg(f"part{w}", 4) for w in range(plan.key_warps)]
                for w, part in enumerate(parts):
                    at_w, offset = reach(k, source, plan.ring_at + w * plan.row_warps * ROWS * plan.output_pitch)
                    k.LDS(128, part, at_w, offset, guard=guard)
                for part in parts[1:]:
                    for i in range(4):
                        k.ADD("f32", parts[0][i], parts[0][i], part[i])
                if plan.splits > 1:
                    k.MULI("s32", head, head, plan.dim * 4)
                    k.ADD("s32", head, head, number)
                    k.STG(128, head, out, 0, parts[0], guard=guard)
                else:
                    store_dims(k, plan, head, column, out, parts[0], guard)


def store_dims(k: Kernel, plan: AttentionPlan, head: Reg, column: Reg, out: UReg, values: Reg,
               guard: Pred | None) -> None:
    """Dims 4 column .. + 3 of `head` (destroyed) to out + head * head_dim * 4; dims past head_dim are dropped."""
    k.MULI("s32", head, head, plan.head_dim * 4)
    with k.scratch():
        dim, exists = k.reg("dim"), k.pred("exists")
        k.SHL(dim, column, 2)
        if guard is not None:
            k.MOVI("s32", dim, 1 << 20, guard=~guard)
        limit = constant(k, "limit", plan.head_dim)
        k.SHL(column, column, 4)
        k.ADD("s32", head, head, column)
        if plan.head_dim % 4 == 0:
            k.SETP("LT", "s32", exists, dim, limit)
            k.STG(128, head, out, 0, values, guard=exists)
            return
        for i in range(4):
            k.SETP("LT", "s32", exists, dim, limit)
            k.STG(32, head, out, 4 * i, values[i], guard=exists)
            k.ADDI("s32", dim, dim, 1)
