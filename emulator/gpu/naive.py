"""The naive twin: every SM, one cycle at a time, in plain Python. The definition of the machine.

A cycle has four parts, in this order: the memory system's answers arrive; CTAs are dispatched; each
SM's sub-cores issue, at most one instruction each; each load-store unit takes instructions.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from emulator.accounting import GPU_REASONS
from emulator.chip import Chip
from emulator.gpu.decode import SLOTS, Instruction
from emulator.gpu.errors import DEADLOCK, KINDS, MachineError
from emulator.gpu.launch import SM_UNITS, KernelRun, Shape, machine_error
from emulator.gpu.naive_bulk import BulkEngine, Copy, serve_barrier, settle
from emulator.gpu.naive_execute import Access, Fault, Warp, execute
from emulator.gpu.naive_memory import NaiveMemory
from emulator.gpu.timing import (
    CONTROL,
    LINE_AT_PEER,
    LSU,
    MAX_OPEN_GROUPS,
    MAX_WARPS,
    PEER_AT,
    SECTOR_BYTES,
    SECTORS,
    Timing,
)
from emulator.trace import CTA, ISSUE, KIND_INDEX, STALL, Window
from emulator.trace_build import Notes, event_columns
from emulator.trace_layout import WAIT_AT
from isa.program import GpuText, Launch

NEVER = 1 << 58
SM_UNIT, LSU_UNIT, BULK_UNIT = 4, 5, 6  # of an SM in a trace, after its sub-cores
REASON = {reason.name: at for at, reason in enumerate(GPU_REASONS)}
COUNTERS = (
    "warp_instructions", "l1_read_sectors", "l1_hit_sectors", "l1_merged_sectors", "l1_miss_sectors",
    "copy_sectors", "store_sectors", "shared_read_bytes", "shared_write_bytes", "bank_conflict_cycles",
    "poisoned_stores", "tensor_instructions", "load_requests", "store_requests", "copy_requests", "ctas",
    "bulk_copies", "bulk_requests", "bulk_sectors", "atomic_requests", "atomic_sectors", "bypass_requests",
    "bypass_sectors", "sm_active_cycles")


@dataclass
class Cta:
    """A thread block on an SM: its live warps, how many wait at the barrier, its shared memory."""

    number: int
    warps: list[Warp]
    live: int
    start: int
    arrived: int = 0


@dataclass
class L1Line:
    """A 128-byte line: each sector is "valid", "invalid" or the request that will bring it."""

    line: int
    used: int
    sectors: list[object] = field(default_factory=lambda: ["invalid"] * SECTORS)


@dataclass
class Load:
    """A load that waits for sectors: how many requests are left, and when its data is complete."""

    access: Access
    left: int = 0
    time: int = 0


@dataclass
class Request:
    """What an SM has asked of the memory system."""

    sm: SM
    kind: str  # "load", "copy", "bulk", "store" or "atomic"
    mask: int
    access: Access
    place: L1Line | None = None
    waiters: list[tuple[Load, int]] = field(default_factory=list)  # and the sectors each waits for
    copy: Copy | None = None
    distance: int = 0  # of the peer that a store is for
    landing: dict[int, int] = field(default_factory=dict)  # what it stores there: address -> byte


class SubCore:
    """One scheduler with its warps, units and load-store queue."""

    def __init__(self) -> None:
        self.warps: dict[int, Warp] = {}  # by slot
        self.last: Warp | None = None
        self.unit_free = [0] * LSU
        self.queue: deque[Access] = deque()
        self.taken = -NEVER  # when the load-store unit last took one of ours
        self.waited = 0  # cycles since the last issue in which warps were there
        self.empty = 0  # cycles since a warp was there
        self.reasons = [0] * len(GPU_REASONS)

    def issue(self, engine: NaiveEngine, sm: SM, t: int) -> None:
        """One cycle: pick a ready warp (the last one first, else the youngest), or wait."""
        if not self.warps:
            self.reasons[REASON["no_warp"]] += 1
            self.empty += 1
            return
        engine.note_empty(sm, self, t)
        why = {slot: blocked(engine, self, warp, t) for slot, warp in self.warps.items()}
        ready = [warp for slot, warp in sorted(self.warps.items()) if why[slot] is None]
        if not ready:
            self.waited += 1
            for slot, warp in self.warps.items():
                warp.reason = why[slot]
            return
        # A skipped interval belongs to the warp that became ready first; lowest slot on ties.
        if self.waited:
            reason = REASON[ready[0].reason or "launch"]
            self.reasons[reason] += self.waited
            engine.note_wait(sm, self, t, self.waited, reason, ready[0])
            self.waited = 0
        self.reasons[REASON["busy"]] += 1
        warp = self.last if self.last in ready else max(ready, key=lambda w: w.age)
        self.last = warp
        engine.issue(sm, self, warp, t)


def blocked(engine: NaiveEngine, sub: SubCore, warp: Warp, t: int) -> str | None:
    """The first reason why a warp cannot issue at cycle t, or None."""
    if warp.at_barrier:
        return "barrier"
    if warp.start > t:
        return warp.start_reason
    one = engine.instructions[warp.pc]
    for slot in one.reads + one.writes:
        if warp.ready[slot] > t:
            return warp.producer[slot]
    if one.op.name == "CPWAIT":
        group = len(warp.groups) - 1 - one.values["n"]  # this many of the oldest have to be finished
        if group > 0 and (warp.retired < group or warp.groups[group - 1].time > t):
            return "copy_wait"
    if one.op.name == "MEMBAR" and warp.stores:
        return "global_memory"
    if one.op.name == "EXIT" and (warp.pending or warp.pending_time > t):
        return "global_memory"
    if one.unit < LSU and sub.unit_free[one.unit] > t:
        return "unit_busy"
    if one.unit == LSU and len(sub.queue) >= engine.timing.lsu_queue:
        return "memory_queue"
    return None


class SM:
    """Four sub-cores, the load-store unit with L1, and CTA slots."""

    def __init__(self, number: int, timing: Timing) -> None:
        self.number = number
        self.sub_cores = [SubCore() for _ in range(4)]
        self.ctas: dict[int, Cta] = {}  # by CTA slot
        self.lsu_free = 0
        self.turn = 0
        self.sectors = 0  # that loads and copies wait for
        self.stores = 0  # lines without acknowledgement
        self.sets: list[list[L1Line]] = []
        self.uses = 0
        self.bulk = BulkEngine()
        self.counters = dict.fromkeys(COUNTERS, 0)

    def lsu(self, engine: NaiveEngine, t: int) -> None:
        """The load-store unit: sub-cores in turn, as long as it is free."""
        timing = engine.timing
        while self.lsu_free <= t:
            for k in range(4):
                number = (self.turn + k) % 4
                sub = self.sub_cores[number]
                if sub.queue:
                    access = sub.queue[0]
                    there = max(access.time + 1, sub.taken + timing.lsu_sub_core_interval) <= t
                    if there and self.fits(access, timing):
                        break
            else:
                return
            sub.queue.popleft()
            self.serve(engine, access, t)
            self.lsu_free = t + max(timing.lsu_interval, access.phases * timing.lsu_phase_cycles)
            if access.kind in ("LDG", "ULDG"):
                engine.note(KIND_INDEX["l1_read"], LSU_UNIT, self, t, max(t + 1, self.lsu_free), actor=access.warp.age,
                            size=SECTOR_BYTES * access.sectors)
            self.turn = (number + 1) % 4
            sub.taken = t

    def fits(self, access: Access, timing: Timing) -> bool:
        """Whether the limits on outstanding sectors and stores let an instruction go."""
        if access.kind in ("LDG", "ULDG", "LDGSTS", "LDCG", "ATOM"):
            return self.sectors + access.sectors <= timing.outstanding_sectors
        if access.kind == "STG":
            return self.stores + len(access.lines) <= timing.outstanding_stores
        return access.kind != "BULK" or self.bulk.live < timing.bulk_queue

    def serve(self, engine: NaiveEngine, access: Access, t: int) -> None:
        """Do what one load-store instruction asks for."""
        c = self.counters
        if access.kind in ("LDG", "ULDG"):
            self.load(engine, access, t)
        elif access.kind == "STG":
            for line, mask in access.lines.items():
                self.forget(engine, line, mask)
                engine.send(Request(self, "store", mask, access), line, t)
            access.warp.stores += len(access.lines) - 1
            self.stores += len(access.lines)
            engine.in_flight += len(access.lines) - 1
            c["store_sectors"] += access.sectors
            c["store_requests"] += len(access.lines)
        elif access.kind in ("ATOM", "LDCG"):
            load = Load(access, len(access.lines), max(t + 1, t - 1 + access.latency))
            name = "atomic" if access.kind == "ATOM" else "bypass"
            for line, mask in access.lines.items():
                if access.kind == "ATOM":
                    self.forget(engine, line, mask)
                request = Request(self, "atomic" if access.kind == "ATOM" else "load", mask, access)
                request.waiters.append((load, mask.bit_count()))
                engine.send(request, line, t)
            self.sectors += access.sectors
            c[f"{name}_requests"] += len(access.lines)
            c[f"{name}_sectors"] += access.sectors
        elif access.kind == "LDGSTS":
            for line, mask in access.lines.items():
                engine.send(Request(self, "copy", mask, access), line, t)
            self.sectors += access.sectors
            c["copy_sectors"] += access.sectors
            c["copy_requests"] += len(access.lines)
        elif access.kind in ("STS", "MBINIT"):
            engine.in_flight -= 1
        elif access.kind in ("MBARRIVE", "MBWAIT", "BULK"):
            serve_barrier(engine, self, access, t)
        else:
            finish(access, max(t + 1, t - 1 + access.latency))

    def forget(self, engine: NaiveEngine, line: int, mask: int) -> None:
        """Drop L1's copy of sectors that are written."""
        place = self.find(engine, line)
        for s in range(SECTORS):
            if place is not None and mask >> s & 1:
                place.sectors[s] = "invalid"

    def find(self, engine: NaiveEngine, line: int) -> L1Line | None:
        """The L1 line that holds `line`, or None."""
        return next((place for place in self.sets[line % len(self.sets)] if place.line == line), None)

    def allocate(self, engine: NaiveEngine, line: int) -> L1Line | None:
        """A place for a new line; None if every line of the set still waits for data."""
        ways = self.sets[line % len(self.sets)]
        if len(ways) == engine.l1_ways:
            idle = [w for w in ways if all(isinstance(s, str) for s in w.sectors)]
            if not idle:
                return None
            ways.remove(min(idle, key=lambda w: w.used))
        ways.append(L1Line(line, 0))
        return ways[-1]

    def load(self, engine: NaiveEngine, access: Access, t: int) -> None:
        """Look every line of a load up in L1, ask for the sectors that are missing."""
        c = self.counters
        load = Load(access, 0, max(t + 1, t - 1 + access.latency))
        for line, mask in access.lines.items():
            place = self.find(engine, line) or self.allocate(engine, line)
            if place is not None:
                self.uses += 1
                place.used = self.uses
            wanted = [s for s in range(SECTORS) if mask >> s & 1]
            state = {s: "invalid" if place is None else place.sectors[s] for s in wanted}
            missing = [s for s in wanted if state[s] == "invalid"]
            c["l1_read_sectors"] += len(wanted)
            c["l1_hit_sectors"] += sum(v == "valid" for v in state.values())
            c["l1_merged_sectors"] += sum(isinstance(v, Request) for v in state.values())
            c["l1_miss_sectors"] += len(missing)
            if missing:
                request = Request(self, "load", sum(1 << s for s in missing), access, place)
                engine.send(request, line, t)
                c["load_requests"] += 1
                for s in missing:
                    state[s] = request
                    if place is not None:
                        place.sectors[s] = request
            asked: list[Request] = []
            for v in state.values():
                if isinstance(v, Request) and not any(v is a for a in asked):
                    asked.append(v)
            for request in asked:
                count = sum(v is request for v in state.values())
                request.waiters.append((load, count))
                load.left += 1
                self.sectors += count
        if not load.left:
            finish(access, load.time)


def finish(access: Access, time: int) -> None:
    """A load's registers can be read from `time` on."""
    for slot in access.writes:
        access.warp.ready[slot] = time
    settle(access.warp, time)


def retire(warp: Warp) -> None:
    """Closed copy groups finish in order."""
    while warp.retired < len(warp.groups) - 1 and warp.groups[warp.retired].left == 0:
        if warp.retired:
            group = warp.groups[warp.retired]
            group.time = max(group.time, warp.groups[warp.retired - 1].time)
        warp.retired += 1


def held_by(warp: Warp, one: Instruction, t: int) -> int:
    """The reason that kept a warp last from the instruction that it issues at t; 0 when nothing of its own did."""
    held = [(warp.start, warp.start_reason)]
    held += [(warp.ready[slot], warp.producer[slot]) for slot in one.reads + one.writes]
    if one.op.name == "CPWAIT":
        group = len(warp.groups) - 1 - one.values["n"]
        if group > 0:
            held.append((warp.groups[group - 1].time, "copy_wait"))
    elif one.op.name == "EXIT":
        held.append((warp.pending_time, "global_memory"))
    elif one.op.name == "MEMBAR":
        held = [(t, "global_memory")]
    time, reason = max(held, key=lambda pair: pair[0])
    return REASON[reason] if time > warp.issued + 1 else 0


def shared_bytes(sm: SM) -> int:
    """Bytes of shared memory that an SM's instructions have moved so far."""
    return sm.counters["shared_read_bytes"] + sm.counters["shared_write_bytes"]


class NaiveEngine:
    """The whole GPU. Same methods as launch.FastEngine."""

    def __init__(self, chip: Chip, timing: Timing, text: GpuText, kernels: list[list[Instruction]],
                 image: np.ndarray, phantom: tuple[int, int], ranks: int = 1) -> None:
        self.ranks, self.rank = ranks, 0
        self.group = [self]  # all ranks; one that stands for all is alone
        self.timing, self.text, self.kernels = timing, text, kernels
        self.bytes = image.copy()
        self.phantom = phantom
        self.memory = NaiveMemory(chip, SM_UNITS * timing.sms)
        self.sms = [SM(number, timing) for number in range(timing.sms)]
        self.requests: dict[int, Request] = {}
        self.sent = 0
        self.notes: Notes | None = None  # events of a trace
        self.in_flight = 0  # store instructions queued and stored lines not acknowledged
        self.now = 0
        self.instructions: list[Instruction] = []
        self.launch = Launch(0, 1, 32, 0)
        self.l1_ways = timing.l1_ways

    def counters(self) -> dict[str, int]:
        """Counters of all SMs since the machine was made."""
        return {name: sum(sm.counters[name] for sm in self.sms) for name in COUNTERS}

    def reasons(self) -> np.ndarray:
        """Cycles by reason of every sub-core since the machine was made: int64 [SMs, 4, reasons]."""
        return np.array([[sub.reasons for sub in sm.sub_cores] for sm in self.sms], dtype=np.int64)

    def send(self, request: Request, line: int, t: int) -> None:
        """Pass a request to the memory system."""
        self.requests[self.sent] = request
        if request.kind == "store" and line >> LINE_AT_PEER:
            request.landing = request.access.landing.get(line % (1 << LINE_AT_PEER), {})
            request.distance = line >> LINE_AT_PEER
        self.memory.request(t, request.sm.number, line, request.mask, int(request.kind in ("store", "atomic")),
                            self.sent)
        self.sent += 1

    def send_bulk(self, sm: SM, copy: Copy, line: int, mask: int, t: int) -> None:
        """Pass a bulk copy's request of a line to the memory system."""
        self.send(Request(sm, "bulk", mask, copy.access, copy=copy), line, t)

    def bulk_cycles(self) -> dict[str, int]:
        """Cycles of all bulk engines by what they did, since the machine was made."""
        return {name: sum(sm.bulk.cycles[name] for sm in self.sms) for name in ("busy", "issue", "limit")}

    def place(self, address: int, width: int) -> tuple[np.ndarray, int, bool] | None:
        """The memory in whose window some bytes lie, their address there, and whether they are phantom; None if they
        are nowhere."""
        distance, local = divmod(address, 1 << PEER_AT)
        if not 0 <= distance < self.ranks:
            return None
        real = local + width <= len(self.bytes)
        if not real and not (self.phantom[0] <= local and local + width <= self.phantom[1]):
            return None
        return self.peer(distance).bytes, local, not real

    def peer(self, distance: int) -> NaiveEngine:
        """The rank at a distance."""
        return self.group[self.rank ^ distance] if len(self.group) > 1 else self

    def land_next(self, t: int) -> bool:
        """The next store to a peer lands, if it does so by cycle t."""
        if not self.memory.landed or self.memory.landed[0][0] > t:
            return False
        _, tag = self.memory.landed.popleft()
        request = self.requests[tag]
        for at, byte in request.landing.items():
            self.peer(request.distance).bytes[at] = byte
        return True

    def begin(self, number: int, launch: Launch, shape: Shape, gap: int) -> None:
        """Wait for `gap` cycles, then set a launch up."""
        self.before, self.memory_before = self.counters(), self.memory.counters()
        for sm in self.sms:
            for sub_core in range(len(sm.sub_cores)):
                self.note(STALL, sub_core, sm, self.now, self.now + gap, reason=REASON["launch"])
        for _ in range(gap):
            self.memory.tick(self.now)
            for sm in self.sms:
                for sub in sm.sub_cores:
                    sub.reasons[REASON["launch"]] += 1
            self.now += 1
        self.launch, self.shape, self.number = launch, shape, number
        self.instructions = self.kernels[launch.kernel]
        self.l1_ways = shape.l1_ways
        self.next_cta, self.next_sm = 0, 0
        for sm in self.sms:
            sm.sets = [[] for _ in range(self.timing.l1_sets)]
            sm.turn = 0
        self.start = self.now

    def go_on(self, windows: int = 1) -> bool:
        """One cycle of the launch; True when it is over. Raises MachineError."""
        over = self.cycle(self.now)
        self.now += not over
        return over

    def finish(self) -> KernelRun:
        """What the launch was."""
        self.memory.settle(self.now)
        for sm in self.sms:
            for sub in sm.sub_cores:
                self.note_empty(sm, sub, self.now)
        self.memory.note_open_rows()
        after, memory_after = self.counters(), self.memory.counters()
        return KernelRun(self.start, self.now, {k: after[k] - self.before[k] for k in after},
                         {k: memory_after[k] - self.memory_before[k] for k in memory_after},
                         None if self.notes is None else [event_columns(
                             self.notes.take_out(), origin=self.origin, launch=self.number,
                             instructions=self.text.kernels[self.launch.kernel].first)])

    # -- what a trace wants to know -----------------------------------------------------------------
    def record(self, window: Window | None, origin: int) -> None:
        """Record what a window asks for of a step that began at cycle `origin`, from the next launch on; None: stop."""
        self.notes, self.origin = None if window is None else Notes(window, origin), origin
        self.memory.record(self.notes)

    def note(self, kind: int, unit: int, sm: SM, start: int, end: int, index: int = -1, actor: int = -1,
             reason: int = 0, size: int = 0) -> None:
        """An event of a unit of an SM: a sub-core (0 to 3) or one of the units below."""
        if self.notes is not None and end > start:
            sms = len(self.sms)
            number = sm.number * 4 + unit if unit < 4 else sms * unit + sm.number
            self.notes.record(kind, number, start, end, index, actor, reason, size)

    def note_wait(self, sm: SM, sub: SubCore, t: int, waited: int, reason: int, warp: Warp) -> None:
        """A sub-core has waited for the next instruction of a warp."""
        self.note(STALL, sm.sub_cores.index(sub), sm, t - waited, t, warp.pc, warp.age, reason)

    def note_empty(self, sm: SM, sub: SubCore, t: int) -> None:
        """A sub-core has had no warp, up to now."""
        self.note(STALL, sm.sub_cores.index(sub), sm, t - sub.empty, t, reason=REASON["no_warp"])
        sub.empty = 0

    def cycle(self, t: int) -> bool:
        """One cycle; True, and nothing else done, when the kernel is over."""
        for rank in self.group:  # the first rank does it for all: what they send each other lands at the same time
            rank.memory.tick(t)
        while all([rank.land_next(t) for rank in self.group]):
            pass
        tag = self.memory.pop_response(t)
        while tag >= 0:
            self.respond(self.requests.pop(tag), t)
            tag = self.memory.pop_response(t)
        if self.next_cta == self.launch.grid and not any(sm.ctas for sm in self.sms) and self.in_flight == 0:
            return True
        self.dispatch(t)
        for sm in self.sms:
            sm.counters["sm_active_cycles"] += bool(sm.ctas)
            try:
                sm.bulk.complete(self, sm, t)
                for sub in sm.sub_cores:
                    sub.issue(self, sm, t)
                sm.lsu(self, t)
                sm.bulk.step(self, sm, t)
            except Fault as fault:
                raise self.error(fault, t) from None
        self.check_progress(t)
        return False

    def error(self, fault: Fault, t: int) -> MachineError:
        """The error of an instruction, with its place."""
        assert fault.warp is not None
        return machine_error(KINDS[fault.kind], self.text, self.text.kernels[self.launch.kernel], self.instructions,
                             fault.index, fault.warp.cta, fault.warp.number, t, fault.value)

    def check_progress(self, t: int) -> None:
        """Raise MachineError when nothing is under way and every warp waits for another one.

        The error is that of the first warp that waits for an mbarrier; its cycle is its sub-core's last issue.
        """
        room = self.next_cta < self.launch.grid and any(len(sm.ctas) < self.shape.ctas_per_sm for sm in self.sms)
        if room or self.memory.live or any(sm.bulk.live or any(sub.queue for sub in sm.sub_cores) for sm in self.sms):
            return
        warps = [(warp, sub) for sm in self.sms for slot in range(MAX_WARPS)
                 for sub in sm.sub_cores if (warp := sub.warps.get(slot)) is not None]
        if warps and all(warp.at_barrier or warp.start >= NEVER for warp, _ in warps):
            warp, sub = next(pair for pair in warps if pair[0].waits_at >= 0)
            raise self.error(Fault(DEADLOCK, warp.waits_at, warp, warp.pc - 1), t - sub.waited)

    def dispatch(self, t: int) -> None:
        """Place CTAs on SMs in turn, up to the chip's number a cycle."""
        for _ in range(self.timing.ctas_per_cycle):
            order = [(self.next_sm + k) % len(self.sms) for k in range(len(self.sms))]
            room = [n for n in order if len(self.sms[n].ctas) < self.shape.ctas_per_sm]
            if self.next_cta == self.launch.grid or not room:
                return
            sm = self.sms[room[0]]
            slot = next(s for s in range(self.shape.ctas_per_sm) if s not in sm.ctas)
            shared = np.zeros(self.launch.shared_bytes + 15, dtype=np.uint8)[: self.launch.shared_bytes]
            poison = np.zeros(-(-self.launch.shared_bytes // 4), dtype=bool)
            warps = []
            for w in range(self.shape.warps):
                warp = Warp(slot=slot * self.shape.warps + w, cta=self.next_cta, number=w,
                            age=self.next_cta * self.shape.warps + w,
                            start=t + self.timing.cta_start, issued=t - 1, shared=shared, shared_poison=poison)
                warp.registers = np.zeros((self.text.kernels[self.launch.kernel].registers, 32), dtype=np.uint32)
                warp.ready, warp.producer = [0] * SLOTS, ["fixed_latency"] * SLOTS
                warps.append(warp)
                sm.sub_cores[warp.slot % 4].warps[warp.slot] = warp
            sm.ctas[slot] = Cta(self.next_cta, warps, len(warps), t)
            sm.counters["ctas"] += 1
            self.next_cta += 1
            self.next_sm = (sm.number + 1) % len(self.sms)

    def issue(self, sm: SM, sub: SubCore, warp: Warp, t: int) -> None:
        """One warp issues its next instruction."""
        one = self.instructions[warp.pc]
        index = warp.pc
        reason, moved = held_by(warp, one, t), shared_bytes(sm)
        sm.counters["warp_instructions"] += 1
        if one.unit < LSU:
            sub.unit_free[one.unit] = t + one.interval
        try:
            access, acts = execute(self, sm.counters, warp, one, t)
            if one.unit == CONTROL and acts:
                self.control(sm, sub, warp, one.op.name, t)
        except Fault as fault:
            raise Fault(fault.kind, fault.value, warp, index) from None
        if self.notes is not None:
            end = t + one.latency if one.unit < LSU else t + 1
            self.note(ISSUE, sm.sub_cores.index(sub), sm, t, max(t + 1, end), index, warp.age, reason,
                      t - warp.issued - 1 << WAIT_AT | shared_bytes(sm) - moved)
        warp.issued = t
        if access is not None:
            access.time = t
            sub.queue.append(access)
            if access.kind in ("STG", "STS", "MBINIT"):
                self.in_flight += 1
                warp.stores += access.kind == "STG"
            elif access.kind == "LDGSTS":
                access.group = warp.groups[-1]
                access.group.left += len(access.lines)
                warp.pending += len(access.lines)
            else:
                warp.pending += 1
                for slot in access.writes:
                    warp.ready[slot] = NEVER
                    warp.producer[slot] = "global_memory" if access.lines else "shared_memory"

    def control(self, sm: SM, sub: SubCore, warp: Warp, name: str, t: int) -> None:
        """BAR, EXIT, MEMBAR and CPCOMMIT."""
        slot = warp.slot // self.shape.warps
        cta = sm.ctas[slot]
        if name == "BAR":
            warp.at_barrier = True
            cta.arrived += 1
            self.release(cta, t)
        elif name == "EXIT":
            del sub.warps[warp.slot]
            sub.last = None
            cta.live -= 1
            if cta.live == 0:
                del sm.ctas[slot]
                self.note(CTA, SM_UNIT, sm, cta.start, t + 1, actor=cta.number * self.shape.warps)
            else:
                self.release(cta, t)
        elif name == "MEMBAR":
            sm.sets = [[] for _ in range(self.timing.l1_sets)]
        elif name == "CPCOMMIT":
            warp.close_group()
            retire(warp)
            if len(warp.groups) - 1 - warp.retired > MAX_OPEN_GROUPS:
                raise Fault(KINDS.index("copy_groups"), 0)

    def release(self, cta: Cta, t: int) -> None:
        """Let a CTA go on when all its live warps are at the barrier."""
        if cta.arrived < cta.live:
            return
        cta.arrived = 0
        for warp in cta.warps:
            if warp.at_barrier:
                warp.at_barrier = False
                warp.start, warp.start_reason = t + max(1, self.timing.barrier_latency), "barrier"

    def respond(self, request: Request, t: int) -> None:
        """The memory system has answered a request."""
        sm, warp = request.sm, request.access.warp
        time = t + self.timing.l1_return
        if request.kind == "store":
            sm.stores -= 1
            warp.stores -= 1
            self.in_flight -= 1
        elif request.copy is not None:
            sm.bulk.respond(self.timing, request.copy, t)
        elif request.kind == "copy":
            time += self.timing.copy_extra
            group = request.access.group
            sm.sectors -= request.mask.bit_count()
            group.left -= 1
            group.time = max(group.time, time)
            retire(warp)
            settle(warp, time)
        else:
            if request.place is not None:
                for s in range(SECTORS):
                    if request.place.sectors[s] is request:
                        request.place.sectors[s] = "valid"
            if request.kind == "atomic":
                time += self.timing.atomic_extra
            for load, count in request.waiters:
                sm.sectors -= count
                load.time = max(load.time, time)
                load.left -= 1
                if load.left == 0:
                    finish(load.access, load.time)
