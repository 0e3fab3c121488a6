"""What the fast LPU engine records for a trace, in compiled code; emulator/lpu/naive.py records the same."""

from __future__ import annotations

from emulator.lpu.state import (
    BORN,
    BUSY_AT,
    COVER_FROM,
    COVER_REASON,
    COVER_ROW,
    COVER_TO,
    EDGE,
    INSTRUCTION_BYTES,
    INVARIANT,
    ITERATION,
    LANE_COUNT,
    NEVER,
    NOW,
    QUEUE_AT,
    QUEUE_SIZE,
    QUEUES,
    ROW,
    STREAM_AT,
    STREAM_MASK,
    STREAM_SIZE,
    TRACE,
)
from emulator.lpu.text import COMPLETION, DELAY, FETCHED, MOVED
from emulator.trace import ISSUE, KIND_INDEX, STALL
from emulator.trace_record import record
from isa.jit import njit

STREAM, FETCH = KIND_INDEX["stream_byte_hops"], KIND_INDEX["instruction_fetch"]


@njit
def trace_wait(M, queue, t):
    """The cycles before t, since the queue's last issue, that a NOP or a barrier explains."""
    q = M[QUEUE_AT] + queue * QUEUE_SIZE
    start, end = max(M[q + COVER_FROM], M[q + BUSY_AT] + 1), min(t, M[q + COVER_TO])
    if end > start:
        record(M, M[TRACE], STALL, queue, start, end, M[q + COVER_ROW], -1, M[q + COVER_REASON], 0)


@njit
def trace_issue(M, T, queue, row, iteration):
    """An instruction of a unit is issued now."""
    t = M[NOW]
    trace_wait(M, queue, t)
    end = t + max(T[row, COMPLETION], T[row, DELAY], 1)
    record(M, M[TRACE], ISSUE, queue, t, end, row, iteration, 0, T[row, MOVED])


@njit
def trace_fetch(M, T, queue, row):
    """A queue takes the instruction in this row, and its REPEAT."""
    record(M, M[TRACE], FETCH, queue, M[NOW], M[NOW] + 1, row, -1, 0, T[row, FETCHED] * M[INSTRUCTION_BYTES])


@njit
def trace_value(M, register, until):
    """The value in a register ends in cycle `until`, or at the edge before that."""
    r = M[STREAM_AT] + register * STREAM_SIZE
    if M[r + INVARIANT] == NEVER:  # nothing was there
        return
    edge = M[r + INVARIANT] + M[EDGE] + 1
    hops = min(until, edge - 1) - M[r + BORN]
    stream = register // (M[STREAM_MASK] + 1)
    record(M, M[TRACE], STREAM, M[QUEUES] + stream, M[r + BORN], min(until, edge), M[r + ROW], M[r + ITERATION], 0,
           hops * M[LANE_COUNT])
