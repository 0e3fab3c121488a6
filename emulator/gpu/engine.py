"""The fast engine: every SM's sub-cores issue warp instructions, idle time is skipped.

A cycle has four parts, in this order: the memory system's answers arrive; CTAs are dispatched; each
SM's sub-cores issue, at most one instruction each; each load-store unit takes instructions.
emulator.gpu.naive is the same machine one cycle at a time.

Here time goes in windows as long as the way to L2 and back: what answers within a window was asked
before it. So one SM runs through the window, then the next one, with its state in the host's cache;
they meet where the order of all SMs matters. `run_kernel` can be left and entered again between windows.
"""

from __future__ import annotations

from emulator.gpu import memory
from emulator.gpu.bulk import bulk_complete, bulk_step
from emulator.gpu.decode import (
    PRED0,
    UREG0,
)
from emulator.gpu.errors import DEADLOCK, NONE
from emulator.gpu.issue import issue
from emulator.gpu.landing import land_until, recycle
from emulator.gpu.layout import (
    ANSWER,
    C_CTAS,
    DISPATCH,
    EMPTY,
    H_ANSWERS,
    H_BLOCK,
    H_CTA_RATE,
    H_CTA_START,
    H_CTAS_PER_SM,
    H_END,
    H_ERROR,
    H_ERROR_CTA,
    H_ERROR_PC,
    H_ERROR_VALUE,
    H_ERROR_WARP,
    H_FAILED_SM,
    H_FOUND,
    H_GRID,
    H_IN_FLIGHT,
    H_LIVE_CTAS,
    H_LOG_CYCLES,
    H_LOG_USED,
    H_NEXT_CTA,
    H_NEXT_SM,
    H_NOW,
    H_POISON_WORDS,
    H_REGISTERS,
    H_REGISTERS_PER_SM,
    H_SHARED,
    H_SHARED_WORDS,
    H_SM_NEXT,
    H_SM_STOP,
    H_SMS,
    H_START_OF_WINDOW,
    H_TOUCHED,
    H_TRACE,
    H_U_POISON,
    H_U_REGISTERS,
    H_U_SHARED,
    H_WARPS,
    H_WINDOW,
    HEADER,
    LIVE,
    NEVER,
    ORDER,
    R_LAUNCH,
    R_NO_WARP,
    SM_ACTIVE_SINCE,
    SM_ANSWER,
    SM_ANSWER_LAST,
    SM_ARRIVED,
    SM_BITS,
    SM_BULK_NEXT,
    SM_COUNTERS,
    SM_CTA,
    SM_CTA_START,
    SM_ENDED,
    SM_ISSUED,
    SM_LIVE_CTAS,
    SM_LSU_NEXT,
    SM_WARPS,
    SUB,
    SUB_LIVE,
    SUB_NEXT,
    SUB_REASONS,
    SUB_SINCE,
    SUB_SIZE,
    SUB_TOP,
    SUB_WAKE,
    W_AGE,
    W_CLOSED,
    W_CTA,
    W_GROUP_COUNT,
    W_GROUP_TIME,
    W_PC,
    W_PENDING,
    W_PENDING_TIME,
    W_POISON,
    W_REGISTERS,
    W_RETIRED,
    W_SCORE,
    W_SHARED,
    W_SLOT,
    W_STATE,
    W_STORES,
    W_TIME,
    W_WAITS,
    W_WARP,
    WARP,
)
from emulator.gpu.lsu import lsu_step, respond
from emulator.gpu.memory_layout import TRACE
from emulator.gpu.timing import MAX_WARPS
from emulator.gpu.tracing import trace_empty
from emulator.gpu.wake import wake
from emulator.trace_record import full
from isa.jit import njit, prefetcher

prefetch = prefetcher()

DONE, MORE, FAILED = 0, 1, 2  # what run_kernel returns


@njit
def _start_cta(S, U, sm, base, t):
    """Place the next CTA in the lowest free CTA slot of an SM."""
    cta = 0
    while S[base + SM_CTA + cta] > 0:
        cta += 1
    warps, registers = S[H_WARPS], S[H_REGISTERS]
    S[base + SM_CTA + cta], S[base + SM_CTA_START + cta] = warps, t
    S[base + SM_ARRIVED + cta] = 0
    if S[base + SM_LIVE_CTAS] == 0:
        S[base + SM_ACTIVE_SINCE] = t
    S[base + SM_LIVE_CTAS] += 1
    S[H_LIVE_CTAS] += 1
    S[base + SM_COUNTERS + C_CTAS] += 1
    number = S[H_NEXT_CTA]
    S[H_NEXT_CTA] += 1
    shared = S[H_SHARED]
    lines = (shared + 127) // 128
    u_shared = S[H_U_SHARED] + sm * S[H_SHARED_WORDS] + cta * lines * 32
    u_poison = S[H_U_POISON] + sm * S[H_POISON_WORDS] + cta * lines
    for i in range(lines * 32):
        U[u_shared + i] = 0
    for i in range(lines):
        U[u_poison + i] = 0
    for i in range(warps):
        slot = cta * warps + i
        s = base + SUB + (slot & 3) * SUB_SIZE
        w = base + SM_WARPS + slot * WARP
        S[w + W_STATE], S[w + W_PC], S[w + W_CTA], S[w + W_SLOT], S[w + W_WARP] = LIVE, 0, number, slot, i
        S[w + W_TIME] = (t + S[H_CTA_START]) * 16 + R_LAUNCH
        S[w + W_AGE] = number * warps + i
        S[base + SM_ISSUED + slot] = t - 1
        S[w + W_REGISTERS] = S[H_U_REGISTERS] + sm * S[H_REGISTERS_PER_SM] + slot * registers * 32
        S[w + W_SHARED], S[w + W_POISON] = u_shared, u_poison
        S[w + W_PENDING], S[w + W_PENDING_TIME] = 0, 0
        S[w + W_CLOSED], S[w + W_RETIRED], S[w + W_WAITS], S[w + W_STORES] = 0, 0, 0, 0
        S[w + W_GROUP_COUNT], S[w + W_GROUP_TIME] = 0, 0
        for slot_number in range(registers):
            S[w + W_SCORE + slot_number] = EMPTY * 4
        for slot_number in range(PRED0, PRED0 + 7):
            S[w + W_SCORE + slot_number] = EMPTY * 4
        for slot_number in range(UREG0, UREG0 + 63):
            S[w + W_SCORE + slot_number] = EMPTY * 4
        if S[s + SUB_LIVE] == 0:
            S[s + SUB_REASONS + R_NO_WARP] += t - S[s + SUB_SINCE]
            if S[H_TRACE] != 0:
                trace_empty(S, sm, slot & 3, S[s + SUB_SINCE], t)
            S[s + SUB_SINCE] = t
        S[s + SUB_LIVE] += 1
        S[s + SUB_TOP] = max(S[s + SUB_TOP], (slot >> 2) + 1)
        S[s + SUB_WAKE + (slot >> 2)] = NEVER
        wake(S, base, slot, t + S[H_CTA_START])


@njit
def _room(S, sm):
    """Whether an SM could take a CTA that waits for one."""
    return S[H_NEXT_CTA] < S[H_GRID] and S[HEADER + sm * S[H_BLOCK] + SM_LIVE_CTAS] < S[H_CTAS_PER_SM]


@njit
def _dispatch(S, U, t):
    """Place up to the chip's number of CTAs at cycle t, one an SM in turn, on SMs that wait with room."""
    sm = S[H_NEXT_SM]
    placed, passed = 0, 0
    while placed < S[H_CTA_RATE] and passed < S[H_SMS] and S[H_NEXT_CTA] < S[H_GRID]:
        if S[H_SM_STOP + sm] == 2 * t + DISPATCH and _room(S, sm):
            _start_cta(S, U, sm, HEADER + sm * S[H_BLOCK], t)
            S[H_NEXT_SM] = sm + 1 if sm + 1 < S[H_SMS] else 0
            placed += 1
            passed = 0
        else:
            passed += 1
        sm = sm + 1 if sm + 1 < S[H_SMS] else 0


@njit
def _next_of(S, base):
    """Earliest cycle at which an SM can do something by itself."""
    time = min(S[base + SM_LSU_NEXT], S[base + SM_BULK_NEXT])
    for sub in range(4):
        time = min(time, S[base + SUB + sub * SUB_SIZE + SUB_NEXT])
    return time


@njit
def _run_sm(S, U, F, D, sm, t, end, ordered):
    """Run one SM from cycle t up to cycle `end`, or to where it has to wait for the others (H_SM_STOP)."""
    base = HEADER + sm * S[H_BLOCK]
    S[H_SM_STOP + sm] = NEVER
    answer = S[base + SM_ANSWER]
    time = _next_of(S, base)
    if answer >= 0:
        time = min(time, S[answer + 1])
    t = max(t, time)
    while t < end:
        while answer >= 0 and S[answer + 1] <= t:
            respond(S, sm, base, S[answer + 2], t)
            answer = S[answer]
        S[base + SM_ANSWER] = answer
        if S[base + SM_BULK_NEXT] <= t:
            bulk_complete(S, U, sm, base, t)
        for sub in range(4):
            if S[base + SUB + sub * SUB_SIZE + SUB_NEXT] <= t and S[H_ERROR] == NONE:
                if issue(S, U, F, D, sm, base, sub, t, ordered) < 0:
                    S[H_SM_NEXT + sm] = t
                    S[H_SM_STOP + sm] = 2 * t + ORDER
                    return
        if S[base + SM_LSU_NEXT] <= t and S[H_ERROR] == NONE:
            lsu_step(S, U, sm, base, t)
        if S[H_ERROR] != NONE:
            S[H_NOW] = t
            return
        if S[base + SM_BULK_NEXT] <= t:
            bulk_step(S, sm, base, t)
        time = _next_of(S, base)
        if answer >= 0:
            time = min(time, S[answer + 1])
        if S[base + SM_ENDED]:
            S[base + SM_ENDED] = 0
            if _room(S, sm):
                end = t + 1
        t = max(time, t + 1)
    S[H_SM_NEXT + sm] = t
    if _room(S, sm):
        S[H_SM_STOP + sm] = 2 * end + DISPATCH


@njit
def _answers(S, M, end):
    """Hand the responses that are due before cycle `end` to their SMs."""
    a = S[H_ANSWERS]
    while True:
        t = memory.next_event(M)
        if t >= end:
            break
        tag = memory.pop_response(M, t)
        while tag >= 0:
            sm = tag & (1 << SM_BITS) - 1
            base = HEADER + sm * S[H_BLOCK]
            S[a], S[a + 1], S[a + 2] = -1, t, tag >> SM_BITS
            if S[base + SM_ANSWER] < 0:
                S[base + SM_ANSWER] = a
                S[H_SM_NEXT + sm] = min(S[H_SM_NEXT + sm], t)
            else:
                S[S[base + SM_ANSWER_LAST]] = a
            S[base + SM_ANSWER_LAST] = a
            a += ANSWER
            tag = memory.pop_response(M, t)


@njit
def _pass_on(S, M, start, end):
    """Pass what the SMs have asked for in a window to the memory system, in the order of cycle and SM."""
    if S[H_LOG_USED] == 0:
        return
    S[H_LOG_USED] = 0
    for t in range(start, end):
        cycle = S[H_LOG_CYCLES] + 2 * (t - start)
        a = S[cycle]
        if a >= 0:
            S[cycle] = -1
            while a >= 0:
                flags = S[a + 1]
                memory.request(M, t, flags >> 5, S[a + 2], flags & 15, flags >> 4 & 1, S[a + 3])
                a = S[a]


@njit
def _expect(S, sm):
    """An SM will be run soon: what it needs in every window is brought near."""
    base = HEADER + sm * S[H_BLOCK]
    for at in range(base, base + SUB + 4 * SUB_SIZE, 8):
        prefetch(S, at)
    for warp in range(S[H_WARPS] * S[H_CTAS_PER_SM]):
        w = base + SM_WARPS + warp * WARP
        prefetch(S, w)
        prefetch(S, w + 8)
        for at in range(w + W_SCORE, w + W_SCORE + S[H_REGISTERS], 8):
            prefetch(S, at)


@njit
def _run_window(S, U, F, D, M, start, end):
    """Run every SM from cycle `start` up to `end`; returns an error number.

    SMs meet where the order of all of them matters: when a CTA is placed, and for ATOM and LDCG. The SM that
    stopped first goes on first, the lower one in the same cycle. After an error only what lies before it is run.
    """
    failed = NEVER
    for sm in range(S[H_TOUCHED]):
        last = min(end, failed)
        if S[H_SM_STOP + sm] == NEVER and S[H_SM_NEXT + sm] < last:
            _expect(S, sm + 1)
            _run_sm(S, U, F, D, sm, max(start, S[H_SM_NEXT + sm]), last, -1)
            if S[H_ERROR] != NONE:
                failed = _note_failure(S, sm)
    while True:
        first, who = NEVER, -1
        for sm in range(S[H_TOUCHED]):
            stop = S[H_SM_STOP + sm]
            if stop < first and stop >> 1 < min(end, failed + (sm < S[H_FAILED_SM])):
                first, who = stop, sm
        if who < 0:
            break
        t = first >> 1
        if first & 1 == ORDER:
            land_until(S, U, M, t)
            _run_sm(S, U, F, D, who, t, min(end, failed + (who < S[H_FAILED_SM])), t)
            if S[H_ERROR] != NONE:
                failed = _note_failure(S, who)
            continue
        _dispatch(S, U, t)
        for sm in range(S[H_TOUCHED]):
            if S[H_SM_STOP + sm] == first:
                last = min(end, failed + (sm < S[H_FAILED_SM]))
                _run_sm(S, U, F, D, sm, t, t + 1 if _room(S, sm) else last, -1)
                if S[H_ERROR] != NONE:
                    failed = _note_failure(S, sm)
    return failed


@njit
def _deadlock(S):
    """Blame the first warp that waits for an mbarrier, in the cycle of its sub-core's last issue."""
    for sm in range(S[H_SMS]):
        for slot in range(MAX_WARPS):
            base = HEADER + sm * S[H_BLOCK]
            w = base + SM_WARPS + slot * WARP
            if S[w + W_STATE] == LIVE and S[w + W_WAITS] > 0:
                S[H_ERROR], S[H_ERROR_VALUE], S[H_ERROR_PC] = DEADLOCK, S[w + W_WAITS] - 1, S[w + W_PC] - 1
                S[H_ERROR_CTA], S[H_ERROR_WARP] = S[w + W_CTA], S[w + W_WARP]
                S[H_NOW] = S[base + SUB + (slot & 3) * SUB_SIZE + SUB_SINCE] - 1
                return


@njit
def _note_failure(S, sm):
    """Keep an error that H_ERROR... describe; the cycle in which it happened."""
    S[H_FOUND] = S[H_ERROR]
    S[H_ERROR] = NONE
    S[H_FAILED_SM] = sm
    return S[H_NOW]


@njit
def run_kernel(S, U, F, D, M, budget):
    """Run the launch that is set up in S from cycle H_NOW on.

    Returns DONE (H_NOW is the first cycle after the kernel), MORE (after `budget` windows, or when the room for
    recorded events is used up; call again)
    or FAILED (H_ERROR... say what and where).
    """
    t = S[H_NOW]
    for _ in range(budget):
        memory.advance(M, t)
        end = min(memory.horizon(M, t), t + S[H_WINDOW])
        S[H_START_OF_WINDOW] = t
        _answers(S, M, end)
        recycle(S)
        failed = _run_window(S, U, F, D, M, t, end)
        if failed < NEVER:
            S[H_ERROR], S[H_NOW] = S[H_FOUND], failed
            return FAILED
        land_until(S, U, M, end - 1)
        _pass_on(S, M, t, end)
        if S[H_LIVE_CTAS] == 0 and S[H_NEXT_CTA] == S[H_GRID] and S[H_IN_FLIGHT] == 0:
            S[H_NOW] = S[H_END]
            return DONE
        following = memory.next_event(M)
        for sm in range(S[H_TOUCHED]):
            following = min(following, S[H_SM_NEXT + sm], S[H_SM_STOP + sm] >> 1)
        if following >= NEVER >> 1:
            _deadlock(S)
            return FAILED
        t = max(following, end)
        if S[H_TRACE] != 0 and (full(S, S[H_TRACE]) or full(M, M[TRACE])):
            break
    S[H_NOW] = t
    return MORE
