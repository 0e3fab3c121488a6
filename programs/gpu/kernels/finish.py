"""What happens to a linear layer's results: residual add, SiLU gate, RoPE and KV append, logits.

A finish sees one item a thread: `row` of the group (or pair of rows) and `sequence`. `fetch` starts
the loads that the end will need, before the partial sums are read; `store` gets the sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from isa.builder import ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.kernels.common import LOG2_E, Thread, constant
from programs.gpu.plan import LinearPlan

FAR = 1 << 30  # an item number past every layer's outputs


@dataclass
class Item:
    """One result of a thread. valid: None where every thread of the warp has one."""

    round: int
    sequence: Reg
    row: Reg
    valid: Pred | None
    number: Reg | None = None  # item of the whole layer
    good: Pred | None = None  # it exists: not padding
    loaded: dict[str, Reg] = field(default_factory=dict)


class Finish:
    """Common part: item numbers and per-row scales."""

    parameters: tuple[str, ...] = ()
    short = False  # whether a rank may have fewer outputs than the plan says

    def __init__(self, scaled: bool) -> None:
        self.scaled = scaled
        if scaled:
            self.parameters = (*self.parameters, "row_scales")
        self.u: dict[str, UReg] = {}

    def begin(self, k: Kernel, t: Thread, plan: LinearPlan) -> None:
        """Load parameters; `first` is the first item number of this CTA's current group."""
        for name in self.parameters:
            self.u[name] = k.parameter(name)
        self.u["first"] = k.ureg("first")
        k.UMULI(self.u["first"], t.cta, plan.items)
        self.u["outputs"] = constant(k, "outputs", plan.outputs)

    def next_pass(self, k: Kernel, plan: LinearPlan) -> None:
        k.UADDI(self.u["first"], self.u["first"], plan.grid * plan.items)

    def end(self, k: Kernel, t: Thread, plan: LinearPlan) -> None:
        """After the last pass."""

    def fetch(self, k: Kernel, plan: LinearPlan, item: Item) -> None:
        """Item numbers, guards, and the loads that `store` needs. Called again for the next pass of the same item."""
        item.number = self.keep(k, item, "item")
        k.MOV(item.number, self.u["first"])
        k.ADD("s32", item.number, item.number, item.row)
        if plan.outputs % plan.items or item.valid is not None or plan.passes > 1 or self.short:
            if item.valid is not None:
                k.MOVI("s32", item.number, FAR, guard=~item.valid)
            item.good = item.good or k.pred("good")
            k.SETP("LT", "s32", item.good, item.number, self.u["outputs"])
        if self.scaled:
            self.load(k, item, "row_scales", 2 if plan.paired else 1)

    def keep(self, k: Kernel, item: Item, name: str, count: int = 1) -> Reg:
        """The item's register of this name; taken at the first call."""
        if name not in item.loaded:
            item.loaded[name] = k.reg(name, count)
        return item.loaded[name]

    def load(self, k: Kernel, item: Item, name: str, count: int) -> None:
        """`count` words an item of the table `name`, into item.loaded."""
        at = k.reg("at")
        assert item.number is not None
        k.SHL(at, item.number, 1 + count.bit_length())
        value = self.keep(k, item, name, count)
        if item.good is not None:
            for i in range(count):
                k.MOV(value[i], ZERO)
        k.LDG(32 * count, value, at, self.u[name], 0, guard=item.good)
        k.free(at)

    def scale(self, k: Kernel, item: Item, sums: list[Reg]) -> None:
        if self.scaled:
            for i, value in enumerate(sums):
                k.MUL("f32", value, value, item.loaded["row_scales"][i])

    def store(self, k: Kernel, plan: LinearPlan, item: Item, sums: list[Reg]) -> None:
        """What becomes of the sums: each end below has its own."""
        raise NotImplementedError


class InRows(Finish):
    """A finish whose results stand in fp32 rows of `pitch` bytes, one row a sequence."""

    def __init__(self, scaled: bool, pitch: int) -> None:
        super().__init__(scaled)
        self.pitch = pitch

    def address(self, k: Kernel, item: Item, at: Reg) -> None:
        """at = byte offset of element [sequence, number]."""
        row = k.reg("row_at")
        assert item.number is not None
        k.SHL(at, item.number, 2)
        k.MULI("s32", row, item.sequence, self.pitch)
        k.ADD("s32", at, at, row)
        k.free(row)


class Residual(InRows):
    """hidden += result."""

    parameters = ("hidden",)

    def fetch(self, k: Kernel, plan: LinearPlan, item: Item) -> None:
        super().fetch(k, plan, item)
        at = self.keep(k, item, "at")
        self.address(k, item, at)
        k.LDG(32, self.keep(k, item, "old"), at, self.u["hidden"], 0, guard=item.good)

    def store(self, k: Kernel, plan: LinearPlan, item: Item, sums: list[Reg]) -> None:
        self.scale(k, item, sums)
        k.ADD("f32", sums[0], sums[0], item.loaded["old"])
        k.STG(32, item.loaded["at"], self.u["hidden"], 0, sums[0], guard=item.good)


class Partial(InRows):
    """out = result: one rank's part of a sum over ranks."""

    parameters = ("out",)

    def store(self, k: Kernel, plan: LinearPlan, item: Item, sums: list[Reg]) -> None:
        self.scale(k, item, sums)
        at = k.reg("address")
        self.address(k, item, at)
        k.STG(32, at, self.u["out"], 0, sums[0], guard=item.good)


class SiluGate(InRows):
    """out = silu(gate) * up; an item is a pair (gate, up)."""

    parameters = ("out",)

    def store(self, k: Kernel, plan: LinearPlan, item: Item, sums: list[Reg]) -> None:
        self.scale(k, item, sums)
        gate, up = sums
        at, sigmoid = k.reg("address"), k.reg("sigmoid")
        self.address(k, item, at)
        k.MULI("f32", sigmoid, gate, -LOG2_E)
        k.EXP2("f32", sigmoid, sigmoid)
        k.ADDI("f32", sigmoid, sigmoid, 1.0)
        k.RCP("f32", sigmoid, sigmoid)
        k.MUL("f32", gate, gate, sigmoid)
        k.MUL("f32", gate, gate, up)
        k.STG(32, at, self.u["out"], 0, gate, guard=item.good)


class RopeAppend(Finish):
    """Rotate q and k, and store q, K and V in the KV format; an item is a pair (i, i + head_dim / 2).

    Beside K and V of 8 bits q is f16.

    pairs: four words an item: byte offset of the pair's first value in `kv`, byte offset in a row of
    the rope table, bytes from sequence to sequence, bytes from position to position (0 for q).
    rope: a row a position of (cos, sin) pairs; V uses the last pair, (1, 0).
    """

    parameters: tuple[str, ...] = ("kv", "pairs", "rope", "positions")

    def __init__(self, scaled: bool, biased: bool, kv: str, head_dim: int, rope_pitch: int) -> None:
        super().__init__(scaled)
        self.kv, self.head_dim, self.rope_pitch, self.biased = kv, head_dim, rope_pitch, biased
        if biased:
            self.parameters = (*self.parameters, "bias")

    def fetch(self, k: Kernel, plan: LinearPlan, item: Item) -> None:
        super().fetch(k, plan, item)
        self.load(k, item, "pairs", 4)
        if self.biased:
            self.load(k, item, "bias", 2)
        pair = item.loaded["pairs"]
        position, at = k.reg("position"), k.reg("at")
        k.SHL(at, item.sequence, 2)
        k.MOVI("s32", position, 0)
        k.LDG(32, position, at, self.u["positions"], 0, guard=item.valid)
        k.MULI("s32", at, position, self.rope_pitch)
        k.ADD("s32", at, at, pair[1])
        k.LDG(64, self.keep(k, item, "rotation", 2), at, self.u["rope"], 0, guard=item.valid)
        target = self.keep(k, item, "target")
        k.FMA("s32", target, item.sequence, pair[2], pair[0])
        k.FMA("s32", target, position, pair[3], target)
        k.free(at, position)

    def store(self, k: Kernel, plan: LinearPlan, item: Item, sums: list[Reg]) -> None:
        self.scale(k, item, sums)
        if self.biased:
            for i, value in enumerate(sums):
                k.ADD("f32", value, value, item.loaded["bias"][i])
        a, b = sums
        cos, sin = item.loaded["rotation"][0], item.loaded["rotation"][1]
        first, second = k.reg("first"), k.reg("second")
        k.comment("(a, b) -> (a cos - b sin, b cos + a sin)")
        k.MUL("f32", first, b, sin)
        k.NEG("f32", first, first)
        k.FMA("f32", first, a, cos, first)
        k.MUL("f32", second, a, sin)
        k.FMA("f32", second, b, cos, second)
        target = item.loaded["target"]
        if self.kv == "e4m3":
            self._store_bytes(k, item, target, first, second)
            return
        k.CVT(self.kv, "f32", first, first)
        k.CVT(self.kv, "f32", second, second)
        k.STG(16, target, self.u["kv"], 0, first, guard=item.good)
        k.STG(16, target, self.u["kv"], self.head_dim, second, guard=item.good)

    def _store_bytes(self, k: Kernel, item: Item, target: Reg, first: Reg, second: Reg) -> None:
        """q in 16 bits, K and V, which move with the position, in 8."""
        step = item.loaded["pairs"][3]
        is_q, is_kv = k.pred("is_q"), k.pred("is_kv")
        for predicate, comparison in ((is_q, "EQ"), (is_kv, "NE")):
            k.SETP("LT", "s32", predicate, ZERO, ZERO)
            k.SETP(comparison, "s32", predicate, step, ZERO, guard=item.good)
        with k.scratch():
            half = k.reg("half")
            for form, size, predicate in (("f16", 2, is_q), ("e4m3", 1, is_kv)):
                for i, value in enumerate((first, second)):
                    k.CVT(form, "f32", half, value)
                    k.STG(8 * size, target, self.u["kv"], i * self.head_dim // 2 * size, half, guard=predicate)
        k.free(is_q, is_kv)


class Logits(InRows):
    """Logits to memory, and each warp's best (value, id) of every sequence: stage one of the argmax.

    Comparisons are arithmetic (SELECT by a sign), so that poison goes through them. Ties keep the lower id.
    shared: the vocabulary is split over ranks; `span` in memory is this rank's (first id, number of ids).
    """

    parameters: tuple[str, ...] = ("logits", "best")

    def __init__(self, scaled: bool, pitch: int, shared: bool = False) -> None:
        super().__init__(scaled, pitch)
        self.short = shared
        if shared:
            self.parameters = (*self.parameters, "span")
        self.best: list[tuple[Reg, Reg]] = []

    def begin(self, k: Kernel, t: Thread, plan: LinearPlan) -> None:
        super().begin(k, t, plan)
        if self.short:
            self.u["first_id"] = k.ureg("first_id")
            k.ULDG(32, self.u["first_id"], self.u["span"], 0)
            k.ULDG(32, self.u["outputs"], self.u["span"], 4)
        for j in range(best_rounds(plan)):
            value, number = k.reg(f"best{j}"), k.reg(f"best_id{j}")
            k.MOVI("f32", value, float("-inf"))
            k.MOVI("s32", number, FAR)
            self.best.append((value, number))

    def store(self, k: Kernel, plan: LinearPlan, item: Item, sums: list[Reg]) -> None:
        self.scale(k, item, sums)
        at = k.reg("address")
        self.address(k, item, at)
        k.STG(32, at, self.u["logits"], 0, sums[0], guard=item.good)
        value, number = self.best[item.round]
        lead = k.reg("lead")
        assert item.number is not None
        k.SUB("f32", lead, value, sums[0])
        token = item.number
        if self.short:
            token = k.reg("token")
            k.ADD("s32", token, item.number, self.u["first_id"])
        k.SELECT("f32", number, lead, number, token, guard=item.good)
        k.SELECT("f32", value, lead, value, sums[0], guard=item.good)

    def end(self, k: Kernel, t: Thread, plan: LinearPlan) -> None:
        """A (value, id) for each CTA, sequence and warp-sized piece of a group: [cta][sequence][piece]."""
        k.comment("best of this warp, for each sequence")
        items = min(plan.items, 32)
        pieces = plan.items // items
        total, threads = plan.items * plan.batch, 32 * plan.warps
        base, at = k.ureg("base"), k.reg("at")
        k.UMULI(base, t.cta, plan.batch * pieces * 8)
        k.UADD(base, base, self.u["best"])
        masks = tuple(1 << i for i in reversed(range(items.bit_length() - 1)))
        for j, (value, number) in enumerate(self.best):
            with k.scratch():
                entry, leader = k.reg("entry"), k.pred("leader")
                k.ADDI("s32", entry, t.tid, j * threads)
                reduce_best(k, value, number, masks)
                k.ANDI("s32", at, entry, items - 1)
                k.MINI("s32", at, at, 1)
                k.MULI("s32", at, at, FAR)  # lanes that are not first of their piece get a far entry
                k.ADD("s32", at, at, entry)
                limit = constant(k, "limit", total)
                k.SETP("LT", "s32", leader, at, limit)
                pair = k.reg("pair", 2)
                k.MOV(pair[0], value)
                k.MOV(pair[1], number)
                k.SHR(entry, entry, items.bit_length() - 1)
                k.SHL(entry, entry, 3)
                k.STG(64, entry, base, 0, pair, guard=leader)


def best_rounds(plan: LinearPlan) -> int:
    """Items a thread of the logits kernel has in a group."""
    return -(-plan.items * plan.batch // (32 * plan.warps))


def best_entries(plan: LinearPlan) -> int:
    """(value, id) pairs a CTA leaves for one sequence."""
    return plan.items // min(plan.items, 32)


def reduce_best(k: Kernel, value: Reg, number: Reg, masks: tuple[int, ...]) -> None:
    """The larger value, on ties the lower id, over the lanes that differ in the masks' bits."""
    with k.scratch():
        other, other_number = k.reg("other"), k.reg("other_id")
        for mask in masks:
            k.SHFL(other, value, mask)
            k.SHFL(other_number, number, mask)
            better(k, value, number, other, other_number)


def better(k: Kernel, value: Reg, number: Reg, other: Reg, other_number: Reg) -> None:
    """(value, number) = the better of itself and the other; the other is destroyed."""
    with k.scratch():
        lead, behind, pick = k.reg("lead"), k.reg("behind"), k.reg("pick")
        k.SUB("f32", lead, value, other)
        k.SUB("f32", behind, other, value)
        k.SELECT("f32", pick, lead, number, other_number)
        k.SELECT("f32", number, behind, other_number, number)
        k.MIN("s32", number, number, pick)
        k.MAX("f32", value, value, other)
