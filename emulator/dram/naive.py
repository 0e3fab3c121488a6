"""The DRAM machine's definition: one channel, one command-clock cycle at a time, nothing skipped.

A cycle has four parts, in this order:
 1. For each pseudo-channel: the refresh that is due, then arrivals move into its queues (in order,
    while the queue of the next one has room), then the choice between reading and writing.
 2. One RD or WR on the column command bus: of the pseudo-channels that have a ready one, the next in
    turn; of its ready bursts, the one of the oldest entry (FR-FCFS: first ready, first come).
 3. An entry whose last burst was issued leaves its queue; reading or writing is chosen again.
 4. If the row command bus is free, one ACT or PRE, chosen in the same way.

Only the queue that is being served (reads or writes) is looked at. An open row stays open until an
entry needs the bank for another row and no entry of the served queue hits the open one, or until the
oldest entry of the bank has waited longer than the age cap: then it owns the bank.
Refresh per bank goes round the banks, one bank each `refi` cycles; refresh of all banks takes them together,
each `refi_ab` cycles. It closes the rows at once: after the waits that a precharge would have had, in the bank
where they are longest, the banks are busy for `rfc` (`rfc_ab`) cycles. It takes no command slot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from emulator.dram.config import DramConfig

ACT, PRE, RD, WR, REF = "ACT", "PRE", "RD", "WR", "REF"
NEVER = -(2**62)


@dataclass
class Entry:
    """A 128-byte line, or some of its bursts, to read or write."""

    bank: int
    row: int
    mask: int
    write: bool
    arrival: int  # cycle in which it may enter the queue
    tag: Any = None  # the owner's
    entered: int = 0
    done: int = 0  # cycle in which the last burst's data has passed the bus


@dataclass
class Bank:
    group: int
    row: int | None = None
    act: int = 0  # earliest cycle of each command
    read: int = 0
    write: int = 0
    pre: int = 0
    fresh: bool = False  # opened, and no burst from it yet


@dataclass
class Group:
    """Earliest cycles of commands to banks of one bank group."""

    read: int = 0
    write: int = 0
    act: int = 0


@dataclass
class PseudoChannel:
    """Its banks, its waiting entries, and the earliest cycles of its commands."""

    number: int
    banks: list[Bank]
    groups: list[Group]
    refresh_at: int
    refresh_bank: int = 0
    fifo: deque[Entry] = field(default_factory=deque)
    reads: list[Entry] = field(default_factory=list)  # queues, oldest first
    writes: list[Entry] = field(default_factory=list)
    writing: bool = False
    read: int = 0  # earliest cycles of commands to any bank
    write: int = 0
    act: int = 0
    acts: deque[int] = field(default_factory=lambda: deque([NEVER] * 4, maxlen=4))

    @property
    def queue(self) -> list[Entry]:
        """The queue that is being served."""
        return self.writes if self.writing else self.reads


@dataclass
class Rows:
    """What the banks' open rows have moved, for a trace. start: cycle from which on it looks; event: takes pseudo-
    channel, bank, cycles [opened, closed), bursts read and written."""

    start: int
    event: Callable[[int, int, int, int, int, int], None]
    banks: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # opened, bursts read, written

    def note(self, d: int, pc: int, command: str, bank: int) -> None:
        """A command."""
        if command == PRE:
            self.close(d, pc, bank)
        elif command == ACT:
            self.banks[pc, bank] = [d, 0, 0]
        elif command in (RD, WR):
            self.banks.setdefault((pc, bank), [self.start, 0, 0])[1 if command == RD else 2] += 1

    def close(self, d: int, pc: int, bank: int) -> None:
        """The bank's row is closed, or is not looked at any more."""
        if (pc, bank) in self.banks:
            self.event(pc, bank, self.banks[pc, bank][0], d, *self.banks.pop((pc, bank))[1:])


class NaiveChannel:
    """One channel. `push` entries, call `step` for every cycle, take entries from `finished`."""

    def __init__(self, config: DramConfig, number: int = 0) -> None:
        self.config = config
        n = config.pseudo_channels
        self.pcs = [
            PseudoChannel(number * n + p, [Bank(b % config.groups) for b in range(config.banks)],
                          [Group() for _ in range(config.groups)],
                          config.first_refresh(number * n + p) if config.refresh_timing[0] else 2**62)
            for p in range(n)]
        self.cycle = 0  # the next one
        self.last_column = self.last_row = n - 1
        self.row_bus_free = 0
        self.finished: list[Entry] = []
        self.rows: Rows | None = None  # open rows, for a trace
        self.commands: list[tuple[int, int, str, int, int]] = []  # cycle, pseudo-channel, command, bank, row or burst
        self.counters = dict.fromkeys(
            ("dram_reads", "dram_writes", "dram_activates", "dram_precharges", "dram_refreshes", "dram_row_hits"), 0)

    @property
    def pending(self) -> int:
        """Entries that wait or are in a queue."""
        return sum(len(pc.fifo) + len(pc.reads) + len(pc.writes) for pc in self.pcs)

    def push(self, pc: int, entry: Entry) -> None:
        """Hand an entry to pseudo-channel `pc` of this channel."""
        self.pcs[pc].fifo.append(entry)

    def step(self) -> None:
        """One cycle."""
        d = self.cycle
        for pc in self.pcs:
            self.refresh(pc, d)
            self.arrivals(pc, d)
            self.choose_direction(pc)
        for pc in self.in_turn(self.last_column):
            if self.column_command(pc, d):
                self.last_column = self.pcs.index(pc)
                break
        if self.row_bus_free <= d:
            for pc in self.in_turn(self.last_row):
                if self.row_command(pc, d):
                    self.last_row = self.pcs.index(pc)
                    break
        self.cycle += 1

    def in_turn(self, last: int) -> list[PseudoChannel]:
        return self.pcs[last + 1 :] + self.pcs[: last + 1]

    def refresh(self, pc: PseudoChannel, d: int) -> None:
        if d != pc.refresh_at:
            return
        together = self.config.refresh == "all_bank"
        interval, busy = self.config.refresh_timing
        start = d
        for bank in pc.banks if together else [pc.banks[pc.refresh_bank]]:
            start = max(start, bank.act)
            if bank.row is not None:
                start = max(start, max(d, bank.pre) + self.config.rp)
        for bank in pc.banks if together else [pc.banks[pc.refresh_bank]]:
            if self.rows is not None and bank.row is not None:
                self.rows.close(d, pc.number, pc.banks.index(bank))
            bank.act = start + busy
            bank.row, bank.fresh = None, False
        self.note(d, pc, REF, pc.refresh_bank, 0)
        if not together:
            pc.refresh_bank = (pc.refresh_bank + 1) % len(pc.banks)
        pc.refresh_at += interval

    def arrivals(self, pc: PseudoChannel, d: int) -> None:
        while pc.fifo and pc.fifo[0].arrival <= d:
            queue = pc.writes if pc.fifo[0].write else pc.reads
            if len(queue) >= (self.config.write_queue if pc.fifo[0].write else self.config.read_queue):
                break
            entry = pc.fifo.popleft()
            entry.entered = d
            queue.append(entry)

    def choose_direction(self, pc: PseudoChannel) -> None:
        reads, writes = len(pc.reads), len(pc.writes)
        if not pc.writing:
            pc.writing = writes >= self.config.drain_high or (reads == 0 and writes > 0)
        elif writes == 0 or (writes <= self.config.drain_low and reads > 0):
            pc.writing = False

    def owner(self, pc: PseudoChannel, bank: int, d: int) -> Entry | None:
        """The bank's oldest entry if it is over the age cap."""
        oldest = next(entry for entry in pc.queue if entry.bank == bank)
        return oldest if d - oldest.entered > self.config.age_cap else None

    def column_command(self, pc: PseudoChannel, d: int) -> bool:
        """Issue the first ready RD or WR in age order; False if there is none."""
        c, writing = self.config, pc.writing
        for entry in pc.queue:
            bank = pc.banks[entry.bank]
            group = pc.groups[bank.group]
            if bank.row != entry.row:
                continue
            if writing and d < max(pc.write, group.write, bank.write):
                continue
            if not writing and d < max(pc.read, group.read, bank.read):
                continue
            if self.owner(pc, entry.bank, d) not in (None, entry):
                continue
            burst = (entry.mask & -entry.mask).bit_length() - 1
            entry.mask &= entry.mask - 1
            self.note(d, pc, WR if writing else RD, entry.bank, burst)
            self.counters["dram_row_hits"] += not bank.fresh
            bank.fresh = False
            if writing:
                data_end = d + c.cwl + c.burst
                pc.write, group.write = d + c.ccd_s, d + c.ccd_l
                pc.read = max(pc.read, data_end + c.wtr_s)
                group.read = max(group.read, data_end + c.wtr_l)
                bank.pre = max(bank.pre, data_end + c.wr)
            else:
                data_end = d + c.cl + c.burst
                pc.read, group.read = d + c.ccd_s, d + c.ccd_l
                pc.write = max(pc.write, d + c.rtw)
                bank.pre = max(bank.pre, d + c.rtp)
            if entry.mask == 0:
                entry.done = data_end
                pc.queue.remove(entry)
                self.finished.append(entry)
                self.choose_direction(pc)
            return True
        return False

    def row_command(self, pc: PseudoChannel, d: int) -> bool:
        """Issue the first ready ACT or PRE in age order; False if there is none."""
        c = self.config
        seen: set[int] = set()
        for entry in pc.queue:
            if entry.bank in seen:
                continue  # only the bank's oldest entry may move its rows
            seen.add(entry.bank)
            bank = pc.banks[entry.bank]
            group = pc.groups[bank.group]
            if bank.row is None:
                if d < max(bank.act, group.act, pc.act):
                    continue
                bank.row, bank.fresh = entry.row, True
                bank.read, bank.write, bank.pre, bank.act = d + c.rcd_rd, d + c.rcd_wr, d + c.ras, d + c.rc
                group.act = d + c.rrd_l
                pc.acts.append(d)
                pc.act = max(d + c.rrd_s, pc.acts[0] + c.faw)
                self.row_bus_free = d + c.act_bus_cycles
                self.note(d, pc, ACT, entry.bank, entry.row)
                return True
            if bank.row == entry.row or d < bank.pre:
                continue
            hit = any(other.bank == entry.bank and other.row == bank.row for other in pc.queue)
            if hit and self.owner(pc, entry.bank, d) is None:
                continue
            bank.row, bank.fresh = None, False
            bank.act = max(bank.act, d + c.rp)
            self.row_bus_free = d + c.pre_bus_cycles
            self.note(d, pc, PRE, entry.bank, 0)
            return True
        return False

    def note(self, d: int, pc: PseudoChannel, command: str, bank: int, what: int) -> None:
        names = {ACT: "activates", PRE: "precharges", RD: "reads", WR: "writes", REF: "refreshes"}
        self.counters[f"dram_{names[command]}"] += 1
        self.commands.append((d, pc.number, command, bank, what))
        if self.rows is not None:
            self.rows.note(d, pc.number, command, bank)
