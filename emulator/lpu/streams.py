"""Compiled basics of the fast LPU engine: the event wheel, errors, and streams stored by invariant.

A value that is eastward at column p in cycle t has the invariant t - p, a westward one t + p; both stay
what they are while the value moves. A register is found by (stream, invariant): no hop is ever executed.
"""

from __future__ import annotations

import numpy as np

from emulator.lpu.errors import KINDS
from emulator.lpu.state import (
    BORN,
    CONSUMED,
    CONSUMED_VALUES,
    DUE_WORDS,
    EDGE,
    ERR_DETAIL,
    ERR_FORM,
    ERR_ITERATION,
    ERR_KIND,
    ERR_QUEUE,
    ERR_ROW,
    EVENTS,
    FIRST,
    FORM_COLLISION,
    FORM_NO_VALUE,
    HOPS,
    INVARIANT,
    ITERATION,
    NOW,
    PEND_AT,
    PEND_DST,
    PEND_ITERATION,
    PEND_MASK,
    PEND_POISON,
    PEND_ROW,
    PEND_SIZE,
    POISON,
    ROW,
    SLOT_WORDS,
    STREAM_AT,
    STREAM_MASK,
    STREAM_SIZE,
    SUMMARY_AT,
    TRACE,
    VALUES,
    WHEEL_AT,
    WHEEL_MASK,
)
from emulator.lpu.tracing import trace_value
from isa.jit import njit
from isa.opcodes import WEST

STREAM_EMPTY, STREAM_COLLISION = np.int64(KINDS.index("stream_empty")), np.int64(KINDS.index("stream_collision"))
DE_BRUIJN = 0x03F79D71B4CB0A89  # each 6-bit window of its bits is unique: finds the place of a single bit
BIT_PLACES = np.zeros(64, dtype=np.int64)
for _place in range(64):
    BIT_PLACES[((DE_BRUIJN << _place) >> 58) & 63] = _place


@njit
def lowest_bit(single):
    """Place of the only set bit of an int64."""
    return BIT_PLACES[((single * np.int64(DE_BRUIJN)) >> 58) & 63]


@njit
def fail(M, kind, queue, row, iteration, form, detail):
    """Note an error; always True, so that callers can `return fail(...)`."""
    M[ERR_KIND], M[ERR_QUEUE], M[ERR_ROW], M[ERR_ITERATION] = kind, queue, row, iteration
    M[ERR_FORM], M[ERR_DETAIL] = form, detail
    return True


@njit
def schedule(M, t, bit):
    """Set a bit of the wheel's slot for cycle t; beyond the wheel's reach, of its last slot."""
    reach = M[NOW] + M[WHEEL_MASK]
    slot = (t if t < reach else reach) & M[WHEEL_MASK]
    M[M[WHEEL_AT] + slot * M[SLOT_WORDS] + (bit >> 6)] |= np.int64(1) << (bit & 63)
    M[M[SUMMARY_AT] + (slot >> 6)] |= np.int64(1) << (slot & 63)
    M[EVENTS] += 1


@njit
def slot_taken(M, t, queue):
    """A result of this queue already appears in cycle t."""
    word = M[M[WHEEL_AT] + (t & M[WHEEL_MASK]) * M[SLOT_WORDS] + (queue >> 6)]
    return (word >> (queue & 63)) & 1 != 0


@njit
def pending(M, queue, t):
    """Place of the record of the result that a queue puts out in cycle t."""
    return M[PEND_AT] + (queue * (M[PEND_MASK] + 1) + (t & M[PEND_MASK])) * PEND_SIZE


@njit
def pend(M, queue, t, dst, poison, row, iteration):
    """A result of this queue appears in cycle t."""
    p = pending(M, queue, t)
    M[p + PEND_DST], M[p + PEND_POISON], M[p + PEND_ROW], M[p + PEND_ITERATION] = dst, poison, row, iteration
    schedule(M, t, queue)


@njit
def put(M, stream, column, poison, queue, row, iteration):
    """Drive a stream at a column in this cycle. Register number for the payload, -1 on a collision."""
    t = M[NOW]
    if stream < WEST:
        invariant, ahead = t - column, M[EDGE] - column
    else:
        invariant, ahead = t + column, M[EDGE] + column
    register = stream * (M[STREAM_MASK] + 1) + (invariant & M[STREAM_MASK])
    r = M[STREAM_AT] + register * STREAM_SIZE
    if M[TRACE] != 0 and M[r + BORN] != t:
        trace_value(M, register, t)
    if M[r + INVARIANT] != invariant:
        M[r + INVARIANT] = invariant
        M[r + FIRST] = t
        M[HOPS] += ahead  # an overwritten value hops up to here, the new one from here on
    elif M[r + BORN] == t:
        fail(M, STREAM_COLLISION, queue, row, iteration, FORM_COLLISION, (stream << 32) | M[r + ROW])
        return np.int64(-1)
    M[r + BORN] = t
    M[r + CONSUMED] = 0
    M[r + POISON] = poison
    M[r + ROW] = row
    M[r + ITERATION] = iteration
    M[VALUES] += 1
    return register


@njit
def take(M, stream, column, queue, row, iteration):
    """Sample a stream at a column in this cycle. Register number, -1 when nothing is there."""
    t = M[NOW]
    invariant = t - column if stream < WEST else t + column
    register = stream * (M[STREAM_MASK] + 1) + (invariant & M[STREAM_MASK])
    r = M[STREAM_AT] + register * STREAM_SIZE
    if M[r + INVARIANT] != invariant:
        fail(M, STREAM_EMPTY, queue, row, iteration, FORM_NO_VALUE, stream)
        return np.int64(-1)
    M[CONSUMED_VALUES] += 1 - M[r + CONSUMED]
    M[r + CONSUMED] = 1
    return register


@njit
def poison_of(M, register):
    """Superlanes of a register's value that hold no value."""
    return M[M[STREAM_AT] + register * STREAM_SIZE + POISON]


# Payload loops use unsigned indices: signed ones may count from the end, and that check costs vector code.
@njit
def copy(TO, to, FROM, start, n):
    """TO[to ..) = FROM[start ..), n elements."""
    t, f = np.uint64(to), np.uint64(start)
    for i in range(n):
        TO[t + np.uint64(i)] = FROM[f + np.uint64(i)]


@njit
def merge(LANES, to, BYTES, start, byte, n):
    """Put a stream's bytes into byte 0..3 of n lanes; byte 0 comes first and clears the others."""
    t, f, shift = np.uint64(to), np.uint64(start), np.uint32(8 * byte)
    if byte == 0:
        for i in range(n):
            LANES[t + np.uint64(i)] = BYTES[f + np.uint64(i)]
    else:
        for i in range(n):
            LANES[t + np.uint64(i)] |= np.uint32(BYTES[f + np.uint64(i)]) << shift


@njit
def split(BYTES, to, LANES, start, byte, n):
    """BYTES[to ..) = byte 0..3 of n lanes."""
    t, f, shift = np.uint64(to), np.uint64(start), np.uint32(8 * byte)
    for i in range(n):
        BYTES[t + np.uint64(i)] = np.uint8(LANES[f + np.uint64(i)] >> shift)


@njit
def join(HALVES, to, BYTES, low, high, n):
    """HALVES[to ..) = 16-bit values of a low and a high byte stream."""
    t, a, b = np.uint64(to), np.uint64(low), np.uint64(high)
    for i in range(n):
        j = np.uint64(i)
        HALVES[t + j] = np.uint16(BYTES[a + j]) | (np.uint16(BYTES[b + j]) << np.uint16(8))


assert DUE_WORDS < SLOT_WORDS
