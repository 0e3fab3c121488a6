"""The fast DRAM engine: one channel's controller on a flat int64 array, skipping idle cycles.

emulator/dram/naive.py defines the machine one cycle at a time; this does the same. The array S holds
a header at offset D (numbers of the chip, counters), the channels and a pool of entries. An entry is
a line with a mask of its bursts. A pseudo-channel caches, for reads or writes, whichever it serves:

    COL_T, COL_B   earliest cycle of its next column command, and the bank
    ROW_T, ROW_B   the same for ACT and PRE
    EVT_T          next refresh, or next arrival for which its queue has room

A cached command is exact if it is issued in that very cycle; issued later (a bus was taken), the
choice is made again. Whatever can make a command possible earlier recomputes the cache.
"""

from __future__ import annotations

import numpy as np

from emulator.dram.config import BURSTS, LINE_BYTES, DramConfig
from isa.jit import njit

INF = 2**62

# Header words, at D + name.
(CHANNELS, NPC, BANKS, GROUPS, CH_BASE, CH_WORDS, PC_WORDS, BANK_OFF, POOL, FREE, LOG, LOG_CAP, LOG_N,
 CHUNK_LINES, SCRAMBLE_BITS, ROW_CHUNKS, TOTAL_PC, RD_CAP, WR_CAP, HIGH, LOW, AGE_CAP, ACT_BUS, PRE_BUS,
 BURST, CCD_S, CCD_L, CL, CWL, RCD_RD, RCD_WR, RP, RAS, RC, RRD_S, RRD_L, FAW, WTR_S, WTR_L, RTW, WR, RTP,
 REFI, RFC, STOP_WHEN_EMPTY,
 N_RD, N_WR, N_ACT, N_PRE, N_REF, N_ROW_HIT, HEADER) = range(52)

# A channel's words, then its pseudo-channels'.
CYCLE, LAST_COL, LAST_ROW, ROW_FREE, PENDING, CH_HEAD = range(6)
# A pseudo-channel's words (pairs: read, write), then 3 a bank group, then BANK_WORDS a bank.
(COUNT, _1, MODE, FIFO_HEAD, FIFO_TAIL, MASK, _2, HITS, _3, AGED, _4, SEQ, COL_OK, _5, ACT_OK, FAW_RING, _6, _7, _8,
 FAW_I, REF_T, REF_B, EVT_T, COL_T, COL_B, ROW_T, ROW_B, SINK, PC_ID, PC_HEAD) = range(30)
# A bank's words; per direction three words of its queue: oldest, newest, oldest that hits the open row.
OPEN, B_ACT, B_COL, _9, B_PRE, FRESH, GROUP, QUEUE = range(8)
Q_HEAD, Q_TAIL, Q_HIT = range(3)
BANK_WORDS = 16
# An entry's words. E_TIME: arrival, then entry into the queue, then end of data. E_AUX: the owner's.
E_NEXT, E_ROW, E_BANK, E_MASK, E_SEQ, E_TIME, E_TAG, E_AUX, E_WRITE, ENTRY_WORDS = range(10)
# A sink: finished reads and finished writes as two lists.
RD_DONE, RD_LAST, WR_DONE, WR_LAST, SINK_WORDS = range(5)
# A command in the log.
C_ACT, C_PRE, C_RD, C_WR, C_REF = range(5)
LOG_WORDS = 5  # cycle, pseudo-channel, command, bank, row (ACT) or burst within the row's line (RD, WR)

BIT = np.full(67, -1, dtype=np.int64)  # bit number of a power of two below 2**63, by its remainder
for _bit in range(63):
    BIT[(1 << _bit) % 67] = _bit


def words(config: DramConfig, entries: int, log: int = 0) -> int:
    """Length of the array part for a DRAM with room for `entries` entries and `log` commands."""
    return HEADER + config.channels * _channel_words(config) + entries * ENTRY_WORDS + log * LOG_WORDS


def _channel_words(config: DramConfig) -> int:
    return CH_HEAD + config.pseudo_channels * _pc_words(config)


def _pc_words(config: DramConfig) -> int:
    return PC_HEAD + 3 * config.groups + BANK_WORDS * config.banks


def build(state: np.ndarray, offset: int, config: DramConfig, entries: int, sinks: np.ndarray, log: int = 0) -> None:
    """Write an idle DRAM into state[offset:]. sinks: for each pseudo-channel the index of its sink."""
    s, d = state, offset
    numbers = {
        CHANNELS: config.channels, NPC: config.pseudo_channels, BANKS: config.banks, GROUPS: config.groups,
        CH_BASE: d + HEADER, CH_WORDS: _channel_words(config), PC_WORDS: _pc_words(config),
        BANK_OFF: PC_HEAD + 3 * config.groups, CHUNK_LINES: config.chunk_bytes // LINE_BYTES,
        SCRAMBLE_BITS: config.scramble_bits, ROW_CHUNKS: config.row_bytes // config.chunk_bytes,
        TOTAL_PC: config.total_pseudo_channels, RD_CAP: config.read_queue, WR_CAP: config.write_queue,
        HIGH: config.drain_high, LOW: config.drain_low, AGE_CAP: config.age_cap, ACT_BUS: config.act_bus_cycles,
        PRE_BUS: config.pre_bus_cycles, BURST: config.burst, CCD_S: config.ccd_s, CCD_L: config.ccd_l, CL: config.cl,
        CWL: config.cwl, RCD_RD: config.rcd_rd, RCD_WR: config.rcd_wr, RP: config.rp, RAS: config.ras, RC: config.rc,
        RRD_S: config.rrd_s, RRD_L: config.rrd_l, FAW: config.faw, WTR_S: config.wtr_s, WTR_L: config.wtr_l,
        RTW: config.rtw, WR: config.wr, RTP: config.rtp, REFI: config.refi, RFC: config.rfc,
    }
    for slot, value in numbers.items():
        s[d + slot] = value
    s[d + POOL] = d + HEADER + config.channels * _channel_words(config)
    s[d + LOG] = s[d + POOL] + entries * ENTRY_WORDS
    s[d + LOG_CAP] = log
    pool = s[s[d + POOL] : s[d + LOG]].reshape(entries, ENTRY_WORDS)
    pool[:, E_NEXT] = s[d + POOL] + ENTRY_WORDS * np.arange(1, entries + 1)  # the free list
    pool[-1:, E_NEXT] = -1
    s[d + FREE] = s[d + POOL] if entries else -1
    for channel in range(config.channels):
        c = d + HEADER + channel * _channel_words(config)
        s[c + LAST_COL] = s[c + LAST_ROW] = config.pseudo_channels - 1
        for p in range(config.pseudo_channels):
            q = c + CH_HEAD + p * _pc_words(config)
            s[q + FIFO_HEAD] = s[q + FIFO_TAIL] = -1
            s[q + FAW_RING : q + FAW_RING + 4] = -INF
            s[q + PC_ID] = channel * config.pseudo_channels + p
            s[q + SINK] = sinks[s[q + PC_ID]]
            s[q + COL_T] = s[q + ROW_T] = INF
            # The pseudo-channels of a channel take turns within the interval.
            s[q + REF_T] = config.refi + p * config.refi // config.pseudo_channels if config.refi else INF
            s[q + EVT_T] = s[q + REF_T]
            for b in range(config.banks):
                bank = q + s[d + BANK_OFF] + b * BANK_WORDS
                s[bank + OPEN] = -1
                s[bank + QUEUE : bank + QUEUE + 6] = -1
                s[bank + GROUP] = q + PC_HEAD + 3 * (b % config.groups)
    for sink in np.unique(sinks):
        s[sink : sink + SINK_WORDS] = -1


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
    S[e + E_BANK] = bank
    S[e + E_MASK] = mask
    S[e + E_TIME] = arrival
    S[e + E_TAG] = tag
    S[e + E_AUX] = aux
    S[e + E_WRITE] = write
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
        k = S[e + E_WRITE]
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
def _set_bank(S, q, bank, b, k):
    """Bring the masks of bank b, direction k, in line with its queue."""
    one = 1 << b
    base = bank + QUEUE + 3 * k
    head = S[base + Q_HEAD]
    hit = S[base + Q_HIT]
    S[q + MASK + k] = S[q + MASK + k] | one if head >= 0 else S[q + MASK + k] & ~one
    S[q + HITS + k] = S[q + HITS + k] | one if hit >= 0 else S[q + HITS + k] & ~one
    S[q + AGED + k] = S[q + AGED + k] | one if hit >= 0 and hit != head else S[q + AGED + k] & ~one


@njit
def _find_hit(S, bank, k, e):
    """Oldest entry from e on that hits the bank's open row."""
    row = S[bank + OPEN]
    while e >= 0 and S[e + E_ROW] != row:
        e = S[e + E_NEXT]
    S[bank + QUEUE + 3 * k + Q_HIT] = e


@njit
def _scan_column(S, D, q, d):
    """Cache the earliest column command at or after d: of the oldest entry among those ready first."""
    k = S[q + MODE]
    base = max(d, S[q + COL_OK + k])
    banks = q + S[D + BANK_OFF]
    hits = S[q + HITS + k]
    aged = S[q + AGED + k]
    best_t = INF
    best_b = -1
    best_seq = INF
    while hits != 0:
        low = hits & -hits
        hits ^= low
        b = BIT[low % 67]
        bank = banks + b * BANK_WORDS
        t = max(base, S[bank + B_COL + k], S[S[bank + GROUP] + k])
        if t <= best_t:
            queue = bank + QUEUE + 3 * k
            # An entry over the age cap owns its bank: younger hits of other rows have to wait.
            if aged & low and t - S[S[queue + Q_HEAD] + E_TIME] > S[D + AGE_CAP]:
                continue
            seq = S[S[queue + Q_HIT] + E_SEQ]
            if t < best_t or seq < best_seq:
                best_t = t
                best_b = b
                best_seq = seq
    S[q + COL_T] = best_t
    S[q + COL_B] = best_b


@njit
def _scan_row(S, D, q, d):
    """Cache the earliest ACT or PRE at or after d: for the oldest entry among those ready first."""
    k = S[q + MODE]
    banks = q + S[D + BANK_OFF]
    todo = (S[q + MASK + k] & ~S[q + HITS + k]) | S[q + AGED + k]
    best_t = INF
    best_b = -1
    best_seq = INF
    while todo != 0:
        low = todo & -todo
        todo ^= low
        b = BIT[low % 67]
        bank = banks + b * BANK_WORDS
        head = S[bank + QUEUE + 3 * k + Q_HEAD]
        if S[bank + OPEN] < 0:
            t = max(d, S[bank + B_ACT], S[q + ACT_OK], S[S[bank + GROUP] + 2])
        else:
            t = max(d, S[bank + B_PRE])
            if S[bank + QUEUE + 3 * k + Q_HIT] >= 0:
                t = max(t, S[head + E_TIME] + S[D + AGE_CAP] + 1)
        if t <= best_t:
            seq = S[head + E_SEQ]
            if t < best_t or seq < best_seq:
                best_t = t
                best_b = b
                best_seq = seq
    S[q + ROW_T] = best_t
    S[q + ROW_B] = best_b


@njit
def _record(S, D, d, q, command, bank, what):
    n = S[D + LOG_N]
    if n < S[D + LOG_CAP]:
        at = S[D + LOG] + n * LOG_WORDS
        S[at] = d
        S[at + 1] = S[q + PC_ID]
        S[at + 2] = command
        S[at + 3] = bank
        S[at + 4] = what
    S[D + LOG_N] = n + 1


@njit
def _intake(S, D, q, d):
    """Start of cycle d: the refresh that is due, then arrivals while there is room."""
    row_dirty = False
    col_dirty = False
    if S[q + REF_T] <= d:
        b = S[q + REF_B]
        bank = q + S[D + BANK_OFF] + b * BANK_WORDS
        start = max(d, S[bank + B_ACT])
        if S[bank + OPEN] >= 0:  # closes at once: an implied precharge with its own waits
            start = max(start, max(d, S[bank + B_PRE]) + S[D + RP])
        S[bank + B_ACT] = start + S[D + RFC]
        S[bank + OPEN] = -1
        S[bank + FRESH] = 0
        for k in range(2):
            S[bank + QUEUE + 3 * k + Q_HIT] = -1
            _set_bank(S, q, bank, b, k)
        S[D + N_REF] += 1
        S[q + REF_B] = b + 1 if b + 1 < S[D + BANKS] else 0
        S[q + REF_T] += S[D + REFI]
        row_dirty = True
        col_dirty = True
        if S[D + LOG_CAP] > 0:
            _record(S, D, d, q, C_REF, b, start)
    e = S[q + FIFO_HEAD]
    while e >= 0:
        k = S[e + E_WRITE]
        if S[e + E_TIME] > d or S[q + COUNT + k] >= S[D + RD_CAP + k]:
            break
        after = S[e + E_NEXT]
        S[q + COUNT + k] += 1
        S[e + E_NEXT] = -1
        S[e + E_TIME] = d
        S[e + E_SEQ] = S[q + SEQ]
        S[q + SEQ] += 1
        b = S[e + E_BANK]
        bank = q + S[D + BANK_OFF] + b * BANK_WORDS
        queue = bank + QUEUE + 3 * k
        if S[queue + Q_HEAD] < 0:
            S[queue + Q_HEAD] = e
            row_dirty = True
        else:
            S[S[queue + Q_TAIL] + E_NEXT] = e
        S[queue + Q_TAIL] = e
        if S[queue + Q_HIT] < 0 and S[bank + OPEN] == S[e + E_ROW]:
            S[queue + Q_HIT] = e
            row_dirty = True
            col_dirty = True
        _set_bank(S, q, bank, b, k)
        e = after
    S[q + FIFO_HEAD] = e
    if _set_mode(S, D, q):
        row_dirty = True
        col_dirty = True
    if col_dirty:
        _scan_column(S, D, q, d)
    if row_dirty:
        _scan_row(S, D, q, d)
    _set_event(S, D, q, d + 1)


@njit
def _finish(S, D, c, q, d, bank, b, k, e):
    """The entry's last burst was issued at d: out of the queue, into the sink."""
    queue = bank + QUEUE + 3 * k
    after = S[e + E_NEXT]
    if S[queue + Q_HEAD] == e:
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
    _find_hit(S, bank, k, after)  # older ones do not hit: e was the oldest that did
    _set_bank(S, q, bank, b, k)
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
    _set_mode(S, D, q)
    _scan_row(S, D, q, d)


@njit
def _column(S, D, c, q, d):
    """Issue the cached RD or WR in cycle d."""
    k = S[q + MODE]
    b = S[q + COL_B]
    bank = q + S[D + BANK_OFF] + b * BANK_WORDS
    group = S[bank + GROUP]
    e = S[bank + QUEUE + 3 * k + Q_HIT]
    mask = S[e + E_MASK]
    if S[D + LOG_CAP] > 0:
        _record(S, D, d, q, C_RD + k, b, BIT[mask & -mask])
    mask &= mask - 1
    S[e + E_MASK] = mask
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
    if S[bank + FRESH] == 0:
        S[D + N_ROW_HIT] += 1
    S[bank + FRESH] = 0
    if mask == 0:
        _finish(S, D, c, q, d, bank, b, k, e)
    elif S[q + AGED + k] & (1 << b):
        _scan_row(S, D, q, d)
    _scan_column(S, D, q, d + 1)


@njit
def _row(S, D, c, q, d):
    """Issue the cached ACT or PRE in cycle d."""
    k = S[q + MODE]
    b = S[q + ROW_B]
    bank = q + S[D + BANK_OFF] + b * BANK_WORDS
    if S[bank + OPEN] < 0:
        row = S[S[bank + QUEUE + 3 * k + Q_HEAD] + E_ROW]
        S[bank + OPEN] = row
        S[bank + FRESH] = 1
        S[bank + B_COL] = d + S[D + RCD_RD]
        S[bank + B_COL + 1] = d + S[D + RCD_WR]
        S[bank + B_PRE] = d + S[D + RAS]
        S[bank + B_ACT] = d + S[D + RC]
        oldest = q + FAW_RING + S[q + FAW_I]
        S[oldest] = d
        S[q + FAW_I] = (S[q + FAW_I] + 1) & 3
        S[q + ACT_OK] = max(d + S[D + RRD_S], S[q + FAW_RING + S[q + FAW_I]] + S[D + FAW])
        S[S[bank + GROUP] + 2] = d + S[D + RRD_L]
        S[c + ROW_FREE] = d + S[D + ACT_BUS]
        S[D + N_ACT] += 1
        for side in range(2):
            _find_hit(S, bank, side, S[bank + QUEUE + 3 * side + Q_HEAD])
            _set_bank(S, q, bank, b, side)
        if S[D + LOG_CAP] > 0:
            _record(S, D, d, q, C_ACT, b, row)
        _scan_column(S, D, q, d + 1)
    else:
        S[bank + OPEN] = -1
        S[bank + FRESH] = 0
        S[bank + B_ACT] = max(S[bank + B_ACT], d + S[D + RP])
        S[c + ROW_FREE] = d + S[D + PRE_BUS]
        S[D + N_PRE] += 1
        lost = False
        for side in range(2):
            lost |= side == k and S[bank + QUEUE + 3 * side + Q_HIT] >= 0
            S[bank + QUEUE + 3 * side + Q_HIT] = -1
            _set_bank(S, q, bank, b, side)
        if S[D + LOG_CAP] > 0:
            _record(S, D, d, q, C_PRE, b, 0)
        if lost:
            _scan_column(S, D, q, d + 1)
    _scan_row(S, D, q, d + 1)


@njit
def run_channel(S, D, channel, until):
    """Run one channel through DRAM cycle `until`. Finished entries are appended to the sinks."""
    c = S[D + CH_BASE] + channel * S[D + CH_WORDS]
    npc = S[D + NPC]
    step = S[D + PC_WORDS]
    first = c + CH_HEAD
    last = first + npc * step
    stop = S[D + STOP_WHEN_EMPTY]
    d = S[c + CYCLE]
    while stop == 0 or S[c + PENDING] > 0:
        t = INF
        for q in range(first, last, step):
            t = min(t, S[q + EVT_T], S[q + COL_T], max(S[q + ROW_T], S[c + ROW_FREE]))
        d = max(d, t)
        if d > until:
            break
        for q in range(first, last, step):
            if S[q + EVT_T] <= d:
                _intake(S, D, q, d)
        # One column command: the pseudo-channels take turns when both could.
        q = first + S[c + LAST_COL] * step
        for _ in range(npc):
            q += step
            if q == last:
                q = first
            if S[q + COL_T] < d:
                _scan_column(S, D, q, d)
            if S[q + COL_T] == d:
                _column(S, D, c, q, d)
                S[c + LAST_COL] = (q - first) // step
                break
        # One row command, when the bus is free.
        if S[c + ROW_FREE] <= d:
            q = first + S[c + LAST_ROW] * step
            for _ in range(npc):
                q += step
                if q == last:
                    q = first
                if S[q + ROW_T] < d:
                    _scan_row(S, D, q, d)
                if S[q + ROW_T] == d:
                    _row(S, D, c, q, d)
                    S[c + LAST_ROW] = (q - first) // step
                    break
        d += 1
    S[c + CYCLE] = max(S[c + CYCLE], min(d, until + 1))


COUNTERS = {"dram_reads": N_RD, "dram_writes": N_WR, "dram_activates": N_ACT, "dram_precharges": N_PRE,
            "dram_refreshes": N_REF, "dram_row_hits": N_ROW_HIT}
assert BURSTS == 4
