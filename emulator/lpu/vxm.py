"""Compiled vector unit of the fast LPU engine: 16 ALUs a lane, each starting one operation a cycle.

Stream operands are sampled at issue; the ALU starts when they have entered, or at once when every
operand is another ALU's output. Chained operands are sampled at the start.
"""

from __future__ import annotations

import numpy as np

from emulator.lpu.errors import KINDS
from emulator.lpu.state import (
    AGENTS,
    ALU_MASK,
    COMPUTE,
    DONE,
    DUE_WORDS,
    ENTRY,
    ERROR,
    EXEC_AT,
    EXEC_CYCLE,
    EXEC_ITERATION,
    EXEC_POISON,
    EXEC_ROW,
    EXEC_SIZE,
    FIRST_VXM,
    FORM_NO_OUTPUT,
    FORM_SIMPLE,
    FULL,
    LANE_COUNT,
    NO_DETAIL,
    NOW,
    OPERAND_LANES,
    OUTPUT_AT,
    PEND_DST,
    PEND_ITERATION,
    PEND_POISON,
    PEND_ROW,
    PORT1,
    RESULT_COLUMN,
    WORK_A,
    WORK_B,
    WORK_C,
    WORK_FROM,
    WORK_OUT,
    WORK_TYPE,
)
from emulator.lpu.streams import fail, merge, pend, pending, poison_of, put, schedule, slot_taken, split, take
from emulator.lpu.text import CHAINED, DELAY, FAULT, FIELDS, FROM_ALUS, FROM_STREAMS, OP, SIZE
from isa.jit import njit
from isa.opcodes import ALU_BASE, NO_STREAM, TYPE_BYTES, WEST, code

CVT, SELECT = code("CVT"), code("SELECT")
BINARY = np.zeros(256, dtype=np.int64)  # operands of an opcode, immediates not counted
for _name in ("ADD", "SUB", "MUL", "MAX", "MIN", "AND", "OR", "XOR"):
    BINARY[code(_name)] = 1
SIZES = np.array(TYPE_BYTES, dtype=np.int64)
STREAM_EMPTY, UNIT_BUSY, VXM_REACH = (np.int64(KINDS.index(k)) for k in ("stream_empty", "unit_busy", "vxm_reach"))


@njit
def operand_count(op):
    return np.int64(3) if op == SELECT else 1 + BINARY[op]


@njit
def operand_field(op, n):
    """Column of operand n in the decoded table: after type and dst, and after CVT's from_type."""
    return FIELDS + 2 + n + (1 if op == CVT else 0)


@njit
def vxm_issue(M, T, BYTES, LANES, queue, row, iteration):
    """Take the ALU's slots, sample stream operands; start at once if nothing is left to wait for.

    DONE, ERROR or COMPUTE: then the kernel runs isa.semantics.alu on M[WORK_*].
    """
    if T[row, FAULT]:
        fail(M, VXM_REACH, queue, row, iteration, FORM_SIMPLE, NO_DETAIL)
        return ERROR
    t = M[NOW]
    unit = queue - M[FIRST_VXM]
    ring = M[ALU_MASK]
    chained = T[row, CHAINED]
    start = t if chained == FROM_ALUS else t + M[ENTRY]
    done = start + T[row, DELAY]
    x = M[EXEC_AT] + (unit * (ring + 1) + (start & ring)) * EXEC_SIZE
    if M[x + EXEC_CYCLE] == start:
        fail(M, UNIT_BUSY, queue, row, iteration, FORM_SIMPLE, start)
        return ERROR
    if slot_taken(M, done, queue):
        fail(M, UNIT_BUSY, queue, row, iteration, FORM_SIMPLE, done)
        return ERROR
    op = T[row, OP]
    lanes = M[LANE_COUNT]
    # Three operand vectors a slot of the ring, in the order of the instruction's operands.
    to = M[OPERAND_LANES] + (unit * (ring + 1) + (done & ring)) * 3 * lanes
    size = SIZES[T[row, FIELDS + 1]] if op == CVT else np.int64(4)
    poison = np.int64(0)
    for n in range(operand_count(op)):
        source = T[row, operand_field(op, n)]
        if source < ALU_BASE:
            mask = enter(M, BYTES, LANES, source, size, to + n * lanes, queue, row, iteration)
            if mask < 0:
                return ERROR
            poison |= mask
    M[x + EXEC_CYCLE], M[x + EXEC_ROW], M[x + EXEC_ITERATION], M[x + EXEC_POISON] = start, row, iteration, poison
    dst = T[row, FIELDS + 2] if op == CVT else T[row, FIELDS + 1]
    pend(M, queue, done, dst, poison, row, iteration)
    if chained == FROM_STREAMS or start == t:
        return operate(M, T, queue, row, iteration, done, poison)
    schedule(M, start, 64 * M[DUE_WORDS] + AGENTS * queue + PORT1)
    return DONE


@njit
def enter(M, BYTES, LANES, source, size, to, queue, row, iteration):
    """Sample a group of streams at column 0 into one uint32 a lane. Its poison, -1 on an error."""
    lanes = M[LANE_COUNT]
    poison = np.int64(0)
    for byte in range(size):
        register = take(M, source + byte, np.int64(0), queue, row, iteration)
        if register < 0:
            return np.int64(-1)
        poison |= poison_of(M, register)
        if poison == M[FULL]:
            continue
        merge(LANES, to, BYTES, register * lanes, byte, lanes)
    return poison


@njit
def vxm_start(M, T, queue, row, iteration):
    """An operation with chained and stream operands starts now. ERROR, DONE or COMPUTE."""
    x = M[EXEC_AT] + ((queue - M[FIRST_VXM]) * (M[ALU_MASK] + 1) + (M[NOW] & M[ALU_MASK])) * EXEC_SIZE
    return operate(M, T, queue, row, iteration, M[NOW] + T[row, DELAY], M[x + EXEC_POISON])


@njit
def operate(M, T, queue, row, iteration, done, poison):
    """Sample chained operands; the result will wait in the ALU's ring for its cycle."""
    t, lanes, ring = M[NOW], M[LANE_COUNT], M[ALU_MASK]
    unit = queue - M[FIRST_VXM]
    op = T[row, OP]
    at = M[OPERAND_LANES] + (unit * (ring + 1) + (done & ring)) * 3 * lanes
    a0, b0, c0 = at, at + lanes, at + 2 * lanes
    for n in range(operand_count(op)):
        source = T[row, operand_field(op, n)]
        if source >= ALU_BASE:
            other = source - ALU_BASE
            if M[M[OUTPUT_AT] + other] != t:
                fail(M, STREAM_EMPTY, queue, row, iteration, FORM_NO_OUTPUT, other)
                return ERROR
            poison |= M[pending(M, M[FIRST_VXM] + other, t) + PEND_POISON]
            found = (other * (ring + 1) + (t & ring)) * lanes
            if n == 0:
                a0 = found
            elif n == 1:
                b0 = found
            else:
                c0 = found
    M[pending(M, queue, done) + PEND_POISON] = poison
    if poison == M[FULL]:
        return DONE
    M[WORK_A], M[WORK_B], M[WORK_C] = a0, b0, c0
    M[WORK_OUT] = (unit * (ring + 1) + (done & ring)) * lanes
    M[WORK_TYPE] = T[row, FIELDS]
    M[WORK_FROM] = T[row, FIELDS + 1] if op == CVT else 0
    return COMPUTE


@njit
def vxm_appears(M, T, BYTES, LANES, queue):
    """An ALU's output is visible in this cycle only; a stream destination is driven now."""
    t, lanes, ring = M[NOW], M[LANE_COUNT], M[ALU_MASK]
    unit = queue - M[FIRST_VXM]
    M[M[OUTPUT_AT] + unit] = t
    p = pending(M, queue, t)
    dst, poison, row = M[p + PEND_DST], M[p + PEND_POISON], M[p + PEND_ROW]
    if dst == NO_STREAM:
        return False
    column = M[RESULT_COLUMN] if dst < WEST else -M[RESULT_COLUMN]
    at = (unit * (ring + 1) + (t & ring)) * lanes
    for byte in range(T[row, SIZE]):
        register = put(M, dst + byte, column, poison, queue, row, M[p + PEND_ITERATION])
        if register < 0:
            return True
        if poison != M[FULL]:
            split(BYTES, register * lanes, LANES, at, byte, lanes)
    return False
