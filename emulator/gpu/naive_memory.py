"""The GPU memory system below L1, defined one SM cycle at a time. The fast one is memory.py.

The way of a request: the SM's output port (bytes a cycle) - crossbar - its L2 slice - on a miss a
pseudo-channel of DRAM and back - the slice's output (bytes a cycle, data only) - crossbar - the SM's
input port (bytes a cycle). Each takes at least a cycle; a packet is a header plus 32 bytes a sector.

A slice owns the pseudo-channels whose numbers divide down to its own; the address map of DRAM hashes
chunks of memory over them. In a cycle a slice first takes the sectors that come back from DRAM, then
the write buffers that are free again, then, if its output is idle, it looks up one request (a write
takes as many cycles as its bytes need):
  read   all sectors valid: answered. Otherwise the line gets an MSHR, unless it has one, the sectors
         that are neither valid nor on their way are fetched, and the request waits in the MSHR until
         none of its sectors is on its way.
  write  the sectors become valid and dirty, nothing is fetched (a partly written sector counts as
         written), and the request is answered with a header.
A line that is not in its set takes the place of the least recently used one that waits for no sector;
the dirty sectors of that one go to DRAM through a write buffer. Without a free MSHR, buffer or place
the request waits, and those behind it too.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from emulator.chip import Chip
from emulator.dram.naive import Entry, NaiveChannel
from emulator.gpu.memory_layout import SECTOR_BYTES, read_numbers


@dataclass
class Request:
    sm: int
    line: int
    mask: int
    write: bool
    tag: int

    def back_bytes(self, header: int) -> int:
        """Size of the answer: the sectors of a read, only a header for a write."""
        return header + (0 if self.write else SECTOR_BYTES * self.mask.bit_count())


@dataclass
class Port:
    """Passes bytes on in order, `rate` a cycle (0: no limit)."""

    rate: int
    busy_bytes: int = 0  # time at which it is free, in bytes since cycle 0

    def send(self, now: int, size: int) -> int:
        """Cycle in which `size` bytes that are there at `now` are through: at least one later."""
        if self.rate == 0:
            return now + 1
        self.busy_bytes = max(now * self.rate, self.busy_bytes) + size
        return max(now + 1, -(-self.busy_bytes // self.rate))


@dataclass
class Line:
    valid: int = 0  # sector masks
    dirty: int = 0
    coming: int = 0
    waiting: list[Request] = field(default_factory=list)


@dataclass
class Slice:
    output: Port
    sets: list[OrderedDict[int, Line]]  # line number -> line, least recently used first
    mshrs: int  # free ones
    buffers: int
    queue: deque[Request] = field(default_factory=deque)
    free_at: int = 0


class NaiveMemory:
    """Same behaviour as memory.py. Each cycle: `tick(now)`, then pop responses, then requests."""

    def __init__(self, chip: Chip) -> None:
        self.dram, self.n = read_numbers(chip)
        n = self.n
        self.out_ports = [Port(n["sm_out_bytes"]) for _ in range(n["sms"])]
        self.in_ports = [Port(n["sm_in_bytes"]) for _ in range(n["sms"])]
        self.slices = [Slice(Port(n["slice_bytes"]), [OrderedDict() for _ in range(n["sets"])], n["mshrs"],
                             n["write_buffers"]) for _ in range(n["slices"])]
        self.channels = [NaiveChannel(self.dram, number) for number in range(self.dram.channels)]
        self.pcs_per_slice = self.dram.total_pseudo_channels // n["slices"]
        self.to_slices: dict[int, list[Request]] = {}  # by cycle of arrival
        self.to_sms: dict[int, list[tuple[int, Request]]] = {}  # by cycle of arrival: slice, request
        self.from_dram: dict[int, list[Entry]] = {}  # by cycle of arrival at the slice
        self.due: dict[int, list[int]] = {}  # by cycle: tags
        self.next_cycle = 0
        self.live = 0
        self.counts = dict.fromkeys(
            ("l2_requests", "l2_read_sectors", "l2_write_sectors", "l2_hit_sectors", "l2_merged_sectors",
             "l2_fill_sectors", "l2_writeback_sectors", "l2_evicted_lines"), 0)

    def request(self, now: int, sm: int, line: int, mask: int, write: int, tag: int) -> None:
        """Sectors of a 128-byte line, asked for by an SM at cycle `now`."""
        request = Request(sm, line, mask, bool(write), tag)
        size = self.n["header_bytes"] + (SECTOR_BYTES * mask.bit_count() if write else 0)
        arrival = self.out_ports[sm].send(now, size) + self.n["request_latency"]
        self.to_slices.setdefault(arrival, []).append(request)
        self.counts["l2_requests"] += 1
        self.live += 1

    def tick(self, now: int) -> None:
        """Run the cycles through `now` that have not been run yet."""
        while self.next_cycle <= now:
            self.cycle(self.next_cycle)
            self.next_cycle += 1

    def cycle(self, now: int) -> None:
        """One cycle."""
        arrived = sorted(self.to_slices.pop(now, []), key=lambda request: request.sm)
        for request in arrived:
            self.slices[self.home(request.line)].queue.append(request)
        back = self.from_dram.pop(now, [])
        for number, s in enumerate(self.slices):
            mine = [entry for entry in back if entry.tag[0] == number]
            for entry in mine:
                if not entry.write:
                    self.fill(number, s, entry, now)
            s.buffers += sum(entry.write for entry in mine)
            ready = s.free_at <= now and s.output.busy_bytes <= now * s.output.rate
            if s.queue and ready and self.look_up(number, s, s.queue[0], now):
                request = s.queue.popleft()
                rate = self.n["slice_bytes"]
                size = SECTOR_BYTES * request.mask.bit_count() if request.write and rate else 0
                s.free_at = now + max(1, -(-size // max(1, rate)))
        self.run_dram(now)
        # A response that reaches an SM now has left its slice at least a cycle ago.
        for _, request in sorted(self.to_sms.pop(now, []), key=lambda pair: pair[0]):
            size = request.back_bytes(self.n["header_bytes"])
            due = self.in_ports[request.sm].send(now, size)
            self.due.setdefault(due, []).append(request.tag)

    def pop_response(self, now: int) -> int:
        """Tag of the next response due at or before `now`, or -1."""
        for cycle in sorted(self.due):
            if cycle > now:
                break
            if self.due[cycle]:
                self.live -= 1
                return self.due[cycle].pop(0)
            del self.due[cycle]
        return -1

    def home(self, line: int) -> int:
        """Number of the slice that caches a line."""
        return self.dram.locate(line)[0] // self.pcs_per_slice

    def set_of(self, s: Slice, line: int) -> OrderedDict[int, Line]:
        """The set: lines of the slice's pseudo-channels in their DRAM order, dealt out in turn."""
        pc, bank, row, column = self.dram.locate(line)
        in_order = (row * self.dram.banks + bank) * (self.dram.row_bytes // 128) + column
        return s.sets[(in_order * self.pcs_per_slice + pc % self.pcs_per_slice) % len(s.sets)]

    def look_up(self, number: int, s: Slice, request: Request, now: int) -> bool:
        """The slice takes one request; False if it has to wait, and then nothing has changed."""
        lines = self.set_of(s, request.line)
        line = lines.get(request.line, Line())
        absent = request.mask & ~line.valid
        fetch = 0 if request.write else absent & ~line.coming
        if fetch and not line.coming and s.mshrs == 0:
            return False
        if request.line not in lines and not self.make_place(number, s, lines, now):
            return False
        lines[request.line] = line
        lines.move_to_end(request.line)
        if request.write:
            line.valid |= request.mask
            line.dirty |= request.mask
            self.counts["l2_write_sectors"] += request.mask.bit_count()
            self.respond(number, s, request, now)
            return True
        self.counts["l2_read_sectors"] += request.mask.bit_count()
        self.counts["l2_hit_sectors"] += (request.mask & line.valid).bit_count()
        self.counts["l2_merged_sectors"] += (absent & line.coming).bit_count()
        self.counts["l2_fill_sectors"] += fetch.bit_count()
        if fetch:
            if not line.coming:
                s.mshrs -= 1
            line.coming |= fetch
            self.to_dram(number, request.line, fetch, False, now)
        if absent:
            line.waiting.append(request)
        else:
            self.respond(number, s, request, now)
        return True

    def make_place(self, number: int, s: Slice, lines: OrderedDict[int, Line], now: int) -> bool:
        """Room for one more line in a set; False if there is none now."""
        if len(lines) < self.n["ways"]:
            return True
        victim = next((line for line in lines if not lines[line].coming), None)
        if victim is None or (lines[victim].dirty and s.buffers == 0):
            return False
        dirty = lines.pop(victim).dirty
        if dirty:
            s.buffers -= 1
            self.to_dram(number, victim, dirty, True, now)
        self.counts["l2_writeback_sectors"] += dirty.bit_count()
        self.counts["l2_evicted_lines"] += 1
        return True

    def fill(self, number: int, s: Slice, entry: Entry, now: int) -> None:
        """Sectors of a line are back from DRAM."""
        _, address, mask = entry.tag
        line = self.set_of(s, address)[address]
        line.valid |= mask
        line.coming &= ~mask
        for request in [r for r in line.waiting if not r.mask & line.coming]:
            self.respond(number, s, request, now)
        line.waiting = [r for r in line.waiting if r.mask & line.coming]
        if not line.coming:
            s.mshrs += 1

    def respond(self, number: int, s: Slice, request: Request, now: int) -> None:
        arrival = s.output.send(now, request.back_bytes(0)) + self.n["response_latency"]
        self.to_sms.setdefault(arrival, []).append((number, request))

    def to_dram(self, number: int, line: int, mask: int, write: bool, now: int) -> None:
        pc, bank, row, _ = self.dram.locate(line)
        channel, local = divmod(pc, self.dram.pseudo_channels)
        arrival = -(-(now + self.n["to_dram_latency"]) * self.n["ratio_dram"] // self.n["ratio_sm"])
        self.channels[channel].push(local, Entry(bank, row, mask, write, arrival, tag=(number, line, mask)))

    def run_dram(self, now: int, last_cycle: int | None = None) -> None:
        """The DRAM cycles that begin at or before SM cycle `now`, or all through `last_cycle`."""
        if last_cycle is None:
            last_cycle = now * self.n["ratio_dram"] // self.n["ratio_sm"]
        for channel in self.channels:
            while channel.cycle <= last_cycle:
                channel.step()
            for entry in channel.finished:
                at = -(-entry.done * self.n["ratio_sm"] // self.n["ratio_dram"]) + self.n["from_dram_latency"]
                self.from_dram.setdefault(at, []).append(entry)
            channel.finished.clear()

    def settle(self, now: int) -> None:
        """With nothing outstanding: run DRAM ahead to where the fast engine's `settle` runs it."""
        ahead = now + self.n["request_latency"] + 1 + self.n["to_dram_latency"]
        self.run_dram(now, -(-ahead * self.n["ratio_dram"] // self.n["ratio_sm"]) - 1)

    def counters(self) -> dict[str, int]:
        """Every counter by name, as memory.counters gives them."""
        total = dict(self.counts)
        for channel in self.channels:
            for name, count in channel.counters.items():
                total[name] = total.get(name, 0) + count
        return total
