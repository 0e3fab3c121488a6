"""Keys of an attention CTA: which they are, where they lie, and their copies into the ring of tiles."""

from __future__ import annotations

from isa.builder import UZERO, Kernel, Pred, Reg, UReg
from programs.gpu.attention_plan import PAGE, AttentionPlan
from programs.gpu.kernels.common import (
    Maker,
    add_offset,
    constant,
    divide,
    scale_offset,
    thread,
    uniform_divide,
)
from programs.gpu.plan import ceil_div

COPY_REACH = 2048  # bytes that LDGSTS's 12-bit offset reaches
GLOBAL_REACH = 32768  # bytes that its 16-bit offset reaches


class Tiles:
    """A kernel that copies K and V of its CTA's keys, a tile at a time; see programs/gpu/kernels/attention.py."""

    def __init__(self, name: str, plan: AttentionPlan, make: Maker) -> None:
        self.plan = plan
        self.kernel: Kernel = make(name, ("kv", "positions", "out", "out_ml", "table")[:5 if plan.paged else 4])
        self.t = thread(self.kernel)
        self._place()
        self._addresses()

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
