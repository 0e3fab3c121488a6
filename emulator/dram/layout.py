"""The flat int64 array of the fast DRAM engine: names of its words, and an idle DRAM.

The array S holds, at offset D: a header (numbers of the chip, counters), the channels with their
pseudo-channels and banks, a pool of entries and, for tests, a log of commands.
"""

from __future__ import annotations

import numpy as np

from emulator.dram.config import LINE_BYTES, ORDERS, DramConfig

INF = 2**62
STALE = -1  # in COL_T, ACT_T, PRE_T, NEXT_T: has to be found again
# A candidate for a command as one number, the smallest goes first: cycles to wait << WAIT_AT | age | bank.
# An age is a sequence number << AGE_AT with the bank in the bits below it.
AGE_AT, WAIT_AT, NO_CANDIDATE = 6, 42, 2**63 - 1
AGES, BANK_BITS = (1 << WAIT_AT) - 1, (1 << AGE_AT) - 1
ROW_INTERLEAVED, BANK_INTERLEAVED, IN_ORDER = range(3)  # as config.ORDERS

# Header words, at D + name.
(CHANNELS, NPC, BANKS, GROUPS, CH_BASE, CH_WORDS, PC_WORDS, POOL, FREE, LOG, LOG_CAP, LOG_N,
 CHUNK_LINES, SCRAMBLE_BITS, ROW_CHUNKS, ROWS, ORDER, TOTAL_PC, STRIDE, RD_CAP, WR_CAP, HIGH, LOW, AGE_CAP,
 ACT_BUS, PRE_BUS, BURST, CCD_S, CCD_L, CL, CWL, RCD_RD, RCD_WR, RP, RAS, RC, RRD_S, RRD_L, FAW, WTR_S, WTR_L,
 RTW, WR, RTP, REFI, RFC, REF_ALL, STOP_WHEN_EMPTY, TRACE, TRACE_CAP, TRACE_N,
 N_RD, N_WR, N_ACT, N_PRE, N_REF, N_ROW_HIT, BANKS_END, LIST_AT) = range(59)
# For a trace of rows (0: none is kept): where its table begins, where events go, cycles of the events' clock to those
# of DRAM, number of the first bank's unit. A bank's words in the table: since when its row is open, bursts of it.
OPENINGS, EVENTS_AT, CLOCK, CLOCK_DRAM, FIRST_UNIT = range(59, 64)
HEADER = 64
OPENED, BURSTS_READ, BURSTS_WRITTEN, OPENING_WORDS = range(4)

# A channel's words, then its pseudo-channels'. LAST_COL, LAST_ROW: the pseudo-channel that had a command last.
# HUNGRY: an empty list of arrivals where MORE are promised; `run_channel` returns, to be fed.
CYCLE, LAST_COL, LAST_ROW, ROW_FREE, PENDING, HUNGRY, _0, CH_HEAD = range(8)
# A pseudo-channel's words (pairs: read, write), then BANK_WORDS a bank, GROUP_WORDS a bank group, and at LIST_AT, for
# each direction, the ages of the HIT_N entries that are their banks' oldest hits, in order. COL_*, ACT_*, PRE_*: its
# next command of each kind: cycle, bank, age. Masks of banks, for each direction: with a waiting entry that hits the
# open row; with entries and no open row; with entries and an open row that none hits; with a hit that is not the
# oldest.
(COUNT, _1, MODE, FIFO_HEAD, FIFO_TAIL, SEQ, COL_OK, _2, ACT_OK, FAW_RING, _3, _4, _5, FAW_I, REF_T, REF_B,
 EVT_T, NEXT_T, COL_T, COL_B, COL_AGE, ACT_T, ACT_B, ACT_AGE, PRE_T, PRE_B, PRE_AGE, SINK, PC_ID, MORE,
 INTAKE_T, FRESH,
 HITS, _6, CLOSED, _7, OTHER, _8, AGED, _9, HIT_N, _17) = range(42)
PC_HEAD = 48
# A bank's words (pairs: read, write): earliest cycles of a column command, of a PRE, of an ACT; open row, or -1; its
# group's words; then its two queues: oldest entry, newest, oldest that hits (while in HITS), age of the oldest, age
# of the hit. A group's words: earliest cycles of a column command and of an ACT for any of its banks. A host's cache
# line holds eight words: two a bank.
(B_COL, _10, B_PRE, B_ACT, OPEN, GROUP, Q_HEAD, _11, Q_TAIL, _12, Q_HIT, _13, Q_AGE, _14, Q_HIT_AGE, _15,
 BANK_WORDS) = range(17)
G_COL, _16, G_ACT, _18, GROUP_WORDS = range(5)
# An entry's words. E_BANK: 2 * bank + write. E_SEQ: age. E_TIME: arrival, then entry into the queue, then end of
# data; E_SEQ is then the entry into the queue. E_TAG and E_AUX are the owner's.
E_NEXT, E_ROW, E_BANK, E_MASK, E_SEQ, E_TIME, E_TAG, E_AUX, ENTRY_WORDS = range(9)
# A sink: finished reads and finished writes as two lists.
RD_DONE, RD_LAST, WR_DONE, WR_LAST, SINK_WORDS = range(5)
# A command in the log.
C_ACT, C_PRE, C_RD, C_WR, C_REF = range(5)
TRACE_WORDS = 3  # of a traced request: arrival, tag, 2 * mask + write
LOG_WORDS = 5  # cycle, pseudo-channel, command, bank, row (ACT) or burst within the row's line (RD, WR)

# Counter name -> header word.
COUNTERS = {"dram_reads": N_RD, "dram_writes": N_WR, "dram_activates": N_ACT, "dram_precharges": N_PRE,
            "dram_refreshes": N_REF, "dram_row_hits": N_ROW_HIT}


def words(config: DramConfig, entries: int, log: int = 0) -> int:
    """Length of the array part for a DRAM with room for `entries` entries and `log` commands."""
    return HEADER + config.channels * _channel_words(config) + entries * ENTRY_WORDS + log * LOG_WORDS


def _channel_words(config: DramConfig) -> int:
    return CH_HEAD + config.pseudo_channels * _pc_words(config)


def _pc_words(config: DramConfig) -> int:
    return _list_at(config) + -(-2 * config.banks // 8) * 8


def _list_at(config: DramConfig) -> int:
    return PC_HEAD + BANK_WORDS * config.banks + -(-GROUP_WORDS * config.groups // 8) * 8


def build(state: np.ndarray, offset: int, config: DramConfig, entries: int, sinks: np.ndarray, log: int = 0) -> None:
    """Write an idle DRAM into state[offset:]. sinks: for each pseudo-channel the index of its sink."""
    s, d = state, offset
    refi, rfc = config.refresh_timing
    numbers = {
        CHANNELS: config.channels, NPC: config.pseudo_channels, BANKS: config.banks, GROUPS: config.groups,
        CH_BASE: d + HEADER, CH_WORDS: _channel_words(config), PC_WORDS: _pc_words(config),
        CHUNK_LINES: config.chunk_bytes // LINE_BYTES, SCRAMBLE_BITS: config.scramble_bits,
        ROW_CHUNKS: config.row_bytes // config.chunk_bytes, ROWS: config.rows, ORDER: ORDERS.index(config.order),
        TOTAL_PC: config.total_pseudo_channels, STRIDE: config.stride, RD_CAP: config.read_queue,
        WR_CAP: config.write_queue,
        HIGH: config.drain_high, LOW: config.drain_low, AGE_CAP: config.age_cap, ACT_BUS: config.act_bus_cycles,
        PRE_BUS: config.pre_bus_cycles, BURST: config.burst, CCD_S: config.ccd_s, CCD_L: config.ccd_l, CL: config.cl,
        CWL: config.cwl, RCD_RD: config.rcd_rd, RCD_WR: config.rcd_wr, RP: config.rp, RAS: config.ras, RC: config.rc,
        RRD_S: config.rrd_s, RRD_L: config.rrd_l, FAW: config.faw, WTR_S: config.wtr_s, WTR_L: config.wtr_l,
        RTW: config.rtw, WR: config.wr, RTP: config.rtp, REFI: refi, RFC: rfc,
        REF_ALL: int(config.refresh == "all_bank"), BANKS_END: PC_HEAD + BANK_WORDS * config.banks,
        LIST_AT: _list_at(config),
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
        s[c + LAST_COL] = s[c + LAST_ROW] = c + CH_HEAD + (config.pseudo_channels - 1) * _pc_words(config)
        for p in range(config.pseudo_channels):
            q = c + CH_HEAD + p * _pc_words(config)
            s[q + FIFO_HEAD] = s[q + FIFO_TAIL] = -1
            s[q + FAW_RING : q + FAW_RING + 4] = -INF
            s[q + PC_ID] = channel * config.pseudo_channels + p
            s[q + SINK] = sinks[s[q + PC_ID]]
            s[q + COL_T] = s[q + ACT_T] = s[q + PRE_T] = INF
            s[q + COL_B] = s[q + ACT_B] = s[q + PRE_B] = -1
            s[q + REF_T] = config.first_refresh(int(s[q + PC_ID])) if refi else INF
            s[q + EVT_T] = s[q + NEXT_T] = s[q + REF_T]
            groups = q + PC_HEAD + BANK_WORDS * config.banks
            banks = s[q + PC_HEAD : groups].reshape(config.banks, BANK_WORDS)
            banks[:, OPEN] = -1
            banks[:, GROUP] = groups + GROUP_WORDS * (np.arange(config.banks) % config.groups)
    for sink in np.unique(sinks):
        s[sink : sink + SINK_WORDS] = -1


def keep_trace(state: np.ndarray, offset: int, room: int) -> np.ndarray:
    """A longer copy of the array, in which the DRAM at `offset` notes what is pushed: up to `room` requests."""
    longer = np.zeros(len(state) + room * TRACE_WORDS, dtype=np.int64)  # pages that are not used cost nothing
    longer[: len(state)] = state
    longer[offset + TRACE], longer[offset + TRACE_CAP], longer[offset + TRACE_N] = len(state), room, 0
    return longer


def traced(state: np.ndarray, offset: int) -> tuple[int, np.ndarray]:
    """How many requests were pushed since `keep_trace`, and [those that fit, TRACE_WORDS]."""
    count, at = int(state[offset + TRACE_N]), int(state[offset + TRACE])
    kept = min(count, int(state[offset + TRACE_CAP]))
    return count, state[at : at + kept * TRACE_WORDS].reshape(kept, TRACE_WORDS)
