"""The open rows of the fast GPU's DRAM in a trace: a table beside the array M, a row of it for each bank."""

from __future__ import annotations

import numpy as np

from emulator.dram import layout as dram
from emulator.gpu.memory_layout import RATIO_DRAM, RATIO_SM, SECTOR_BYTES, SLICES, TRACE, D
from emulator.host_memory import zeros
from emulator.trace import KIND_INDEX
from emulator.trace_layout import BYTES, END, RECORD, START, WHAT

HBM_READ = KIND_INDEX["hbm_read"]  # hbm_write follows


def openings_words(M: np.ndarray) -> int:
    """Words of the table."""
    return int(M[D + dram.TOTAL_PC] * M[D + dram.BANKS]) * dram.OPENING_WORDS


def with_openings(M: np.ndarray) -> np.ndarray:
    """A longer copy of M, with the table behind what was there."""
    longer = zeros(len(M) + openings_words(M), np.int64)
    longer[: len(M)] = M
    longer[D + dram.OPENINGS] = 0
    longer[D + dram.EVENTS_AT] = len(longer)  # the section for events comes next
    return longer


def watch_rows(M: np.ndarray, on: bool) -> None:
    """Begin to note open rows, those that are open already as if they had just been opened; or stop."""
    at = int(M[D + dram.EVENTS_AT]) - openings_words(M)
    M[D + dram.OPENINGS], M[D + dram.LOG_CAP] = (at, 1) if on else (0, 0)
    if not on:
        return
    M[D + dram.CLOCK], M[D + dram.CLOCK_DRAM] = M[RATIO_SM], M[RATIO_DRAM]
    M[D + dram.FIRST_UNIT] = M[SLICES]
    assert M[TRACE] == M[D + dram.EVENTS_AT]
    table = _table(M)
    table[:] = 0
    table[:, dram.OPENED] = _cycles(M)


def open_rows(M: np.ndarray) -> np.ndarray:
    """Events of the rows that are open now, up to now; what comes later is theirs anew."""
    table, cycles = _table(M), _cycles(M)
    parts = []
    for k in range(2):
        used = np.flatnonzero(table[:, dram.BURSTS_READ + k])
        events = np.full((len(used), RECORD), -1, dtype=np.int64)
        events[:, START] = table[used, dram.OPENED] * M[RATIO_SM] // M[RATIO_DRAM]
        events[:, END] = np.maximum(events[:, START] + 1, cycles[used] * M[RATIO_SM] // M[RATIO_DRAM])
        events[:, WHAT] = M[SLICES] + used << 16 | HBM_READ + k << 8
        events[:, BYTES] = SECTOR_BYTES * table[used, dram.BURSTS_READ + k]
        parts.append(events)
    table[:, dram.BURSTS_READ :] = 0
    return np.concatenate(parts)


def _table(M: np.ndarray) -> np.ndarray:
    end = int(M[D + dram.EVENTS_AT])
    return M[end - openings_words(M) : end].reshape(-1, dram.OPENING_WORDS)


def _cycles(M: np.ndarray) -> np.ndarray:
    """The next DRAM cycle of each bank's channel."""
    channels = int(M[D + dram.CHANNELS])
    first, words = int(M[D + dram.CH_BASE]), int(M[D + dram.CH_WORDS])
    now = M[first : first + channels * words].reshape(channels, words)[:, dram.CYCLE]
    return np.repeat(now, int(M[D + dram.NPC] * M[D + dram.BANKS]))
