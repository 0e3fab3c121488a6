"""mbarriers and the bulk-copy engine of an SM, for the twin.

An mbarrier instruction checks its addresses when it issues and acts when the load-store unit takes it.
A bulk copy moves its bytes when it issues (a program without races cannot tell); the unit hands it to
the SM's engine, which works copies off in order: one request of a line a cycle, starts at least
`issue_interval` cycles apart, at most `outstanding_lines` lines asked for. Some cycles after its last
line arrived a copy is complete and gives its bytes to the mbarrier.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from emulator.gpu.decode import Instruction
from emulator.gpu.errors import ADDRESS_RANGE, BULK_SIZE, MBARRIER, MBARRIER_OVERRUN, MISALIGNED, SHARED_RANGE
from emulator.gpu.mbarrier import BYTES_MAX, COUNT_AT, FIELD, MARK, MARK_AT, PHASE_AT
from emulator.gpu.naive_execute import Access, Fault, Warp, wrap64
from emulator.gpu.timing import Timing
from emulator.trace import KIND_INDEX

if TYPE_CHECKING:
    from emulator.gpu.naive import SM, NaiveEngine

NEVER = 1 << 58


@dataclass
class Mbarrier:
    """An mbarrier's state: parity of its phase, arrivals a phase, arrivals and bytes that are missing."""

    phase: int
    count: int
    missing: int
    bytes: int

    @staticmethod
    def load(warp: Warp, at: int, index: int = 0) -> Mbarrier:
        """The mbarrier in shared memory at a byte address. Raises Fault when none is there."""
        word, left = (int(v) for v in warp.shared[at : at + 8].view(np.uint32))
        if word >> MARK_AT != MARK or warp.shared_poison[at // 4 : at // 4 + 2].any():
            raise Fault(MBARRIER, at, warp, index)
        return Mbarrier(word >> PHASE_AT & 1, word >> COUNT_AT & FIELD, word & FIELD,
                        left - (1 << 32) if left >> 31 else left)

    def store(self, warp: Warp, at: int) -> None:
        """Write it to shared memory."""
        word = MARK << MARK_AT | self.phase << PHASE_AT | self.count << COUNT_AT | self.missing
        warp.shared[at : at + 8].view(np.uint32)[:] = (word, self.bytes & 0xFFFFFFFF)
        warp.shared_poison[at // 4 : at // 4 + 2] = False


@dataclass
class Copy:
    """A bulk copy: the lines still to be asked for, and how many of all have not arrived."""

    access: Access
    lines: deque[tuple[int, int]]  # line, sector mask
    left: int
    handed: int  # cycle in which the engine got it
    started: bool = False
    done: int = 0  # cycle in which it is complete


def barrier_access(engine: NaiveEngine, counters: dict[str, int], warp: Warp, one: Instruction) -> Access:
    """MBINIT, MBARRIVE, MBWAIT and BULK at their issue: checks, and the bytes that a copy moves."""
    v, name = one.values, one.op.name
    at = wrap64(warp.uniform[v["bar"]] + v["bar_offset"])
    if at < 0 or at + 8 > len(warp.shared):
        raise Fault(SHARED_RANGE, at)
    if at % 8:
        raise Fault(MISALIGNED, at)
    access = Access(warp, name, [], 0, 1, barrier=at, index=warp.pc - 1)
    if name == "MBINIT":
        Mbarrier(0, v["count"], v["count"], 0).store(warp, at)
        return access
    Mbarrier.load(warp, at)
    if name == "MBWAIT":
        access.phase = warp.uniform[v["phase"]] & 1
        warp.start, warp.start_reason = NEVER, "mbarrier"
    else:
        access.bytes = warp.uniform[v["bytes"]]
        if not 0 <= access.bytes <= BYTES_MAX or (name == "BULK" and (access.bytes % 16 or not access.bytes)):
            raise Fault(BULK_SIZE, access.bytes)
    if name == "BULK":
        _copy_bytes(engine, counters, warp, one, access)
    return access


def _copy_bytes(engine: NaiveEngine, counters: dict[str, int], warp: Warp, one: Instruction, access: Access) -> None:
    """BULK: global memory, real or phantom as a whole, to shared memory."""
    size, target = access.bytes, warp.uniform[one.values["shared"]]
    source = wrap64(warp.uniform[one.values["a"]] + one.values["offset"])
    if target < 0 or target + size > len(warp.shared):
        raise Fault(SHARED_RANGE, target)
    place = engine.place(source, size)
    if place is None:
        raise Fault(ADDRESS_RANGE, source)
    memory, local, phantom = place
    for address in (target, source):
        if address % 16:
            raise Fault(MISALIGNED, address)
    warp.shared_poison[target // 4 : (target + size) // 4] = phantom
    if not phantom:
        warp.shared[target : target + size] = memory[local : local + size]
    counters["shared_write_bytes"] += size
    for sector in range(source // 32, (source + size - 1) // 32 + 1):
        access.lines[sector // 4] = access.lines.get(sector // 4, 0) | 1 << sector % 4


def serve_barrier(engine: NaiveEngine, sm: SM, access: Access, t: int) -> None:
    """The load-store unit takes MBARRIVE, MBWAIT or BULK."""
    warp, resume = access.warp, max(t + 1, t - 1 + engine.timing.shared_latency)
    if access.kind == "BULK":
        sm.bulk.queue.append(Copy(access, deque(access.lines.items()), len(access.lines), t))
        sm.bulk.live += 1
        sm.counters["bulk_copies"] += 1
        return
    settle(warp, t + 1)
    if access.kind == "MBARRIVE":
        arrive(sm, access, 1, access.bytes, resume)
    elif Mbarrier.load(warp, access.barrier, access.index).phase != access.phase:
        warp.start = resume
    else:
        warp.waits_at = access.barrier


def arrive(sm: SM, access: Access, arrivals: int, size: int, resume: int) -> None:
    """Arrivals and bytes for a phase; warps that wait for it go on at `resume` when it is complete."""
    warp, at = access.warp, access.barrier
    barrier = Mbarrier.load(warp, at, access.index)
    if barrier.missing < arrivals or abs(barrier.bytes + size) > BYTES_MAX:
        raise Fault(MBARRIER_OVERRUN, at, warp, access.index)
    barrier.missing -= arrivals
    barrier.bytes += size
    if barrier.missing == 0 and barrier.bytes == 0:
        barrier.phase ^= 1
        barrier.missing = barrier.count
        for other in next(cta.warps for cta in sm.ctas.values() if cta.number == warp.cta):
            if other.waits_at == at:
                other.waits_at, other.start = -1, resume
    barrier.store(warp, at)


def settle(warp: Warp, time: int) -> None:
    """One pending load, copied line or bulk copy of a warp is complete at `time`."""
    warp.pending -= 1
    warp.pending_time = max(warp.pending_time, time)


@dataclass
class BulkEngine:
    """The bulk-copy engine of an SM. `cycles`: how many it was busy, held by the issue interval, by the line limit."""

    queue: deque[Copy] = field(default_factory=deque)  # copies with lines still to be asked for
    arrived: deque[Copy] = field(default_factory=deque)  # all lines are there, not yet complete
    live: int = 0  # copies accepted and not complete
    lines: int = 0  # asked for and not there
    free: int = 0  # earliest start of the next copy
    state: str = "idle"
    since: int = 0  # cycle in which it entered this state
    cycles: dict[str, int] = field(default_factory=lambda: {"busy": 0, "issue": 0, "limit": 0})

    def complete(self, engine: NaiveEngine, sm: SM, t: int) -> None:
        """Give the bytes of copies that are complete by cycle t to their mbarriers."""
        while self.arrived and self.arrived[0].done <= t:
            copy = self.arrived.popleft()
            self.live -= 1
            engine.note(KIND_INDEX["copy"], 6, sm, copy.handed, copy.done, copy.access.index, copy.access.warp.age,
                        size=copy.access.bytes)
            settle(copy.access.warp, copy.done)
            arrive(sm, copy.access, 0, -copy.access.bytes, copy.done)

    def step(self, engine: NaiveEngine, sm: SM, t: int) -> None:
        """One cycle: ask for one line, if there is one and nothing forbids it."""
        if not self.queue:
            self.enter(engine, sm, "idle", t)
            return
        copy, timing = self.queue[0], engine.timing
        if not copy.started and t < max(self.free, copy.handed + 1):
            self.cycles["issue"] += 1
            self.enter(engine, sm, "issue", t)
        elif self.lines >= timing.bulk_lines:
            self.cycles["limit"] += 1
            self.enter(engine, sm, "limit", t)
        else:
            self.cycles["busy"] += 1
            self.enter(engine, sm, "busy", t)
            if not copy.started:
                copy.started, self.free = True, t + timing.bulk_issue
            line, mask = copy.lines.popleft()
            self.lines += 1
            sm.counters["bulk_sectors"] += mask.bit_count()
            sm.counters["bulk_requests"] += 1
            engine.send_bulk(sm, copy, line, mask, t)
            if not copy.lines:
                self.queue.popleft()

    def enter(self, engine: NaiveEngine, sm: SM, state: str, t: int) -> None:
        """What it does in cycle t; a trace has the cycles in a row in which it does the same."""
        if state != self.state:
            if self.state != "idle":
                engine.note(KIND_INDEX[f"bulk_{self.state}"], 6, sm, self.since, t)
            self.state, self.since = state, t

    def respond(self, timing: Timing, copy: Copy, t: int) -> None:
        """A line of a copy has arrived at cycle t."""
        self.lines -= 1
        copy.left -= 1
        if copy.left == 0:
            copy.done = t + timing.l1_return + timing.bulk_extra
            self.arrived.append(copy)
