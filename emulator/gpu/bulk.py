"""mbarriers and the bulk-copy engine of an SM. emulator.gpu.naive_bulk says what they do."""

from __future__ import annotations

import numpy as np

from emulator.gpu.decode import D_A, D_B, D_BASE, D_C, D_DST, D_IMM, D_KIND, K_BULK, K_MBARRIVE, K_MBINIT, K_MBWAIT
from emulator.gpu.errors import (
    ADDRESS_RANGE,
    BULK_SIZE,
    MBARRIER,
    MBARRIER_OVERRUN,
    MISALIGNED,
    NONE,
    SHARED_RANGE,
)
from emulator.gpu.landing import global_words, is_peer
from emulator.gpu.layout import (
    B_BAR,
    B_DONE,
    B_HANDED,
    B_LAST,
    B_LAST_MASK,
    B_LEFT,
    B_LINE,
    B_MASK,
    B_NEXT,
    B_PC,
    B_SIZE,
    B_SLOT,
    B_STARTED,
    BULK,
    BULK_BUSY,
    BULK_IDLE,
    BULK_ISSUE,
    BULK_LIMIT,
    C_BULK_COPIES,
    C_BULK_REQUESTS,
    C_BULK_SECTORS,
    C_SHARED_WRITE,
    H_BULK_DONE,
    H_BULK_INTERVAL,
    H_BULK_LINES,
    H_BULK_QUEUE,
    H_ERROR,
    H_ERROR_CTA,
    H_ERROR_PC,
    H_ERROR_VALUE,
    H_ERROR_WARP,
    H_HAS_PHANTOM,
    H_PHANTOM,
    H_PHANTOM_END,
    H_POOL_SIZE,
    H_POOLS,
    H_REAL_BYTES,
    H_SHARED,
    H_SHARED_LATENCY,
    H_TRACE,
    H_WARPS,
    NEVER,
    Q_BYTES,
    Q_KIND,
    Q_LAST,
    Q_LAST_MASK,
    Q_LINE,
    Q_MASK,
    Q_PC,
    Q_PHASES,
    Q_SHARED,
    Q_SLOT,
    R_MBARRIER,
    SM_BITS,
    SM_BULK_ARRIVED,
    SM_BULK_ARRIVED_LAST,
    SM_BULK_CYCLES,
    SM_BULK_FREE,
    SM_BULK_HEAD,
    SM_BULK_LINES,
    SM_BULK_LIVE,
    SM_BULK_NEXT,
    SM_BULK_POOL,
    SM_BULK_SINCE,
    SM_BULK_STATE,
    SM_BULK_TAIL,
    SM_COUNTERS,
    SM_LSU_NEXT,
    SM_STALLED,
    SM_WARPS,
    TAG_AT,
    TAG_BULK,
    W_CTA,
    W_POISON,
    W_SHARED,
    W_TIME,
    W_UNIFORM,
    W_WAITS,
    W_WARP,
    WARP,
)
from emulator.gpu.mbarrier import BYTES_MAX, COUNT_AT, FIELD, MARK, MARK_AT, PHASE_AT
from emulator.gpu.registers import fail
from emulator.gpu.timing import PEER_AT
from emulator.gpu.tracing import trace_bulk, trace_copy
from emulator.gpu.wake import ask, settle, wake
from isa.jit import njit


# -- an mbarrier in shared memory -------------------------------------------------------------------
@njit
def _load(S, U, w, at):
    """Word 0 of the mbarrier at a shared address, 0 when none is there."""
    bits = np.uint32(3) << np.uint32(at >> 2 & 31)
    word = np.int64(U[S[w + W_SHARED] + (at >> 2)])
    if word >> MARK_AT != MARK or U[S[w + W_POISON] + (at >> 7)] & bits:
        return np.int64(0)
    return word


@njit
def _store(S, U, w, at, word, size):
    """Both words of an mbarrier."""
    u = S[w + W_SHARED] + (at >> 2)
    U[u], U[u + 1] = np.uint32(word), np.uint32(size & 0xFFFFFFFF)
    U[S[w + W_POISON] + (at >> 7)] &= ~(np.uint32(3) << np.uint32(at >> 2 & 31))


# -- at the issue -----------------------------------------------------------------------------------
@njit
def barrier_access(S, U, D, row, base, w, pc, e):
    """MBINIT, MBARRIVE, MBWAIT and BULK at their issue: checks, and the bytes that a copy moves."""
    kind = D[row + D_KIND]
    at = S[w + W_UNIFORM + D[row + D_BASE]] + D[row + D_C]
    if at < 0 or at + 8 > S[H_SHARED]:
        return fail(S, SHARED_RANGE, at)
    if at & 7:
        return fail(S, MISALIGNED, at)
    S[e + Q_PHASES], S[e + Q_PC], S[e + Q_SHARED] = 1, pc, at
    if kind == K_MBINIT:
        count = D[row + D_IMM]
        _store(S, U, w, at, MARK << MARK_AT | count << COUNT_AT | count, 0)
        return NONE
    if _load(S, U, w, at) == 0:
        return fail(S, MBARRIER, at)
    value = S[w + W_UNIFORM + D[row + D_B]]
    S[e + Q_BYTES] = value
    if kind == K_MBWAIT:
        S[e + Q_BYTES] = value & 1
        S[w + W_TIME] = NEVER * 16 + R_MBARRIER
        return NONE
    if value < 0 or value > BYTES_MAX or kind == K_BULK and (value == 0 or value & 15):
        return fail(S, BULK_SIZE, value)
    if kind == K_BULK:
        return _copy_bytes(S, U, D, row, base, w, e, value)
    return NONE


@njit
def _copy_bytes(S, U, D, row, base, w, e, size):
    """BULK: global memory, real or phantom as a whole, to shared memory; the entry gets its lines."""
    target = S[w + W_UNIFORM + D[row + D_DST]]
    source = S[w + W_UNIFORM + D[row + D_A]] + D[row + D_IMM]
    if target < 0 or target + size > S[H_SHARED]:
        return fail(S, SHARED_RANGE, target)
    local = source
    if source >> PEER_AT and is_peer(S, source >> PEER_AT):
        local &= (1 << PEER_AT) - 1
    real = local >= 0 and local + size <= S[H_REAL_BYTES]
    if not real and (local < S[H_PHANTOM] or local + size > S[H_PHANTOM_END]):
        return fail(S, ADDRESS_RANGE, source)
    if target & 15:
        return fail(S, MISALIGNED, target)
    if source & 15:
        return fail(S, MISALIGNED, source)
    if real:
        to, start = S[w + W_SHARED] + (target >> 2), global_words(S, source) + (source >> 2)
        for i in range(size >> 2):
            U[to + i] = U[start + i]
    if S[H_HAS_PHANTOM]:
        for word in range(target >> 2, (target + size) >> 2, 4):  # four words lie in one word of flags
            bits = np.uint32(15) << np.uint32(word & 31)
            flags = S[w + W_POISON] + (word >> 5)
            if real:
                U[flags] &= ~bits
            else:
                U[flags] |= bits
    S[base + SM_COUNTERS + C_SHARED_WRITE] += size
    last = source + size - 1
    S[e + Q_LINE], S[e + Q_LAST] = source >> 7, last >> 7
    S[e + Q_MASK] = 15 << (source >> 5 & 3) & 15
    S[e + Q_LAST_MASK] = (2 << (last >> 5 & 3)) - 1
    return NONE


# -- in the load-store unit ---------------------------------------------------------------------------
@njit
def _broken(S, w, pc, t, error, value):
    """Note an error that shows itself after the instruction's issue."""
    S[H_ERROR], S[H_ERROR_VALUE], S[H_ERROR_PC] = error, value, pc
    S[H_ERROR_CTA], S[H_ERROR_WARP] = S[w + W_CTA], S[w + W_WARP]


@njit
def arrive(S, U, sm, base, slot, pc, at, arrivals, size, resume, t):
    """Arrivals and bytes for a phase; warps that wait for it go on at `resume` when it is complete."""
    w = base + SM_WARPS + slot * WARP
    word = _load(S, U, w, at)
    if word == 0:
        _broken(S, w, pc, t, MBARRIER, at)
        return
    missing = word & FIELD
    left = np.int64(np.int32(U[S[w + W_SHARED] + (at >> 2) + 1])) + size
    if missing < arrivals or left > BYTES_MAX or left < -BYTES_MAX:
        _broken(S, w, pc, t, MBARRIER_OVERRUN, at)
        return
    word -= arrivals
    if missing == arrivals and left == 0:
        word = (word ^ (1 << PHASE_AT)) | (word >> COUNT_AT & FIELD)
        warps = S[H_WARPS]
        first = slot // warps * warps
        for other in range(first, first + warps):
            o = base + SM_WARPS + other * WARP
            if S[o + W_WAITS] == at + 1:
                S[o + W_WAITS] = 0
                S[o + W_TIME] = resume * 16 + R_MBARRIER
                wake(S, base, other, resume)
    _store(S, U, w, at, word, left)


@njit
def serve_barrier(S, U, sm, base, q, t):
    """The load-store unit takes MBARRIVE, MBWAIT or BULK."""
    kind, slot, at = S[q + Q_KIND], S[q + Q_SLOT], S[q + Q_SHARED]
    if kind == K_BULK:
        _accept(S, sm, base, q, t)
        return
    resume = max(t + 1, t - 1 + S[H_SHARED_LATENCY])
    settle(S, base, slot, t + 1)
    wake(S, base, slot, t + 1)  # EXIT may wait for it
    if kind == K_MBARRIVE:
        arrive(S, U, sm, base, slot, S[q + Q_PC], at, 1, S[q + Q_BYTES], resume, t)
        return
    w = base + SM_WARPS + slot * WARP
    word = _load(S, U, w, at)
    if word == 0:
        _broken(S, w, S[q + Q_PC], t, MBARRIER, at)
    elif word >> PHASE_AT & 1 != S[q + Q_BYTES]:
        S[w + W_TIME] = resume * 16 + R_MBARRIER
        wake(S, base, slot, resume)
    else:
        S[w + W_WAITS] = at + 1


# -- the engine ---------------------------------------------------------------------------------------
@njit
def _records(S, sm):
    """Where the SM's records of copies begin."""
    return S[H_POOLS] + (sm + 1) * S[H_POOL_SIZE] - S[H_BULK_QUEUE] * BULK


@njit
def _accept(S, sm, base, q, t):
    """Hand a copy to the engine: to the end of its queue."""
    number = S[base + SM_BULK_POOL]
    pool = _records(S, sm)
    if number >= 0:
        S[base + SM_BULK_POOL] = S[pool + number * BULK + B_NEXT]
    else:  # no freed one: as many are in use as were ever
        number = S[base + SM_BULK_LIVE]
    b = pool + number * BULK
    first, last = S[q + Q_LINE], S[q + Q_LAST]
    S[b + B_SLOT], S[b + B_PC] = S[q + Q_SLOT], S[q + Q_PC]
    S[b + B_BAR], S[b + B_SIZE] = S[q + Q_SHARED], S[q + Q_BYTES]
    S[b + B_LINE], S[b + B_LAST], S[b + B_LEFT] = first, last, last - first + 1
    S[b + B_MASK] = S[q + Q_MASK] if first != last else S[q + Q_MASK] & S[q + Q_LAST_MASK]
    S[b + B_LAST_MASK] = S[q + Q_LAST_MASK]
    S[b + B_HANDED], S[b + B_STARTED], S[b + B_NEXT] = t, 0, -1
    if S[base + SM_BULK_HEAD] < 0:
        S[base + SM_BULK_HEAD] = number
    else:
        S[pool + S[base + SM_BULK_TAIL] * BULK + B_NEXT] = number
    S[base + SM_BULK_TAIL] = number
    S[base + SM_BULK_LIVE] += 1
    S[base + SM_COUNTERS + C_BULK_COPIES] += 1
    S[base + SM_BULK_NEXT] = min(S[base + SM_BULK_NEXT], t)


@njit
def bulk_complete(S, U, sm, base, t):
    """Give the bytes of copies that are complete by cycle t to their mbarriers."""
    pool = _records(S, sm)
    while S[base + SM_BULK_ARRIVED] >= 0:
        number = S[base + SM_BULK_ARRIVED]
        b = pool + number * BULK
        if S[b + B_DONE] > t:
            return
        S[base + SM_BULK_ARRIVED] = S[b + B_NEXT]
        S[b + B_NEXT] = S[base + SM_BULK_POOL]
        S[base + SM_BULK_POOL] = number
        S[base + SM_BULK_LIVE] -= 1
        if S[base + SM_STALLED]:  # the load-store unit has waited for this
            S[base + SM_LSU_NEXT] = min(t, S[base + SM_LSU_NEXT])
        if S[H_TRACE] != 0:
            trace_copy(S, sm, base, b)
        settle(S, base, S[b + B_SLOT], S[b + B_DONE])
        wake(S, base, S[b + B_SLOT], S[b + B_DONE])
        arrive(S, U, sm, base, S[b + B_SLOT], S[b + B_PC], S[b + B_BAR], 0, -S[b + B_SIZE], S[b + B_DONE], t)
        if S[H_ERROR] != NONE:
            return


@njit
def bulk_step(S, sm, base, t):
    """The engine's cycle t: one request of a line, if nothing forbids it; then say when to look again."""
    S[base + SM_BULK_CYCLES + S[base + SM_BULK_STATE]] += t - S[base + SM_BULK_SINCE]
    S[base + SM_BULK_SINCE] = t
    pool = _records(S, sm)
    number = S[base + SM_BULK_HEAD]
    state, again = BULK_IDLE, NEVER
    if number >= 0:
        b = pool + number * BULK
        start = t if S[b + B_STARTED] else max(S[base + SM_BULK_FREE], S[b + B_HANDED] + 1)
        if start > t:
            state, again = BULK_ISSUE, start
        elif S[base + SM_BULK_LINES] >= S[H_BULK_LINES]:
            state = BULK_LIMIT  # until a line arrives
        else:
            state, again = BULK_BUSY, t + 1
            if S[b + B_STARTED] == 0:
                S[b + B_STARTED] = 1
                S[base + SM_BULK_FREE] = t + S[H_BULK_INTERVAL]
            line, mask = S[b + B_LINE], S[b + B_MASK]
            S[base + SM_BULK_LINES] += 1
            S[base + SM_COUNTERS + C_BULK_SECTORS] += (mask & 1) + (mask >> 1 & 1) + (mask >> 2 & 1) + (mask >> 3 & 1)
            S[base + SM_COUNTERS + C_BULK_REQUESTS] += 1
            ask(S, sm, t, line, mask, 0, number << TAG_AT | TAG_BULK << SM_BITS | sm)
            S[b + B_LINE] = line + 1
            S[b + B_MASK] = S[b + B_LAST_MASK] if line + 1 == S[b + B_LAST] else 15
            if line == S[b + B_LAST]:
                S[base + SM_BULK_HEAD] = S[b + B_NEXT]
    if S[H_TRACE] != 0 and S[base + SM_BULK_STATE] != state:
        trace_bulk(S, sm, base, t)
    S[base + SM_BULK_STATE] = state
    if S[base + SM_BULK_ARRIVED] >= 0:
        again = min(again, S[pool + S[base + SM_BULK_ARRIVED] * BULK + B_DONE])
    S[base + SM_BULK_NEXT] = again


@njit
def bulk_respond(S, sm, base, number, t):
    """A line of a copy has arrived at cycle t."""
    pool = _records(S, sm)
    b = pool + number * BULK
    again = NEVER
    S[base + SM_BULK_LINES] -= 1
    if S[base + SM_BULK_STATE] == BULK_LIMIT:
        again = t
    S[b + B_LEFT] -= 1
    if S[b + B_LEFT] == 0:
        S[b + B_DONE] = t + S[H_BULK_DONE]
        S[b + B_NEXT] = -1
        if S[base + SM_BULK_ARRIVED] < 0:
            S[base + SM_BULK_ARRIVED] = number
            again = min(again, S[b + B_DONE])
        else:
            S[pool + S[base + SM_BULK_ARRIVED_LAST] * BULK + B_NEXT] = number
        S[base + SM_BULK_ARRIVED_LAST] = number
    if again < S[base + SM_BULK_NEXT]:
        S[base + SM_BULK_NEXT] = again
