"""The all-reduce over N = 2, 4, 8 GPUs: push, pull and two (programs/gpu/allreduce_plan.py), each one kernel.

A kernel names peers by distance: the peer at distance d of rank r is rank r XOR d, and its memory lies from d << 40
on (emulator/gpu/ranks.py). Values are added in fp32, in a tree over distances, ((0, 1), (2, 3)), ((4, 5), (6, 7)):
as addition commutes, every rank gets the same bits without knowing its number.

Nothing is cleared. A mailbox counts its uses; the flag of a use is its number, and two halves take turns: a peer
writes to a half again only when it has this GPU's flag of the use between, which this GPU sends when it has read that
half. Where peers read this GPU's values themselves (pull), the ranks meet at the end, too.
"""

from __future__ import annotations

from emulator.gpu.timing import PEER_AT
from isa.builder import UZERO, ZERO, Kernel, Pred, Reg, UReg
from programs.gpu.allreduce_plan import PACKET_WORDS, PUSH_WORDS, AllreducePlan
from programs.gpu.kernels.common import Thread, add_offset, constant, scale_offset, thread
from programs.gpu.plan import ceil_div


def allreduce_kernel(name: str, plan: AllreducePlan) -> Kernel:
    """out = sum of all ranks' values, in plan.form; with plan.residual out = residual + sum.

    Parameters: values, out, mail (AllreducePlan.mail_bytes, real, zero at the start), and residual. Grid and block are
    the plan's (32 x plan.warps threads), no shared memory. All launches of a step may share one mailbox if their
    plans are equal; values may be overwritten when the kernel is over. two: values and out have their N parts in an
    order of their own in each rank: part p of rank r stands at place p XOR r.
    """
    parameters = ("values", "out", "mail", *(("residual",) if plan.residual else ()))
    k = Kernel(name, parameters)
    if plan.way == "push":
        _push(k, plan)
    else:
        _pull(k, plan)
    return k


def _windows(k: Kernel, name: str, base: UReg, plan: AllreducePlan, stride: int = 0) -> list[UReg]:
    """base in the memory of the peers at distances 1, 2, ...; the d-th d x stride bytes further."""
    found, step, windows = base, constant(k, "step", 1), []
    k.USHL(step, step, PEER_AT)
    add_offset(k, step, step, stride)
    for distance in range(1, plan.ranks):
        windows.append(k.ureg(f"{name}{distance}"))
        k.UADD(windows[-1], found, step)
        found = windows[-1]
    k.free(step)
    return windows


def add_ranks(k: Kernel, form: str, words: list[Reg]) -> None:
    """words[0] = the sum of a word of every rank, by distance; of 16-bit values both halves. The others are lost."""
    if form == "f32":
        _tree(k, words)
        return
    with k.scratch():
        halves = [[k.reg(f"half{half}_{i}") for i in range(len(words))] for half in (0, 1)]
        for half in (0, 1):
            for word, part in zip(words, halves[half], strict=True):
                k.UNPACK(form, part, word, half)
        for half in (0, 1):
            _tree(k, halves[half])
        k.PACK(form, words[0], halves[0][0], halves[1][0])


def _tree(k: Kernel, values: list[Reg]) -> None:
    step = 1
    while step < len(values):
        for i in range(0, len(values), 2 * step):
            k.ADD("f32", values[i], values[i], values[i + step])
        step *= 2


def _least(k: Kernel, flags: list[Reg]) -> Reg:
    """The smallest of some flags, in the first of them."""
    while len(flags) > 1:
        for i in range(len(flags) // 2):
            k.MIN("s32", flags[i], flags[i], flags[-1 - i])
        flags = flags[: ceil_div(len(flags), 2)]
    return flags[0]


# -- push ------------------------------------------------------------------------------------------


def _push(k: Kernel, plan: AllreducePlan) -> None:
    """A lane sends three words, 32 apart, and the flag in 16 bytes: so a warp sends whole lines, each one packet."""
    t = thread(k)
    values, out, mail = (k.parameter(n) for n in ("values", "out", "mail"))
    residual = k.parameter("residual") if plan.residual else None
    number, at, epoch, box = k.ureg("number"), k.ureg("at"), k.ureg("epoch"), k.ureg("box")
    k.comment("the warp's number; its words of the message, its use of the mailbox")
    k.UMULI(number, t.cta, plan.warps)
    k.UADD(number, number, t.warp)
    if plan.grid * plan.warps != plan.push_warps:
        last = constant(k, "last", plan.push_warps)
        k.UBR("GE", number, last, "leave")
    k.USHL(at, number, 2)
    k.UADD(at, at, mail)
    k.ULDG(32, epoch, at, 0)
    k.USHL(box, number, 9)
    k.UMULI(number, number, 4 * PUSH_WORDS)
    for base in filter(None, (values, out, residual)):
        k.UADD(base, base, number)
    offset = k.reg("offset")
    k.SHL(offset, t.lane, 2)
    guards: list[Pred | None] = [None] * PACKET_WORDS
    packet, more = k.reg("packet", 4), k.reg("more", 4)
    if plan.words % PUSH_WORDS:
        word, bound = k.reg("word"), constant(k, "words", 4 * plan.words)
        k.MOV(word, number)
        k.ADD("s32", word, word, offset)
        for j in range(PACKET_WORDS):
            guards[j] = there = k.pred(f"there{j}")
            k.MOVI("s32", packet[j], 0)
            k.MOVI("s32", more[j], 0)
            k.SETP("LT", "s32", there, word, bound)
            k.ADDI("s32", word, word, 128)
    for j in range(PACKET_WORDS):
        k.LDG(32, packet[j], offset, values, 128 * j, guard=guards[j])
    for j in range(PACKET_WORDS):
        if residual:
            k.LDG(32, more[j], offset, residual, 128 * j, guard=guards[j])
    k.comment("the warp's letters in a half of the mailbox, here and at the peers")
    lane16 = k.reg("lane16")
    k.SHL(lane16, t.lane, 4)
    k.UADD(box, box, mail)
    k.UADDI(box, box, plan.epoch_bytes)
    inside = [box]
    for distance in range(2, plan.ranks):
        inside.append(k.ureg(f"inside{distance}"))
        k.UADDI(inside[-1], inside[-2], plan.slot_bytes)
    outside = []
    for distance in range(1, plan.ranks):
        outside.append(constant(k, f"outside{distance}", distance))
        k.USHL(outside[-1], outside[-1], PEER_AT)
        k.UADD(outside[-1], outside[-1], inside[distance - 1])
    half = k.ureg("half")
    k.UADDI(epoch, epoch, 1)
    k.UANDI(half, epoch, 1)
    scale_offset(k, half, half, (plan.ranks - 1) * plan.slot_bytes)
    for base in outside + inside:
        k.UADD(base, base, half)
    k.MOV(packet[3], epoch)
    for base in outside:
        k.STG(128, lane16, base, 0, packet)
    k.comment("wait for the peers' lines: the flag of a line's first lane is that of all")
    letters = [k.reg(f"letter{d}", 4) for d in range(1, plan.ranks)]
    least, seen = [k.reg(f"least{d}") for d in range(1, plan.ranks)], k.ureg("seen")
    other = k.reg("other")
    poll = k.label("poll")
    for letter, base in zip(letters, inside, strict=True):
        k.LDCG(128, letter, lane16, base, 0)
    for flag, letter in zip(least, letters, strict=True):
        k.MOV(flag, letter[3])
    first = _least(k, least)
    for mask in (8, 16):
        k.SHFL(other, first, mask)
        k.MIN("s32", first, first, other)
    k.R2UR(seen, first)
    k.UBR("LT", seen, epoch, poll)
    for j in range(PACKET_WORDS):
        add_ranks(k, plan.form, [packet[j], *(letter[j] for letter in letters)])
        if residual:
            k.ADD("f32", packet[j], more[j], packet[j])
        k.STG(32, offset, out, 128 * j, packet[j], guard=guards[j])
    k.MOV(other, epoch)
    k.STG(32, ZERO, at, 0, other)
    k.label("leave")
    k.EXIT()


# -- pull and two ------------------------------------------------------------------------------------


def _pull(k: Kernel, plan: AllreducePlan) -> None:
    """Pieces of 16 bytes from every rank, added; of a part, and then the peers' parts, where plan.way is two."""
    t = thread(k)
    values, out, mail = (k.parameter(n) for n in ("values", "out", "mail"))
    two, part = plan.way == "two", 16 * plan.pieces
    flags, epoch, at = k.ureg("flags"), k.ureg("epoch"), k.ureg("at")
    k.USHL(flags, t.cta, 7)
    k.UADD(flags, flags, mail)
    k.ULDG(32, epoch, flags, 0)
    peers = _windows(k, "flags", flags, plan, 4)
    offset = k.reg("offset")
    k.SHL(offset, t.tid, 4)
    k.UMULI(at, t.cta, 16 * 32 * plan.warps)
    k.UADD(values, values, at)
    k.UADD(out, out, at)
    _meet(k, plan, t, flags, peers, epoch)
    if not two:
        with k.scratch():
            _reduce(k, plan, t, offset, values, out, 0)
        if plan.warps > 1:
            k.BAR()
        _meet(k, plan, t, flags, peers, epoch)
    else:
        half, parts = k.ureg("half"), k.ureg("parts")
        k.UANDI(half, epoch, 2)  # two flags a use
        k.USHR(half, half, 1)
        scale_offset(k, half, half, part)
        k.UADDI(parts, mail, plan.epoch_bytes)
        k.UADD(parts, parts, half)
        k.UADD(parts, parts, at)
        keep = k.ureg("keep")
        k.UADD(keep, parts, UZERO)
        with k.scratch():
            _reduce(k, plan, t, offset, values, keep, part)
        k.MEMBAR()
        if plan.warps > 1:
            k.BAR()
        _meet(k, plan, t, flags, peers, epoch)
        with k.scratch():
            _gather(k, plan, t, offset, parts, out, part)
    k.UBR("NE", t.warp, UZERO, "leave")
    last = k.reg("last")
    k.MOV(last, epoch)
    k.STG(32, ZERO, flags, 0, last)
    k.label("leave")
    k.EXIT()


def _meet(k: Kernel, plan: AllreducePlan, t: Thread, flags: UReg, peers: list[UReg], epoch: UReg) -> None:
    """The CTAs of this number on all ranks meet. Word d of a CTA's flags is the one of the peer at distance d, word 0
    what the CTA has counted to."""
    k.UADDI(epoch, epoch, 1)
    done = k.fresh("met")
    if plan.warps > 1:
        k.UBR("NE", t.warp, UZERO, done)
    with k.scratch():
        value, seen = k.reg("value"), k.ureg("seen")
        k.MOV(value, epoch)
        for window in peers:
            k.STG(32, ZERO, window, 0, value)
        words = [k.reg(f"flags{i}", 4) for i in range(ceil_div(plan.ranks, 4))]
        poll = k.label(k.fresh("poll"))
        for i, quad in enumerate(words):
            k.LDCG(128, quad, ZERO, flags, 16 * i)
        k.R2UR(seen, _least(k, [words[d // 4][d % 4] for d in range(1, plan.ranks)]))
        k.UBR("LT", seen, epoch, poll)
    k.label(done)
    if plan.warps > 1:
        k.BAR()


def _loop(k: Kernel, plan: AllreducePlan, t: Thread) -> tuple[UReg, Pred | None, int]:
    """What a loop over a CTA's pieces needs: (how many are left, a guard or None where there are as many as threads,
    bytes from piece to piece)."""
    threads = 32 * plan.warps
    left = k.ureg("left")
    k.UMULI(left, t.cta, -threads)
    k.UADDI(left, left, plan.pieces)
    return left, None if plan.pieces % (plan.grid * threads) == 0 else k.pred("there"), 16 * plan.grid * threads


def _reduce(k: Kernel, plan: AllreducePlan, t: Thread, offset: Reg, values: UReg, target: UReg, stride: int) -> None:
    """Add the pieces of all ranks, read together; the peer at distance d has its d x stride bytes further."""
    left, guard, step = _loop(k, plan, t)
    sources = [values, *_windows(k, "values", values, plan, stride)]
    data = [k.reg(f"data{d}", 4) for d in range(plan.ranks)]
    if guard is not None:
        for quad in data:
            for j in range(4):
                k.MOVI("s32", quad[j], 0)
    again = k.label(k.fresh("reduce"))
    if guard is not None:
        k.SETP("LT", "s32", guard, t.tid, left)
    for quad, source in zip(data, sources, strict=True):
        k.LDG(128, quad, offset, source, 0, guard=guard)
        k.UADDI(source, source, step)
    for j in range(4):
        add_ranks(k, plan.form, [quad[j] for quad in data])
    k.STG(128, offset, target, 0, data[0], guard=guard)
    k.UADDI(target, target, step)
    k.UADDI(left, left, -step // 16)
    k.UBR("GT", left, UZERO, again)


def _gather(k: Kernel, plan: AllreducePlan, t: Thread, offset: Reg, parts: UReg, out: UReg, stride: int) -> None:
    """All parts, already added, this GPU's first: that of the rank at distance d goes to place d.

    One rank after the other, a round trip each. The kernels of vLLM and SGLang copy rank by rank under a condition;
    that no load goes before the store of the rank before is inferred from their times, not read in machine code.
    """
    left, guard, step = _loop(k, plan, t)
    sources, targets = [parts, *_windows(k, "parts", parts, plan)], [out]
    for distance in range(1, plan.ranks):
        targets.append(k.ureg(f"out{distance}"))
        add_offset(k, targets[-1], targets[-2], stride)
    data = k.reg("data", 4)
    again = k.label(k.fresh("gather"))
    if guard is not None:
        k.SETP("LT", "s32", guard, t.tid, left)
    for source, target in zip(sources, targets, strict=True):
        k.LDG(128, data, offset, source, 0, guard=guard)
        k.STG(128, offset, target, 0, data, guard=guard)
        k.UADDI(source, source, step)
        k.UADDI(target, target, step)
    k.UADDI(left, left, -step // 16)
    k.UBR("GT", left, UZERO, again)
