"""Vector expressions and the VXM ALUs that compute them.

An expression is a small graph of operations over leaves (vectors that arrive on streams). Every
operation gets an ALU: results run from rank to rank or within a row, specials need a large ALU, and
an ALU takes and gives streams of its row's quads only. An operation's output is visible for one
cycle, so a value that is needed later runs through copies.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from emulator.lpu.geometry import SPECIAL_OPS, Geometry
from isa.encoding import encode
from isa.opcodes import ALU_BASE, BY_NAME, NO_STREAM, TYPE_BYTES, TYPES


@dataclass(eq=False)
class Leaf:
    """Something that arrives on streams; schedule.py has the kinds."""

    def bytes(self) -> int:
        """Streams that one vector takes: each kind has its own answer."""
        raise NotImplementedError


@dataclass(eq=False)
class Op:
    """One VXM instruction over leaves and other operations. imm: raw bits."""

    name: str
    type: str
    args: tuple[Any, ...]
    imm: int | None = None
    from_type: str | None = None

    @property
    def result_bytes(self) -> int:
        return TYPE_BYTES[TYPES.index(self.type)]


def bits(value: float) -> int:
    """Raw bits of a float immediate."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def f32(name: str, *args: Any) -> Op:
    return Op(name, "f32", args)


def s32(name: str, *args: Any) -> Op:
    return Op(name, "s32", args)


def imm(name: str, a: Any, value: float | int) -> Op:
    """Immediate form: a float value makes an f32 operation, an int an s32 one."""
    if isinstance(value, float):
        return Op(name, "f32", (a,), bits(value))
    return Op(name, "s32", (a,), value & 0xFFFFFFFF)


def cvt(to: str, source: str, a: Any) -> Op:
    return Op("CVT", to, (a,), None, source)


def copy(a: Any) -> Op:
    """a, bit for bit, one operation later."""
    return Op("ADDI", "s32", (a,), 0)


@dataclass
class Step:
    """An operation with its place in time. chained: positions of the steps it reads; leaves: leaf uses."""

    op: Op
    operands: list[tuple[str, int]]  # ("A", step) or ("L", leaf use), in field order
    issue: int
    result: int
    streams: bool  # has operands from streams
    out: int = -1  # number of the result that it puts on a stream, -1 = chained readers only


@dataclass
class Chain:
    """A graph of operations in time, relative to the chain's start."""

    steps: list[Step] = field(default_factory=list)
    leaves: list[tuple[Leaf, int]] = field(default_factory=list)  # leaf, cycle in which it is sampled
    signature: tuple[Any, ...] = ()
    fold: bool = False  # the last step combines the values of all iterations


def add_fold(g: Geometry, chain: Chain, name: str) -> None:
    """Append an operation that combines the chain's only result over the iterations, g.op cycles apart."""
    root = next(k for k, s in enumerate(chain.steps) if s.out >= 0)
    step = chain.steps[root]
    step.out = -1
    op = Op(name, step.op.type, (step.op, step.op))
    chain.steps.append(Step(op, [("A", root), ("A", len(chain.steps))], step.result, step.result + g.op, False, 0))
    large, chained, leaves, _ = chain.signature[root]
    own = (BY_NAME[name].unit == "alu_large", (root,), (), True)
    chain.signature = (*chain.signature[:root], (large, chained, leaves, False), *chain.signature[root + 1 :], own)
    chain.fold = True


def arrange(g: Geometry, outs: list[Op], leaf_direction: Any) -> Chain:
    """Times of every operation: as late as its readers want, with copies where they differ.

    outs: operations whose results go to streams, one entry a stream (the same operation may stand
    twice). leaf_direction(leaf) gives a leaf's direction. Raises ValueError when a wait cannot be
    made of copies.
    """
    order: list[Op] = []
    seen: set[int] = set()

    def visit(op: Op) -> None:
        if id(op) not in seen:
            seen.add(id(op))
            for a in op.args:
                if isinstance(a, Op):
                    visit(a)
            order.append(op)

    for op in outs:
        visit(op)

    def length(op: Op) -> int:
        return g.special if op.name in SPECIAL_OPS else g.op

    early: dict[int, int] = {}
    for op in order:
        chained = [early[id(a)] for a in op.args if isinstance(a, Op)]
        early[id(op)] = (max(chained) if chained else g.entry) + length(op)
    wanted: dict[int, set[int]] = {id(op): set() for op in order}
    for op in order:
        if sum(o is op for o in outs) and not any(op in (a for a in other.args) for other in order):
            wanted[id(op)].add(early[id(op)])
    result: dict[int, int] = {}
    for op in reversed(order):
        times = wanted[id(op)]
        result[id(op)] = min(times) if times else early[id(op)]
        for a in op.args:
            if isinstance(a, Op):
                wanted[id(a)].add(result[id(op)] - length(op))
    chain = Chain()
    at: dict[tuple[int, int], int] = {}  # (operation, time) -> step
    leaf_use: dict[tuple[int, int], int] = {}
    for op in order:
        time = result[id(op)]
        streams = any(not isinstance(a, Op) for a in op.args)
        start = time - length(op)
        issue = start - g.entry if streams else start
        operands: list[tuple[str, int]] = []
        for a in op.args:
            if isinstance(a, Op):
                operands.append(("A", at[id(a), start]))
            else:
                use = leaf_use.setdefault((id(a), issue), len(chain.leaves))
                if use == len(chain.leaves):
                    chain.leaves.append((a, issue))
                operands.append(("L", use))
        at[id(op), time] = len(chain.steps)
        chain.steps.append(Step(op, operands, issue, time, streams))
        last = len(chain.steps) - 1
        when = time
        for later in sorted(t for t in wanted[id(op)] if t > time):
            if (later - when) % g.op:
                raise ValueError(f"a wait of {later - when} cycles cannot be made of {g.op}-cycle copies")
            while when < later:
                chain.steps.append(Step(copy(op), [("A", last)], when, when + g.op, False))
                last, when = len(chain.steps) - 1, when + g.op
                at[id(op), when] = last
    for number, op in enumerate(outs):
        step = at[id(op), result[id(op)]]
        while chain.steps[step].out >= 0:  # a second stream for the same value: one copy later
            when = chain.steps[step].result
            found = [k for k, s in enumerate(chain.steps) if ("A", step) in s.operands and s.op.name == "ADDI"
                     and s.op.imm == 0 and s.op.type == "s32"]
            if found:
                step = found[0]
            else:
                chain.steps.append(Step(copy(op), [("A", step)], when, when + g.op, False))
                step = len(chain.steps) - 1
        chain.steps[step].out = number
    # A stream result needs its own byte width; a copy of a 1- or 2-byte result would be a 4-byte one.
    for step_ in chain.steps:
        if step_.out >= 0 and outs[step_.out].result_bytes < 4 and step_.op is not outs[step_.out]:
            raise ValueError("a 1- or 2-byte result cannot be copied on the way to a second stream")
    signature = []
    for s in chain.steps:
        large = BY_NAME[s.op.name].unit == "alu_large"
        signature.append((large, tuple(n for k, n in s.operands if k == "A"),
                          tuple((n, leaf_direction(chain.leaves[n][0])) for k, n in s.operands if k == "L"),
                          s.out >= 0))
    chain.signature = tuple(signature)
    return chain


@lru_cache(maxsize=4096)
def assignments(g: Geometry, signature: tuple[Any, ...], avoid: int = 0) -> tuple[tuple[int, ...], ...]:
    """ALUs of a chain's steps, several ways with different ALUs for the first step; () when there is none.

    avoid: bit mask of ALUs that must not be used.
    """
    reach = [frozenset(g.reach(alu)) for alu in range(16)]
    count = len(signature)
    found: list[tuple[int, ...]] = []

    def fits(k: int, alu: int, chosen: list[int]) -> bool:
        large, chained, leaves, _ = signature[k]
        if alu in chosen or (avoid >> alu & 1) or (large and alu not in g.large_alus):
            return False
        if not all(g.can_chain(chosen[c], alu) for c in chained):
            return False
        for leaf, _direction in leaves:  # every reader of a leaf's stream must reach one common quad
            quads = reach[alu]
            for j in range(k):
                if any(leaf == other for other, _ in signature[j][2]):
                    quads = quads & reach[chosen[j]]
            if not quads:
                return False
        return True

    budget = [0]

    def extend(chosen: list[int], order: list[int]) -> bool:
        if len(chosen) == count:
            return True
        budget[0] += 1
        if budget[0] > 20000:
            return False
        large = signature[len(chosen)][0]
        # small operations use a large ALU only when no small one is left
        for alu in order if large else sorted(order, key=lambda a: a in g.large_alus):
            if fits(len(chosen), alu, chosen):
                chosen.append(alu)
                if extend(chosen, order):
                    return True
                chosen.pop()
        return False

    for first in range(16):
        if fits(0, first, []):
            order = [(first + 5 * i) % 16 for i in range(16)]
            chosen = [first]
            budget[0] = 0
            if extend(chosen, order) and tuple(chosen) not in found:
                found.append(tuple(chosen))
    return tuple(found)


@lru_cache(maxsize=65536)
def vxm_word(name: str, type_: str, from_type: str | None, dst: int, operands: tuple[int, ...],
             imm_: int | None) -> int:
    """The encoded instruction; operands and dst are raw field values."""
    values = [TYPES.index(type_)]
    if name == "CVT":
        values.append(TYPES.index(from_type or ""))
    values.append(dst)
    values.extend(operands)
    if imm_ is not None:
        values.append(imm_)
    return encode("lpu", BY_NAME[name], values)


__all__ = ["ALU_BASE", "NO_STREAM", "Chain", "Leaf", "Op", "Step", "arrange", "assignments", "bits", "copy", "cvt",
           "f32", "imm", "s32", "vxm_word"]
