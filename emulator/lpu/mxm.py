"""Compiled matrix planes of the fast LPU engine: LW, IW, ABC, ACC.

An f16 pair keeps its weights under its even plane; both planes' records carry the type. A pass is
computed when the activation is fed, from the weights installed then; its result waits in the plane's
ring until it lands in the accumulator.
"""

from __future__ import annotations

import numpy as np

from emulator.lpu.errors import KINDS
from emulator.lpu.geometry import LANES_PER_SUPERLANE
from emulator.lpu.state import (
    ACC_AT,
    ACC_LANDING,
    ACC_LANES,
    ACC_MASK,
    ACC_POISON,
    ACC_SIZE,
    ACTIVATION_HALVES,
    COLUMN_AT,
    COMPUTE,
    DEPTH,
    DONE,
    ERROR,
    FEED,
    FEEDING_UNTIL,
    FORM_SIMPLE,
    FULL,
    INGESTED,
    INSTALL,
    INSTALLED_COUNT,
    INSTALLED_POISON,
    INSTALLED_ROWS,
    INSTALLED_TYPE,
    INSTALLING_UNTIL,
    LANE_COUNT,
    MACS,
    NO_DETAIL,
    NOW,
    PEND_ITERATION,
    PEND_ROW,
    PLANE_AT,
    PLANE_SIZE,
    RESULTS_FED,
    RESULTS_LANDED,
    RESULTS_TAKEN,
    ROW_AT,
    ROW_EMPTY,
    ROW_POISON,
    ROW_REAL,
    ROWS,
    SHADOW_BYTES,
    SHADOW_ROWS,
    SHADOW_TYPE,
    UNIT_AT,
    WORK_A,
    WORK_OUT,
    WORK_ROWS,
    WORK_TILE,
)
from emulator.lpu.streams import copy, fail, join, pend, pending, poison_of, put, split, take
from emulator.lpu.text import DELAY, FIELDS, STRIDE
from isa.jit import njit
from isa.opcodes import F16

UNIT_BUSY, WEIGHTS_MISSING, WEIGHTS_IN_USE, ACCUMULATOR_EARLY, ACCUMULATOR_OVERRUN, ADDRESS_RANGE = (
    np.int64(KINDS.index(k)) for k in ("unit_busy", "weights_missing", "weights_in_use", "accumulator_early",
                             "accumulator_overrun", "address_range"))
PLANES = 4
# Details of weights_in_use and weights_missing, see errors.py.
INSTALLING, OTHER_TYPE, FEEDING, SHADOW_TYPE_DIFFERS = (np.int64(n) for n in range(4))
NOT_INSTALLED, EMPTY_SHADOW = (np.int64(n) for n in range(2))


@njit
def halves(M, T, queue, row):
    """(first plane's record, last plane's record) that an instruction concerns."""
    first = M[PLANE_AT] + M[M[UNIT_AT] + queue] * PLANE_SIZE
    return first, first + (PLANE_SIZE if T[row, FIELDS] == F16 else 0)


@njit
def lw(M, T, BYTES, HALVES, queue, row, iteration):
    kind, stream, rows = T[row, FIELDS], T[row, FIELDS + 1], T[row, FIELDS + 2]
    at = T[row, FIELDS + 3] + T[row, STRIDE] * iteration
    first, last = halves(M, T, queue, row)
    if at < 0 or at + rows > M[ROWS]:
        return fail(M, ADDRESS_RANGE, queue, row, iteration, FORM_SIMPLE, at if at < 0 else at + rows - 1)
    if M[NOW] <= max(M[first + INSTALLING_UNTIL], M[last + INSTALLING_UNTIL]):
        return fail(M, WEIGHTS_IN_USE, queue, row, iteration, FORM_SIMPLE, INSTALLING)
    if (M[first + SHADOW_TYPE] != -1 and M[first + SHADOW_TYPE] != kind
            or M[last + SHADOW_TYPE] != -1 and M[last + SHADOW_TYPE] != kind):
        return fail(M, WEIGHTS_IN_USE, queue, row, iteration, FORM_SIMPLE, OTHER_TYPE)
    lanes, column, plane = M[LANE_COUNT], M[M[COLUMN_AT] + queue], M[M[UNIT_AT] + queue]
    marks = M[ROW_AT] + plane * M[ROWS] + at
    if kind == F16:
        to = (plane // 2 * M[ROWS] + at) * lanes
        for n in range(rows):
            low = take(M, stream + 2 * n, column, queue, row, iteration)
            if low < 0:
                return True
            high = take(M, stream + 2 * n + 1, column, queue, row, iteration)
            if high < 0:
                return True
            real = poison_of(M, low) | poison_of(M, high) == 0
            M[marks + n] = ROW_REAL if real else ROW_POISON
            if real:
                low, high = low * lanes, high * lanes
                join(HALVES, to, BYTES, low, high, lanes)
            to += lanes
    else:
        to = M[SHADOW_BYTES] + (plane * M[ROWS] + at) * lanes
        for n in range(rows):
            register = take(M, stream + n, column, queue, row, iteration)
            if register < 0:
                return True
            real = poison_of(M, register) == 0
            M[marks + n] = ROW_REAL if real else ROW_POISON
            if real:
                copy(BYTES, to, BYTES, register * lanes, lanes)
            to += lanes
    M[first + SHADOW_TYPE], M[last + SHADOW_TYPE] = kind, kind
    M[first + SHADOW_ROWS] = max(M[first + SHADOW_ROWS], at + rows)
    M[INGESTED] += rows * (2 if kind == F16 else 1)
    return False


@njit
def tile_at(M, plane, kind):
    """First element of a plane's installed weights in TILE8, or of its pair's in TILE16."""
    return (plane // 2 if kind == F16 else plane) * M[ROWS] * M[LANE_COUNT]


@njit
def iw(M, T, queue, row, iteration):
    """Swap. DONE, ERROR or COMPUTE: then the kernel puts the rows at M[WORK_A] into the tile at M[WORK_TILE]."""
    kind = T[row, FIELDS]
    first, last = halves(M, T, queue, row)
    if M[first + SHADOW_TYPE] == -1:
        fail(M, WEIGHTS_MISSING, queue, row, iteration, FORM_SIMPLE, EMPTY_SHADOW)
        return ERROR
    if M[first + SHADOW_TYPE] != kind or M[last + SHADOW_TYPE] != kind:
        fail(M, WEIGHTS_IN_USE, queue, row, iteration, FORM_SIMPLE, SHADOW_TYPE_DIFFERS)
        return ERROR
    if M[NOW] <= max(M[first + FEEDING_UNTIL], M[last + FEEDING_UNTIL]):
        fail(M, WEIGHTS_IN_USE, queue, row, iteration, FORM_SIMPLE, FEEDING)
        return ERROR
    plane = M[M[UNIT_AT] + queue]
    if M[first + INSTALLED_TYPE] == F16:  # a pair that loses one half is no pair
        M[M[PLANE_AT] + (plane ^ 1) * PLANE_SIZE + INSTALLED_TYPE] = -1
    M[first + INSTALLED_TYPE], M[last + INSTALLED_TYPE] = kind, kind
    M[first + SHADOW_TYPE], M[last + SHADOW_TYPE] = -1, -1
    until = M[NOW] + M[INSTALL] - 1
    M[first + INSTALLING_UNTIL], M[last + INSTALLING_UNTIL] = until, until

    rows, lanes = M[first + SHADOW_ROWS], M[LANE_COUNT]
    marks = M[ROW_AT] + plane * M[ROWS]
    installed = marks + PLANES * M[ROWS]
    raw = plane // 2 * M[ROWS] * lanes if kind == F16 else M[SHADOW_BYTES] + plane * M[ROWS] * lanes
    loaded, real, poison = np.int64(0), np.int64(0), np.int64(0)
    for r in range(rows):
        mark = M[marks + r]
        M[marks + r] = ROW_EMPTY
        M[installed + r] = mark
        loaded += mark != ROW_EMPTY
        real += mark == ROW_REAL
        if mark == ROW_POISON:
            poison |= np.int64(1) << (r // LANES_PER_SUPERLANE)
    M[first + SHADOW_ROWS] = 0
    M[first + INSTALLED_ROWS] = rows if real > 0 else 0
    M[first + INSTALLED_COUNT] = loaded
    M[first + INSTALLED_POISON] = poison
    if real == 0:
        return DONE
    M[WORK_A], M[WORK_TILE], M[WORK_ROWS] = raw, tile_at(M, plane, kind), rows
    return COMPUTE


@njit
def abc(M, T, BYTES, LANES, HALVES, queue, row, iteration):
    """Feed. DONE, ERROR or COMPUTE: then the kernel multiplies M[WORK_*]."""
    t, lanes, kind, stream = M[NOW], M[LANE_COUNT], T[row, FIELDS], T[row, FIELDS + 1]
    first, last = halves(M, T, queue, row)
    busy = max(M[first + FEEDING_UNTIL], M[last + FEEDING_UNTIL])
    if t <= busy:
        fail(M, UNIT_BUSY, queue, row, iteration, FORM_SIMPLE, busy)
        return ERROR
    if M[first + INSTALLED_TYPE] != kind or M[last + INSTALLED_TYPE] != kind:
        fail(M, WEIGHTS_MISSING, queue, row, iteration, FORM_SIMPLE, NOT_INSTALLED)
        return ERROR
    column, plane = M[M[COLUMN_AT] + queue], M[M[UNIT_AT] + queue]
    low = take(M, stream, column, queue, row, iteration)
    if low < 0:
        return ERROR
    high = low
    if kind == F16:
        high = take(M, stream + 1, column, queue, row, iteration)
        if high < 0:
            return ERROR
    until = t + (M[FEED] - 1 if kind == F16 else 0)
    M[first + FEEDING_UNTIL], M[last + FEEDING_UNTIL] = until, until
    M[MACS] += M[first + INSTALLED_COUNT] * lanes

    slot = plane * (M[ACC_MASK] + 1) + (M[first + RESULTS_FED] & M[ACC_MASK])
    M[first + RESULTS_FED] += 1
    landing = t + T[row, DELAY]
    poison = M[first + INSTALLED_POISON]
    if poison_of(M, low) | poison_of(M, high) != 0:
        poison = M[FULL]
    record = M[ACC_AT] + slot * ACC_SIZE
    M[record + ACC_POISON], M[record + ACC_LANDING] = poison, landing
    pend(M, queue, landing, NO_DETAIL, NO_DETAIL, row, iteration)

    rows, out = M[first + INSTALLED_ROWS], M[ACC_LANES] + slot * lanes
    if poison == M[FULL]:
        return DONE
    LANES[out + rows : out + lanes] = 0
    if rows == 0:
        return DONE
    M[WORK_A] = low * lanes
    if kind == F16:
        x = M[ACTIVATION_HALVES]
        M[WORK_A] = x
        join(HALVES, x, BYTES, low * lanes, high * lanes, lanes)
    M[WORK_OUT], M[WORK_TILE], M[WORK_ROWS] = out, tile_at(M, plane, kind), rows
    return COMPUTE


@njit
def clear_gaps(M, LANES, queue):
    """After a product: outputs below the last loaded row whose own row was never loaded are zero."""
    plane = M[M[UNIT_AT] + queue]
    rows = M[WORK_ROWS]
    if M[M[PLANE_AT] + plane * PLANE_SIZE + INSTALLED_COUNT] == rows:
        return
    installed = M[ROW_AT] + (PLANES + plane) * M[ROWS]
    for r in range(rows):
        if M[installed + r] == ROW_EMPTY:
            LANES[M[WORK_OUT] + r] = 0


@njit
def lands(M, queue):
    """A pass's result reaches the accumulator."""
    plane = M[PLANE_AT] + M[M[UNIT_AT] + queue] * PLANE_SIZE
    if M[plane + RESULTS_LANDED] - M[plane + RESULTS_TAKEN] >= M[DEPTH]:
        p = pending(M, queue, M[NOW])
        return fail(M, ACCUMULATOR_OVERRUN, queue, M[p + PEND_ROW], M[p + PEND_ITERATION], FORM_SIMPLE, NO_DETAIL)
    M[plane + RESULTS_LANDED] += 1
    return False


@njit
def acc(M, T, BYTES, LANES, queue, row, iteration):
    """The oldest landed result goes onto four streams at the plane's column in this cycle."""
    number, lanes = M[M[UNIT_AT] + queue], M[LANE_COUNT]
    plane = M[PLANE_AT] + number * PLANE_SIZE
    taken = M[plane + RESULTS_TAKEN]
    slot = number * (M[ACC_MASK] + 1) + (taken & M[ACC_MASK])
    record = M[ACC_AT] + slot * ACC_SIZE
    if taken == M[plane + RESULTS_LANDED]:
        landing = M[record + ACC_LANDING] if taken < M[plane + RESULTS_FED] else np.int64(-1)
        return fail(M, ACCUMULATOR_EARLY, queue, row, iteration, FORM_SIMPLE, landing)
    M[plane + RESULTS_TAKEN] = taken + 1
    poison = M[record + ACC_POISON]
    at = M[ACC_LANES] + slot * lanes
    for byte in range(4):
        register = put(M, T[row, FIELDS] + byte, M[M[COLUMN_AT] + queue], poison, queue, row, iteration)
        if register < 0:
            return True
        if poison != M[FULL]:
            split(BYTES, register * lanes, LANES, at, byte, lanes)
    return False
