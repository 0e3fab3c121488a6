"""The fast DRAM engine: one channel's controller on a flat int64 array, skipping idle cycles.

emulator/dram/naive.py defines the machine one cycle at a time; this does the same. emulator/dram/layout.py
names the words of the array. An entry is a line with a mask of its bursts. A pseudo-channel caches, for
reads or writes, whichever it serves:

    COL_T, COL_B   earliest cycle of its next column command, and the bank
    ROW_T, ROW_B   the same for ACT and PRE
    EVT_T          next refresh, or next arrival for which its queue has room

A cached command is exact if it is issued in that very cycle; issued later (a bus was taken), the
choice is made again; so it is (STALE) after whatever may have made another command possible.
"""

from __future__ import annotations

from emulator.dram.layout import (
    ACT_BUS,
    ACT_OK,
    AGE_CAP,
    AGED,
    B_ACT,
    B_COL,
    B_PRE,
    BANK_OFF,
    BANK_WORDS,
    BANKS,
    BIT,
    BURST,
    C_ACT,
    C_PRE,
    C_RD,
    C_REF,
    CCD_L,
    CCD_S,
    CH_BASE,
    CH_HEAD,
    CH_WORDS,
    CL,
    CLOSED,
    COL_B,
    COL_OK,
    COL_T,
    COUNT,
    CWL,
    CYCLE,
    E_AUX,
    E_BANK,
    E_MASK,
    E_NEXT,
    E_ROW,
    E_SEQ,
    E_TAG,
    E_TIME,
    EVT_T,
    FAW,
    FAW_I,
    FAW_RING,
    FIFO_HEAD,
    FIFO_TAIL,
    FREE,
    FRESH,
    GROUP,
    HIGH,
    HIT,
    INF,
    LAST_COL,
    LAST_ROW,
    LISTS,
    LOG,
    LOG_CAP,
    LOG_COLUMN,
    LOG_N,
    LOG_REFRESH,
    LOG_ROW,
    LOG_WORDS,
    LOW,
    MODE,
    N_ACT,
    N_PRE,
    N_RD,
    N_REF,
    N_ROW_HIT,
    N_WR,
    NONE,
    NPC,
    NUMBER,
    OPEN,
    OTHER,
    PC_ID,
    PC_WORDS,
    PENDING,
    PRE_BUS,
    Q_HEAD,
    Q_HIT,
    Q_LIST,
    Q_NEXT,
    Q_PREVIOUS,
    Q_SEQ,
    Q_TAIL,
    QUEUE,
    QUEUE_WORDS,
    RAS,
    RC,
    RCD_RD,
    RCD_WR,
    RD_CAP,
    REF_B,
    REF_T,
    REFI,
    RFC,
    ROW_B,
    ROW_FREE,
    ROW_T,
    RP,
    RRD_L,
    RRD_S,
    RTP,
    RTW,
    SEQ,
    SINK,
    STALE,
    STOP_WHEN_EMPTY,
    WR,
    WTR_L,
    WTR_S,
)
from isa.jit import njit


@njit
def push(S, D, pc, bank, row, mask, write, arrival, tag, aux):
    """Hand an entry to a pseudo-channel; arrivals of one pseudo-channel never go back in time."""
    npc = S[D + NPC]
    c = S[D + CH_BASE] + (pc // npc) * S[D + CH_WORDS]
    q = c + CH_HEAD + (pc % npc) * S[D + PC_WORDS]
    e = S[D + FREE]
    S[D + FREE] = S[e + E_NEXT]
    S[e + E_NEXT] = -1
    S[e + E_ROW] = row
    S[e + E_BANK] = 2 * bank + write
    S[e + E_MASK] = mask
    S[e + E_TIME] = arrival
    S[e + E_TAG] = tag
    S[e + E_AUX] = aux
    S[c + PENDING] += 1
    if S[q + FIFO_HEAD] < 0:
        S[q + FIFO_HEAD] = e
        if S[q + COUNT + write] < S[D + RD_CAP + write] and arrival < S[q + EVT_T]:
            S[q + EVT_T] = arrival
    else:
        S[S[q + FIFO_TAIL] + E_NEXT] = e
    S[q + FIFO_TAIL] = e


@njit
def _set_event(S, D, q, d):
    """Next cycle, d or later, with a refresh or an arrival that the queue can take."""
    t = S[q + REF_T]
    e = S[q + FIFO_HEAD]
    if e >= 0:
        k = S[e + E_BANK] & 1
        if S[q + COUNT + k] < S[D + RD_CAP + k]:
            t = min(t, max(d, S[e + E_TIME]))
    S[q + EVT_T] = t


@njit
def _set_mode(S, D, q):
    """Reads or writes? Writes from the high mark, or when no read waits, until the low mark."""
    reads = S[q + COUNT]
    writes = S[q + COUNT + 1]
    mode = S[q + MODE]
    if mode == 0:
        if writes >= S[D + HIGH] or (reads == 0 and writes > 0):
            mode = 1
    elif writes == 0 or (writes <= S[D + LOW] and reads > 0):
        mode = 0
    changed = mode != S[q + MODE]
    S[q + MODE] = mode
    return changed


@njit
def _place(S, q, bank, k, e):
    """Find the oldest hit of a bank's queue, from entry e on, and the list that the queue belongs to."""
    row = S[bank + OPEN]
    while e >= 0 and S[e + E_ROW] != row:
        e = S[e + E_NEXT]
    queue = bank + QUEUE + QUEUE_WORDS * k
    S[queue + Q_HIT] = e
    before = -1
    after = -1
    old = S[queue + Q_LIST]
    if old >= 0:
        before = S[queue + Q_PREVIOUS]
        after = S[queue + Q_NEXT]
        S[old if before < 0 else before + Q_NEXT] = after
        S[old + 1 if after < 0 else after + Q_PREVIOUS] = before
    head = S[queue + Q_HEAD]
    one = 1 << S[bank + NUMBER]
    S[q + AGED + k] = S[q + AGED + k] | one if e >= 0 and e != head else S[q + AGED + k] & ~one
    if head < 0:
        S[queue + Q_LIST] = -1
        return
    which = CLOSED if row < 0 else OTHER
    if e >= 0:
        which = HIT
        head = e
    seq = S[head + E_SEQ]
    new = q + LISTS + 6 * k + 2 * which
    if new != old:
        before = S[new + 1]
        after = -1
    while after >= 0 and S[after + Q_SEQ] < seq:
        before = after
        after = S[after + Q_NEXT]
    while before >= 0 and S[before + Q_SEQ] > seq:
        after = before
        before = S[before + Q_PREVIOUS]
    S[queue + Q_LIST] = new
    S[queue + Q_SEQ] = seq
    S[queue + Q_PREVIOUS] = before
    S[queue + Q_NEXT] = after
    S[new if before < 0 else before + Q_NEXT] = queue
    S[new + 1 if after < 0 else after + Q_PREVIOUS] = queue


@njit
def _scan_column(S, D, q, d):
    """Cache the earliest column command at or after d: of the oldest entry among those ready first."""
    k = S[q + MODE]
    base = max(d, S[q + COL_OK + k])
    best_t = INF
    best = -1
    queue = S[q + LISTS + 6 * k]
    while queue >= 0:
        bank = queue - QUEUE - QUEUE_WORDS * k
        t = max(base, S[bank + B_COL + k], S[S[bank + GROUP] + k])
        if t < best_t:
            head = S[queue + Q_HEAD]
            # An entry over the age cap owns its bank: younger hits have to wait.
            if head == S[queue + Q_HIT] or t - S[head + E_TIME] <= S[D + AGE_CAP]:
                best_t = t
                best = bank
                if t == base:
                    break
        queue = S[queue + Q_NEXT]
    S[q + COL_T] = best_t
    S[q + COL_B] = best


@njit
def _scan_row(S, D, q, d):
    """Cache the earliest ACT or PRE at or after d: for the oldest entry among those ready first."""
    k = S[q + MODE]
    best_t = INF
    best = -1
    best_seq = INF
    base = max(d, S[q + ACT_OK])
    queue = S[q + LISTS + 6 * k + 2 * CLOSED]
    while queue >= 0:
        bank = queue - QUEUE - QUEUE_WORDS * k
        t = max(base, S[bank + B_ACT], S[S[bank + GROUP] + 2])
        if t < best_t:
            best_t = t
            best = bank
            best_seq = S[queue + Q_SEQ]
            if t == base:
                break
        queue = S[queue + Q_NEXT]
    queue = S[q + LISTS + 6 * k + 2 * OTHER]
    while queue >= 0:
        bank = queue - QUEUE - QUEUE_WORDS * k
        t = max(d, S[bank + B_PRE])
        if t < best_t or (t == best_t and S[queue + Q_SEQ] < best_seq):
            best_t = t
            best = bank
            best_seq = S[queue + Q_SEQ]
        if t == d:
            break
        queue = S[queue + Q_NEXT]
    aged = S[q + AGED + k]
    while aged != 0:  # rare: hits, but the bank's oldest entry wants another row
        low = aged & -aged
        aged ^= low
        bank = q + S[D + BANK_OFF] + BIT[low % 67] * BANK_WORDS
        head = S[bank + QUEUE + QUEUE_WORDS * k + Q_HEAD]
        t = max(d, S[bank + B_PRE], S[head + E_TIME] + S[D + AGE_CAP] + 1)
        if t < best_t or (t == best_t and S[head + E_SEQ] < best_seq):
            best_t = t
            best = bank
            best_seq = S[head + E_SEQ]
    S[q + ROW_T] = best_t
    S[q + ROW_B] = best


@njit
def _intake(S, D, q, d):
    """Start of cycle d: the refresh that is due, then arrivals while there is room."""
    again = False  # the cached commands have to be found again
    if S[q + REF_T] <= d:
        again = True
        b = S[q + REF_B]
        bank = q + S[D + BANK_OFF] + b * BANK_WORDS
        start = max(d, S[bank + B_ACT])
        if S[bank + OPEN] >= 0:  # closes at once, with the waits of a precharge
            start = max(start, max(d, S[bank + B_PRE]) + S[D + RP])
        S[bank + B_ACT] = start + S[D + RFC]
        S[bank + OPEN] = -1
        S[bank + FRESH] = 0
        for k in range(2):
            _place(S, q, bank, k, NONE)
        S[D + N_REF] += 1
        S[q + REF_B] = b + 1 if b + 1 < S[D + BANKS] else 0
        S[q + REF_T] += S[D + REFI]
    mode = S[q + MODE]
    e = S[q + FIFO_HEAD]
    while e >= 0:
        k = S[e + E_BANK] & 1
        if S[e + E_TIME] > d or S[q + COUNT + k] >= S[D + RD_CAP + k]:
            break
        after = S[e + E_NEXT]
        S[q + COUNT + k] += 1
        S[e + E_NEXT] = -1
        S[e + E_TIME] = d
        S[e + E_SEQ] = S[q + SEQ]
        S[q + SEQ] += 1
        bank = q + S[D + BANK_OFF] + (S[e + E_BANK] >> 1) * BANK_WORDS
        queue = bank + QUEUE + QUEUE_WORDS * k
        first = S[queue + Q_HEAD] < 0
        if first:
            S[queue + Q_HEAD] = e
        else:
            S[S[queue + Q_TAIL] + E_NEXT] = e
        S[queue + Q_TAIL] = e
        new_hit = S[queue + Q_HIT] < 0 and S[bank + OPEN] == S[e + E_ROW]
        if new_hit or first:
            _place(S, q, bank, k, e)
        # The youngest entry changes a cached command only if it can go before it.
        if k == mode and not again:
            if new_hit and not first:
                again = True
            elif new_hit:
                t = max(d, S[q + COL_OK + k], S[bank + B_COL + k], S[S[bank + GROUP] + k])
                if t < S[q + COL_T]:
                    S[q + COL_T] = t
                    S[q + COL_B] = bank
            elif first:
                t = max(d, S[bank + B_PRE])
                if S[bank + OPEN] < 0:
                    t = max(d, S[bank + B_ACT], S[q + ACT_OK], S[S[bank + GROUP] + 2])
                if t < S[q + ROW_T]:
                    S[q + ROW_T] = t
                    S[q + ROW_B] = bank
        e = after
    S[q + FIFO_HEAD] = e
    if _set_mode(S, D, q) or again:
        S[q + COL_T] = STALE
        S[q + ROW_T] = STALE
    _set_event(S, D, q, d + 1)


@njit
def _column(S, D, c, q, d):
    """Issue the cached RD or WR in cycle d; after an entry's last burst it leaves for the sink."""
    k = S[q + MODE]
    bank = S[q + COL_B]
    group = S[bank + GROUP]
    queue = bank + QUEUE + QUEUE_WORDS * k
    e = S[queue + Q_HIT]
    mask = S[e + E_MASK] & (S[e + E_MASK] - 1)
    S[e + E_MASK] = mask
    S[q + COL_T] = STALE
    S[q + COL_OK + k] = d + S[D + CCD_S]
    S[group + k] = d + S[D + CCD_L]
    if k == 0:
        S[D + N_RD] += 1
        S[q + COL_OK + 1] = max(S[q + COL_OK + 1], d + S[D + RTW])
        S[bank + B_PRE] = max(S[bank + B_PRE], d + S[D + RTP])
    else:
        S[D + N_WR] += 1
        end = d + S[D + CWL] + S[D + BURST]
        S[q + COL_OK] = max(S[q + COL_OK], end + S[D + WTR_S])
        S[group] = max(S[group], end + S[D + WTR_L])
        S[bank + B_PRE] = max(S[bank + B_PRE], end + S[D + WR])
    S[D + N_ROW_HIT] += 1 - S[bank + FRESH]
    S[bank + FRESH] = 0
    first = S[queue + Q_HEAD] == e
    if not first:
        S[q + ROW_T] = STALE
    if mask != 0:
        return
    after = S[e + E_NEXT]
    if first:
        S[queue + Q_HEAD] = after
        if after < 0:
            S[queue + Q_TAIL] = -1
    else:
        before = S[queue + Q_HEAD]
        while S[before + E_NEXT] != e:
            before = S[before + E_NEXT]
        S[before + E_NEXT] = after
        if after < 0:
            S[queue + Q_TAIL] = before
    _place(S, q, bank, k, after)  # older ones do not hit: e was the oldest that did
    S[q + COUNT + k] -= 1
    S[c + PENDING] -= 1
    S[e + E_NEXT] = -1
    S[e + E_TIME] = d + S[D + CL + k] + S[D + BURST]
    sink = S[q + SINK] + 2 * k
    if S[sink] < 0:
        S[sink] = e
    else:
        S[S[sink + 1] + E_NEXT] = e
    S[sink + 1] = e
    _set_event(S, D, q, d + 1)
    if _set_mode(S, D, q) or S[queue + Q_HIT] != S[queue + Q_HEAD]:
        S[q + ROW_T] = STALE


@njit
def _row(S, D, c, q, d):
    """Issue the cached ACT or PRE in cycle d."""
    k = S[q + MODE]
    bank = S[q + ROW_B]
    S[q + ROW_T] = STALE
    S[q + COL_T] = STALE
    if S[bank + OPEN] < 0:
        S[bank + OPEN] = S[S[bank + QUEUE + QUEUE_WORDS * k + Q_HEAD] + E_ROW]
        S[bank + FRESH] = 1
        S[bank + B_COL] = d + S[D + RCD_RD]
        S[bank + B_COL + 1] = d + S[D + RCD_WR]
        S[bank + B_PRE] = d + S[D + RAS]
        S[bank + B_ACT] = d + S[D + RC]
        S[q + FAW_RING + S[q + FAW_I]] = d
        S[q + FAW_I] = (S[q + FAW_I] + 1) & 3
        S[q + ACT_OK] = max(d + S[D + RRD_S], S[q + FAW_RING + S[q + FAW_I]] + S[D + FAW])
        S[S[bank + GROUP] + 2] = d + S[D + RRD_L]
        S[c + ROW_FREE] = d + S[D + ACT_BUS]
        S[D + N_ACT] += 1
    else:
        S[bank + OPEN] = -1
        S[bank + FRESH] = 0
        S[bank + B_ACT] = max(S[bank + B_ACT], d + S[D + RP])
        S[c + ROW_FREE] = d + S[D + PRE_BUS]
        S[D + N_PRE] += 1
    for side in range(2):
        _place(S, q, bank, side, S[bank + QUEUE + QUEUE_WORDS * side + Q_HEAD])


@njit
def _record(S, D, d, q, kind):
    """Log the command of a kind that the pseudo-channel issues next."""
    n = S[D + LOG_N]
    S[D + LOG_N] = n + 1
    if n >= S[D + LOG_CAP]:
        return
    k = S[q + MODE]
    bank = S[q + ROW_B]
    what = 0
    if kind == LOG_ROW:
        command = C_PRE
        if S[bank + OPEN] < 0:
            command = C_ACT
            what = S[S[bank + QUEUE + QUEUE_WORDS * k + Q_HEAD] + E_ROW]
    elif kind == LOG_COLUMN:
        bank = S[q + COL_B]
        command = C_RD + k
        mask = S[S[bank + QUEUE + QUEUE_WORDS * k + Q_HIT] + E_MASK]
        what = BIT[mask & -mask]
    else:
        command = C_REF
        bank = q + S[D + BANK_OFF] + S[q + REF_B] * BANK_WORDS
    at = S[D + LOG] + n * LOG_WORDS
    S[at] = d
    S[at + 1] = S[q + PC_ID]
    S[at + 2] = command
    S[at + 3] = S[bank + NUMBER]
    S[at + 4] = what


@njit
def run_channel(S, D, channel, until):
    """Run one channel through DRAM cycle `until`. Finished entries are appended to the sinks."""
    c = S[D + CH_BASE] + channel * S[D + CH_WORDS]
    npc = S[D + NPC]
    step = S[D + PC_WORDS]
    first = c + CH_HEAD
    last = first + npc * step
    stop = S[D + STOP_WHEN_EMPTY]
    log = S[D + LOG_CAP] > 0
    d = S[c + CYCLE]
    while stop == 0 or S[c + PENDING] > 0:
        t = INF
        for q in range(first, last, step):
            if S[q + COL_T] < d:
                _scan_column(S, D, q, d)
            if S[q + ROW_T] < d:
                _scan_row(S, D, q, d)
            t = min(t, S[q + EVT_T], S[q + COL_T], max(S[q + ROW_T], S[c + ROW_FREE]))
        d = max(d, t)
        if d > until:
            break
        again = False
        for q in range(first, last, step):
            if S[q + EVT_T] <= d:
                if log and S[q + REF_T] <= d:
                    _record(S, D, d, q, LOG_REFRESH)
                _intake(S, D, q, d)
                again = True
        if again:
            continue
        # One column command: the pseudo-channels take turns when both could.
        q = first + S[c + LAST_COL] * step
        for _ in range(npc):
            q = q + step if q + step < last else first
            if S[q + COL_T] == d:
                if log:
                    _record(S, D, d, q, LOG_COLUMN)
                _column(S, D, c, q, d)
                S[c + LAST_COL] = (q - first) // step
                break
        # One row command, when the bus is free.
        if S[c + ROW_FREE] <= d:
            q = first + S[c + LAST_ROW] * step
            for _ in range(npc):
                q = q + step if q + step < last else first
                if S[q + ROW_T] < d:
                    _scan_row(S, D, q, d)
                if S[q + ROW_T] == d:
                    if log:
                        _record(S, D, d, q, LOG_ROW)
                    _row(S, D, c, q, d)
                    S[c + LAST_ROW] = (q - first) // step
                    break
        d += 1
    S[c + CYCLE] = max(S[c + CYCLE], min(d, until + 1))
