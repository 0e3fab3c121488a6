"""A sub-core's scheduler: which warp can issue when, what it issues, and whose fault a skipped cycle is."""

from __future__ import annotations

from emulator.gpu.decode import (
    D_CHECK0,
    D_CHECKS,
    D_COLUMNS,
    D_IMM,
    D_INTERVAL,
    D_KIND,
    D_NEGATED,
    D_PRED,
    D_UNIT,
    K_ATOM,
    K_BAR,
    K_COMMIT,
    K_COPY,
    K_EXIT,
    K_LDCG,
    K_LDG,
    K_MBINIT,
    K_MEMBAR,
    K_STG,
    K_STS,
    K_WAIT,
)
from emulator.gpu.errors import COPY_GROUPS, NONE
from emulator.gpu.execute import execute
from emulator.gpu.layout import (
    AT_BARRIER,
    C_ACTIVE,
    C_INSTRUCTIONS,
    ENTRY,
    FREE,
    GROUPS,
    H_BARRIER,
    H_END,
    H_EPOCH,
    H_ERROR,
    H_ERROR_CTA,
    H_ERROR_PC,
    H_ERROR_WARP,
    H_IN_FLIGHT,
    H_LIVE_CTAS,
    H_QUEUE,
    H_SUB_INTERVAL,
    H_TRACE,
    H_WARPS,
    LIVE,
    NEVER,
    Q_GROUP,
    Q_LINES,
    Q_PHASES,
    Q_SLOT,
    Q_TIME,
    R_BARRIER,
    R_COPY,
    R_FIXED,
    R_GLOBAL,
    R_QUEUE,
    R_UNIT,
    SM_ACTIVE_SINCE,
    SM_ARRIVED,
    SM_COUNTERS,
    SM_CTA,
    SM_ENDED,
    SM_ENTRIES,
    SM_EPOCH,
    SM_LIVE_CTAS,
    SM_LSU_FREE,
    SM_LSU_NEXT,
    SM_WARPS,
    SUB,
    SUB_BLOCKED,
    SUB_COUNT,
    SUB_FREE,
    SUB_HEAD,
    SUB_LAST,
    SUB_LIVE,
    SUB_NEXT,
    SUB_REASONS,
    SUB_SINCE,
    SUB_SIZE,
    SUB_SPACE,
    SUB_SURE,
    SUB_TAKEN,
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
    W_PREDICATES,
    W_RETIRED,
    W_SCORE,
    W_SLOT,
    W_STATE,
    W_STORES,
    W_TIME,
    W_WARP,
    WARP,
)
from emulator.gpu.lsu import retire_groups
from emulator.gpu.timing import CONTROL, LSU, MAX_OPEN_GROUPS, MAX_QUEUE
from emulator.gpu.tracing import trace_before, trace_cta, trace_issue, trace_stall
from emulator.gpu.wake import wake
from isa.jit import njit


@njit
def ready_time(S, D, s, w, t):
    """Earliest cycle at which a warp could issue: t if it can now, NEVER if only an event can tell."""
    if S[w + W_STATE] != LIVE:
        return NEVER
    time = S[w + W_TIME] >> 4
    row = S[w + W_PC] * D_COLUMNS
    for i in range(D[row + D_CHECKS]):
        at = S[w + W_SCORE + D[row + D_CHECK0 + i]] >> 4
        if at > time:
            time = at
    if time > t:
        return min(time, NEVER)
    kind = D[row + D_KIND]
    if kind == K_WAIT:
        group = S[w + W_CLOSED] - D[row + D_IMM]
        if group > 0:
            if S[w + W_RETIRED] < group:
                return NEVER
            time = S[w + W_GROUP_TIME + (group - 1) % GROUPS]
            if time > t:
                return time
    elif kind == K_MEMBAR:
        if S[w + W_STORES] > 0:
            return NEVER
    elif kind == K_EXIT:
        if S[w + W_PENDING] > 0:
            return NEVER
        if S[w + W_PENDING_TIME] > t:
            return S[w + W_PENDING_TIME]
    unit = D[row + D_UNIT]
    if unit < LSU:
        return max(t, S[s + SUB_FREE + unit])
    if unit == LSU:
        if S[s + SUB_COUNT] >= S[H_QUEUE]:
            S[s + SUB_BLOCKED] |= 1 << (S[w + W_SLOT] >> 2)
            return NEVER
        return max(t, S[s + SUB_SPACE])
    return t


@njit
def reason_at(S, D, s, w, t):
    """Why a warp that has become ready could not issue at cycle t: the first condition that did not hold."""
    if S[w + W_TIME] >> 4 > t:
        return S[w + W_TIME] & 15
    row = S[w + W_PC] * D_COLUMNS
    for i in range(D[row + D_CHECKS]):
        score = S[w + W_SCORE + D[row + D_CHECK0 + i]]
        if score >> 4 > t:
            return R_FIXED + (score & 3)
    if D[row + D_KIND] == K_WAIT:
        group = S[w + W_CLOSED] - D[row + D_IMM]
        if group > 0 and S[w + W_GROUP_TIME + (group - 1) % GROUPS] > t:
            return R_COPY
    if D[row + D_KIND] == K_EXIT and S[w + W_PENDING_TIME] > t or D[row + D_KIND] == K_MEMBAR:
        return R_GLOBAL
    return R_UNIT if D[row + D_UNIT] < LSU else R_QUEUE


@njit
def _release(S, sm, base, cta, t):
    """Let the CTA's warps go on when all that live are at the barrier."""
    warps = S[H_WARPS]
    if S[base + SM_CTA + cta] == 0 or S[base + SM_ARRIVED + cta] < S[base + SM_CTA + cta]:
        return
    S[base + SM_ARRIVED + cta] = 0
    for i in range(warps):
        slot = cta * warps + i
        w = base + SM_WARPS + slot * WARP
        if S[w + W_STATE] == AT_BARRIER:
            S[w + W_STATE] = LIVE
            S[w + W_TIME] = (t + S[H_BARRIER]) * 16 + R_BARRIER
            wake(S, base, slot, t + S[H_BARRIER])


@njit
def _control(S, sm, base, s, w, kind, t):
    """BAR, EXIT, MEMBAR and CPCOMMIT; returns an error number."""
    slot = S[w + W_SLOT]
    cta = slot // S[H_WARPS]
    if kind == K_BAR:
        S[w + W_STATE] = AT_BARRIER
        S[base + SM_ARRIVED + cta] += 1
        _release(S, sm, base, cta, t)
    elif kind == K_EXIT:
        S[w + W_STATE] = FREE
        S[s + SUB_LIVE] -= 1
        S[s + SUB_LAST] = -1
        S[base + SM_CTA + cta] -= 1
        if S[base + SM_CTA + cta] == 0:
            S[base + SM_LIVE_CTAS] -= 1
            if S[base + SM_LIVE_CTAS] == 0:
                S[base + SM_COUNTERS + C_ACTIVE] += t + 1 - S[base + SM_ACTIVE_SINCE]
            S[H_LIVE_CTAS] -= 1
            S[base + SM_ENDED] = 1
            S[H_END] = max(S[H_END], t + 1)
            if S[H_TRACE] != 0:
                trace_cta(S, sm, base, w, cta, t)
        else:
            _release(S, sm, base, cta, t)
    elif kind == K_MEMBAR:
        S[H_EPOCH] += 1  # no two L1s need the same number
        S[base + SM_EPOCH] = S[H_EPOCH]
    elif kind == K_COMMIT:
        closed = S[w + W_CLOSED] + 1
        S[w + W_CLOSED] = closed
        S[w + W_GROUP_COUNT + closed % GROUPS] = 0
        S[w + W_GROUP_TIME + closed % GROUPS] = 0
        retire_groups(S, w)
        if closed - S[w + W_RETIRED] > MAX_OPEN_GROUPS:
            return COPY_GROUPS
    return NONE


@njit
def _queue(S, sm, base, s, w, e, kind, t):
    """Put the filled entry e at the end of the sub-core's queue."""
    S[e + Q_SLOT], S[e + Q_TIME] = S[w + W_SLOT], t
    if kind == K_STG or kind == K_STS or kind == K_MBINIT:
        S[H_IN_FLIGHT] += 1
        if kind == K_STG:
            S[e + Q_GROUP] = S[w + W_AGE]
            S[w + W_STORES] += 1
    elif kind == K_COPY:
        group = S[w + W_CLOSED]
        S[e + Q_GROUP] = group
        S[w + W_GROUP_COUNT + group % GROUPS] += S[e + Q_LINES]
        S[w + W_PENDING] += S[e + Q_LINES]
    else:
        S[w + W_PENDING] += 1
    if S[s + SUB_COUNT] == 0:
        time = max(t + 1, S[s + SUB_TAKEN] + S[H_SUB_INTERVAL], S[base + SM_LSU_FREE])
        time = max(time, t)
        if time < S[base + SM_LSU_NEXT]:
            S[base + SM_LSU_NEXT] = time
    S[s + SUB_COUNT] += 1


@njit
def issue(S, U, F, D, sm, base, sub, t, ordered):
    """Let one sub-core issue at cycle t if a warp can; returns an error number, or -1, with nothing done, when it
    is not the SM's turn for an instruction that acts in the order of all SMs (ordered: the cycle in which it is)."""
    s = base + SUB + sub * SUB_SIZE
    if S[s + SUB_LIVE] == 0:
        S[s + SUB_NEXT] = NEVER
        return NONE
    waited = t - S[s + SUB_SINCE]
    last = S[s + SUB_LAST]
    pick, lowest = -1, -1
    top = S[s + SUB_TOP]
    if waited == 0 and S[s + SUB_SURE] == t and last >= 0:
        pick = last
    elif waited == 0 and last >= 0 and S[s + SUB_WAKE + last] <= t:
        time = ready_time(S, D, s, base + SM_WARPS + (last * 4 + sub) * WARP, t)
        if time <= t:
            pick = last
        else:
            S[s + SUB_WAKE + last] = time
    if pick < 0:
        youngest = -1
        for i in range(top):
            if S[s + SUB_WAKE + i] > t:
                continue
            w = base + SM_WARPS + (i * 4 + sub) * WARP
            time = ready_time(S, D, s, w, t)
            if time > t:
                S[s + SUB_WAKE + i] = time
                continue
            if lowest < 0:
                lowest = i
            if i == last or (pick != last or pick < 0) and S[w + W_AGE] > youngest:
                pick, youngest = i, S[w + W_AGE]
    if pick < 0:
        S[s + SUB_NEXT] = _earliest(S, s, top)
        return NONE
    w = base + SM_WARPS + (pick * 4 + sub) * WARP
    pc = S[w + W_PC]
    kind, unit = D[pc * D_COLUMNS + D_KIND], D[pc * D_COLUMNS + D_UNIT]
    if (kind == K_ATOM or kind == K_LDCG) and t != ordered:
        return -1
    if waited > 0:
        reason = reason_at(S, D, s, base + SM_WARPS + (lowest * 4 + sub) * WARP, t - 1)
        S[s + SUB_REASONS + reason] += waited
        if S[H_TRACE] != 0:
            trace_stall(S, sm, sub, base + SM_WARPS + (lowest * 4 + sub) * WARP, t - waited, t, reason)
    S[s + SUB_REASONS] += 1
    S[s + SUB_SINCE] = t + 1
    S[s + SUB_LAST] = pick
    S[s + SUB_WAKE + pick] = NEVER  # told below
    S[base + SM_COUNTERS + C_INSTRUCTIONS] += 1
    if unit < LSU:
        S[s + SUB_FREE + unit] = t + D[pc * D_COLUMNS + D_INTERVAL]
    end = S[s + SUB_HEAD] + S[s + SUB_COUNT]
    end -= S[H_QUEUE] if end >= S[H_QUEUE] else 0
    e = base + SM_ENTRIES + (sub * MAX_QUEUE + end) * ENTRY
    before = trace_before(S, D, base, w, t) if S[H_TRACE] != 0 else 0
    error = execute(S, U, F, D, base, w, pc, t, e)
    if S[H_TRACE] != 0:
        trace_issue(S, D, sm, sub, base, w, pc, t, before)
    if error == NONE:
        if unit == CONTROL and _acts(S, D, w, pc):
            error = _control(S, sm, base, s, w, kind, t)
        elif kind >= K_LDG and S[e + Q_PHASES] > 0:
            _queue(S, sm, base, s, w, e, kind, t)
    if error != NONE:
        S[H_ERROR], S[H_ERROR_PC] = error, pc
        S[H_ERROR_CTA], S[H_ERROR_WARP] = S[w + W_CTA], S[w + W_WARP]
    # What comes in between makes a warp ready earlier, never later, unless another warp takes its unit.
    time = ready_time(S, D, s, w, t + 1)
    S[s + SUB_NEXT] = max(t + 1, min(time, _earliest(S, s, top)))
    S[s + SUB_WAKE + pick] = time
    S[s + SUB_SURE] = time
    return error


@njit
def _earliest(S, s, top):
    """When the first warp of a sub-core could issue, as far as its wake times tell."""
    earliest = NEVER
    for i in range(top):
        earliest = min(earliest, S[s + SUB_WAKE + i])
    return earliest


@njit
def _acts(S, D, w, pc):
    """Whether a guarded control instruction acts (its guard is the same in every lane)."""
    row = pc * D_COLUMNS
    mask = S[w + W_PREDICATES + D[row + D_PRED]]
    return (mask == 0) if D[row + D_NEGATED] else (mask != 0)
