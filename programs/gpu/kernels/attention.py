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

from isa.builder import UZERO, ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.attention_plan import KEY_BLOCK, PAGE, ROWS, AttentionPlan
from programs.gpu.kernels.common import (
    LOG2_E,
    Maker,
    add_offset,
    below,
    constant,
    divide,
    float_constant,
    max_lanes,
    reach,
    scale_offset,
    skip_idle_warps,
    sum_lanes,
    thread,
    uniform_divide,
)
from programs.gpu.plan import ceil_div

LOWEST = -1e30  # a score below every score; finite, so that differences stay finite
QUAD = (1, 2)  # lanes that hold the same heads
AHEAD = 4  # fragments that a warp loads before it uses the first
COPY_REACH = 2048  # bytes that LDGSTS's 12-bit offset reaches
GLOBAL_REACH = 32768  # bytes that its 16-bit offset reaches


def score_factor(plan: AttentionPlan) -> float:
    """Scores times this are exponents of two."""
    return LOG2_E / float(plan.head_dim) ** 0.5


def attention_kernel(name: str, plan: AttentionPlan, kv: str, out_pitch: int, make: Maker = Kernel) -> Kernel:
    """Parameters: kv (the layer's region), positions, out, out_ml; table where the plan is paged.

    With one split, out is the attention result, fp32 rows of out_pitch bytes, and out_ml is not used.
    Otherwise out gets each split's sum of P V, [batch, unit, split, head, dim], and out_ml its
    (maximum, sum of P) pairs.
    """
    return _Attention(name, plan, kv, out_pitch, make).kernel


class _Attention:
    def __init__(self, name: str, plan: AttentionPlan, kv: str, out_pitch: int, make: Maker) -> None:
        self.plan, self.kv, self.out_pitch = plan, kv, out_pitch
        self.kernel = k = make(name, ("kv", "positions", "out", "out_ml", "table")[:5 if plan.paged else 4])
        self.t = thread(k)
        self.halves = 1 if plan.group <= ROWS // 2 else 2  # of a fragment's rows: the second eight may be padding
        self.whole = plan.slots > 1 and plan.split <= plan.slots * plan.tile  # all tiles are under way at once
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
        k.comment("warp = part of a tile's keys * warps of query heads + warp of query heads")
        self.key_warp, self.row_warp = k.ureg("key_warp"), k.ureg("row_warp")
        k.USHR(self.key_warp, t.warp, plan.row_warps.bit_length() - 1)
        k.UANDI(self.row_warp, t.warp, plan.row_warps - 1)
        k.comment("keys from this warp's part of the next tile on; tiles to go")
        self.keys, self.tiles = k.ureg("keys"), k.ureg("tiles")
        k.USUB(self.keys, position, start)
        k.UADDI(self.keys, self.keys, 1)
        limit = constant(k, "limit", plan.split)
        k.UMIN(self.keys, self.keys, limit)
        k.UADDI(self.tiles, self.keys, plan.tile - 1)
        k.UMULI(at, self.key_warp, plan.keys)
        k.USUB(self.keys, self.keys, at)
        if plan.row_warps == 1:  # a warp has its keys for itself
            k.UADDI(self.tiles, self.keys, plan.tile - 1)
        k.USHR(self.tiles, self.tiles, plan.tile.bit_length() - 1)
        k.comment("first of the keys that this warp copies")
        copied = k.ureg("copied")
        k.UMULI(copied, self.row_warp, plan.piece)
        self.k_left, self.v_left = k.ureg("k_left"), k.ureg("v_left")
        k.USUB(self.k_left, self.keys, copied)
        k.UADD(self.v_left, self.k_left, UZERO)
        k.UADD(at, at, copied)
        k.UADD(at, at, start)
        row = self.head
        if plan.parts > 1:
            row, part = k.ureg("kv_row"), k.ureg("part")
            uniform_divide(k, row, part, self.head, plan.parts, plan.batch * plan.units)
            k.free(part)
        if plan.paged:
            k.comment("the first page's entry in the table; the first key's place in its page")
            self.k_entry, self.v_entry = k.parameter("table"), k.ureg("v_entry")
            k.UMULI(start, self.sequence, plan.table_row)
            k.USHR(limit, at, PAGE.bit_length() - 1)
            k.UADD(start, start, limit)
            k.USHL(start, start, 2)
            k.UADD(self.k_entry, self.k_entry, start)
            k.UADD(self.v_entry, self.k_entry, UZERO)
            uniform_divide(k, limit, start, row, plan.kv_heads, plan.batch * plan.kv_heads)
            k.UMULI(start, start, plan.row_bytes)
            k.UANDI(at, at, PAGE - 1)
        else:
            k.UMULI(start, row, plan.capacity)
            k.UMULI(start, start, plan.row_bytes)
        k.UMULI(at, at, plan.key_stride)
        k.UADD(at, at, start)
        self.kv_base = k.parameter("kv")
        k.UADD(at, at, self.kv_base)
        self.k_next, self.v_next = k.ureg("k_next"), k.ureg("v_next")
        add_offset(k, self.k_next, at, plan.k_at)
        add_offset(k, self.v_next, at, plan.v_at)
        k.free(positions, at, position, start, limit, copied)

    def _addresses(self) -> None:
        """Addresses of a lane: what its copies take and where they go, what its LDSM reads."""
        k, plan, t = self.kernel, self.plan, self.t
        first, other, row, column = (k.reg(n) for n in ("first", "other", "copy_row", "column"))
        k.comment("shared memory of this warp's keys")
        k.S2R(other, "WARPID")
        k.SHR(first, other, plan.row_warps.bit_length() - 1)
        k.MULI("s32", first, first, plan.keys * plan.pitch)
        k.ADDI("s32", first, first, plan.ring_at)
        self.k_lane, self.v_lane = k.reg("k_lane"), k.reg("v_lane")
        k.comment("LDSM rows: K key (lane / 16) * 8 + lane % 8, 16 bytes by lane / 8; V key lane % 16, by lane / 16")
        k.SHR(row, t.lane, 4)
        k.SHL(row, row, 3)
        k.ANDI("s32", column, t.lane, 7)
        k.ADD("s32", row, row, column)
        k.MULI("s32", self.k_lane, row, plan.pitch)
        k.ANDI("s32", column, t.lane, 8)
        k.SHL(column, column, 1)
        k.ADD("s32", self.k_lane, self.k_lane, column)
        k.ADD("s32", self.k_lane, self.k_lane, first)
        k.ANDI("s32", row, t.lane, 15)
        k.MULI("s32", self.v_lane, row, plan.pitch)
        k.SHR(column, t.lane, 4)
        k.SHL(column, column, 4)
        k.ADD("s32", self.v_lane, self.v_lane, column)
        k.ADD("s32", self.v_lane, self.v_lane, first)
        k.ADDI("s32", self.v_lane, self.v_lane, plan.tile * plan.pitch)
        k.comment("copies: 16 bytes a lane")
        if plan.row_warps > 1:
            k.ANDI("s32", other, other, plan.row_warps - 1)
            k.MULI("s32", other, other, plan.piece * plan.pitch)
            k.ADD("s32", first, first, other)
        self.copies: list[tuple[Reg, Reg]] = []  # of a pattern: (from, to)
        for i in range(plan.pattern_copies):
            source, target = k.reg(f"source{i}"), k.reg(f"target{i}")
            k.ADDI("s32", other, t.lane, 32 * i)
            divide(k, row, column, other, plan.row_pieces, 32 * (plan.pattern_copies + 1))
            k.SHL(column, column, 4)
            k.MULI("s32", source, row, plan.key_stride)
            k.ADD("s32", source, source, column)
            k.MULI("s32", target, row, plan.pitch)
            k.ADD("s32", target, target, column)
            k.ADD("s32", target, target, first)
            self.copies.append((source, target))
        k.free(first, other, row, column)

    def _copy(self, slot: int, value: bool) -> None:
        """K or V of this warp's next tile into a slot, as one copy group; keys past the last one are not asked for."""
        k, plan = self.kernel, self.plan
        base, left = (self.v_next, self.v_left) if value else (self.k_next, self.k_left)
        skip, every = k.fresh("no_copy"), k.fresh("all_keys")
        at = slot * plan.slot_bytes + value * plan.tile * plan.pitch
        with k.scratch():
            k.UBR("LE", left, UZERO, skip)
            starts = self._pages(value, base) if plan.paged else [base]
            if plan.piece > plan.guard_keys:
                k.UBR("GE", left, constant(k, "piece", plan.piece), every)
                number, exists = k.reg("number"), k.pred("exists")
                for first in range(0, plan.piece, plan.guard_keys):
                    k.MOVI("s32", number, first)
                    k.SETP("LT", "s32", exists, number, left)
                    self._copy_keys(first, first + plan.guard_keys, at, starts, exists)
                k.UBR("LE", UZERO, UZERO, skip)
                k.label(every)
            self._copy_keys(0, plan.piece, at, starts, None)
            k.label(skip)
        if not plan.paged:
            k.UADDI(base, base, plan.tile * plan.key_stride)
        k.UADDI(left, left, -plan.tile)
        k.CPCOMMIT()

    def _pages(self, value: bool, base: UReg) -> list[UReg]:
        """Where this warp's piece of each page of its next tile lies."""
        k, plan = self.kernel, self.plan
        entry = self.v_entry if value else self.k_entry
        pages = [k.ureg(f"page{i}") for i in range(ceil_div(plan.piece, PAGE))]
        for i, page in enumerate(pages):
            k.ULDG(32, page, entry, 4 * i)
        for page in pages:
            scale_offset(k, page, page, plan.page_bytes)
            k.UADD(page, page, base)
        k.UADDI(entry, entry, plan.tile // PAGE * 4)
        return pages

    def _copy_keys(self, first: int, end: int, at: int, starts: list[UReg], guard: Pred | None) -> None:
        """Keys first .. end - 1 of this warp's piece, to byte `at` past its place in the ring.

        starts: where the piece lies, or every 16 keys of it.
        """
        k, plan = self.kernel, self.plan
        with k.scratch():
            far, far_at = starts[0], 0
            near: dict[int, tuple[Reg, int]] = {}
            for key in range(first, end, plan.pattern_keys):
                base, start_key = starts[0], 0
                if plan.paged:
                    base, start_key = starts[key // PAGE], key // PAGE * PAGE
                    if key == start_key or key == first:
                        far, far_at = base, 0
                from_start = (key - start_key) * plan.key_stride
                if from_start - far_at >= GLOBAL_REACH:
                    far, far_at = k.ureg("far"), from_start
                    k.UADDI(far, base, from_start)
                for i, (source, target) in enumerate(self.copies):
                    to = at + key * plan.pitch
                    register, start = near.get(i, (target, 0))
                    if to - start >= COPY_REACH:
                        if register is target:
                            register = k.reg("near")
                        start = to + COPY_REACH
                        k.ADDI("s32", register, target, start)
                        near[i] = register, start
                    k.LDGSTS(register, to - start, source, far, from_start - far_at, guard=guard)

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
        k.SHL(piece, piece, 2)
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
        """q of 16 dims."""
        for half, row in enumerate(self.q_rows):
            for part in range(2):
                self.kernel.LDG(32, fragment[half + 2 * part], row, self.q_base, 32 * s + 16 * part)

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
        for s in range(plan.dim // 16):
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
        k, q = self.kernel, self.q[s % len(self.q)]

        def use(fragment: Reg) -> None:
            if fetch:
                self._load_query(q, s)
            for n, score in enumerate(scores):
                k.MMA(self.kv, score, q, fragment.part(2 * n, 2), score)
        return use

    def _probabilities(self, slot: int, scores: list[Reg]) -> None:
        self._softmax(scores)
        self._values(slot, scores)

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
            for d in range(plan.dim // 16):
                loads.append(self._load(True, self.v_lane, at + b * KEY_BLOCK * plan.pitch + 32 * d))
                uses.append(self._value(scores[2 * b:2 * b + 2] if d == 0 else None, self.p[b % 2], d))
        self._pipelined(loads, uses)

    def _value(self, scores: list[Reg] | None, p: Reg, d: int) -> Callable[[Reg], None]:
        """The products of a block of keys with 16 dims; with scores they become the fragment p first."""
        k = self.kernel

        def use(fragment: Reg) -> None:
            for n, score in enumerate(scores or ()):
                for half in range(self.halves):
                    k.PACK(self.kv, p[2 * n + half], score[2 * half], score[2 * half + 1])
            for n in range(2):
                o = self.o[2 * d + n]
                k.MMA(self.kv, o, p, fragment.part(2 * n, 2), o)
        return use

    # -- the end -----------------------------------------------------------------------------
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
            k.SHL(other, self.column, 2)
            k.ADD("s32", at, at, other)
            k.ADDI("s32", at, at, plan.ring_at)
            for d, o in enumerate(self.o):
                for h in range(self.halves):
                    for e in range(2):
                        k.MUL("f32", o[2 * h + e], o[2 * h + e], factors[h])
                    k.STS(64, at, 8 * h * plan.output_pitch + 32 * d, o.part(2 * h, 2))
            k.BAR()

    def _common(self, h: int, row: Reg) -> Reg:
        """What this lane's O of a half is multiplied by; ml becomes the CTA's maximum and sum."""
        k, plan = self.kernel, self.plan
        factor = k.reg(f"factor{h}")
        ml = self.ml[h]
        if plan.key_warps == 1:
            if plan.splits == 1:
                k.RCP("f32", factor, ml[1])
            else:
                k.MOVI("f32", factor, 1.0)
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
