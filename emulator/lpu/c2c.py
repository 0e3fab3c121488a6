"""Compiled links of the fast LPU engine: SEND and RECV at this chip's ends.

What is sent is kept in M and BYTES until network.py hands it to the other end, which puts it into that
chip's records of what it receives. Record n of an end belongs to the n-th SEND or RECV over it.
"""

from __future__ import annotations

import numpy as np

from emulator.lpu.errors import KINDS
from emulator.lpu.state import (
    COLUMN_AT,
    END_AT,
    END_FIRST_RECEIVED,
    END_FIRST_SENT,
    END_LAST,
    END_RECEIVED,
    END_SENT,
    END_SIZE,
    FORM_SIMPLE,
    FULL,
    LANE_COUNT,
    LOG_ARRIVES,
    LOG_CYCLE,
    LOG_ITERATION,
    LOG_POISON,
    LOG_QUEUE,
    LOG_ROW,
    LOG_SIZE,
    NO_DETAIL,
    NOW,
    PORT_AT,
    RECEIVED_AT,
    RECEIVED_BYTES,
    SENT_AT,
    SENT_BYTES,
    SLOT,
)
from emulator.lpu.streams import copy, fail, poison_of, put, take
from emulator.lpu.text import FIELDS
from isa.jit import njit

NO_LINK, LINK_BUSY, RECEIVE_EARLY = (np.int64(KINDS.index(k)) for k in ("no_link", "link_busy", "receive_early"))


@njit
def link_end(M, T, queue, row, iteration):
    """Place of the record of the end that an instruction's port means; -1 where no link is (an error)."""
    link = M[M[PORT_AT] + T[row, FIELDS]]
    if link < 0:
        fail(M, NO_LINK, queue, row, iteration, FORM_SIMPLE, NO_DETAIL)
        return np.int64(-1)
    return M[END_AT] + link * END_SIZE


@njit
def log(M, record, queue, row, iteration):
    """Note in a record which instruction it belongs to, and when that was issued."""
    M[record + LOG_CYCLE], M[record + LOG_QUEUE] = M[NOW], queue
    M[record + LOG_ROW], M[record + LOG_ITERATION] = row, iteration


@njit
def send(M, T, BYTES, queue, row, iteration):
    """SEND: the vector that passes the link column in this cycle is on its way."""
    end = link_end(M, T, queue, row, iteration)
    if end < 0:
        return True
    free = M[end + END_LAST] + M[SLOT]
    if M[NOW] < free:
        return fail(M, LINK_BUSY, queue, row, iteration, FORM_SIMPLE, free)
    place = M[end + END_FIRST_SENT] + M[end + END_SENT]
    record = M[SENT_AT] + place * LOG_SIZE
    log(M, record, queue, row, iteration)
    M[end + END_LAST] = M[NOW]
    M[end + END_SENT] += 1
    register = take(M, T[row, FIELDS + 1], M[M[COLUMN_AT] + queue], queue, row, iteration)
    if register < 0:
        return True
    poison = poison_of(M, register)
    M[record + LOG_POISON] = poison
    if poison != M[FULL]:
        lanes = M[LANE_COUNT]
        copy(BYTES, M[SENT_BYTES] + place * lanes, BYTES, register * lanes, lanes)
    return False


@njit
def recv(M, T, BYTES, queue, row, iteration):
    """RECV: the oldest vector that has arrived is on the link column in this cycle."""
    end = link_end(M, T, queue, row, iteration)
    if end < 0:
        return True
    place = M[end + END_FIRST_RECEIVED] + M[end + END_RECEIVED]
    record = M[RECEIVED_AT] + place * LOG_SIZE
    log(M, record, queue, row, iteration)
    M[end + END_RECEIVED] += 1
    if M[record + LOG_ARRIVES] > M[NOW]:
        return fail(M, RECEIVE_EARLY, queue, row, iteration, FORM_SIMPLE, NO_DETAIL)
    poison = M[record + LOG_POISON]
    register = put(M, T[row, FIELDS + 1], M[M[COLUMN_AT] + queue], poison, queue, row, iteration)
    if register < 0:
        return True
    if poison != M[FULL]:
        lanes = M[LANE_COUNT]
        copy(BYTES, register * lanes, BYTES, M[RECEIVED_BYTES] + place * lanes, lanes)
    return False
