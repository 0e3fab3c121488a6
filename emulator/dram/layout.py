"""The flat int64 array of the fast DRAM engine: names of its words, and an idle DRAM.

The array S holds, at offset D: a header (numbers of the chip, counters), the channels with their
pseudo-channels and banks, a pool of entries and, for tests, a log of commands.
"""

from __future__ import annotations

import numpy as np

from emulator.dram.config import LINE_BYTES, DramConfig

INF = 2**62
STALE = -1  # in COL_T and ROW_T: has to be found again

# Header words, at D + name.
(CHANNELS, NPC, BANKS, GROUPS, CH_BASE, CH_WORDS, PC_WORDS, BANK_OFF, POOL, FREE, LOG, LOG_CAP, LOG_N,
 CHUNK_LINES, SCRAMBLE_BITS, ROW_CHUNKS, TOTAL_PC, STRIDE, RD_CAP, WR_CAP, HIGH, LOW, AGE_CAP, ACT_BUS, PRE_BUS,
 BURST, CCD_S, CCD_L, CL, CWL, RCD_RD, RCD_WR, RP, RAS, RC, RRD_S, RRD_L, FAW, WTR_S, WTR_L, RTW, WR, RTP,
 REFI, RFC, STOP_WHEN_EMPTY,
 N_RD, N_WR, N_ACT, N_PRE, N_REF, N_ROW_HIT, HEADER) = range(53)

# A channel's words, then its pseudo-channels'.
CYCLE, LAST_COL, LAST_ROW, ROW_FREE, PENDING, CH_HEAD = range(6)
# A pseudo-channel's words (pairs: read, write), then 3 a bank group, then BANK_WORDS a bank.
(COUNT, _1, MODE, FIFO_HEAD, FIFO_TAIL, AGED, _2, SEQ, COL_OK, _3, ACT_OK, FAW_RING, _4, _5, _6, FAW_I, REF_T, REF_B,
 EVT_T, COL_T, COL_B, ROW_T, ROW_B, SINK, PC_ID, LISTS) = range(26)
HIT, CLOSED, OTHER = range(3)  # lists of a direction's bank queues, in order of age: first, last
PC_HEAD = LISTS + 2 * 3 * 2
# A bank's words, then its two queues: oldest entry, newest, oldest that hits the open row, the list
# that the queue is in, the sequence number that orders it there, and its links.
OPEN, B_ACT, B_COL, _7, B_PRE, FRESH, GROUP, NUMBER, QUEUE = range(9)
Q_HEAD, Q_TAIL, Q_HIT, Q_LIST, Q_SEQ, Q_NEXT, Q_PREVIOUS, QUEUE_WORDS = range(8)
BANK_WORDS = QUEUE + 2 * QUEUE_WORDS
# An entry's words. E_BANK: 2 * bank + write. E_TIME: arrival, then entry into the queue, then end of
# data. E_TAG and E_AUX are the owner's.
E_NEXT, E_ROW, E_BANK, E_MASK, E_SEQ, E_TIME, E_TAG, E_AUX, ENTRY_WORDS = range(9)
# A sink: finished reads and finished writes as two lists.
RD_DONE, RD_LAST, WR_DONE, WR_LAST, SINK_WORDS = range(5)
# A command in the log.
C_ACT, C_PRE, C_RD, C_WR, C_REF = range(5)
# Typed, because Numba compiles a function anew for each literal argument.
LOG_ROW, LOG_COLUMN, LOG_REFRESH, NONE = np.int64(0), np.int64(1), np.int64(2), np.int64(-1)
LOG_WORDS = 5  # cycle, pseudo-channel, command, bank, row (ACT) or burst within the row's line (RD, WR)

BIT = np.full(67, -1, dtype=np.int64)  # bit number of a power of two below 2**63, by its remainder
for _bit in range(63):
    BIT[(1 << _bit) % 67] = _bit

# Counter name -> header word.
COUNTERS = {"dram_reads": N_RD, "dram_writes": N_WR, "dram_activates": N_ACT, "dram_precharges": N_PRE,
            "dram_refreshes": N_REF, "dram_row_hits": N_ROW_HIT}


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
        TOTAL_PC: config.total_pseudo_channels, STRIDE: config.stride, RD_CAP: config.read_queue,
        WR_CAP: config.write_queue,
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
            s[q + LISTS : q + PC_HEAD] = -1
            s[q + REF_T] = config.first_refresh(int(s[q + PC_ID])) if config.refi else INF
            s[q + EVT_T] = s[q + REF_T]
            for b in range(config.banks):
                bank = q + s[d + BANK_OFF] + b * BANK_WORDS
                s[bank + OPEN] = -1
                s[bank + QUEUE : bank + BANK_WORDS] = -1
                s[bank + NUMBER] = b
                s[bank + GROUP] = q + PC_HEAD + 3 * (b % config.groups)
    for sink in np.unique(sinks):
        s[sink : sink + SINK_WORDS] = -1
