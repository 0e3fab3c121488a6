"""The fast LPU engine: a thin Python face of the compiled kernel."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from emulator.accounting import LPU_REASONS
from emulator.lpu import state as st
from emulator.lpu.errors import KINDS, PASS_WINDOW, Reporter, ScheduleError
from emulator.lpu.geometry import Geometry
from emulator.lpu.kernel import FAILED, PAUSED, WAITING, kernel
from emulator.lpu.outcome import Outcome
from emulator.lpu.sram import Sram
from emulator.lpu.text import IDLE, Decoded
from emulator.trace import KIND_INDEX, STALL, Window
from emulator.trace_build import open_section, taken, wanted
from emulator.trace_layout import ACTOR, BYTES, END, INSTRUCTION, RECORD, START, WHAT
from isa.opcodes import PORTS, WEST
from isa.program import LpuText


class Failure(NamedTuple):
    """kind; cycle; phase of the cycle (state.COMMIT, ISSUE, SAMPLE); queue number."""

    kind: str
    cycle: int
    phase: int
    queue: int


BUDGET = 1 << 20  # cycles with events between two returns to Python: Ctrl-C works then


NO_PORTS = np.full(PORTS, -1, dtype=np.int64)
FOREVER = 1 << 62  # cycles
TRACE_RECORDS, TRACE_RESERVE = 1 << 17, 1 << 12  # room for recorded events; for those of one cycle


class FastEngine:
    """Runs a text on an SRAM, as often as wanted. All state but the SRAM starts empty each time.

    `run` runs a chip that is alone. Chips with links are advanced side by side, see network.py: `start`,
    `advance` as long as `running`, then `outcome`, or `error` when `failed`.
    """

    def __init__(self, g: Geometry, text: LpuText, sram: Sram, *, decoded: Decoded | None = None,
                 ports: np.ndarray = NO_PORTS, blind: bool = False) -> None:
        """decoded: the text's, when another engine has it already. ports, blind: see State.

        Raises TextError for a text that is not a program of this chip.
        """
        self.g, self.text = g, text
        self.decoded = decoded or Decoded(g, text)
        self.state = st.State(g, self.decoded, sram, ports, blind)
        self.status = PAUSED
        self.window: Window | None = None
        self.records: list[np.ndarray] = []

    def run(self, budget: int = BUDGET, window: Window | None = None) -> Outcome:
        """Run to the end. window: what to record, in the chip's cycles. Raises ScheduleError."""
        self.start(window)
        self.advance(FOREVER, budget)
        if self.failed:
            raise self.error(Reporter(self.g, self.text))
        return self.outcome()

    def start(self, window: Window | None = None) -> None:
        """Everything empty, cycle 0. window: what to record, in the chip's cycles."""
        self.state.reset()
        self.window, self.records = window, []
        if window is not None:
            self.section = self.state.trace_into(TRACE_RECORDS, TRACE_RESERVE)
            open_section(self.section, window, 0)
        self.status = WAITING

    def advance(self, until: int, budget: int = BUDGET) -> None:
        """Run all that happens before cycle `until`."""
        s, self.status = self.state, PAUSED
        while self.status == PAUSED:
            self.status = kernel(s.M, self.decoded.table, self.decoded.maps, s.sram, s.flags, s.BYTES, s.LANES,
                                 s.HALVES, s.TILE8, s.TILE16, s.WORK8, s.WORK16, budget, until)
            if self.window is not None:
                self.records.append(taken(self.section).copy())

    @property
    def running(self) -> bool:
        return self.status == WAITING

    @property
    def failed(self) -> bool:
        return self.status == FAILED

    @property
    def next_event(self) -> int:
        """No cycle before this one has anything to do, while running."""
        return int(self.state.M[st.NEXT_EVENT])

    def outcome(self) -> Outcome:
        """What a run that has ended reports."""
        M, g = self.state.M, self.g
        cycles = int(M[st.CYCLES]) + g.superlanes - 1 if M[st.CYCLES] else 0
        queues = self.state.part(st.QUEUE_AT, st.QUEUE_SIZE)
        buckets = self.state.part(st.BUCKET_AT, len(LPU_REASONS)).copy()
        # A barrier may explain cycles beyond the run's end, and the rest of the run is idle.
        beyond = np.maximum(queues[:, st.COVER_TO] - np.maximum(cycles, queues[:, st.COVER_FROM]), 0)
        buckets[np.arange(g.queues), queues[:, st.COVER_REASON]] -= beyond
        buckets[:, IDLE] = cycles - buckets.sum(axis=1)
        values = int(M[st.VALUES])
        events = None if self.window is None else np.concatenate([*self.records, self._last_events(cycles)])
        return Outcome(cycles, self.state.part(st.ISSUED_AT, 1)[:, 0].copy(), int(M[st.FETCHED_WORDS]), buckets, values,
                       values - int(M[st.CONSUMED_VALUES]), int(M[st.HOPS]), int(M[st.INGESTED]), int(M[st.MACS]),
                       events)

    def _last_events(self, cycles: int) -> np.ndarray:
        """Events that end with the run of so many cycles, or after it: what queues wait for, values on streams."""
        assert self.window is not None
        M = self.state.M
        queues = self.state.part(st.QUEUE_AT, st.QUEUE_SIZE)
        waits = np.zeros((self.g.queues, RECORD), dtype=np.int64)
        waits[:, START] = np.maximum(queues[:, st.COVER_FROM], queues[:, st.BUSY_AT] + 1)
        waits[:, END] = np.minimum(queues[:, st.COVER_TO], cycles)
        waits[:, WHAT] = np.arange(self.g.queues) << 16 | STALL << 8 | queues[:, st.COVER_REASON]
        waits[:, INSTRUCTION], waits[:, ACTOR] = queues[:, st.COVER_ROW], -1
        ring = int(M[st.STREAM_MASK]) + 1
        registers = self.state.part(st.STREAM_AT, st.STREAM_SIZE)
        held = np.flatnonzero(registers[:, st.INVARIANT] != st.NEVER)
        values = np.zeros((len(held), RECORD), dtype=np.int64)
        values[:, START] = registers[held, st.BORN]
        values[:, END] = registers[held, st.INVARIANT] + self.g.edge + 1
        values[:, WHAT] = self.g.queues + held // ring << 16 | KIND_INDEX["stream_byte_hops"] << 8
        values[:, INSTRUCTION], values[:, ACTOR] = registers[held, st.ROW], registers[held, st.ITERATION]
        values[:, BYTES] = (values[:, END] - 1 - values[:, START]) * self.g.lanes
        return wanted(np.concatenate([waits[waits[:, END] > waits[:, START]], values]), self.window)

    def failure(self) -> Failure:
        """Where a run has failed."""
        M = self.state.M
        return Failure(KINDS[int(M[st.ERR_KIND])], *(int(M[i]) for i in (st.NOW, st.ERR_PHASE, st.ERR_QUEUE)))

    def error(self, report: Reporter, detail: int | None = None) -> ScheduleError:
        """How a run has failed, in words. detail: what the chip itself cannot know about it."""
        M = self.state.M
        cycle, queue, row, iteration = (int(M[i]) for i in (st.NOW, st.ERR_QUEUE, st.ERR_ROW, st.ERR_ITERATION))
        form, detail = int(M[st.ERR_FORM]), int(M[st.ERR_DETAIL]) if detail is None else detail
        if form == st.FORM_NO_VALUE:
            return report.no_value(cycle, queue, row, iteration, detail, self._nearest(cycle, queue, detail))
        if form == st.FORM_NO_OUTPUT:
            return report.no_output(cycle, queue, row, iteration, detail)
        if form == st.FORM_COLLISION:
            stream, other = detail >> 32, detail & 0xFFFFFFFF
            column = self.g.column[queue]
            if not column:  # a VXM result
                column = -self.g.result_column if stream >= WEST else self.g.result_column
            return report.collision(cycle, queue, row, iteration, stream, column, other)
        return report.simple(KINDS[int(M[st.ERR_KIND])], cycle, queue, row, iteration, detail)

    def _nearest(self, cycle: int, queue: int, stream: int) -> tuple[int, int] | None:
        """(cycle, row of the producer) of the value that passed or will pass the queue's column closest to now."""
        ring = int(self.state.M[st.STREAM_MASK]) + 1
        registers = self.state.part(st.STREAM_AT, st.STREAM_SIZE)[stream * ring : (stream + 1) * ring]
        column = self.g.column[queue]
        passes = registers[:, st.INVARIANT] + (-column if stream >= WEST else column)
        found = []
        for register, when in zip(registers, passes.tolist(), strict=True):
            distance = abs(when - cycle)
            if register[st.INVARIANT] != st.NEVER and distance <= PASS_WINDOW and register[st.FIRST] <= when:
                found.append((distance, int(when > cycle), when, int(register[st.ROW])))
        return min(found)[2:] if found else None
