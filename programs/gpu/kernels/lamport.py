"""The all-reduce whose values are their own flags: the "Lamport" one-shot of TensorRT-LLM and FlashInfer.

Every lane stores 16 bytes of values to all ranks, itself included, and polls until no word of theirs is zero. A word
0 is sent as UNSENT_ZERO, which adds like it. Three boxes take turns: one is written, and the one of the use before,
which all have read, is cleared for the use after the next; a peer can write there only when it has this GPU's values
of the next use.

A use finds its way as those kernels do: a table in memory says where the counts are, the counts say which box it is,
and only then are the values loaded. CTAs count themselves; the first one takes the count back at the end, and turns
the boxes. As control flow depends on the values they must be real, in a timing-only program too.
"""

from __future__ import annotations

from emulator.gpu.timing import PEER_AT
from isa.builder import UZERO, ZERO, Kernel, Pred
from programs.gpu.allreduce_plan import AllreducePlan
from programs.gpu.kernels.allreduce import add_ranks
from programs.gpu.kernels.common import add_offset, constant, thread

UNSENT_ZERO = -(1 << 31)  # the word -0.0, or a pair of 0 and -0.0


def lamport_kernel(name: str, plan: AllreducePlan) -> Kernel:
    """out = sum of all ranks' values, in plan.form.

    Parameters: values, out, mail (AllreducePlan.mail_bytes, AllreducePlan.mail_words at the start). Grid and block are
    the plan's (32 x plan.warps threads), no shared memory. values may be overwritten when the kernel is over.
    """
    k = Kernel(name, ("values", "out", "mail"))
    t = thread(k)
    values, out, mail = (k.parameter(n) for n in ("values", "out", "mail"))
    k.comment("the table, then the counts, then the values")
    counts, boxes, turn = k.ureg("counts"), k.ureg("boxes"), k.ureg("turn")
    k.ULDG(32, counts, mail, 0)
    k.ULDG(32, boxes, mail, 4)
    k.UADD(counts, counts, mail)
    k.UADD(boxes, boxes, mail)
    k.ULDG(32, turn, counts, 0)
    number, lane16, come = k.ureg("number"), k.reg("lane16"), k.reg("come")
    k.SHL(lane16, t.lane, 4)
    k.UMULI(number, t.cta, plan.warps)
    k.UADD(number, number, t.warp)
    k.USHL(number, number, 9)
    there: Pred | None = None
    if plan.bytes % (512 * plan.warps * plan.grid):
        there, bound = k.pred("there"), constant(k, "bytes", plan.bytes)
        k.MOV(come, number)
        k.ADD("s32", come, come, lane16)
        k.SETP("LT", "s32", there, come, bound)
    first, one = k.pred("first"), k.reg("one")
    k.UBR("NE", t.warp, UZERO, "counted")
    k.SETP("EQ", "s32", first, t.lane, ZERO)
    k.MOVI("s32", one, 1)
    k.ATOM(come, ZERO, counts, 4, one, guard=first)
    k.label("counted")
    k.UADD(boxes, boxes, number)
    use = plan.ranks * plan.slot_bytes
    before, last = k.ureg("before"), constant(k, "use", use)
    k.UADDI(before, turn, -use)
    k.UBR("GE", turn, last, "cycled")
    k.UADDI(before, turn, 2 * use)
    k.label("cycled")
    k.UADD(before, before, boxes)
    inside = [k.ureg(f"inside{d}") for d in range(plan.ranks)]
    outside = [inside[0]]
    k.UADD(inside[0], boxes, turn)
    for distance in range(1, plan.ranks):
        add_offset(k, inside[distance], inside[distance - 1], plan.slot_bytes)
        outside.append(constant(k, f"outside{distance}", distance))
        k.USHL(outside[-1], outside[-1], PEER_AT)
        k.UADD(outside[-1], outside[-1], inside[distance])
    k.UADD(values, values, number)
    k.UADD(out, out, number)
    packet, zero, filled = k.reg("packet", 4), k.reg("zero", 4), [k.pred("filled"), k.pred("filled_too")]
    for j in range(4):
        k.MOVI("s32", zero[j], 0)
        if there is not None:
            k.MOVI("s32", packet[j], 0)
    k.LDG(128, packet, lane16, values, 0, guard=there)
    for j in range(4):
        k.SETP("NE", "s32", filled[0], packet[j], ZERO)
        k.MOVI("s32", packet[j], UNSENT_ZERO, guard=~filled[0])
    for base in outside:
        k.STG(128, lane16, base, 0, packet)
    for _ in range(plan.ranks):
        k.STG(128, lane16, before, 0, zero)
        add_offset(k, before, before, plan.slot_bytes)
    k.comment("wait until no word is zero: what one packet carries, a line, comes at once")
    letters = [k.reg(f"letter{d}", 4) for d in range(plan.ranks)]
    other, seen = k.reg("other"), k.ureg("seen")
    poll = k.label("poll")
    for letter, base in zip(letters, inside, strict=True):
        k.LDCG(128, letter, lane16, base, 0)
    for d, letter in enumerate(letters):
        for j in range(4):
            k.SETP("NE", "s32", filled[j % 2], letter[j], ZERO, guard=filled[j % 2] if d or j > 1 else None)
    k.MOVI("s32", come, 1)
    for full in filled:
        k.MOVI("s32", come, 0, guard=~full)
    for mask in (8, 16):
        k.SHFL(other, come, mask)
        k.MIN("s32", come, come, other)
    k.R2UR(seen, come)
    k.UBR("EQ", seen, UZERO, poll)
    for j in range(4):
        add_ranks(k, plan.form, [letter[j] for letter in letters])
    k.STG(128, lane16, out, 0, letters[0], guard=there)
    k.comment("the first warp takes the CTAs' count back when it is whole, and turns the boxes")
    k.UADD(number, t.cta, t.warp)
    k.UBR("NE", number, UZERO, "leave")
    k.UADD(boxes, last, last)
    k.UADDI(before, turn, use)
    k.UBR("LT", turn, boxes, "turned")
    k.UADD(before, UZERO, UZERO)
    k.label("turned")
    grid = constant(k, "grid", plan.grid)
    wait = k.label("wait")
    k.LDCG(32, come, ZERO, counts, 4)
    k.R2UR(seen, come)
    k.UBR("NE", seen, grid, wait)
    k.MOV(come, before)
    k.STG(32, ZERO, counts, 0, come)
    k.STG(32, ZERO, counts, 4, ZERO)
    k.label("leave")
    k.EXIT()
    return k
