"""What waits in the fast DRAM engine: queues of the banks, and the choice of a pseudo-channel's next commands.

Used by emulator/dram/controller.py, which says what is cached; emulator/dram/layout.py names the words.
"""

from __future__ import annotations

from emulator.dram.layout import (
    ACT_AGE,
    ACT_B,
    ACT_OK,
    ACT_T,
    AGE_CAP,
    AGED,
    AGES,
    B_ACT,
    B_COL,
    B_PRE,
    BANK_BITS,
    BANK_INTERLEAVED,
    BANK_WORDS,
    BANKS,
    CH_BASE,
    CH_HEAD,
    CH_WORDS,
    CLOSED,
    COL_AGE,
    COL_B,
    COL_OK,
    COL_T,
    COUNT,
    E_AUX,
    E_BANK,
    E_MASK,
    E_NEXT,
    E_ROW,
    E_SEQ,
    E_TAG,
    E_TIME,
    EVT_T,
    FIFO_HEAD,
    FIFO_TAIL,
    FREE,
    FRESH,
    G_ACT,
    G_COL,
    GROUP,
    HIGH,
    HIT_N,
    HITS,
    INF,
    INTAKE_T,
    LIST_AT,
    LOW,
    MODE,
    NEXT_T,
    NO_CANDIDATE,
    NPC,
    OPEN,
    ORDER,
    OTHER,
    PC_HEAD,
    PC_WORDS,
    PENDING,
    PRE_AGE,
    PRE_B,
    PRE_T,
    Q_AGE,
    Q_HEAD,
    Q_HIT,
    Q_HIT_AGE,
    RD_CAP,
    REF_T,
    ROW_CHUNKS,
    ROW_INTERLEAVED,
    ROWS,
    STALE,
    TRACE,
    TRACE_CAP,
    TRACE_N,
    TRACE_WORDS,
    WAIT_AT,
)
from isa.jit import inlined, njit, prefetcher, trailing_zeros

lowest = trailing_zeros()
prefetch = prefetcher()


@inlined
def bank_and_row(S, D, chunk):
    """The place of a pseudo-channel's chunk: what `DramConfig.place` gives, as bank and row."""
    order = S[D + ORDER]
    banks = S[D + BANKS]
    if order == BANK_INTERLEAVED:
        block = chunk // banks
        return chunk - block * banks, block // S[D + ROW_CHUNKS]
    block = chunk // S[D + ROW_CHUNKS]
    if order == ROW_INTERLEAVED:
        row = block // banks
        return block - row * banks, row
    rows = S[D + ROWS]
    turn = block // (rows * banks)
    block -= turn * rows * banks
    return block // rows, turn * rows + block % rows


@njit
def push(S, D, pc, bank, row, mask, write, arrival, tag, aux):
    """Hand an entry to a pseudo-channel; arrivals of one pseudo-channel never go back in time."""
    npc = S[D + NPC]
    c = S[D + CH_BASE] + (pc // npc) * S[D + CH_WORDS]
    q = c + CH_HEAD + (pc % npc) * S[D + PC_WORDS]
    e = S[D + FREE]
    S[D + FREE] = S[e + E_NEXT]
    prefetch(S, S[e + E_NEXT])
    S[e + E_NEXT] = -1
    S[e + E_ROW] = row
    S[e + E_BANK] = 2 * bank + write
    S[e + E_MASK] = mask
    S[e + E_TIME] = arrival
    S[e + E_TAG] = tag
    S[e + E_AUX] = aux
    S[c + PENDING] += 1
    if S[D + TRACE_CAP] > 0:
        if S[D + TRACE_N] < S[D + TRACE_CAP]:
            at = S[D + TRACE] + S[D + TRACE_N] * TRACE_WORDS
            S[at] = arrival
            S[at + 1] = tag
            S[at + 2] = 2 * mask + write
        S[D + TRACE_N] += 1
    if S[q + FIFO_HEAD] < 0:
        S[q + FIFO_HEAD] = e
        S[q + NEXT_T] = STALE
        if S[q + COUNT + write] < S[D + RD_CAP + write]:
            S[q + EVT_T] = min(S[q + EVT_T], max(arrival, S[q + INTAKE_T]))
    else:
        S[S[q + FIFO_TAIL] + E_NEXT] = e
    S[q + FIFO_TAIL] = e


@inlined
def set_event(S, D, q, d):
    """Next cycle, d or later, with a refresh or an arrival that the queue can take."""
    t = S[q + REF_T]
    e = S[q + FIFO_HEAD]
    if e >= 0:
        k = S[e + E_BANK] & 1
        if S[q + COUNT + k] < S[D + RD_CAP + k]:
            t = min(t, max(d, S[e + E_TIME]))
    S[q + EVT_T] = t


@inlined
def forget(S, q):
    """No cached command holds any more."""
    S[q + COL_T] = STALE
    S[q + ACT_T] = STALE
    S[q + PRE_T] = STALE


@inlined
def set_mode(S, D, q):
    """Reads or writes? Writes from the high mark, or when no read waits, until the low mark."""
    reads = S[q + COUNT]
    writes = S[q + COUNT + 1]
    mode = S[q + MODE]
    if mode == 0:
        if writes >= S[D + HIGH] or (reads == 0 and writes > 0):
            mode = 1
    elif writes == 0 or (writes <= S[D + LOW] and reads > 0):
        mode = 0
    if mode != S[q + MODE]:
        S[q + MODE] = mode
        forget(S, q)


@inlined
def column_time(S, bank, k):
    """Earliest cycle of a column command, as far as the bank and its group are concerned."""
    return max(S[bank + B_COL + k], S[S[bank + GROUP] + G_COL + k])


@inlined
def act_time(S, bank):
    """The same for ACT."""
    return max(S[bank + B_ACT], S[S[bank + GROUP] + G_ACT])


@inlined
def add_hit(S, D, q, k, age):
    """Put an entry that has become its bank's oldest hit into the list, which is in order of age."""
    first = q + S[D + LIST_AT] + k * S[D + BANKS]
    at = first + S[q + HIT_N + k]
    S[q + HIT_N + k] += 1
    while at > first and S[at - 1] > age:
        S[at] = S[at - 1]
        at -= 1
    S[at] = age


@inlined
def drop_hit(S, D, q, k, age):
    """Take an entry out of that list."""
    at = q + S[D + LIST_AT] + k * S[D + BANKS]
    S[q + HIT_N + k] -= 1
    last = at + S[q + HIT_N + k]
    while S[at] != age:
        at += 1
    while at < last:
        S[at] = S[at + 1]
        at += 1


@inlined
def find_hit(S, D, q, bank, one, k, e):
    """The bank's row is open: find the oldest hit of its queue, if there is one, from entry e on. None is known yet."""
    row = S[bank + OPEN]
    while e >= 0 and S[e + E_ROW] != row:
        e = S[e + E_NEXT]
    if e >= 0:
        S[bank + Q_HIT + k] = e
        S[bank + Q_HIT_AGE + k] = S[e + E_SEQ]
        add_hit(S, D, q, k, S[e + E_SEQ])
        S[q + HITS + k] |= one
        S[q + OTHER + k] &= ~one
        if e == S[bank + Q_HEAD + k]:
            S[q + AGED + k] &= ~one
        else:
            S[q + AGED + k] |= one
    else:
        S[q + HITS + k] &= ~one
        S[q + AGED + k] &= ~one
        S[q + OTHER + k] |= one


@inlined
def close(S, D, q, bank, one):
    """The bank has no open row any more."""
    S[bank + OPEN] = -1
    S[q + FRESH] &= ~one
    for k in range(2):
        if S[q + HITS + k] & one:
            drop_hit(S, D, q, k, S[bank + Q_HIT_AGE + k])
        S[q + CLOSED + k] |= (S[q + HITS + k] | S[q + OTHER + k]) & one
        S[q + HITS + k] &= ~one
        S[q + OTHER + k] &= ~one
        S[q + AGED + k] &= ~one


@inlined
def scan_column(S, D, q, d):
    """Cache the earliest column command at or after d: of the oldest entry among those ready first."""
    k = S[q + MODE]
    base = max(d, S[q + COL_OK + k])
    banks = q + PC_HEAD
    aged = S[q + AGED + k]
    best = NO_CANDIDATE
    at = q + S[D + LIST_AT] + k * S[D + BANKS]
    last = at + S[q + HIT_N + k]
    while at < last:  # from the oldest on: the first that is ready goes
        age = S[at]
        at += 1
        b = age & BANK_BITS
        bank = banks + b * BANK_WORDS
        wait = max(column_time(S, bank, k) - base, 0)
        # Rare: a hit, but the bank's oldest entry wants another row; over the age cap it owns the bank.
        if aged >> b & 1 and base + wait - S[S[bank + Q_HEAD + k] + E_TIME] > S[D + AGE_CAP]:
            continue
        best = min(best, wait << WAIT_AT | age)
        if wait == 0:
            break
    if best == NO_CANDIDATE:
        S[q + COL_T] = INF
        return
    S[q + COL_T] = base + (best >> WAIT_AT)
    S[q + COL_AGE] = best & AGES
    S[q + COL_B] = banks + (best & BANK_BITS) * BANK_WORDS


@njit
def scan_act(S, D, q, d):
    """Cache the earliest ACT at or after d: for the oldest entry among those ready first."""
    k = S[q + MODE]
    banks = q + PC_HEAD
    closed = S[q + CLOSED + k]
    if closed == 0:
        S[q + ACT_T] = INF
        return
    base = max(d, S[q + ACT_OK])
    best = NO_CANDIDATE
    left = closed
    while left != 0:
        best = min(best, S[banks + lowest(left) * BANK_WORDS + Q_AGE + k])
        left &= left - 1
    wait = act_time(S, banks + (best & BANK_BITS) * BANK_WORDS) - base
    if wait > 0:  # the oldest is not ready: look when each of them is
        best = NO_CANDIDATE
        while closed != 0:
            bank = banks + lowest(closed) * BANK_WORDS
            closed &= closed - 1
            wait = max(act_time(S, bank) - base, 0)
            best = min(best, wait << WAIT_AT | S[bank + Q_AGE + k])
    S[q + ACT_T] = base + (best >> WAIT_AT)
    S[q + ACT_AGE] = best & AGES
    S[q + ACT_B] = banks + (best & BANK_BITS) * BANK_WORDS


@njit
def scan_pre(S, D, q, d):
    """Cache the earliest PRE at or after d, chosen in the same way."""
    k = S[q + MODE]
    banks = q + PC_HEAD
    best = NO_CANDIDATE
    other = S[q + OTHER + k]
    while other != 0:
        bank = banks + lowest(other) * BANK_WORDS
        other &= other - 1
        wait = max(S[bank + B_PRE] - d, 0)
        best = min(best, wait << WAIT_AT | S[bank + Q_AGE + k])
    aged = S[q + AGED + k]
    while aged != 0:
        bank = banks + lowest(aged) * BANK_WORDS
        aged &= aged - 1
        wait = max(S[bank + B_PRE], S[S[bank + Q_HEAD + k] + E_TIME] + S[D + AGE_CAP] + 1) - d
        best = min(best, max(wait, 0) << WAIT_AT | S[bank + Q_AGE + k])
    if best == NO_CANDIDATE:
        S[q + PRE_T] = INF
        return
    S[q + PRE_T] = d + (best >> WAIT_AT)
    S[q + PRE_AGE] = best & AGES
    S[q + PRE_B] = banks + (best & BANK_BITS) * BANK_WORDS


@inlined
def maybe_column(S, q, bank, k, t):
    """One more column command is possible, at t: cache it if it goes before the cached one."""
    age = S[bank + Q_HIT_AGE + k]
    if t < S[q + COL_T] or (t == S[q + COL_T] and age < S[q + COL_AGE]):
        S[q + COL_T] = t
        S[q + COL_B] = bank
        S[q + COL_AGE] = age


@inlined
def maybe_row(S, q, bank, k, t, command):
    """The same for a row command, ACT or PRE: its three words begin at `command`."""
    age = S[bank + Q_AGE + k]
    if t < S[q + command] or (t == S[q + command] and age < S[q + command + 2]):
        S[q + command] = t
        S[q + command + 1] = bank
        S[q + command + 2] = age
