"""The GPU memory system below L1, defined one SM cycle at a time. The fast one is memory.py.

The way of a request: the SM's output port (bytes a cycle) - crossbar - an L2 slice - on a miss a
pseudo-channel of DRAM and back - the slice's output (bytes a cycle, data only) - crossbar - the SM's
input port (bytes a cycle). Each takes at least a cycle; a packet is a header plus 32 bytes a sector.
An SM that has not used a page of memory lately sends the request some cycles later (TLB).

A line has one home slice: it owns the line's pseudo-channel, to which the address map of DRAM hashes
chunks of memory. With two partitions each has half of the SMs and of the slices, and each slice has a
partner in the other half, to which it sends bytes over a link. An SM reads through its own partition:
where a line's home is in the other one, the home's partner keeps a copy of it, and asks the home for
what it misses. Writes go to the home, over the link's distance; a copy that may exist is dropped.

In a cycle a slice first takes the sectors that come back from DRAM, then the write buffers that are
free again, then what has come over the link, then, if its output is idle, it looks up one request:
its partner's first, then the SMs' in order of arrival (a write takes as many cycles as its bytes need):
  read   all sectors valid: answered. Otherwise the line gets an MSHR, unless it has one, the sectors
         that are neither valid nor on their way are fetched (from DRAM, or from the home), and the
         request waits in the MSHR until none of its sectors is on its way.
  write  the sectors become valid and dirty, nothing is fetched (a partly written sector counts as
         written), and the request is answered with a header.
A line that is not in its set takes the place of the least recently used one that waits for no sector;
the dirty sectors of that one go to DRAM through a write buffer. Without a free MSHR, buffer or place
the request waits, and those behind it too. Copies wait for at most half of the MSHRs, and a new one
finds a place only where fewer than half of the set's lines wait: so a home can always go on.

Of several GPUs that do the same at the same time this is one. What it asks of the peer at distance d in some cycle,
the peer at distance d asks of it. A request to a peer goes from the crossbar to the GPU's NVLink port, through it
(bytes a cycle, in order, requests and answers alike), and some cycles later is a request that a peer has sent to a
slice here, the line's home; no partition keeps a copy for a peer. The answer goes from the slice through the port,
and some cycles later is the peer's answer, on the crossbar to the SM. A store to a peer lands, for who looks at
memory, when one that is issued there would reach the slice with it, though not before it has left the port.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from emulator.chip import Chip
from emulator.dram.naive import Entry, NaiveChannel, Rows
from emulator.gpu.memory_layout import SECTOR_BYTES, read_numbers
from emulator.gpu.timing import LINE_AT_PEER
from emulator.trace import KIND_INDEX
from emulator.trace_build import Notes

PARTNER = -1  # in place of an SM: the request has come over the link


@dataclass
class Request:
    sm: int
    line: int
    mask: int
    write: bool
    tag: int
    peer: bool = False  # crosses NVLink

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
    copied: bool = False  # the partner has asked for it
    waiting: list[Request] = field(default_factory=list)


@dataclass
class Slice:
    output: Port
    link: Port
    sets: list[OrderedDict[int, Line]]  # line number -> line, least recently used first
    mshrs: int  # free ones
    buffers: int
    queue: deque[Request] = field(default_factory=deque)
    asked: deque[Request] = field(default_factory=deque)  # by the partner
    copies_waiting: int = 0
    free_at: int = 0


@dataclass
class Message:
    """What comes over a link: `ask` for sectors, their `data`, or `drop` the copy of sectors."""

    kind: str
    line: int
    mask: int


class NaiveMemory:
    """Same behaviour as memory.py. Each cycle: `tick(now)`, then pop responses, then requests."""

    def __init__(self, chip: Chip, first_unit: int = 0) -> None:
        """first_unit: number of the first slice in a trace; banks of DRAM and the NVLink port come after the slices."""
        self.dram, self.n = read_numbers(chip)
        self.notes: Notes | None = None  # events of a trace
        self.first_unit = first_unit
        n = self.n
        self.out_ports = [Port(n["sm_out_bytes"]) for _ in range(n["sms"])]
        self.in_ports = [Port(n["sm_in_bytes"]) for _ in range(n["sms"])]
        self.slices = [Slice(Port(n["slice_bytes"]), Port(n["link_bytes"]), [OrderedDict() for _ in range(n["sets"])],
                             n["mshrs"], n["write_buffers"]) for _ in range(n["slices"])]
        self.pages: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(n["sms"])]  # least recently used first
        self.channels = [NaiveChannel(self.dram, number) for number in range(self.dram.channels)]
        self.pcs_per_slice = self.dram.total_pseudo_channels // n["slices"]
        self.to_slices: dict[int, list[Request]] = {}  # by cycle of arrival
        self.to_sms: dict[int, list[tuple[int, Request]]] = {}  # by cycle of arrival: slice, request
        self.on_links: dict[int, list[tuple[int, Message]]] = {}  # by cycle of arrival: slice, message
        self.link = Port(n["peer_bytes"])  # to the peers, of the whole GPU
        self.at_port: dict[int, list[tuple[int, bool, Request]]] = {}  # by cycle: place in the order, answer?, request
        self.landed: deque[tuple[int, int]] = deque()  # stores to peers: cycle, tag
        self.from_dram: dict[int, list[Entry]] = {}  # by cycle of arrival at the slice
        self.due: dict[int, list[int]] = {}  # by cycle: tags
        self.next_cycle = 0
        self.live = 0
        self.counts = dict.fromkeys(
            ("l2_requests", "l2_read_sectors", "l2_write_sectors", "l2_hit_sectors", "l2_merged_sectors",
             "l2_fill_sectors", "l2_writeback_sectors", "l2_evicted_lines", "l2_far_sectors", "l2_far_hit_sectors",
             "l2_far_merged_sectors", "l2_dropped_copies", "tlb_misses", "nvlink_requests", "nvlink_served",
             "nvlink_sectors", "nvlink_bytes_out"), 0)

    def request(self, now: int, sm: int, line: int, mask: int, write: int, tag: int) -> None:
        """Sectors of a 128-byte line, asked for by an SM at cycle `now`; the line of a peer has its distance on top."""
        request = Request(sm, line % (1 << LINE_AT_PEER), mask, bool(write), tag, peer=line >> LINE_AT_PEER > 0)
        size = self.n["header_bytes"] + (SECTOR_BYTES * mask.bit_count() if write else 0)
        arrival = self.out_ports[sm].send(now, size) + self.n["request_latency"] + self.translate(sm, line)
        self.counts["l2_requests"] += 1
        self.live += 1
        if request.peer:
            self.counts["nvlink_requests"] += 1
            self.counts["nvlink_sectors"] += mask.bit_count()
            self.at_port.setdefault(arrival, []).append((sm, False, request))
            return
        if write:
            arrival += self.distance(sm, line)
        self.to_slices.setdefault(arrival, []).append(request)

    def tick(self, now: int) -> None:
        """Run the cycles through `now` that have not been run yet."""
        while self.next_cycle <= now:
            self.cycle(self.next_cycle)
            self.next_cycle += 1

    def cycle(self, now: int) -> None:
        """One cycle."""
        for _, answer, request in sorted(self.at_port.pop(now, []), key=lambda item: item[0]):
            self.cross(request, answer, now)
        arrived = sorted(self.to_slices.pop(now, []), key=lambda request: (request.peer, request.sm))
        for request in arrived:
            self.slices[self.entry(request)].queue.append(request)
        back = self.from_dram.pop(now, [])
        messages = self.on_links.pop(now, [])
        for number, s in enumerate(self.slices):
            mine = [entry for entry in back if entry.tag[0] == number]
            for entry in mine:
                if not entry.write:
                    _, line, mask = entry.tag
                    self.note_slice("l2_fill", number, now, mask, -1)
                    self.fill(number, s, line, mask, now)
            s.buffers += sum(entry.write for entry in mine)
            for message in [message for to, message in messages if to == number]:
                self.receive(number, s, message, now)
            if s.free_at > now or s.output.busy_bytes > now * s.output.rate:
                continue
            for queue in (s.asked, s.queue):
                if queue and self.look_up(number, s, queue[0], now):
                    request = queue.popleft()
                    rate = self.n["slice_bytes"]
                    size = SECTOR_BYTES * request.mask.bit_count() if request.write and rate else 0
                    s.free_at = now + max(1, -(-size // max(1, rate)))
                    break
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

    def cross(self, request: Request, answer: bool, now: int) -> None:
        """Through the NVLink port: a request to a peer, which comes from a peer; or the answer to one."""
        size = self.n["peer_header_bytes"] + (SECTOR_BYTES * request.mask.bit_count() if answer != request.write else 0)
        self.counts["nvlink_bytes_out"] += size
        left = self.link.send(now, size)
        if self.notes is not None:
            port = self.first_unit + self.n["slices"] + self.dram.total_pseudo_channels * self.dram.banks
            self.notes.record(KIND_INDEX["nvlink"], port, now, left, actor=request.sm, size=size)
        arrival = left + self.n["peer_latency"]
        if answer:
            slices = self.n["slices"]  # answers of peers come after those of the GPU's own slices
            self.to_sms.setdefault(arrival + self.n["response_latency"], []).append(
                (slices + self.home(request.line), request))
            return
        self.to_slices.setdefault(arrival, []).append(request)
        if request.write:
            self.landed.append((max(left, arrival - 1 - self.n["request_latency"]), request.tag))

    def record(self, notes: Notes | None) -> None:
        """Note events of a trace from now on; None: no more."""
        self.notes = notes
        for channel in self.channels:
            channel.rows = None if notes is None else Rows(channel.cycle, self.note_row)

    def note_open_rows(self) -> None:
        """At the end of a launch: rows that are open, up to now."""
        for channel in self.channels:
            if channel.rows is not None:
                for pc, bank in list(channel.rows.banks):
                    channel.rows.close(channel.cycle, pc, bank)

    def note_row(self, pc: int, bank: int, opened: int, closed: int, read: int, written: int) -> None:
        """A row was open for these DRAM cycles: an event each for the bursts read and written."""
        assert self.notes is not None
        start, end = (d * self.n["ratio_sm"] // self.n["ratio_dram"] for d in (opened, closed))
        unit = self.first_unit + self.n["slices"] + pc * self.dram.banks + bank
        for kind, bursts in (("hbm_read", read), ("hbm_write", written)):
            if bursts:
                self.notes.record(KIND_INDEX[kind], unit, start, max(end, start + 1), size=SECTOR_BYTES * bursts)

    def note_slice(self, kind: str, number: int, now: int, mask: int, sm: int) -> None:
        """A slice serves sectors of a line, for an SM."""
        if self.notes is not None:
            self.notes.record(KIND_INDEX[kind], self.first_unit + number, now, now + 1, actor=sm,
                              size=SECTOR_BYTES * mask.bit_count())

    def home(self, line: int) -> int:
        """Number of the slice that owns a line's pseudo-channel."""
        return self.dram.locate(line)[0] // self.pcs_per_slice

    def partner(self, number: int) -> int:
        """The slice at the other end of a slice's link."""
        half = self.n["slices"] // 2
        return number + half if number < half else number - half

    def far(self, sm: int, line: int) -> bool:
        """Whether a line's home is in the other partition than an SM."""
        parts = self.n["partitions"]
        return self.home(line) * parts // self.n["slices"] != sm * parts // self.n["sms"]

    def distance(self, sm: int, line: int) -> int:
        """Cycles between an SM and a line's home beside the crossbar's own."""
        return self.n["link_latency"] if self.far(sm, line) else 0

    def entry(self, request: Request) -> int:
        """The slice to which an SM sends a request."""
        home = self.home(request.line)
        if request.peer:
            return home
        return self.partner(home) if not request.write and self.far(request.sm, request.line) else home

    def translate(self, sm: int, line: int) -> int:
        """Cycles that the SM's TLB adds: it holds the pages that were used last."""
        if self.n["entries"] == 0:
            return 0
        pages, page = self.pages[sm], line * 128 // self.n["page_bytes"]
        known = page in pages
        pages[page] = None
        pages.move_to_end(page)
        if known:
            return 0
        if len(pages) > self.n["entries"]:
            pages.popitem(last=False)
        self.counts["tlb_misses"] += 1
        return self.n["miss_latency"]

    def set_of(self, s: Slice, line: int) -> OrderedDict[int, Line]:
        """The set: lines of the home's pseudo-channels in their DRAM order, dealt out in turn."""
        pc, bank, row, column = self.dram.locate(line)
        in_order = (row * self.dram.banks + bank) * (self.dram.row_bytes // 128) + column
        return s.sets[(in_order * self.pcs_per_slice + pc % self.pcs_per_slice) % len(s.sets)]

    def look_up(self, number: int, s: Slice, request: Request, now: int) -> bool:
        """The slice takes one request; False if it has to wait, and then nothing has changed."""
        lines = self.set_of(s, request.line)
        known = request.line in lines
        line = lines.get(request.line, Line())
        copy = self.home(request.line) != number
        absent = request.mask & ~line.valid
        fetch = 0 if request.write else absent & ~line.coming
        if fetch and not line.coming:
            if s.mshrs == 0 or copy and s.copies_waiting == self.n["mshrs"] // 2:
                return False
        if not known:
            if copy and sum(other.coming != 0 for other in lines.values()) >= self.n["ways"] // 2:
                return False
            if not self.make_place(number, s, lines, now):
                return False
        lines[request.line] = line
        lines.move_to_end(request.line)
        if request.write:
            if self.n["partitions"] == 2 and (line.copied or not known):
                self.send(number, Message("drop", request.line, request.mask), now)
                line.copied = False
            line.valid |= request.mask
            line.dirty |= request.mask
            self.counts["l2_write_sectors"] += request.mask.bit_count()
            self.note_slice("l2_write", number, now, request.mask, request.sm)
            self.respond(number, s, request, now)
            return True
        what = "l2_far" if request.sm == PARTNER else "l2"
        self.counts["l2_far_sectors" if request.sm == PARTNER else "l2_read_sectors"] += request.mask.bit_count()
        if request.sm != PARTNER:
            self.note_slice("l2_read", number, now, request.mask, request.sm)
        self.counts[f"{what}_hit_sectors"] += (request.mask & line.valid).bit_count()
        self.counts[f"{what}_merged_sectors"] += (absent & line.coming).bit_count()
        line.copied = line.copied or request.sm == PARTNER
        if fetch:
            if not line.coming:
                s.mshrs -= 1
                s.copies_waiting += copy
            line.coming |= fetch
            if copy:
                self.send(number, Message("ask", request.line, fetch), now)
            else:
                self.counts["l2_fill_sectors"] += fetch.bit_count()
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

    def fill(self, number: int, s: Slice, address: int, mask: int, now: int) -> None:
        """Sectors of a line have come, from DRAM or from the home."""
        line = self.set_of(s, address)[address]
        line.valid |= mask
        line.coming &= ~mask
        for request in [r for r in line.waiting if not r.mask & line.coming]:
            self.respond(number, s, request, now)
        line.waiting = [r for r in line.waiting if r.mask & line.coming]
        if not line.coming:
            s.mshrs += 1
            s.copies_waiting -= self.home(address) != number

    def receive(self, number: int, s: Slice, message: Message, now: int) -> None:
        """What has come over the link."""
        if message.kind == "ask":
            s.asked.append(Request(PARTNER, message.line, message.mask, False, tag=0))
        elif message.kind == "data":
            self.fill(number, s, message.line, message.mask, now)
        else:
            lines = self.set_of(s, message.line)
            line = lines.get(message.line)
            if line is not None:
                self.counts["l2_dropped_copies"] += 1
                line.valid &= ~message.mask
                if not line.valid and not line.coming:
                    del lines[message.line]

    def send(self, number: int, message: Message, now: int) -> None:
        """Over the link to the slice's partner."""
        size = self.n["header_bytes"] + (SECTOR_BYTES * message.mask.bit_count() if message.kind == "data" else 0)
        arrival = self.slices[number].link.send(now, size) + self.n["link_latency"]
        self.on_links.setdefault(arrival, []).append((self.partner(number), message))

    def respond(self, number: int, s: Slice, request: Request, now: int) -> None:
        if request.sm == PARTNER:
            self.send(number, Message("data", request.line, request.mask), now)
            return
        arrival = s.output.send(now, request.back_bytes(0))
        if request.peer:
            self.counts["nvlink_served"] += 1
            self.at_port.setdefault(arrival, []).append((self.n["sms"] + number, True, request))
            return
        arrival += self.n["response_latency"]
        if request.write:
            arrival += self.distance(request.sm, request.line)
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
        """With nothing outstanding: go on to where the fast engine's `settle` does."""
        until = now + self.n["request_latency"]
        self.tick(until)
        ahead = until + 1 + self.n["to_dram_latency"]
        self.run_dram(until, -(-ahead * self.n["ratio_dram"] // self.n["ratio_sm"]) - 1)

    def counters(self) -> dict[str, int]:
        """Every counter by name, as memory.counters gives them."""
        total = dict(self.counts)
        for channel in self.channels:
            for name, count in channel.counters.items():
                total[name] = total.get(name, 0) + count
        return total
