"""The LPU, one cycle at a time: the living definition of the machine. Slow, and meant to be read.

A cycle has four phases:
  move    every value on a stream hops one column in its direction; at the edge it falls off
  commit  results of earlier instructions appear on their unit's column (or in an accumulator)
  issue   every queue, in order of its number, issues what is due; READ, ACC and RECV put their value
          on the stream at once
  sample  all other instructions of the cycle take their operands, in the same order

An instruction issued in cycle t runs on superlane k in cycle t + k. All times here are superlane 0's:
the others do the same later, so they need no state of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emulator.accounting import LPU_REASONS
from emulator.lpu import geometry as geo
from emulator.lpu.naive_units import Issue, NaiveUnits
from emulator.lpu.outcome import Outcome
from emulator.lpu.text import IDLE, START_BARRIER, reason_of
from emulator.trace import ISSUE, KIND_INDEX, LEVEL_OF_OPCODE, STALL, Window
from emulator.trace_build import Notes
from isa.encoding import decode
from isa.opcodes import ALU_BASE, S8, TYPE_BYTES


@dataclass
class Sequencer:
    """Issues the remaining iterations of a REPEAT beside the queue."""

    first: Issue
    remaining: int
    distance: int
    due: int


@dataclass
class Queue:
    next_row: int
    end: int
    due: int = 0  # cycle in which the next instruction is issued
    parked_since: int = -1  # SYNC: cycle of issue while nobody has released it
    cover: tuple[int, int, int] = (0, 0, 0)  # cycles [from, to) that a NOP or barrier explains, reason
    cover_row: int = -1  # that NOP or barrier
    sequencers: list[Sequencer | None] = field(default_factory=lambda: [None, None])  # a port each
    port_until: list[int] = field(default_factory=lambda: [-1, -1])  # last cycle of each sequencer
    owners: bytearray = field(default_factory=bytearray)  # one reason a cycle
    rows: list[int] = field(default_factory=list)  # and the row of the NOP or barrier that says so, -1 for none


class NaiveEngine(NaiveUnits):
    """Runs a text once on an SRAM. All state but the SRAM starts empty."""

    def run(self, window: Window | None = None) -> Outcome:
        """Run to the end. window: what to record. Raises ScheduleError."""
        self.begin(window)
        while self.alive():
            self.tick()
        self.check_parked()
        return self.outcome()

    def begin(self, window: Window | None = None) -> None:
        """Everything empty, cycle 0. window: what to record, in the chip's cycles."""
        self.clear()
        self.notes = None if window is None else Notes(window)
        starts = self.text.starts
        self.queues = [Queue(int(starts[q]), int(starts[q + 1])) for q in range(self.g.queues)]
        self.last_notify = -1
        self.cycles = self.fetched = 0
        self.issued = np.zeros(256, dtype=np.int64)

    def tick(self) -> None:
        """One cycle."""
        self.move()
        self.commit()
        self.sample(self.issue())
        self.remember()
        self.t += 1

    def check_parked(self) -> None:
        """At the end no queue may wait for a NOTIFY. Raises ScheduleError."""
        parked = [q for q, queue in enumerate(self.queues) if queue.parked_since >= 0]
        if parked:
            queue = self.queues[parked[0]]
            raise self.report.simple("sync_deadlock", queue.parked_since, parked[0], queue.next_row - 1, 0)

    def alive(self) -> bool:
        """Something is still to happen (a parked queue alone cannot make it happen)."""
        return bool(self.pending or self.later) or any(
            (queue.next_row < queue.end and queue.parked_since < 0) or any(queue.sequencers) for queue in self.queues)

    # -- issue ---------------------------------------------------------------------------------------
    def decode(self, queue: int, row: int) -> Issue:
        op, _, values = decode("lpu", self.text.words[row])
        return Issue(queue, row, op.name, dict(zip((f.name for f in op.fields("lpu")), values, strict=True)))

    def issue(self) -> list[Issue]:
        """Issue what is due in this cycle; returns the instructions that sample operands, in order."""
        samplers: list[Issue] = []
        notifiers: list[int] = []
        self.accesses = {}
        chained = {issue.queue: issue for issue in self.later.pop(self.t, [])}
        for q, queue in enumerate(self.queues):
            owner = IDLE
            if queue.cover[0] <= self.t < queue.cover[1] or queue.parked_since >= 0:
                owner = queue.cover[2]
            for port, sequencer in enumerate(queue.sequencers):
                if sequencer is not None and sequencer.due == self.t:
                    owner = 0
                    first = sequencer.first
                    iteration = first.iteration + 1
                    sequencer.first = Issue(q, first.row, first.name, first.fields, iteration, first.stride)
                    sequencer.remaining -= 1
                    sequencer.due += sequencer.distance
                    if not sequencer.remaining:
                        queue.sequencers[port] = None
                    self.start(sequencer.first, samplers)
            if q in chained:
                samplers.append(chained[q])
            if queue.parked_since < 0 and queue.due <= self.t and queue.next_row < queue.end:
                owner = self.front(q, queue, samplers, notifiers, owner)
            queue.owners.append(owner)
            queue.rows.append(queue.cover_row if owner not in (0, IDLE) else -1)
        for q in notifiers:
            self.release(q)
        return samplers

    def front(self, q: int, queue: Queue, samplers: list[Issue], notifiers: list[int], owner: int) -> int:
        """Issue a queue's next instruction; returns who owns the queue's cycle."""
        issue = self.decode(q, queue.next_row)
        queue.next_row += 1
        queue.due = self.t + 1
        self.fetched += 1
        if self.notes is not None:
            self.note_fetch(issue, queue)
        if issue.name in ("NOP", "SYNC", "NOTIFY"):
            self.issued[self.opcode(issue)] += 1
            self.cycles = max(self.cycles, self.t + self.g.completion(issue.name, n=issue.fields.get("n", 0)))
            reason = reason_of(self.text, issue.row) if issue.name == "NOP" else START_BARRIER
            queue.cover_row = issue.row
            if issue.name == "NOP":
                queue.due = self.t + issue.fields["n"]
                queue.cover = (self.t, queue.due, reason)
            elif issue.name == "NOTIFY":
                notifiers.append(q)
            else:
                if self.last_notify >= 0 and self.t < self.last_notify + self.g.barrier:
                    raise self.report.simple("queue_late", self.t, q, issue.row, 0, self.last_notify)
                queue.parked_since = self.t
                queue.cover = (0, 0, reason)
            return owner if owner == 0 else reason
        port = 1 if issue.name in ("WRITE", "SCATTER") else 0
        if self.t <= queue.port_until[port]:
            raise self.report.simple("port_conflict", self.t, q, issue.row, 0, queue.port_until[port])
        if queue.next_row < queue.end:
            repeat = self.decode(q, queue.next_row)
            if repeat.name == "REPEAT":
                queue.next_row += 1
                self.fetched += 1
                n, d, issue.stride = repeat.fields["n"], repeat.fields["d"], repeat.fields["stride"]
                if n:
                    queue.sequencers[port] = Sequencer(issue, n, d, self.t + d)
                    queue.port_until[port] = self.t + n * d
        self.start(issue, samplers)
        return 0

    def release(self, notifier: int) -> None:
        """NOTIFY: it and every parked queue go on together, after the barrier latency."""
        resume = self.t + self.g.barrier
        self.last_notify = self.t
        for q, queue in enumerate(self.queues):
            if q == notifier or queue.parked_since >= 0:
                queue.parked_since = -1
                queue.due = resume
                queue.cover = (self.t, resume, START_BARRIER)

    def start(self, issue: Issue, samplers: list[Issue]) -> None:
        """Count an instruction; READ, ACC and RECV act at once, the others when all producers have."""
        self.issued[self.opcode(issue)] += 1
        fields = issue.fields
        chained = all(fields[name] >= ALU_BASE for name in "abc" if name in fields)
        delay = self.g.completion(issue.name, n=fields.get("n", 0), chained=chained,
                                  type_bytes=TYPE_BYTES[fields.get("type", S8)])
        self.cycles = max(self.cycles, self.t + delay)
        if self.notes is not None:
            self.note_issue(issue, self.g.gather if issue.name == "GATHER" else delay)
        if issue.name == "READ":
            self.read(issue)
        elif issue.name == "ACC":
            self.acc(issue)
        elif issue.name == "RECV":
            self.recv(issue)
        else:
            samplers.append(issue)

    def sample(self, samplers: list[Issue]) -> None:
        for issue in samplers:
            kind = self.g.queue_kind[issue.queue]
            if kind == geo.VXM:
                self.vxm(issue)
            elif kind in (geo.SHIFT, geo.PERMUTE, geo.DISTRIBUTE, geo.TRANSPOSE):
                self.sxm(issue)
            else:
                getattr(self, issue.name.lower())(issue)

    # -- the end ---------------------------------------------------------------------------------------
    def outcome(self) -> Outcome:
        """Let the streams run empty, then count."""
        for _ in range(2 * self.g.edge + 1):
            self.move()
            self.t += 1
        cycles = self.cycles + self.g.superlanes - 1 if self.cycles else 0
        buckets = np.zeros((self.g.queues, len(LPU_REASONS)), dtype=np.int64)
        for q, queue in enumerate(self.queues):
            owners = bytearray(queue.owners[:cycles])
            # A NOP or a barrier may explain cycles after the last one that was emulated.
            for cycle in range(len(owners), cycles):
                covered = queue.cover[0] <= cycle < queue.cover[1]
                owners.append(queue.cover[2] if covered else IDLE)
                queue.rows.append(queue.cover_row if covered else -1)
            self.note_waits(q, owners, queue.rows)
            buckets[q] = np.bincount(owners, minlength=len(LPU_REASONS))
        return Outcome(cycles, self.issued, self.fetched, buckets, self.values, self.unconsumed, self.hops,
                       self.ingested, self.macs, None if self.notes is None else self.notes.take_out())

    # -- what a trace wants to know -----------------------------------------------------------------
    def note_issue(self, issue: Issue, delay: int) -> None:
        """An instruction of a unit, with the bytes that it moves at the level of its opcode."""
        moved = self.g.lanes if issue.name in LEVEL_OF_OPCODE else 0
        if issue.name == "LW":
            moved *= issue.fields["rows"] * TYPE_BYTES[issue.fields["type"]]
        assert self.notes is not None
        self.notes.record(ISSUE, issue.queue, self.t, self.t + max(1, delay), issue.row, issue.iteration, 0, moved)

    def note_fetch(self, issue: Issue, queue: Queue) -> None:
        """An instruction word is taken, and that of a REPEAT behind it."""
        assert self.notes is not None
        words = 1
        if issue.name not in ("NOP", "SYNC", "NOTIFY") and queue.next_row < queue.end:
            words += self.decode(issue.queue, queue.next_row).name == "REPEAT"
        self.notes.record(KIND_INDEX["instruction_fetch"], issue.queue, self.t, self.t + 1, issue.row,
                          size=words * self.g.instruction_bytes)

    def note_waits(self, q: int, owners: bytearray, rows: list[int]) -> None:
        """Cycles in a row that one NOP or barrier explains are one event."""
        if self.notes is None:
            return
        first = 0
        for cycle in range(1, len(owners) + 1):
            if cycle == len(owners) or rows[cycle] != rows[first]:
                if rows[first] >= 0:
                    self.notes.record(STALL, q, first, cycle, rows[first], reason=owners[first])
                first = cycle
