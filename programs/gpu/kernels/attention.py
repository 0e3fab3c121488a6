"""Decode attention on tensor cores, the context split over CTAs, and the combine of the splits.

A CTA has `split` keys of one KV head of one sequence; every key is loaded once for all query heads that
share it. A warp takes every fourth block of 16 keys:

    S [key, head] = K q^T        A = K from shared memory, B = q in registers
    P = 2 ** ((S - m) c)         m: running maximum a head, c = log2(e) / sqrt(head_dim)
    O^T [dim, head] += V^T P     A = V by transposing LDSM, B = P through 256 bytes of shared memory

A lane holds columns (heads) 2 (lane % 4) and + 1 of S and of O^T alike, so rescaling needs no exchange.
"""

from __future__ import annotations

from isa.builder import UZERO, ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.attention_plan import KEY_BLOCK, AttentionPlan
from programs.gpu.kernels.common import (
    LOG2_E,
    WINDOW,
    Maker,
    add_offset,
    below,
    constant,
    divide,
    float_constant,
    max_lanes,
    reach,
    skip_idle_warps,
    sum_lanes,
    thread,
    uniform_divide,
)
from programs.gpu.plan import COLUMNS, TILE_BYTES, ceil_div

LOWEST = -1e30  # a score below every score; finite, so that differences stay finite
ROW_MASKS = (4, 8, 16)  # lanes that hold the same heads


def score_factor(plan: AttentionPlan) -> float:
    """Scores times this are exponents of two."""
    return LOG2_E / float(plan.head_dim) ** 0.5


def attention_kernel(name: str, plan: AttentionPlan, kv: str, out_pitch: int, make: Maker = Kernel) -> Kernel:
    """Parameters: kv (the layer's region), positions, out, out_ml.

    With one split, out is the attention result, fp32 rows of out_pitch bytes, and out_ml is not used.
    Otherwise out gets each split's sum of P V, [batch, unit, split, head, dim], and out_ml its
    (maximum, sum of P) pairs.
    """
    return _Attention(name, plan, kv, out_pitch, make).kernel


class _Attention:
    def __init__(self, name: str, plan: AttentionPlan, kv: str, out_pitch: int, make: Maker) -> None:
        self.plan, self.kv, self.out_pitch = plan, kv, out_pitch
        self.kernel = k = make(name, ("kv", "positions", "out", "out_ml"))
        self.t = thread(k)
        self._place()
        self._addresses()
        self._fill()
        self._queries()
        self._state()
        self._loop()
        self._combine_warps()
        self._write()
        k.label("leave")
        k.EXIT()

    def _place(self) -> None:
        """Which keys: sequence, KV head, split; leave when the split starts past the position."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("cta = (sequence * units + unit) * splits + split; a unit is a KV head, or a part of its query heads")
        self.head, self.split, self.unit, self.sequence = (k.ureg(n) for n in ("row", "split", "unit", "seq"))
        uniform_divide(k, self.head, self.split, t.cta, plan.splits, plan.grid)
        uniform_divide(k, self.sequence, self.unit, self.head, plan.units, plan.batch * plan.units)
        positions, at, position = k.parameter("positions"), k.ureg("at"), k.ureg("position")
        k.USHL(at, self.sequence, 2)
        k.UADD(at, at, positions)
        k.ULDG(32, position, at, 0)
        start = k.ureg("start")
        k.UMULI(start, self.split, plan.split)
        k.UBR("GT", start, position, "leave")
        k.comment("keys of this CTA, blocks of this warp")
        self.keys = k.ureg("keys")  # from this warp's next block on
        k.USUB(self.keys, position, start)
        k.UADDI(self.keys, self.keys, 1)
        limit = constant(k, "limit", plan.split)
        k.UMIN(self.keys, self.keys, limit)
        k.USHL(at, t.warp, 4)
        k.USUB(self.keys, self.keys, at)
        self.blocks = k.ureg("blocks")
        k.UADDI(self.blocks, self.keys, plan.warps * KEY_BLOCK - 1)
        k.USHR(self.blocks, self.blocks, (plan.warps * KEY_BLOCK).bit_length() - 1)
        self.kv_base = k.parameter("kv")
        self.k_next, self.v_next = k.ureg("k_next"), k.ureg("v_next")
        k.UADD(at, at, start)
        row = self.head
        if plan.parts > 1:
            row, part = k.ureg("kv_row"), k.ureg("part")
            uniform_divide(k, row, part, self.head, plan.parts, plan.batch * plan.units)
            k.free(part)
        k.UMULI(start, row, plan.capacity)
        k.UADD(at, at, start)
        k.UMULI(at, at, plan.row_bytes)
        k.UADD(at, at, self.kv_base)
        add_offset(k, self.k_next, at, plan.k_at)
        add_offset(k, self.v_next, at, plan.v_at)
        k.free(positions, at, position, start, limit)

    def _addresses(self) -> None:
        """Shared addresses of a lane: where its copies go, what its LDSM reads."""
        k, plan, t = self.kernel, self.plan, self.t
        units = plan.dim // 8  # 16-byte units of a row
        self.lane16 = k.reg("lane16")
        k.SHL(self.lane16, t.lane, 4)
        ring, warp = k.reg("ring"), k.reg("warp_r")
        k.S2R(warp, "WARPID")
        k.MULI("s32", ring, warp, plan.slots * plan.slot_bytes)
        k.ADDI("s32", ring, ring, plan.ring_at)
        self.copies: list[Reg] = []
        row, column, unit = k.reg("copy_row"), k.reg("column"), k.reg("unit")
        self.straight = 32 % units == 0  # each copy instruction takes whole rows
        for i in range(1 if self.straight else plan.dim // 16):
            k.ADDI("s32", unit, t.lane, 32 * i)
            divide(k, row, column, unit, units, 32 * plan.dim)
            k.MULI("s32", row, row, plan.pitch)
            k.SHL(column, column, 4)
            k.ADD("s32", row, row, column)
            at = k.reg(f"copy{i}")
            k.ADD("s32", at, row, ring)
            self.copies.append(at)
        if self.straight:
            first = self.copies.pop()
            for i in range(ceil_div(plan.slots * plan.slot_bytes, WINDOW)):
                window = k.reg(f"window{i}")
                k.ADDI("s32", window, first, i * WINDOW + WINDOW // 2)
                self.copies.append(window)
            k.free(first)
        self.k_lane, self.v_lane = k.reg("k_lane"), k.reg("v_lane")
        k.comment("LDSM rows: K key lane % 16, 16 bytes by lane / 16; V key (lane / 16) * 8 + lane % 8")
        k.ANDI("s32", self.k_lane, t.lane, 15)
        k.MULI("s32", self.k_lane, self.k_lane, plan.pitch)
        k.SHR(column, t.lane, 4)
        k.SHL(unit, column, 4)
        k.ADD("s32", self.k_lane, self.k_lane, unit)
        k.ADD("s32", self.k_lane, self.k_lane, ring)
        k.SHL(column, column, 3)
        k.ANDI("s32", unit, t.lane, 7)
        k.ADD("s32", column, column, unit)
        k.MULI("s32", self.v_lane, column, plan.pitch)
        k.ANDI("s32", unit, t.lane, 8)
        k.SHL(unit, unit, 1)
        k.ADD("s32", self.v_lane, self.v_lane, unit)
        k.ADD("s32", self.v_lane, self.v_lane, ring)
        k.ADDI("s32", self.v_lane, self.v_lane, KEY_BLOCK * plan.pitch)
        k.comment("probabilities: written at key lane / 4, heads 2 (lane % 4); read back transposed")
        self.p_write, self.p_read = k.reg("p_write"), k.reg("p_read")
        k.MULI("s32", warp, warp, plan.blocks * 256)
        k.SHL(self.p_write, t.lane, 2)  # 16 * (lane / 4) + 4 * (lane % 4)
        k.ADD("s32", self.p_write, self.p_write, warp)
        k.ANDI("s32", self.p_read, t.lane, 15)
        k.SHL(self.p_read, self.p_read, 4)
        k.ADD("s32", self.p_read, self.p_read, warp)
        k.free(ring, warp, row, column, unit)

    def _copy(self, slot: int, guard: Pred | None) -> None:
        """One block of keys and values into a slot; the next block is `warps` blocks on."""
        k, plan = self.kernel, self.plan
        for part, base in enumerate((self.k_next, self.v_next)):
            for i in range(plan.dim // 16):
                at = slot * plan.slot_bytes + part * KEY_BLOCK * plan.pitch
                if self.straight:
                    at += i * (32 * 8 // plan.dim) * plan.pitch
                    k.LDGSTS(self.copies[at // WINDOW], at % WINDOW - WINDOW // 2, self.lane16, base, i * TILE_BYTES,
                             guard=guard)
                    continue
                with k.scratch():
                    target = k.reg("target")
                    k.ADDI("s32", target, self.copies[i], at)
                    k.LDGSTS(target, 0, self.lane16, base, i * TILE_BYTES, guard=guard)
            k.UADDI(base, base, plan.warps * KEY_BLOCK * plan.row_bytes)
        k.CPCOMMIT()

    def _fill(self) -> None:
        k, plan = self.kernel, self.plan
        k.comment("fill the pipeline")
        with k.scratch():
            guard = k.pred("fill")
            for slot in range(plan.slots):
                need = k.reg("need")
                k.MOVI("s32", need, slot)
                k.SETP("LT", "s32", guard, need, self.blocks)
                self._copy(slot, guard)
                k.free(need)
        self.refill = k.pred("refill")
        self.left = k.ureg("left")
        k.UADDI(self.left, self.blocks, -plan.slots)

    def _queries(self) -> None:
        """q as B fragments: head lane / 4, dims 2 (lane % 4) of every eight."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("q of the heads that share this KV head; columns past the group repeat its last head")
        base = k.ureg("q")
        k.UMULI(base, self.head, plan.group * plan.row_bytes)
        k.UADD(base, base, self.kv_base)
        self.q: list[list[Reg]] = []
        piece = k.reg("piece")
        k.ANDI("s32", piece, t.lane, 3)
        k.SHL(piece, piece, 2)
        at = k.reg("q_at")
        for j in range(plan.blocks):
            k.SHR(at, t.lane, 2)
            k.ADDI("s32", at, at, COLUMNS * j)
            k.MINI("s32", at, at, plan.group - 1)
            k.MULI("s32", at, at, plan.row_bytes)
            k.ADD("s32", at, at, piece)
            fragments = [k.reg(f"q{j}_{s}", 2) for s in range(plan.dim // 16)]
            for s, fragment in enumerate(fragments):
                for half in range(2):
                    k.LDG(32, fragment[half], at, base, 32 * s + 16 * half)
            self.q.append(fragments)
        k.free(piece, at, base)

    def _state(self) -> None:
        k, plan = self.kernel, self.plan
        self.factor = float_constant(k, "factor", score_factor(plan))
        # (running maximum, this lane's sum of P) of both of a lane's heads in each column block
        self.ml = [[k.reg(f"ml{j}_{e}", 2) for e in range(2)] for j in range(plan.blocks)]
        self.o = [[k.reg(f"o{d}_{j}", 4) for j in range(plan.blocks)] for d in range(plan.dim // 16)]
        for pair in self.ml:
            for ml in pair:
                k.MOVI("f32", ml[0], LOWEST)
                k.MOVI("f32", ml[1], 0.0)
        for row in self.o:
            for o in row:
                for i in range(4):
                    k.MOV(o[i], ZERO)

    # -- the loop ----------------------------------------------------------------------------
    def _loop(self) -> None:
        k, plan = self.kernel, self.plan
        k.UBR("LE", self.blocks, UZERO, "done")
        k.label("block")
        for slot in range(plan.slots):
            k.comment(f"slot {slot}: scores")
            k.CPWAIT(plan.slots - 1)
            with k.scratch():
                scores = [k.reg(f"s{j}", 4) for j in range(plan.blocks)]
                self._scores(slot, scores)
                corrections = self._softmax(scores)
                self._values(slot, corrections)
            if plan.split > plan.slots * plan.warps * KEY_BLOCK:
                k.SETP("LT", "s32", self.refill, ZERO, self.left)
                k.UADDI(self.left, self.left, -1)
                self._copy(slot, self.refill)
            else:
                k.CPCOMMIT()
            k.UADDI(self.keys, self.keys, -plan.warps * KEY_BLOCK)
            k.UADDI(self.blocks, self.blocks, -1)
            if slot + 1 < plan.slots:
                k.UBR("LE", self.blocks, UZERO, "done")
        k.UBR("GT", self.blocks, UZERO, "block")
        k.label("done")

    def _scores(self, slot: int, scores: list[Reg]) -> None:
        k, plan, t = self.kernel, self.plan, self.t
        for score in scores:
            for i in range(4):
                k.MOV(score[i], ZERO)
        at = slot * plan.slot_bytes
        fragments = plan.dim // 16
        for first in range(0, fragments, 4):
            with k.scratch():
                a = [k.reg(f"k{s}", 4) for s in range(first, min(first + 4, fragments))]
                for s, fragment in enumerate(a, start=first):
                    k.LDSM(4, 0, fragment, self.k_lane, at + 32 * s)
                for s, fragment in enumerate(a, start=first):
                    for j, score in enumerate(scores):
                        k.MMA(self.kv, score, fragment, self.q[j][s], score)
        whole = k.fresh("whole")
        with k.scratch():
            size = constant(k, "size", KEY_BLOCK)
            k.UBR("GE", self.keys, size, whole)
            k.comment("keys past the position")
            row, past = k.reg("key"), k.pred("past")
            k.SHR(row, t.lane, 2)
            for half in range(2):
                k.SETP("GE", "s32", past, row, self.keys)
                for score in scores:
                    for e in range(2):
                        k.MOVI("f32", score[2 * half + e], LOWEST, guard=past)
                k.ADDI("s32", row, row, 8)
        k.label(whole)

    def _softmax(self, scores: list[Reg]) -> list[list[Reg]]:
        """Scores become probabilities; returns by what earlier sums shrink, a register a head."""
        k, plan = self.kernel, self.plan
        k.comment("running maximum, probabilities, sums")
        corrections = [[k.reg(f"c{j}_{e}") for e in range(2)] for j in range(plan.blocks)]
        with k.scratch():
            highest, other, shift = k.reg("highest"), k.reg("other"), k.reg("shift")
            for j, score in enumerate(scores):
                for e in range(2):
                    maximum, total = self.ml[j][e][0], self.ml[j][e][1]
                    k.MAX("f32", highest, score[e], score[2 + e])
                    max_lanes(k, highest, other, ROW_MASKS)
                    k.MAX("f32", highest, highest, maximum)
                    k.SUB("f32", other, maximum, highest)
                    k.MUL("f32", other, other, self.factor)
                    k.EXP2("f32", corrections[j][e], other)
                    k.MOV(maximum, highest)
                    k.MUL("f32", shift, highest, self.factor)
                    k.NEG("f32", shift, shift)
                    k.MUL("f32", total, total, corrections[j][e])
                    for half in range(2):
                        p = score[2 * half + e]
                        k.FMA("f32", p, p, self.factor, shift)
                        k.EXP2("f32", p, p)
                        k.ADD("f32", total, total, p)
                for half in range(2):
                    k.PACK(self.kv, other, score[2 * half], score[2 * half + 1])
                    k.STS(32, self.p_write, plan.probabilities_at + 256 * j + 128 * half, other)
        return corrections

    def _values(self, slot: int, corrections: list[list[Reg]]) -> None:
        """O^T = O^T * correction + V^T P."""
        k, plan = self.kernel, self.plan
        k.comment("values")
        p = [k.reg(f"p{j}", 2) for j in range(plan.blocks)]
        for j, fragment in enumerate(p):
            k.LDSM(2, 1, fragment, self.p_read, plan.probabilities_at + 256 * j)
        at = slot * plan.slot_bytes
        for d, row in enumerate(self.o):
            with k.scratch():
                a = k.reg(f"v{d % 2}", 4)
                k.LDSM(4, 1, a, self.v_lane, at + 32 * d)
                for j, o in enumerate(row):
                    for i in range(4):
                        k.MUL("f32", o[i], o[i], corrections[j][i % 2])
                for j, o in enumerate(row):
                    k.MMA(self.kv, o, a, p[j], o)

    # -- the end -----------------------------------------------------------------------------
    def _combine_warps(self) -> None:
        """Maxima and sums of all warps; every lane scales its part of O to the common maximum."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("maxima and sums of the warps")
        with k.scratch():
            other, at = k.reg("other"), k.reg("at")
            for pair in self.ml:
                for ml in pair:
                    sum_lanes(k, ml[1], other, ROW_MASKS)
            self.ml_lane = k.reg("ml_lane")
            k.ANDI("s32", self.ml_lane, t.lane, 3)
            k.SHL(self.ml_lane, self.ml_lane, 4)
            warp = k.reg("warp_r")
            k.S2R(warp, "WARPID")
            k.MULI("s32", at, warp, plan.blocks * 64)
            k.ADD("s32", at, at, self.ml_lane)
            leader = below(k, t.lane, 4)
            for j, pair in enumerate(self.ml):
                for e, ml in enumerate(pair):
                    k.STS(64, at, 64 * j + 8 * e, ml, guard=leader)
            k.BAR()
            factors = [[self._common(j, e) for e in range(2)] for j in range(plan.blocks)]
            if plan.splits > 1:
                self._write_ml(warp, leader)
            k.comment("O of this warp, [head][dim]")
            out = k.reg("out_lane")
            k.ANDI("s32", out, t.lane, 3)
            k.MULI("s32", out, out, 2 * plan.output_pitch)
            k.SHR(at, t.lane, 2)
            k.SHL(at, at, 2)
            k.ADD("s32", out, out, at)
            k.MULI("s32", warp, warp, plan.blocks * COLUMNS * plan.output_pitch)
            k.ADD("s32", out, out, warp)
            for d, row in enumerate(self.o):
                for j, o in enumerate(row):
                    for i in range(4):
                        k.MUL("f32", o[i], o[i], factors[j][i % 2])
                        offset = (COLUMNS * j + i % 2) * plan.output_pitch + (16 * d + 8 * (i // 2)) * 4
                        k.STS(32, out, plan.ring_at + offset, o[i])
            k.BAR()

    def _common(self, j: int, e: int) -> Reg:
        """The lane's factor for head 8 j + 2 (lane % 4) + e; ml becomes the CTA's maximum and sum."""
        k, plan = self.kernel, self.plan
        factor = k.reg(f"factor{j}_{e}")
        ml = self.ml[j][e]
        with k.scratch():
            all_warps = [k.reg(f"ml_w{w}", 2) for w in range(plan.warps)]
            for w, other in enumerate(all_warps):
                k.LDS(64, other, self.ml_lane, (w * plan.blocks + j) * 64 + 8 * e)
            highest = k.reg("highest")
            k.MOV(highest, all_warps[0][0])
            for other in all_warps[1:]:
                k.MAX("f32", highest, highest, other[0])
            k.SUB("f32", factor, ml[0], highest)
            k.MUL("f32", factor, factor, self.factor)
            k.EXP2("f32", factor, factor)
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

    def _write_ml(self, warp: Reg, leader: Pred) -> None:
        """(maximum, sum) of every head: lanes 0..3 of every warp hold the same, one after the other writes it."""
        k, plan = self.kernel, self.plan
        base, at = k.parameter("out_ml"), k.ureg("at")
        k.UMULI(at, self.head, plan.splits)
        k.UADD(at, at, self.split)
        k.UMULI(at, at, plan.group * 8)
        k.UADD(base, base, at)
        end = "ml_written"
        k.UBR("GT", self.t.warp, UZERO, end)
        with k.scratch():
            head, lane = k.reg("head"), k.reg("head_lane")
            k.SHR(lane, self.ml_lane, 3)  # 2 (lane % 4)
            limit = constant(k, "limit", plan.group)
            for j, pair in enumerate(self.ml):
                for e, ml in enumerate(pair):
                    k.ADDI("s32", head, lane, COLUMNS * j + e)
                    k.SHL(head, head, 3)
                    exists = k.pred("exists")
                    far = k.reg("far")
                    k.MOVI("s32", far, 1 << 20)
                    k.ADDI("s32", far, head, 0, guard=leader)
                    k.SHR(far, far, 3)
                    k.SETP("LT", "s32", exists, far, limit)
                    k.STG(64, head, base, 0, ml, guard=exists)
                    k.free(exists, far)
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
                parts = [k.reg(f"part{w}", 4) for w in range(plan.warps)]
                for w, part in enumerate(parts):
                    at_w, offset = reach(k, source, plan.ring_at + w * plan.blocks * COLUMNS * plan.output_pitch)
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
