"""The fast DRAM engine: one channel's controller on a flat int64 array, skipping idle cycles.

emulator/dram/naive.py defines the machine one cycle at a time; this does the same. emulator/dram/layout.py
names the words of the array. An entry is a line with a mask of its bursts. A pseudo-channel caches, for
reads or writes, whichever it serves:

    COL_T, COL_B, COL_AGE   earliest cycle of its next column command, the bank, and the age of its entry
    ACT_T, ACT_B, ACT_AGE   the same for ACT,
    PRE_T, PRE_B, PRE_AGE   and for PRE
    EVT_T                   next refresh, or next arrival for which its queue has room
    NEXT_T                  the first of all these

A cached command is exact if it is issued in that very cycle; issued later (a bus was taken), the choice
is made again. What makes one more command possible is compared with the cached one; what takes the cached
one away makes it STALE, and the banks are looked through. A pseudo-channel's refreshes and arrivals touch
nothing outside of it, so they are done ahead of time when they come before its own next command.
"""

from __future__ import annotations

from emulator.dram.layout import (
    ACT_AGE,
    ACT_B,
    ACT_BUS,
    ACT_OK,
    ACT_T,
    AGE_AT,
    AGED,
    B_ACT,
    B_COL,
    B_PRE,
    BANK_BITS,
    BANK_WORDS,
    BANKS,
    BANKS_END,
    BURST,
    BURSTS_READ,
    BURSTS_WRITTEN,
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
    CLOCK,
    CLOCK_DRAM,
    CLOSED,
    COL_AGE,
    COL_B,
    COL_OK,
    COL_T,
    COUNT,
    CYCLE,
    E_BANK,
    E_MASK,
    E_NEXT,
    E_ROW,
    E_SEQ,
    E_TIME,
    EVENTS_AT,
    EVT_T,
    FAW,
    FAW_I,
    FAW_RING,
    FIFO_HEAD,
    FIRST_UNIT,
    FRESH,
    G_ACT,
    G_COL,
    GROUP,
    HITS,
    HUNGRY,
    INF,
    INTAKE_T,
    LAST_COL,
    LAST_ROW,
    LOG,
    LOG_CAP,
    LOG_N,
    LOG_WORDS,
    MODE,
    MORE,
    N_ACT,
    N_PRE,
    N_RD,
    N_REF,
    N_ROW_HIT,
    N_WR,
    NEXT_T,
    NPC,
    OPEN,
    OPENED,
    OPENING_WORDS,
    OPENINGS,
    OTHER,
    PC_HEAD,
    PC_ID,
    PC_WORDS,
    PENDING,
    PRE_AGE,
    PRE_B,
    PRE_BUS,
    PRE_T,
    Q_AGE,
    Q_HEAD,
    Q_HIT,
    Q_HIT_AGE,
    Q_TAIL,
    RAS,
    RC,
    RCD_RD,
    RCD_WR,
    RD_CAP,
    REF_ALL,
    REF_B,
    REF_T,
    REFI,
    RFC,
    ROW_FREE,
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
from emulator.dram.queues import (
    act_time,
    add_hit,
    close,
    column_time,
    drop_hit,
    find_hit,
    forget,
    lowest,
    maybe_column,
    maybe_row,
    push,
    scan_act,
    scan_column,
    scan_pre,
    set_event,
    set_mode,
)
from emulator.trace import KIND_INDEX
from emulator.trace_record import record
from isa.jit import inlined, njit

HBM_READ = KIND_INDEX["hbm_read"]  # hbm_write follows
BURST_BYTES = 32  # of a GPU's DRAM; no other one is traced

__all__ = ["push", "run_channel"]


@njit
def _refresh(S, D, q, d):
    """The refresh that is due, of one bank or of all: open rows close at once, with the waits of a precharge."""
    first = q + PC_HEAD + S[q + REF_B] * BANK_WORDS
    last = first + BANK_WORDS
    if S[D + REF_ALL]:
        last = q + S[D + BANKS_END]
    elif last < q + S[D + BANKS_END]:
        S[q + REF_B] += 1
    else:
        S[q + REF_B] = 0
    start = d
    bank = first
    while bank < last:
        start = max(start, S[bank + B_ACT])
        if S[bank + OPEN] >= 0:
            start = max(start, max(d, S[bank + B_PRE]) + S[D + RP])
        bank += BANK_WORDS
    end = start + S[D + RFC]
    bank = first
    while bank < last:
        S[bank + B_ACT] = end
        close(S, D, q, bank, 1 << ((bank - q - PC_HEAD) // BANK_WORDS))
        bank += BANK_WORDS
    S[D + N_REF] += 1
    S[q + REF_T] += S[D + REFI]
    forget(S, q)


@inlined
def _take(S, D, c, q, e, d):
    """Entry e joins its bank's queue in cycle d."""
    k = S[e + E_BANK] & 1
    b = S[e + E_BANK] >> 1
    one = 1 << b
    bank = q + PC_HEAD + b * BANK_WORDS
    age = S[q + SEQ] | b
    S[q + SEQ] += 1 << AGE_AT
    S[q + COUNT + k] += 1
    S[e + E_NEXT] = -1
    S[e + E_TIME] = d
    S[e + E_SEQ] = age
    row = S[bank + OPEN]
    serving = k == S[q + MODE]
    if (S[q + HITS + k] | S[q + CLOSED + k] | S[q + OTHER + k]) & one == 0:
        S[bank + Q_HEAD + k] = e
        S[bank + Q_TAIL + k] = e
        S[bank + Q_AGE + k] = age
        if row < 0:
            S[q + CLOSED + k] |= one
            if serving:
                maybe_row(S, q, bank, k, max(d, S[c + ROW_FREE], S[q + ACT_OK], act_time(S, bank)), ACT_T)
        elif row == S[e + E_ROW]:
            S[q + HITS + k] |= one
            S[bank + Q_HIT + k] = e
            S[bank + Q_HIT_AGE + k] = age
            add_hit(S, D, q, k, age)
            if serving:
                maybe_column(S, q, bank, k, max(d, S[q + COL_OK + k], column_time(S, bank, k)))
        else:
            S[q + OTHER + k] |= one
            if serving:
                maybe_row(S, q, bank, k, max(d, S[c + ROW_FREE], S[bank + B_PRE]), PRE_T)
        return
    S[S[bank + Q_TAIL + k] + E_NEXT] = e
    S[bank + Q_TAIL + k] = e
    if row == S[e + E_ROW] and S[q + OTHER + k] & one != 0:  # a hit behind others that want another row
        S[q + OTHER + k] &= ~one
        S[q + HITS + k] |= one
        S[q + AGED + k] |= one
        S[bank + Q_HIT + k] = e
        S[bank + Q_HIT_AGE + k] = age
        add_hit(S, D, q, k, age)
        if serving:
            forget(S, q)


@inlined
def _intake(S, D, c, q, d):
    """Start of cycle d: the refresh that is due, then arrivals while there is room."""
    if S[q + REF_T] <= d:
        if S[D + LOG_CAP] > 0:
            _record(S, D, d, q, C_REF)
        _refresh(S, D, q, d)
    e = S[q + FIFO_HEAD]
    while e >= 0:
        k = S[e + E_BANK] & 1
        if S[e + E_TIME] > d or S[q + COUNT + k] >= S[D + RD_CAP + k]:
            break
        after = S[e + E_NEXT]
        _take(S, D, c, q, e, d)
        e = after
    S[q + FIFO_HEAD] = e
    S[q + INTAKE_T] = d
    if e < 0 and S[q + MORE] != 0:
        S[c + HUNGRY] = 1
        return
    set_mode(S, D, q)
    set_event(S, D, q, d + 1)


@inlined
def _next(S, D, c, q, d, until):
    """Set the cycle of the pseudo-channel's next command or event, d or later, after the events before its command."""
    d = max(d, S[q + INTAKE_T])  # it was ahead of its channel when arrivals ran out
    while True:
        if S[q + COL_T] < d:
            scan_column(S, D, q, d)
        free = max(d, S[c + ROW_FREE])
        if S[q + ACT_T] < 0:
            scan_act(S, D, q, free)
        if S[q + PRE_T] < 0:
            scan_pre(S, D, q, free)
        # One that had to wait for the bus is ready when it is free; which one goes is looked up then.
        t = min(S[q + COL_T], max(free, min(S[q + ACT_T], S[q + PRE_T])))
        event = S[q + EVT_T]
        if event > t or event > until or t == INF:
            S[q + NEXT_T] = min(t, event)
            return
        d = max(d, event)
        _intake(S, D, c, q, d)
        if S[c + HUNGRY] != 0:
            return


@inlined
def _leave(S, D, c, q, bank, one, k, e, done):
    """Entry e, the bank's oldest hit, is finished: it leaves its queue for the sink."""
    after = S[e + E_NEXT]
    drop_hit(S, D, q, k, S[e + E_SEQ])
    if S[bank + Q_HEAD + k] == e:
        S[bank + Q_HEAD + k] = after
        if after >= 0:
            S[bank + Q_AGE + k] = S[after + E_SEQ]
    else:
        before = S[bank + Q_HEAD + k]
        while S[before + E_NEXT] != e:
            before = S[before + E_NEXT]
        S[before + E_NEXT] = after
        if after < 0:
            S[bank + Q_TAIL + k] = before
    if S[bank + Q_HEAD + k] < 0:
        S[q + HITS + k] &= ~one
    else:
        find_hit(S, D, q, bank, one, k, after)  # older ones do not hit: e was the oldest that did
    S[q + COUNT + k] -= 1
    S[c + PENDING] -= 1
    S[e + E_NEXT] = -1
    S[e + E_SEQ] = S[e + E_TIME]
    S[e + E_TIME] = done
    sink = S[q + SINK] + 2 * k
    if S[sink] < 0:
        S[sink] = e
    else:
        S[S[sink + 1] + E_NEXT] = e
    S[sink + 1] = e


@inlined
def _column(S, D, c, q, d):
    """Issue the cached RD or WR in cycle d; after an entry's last burst it leaves for the sink."""
    k = S[q + MODE]
    bank = S[q + COL_B]
    one = 1 << (S[q + COL_AGE] & BANK_BITS)
    e = S[bank + Q_HIT + k]
    mask = S[e + E_MASK] & (S[e + E_MASK] - 1)
    S[e + E_MASK] = mask
    S[q + COL_T] = STALE
    S[q + COL_OK + k] = d + S[D + CCD_S]
    end = d + S[D + CL + k] + S[D + BURST]
    group = S[bank + GROUP]
    if k == 0:
        S[D + N_RD] += 1
        S[q + COL_OK + 1] = max(S[q + COL_OK + 1], d + S[D + RTW])
        S[bank + B_PRE] = max(S[bank + B_PRE], d + S[D + RTP])
        S[group + G_COL] = max(S[group + G_COL], d + S[D + CCD_L])
    else:
        S[D + N_WR] += 1
        S[q + COL_OK] = max(S[q + COL_OK], end + S[D + WTR_S])
        S[bank + B_PRE] = max(S[bank + B_PRE], end + S[D + WR])
        S[group + G_COL] = max(S[group + G_COL], end + S[D + WTR_L])
        S[group + G_COL + 1] = max(S[group + G_COL + 1], d + S[D + CCD_L])
    if S[q + FRESH] & one:
        S[q + FRESH] ^= one
    else:
        S[D + N_ROW_HIT] += 1
    if S[q + PRE_B] == bank:  # its PRE was cached, and may have to wait now
        S[q + PRE_T] = STALE
    if mask != 0:
        return
    _leave(S, D, c, q, bank, one, k, e, end)
    set_event(S, D, q, d + 1)
    set_mode(S, D, q)
    if S[q + OTHER + k] & one:
        maybe_row(S, q, bank, k, max(d, S[c + ROW_FREE], S[bank + B_PRE]), PRE_T)  # in this cycle, too
    elif S[q + AGED + k] & one:
        S[q + PRE_T] = STALE


@inlined
def _pre(S, D, c, q, d):
    """Issue the cached PRE in cycle d."""
    bank = S[q + PRE_B]
    S[q + PRE_T] = STALE
    close(S, D, q, bank, 1 << (S[q + PRE_AGE] & BANK_BITS))
    S[bank + B_ACT] = max(S[bank + B_ACT], d + S[D + RP])
    S[c + ROW_FREE] = d + S[D + PRE_BUS]
    S[D + N_PRE] += 1
    if S[q + COL_B] == bank:
        S[q + COL_T] = STALE
    maybe_row(S, q, bank, S[q + MODE], max(d + 1, S[c + ROW_FREE], S[q + ACT_OK], act_time(S, bank)), ACT_T)


@inlined
def _act(S, D, c, q, d):
    """Issue the cached ACT in cycle d."""
    k = S[q + MODE]
    bank = S[q + ACT_B]
    one = 1 << (S[q + ACT_AGE] & BANK_BITS)
    S[q + ACT_T] = STALE
    head = S[bank + Q_HEAD + k]
    S[bank + OPEN] = S[head + E_ROW]
    S[q + FRESH] |= one
    S[bank + B_COL] = max(S[bank + B_COL], d + S[D + RCD_RD])
    S[bank + B_COL + 1] = max(S[bank + B_COL + 1], d + S[D + RCD_WR])
    S[bank + B_PRE] = d + S[D + RAS]
    S[bank + B_ACT] = d + S[D + RC]
    S[q + FAW_RING + S[q + FAW_I]] = d
    S[q + FAW_I] = (S[q + FAW_I] + 1) & 3
    S[q + ACT_OK] = max(d + S[D + RRD_S], S[q + FAW_RING + S[q + FAW_I]] + S[D + FAW])
    group = S[bank + GROUP]
    S[group + G_ACT] = max(S[group + G_ACT], d + S[D + RRD_L])
    S[c + ROW_FREE] = d + S[D + ACT_BUS]
    S[D + N_ACT] += 1
    S[q + CLOSED + k] &= ~one
    S[q + HITS + k] |= one
    S[bank + Q_HIT + k] = head
    S[bank + Q_HIT_AGE + k] = S[bank + Q_AGE + k]
    add_hit(S, D, q, k, S[bank + Q_AGE + k])
    if S[q + CLOSED + 1 - k] & one:
        S[q + CLOSED + 1 - k] &= ~one
        find_hit(S, D, q, bank, one, 1 - k, S[bank + Q_HEAD + 1 - k])
    maybe_column(S, q, bank, k, max(d + 1, S[q + COL_OK + k], column_time(S, bank, k)))


@njit
def _trace(S, D, d, q, command):
    """Note a command for a trace of open rows."""
    first, last = q + PC_HEAD, q + PC_HEAD
    if command == C_REF:
        last = q + S[D + BANKS_END]
        if S[D + REF_ALL] == 0:
            first += S[q + REF_B] * BANK_WORDS
            last = first + BANK_WORDS
    elif command == C_PRE:
        first = S[q + PRE_B]
        last = first + BANK_WORDS
    else:
        bank = S[q + ACT_B] if command == C_ACT else S[q + COL_B]
        at = S[D + OPENINGS] + (S[q + PC_ID] * S[D + BANKS] + (bank - q - PC_HEAD) // BANK_WORDS) * OPENING_WORDS
        if command == C_ACT:
            S[at + OPENED], S[at + BURSTS_READ], S[at + BURSTS_WRITTEN] = d, 0, 0
        else:
            S[at + BURSTS_READ + S[q + MODE]] += 1
    while first < last:
        if S[first + OPEN] >= 0:
            _trace_row(S, D, S[q + PC_ID] * S[D + BANKS] + (first - q - PC_HEAD) // BANK_WORDS, d)
        first += BANK_WORDS


@njit
def _trace_row(S, D, number, d):
    """The open row of a bank is closed in cycle d: what was read and what was written are an event each."""
    at = S[D + OPENINGS] + number * OPENING_WORDS
    start, end = S[at + OPENED] * S[D + CLOCK] // S[D + CLOCK_DRAM], d * S[D + CLOCK] // S[D + CLOCK_DRAM]
    for k in range(2):
        if S[at + BURSTS_READ + k] > 0:
            record(S, S[D + EVENTS_AT], HBM_READ + k, S[D + FIRST_UNIT] + number, start, max(end, start + 1), -1, -1, 0,
                   BURST_BYTES * S[at + BURSTS_READ + k])
            S[at + BURSTS_READ + k] = 0


@njit
def _record(S, D, d, q, command):
    """Log a command that the pseudo-channel issues next. `simulate` puts the log in order."""
    if S[D + OPENINGS] != 0:
        _trace(S, D, d, q, command)
        return
    n = S[D + LOG_N]
    S[D + LOG_N] = n + 1
    if n >= S[D + LOG_CAP]:
        return
    k = S[q + MODE]
    what = 0
    if command == C_PRE:
        bank = S[q + PRE_B]
    elif command == C_ACT:
        bank = S[q + ACT_B]
        what = S[S[bank + Q_HEAD + k] + E_ROW]
    elif command == C_REF:
        bank = q + PC_HEAD + S[q + REF_B] * BANK_WORDS
    else:
        bank = S[q + COL_B]
        what = lowest(S[S[bank + Q_HIT + k] + E_MASK])
    at = S[D + LOG] + n * LOG_WORDS
    S[at] = d
    S[at + 1] = S[q + PC_ID]
    S[at + 2] = command
    S[at + 3] = (bank - q - PC_HEAD) // BANK_WORDS
    S[at + 4] = what


@inlined
def _one_column(S, D, c, d, first, step, last):
    """One column command in cycle d: the pseudo-channels take turns when several could."""
    end = S[c + LAST_COL]
    q = end
    while True:
        q = q + step if q + step < last else first
        if S[q + COL_T] == d:
            break
        if q == end:
            return
    if S[D + LOG_CAP] > 0:
        _record(S, D, d, q, C_RD + S[q + MODE])
    _column(S, D, c, q, d)
    S[q + NEXT_T] = STALE
    S[c + LAST_COL] = q


@inlined
def _one_row(S, D, c, d, first, step, last):
    """One row command in cycle d, in the same way; of an ACT and a PRE the one of the older entry."""
    end = S[c + LAST_ROW]
    q = end
    while True:
        q = q + step if q + step < last else first
        if S[q + ACT_T] < d:
            scan_act(S, D, q, d)
        if S[q + PRE_T] < d:
            scan_pre(S, D, q, d)
        if S[q + ACT_T] == d or S[q + PRE_T] == d:
            break
        if q == end:
            return
    if S[q + PRE_T] != d or (S[q + ACT_T] == d and S[q + ACT_AGE] < S[q + PRE_AGE]):
        if S[D + LOG_CAP] > 0:
            _record(S, D, d, q, C_ACT)
        _act(S, D, c, q, d)
    else:
        if S[D + LOG_CAP] > 0:
            _record(S, D, d, q, C_PRE)
        _pre(S, D, c, q, d)
    S[c + LAST_ROW] = q
    while first < last:  # the bus is busy for all of them
        S[first + NEXT_T] = STALE
        first += step


@njit
def run_channel(S, D, channel, until):
    """Run one channel through DRAM cycle `until`. Finished entries are appended to the sinks.

    Returns earlier when a pseudo-channel that is promised MORE has run out of arrivals (HUNGRY).
    """
    c = S[D + CH_BASE] + channel * S[D + CH_WORDS]
    step = S[D + PC_WORDS]
    first = c + CH_HEAD
    last = first + S[D + NPC] * step
    stop = S[D + STOP_WHEN_EMPTY]
    d = S[c + CYCLE]
    while stop == 0 or S[c + PENDING] > 0:
        t = INF
        q = first
        while q < last:
            if S[q + NEXT_T] < d:
                _next(S, D, c, q, d, until)
            t = min(t, S[q + NEXT_T])
            q += step
        if S[c + HUNGRY] != 0:
            break
        d = max(d, t)
        if d > until:
            break
        again = False
        q = first
        while q < last:
            if S[q + EVT_T] <= d:
                _intake(S, D, c, q, d)
                S[q + NEXT_T] = STALE
                again = True
            q += step
        if again:
            continue
        _one_column(S, D, c, d, first, step, last)
        if S[c + ROW_FREE] <= d:
            _one_row(S, D, c, d, first, step, last)
        d += 1
    S[c + CYCLE] = max(S[c + CYCLE], min(d, until + 1))
