"""Decode attention on tensor cores, the context split over CTAs; the combine of the splits is a kernel of its own.

A CTA has `split` keys of one KV head of one sequence, for `group` of its query heads, and walks through them in
tiles that its warps share (the order of FlashAttention 2, arXiv 2307.08691). A warp has 16 query heads and a part
of a tile's keys:

    S [head, key] = q K^T        A = q in registers, B = K from shared memory
    P = 2 ** ((S - m) c)         m: running maximum a head, c = log2(e) / sqrt(head_dim)
    O [head, dim] += P V         A = P, which lies in registers as S did, B = V by transposing LDSM

K and V of a tile are copied in turn: while scores are made, V is under way, while values are added, the next K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from isa.builder import UZERO, ZERO, Kernel, Reg
from programs.gpu.attention_plan import KEY_BLOCK, ROWS, AttentionPlan
from programs.gpu.kernels.attention_end import QUAD, End, score_factor
from programs.gpu.kernels.common import Maker, constant, float_constant, max_lanes, reach

LOWEST = -1e30  # a score below every score; finite, so that differences stay finite
AHEAD = 4  # fragments that a warp loads before it uses the first


def attention_kernel(name: str, plan: AttentionPlan, kv: str, out_pitch: int, make: Maker = Kernel) -> Kernel:
    """Parameters: kv (the layer's region), positions, out, out_ml; table where the plan is paged.

    With one split, out is the attention result, fp32 rows of out_pitch bytes, and out_ml is not used.
    Otherwise out gets each split's sum of P V, [batch, unit, split, head, dim], and out_ml its
    (maximum, sum of P) pairs.
    """
    return _Attention(name, plan, kv, out_pitch, make).kernel


class _Attention(End):
    def __init__(self, name: str, plan: AttentionPlan, kv: str, out_pitch: int, make: Maker) -> None:
        super().__init__(name, plan, make)
        k, self.out_pitch = self.kernel, out_pitch
        self.form = "f16" if plan.kv_bytes == 1 else kv  # of what is multiplied
        self.halves = 1 if plan.group <= ROWS // 2 else 2  # of a fragment's rows: the second eight may be padding
        self.whole = plan.slots > 1 and plan.split <= plan.slots * plan.tile  # all tiles are under way at once
        self._fill()
        self._queries()
        self._state()
        self._loop()
        self._combine_warps()
        self._write()
        k.label("leave")
        k.EXIT()

    def _fill(self) -> None:
        k, plan = self.kernel, self.plan
        k.comment("fill the pipeline")
        for slot in range(plan.slots):
            self._copy(slot, False)
            if self.whole or slot + 1 < plan.slots:
                self._copy(slot, True)

    def _queries(self) -> None:
        """q as A fragments: head lane / 4 (and + 8), dims 2 (lane % 4) of every eight."""
        k, plan, t = self.kernel, self.plan, self.t
        k.comment("q of this warp's heads; rows past the group repeat its last head")
        self.q_base = k.ureg("q")
        k.UMULI(self.q_base, self.head, plan.group * plan.q_row_bytes)
        k.UADD(self.q_base, self.q_base, self.kv_base)
        number, piece = k.reg("warp_rows"), k.reg("piece")
        k.ANDI("s32", piece, t.lane, 3)
        k.SHL(piece, piece, 3 if plan.kv_bytes == 1 else 2)
        k.S2R(number, "WARPID")
        k.ANDI("s32", number, number, plan.row_warps - 1)
        k.SHL(number, number, 4)
        self.q_rows = [k.reg(f"q_row{half}") for half in range(self.halves)]
        for half, row in enumerate(self.q_rows):
            k.SHR(row, t.lane, 2)
            k.ADD("s32", row, row, number)
            k.ADDI("s32", row, row, 8 * half)
            k.MINI("s32", row, row, plan.group - 1)
            k.MULI("s32", row, row, plan.q_row_bytes)
            k.ADD("s32", row, row, piece)
        k.free(number, piece)
        self.q = [k.reg(f"q{s}", 4) for s in range(plan.dim // 16 if plan.q_stays else 1)]
        for fragment in self.q:
            for half in range(self.halves, 2):
                k.MOV(fragment[half], ZERO)
                k.MOV(fragment[half + 2], ZERO)
        if plan.q_stays:
            for s, fragment in enumerate(self.q):
                self._load_query(fragment, s)
            k.free(*self.q_rows)

    def _load_query(self, fragment: Reg, s: int) -> None:
        """q of 16 dims; for bytes of K the even ones before the odd ones of every four."""
        k = self.kernel
        for half, row in enumerate(self.q_rows):
            if self.plan.kv_bytes == 1:
                with k.scratch():
                    pairs, even, odd = k.reg("pairs", 2), fragment[half], fragment[half + 2]
                    k.LDG(64, pairs, row, self.q_base, 32 * s)
                    k.ANDI("s32", even, pairs[0], 0xFFFF)
                    k.SHR(odd, pairs[0], 16)
                    k.ANDI("s32", pairs[0], pairs[1], 0xFFFF0000)
                    k.SHL(pairs[1], pairs[1], 16)
                    k.OR("s32", even, even, pairs[1])
                    k.OR("s32", odd, odd, pairs[0])
                continue
            for part in range(2):
                k.LDG(32, fragment[half + 2 * part], row, self.q_base, 32 * s + 16 * part)

    def _state(self) -> None:
        k, plan, t = self.kernel, self.plan, self.t
        self.factor = float_constant(k, "factor", score_factor(plan))
        # (running maximum, this lane's sum of P) of the lane's heads
        self.ml = [k.reg(f"ml{h}", 2) for h in range(self.halves)]
        self.o = [k.reg(f"o{d}", 4) for d in range(plan.dim // 8)]
        for ml in self.ml:
            k.MOVI("f32", ml[0], LOWEST)
            k.MOVI("f32", ml[1], 0.0)
        for o in self.o:
            for i in range(4):
                k.MOV(o[i], ZERO)
        self.p = [k.reg(f"p{i}", 4) for i in range(2)]
        for p in self.p:
            for i in (1, 3):
                k.MOV(p[i], ZERO)
        self.column = k.reg("key_column")  # 2 (lane % 4)
        k.ANDI("s32", self.column, t.lane, 3)
        k.SHL(self.column, self.column, 1)

    # -- the loop ----------------------------------------------------------------------------
    def _loop(self) -> None:
        k, plan = self.kernel, self.plan
        k.UBR("LE", self.tiles, UZERO, "done")
        k.label("tile")
        for slot in range(plan.slots):
            k.comment(f"slot {slot}: scores")
            self._arrived(2 * (plan.slots - slot) - 1)
            if not self.whole:
                self._copy((slot + plan.slots - 1) % plan.slots, True)
            with k.scratch():
                scores = [k.reg(f"s{n}", 4) for n in range(plan.keys // 8)]
                self._with_keys(self._scores, slot, scores)
                self._arrived(2 * (plan.slots - slot) - 2)
                if not self.whole:
                    self._copy(slot, False)
                self._with_keys(self._probabilities, slot, scores)
            k.UADDI(self.keys, self.keys, -plan.tile)
            k.UADDI(self.tiles, self.tiles, -1)
            if slot + 1 < plan.slots:
                k.UBR("LE", self.tiles, UZERO, "done")
        if not self.whole:
            k.UBR("GT", self.tiles, UZERO, "tile")
        k.label("done")

    def _with_keys(self, work: Callable[[int, list[Reg]], None], slot: int, scores: list[Reg]) -> None:
        """Work on a tile of which this warp has keys; a warp that shares it meets the others in any case."""
        k, plan = self.kernel, self.plan
        none = k.fresh("no_keys")
        shared = plan.row_warps > 1 and plan.key_warps > 1  # else a warp without keys has left the loop
        if shared:
            k.UBR("LE", self.keys, UZERO, none)
        work(slot, scores)
        if shared:
            k.label(none)

    def _arrived(self, whole: int) -> None:
        """The next K or V is there, for all warps that share it, and they have done with the one before it."""
        k, plan = self.kernel, self.plan
        k.CPWAIT(whole if self.whole else 2 * plan.slots - 2)
        if plan.row_warps > 1:
            k.BAR()

    def _pipelined(self, loads: Sequence[Callable[[Reg], None]], uses: Sequence[Callable[[Reg], None]]) -> None:
        """Fragments loaded by LDSM and used in the same order, AHEAD of them under way."""
        k = self.kernel
        with k.scratch():
            ring = [k.reg(f"fragment{i}", 4) for i in range(min(AHEAD + 1, len(loads)))]
            for i in range(min(AHEAD, len(loads))):
                loads[i](ring[i])
            for i, use in enumerate(uses):
                if i + AHEAD < len(loads):
                    loads[i + AHEAD](ring[(i + AHEAD) % len(ring)])
                use(ring[i % len(ring)])

    def _load(self, transposed: bool, lane: Reg, offset: int) -> Callable[[Reg], None]:
        k = self.kernel

        def load(fragment: Reg) -> None:
            with k.scratch():
                at, rest = reach(k, lane, offset)
                k.LDSM(4, int(transposed), fragment, at, rest)
        return load

    def _scores(self, slot: int, scores: list[Reg]) -> None:
        k, plan = self.kernel, self.plan
        for score in scores:
            for i in range(4):
                k.MOV(score[i], ZERO)
        at = slot * plan.slot_bytes
        loads: list[Callable[[Reg], None]] = []
        uses: list[Callable[[Reg], None]] = []
        for s in range(plan.row_bytes // 32):
            for b in range(plan.keys // KEY_BLOCK):
                loads.append(self._load(False, self.k_lane, at + b * KEY_BLOCK * plan.pitch + 32 * s))
                uses.append(self._score(scores[2 * b:2 * b + 2], s, b == 0 and not plan.q_stays))
        self._pipelined(loads, uses)
        whole = k.fresh("whole")
        with k.scratch():
            k.UBR("GE", self.keys, constant(k, "size", plan.keys), whole)
            k.comment("keys past the position")
            column, past = k.reg("key"), k.pred("past")
            for n, score in enumerate(scores):
                for e in range(2):
                    k.ADDI("s32", column, self.column, 8 * n + e)
                    k.SETP("GE", "s32", past, column, self.keys)
                    for half in range(self.halves):
                        k.MOVI("f32", score[2 * half + e], LOWEST, guard=past)
        k.label(whole)

    def _score(self, scores: list[Reg], s: int, fetch: bool) -> Callable[[Reg], None]:
        k, count = self.kernel, len(self.q)

        def use(fragment: Reg) -> None:
            if self.plan.kv_bytes == 1:
                for i, raw in enumerate(fragment[j] for j in range(4)):
                    q = self.q[(2 * s + i % 2) % count]
                    if not self.plan.q_stays:
                        self._load_query(q, 2 * s + i % 2)
                    with k.scratch():
                        wide = k.reg("wide", 2)
                        self._widen(raw, wide[0], wide[1])
                        k.MMA(self.form, scores[i // 2], q, wide, scores[i // 2])
                return
            q = self.q[s % count]
            if fetch:
                self._load_query(q, s)
            for n, score in enumerate(scores):
                k.MMA(self.form, score, q, fragment.part(2 * n, 2), score)
        return use

    def _probabilities(self, slot: int, scores: list[Reg]) -> None:
        self._softmax(scores)
        self._values(slot, scores)

    def _widen(self, raw: Reg, even: Reg, odd: Reg) -> None:
        """Four e4m3 numbers as two pairs of f16: sign, and exponent and mantissa one bit lower; 2**-8 of the value."""
        k = self.kernel
        with k.scratch():
            sign = k.reg("sign")
            k.SHL(even, raw, 8)
            for source, target in ((even, even), (raw, odd)):
                k.ANDI("s32", sign, source, 0x80008000)
                k.SHR(target, source, 1)
                k.ANDI("s32", target, target, 0x3F803F80)
                k.OR("s32", target, target, sign)

    def _softmax(self, scores: list[Reg]) -> None:
        """Scores become probabilities, O and the sums shrink to the new maximum."""
        k = self.kernel
        k.comment("running maximum, probabilities, sums")
        halves = range(self.halves)
        with k.scratch():
            other = k.reg("other")
            highest = [k.reg(f"highest{h}") for h in halves]
            shrink, shift = [k.reg(f"shrink{h}") for h in halves], [k.reg(f"shift{h}") for h in halves]
            for h in halves:
                k.MAX("f32", highest[h], scores[0][2 * h], scores[0][2 * h + 1])
                k.MAX("f32", shift[h], scores[1][2 * h], scores[1][2 * h + 1])
            for n in range(2, len(scores)):
                for h in halves:
                    for e in range(2):
                        chain = (highest, shift)[e][h]
                        k.MAX("f32", chain, chain, scores[n][2 * h + e])
            for h in halves:
                maximum, total = self.ml[h][0], self.ml[h][1]
                k.MAX("f32", highest[h], highest[h], shift[h])
                max_lanes(k, highest[h], other, QUAD)
                k.MAX("f32", highest[h], highest[h], maximum)
                k.SUB("f32", other, maximum, highest[h])
                k.MUL("f32", other, other, self.factor)
                k.EXP2("f32", shrink[h], other)
                k.MOV(maximum, highest[h])
                k.MUL("f32", shift[h], highest[h], self.factor)
                k.NEG("f32", shift[h], shift[h])
                k.MUL("f32", total, total, shrink[h])
            values = [(h, score[2 * h + e]) for score in scores for e in range(2) for h in halves]
            lag = 4  # a sum waits for its exponential: other exponentials start meanwhile
            for i in range(len(values) + lag):
                if i < len(values):
                    h, value = values[i]
                    k.FMA("f32", value, value, self.factor, shift[h])
                    k.EXP2("f32", value, value)
                if i >= lag:
                    h, value = values[i - lag]
                    k.ADD("f32", self.ml[h][1], self.ml[h][1], value)
            for o in self.o:
                for h in halves:
                    for e in range(2):
                        k.MUL("f32", o[2 * h + e], o[2 * h + e], shrink[h])

    def _values(self, slot: int, scores: list[Reg]) -> None:
        """O += P V."""
        k, plan = self.kernel, self.plan
        k.comment("values")
        at = slot * plan.slot_bytes
        loads: list[Callable[[Reg], None]] = []
        uses: list[Callable[[Reg], None]] = []
        for b in range(plan.keys // KEY_BLOCK):
            for d in range(plan.row_bytes // 32):
                loads.append(self._load(True, self.v_lane, at + b * KEY_BLOCK * plan.pitch + 32 * d))
                uses.append(self._value(scores[2 * b:2 * b + 2] if d == 0 else None, self.p[b % 2], d))
        self._pipelined(loads, uses)

    def _value(self, scores: list[Reg] | None, p: Reg, d: int) -> Callable[[Reg], None]:
        """The products of a block of keys with 32 bytes of dims; with scores they become the fragment p first."""
        k = self.kernel

        def use(fragment: Reg) -> None:
            for n, score in enumerate(scores or ()):
                for half in range(self.halves):
                    k.PACK(self.form, p[2 * n + half], score[2 * half], score[2 * half + 1])
            for n in range(2):
                if self.plan.kv_bytes == 2:
                    o = self.o[2 * d + n]
                    k.MMA(self.form, o, p, fragment.part(2 * n, 2), o)
                    continue
                with k.scratch():
                    even, odd = k.reg("even", 2), k.reg("odd", 2)  # dims of 16
                    for half in range(2):
                        self._widen(fragment[2 * n + half], even[half], odd[half])
                    for dims, o in ((even, self.o[4 * d + 2 * n]), (odd, self.o[4 * d + 2 * n + 1])):
                        k.MMA(self.form, o, p, dims, o)
        return use
