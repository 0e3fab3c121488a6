"""The small kernels: embedding lookup, argmax with the step's end, and the step's end alone."""

from __future__ import annotations

from isa.builder import UZERO, ZERO, Kernel, Reg, UReg
from programs.gpu.kernels.common import Maker, Thread, below, constant, divide, skip_idle_warps, thread
from programs.gpu.kernels.elect import elect
from programs.gpu.kernels.finish import FAR, better, reduce_best
from programs.gpu.plan import ceil_div

WARPS = 4
THREADS = 32 * WARPS


def embed_kernel(name: str, form: str, vocab: int, row_bytes: int, hidden_pitch: int, make: Maker = Kernel) -> Kernel:
    """One CTA a sequence: its token's row of the 16-bit table, as fp32, into its residual.

    Parameters: table, tokens, hidden. row_bytes: a multiple of 16; the id is clamped to the table.
    """
    k = make(name, ("table", "tokens", "hidden"))
    t = thread(k)
    table, tokens, hidden = (k.parameter(n) for n in k.parameters)
    at, token = k.ureg("at"), k.ureg("token")
    k.USHL(at, t.cta, 2)
    k.UADD(at, at, tokens)
    k.ULDG(32, token, at, 0)
    last = constant(k, "last", vocab - 1)
    k.UMAX(token, token, UZERO)
    k.UMIN(token, token, last)
    k.UMULI(token, token, row_bytes)
    k.UADD(table, table, token)
    k.UMULI(at, t.cta, hidden_pitch)
    k.UADD(hidden, hidden, at)
    source, target = k.reg("source"), k.reg("target")
    k.SHL(source, t.tid, 4)
    k.SHL(target, t.tid, 5)
    pieces = row_bytes // 16
    for r in range(ceil_div(pieces, THREADS)):
        with k.scratch():
            guard = None
            if (r + 1) * THREADS > pieces:
                skip_idle_warps(k, t, pieces - r * THREADS, "leave")
                guard = below(k, t.tid, pieces - r * THREADS)
            raw, low, high = k.reg("raw", 4), k.reg("low", 4), k.reg("high", 4)
            k.LDG(128, raw, source, table, 0, guard=guard)
            for i in range(8):
                k.UNPACK(form, (low if i < 4 else high)[i % 4], raw[i // 2], i % 2, guard=guard)
            k.STG(128, target, hidden, 0, low, guard=guard)
            k.STG(128, target, hidden, 16, high, guard=guard)
            k.UADDI(table, table, THREADS * 16)
            k.UADDI(hidden, hidden, THREADS * 32)
    k.label("leave")
    k.EXIT()
    return k


def argmax_kernel(name: str, batch: int, ctas: int, entries: int, ranks: int = 1, make: Maker = Kernel) -> Kernel:
    """One CTA a sequence: the best of what the logits kernel left, lowest id on ties; ends the step.

    Parameters: best ((value, id) pairs [cta][sequence][entry]), tokens, positions. ranks: GPUs that each know the
    best of their own words; then also mail (election_bytes, zero at the start).
    """
    k = make(name, ("best", "tokens", "positions", *(("mail",) if ranks > 1 else ())))
    t = thread(k)
    best, tokens, positions = (k.parameter(n) for n in ("best", "tokens", "positions"))
    at = k.ureg("at")
    k.UMULI(at, t.cta, entries * 8)
    k.UADD(best, best, at)
    value, number = k.reg("value"), k.reg("number")
    k.MOVI("f32", value, float("-inf"))
    k.MOVI("s32", number, FAR)
    total = ctas * entries
    for r in range(ceil_div(total, THREADS)):
        with k.scratch():
            guard = below(k, t.tid, total - r * THREADS) if (r + 1) * THREADS > total else None
            entry, cta, piece = k.reg("entry"), k.reg("cta"), k.reg("piece")
            k.ADDI("s32", entry, t.tid, r * THREADS)
            divide(k, cta, piece, entry, entries, total + THREADS)
            k.MULI("s32", cta, cta, batch * entries * 8)
            k.SHL(piece, piece, 3)
            k.ADD("s32", cta, cta, piece)
            pair = k.reg("pair", 2)
            k.MOVI("f32", pair[0], float("-inf"))
            k.MOVI("s32", pair[1], FAR)
            k.LDG(64, pair, cta, best, 0, guard=guard)
            better(k, value, number, pair[0], pair[1])
    reduce_best(k, value, number, (16, 8, 4, 2, 1))
    k.comment("best of the warps")
    mine, pair = k.reg("mine"), k.reg("pair", 2)
    k.S2R(mine, "WARPID")
    k.SHL(mine, mine, 3)
    k.MOV(pair[0], value)
    k.MOV(pair[1], number)
    first = below(k, t.lane, 1)
    k.STS(64, mine, 0, pair, guard=first)
    k.BAR()
    k.UBR("GT", t.warp, UZERO, "leave")
    k.MOV(mine, ZERO)
    for w in range(1, WARPS):
        k.LDS(64, pair, mine, 8 * w)
        better(k, value, number, pair[0], pair[1])
    if ranks > 1:
        elect(k, t, ranks, batch, k.parameter("mail"), value, number)
    _end(k, t, positions, number, tokens)
    k.label("leave")
    k.EXIT()
    return k


def advance_kernel(name: str, make: Maker = Kernel) -> Kernel:
    """One CTA of one warp a sequence: the position grows by one. Parameter: positions."""
    k = make(name, ("positions",))
    t = thread(k)
    _end(k, t, k.parameter("positions"), None, None)
    k.EXIT()
    return k


def _end(k: Kernel, t: Thread, positions: UReg, token: Reg | None, tokens: UReg | None) -> None:
    """Write sequence cta's token and advance its position."""
    only, at, position = below(k, t.tid, 1), k.reg("state_at"), k.reg("position")
    k.MOV(at, t.cta)
    k.SHL(at, at, 2)
    k.LDG(32, position, at, positions, 0)
    k.ADDI("s32", position, position, 1)
    k.STG(32, at, positions, 0, position, guard=only)
    if token is not None and tokens is not None:
        k.STG(32, at, tokens, 0, token, guard=only)
