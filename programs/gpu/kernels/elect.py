"""The best of several GPUs' best: each tells its peers, in one line with a flag, and waits for theirs."""

from __future__ import annotations

from emulator.gpu.timing import PEER_AT
from isa.builder import ZERO, Kernel, Reg, UReg
from programs.gpu.kernels.common import Thread, below, constant
from programs.gpu.kernels.finish import better
from programs.gpu.plan import round_up

LETTER_BYTES = 16  # value, id, nothing, number of the use


def election_bytes(ranks: int, rows: int) -> int:
    """Size of the mailbox: a count for each sequence, then two halves of letters that take turns. It must be real and
    zero at the start; see programs/gpu/kernels/allreduce.py for why nothing is ever cleared."""
    return round_up(4 * rows, 512) + 2 * (ranks - 1) * rows * LETTER_BYTES


def elect(k: Kernel, t: Thread, ranks: int, rows: int, mail: UReg, value: Reg, number: Reg) -> None:
    """(value, number) = the best of all ranks for sequence `cta`, lowest number on ties. For one warp of each CTA."""
    at, epoch, box, half = k.ureg("at"), k.ureg("epoch"), k.ureg("box"), k.ureg("half")
    k.comment("tell the peers this GPU's best, and wait for theirs")
    k.USHL(at, t.cta, 2)
    k.UADD(at, at, mail)
    k.ULDG(32, epoch, at, 0)
    k.UADDI(epoch, epoch, 1)
    k.UANDI(half, epoch, 1)
    k.UMULI(half, half, (ranks - 1) * rows * LETTER_BYTES)
    k.UMULI(box, t.cta, LETTER_BYTES)
    k.UADD(box, box, half)
    k.UADD(box, box, mail)
    k.UADDI(box, box, round_up(4 * rows, 512))
    letter, first = k.reg("letter", 4), below(k, t.lane, 1)
    k.MOV(letter[0], value)
    k.MOV(letter[1], number)
    k.MOV(letter[2], ZERO)
    k.MOV(letter[3], epoch)
    inside = [box]
    for distance in range(1, ranks):
        if distance > 1:
            inside.append(k.ureg(f"inside{distance}"))
            k.UADDI(inside[-1], inside[-2], rows * LETTER_BYTES)
        window = constant(k, "window", distance)
        k.USHL(window, window, PEER_AT)
        k.UADD(window, window, inside[-1])
        k.STG(128, ZERO, window, 0, letter, guard=first)
        k.free(window)
    seen = k.ureg("seen")
    for letters in inside:
        poll = k.label(k.fresh("poll"))
        k.LDCG(128, letter, ZERO, letters, 0)
        k.R2UR(seen, letter[3])
        k.UBR("NE", seen, epoch, poll)
        better(k, value, number, letter[0], letter[1])
    k.MOV(letter[3], epoch)
    k.STG(32, ZERO, at, 0, letter[3], guard=first)
    k.free(at, epoch, box, half, seen, letter, first, *inside[1:])
