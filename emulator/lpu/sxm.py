"""Compiled lane switches of the fast LPU engine: SHIFT, PERMUTE, DISTRIBUTE, TRANSPOSE.

Operands are sampled and moved at issue; the result waits in the unit's ring until it appears. A result
that mixes superlanes is poison everywhere if an operand is poison anywhere.
"""

from __future__ import annotations

import numpy as np

from emulator.lpu.errors import KINDS
from emulator.lpu.geometry import LANES_PER_SUPERLANE
from emulator.lpu.state import (
    COLUMN_AT,
    FIRST_SXM,
    FORM_SIMPLE,
    FULL,
    LANE_COUNT,
    NOW,
    PEND_DST,
    PEND_ITERATION,
    PEND_POISON,
    PEND_ROW,
    SXM_BYTES,
    SXM_MASK,
)
from emulator.lpu.streams import copy, fail, pend, pending, poison_of, put, slot_taken, take
from emulator.lpu.text import DELAY, FIELDS, OP, ZERO_LANE
from isa.jit import njit
from isa.opcodes import code

SHIFT, PERMUTE, DISTRIBUTE, TRANSPOSE = (code(n) for n in ("SHIFT", "PERMUTE", "DISTRIBUTE", "TRANSPOSE"))
UNIT_BUSY = np.int64(KINDS.index("unit_busy"))
MOST_STREAMS = 16  # of one instruction


@njit
def result_bytes(M, queue, t):
    """Place of the first stream of the result that a unit puts out in cycle t."""
    slot = (queue - M[FIRST_SXM]) * (M[SXM_MASK] + 1) + (t & M[SXM_MASK])
    return M[SXM_BYTES] + slot * MOST_STREAMS * M[LANE_COUNT]


@njit
def sxm(M, T, MAPS, BYTES, queue, row, iteration):
    op, lanes = T[row, OP], M[LANE_COUNT]
    done = M[NOW] + T[row, DELAY]
    if slot_taken(M, done, queue):
        return fail(M, UNIT_BUSY, queue, row, iteration, FORM_SIMPLE, done)
    streams = np.int64(MOST_STREAMS) if op == TRANSPOSE else T[row, FIELDS]
    field = FIELDS if op == TRANSPOSE else FIELDS + 1
    to = result_bytes(M, queue, done)
    poison = np.int64(0)
    for n in range(streams):
        register = take(M, T[row, field] + n, M[M[COLUMN_AT] + queue], queue, row, iteration)
        if register < 0:
            return True
        poison |= poison_of(M, register)
        if poison != M[FULL]:
            move(M, T, MAPS, BYTES, op, row, n, register * lanes, to)
    if poison != 0 and (op == SHIFT or op == PERMUTE):
        poison = M[FULL]
    pend(M, queue, done, T[row, field + 1], poison, row, iteration)
    return False


@njit
def move(M, T, MAPS, BYTES, op, row, n, start, to):
    """Put operand stream n, whose lanes begin at BYTES[start], into the result at BYTES[to]."""
    lanes = M[LANE_COUNT]
    if op == TRANSPOSE:
        for i in range(lanes):
            lane = i % LANES_PER_SUPERLANE
            BYTES[to + lane * lanes + i - lane + n] = BYTES[start + i]
        return
    to += n * lanes
    if op == SHIFT:
        distance = T[row, FIELDS + 3]
        for i in range(lanes):
            source = i - distance
            BYTES[to + i] = BYTES[start + source] if 0 <= source < lanes else np.uint8(0)
    elif op == PERMUTE:
        lane_map = T[row, FIELDS + 3]
        for i in range(lanes):
            BYTES[to + i] = BYTES[start + MAPS[lane_map, i]]
    else:
        lane_map = T[row, FIELDS + 3]
        for i in range(lanes):
            lane = MAPS[lane_map, i]
            source = start + i - i % LANES_PER_SUPERLANE + lane
            BYTES[to + i] = np.uint8(0) if lane == ZERO_LANE else BYTES[source]


@njit
def sxm_appears(M, T, BYTES, queue):
    t, lanes = M[NOW], M[LANE_COUNT]
    p = pending(M, queue, t)
    row, poison = M[p + PEND_ROW], M[p + PEND_POISON]
    at = result_bytes(M, queue, t)
    for n in range(MOST_STREAMS if T[row, OP] == TRANSPOSE else T[row, FIELDS]):
        register = put(M, M[p + PEND_DST] + n, M[M[COLUMN_AT] + queue], poison, queue, row, M[p + PEND_ITERATION])
        if register < 0:
            return True
        if poison != M[FULL]:
            copy(BYTES, register * lanes, BYTES, at + n * lanes, lanes)
    return False
