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

    def run(self, budget: int = BUDGET) -> Outcome:
        """Run to the end. Raises ScheduleError."""
        self.start()
        self.advance(FOREVER, budget)
        if self.failed:
            raise self.error(Reporter(self.g, self.text))
        return self.outcome()

    def start(self) -> None:
        """Everything empty, cycle 0."""
        self.state.reset()
        self.status = WAITING

    def advance(self, until: int, budget: int = BUDGET) -> None:
        """Run all that happens before cycle `until`."""
        s, self.status = self.state, PAUSED
        while self.status == PAUSED:
            self.status = kernel(s.M, self.decoded.table, self.decoded.maps, s.sram, s.flags, s.BYTES, s.LANES,
                                 s.HALVES, s.TILE8, s.TILE16, s.WORK8, s.WORK16, budget, until)

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
        return Outcome(cycles, self.state.part(st.ISSUED_AT, 1)[:, 0].copy(), int(M[st.FETCHED_WORDS]), buckets, values,
                       values - int(M[st.CONSUMED_VALUES]), int(M[st.HOPS]), int(M[st.INGESTED]), int(M[st.MACS]))

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
