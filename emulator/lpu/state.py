"""The fast LPU engine's state: one flat int64 array and a few payload arrays.

Everything the kernel must remember between two calls lies here. Named indices below are positions
in the int64 array M; names with AT hold the position of a section whose size depends on the chip.

    M       int64    scalars, queues, stream registers, pending results, event wheel, planes, counters
    BYTES   uint8    stream payloads | GATHER and SXM results under way | vectors sent | received | s8 shadow rows
    LANES   uint32   ALU results | VXM operands that wait for chained ones | accumulators
    HALVES  uint16   f16 shadow rows of a plane pair | one f16 activation
    TILE8   int16    installed s8 weights          TILE16  float32  installed f16 weights
    WORK8   int16    scratch of a product          WORK16  float64  the same for f16
"""

from __future__ import annotations

from itertools import count

import numpy as np

from emulator.accounting import LPU_REASONS
from emulator.lpu import geometry as geo
from emulator.lpu.errors import PASS_WINDOW
from emulator.lpu.geometry import Geometry
from emulator.lpu.sram import Sram
from emulator.lpu.text import FIELDS, OP, REPEATS, Decoded
from emulator.trace_build import with_section
from isa.opcodes import PORTS, WEST, code

_scalar = count()


def _next() -> int:
    return next(_scalar)


# -- scalars ---------------------------------------------------------------------------------------
NOW = _next()  # cycle in work
EVENTS = _next()  # bits set in the wheel
NEXT_EVENT = _next()  # cycle of the next event, when the kernel stopped before it
CYCLES = _next()  # length so far: issue + completion of the latest
LAST_NOTIFY = _next()
NOTIFIED = _next()  # queues that issued a NOTIFY in this cycle
FETCHED_WORDS, VALUES, CONSUMED_VALUES, HOPS, INGESTED, MACS = (_next() for _ in range(6))
ERR_KIND, ERR_QUEUE, ERR_ROW, ERR_ITERATION, ERR_DETAIL, ERR_FORM = (_next() for _ in range(6))
ERR_PHASE = _next()  # of the cycle, see COMMIT below
# What an instruction leaves to the kernel to compute, so that the large functions are linked only once:
# operands' places in LANES (VXM), or first element of RAW or X, of TILE and of OUT, and rows (MXM).
WORK_A, WORK_B, WORK_C, WORK_OUT, WORK_TYPE, WORK_FROM = (_next() for _ in range(6))
WORK_TILE, WORK_ROWS = WORK_B, WORK_C
# geometry
QUEUES, LANE_COUNT, SUPERLANES, FULL, EDGE, WORDS_PER_SLICE, WORDS_PER_BANK, ROWS = (_next() for _ in range(8))
RESULT_COLUMN, ENTRY, DEPTH, FEED, INSTALL, BARRIER, GATHER_DELAY = (_next() for _ in range(7))
SLOT, INSTRUCTION_BYTES = _next(), _next()
TRACE = _next()  # where recorded events go, 0 for off
FIRST_VXM, FIRST_MXM, FIRST_SXM = (_next() for _ in range(3))
# rings: sizes are powers of two, stored as masks
WHEEL_MASK, DUE_WORDS, SLOT_WORDS, STREAM_MASK, PEND_MASK, ALU_MASK, SXM_MASK, GATHER_MASK, ACC_MASK = (
    _next() for _ in range(9))
# sections of M
(QUEUE_AT, KIND_AT, UNIT_AT, COLUMN_AT, STREAM_AT, PEND_AT, EXEC_AT, OUTPUT_AT, PLANE_AT, ROW_AT, ACC_AT, BUCKET_AT,
 ISSUED_AT, SAMPLE_AT, PORT_AT, END_AT, SENT_AT, RECEIVED_AT, SUMMARY_AT, WHEEL_AT) = (_next() for _ in range(20))
# sections of the payload arrays
(GATHER_BYTES, SXM_BYTES, SENT_BYTES, RECEIVED_BYTES, SHADOW_BYTES, OPERAND_LANES, ACC_LANES,
 ACTIVATION_HALVES) = (_next() for _ in range(8))
SCALARS = _next()

# -- a queue's record --------------------------------------------------------------------------------
(PC, END, DUE, PARKED, COVER_FROM, COVER_TO, COVER_REASON, BUSY_AT, ACCESS_AT, ACCESS_BANKS, COVER_ROW) = range(11)
SEQUENCER = 11  # two of: row, iteration to come, iterations left, cycle due, last cycle
SEQ_ROW, SEQ_ITERATION, SEQ_LEFT, SEQ_DUE, SEQ_UNTIL = range(5)
QUEUE_SIZE = SEQUENCER + 2 * 5

# -- a stream register's, a pending result's, an ALU start's, a plane's, an accumulator's record ---------
INVARIANT, BORN, FIRST, CONSUMED, POISON, ROW, ITERATION, STREAM_SIZE = 0, 1, 2, 3, 4, 5, 6, 8
PEND_DST, PEND_POISON, PEND_ROW, PEND_ITERATION, PEND_SIZE = 0, 1, 2, 3, 4
EXEC_CYCLE, EXEC_ROW, EXEC_ITERATION, EXEC_POISON, EXEC_SIZE = 0, 1, 2, 3, 4
(SHADOW_TYPE, SHADOW_ROWS, INSTALLED_TYPE, INSTALLED_ROWS, INSTALLED_COUNT, INSTALLED_POISON, INSTALLING_UNTIL,
 FEEDING_UNTIL, RESULTS_FED, RESULTS_LANDED, RESULTS_TAKEN) = range(11)
PLANE_SIZE = 16
ACC_POISON, ACC_LANDING, ACC_SIZE = 0, 1, 2
# A sampler: an instruction of this cycle that takes operands after all producers have driven.
SAMPLE_QUEUE, SAMPLE_ROW, SAMPLE_ITERATION, SAMPLE_FRONT, SAMPLE_SIZE = 0, 1, 2, 3, 4
# This chip's end of a link: vectors sent and received so far, cycle of the last SEND, and the first of its
# records of what it sends and of what it receives. Both kinds of records: when and which instruction.
END_SENT, END_RECEIVED, END_LAST, END_FIRST_SENT, END_FIRST_RECEIVED, END_SIZE = 0, 1, 2, 3, 4, 5
LOG_CYCLE, LOG_QUEUE, LOG_ROW, LOG_ITERATION, LOG_POISON, LOG_ARRIVES, LOG_SIZE = 0, 1, 2, 3, 4, 5, 6

NEVER = -(1 << 40)  # an invariant or cycle that no value has
ROW_EMPTY, ROW_REAL, ROW_POISON = 0, 1, 2  # marks: shadow rows of all planes, then installed rows of all planes

NOT_SENT = 1 << 60  # the cycle in which a vector arrives that nobody has sent yet
COMMIT, ISSUE, SAMPLE = (np.int64(phase) for phase in range(3))  # phases of a cycle, in order

# What a compiled unit function returns.
DONE, ERROR, COMPUTE = range(3)
# Constants that stand in calls are np.int64: Numba would compile a callee anew for each Python literal.
# How an error's words are found: see engine._error.
FORM_SIMPLE, FORM_NO_VALUE, FORM_NO_OUTPUT, FORM_COLLISION = (np.int64(form) for form in range(4))
NO_DETAIL = np.int64(0)

# Agents of a queue in the wheel: sequencer of port 0, sequencer of port 1 (VXM: start of an
# operation with chained operands), the queue itself.
AGENTS, PORT0, PORT1, FRONT = 3, 0, 1, 2


def ring(more_than: int) -> int:
    """Mask of the smallest power-of-two ring with more slots than this."""
    return (1 << int(more_than).bit_length()) - 1


class State:
    """All arrays of one engine. `reset` makes them ready for a run; the SRAM is the caller's.

    ports: int64 [PORTS], the link that a port in an instruction means, -1 for none. blind: the chip runs
    without the others (timing only), so that every RECV finds a vector at once, without values.
    """

    def __init__(self, g: Geometry, decoded: Decoded, sram: Sram, ports: np.ndarray, blind: bool) -> None:
        self.g, self.decoded, self.ports, self.blind = g, decoded, ports, blind
        self.sram, self.flags = sram.data.reshape(-1), sram.flags
        kinds = np.array(g.queue_kind)
        vxm_delay = g.entry + max(g.op, g.special)
        sxm_delay = max(g.sxm_delay("SHIFT", -g.lanes), g.sxm_delay("PERMUTE"), g.distribute, g.transpose)
        abc_delay = g.latency + g.f16_feed
        longest = max(vxm_delay, sxm_delay, abc_delay, g.gather)
        sizes = {
            WHEEL_MASK: ring(max(longest, 1023)), STREAM_MASK: ring(2 * g.edge + 1 + PASS_WINDOW),
            PEND_MASK: ring(longest), ALU_MASK: ring(vxm_delay), SXM_MASK: ring(sxm_delay),
            GATHER_MASK: ring(g.gather), ACC_MASK: ring(abc_delay + g.depth + 1),
        }
        due_words = -(-g.queues // 64)
        slot_words = due_words + -(-AGENTS * g.queues // 64)
        wheel = sizes[WHEEL_MASK] + 1
        fixed = {
            QUEUES: g.queues, LANE_COUNT: g.lanes, SUPERLANES: g.superlanes, FULL: sram.full, EDGE: g.edge,
            WORDS_PER_SLICE: g.words_per_slice, WORDS_PER_BANK: g.words_per_bank, ROWS: g.rows,
            RESULT_COLUMN: g.result_column, ENTRY: g.entry, DEPTH: g.depth, FEED: g.f16_feed, INSTALL: g.install,
            BARRIER: g.barrier, SLOT: g.slot, INSTRUCTION_BYTES: g.instruction_bytes,
            GATHER_DELAY: g.gather, FIRST_VXM: g.first_of_kind[geo.VXM],
            FIRST_MXM: g.first_of_kind[geo.MXM_LW], FIRST_SXM: g.first_of_kind[geo.SHIFT],
            DUE_WORDS: due_words, SLOT_WORDS: slot_words, **sizes,
        }
        self.sent, self.received = (self._transfers(name) for name in ("SEND", "RECV"))  # of each link
        sent, received = int(self.sent.sum()), int(self.received.sum())
        sections = {
            QUEUE_AT: g.queues * QUEUE_SIZE, KIND_AT: g.queues, UNIT_AT: g.queues, COLUMN_AT: g.queues,
            STREAM_AT: 2 * WEST * (sizes[STREAM_MASK] + 1) * STREAM_SIZE,
            PEND_AT: g.queues * (sizes[PEND_MASK] + 1) * PEND_SIZE, EXEC_AT: 16 * (sizes[ALU_MASK] + 1) * EXEC_SIZE,
            OUTPUT_AT: 16, PLANE_AT: g.planes * PLANE_SIZE, ROW_AT: 2 * g.planes * g.rows,
            ACC_AT: g.planes * (sizes[ACC_MASK] + 1) * ACC_SIZE, BUCKET_AT: g.queues * len(LPU_REASONS),
            ISSUED_AT: 256, SAMPLE_AT: AGENTS * g.queues * SAMPLE_SIZE, PORT_AT: PORTS,
            END_AT: PORTS * END_SIZE, SENT_AT: sent * LOG_SIZE, RECEIVED_AT: received * LOG_SIZE,
            SUMMARY_AT: -(-wheel // 64), WHEEL_AT: wheel * slot_words,
        }
        self.sections, at = sections, SCALARS
        for name, size in sections.items():
            fixed[name] = at
            at += size
        sxm_queues = int(np.sum(kinds >= geo.SHIFT))
        stream_bytes = 2 * WEST * (sizes[STREAM_MASK] + 1) * g.lanes
        gather_bytes = g.slices * (sizes[GATHER_MASK] + 1) * g.lanes
        sxm_bytes = sxm_queues * (sizes[SXM_MASK] + 1) * 16 * g.lanes
        alu_lanes = 16 * (sizes[ALU_MASK] + 1) * g.lanes
        sent_at = stream_bytes + gather_bytes + sxm_bytes
        received_at = sent_at + sent * g.lanes
        fixed |= {GATHER_BYTES: stream_bytes, SXM_BYTES: stream_bytes + gather_bytes, SENT_BYTES: sent_at,
                  RECEIVED_BYTES: received_at, SHADOW_BYTES: received_at + received * g.lanes, OPERAND_LANES: alu_lanes,
                  ACC_LANES: 4 * alu_lanes, ACTIVATION_HALVES: g.planes // 2 * g.rows * g.lanes}
        plane = g.rows * g.lanes
        self.fixed, self.size = fixed, at
        self.M = np.zeros(at, dtype=np.int64)
        self.BYTES = np.zeros(fixed[SHADOW_BYTES] + g.planes * plane, dtype=np.uint8)
        self.LANES = np.zeros(fixed[ACC_LANES] + g.planes * (sizes[ACC_MASK] + 1) * g.lanes, dtype=np.uint32)
        self.HALVES = np.zeros(g.planes // 2 * plane + g.lanes, dtype=np.uint16)
        self.TILE8 = np.zeros(g.planes * plane, dtype=np.int16)
        self.TILE16 = np.zeros(g.planes // 2 * plane, dtype=np.float32)
        self.WORK8 = np.zeros(g.lanes, dtype=np.int16)
        self.WORK16 = np.zeros(g.rows + g.lanes, dtype=np.float64)

    def _transfers(self, name: str) -> np.ndarray:
        """How many vectors a run of the text sends or receives over each link: int64 [PORTS]."""
        table = self.decoded.table[self.decoded.rows(name)]
        links = self.ports[table[:, FIELDS]]
        wired = links >= 0
        return np.bincount(links[wired], weights=1 + table[wired, REPEATS], minlength=PORTS).astype(np.int64)

    def trace_into(self, records: int, reserve: int) -> np.ndarray:
        """A section for recorded events behind M, made when it is first asked for; recording is on until `reset`."""
        if len(self.M) == self.size:
            self.M = with_section(self.M, records, reserve)
        self.M[TRACE] = self.size
        return self.M[self.size :]

    def part(self, which: int, size: int) -> np.ndarray:
        """A section of M as [records, size]."""
        start = self.fixed[which]
        return self.M[start : start + self.sections[which]].reshape(-1, size)

    def reset(self) -> None:
        """Empty machine, every queue about to issue its first instruction in cycle 0."""
        g, M = self.g, self.M
        M[: self.size] = 0
        for index, value in self.fixed.items():
            M[index] = value
        M[LAST_NOTIFY] = NEVER
        M[NOW] = -1
        queues = self.part(QUEUE_AT, QUEUE_SIZE)
        starts = self.decoded.starts
        queues[:, PC], queues[:, END] = starts[:-1], starts[1:]
        queues[:, PARKED] = queues[:, BUSY_AT] = queues[:, ACCESS_AT] = -1
        for port in range(2):
            queues[:, SEQUENCER + 5 * port + SEQ_UNTIL] = -1
        self.part(KIND_AT, 1)[:, 0] = g.queue_kind
        self.part(UNIT_AT, 1)[:, 0] = g.unit
        self.part(COLUMN_AT, 1)[:, 0] = g.column
        self.part(STREAM_AT, STREAM_SIZE)[:, INVARIANT] = NEVER
        self.part(EXEC_AT, EXEC_SIZE)[:, EXEC_CYCLE] = -1
        self.part(OUTPUT_AT, 1)[:] = -1
        planes = self.part(PLANE_AT, PLANE_SIZE)
        planes[:, SHADOW_TYPE] = planes[:, INSTALLED_TYPE] = planes[:, INSTALLING_UNTIL] = planes[:, FEEDING_UNTIL] = -1
        self.part(PORT_AT, 1)[:, 0] = self.ports
        ends = self.part(END_AT, END_SIZE)
        ends[:, END_LAST] = NEVER
        ends[:, END_FIRST_SENT] = np.cumsum(self.sent) - self.sent
        ends[:, END_FIRST_RECEIVED] = np.cumsum(self.received) - self.received
        arriving = self.part(RECEIVED_AT, LOG_SIZE)
        arriving[:, LOG_ARRIVES] = NEVER if self.blind else NOT_SENT
        arriving[:, LOG_POISON] = M[FULL]
        slot = self.fixed[WHEEL_AT]
        for q in np.flatnonzero(starts[1:] > starts[:-1]):
            bit = 64 * int(M[DUE_WORDS]) + AGENTS * int(q) + FRONT
            M[slot + bit // 64] |= np.int64(np.uint64(1 << (bit % 64)).astype(np.int64))
            M[EVENTS] += 1
        M[self.fixed[SUMMARY_AT]] = 1 if M[EVENTS] else 0


NOP, SYNC, NOTIFY = code("NOP"), code("SYNC"), code("NOTIFY")
assert OP == 0
