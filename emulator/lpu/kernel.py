"""The fast LPU engine's loop: which instruction issues when, and what a cycle does, in compiled code.

The rules are those of naive.py. Time is skipped by a wheel of bit sets: slot t holds a bit for every
queue, sequencer and result that is due in cycle t, in the order in which the twin looks at them.
Stream values are stored by invariant, so a hop costs nothing. See state.py for the arrays.
"""

from __future__ import annotations

import numpy as np

from emulator.accounting import LPU_REASONS
from emulator.lpu import geometry as geo
from emulator.lpu.c2c import recv, send
from emulator.lpu.errors import KINDS
from emulator.lpu.mem import gather, gather_appears, put_word, scatter, write
from emulator.lpu.mxm import abc, acc, clear_gaps, iw, lands, lw
from emulator.lpu.state import (
    AGENTS,
    ALU_MASK,
    BARRIER,
    BUCKET_AT,
    BUSY_AT,
    COMMIT,
    COMPUTE,
    COVER_FROM,
    COVER_REASON,
    COVER_ROW,
    COVER_TO,
    CYCLES,
    DUE,
    DUE_WORDS,
    END,
    ERR_PHASE,
    ERROR,
    EVENTS,
    EXEC_AT,
    EXEC_ITERATION,
    EXEC_ROW,
    EXEC_SIZE,
    FETCHED_WORDS,
    FIRST_VXM,
    FORM_SIMPLE,
    FRONT,
    ISSUE,
    ISSUED_AT,
    KIND_AT,
    LANE_COUNT,
    LAST_NOTIFY,
    NEXT_EVENT,
    NO_DETAIL,
    NOP,
    NOTIFIED,
    NOTIFY,
    NOW,
    PARKED,
    PC,
    PORT1,
    QUEUE_AT,
    QUEUE_SIZE,
    QUEUES,
    SAMPLE,
    SAMPLE_AT,
    SAMPLE_FRONT,
    SAMPLE_ITERATION,
    SAMPLE_QUEUE,
    SAMPLE_ROW,
    SAMPLE_SIZE,
    SEQ_DUE,
    SEQ_ITERATION,
    SEQ_LEFT,
    SEQ_ROW,
    SEQ_UNTIL,
    SEQUENCER,
    SLOT_WORDS,
    SUMMARY_AT,
    SYNC,
    TRACE,
    WHEEL_AT,
    WHEEL_MASK,
    WORK_A,
    WORK_B,
    WORK_C,
    WORK_FROM,
    WORK_OUT,
    WORK_ROWS,
    WORK_TILE,
    WORK_TYPE,
)
from emulator.lpu.streams import fail, lowest_bit, schedule
from emulator.lpu.sxm import sxm, sxm_appears
from emulator.lpu.text import COMPLETION, DISTANCE, FETCHED, FIELDS, IMMEDIATE, NEXT, OP, REASON, REPEATS, START_BARRIER
from emulator.lpu.tracing import trace_fetch, trace_issue, trace_wait
from emulator.lpu.vxm import vxm_appears, vxm_issue, vxm_start
from emulator.trace_record import full
from isa.jit import njit
from isa.opcodes import F16, code
from isa.products import mxm_dot_f16, mxm_dot_s8, mxm_install_f16, mxm_install_s8
from isa.semantics import alu

READ, WRITE, GATHER, SCATTER = (code(name) for name in ("READ", "WRITE", "GATHER", "SCATTER"))
LW, ACC, RECV = code("LW"), code("ACC"), code("RECV")
MEM, VXM, MXM_LW, MXM_ABC, MXM_ACC, C2C = geo.MEM, geo.VXM, geo.MXM_LW, geo.MXM_ABC, geo.MXM_ACC, geo.C2C
REASONS = len(LPU_REASONS)
PORT_CONFLICT, QUEUE_LATE, SYNC_DEADLOCK = (
    np.int64(KINDS.index(k)) for k in ("port_conflict", "queue_late", "sync_deadlock"))
ISSUED, STARTS = np.int64(1), np.int64(0)  # a sampler: just issued, or a VXM operation that starts
FINISHED, PAUSED, FAILED, WAITING = range(4)  # what the kernel returns


@njit
def kernel(M, T, MAPS, SRAM, FLAGS, BYTES, LANES, HALVES, TILE8, TILE16, WORK8, WORK16, budget, until):
    """Run at most `budget` cycles that have events, all before cycle `until`.

    FINISHED; PAUSED: the budget or the room for recorded events is used up; WAITING: the next event (M[NEXT_EVENT])
    is not before `until`; FAILED: M[ERR_*] says how.
    """
    due_words, slot_words, lanes = M[DUE_WORDS], M[SLOT_WORDS], M[LANE_COUNT]
    while M[EVENTS] > 0:
        if budget == 0 or M[TRACE] != 0 and full(M, M[TRACE]):
            return PAUSED
        budget -= 1
        t = next_event(M)
        if t >= until:
            M[NEXT_EVENT] = t
            return WAITING
        M[NOW] = t
        slot = t & M[WHEEL_MASK]
        base = M[WHEEL_AT] + slot * slot_words
        M[M[SUMMARY_AT] + (slot >> 6)] &= ~(np.int64(1) << (slot & 63))

        # commit: results of earlier instructions appear
        for word in range(due_words):
            bits = M[base + word]
            M[base + word] = 0
            while bits != 0:
                low = bits & -bits
                bits ^= low
                M[EVENTS] -= 1
                if appears(M, T, BYTES, LANES, (word << 6) + lowest_bit(low)):
                    M[ERR_PHASE] = COMMIT
                    return FAILED

        # issue: producers act at once, instructions that sample are put on a list
        samples = np.int64(0)
        M[NOTIFIED] = 0
        for word in range(due_words, slot_words):
            bits = M[base + word]
            M[base + word] = 0
            while bits != 0:
                low = bits & -bits
                bits ^= low
                M[EVENTS] -= 1
                samples = agent(M, T, SRAM, FLAGS, BYTES, LANES, ((word - due_words) << 6) + lowest_bit(low), samples)
                if samples < 0:
                    M[ERR_PHASE] = ISSUE
                    return FAILED
        if M[NOTIFIED] != 0:
            release(M)

        # sample
        s = M[SAMPLE_AT]
        for _ in range(samples):
            queue, row, iteration = M[s + SAMPLE_QUEUE], M[s + SAMPLE_ROW], M[s + SAMPLE_ITERATION]
            kind, op = M[M[KIND_AT] + queue], T[row, OP]
            if kind == MEM:
                if op == WRITE:
                    failed = write(M, T, SRAM, FLAGS, BYTES, queue, row, iteration)
                elif op == GATHER:
                    failed = gather(M, T, SRAM, FLAGS, BYTES, queue, row, iteration)
                else:
                    failed = scatter(M, T, SRAM, FLAGS, BYTES, queue, row, iteration)
            elif kind == VXM:
                if M[s + SAMPLE_FRONT]:
                    status = vxm_issue(M, T, BYTES, LANES, queue, row, iteration)
                else:
                    status = vxm_start(M, T, queue, row, iteration)
                failed = status == ERROR
                if status == COMPUTE:
                    alu(op, M[WORK_TYPE], M[WORK_FROM], LANES, M[WORK_A], LANES, M[WORK_B], LANES, M[WORK_C],
                        T[row, IMMEDIATE], LANES, M[WORK_OUT], lanes)
            elif kind == MXM_LW and op == LW:
                failed = lw(M, T, BYTES, HALVES, queue, row, iteration)
            elif kind == MXM_LW:
                status = iw(M, T, queue, row, iteration)
                failed = status == ERROR
                if status == COMPUTE and T[row, FIELDS] == F16:
                    mxm_install_f16(HALVES, M[WORK_A], TILE16, M[WORK_TILE], M[WORK_ROWS], lanes)
                elif status == COMPUTE:
                    mxm_install_s8(BYTES, M[WORK_A], TILE8, M[WORK_TILE], M[WORK_ROWS], lanes)
            elif kind == MXM_ABC:
                status = abc(M, T, BYTES, LANES, HALVES, queue, row, iteration)
                failed = status == ERROR
                if status == COMPUTE:
                    tile, x, out, rows = M[WORK_TILE], M[WORK_A], M[WORK_OUT], M[WORK_ROWS]
                    if T[row, FIELDS] == F16:
                        mxm_dot_f16(TILE16, tile, HALVES, x, LANES, out, rows, lanes, WORK16)
                    else:
                        mxm_dot_s8(TILE8, tile, BYTES, x, LANES, out, rows, lanes, WORK8)
                    clear_gaps(M, LANES, queue)
            elif kind == C2C:
                failed = send(M, T, BYTES, queue, row, iteration)
            else:
                failed = sxm(M, T, MAPS, BYTES, queue, row, iteration)
            if failed:
                M[ERR_PHASE] = SAMPLE
                return FAILED
            s += SAMPLE_SIZE
    return deadlock(M)


@njit
def next_event(M):
    """The earliest cycle after NOW with a bit in the wheel; there is one."""
    mask, at = M[WHEEL_MASK], M[SUMMARY_AT]
    t = M[NOW] + 1
    slot = t & mask
    bits = M[at + (slot >> 6)] & (np.int64(-1) << (slot & 63))
    while bits == 0:
        t += 64 - (t & 63)
        bits = M[at + ((t & mask) >> 6)]
    return (t & ~np.int64(63)) + lowest_bit(bits & -bits)


@njit
def appears(M, T, BYTES, LANES, queue):
    """A result of a queue is due now. True when that is an error."""
    kind = M[M[KIND_AT] + queue]
    if kind == VXM:
        return vxm_appears(M, T, BYTES, LANES, queue)
    if kind == MXM_ABC:
        return lands(M, queue)
    if kind == MEM:
        return gather_appears(M, T, BYTES, queue)
    return sxm_appears(M, T, BYTES, queue)


@njit
def agent(M, T, SRAM, FLAGS, BYTES, LANES, number, samples):
    """A sequencer or a queue's front is due. Returns the new number of samplers, -1 on an error."""
    queue = number // AGENTS
    which = number - queue * AGENTS
    q = M[QUEUE_AT] + queue * QUEUE_SIZE
    t = M[NOW]
    if which == FRONT:
        if M[q + DUE] > t:  # farther away than the wheel reaches
            schedule(M, M[q + DUE], 64 * M[DUE_WORDS] + number)
            return samples
        row = M[q + PC]
        op = T[row, OP]
        M[FETCHED_WORDS] += T[row, FETCHED]
        M[q + PC] = T[row, NEXT]
        M[CYCLES] = max(M[CYCLES], t + T[row, COMPLETION])
        if M[TRACE] != 0:
            trace_fetch(M, T, queue, row)
        if op <= NOTIFY:  # NOP, SYNC, NOTIFY
            return control(M, T, queue, row, op, samples)
        iteration = np.int64(0)
        port = 1 if op == WRITE or op == SCATTER else 0
        sequencer = q + SEQUENCER + 5 * port
        if t <= M[sequencer + SEQ_UNTIL]:
            fail(M, PORT_CONFLICT, queue, row, iteration, FORM_SIMPLE, M[sequencer + SEQ_UNTIL])
            return np.int64(-1)
        repeats = T[row, REPEATS]
        if repeats > 0:
            distance = T[row, DISTANCE]
            M[sequencer + SEQ_ROW] = row
            M[sequencer + SEQ_ITERATION] = 1
            M[sequencer + SEQ_LEFT] = repeats
            M[sequencer + SEQ_DUE] = t + distance
            M[sequencer + SEQ_UNTIL] = t + repeats * distance
            schedule(M, t + distance, 64 * M[DUE_WORDS] + queue * AGENTS + port)
        if M[q + PC] < M[q + END]:
            M[q + DUE] = t + 1
            schedule(M, t + 1, 64 * M[DUE_WORDS] + number)
    elif which == PORT1 and M[M[KIND_AT] + queue] == VXM:
        x = M[EXEC_AT] + ((queue - M[FIRST_VXM]) * (M[ALU_MASK] + 1) + (t & M[ALU_MASK])) * EXEC_SIZE
        return sampler(M, queue, M[x + EXEC_ROW], M[x + EXEC_ITERATION], 0, samples)
    else:
        sequencer = q + SEQUENCER + 5 * which
        if M[sequencer + SEQ_DUE] > t:
            schedule(M, M[sequencer + SEQ_DUE], 64 * M[DUE_WORDS] + number)
            return samples
        row = M[sequencer + SEQ_ROW]
        op = T[row, OP]
        iteration = M[sequencer + SEQ_ITERATION]
        M[sequencer + SEQ_ITERATION] = iteration + 1
        M[sequencer + SEQ_LEFT] -= 1
        if M[sequencer + SEQ_LEFT] > 0:
            due = t + T[row, DISTANCE]
            M[sequencer + SEQ_DUE] = due
            schedule(M, due, 64 * M[DUE_WORDS] + number)
        M[CYCLES] = max(M[CYCLES], t + T[row, COMPLETION])

    # An instruction of a unit, from the queue or from a REPEAT.
    M[M[ISSUED_AT] + op] += 1
    if M[TRACE] != 0:
        trace_issue(M, T, queue, row, iteration)
    if M[q + BUSY_AT] != t:
        M[q + BUSY_AT] = t
        M[M[BUCKET_AT] + queue * REASONS] += 1
        if M[q + COVER_FROM] <= t < M[q + COVER_TO]:  # a NOP explained this cycle, now work does
            M[M[BUCKET_AT] + queue * REASONS + M[q + COVER_REASON]] -= 1
    if op == READ:
        return np.int64(-1) if put_word(M, T, SRAM, FLAGS, BYTES, queue, row, iteration) else samples
    if op == ACC:
        return np.int64(-1) if acc(M, T, BYTES, LANES, queue, row, iteration) else samples
    if op == RECV:
        return np.int64(-1) if recv(M, T, BYTES, queue, row, iteration) else samples
    return sampler(M, queue, row, iteration, ISSUED, samples)


@njit
def sampler(M, queue, row, iteration, front, samples):
    """Put an instruction on the list of this cycle's samplers."""
    s = M[SAMPLE_AT] + samples * SAMPLE_SIZE
    M[s + SAMPLE_QUEUE] = queue
    M[s + SAMPLE_ROW] = row
    M[s + SAMPLE_ITERATION] = iteration
    M[s + SAMPLE_FRONT] = front
    return samples + 1


@njit
def control(M, T, queue, row, op, samples):
    """NOP, SYNC, NOTIFY."""
    t = M[NOW]
    q = M[QUEUE_AT] + queue * QUEUE_SIZE
    M[M[ISSUED_AT] + op] += 1
    if M[TRACE] != 0:
        trace_wait(M, queue, t)
    M[q + COVER_ROW] = row
    if op == NOP:
        n = T[row, FIELDS]
        M[q + COVER_FROM], M[q + COVER_TO], M[q + COVER_REASON] = t, t + n, T[row, REASON]
        # A cycle in which a sequencer of this queue has issued is busy already.
        M[M[BUCKET_AT] + queue * REASONS + T[row, REASON]] += n - (1 if M[q + BUSY_AT] == t else 0)
        if M[q + PC] < M[q + END]:
            M[q + DUE] = t + n
            schedule(M, t + n, 64 * M[DUE_WORDS] + queue * AGENTS + FRONT)
        return samples
    M[q + COVER_FROM], M[q + COVER_TO], M[q + COVER_REASON] = t, np.int64(1) << 60, START_BARRIER
    if M[q + BUSY_AT] == t:
        M[M[BUCKET_AT] + queue * REASONS + START_BARRIER] -= 1
    if op == SYNC:
        if t < M[LAST_NOTIFY] + M[BARRIER]:
            fail(M, QUEUE_LATE, queue, row, NO_DETAIL, FORM_SIMPLE, M[LAST_NOTIFY])
            return np.int64(-1)
        M[q + PARKED] = t
    else:
        M[q + PARKED] = t
        M[NOTIFIED] += 1
    return samples


@njit
def release(M):
    """NOTIFY: it and every parked queue go on together, after the barrier latency."""
    t = M[NOW]
    resume = t + M[BARRIER]
    M[LAST_NOTIFY] = t
    for queue in range(M[QUEUES]):
        q = M[QUEUE_AT] + queue * QUEUE_SIZE
        if M[q + PARKED] >= 0:
            M[M[BUCKET_AT] + queue * REASONS + START_BARRIER] += resume - M[q + PARKED]
            M[q + PARKED] = -1
            M[q + COVER_TO] = resume
            M[q + DUE] = resume
            if M[q + PC] < M[q + END]:
                schedule(M, resume, 64 * M[DUE_WORDS] + queue * AGENTS + FRONT)


@njit
def deadlock(M):
    """Nothing is left to happen: FINISHED, unless a queue is still parked."""
    for queue in range(M[QUEUES]):
        q = M[QUEUE_AT] + queue * QUEUE_SIZE
        if M[q + PARKED] >= 0:
            M[NOW] = M[q + PARKED]
            fail(M, SYNC_DEADLOCK, queue, M[q + PC] - 1, NO_DETAIL, FORM_SIMPLE, NO_DETAIL)
            return FAILED
    return FINISHED
