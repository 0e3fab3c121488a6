"""What the instructions of the naive LPU do, unit by unit. naive.py says when they do it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

import numpy as np

from emulator.lpu import geometry as geo
from emulator.lpu.errors import PASS_WINDOW, Reporter, ScheduleError, vxm_fault
from emulator.lpu.geometry import Geometry
from emulator.lpu.sram import Sram, spread
from emulator.lpu.text import ZERO_LANE
from emulator.trace import KIND_INDEX
from emulator.trace_build import Notes
from isa import replica
from isa.opcodes import ALU_BASE, F16, NO_STREAM, TYPE_BYTES, WEST
from isa.program import LpuText


@dataclass(eq=False)
class Value:
    """What one stream register holds: a byte a lane. poison: bit k = superlane k has no value."""

    data: np.ndarray
    poison: int
    row: int  # instruction that produced it
    iteration: int  # of its REPEAT
    born: int  # cycle of production
    consumed: bool = False


@dataclass(eq=False)
class Issue:
    """One instruction (or REPEAT iteration) of a queue in a cycle."""

    queue: int
    row: int
    name: str
    fields: dict[str, int]
    iteration: int = 0
    stride: int = 0
    done: int = -1  # VXM: cycle of the result
    operands: list = field(default_factory=list)  # VXM: what was sampled at issue, None where chained

    def moved(self, name: str) -> int:
        """A field that REPEAT's stride moves."""
        return self.fields[name] + self.stride * self.iteration


@dataclass
class Plane:
    """One matrix plane. An f16 pair keeps its weights in the even plane's record."""

    shadow_type: int = -1
    shadow: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)  # row -> raw weights, poison
    installed_type: int = -1
    installed: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)
    installing_until: int = -1  # last cycle of an IW
    feeding_until: int = -1  # last cycle of an ABC
    under_way: deque = field(default_factory=deque)  # cycles in which results land
    accumulator: deque = field(default_factory=deque)  # landed results


@dataclass(eq=False)
class Parcel:
    """A vector on its way to another chip."""

    data: np.ndarray
    poison: int
    issue: Issue  # the SEND
    sent: int  # cycle, on the sender's clock


@dataclass(eq=False)
class End:
    """One chip's end of a link. wire: what moves away from here, one place a cycle; arrived: what came out of
    the other chip's wire and waits for a RECV."""

    wire: deque[Parcel | None]
    arrived: deque[Parcel] = field(default_factory=deque)
    free: int = 0  # first cycle in which the link takes a vector again
    sent: int = 0
    received: int = 0
    far: End | None = None  # the other chip's end
    later: int = 0  # cycles that this chip's clock is ahead of the other's


class NaiveUnits:
    """Streams, pending results, and one method an instruction. self.t is the cycle in work."""

    def __init__(self, g: Geometry, text: LpuText, sram: Sram, report: Reporter | None = None) -> None:
        self.g, self.text, self.sram = g, text, sram
        self.report = report or Reporter(g, text)
        self.ends: dict[int, End] = {}  # port in an instruction -> link; naive_network.py lays the wires
        self.full = sram.full  # mask of all superlanes
        self.notes: Notes | None = None  # events of a trace
        self.clear()

    def clear(self) -> None:
        """Everything but the SRAM empty, cycle 0."""
        self.t = 0
        # streams[s][column + edge]; s as in a STREAM field: 0..31 east, 32..63 west
        self.streams: list[list[Value | None]] = [[None] * (2 * self.g.edge + 1) for _ in range(2 * WEST)]
        # the streams as they were at the end of the last cycles, for messages only
        self.past: deque[tuple[int, list[tuple[Value | None, ...]]]] = deque(maxlen=PASS_WINDOW)
        self.planes = [Plane() for _ in range(self.g.planes)]
        self.pending: dict[int, dict[int, tuple]] = {}  # cycle -> queue -> (issue, what appears)
        self.later: dict[int, list[Issue]] = {}  # cycle -> VXM operations that take chained operands then
        self.executing: set[tuple[int, int]] = set()  # (queue, cycle) in which an ALU starts an operation
        self.outputs: dict[int, tuple[int, np.ndarray, int]] = {}  # ALU -> (cycle, lanes, poison)
        self.accesses: dict[int, int] = {}  # slice -> banks used in this cycle
        self.values = self.unconsumed = self.hops = self.ingested = self.macs = 0

    def opcode(self, issue: Issue) -> int:
        return int(self.text.words[issue.row]) & 0xFF

    def fail(self, kind: str, issue: Issue, detail: int = 0) -> ScheduleError:
        return self.report.simple(kind, self.t, issue.queue, issue.row, issue.iteration, detail)

    # -- streams ---------------------------------------------------------------------------------
    def move(self) -> None:
        for s, registers in enumerate(self.streams):
            held = len(registers) - registers.count(None)
            if not held:
                continue
            self.hops += held
            leaving = registers.pop(0 if s >= WEST else -1)
            registers.insert(len(registers) if s >= WEST else 0, None)
            if leaving is not None:
                self.hops -= 1  # it leaves the chip instead of reaching a register
                self.unconsumed += not leaving.consumed
                self.note_value(s, leaving, self.t - 1 - leaving.born)

    def note_value(self, s: int, value: Value, hops: int) -> None:
        """A value's time on a stream is over: it is overwritten in this cycle, or has left the chip."""
        if self.notes is not None:
            self.notes.record(KIND_INDEX["stream_byte_hops"], self.g.queues + s, value.born, self.t, value.row,
                              value.iteration, size=hops * self.g.lanes)

    def remember(self) -> None:
        self.past.append((self.t, [tuple(registers) for registers in self.streams]))

    def put(self, issue: Issue, s: int, column: int, data: np.ndarray, poison: int) -> None:
        """A producer drives stream s at a column; what was moving there is overwritten."""
        at = column + self.g.edge
        old = self.streams[s][at]
        if old is not None and old.born == self.t:
            raise self.report.collision(self.t, issue.queue, issue.row, issue.iteration, s, column, old.row)
        if old is not None:
            self.unconsumed += not old.consumed
            self.note_value(s, old, self.t - old.born)
        self.streams[s][at] = Value(data, poison, issue.row, issue.iteration, self.t)
        self.values += 1

    def take(self, issue: Issue, s: int) -> Value:
        """Sample stream s at the column of the issuing queue."""
        column = self.g.column[issue.queue]
        value = self.streams[s][column + self.g.edge]
        if value is None:
            raise self.report.no_value(self.t, issue.queue, issue.row, issue.iteration, s, self.nearest(s, column))
        value.consumed = True
        return value

    def nearest(self, s: int, column: int) -> tuple[int, int] | None:
        """(cycle, row of the producer) of the value that passed or will pass a column closest to now."""
        found = []
        for cycle, streams in self.past:
            value = streams[s][column + self.g.edge]
            if value is not None:
                found.append((self.t - cycle, 0, cycle, value.row))
        for at, value in enumerate(self.streams[s]):
            upstream = at - self.g.edge - column if s >= WEST else column + self.g.edge - at
            if value is not None and upstream > 0:
                found.append((upstream, 1, self.t + upstream, value.row))
        near = min(found, default=None)
        return near[2:] if near is not None and near[0] <= PASS_WINDOW else None

    # -- results that appear ------------------------------------------------------------------------
    def pend(self, issue: Issue, when: int, what: tuple) -> None:
        self.pending.setdefault(when, {})[issue.queue] = (issue, what)

    def slot_taken(self, queue: int, when: int) -> bool:
        return queue in self.pending.get(when, {})

    def commit(self) -> None:
        for queue, (issue, what) in sorted(self.pending.pop(self.t, {}).items()):
            if self.g.queue_kind[queue] == geo.MXM_ABC:
                plane = self.planes[self.g.unit[queue]]
                plane.under_way.popleft()
                if len(plane.accumulator) >= self.g.depth:
                    raise self.report.simple("accumulator_overrun", self.t, queue, issue.row, issue.iteration)
                plane.accumulator.append(what)
                continue
            stream, vectors, poison = what
            column = self.g.column[queue]
            if self.g.queue_kind[queue] == geo.VXM:
                lanes, size = vectors
                self.outputs[self.g.unit[queue]] = (self.t, lanes, poison)
                if stream == NO_STREAM:
                    continue
                vectors = [((lanes >> np.uint32(8 * byte)) & np.uint32(0xFF)).astype(np.uint8) for byte in range(size)]
                column = -self.g.result_column if stream >= WEST else self.g.result_column
            for n, data in enumerate(vectors):
                self.put(issue, stream + n, column, data, poison)

    # -- MEM -----------------------------------------------------------------------------------------
    def access(self, issue: Issue, banks: int) -> None:
        """Use banks (bit 0, bit 1) of the slice in this cycle."""
        used = self.accesses.get(issue.queue, 0)
        if used & banks:
            raise self.fail("bank_conflict", issue, used & banks)
        self.accesses[issue.queue] = used | banks

    def address(self, issue: Issue) -> int:
        address = issue.moved("a")
        if not 0 <= address < self.g.words_per_slice:
            raise self.fail("address_range", issue, address)
        return address

    def word_of(self, issue: Issue, address: int, superlanes: int) -> tuple[np.ndarray, int]:
        """(data, poison) of a word, of which these superlanes must have been written."""
        word = issue.queue * self.g.words_per_slice + address
        flags = int(self.sram.flags[word])
        if superlanes & ~flags:
            raise self.fail("sram_unwritten", issue, word)
        return self.sram.data[word].copy(), flags >> 32

    def read(self, issue: Issue) -> None:
        address = self.address(issue)
        self.access(issue, 1 << (address // self.g.words_per_bank))
        data, poison = self.word_of(issue, address, self.full)
        self.put(issue, issue.fields["s"], self.g.column[issue.queue], data, poison)

    def store(self, issue: Issue, address: int, value: Value, superlanes: int) -> None:
        word = issue.queue * self.g.words_per_slice + address
        lanes = spread(superlanes, self.g)
        self.sram.data[word][lanes] = value.data[lanes]
        flags = int(self.sram.flags[word])
        written, poison = flags & self.full, flags >> 32
        self.sram.flags[word] = (written | superlanes) | (((poison & ~superlanes) | (value.poison & superlanes)) << 32)

    def write(self, issue: Issue) -> None:
        address = self.address(issue)
        self.access(issue, 1 << (address // self.g.words_per_bank))
        self.store(issue, address, self.take(issue, issue.fields["s"]), self.full)

    def mapped(self, issue: Issue, base: int) -> list[int]:
        """One address a superlane: base + the 16-bit value in its first two lanes of the map."""
        value = self.take(issue, issue.fields["map"])
        if value.poison:
            raise self.fail("poison_address", issue)
        maps = [int(value.data[lane]) | int(value.data[lane + 1]) << 8 for lane in range(0, self.g.lanes, 16)]
        return [min(base + m, self.g.words_per_slice - 1) for m in maps]

    def gather(self, issue: Issue) -> None:
        base = self.address(issue)
        self.access(issue, 3)
        data, poison = np.zeros(self.g.lanes, dtype=np.uint8), 0
        for k, address in enumerate(self.mapped(issue, base)):
            word, mask = self.word_of(issue, address, 1 << k)
            data[16 * k : 16 * k + 16] = word[16 * k : 16 * k + 16]
            poison |= mask & (1 << k)
        self.pend(issue, self.t + self.g.gather, (issue.fields["s"], [data], poison))

    def scatter(self, issue: Issue) -> None:
        base = self.address(issue)
        self.access(issue, 3)
        value = self.take(issue, issue.fields["s"])
        for k, address in enumerate(self.mapped(issue, base)):
            self.store(issue, address, value, 1 << k)

    # -- VXM -----------------------------------------------------------------------------------------
    def vxm(self, issue: Issue) -> None:
        """Stream operands are sampled at issue and enter for `entry` cycles; chained operands are
        sampled when the ALU starts. An ALU starts one operation and finishes one a cycle."""
        fields = issue.fields
        sources = [fields[name] for name in "abc" if name in fields]
        if issue.done < 0:
            start = self.vxm_slot(issue, all(source >= ALU_BASE for source in sources))
            size = TYPE_BYTES[fields.get("from_type", fields["type"])]
            issue.operands = [None if s >= ALU_BASE else self.lanes(issue, s, size) for s in sources]
            if None in issue.operands and start > self.t:
                self.later.setdefault(start, []).append(issue)
                return
        operands: list = []
        poison = 0
        for source, operand in zip(sources, issue.operands, strict=True):
            lanes, mask = self.output(issue, source - ALU_BASE) if operand is None else operand
            operands.append(lanes)
            poison |= mask
        a, b, c = (operands + [None, None])[:3]
        out = replica.alu(self.opcode(issue), fields["type"], fields.get("from_type", 0), a, b, c, fields.get("imm", 0))
        self.pend(issue, issue.done, (fields["dst"], (out, TYPE_BYTES[fields["type"]]), poison))

    def vxm_slot(self, issue: Issue, all_chained: bool) -> int:
        """Take the ALU's slots for a new operation; returns the cycle in which it starts."""
        g = self.g
        if vxm_fault(g, g.unit[issue.queue], int(self.text.words[issue.row])):
            raise self.fail("vxm_reach", issue)
        start = self.t if all_chained else self.t + g.entry
        issue.done = self.t + g.vxm_delay(issue.name, all_chained)
        if (issue.queue, start) in self.executing:
            raise self.fail("unit_busy", issue, start)
        if self.slot_taken(issue.queue, issue.done):
            raise self.fail("unit_busy", issue, issue.done)
        self.executing.add((issue.queue, start))
        self.pend(issue, issue.done, ())  # the slot is taken; the value follows
        return start

    def output(self, issue: Issue, alu: int) -> tuple[np.ndarray, int]:
        """What an ALU puts out in this cycle: its lanes and their poison."""
        if alu not in self.outputs or self.outputs[alu][0] != self.t:
            raise self.report.no_output(self.t, issue.queue, issue.row, issue.iteration, alu)
        return self.outputs[alu][1:]

    def lanes(self, issue: Issue, s: int, size: int) -> tuple[np.ndarray, int]:
        """A group of `size` streams as one uint32 a lane, and its poison."""
        values = [self.take(issue, s + byte) for byte in range(size)]
        lanes = np.zeros(self.g.lanes, dtype=np.uint32)
        for byte, value in enumerate(values):
            lanes |= value.data.astype(np.uint32) << np.uint32(8 * byte)
        return lanes, any_poison(values)

    # -- MXM -----------------------------------------------------------------------------------------
    def halves(self, plane: int, kind: int) -> list[Plane]:
        """The plane, or both of its pair for f16 (the even one first)."""
        return self.planes[plane : plane + 2] if kind == F16 else [self.planes[plane]]

    def lw(self, issue: Issue) -> None:
        kind, rows, row = issue.fields["type"], issue.fields["rows"], issue.moved("row")
        halves = self.halves(self.g.unit[issue.queue], kind)
        if not 0 <= row <= self.g.rows - rows:
            raise self.fail("address_range", issue, row if row < 0 else row + rows - 1)
        if any(self.t <= half.installing_until for half in halves):
            raise self.fail("weights_in_use", issue, 0)
        if any(half.shadow_type not in (-1, kind) for half in halves):
            raise self.fail("weights_in_use", issue, 1)
        size = TYPE_BYTES[kind]
        for n in range(rows):
            values = [self.take(issue, issue.fields["s"] + size * n + byte) for byte in range(size)]
            halves[0].shadow[row + n] = raw_lanes(values), any_poison(values)
        for half in halves:
            half.shadow_type = kind
        self.ingested += rows * size

    def iw(self, issue: Issue) -> None:
        kind, number = issue.fields["type"], self.g.unit[issue.queue]
        halves = self.halves(number, kind)
        if halves[0].shadow_type == -1:
            raise self.fail("weights_missing", issue, 1)
        if any(half.shadow_type != kind for half in halves):
            raise self.fail("weights_in_use", issue, 3)
        if any(self.t <= half.feeding_until for half in halves):
            raise self.fail("weights_in_use", issue, 2)
        if self.planes[number].installed_type == F16:
            self.planes[number ^ 1].installed_type = -1  # a pair that loses one half is no pair
        for half in halves:
            half.installed_type, half.shadow_type = kind, -1
            half.installing_until = self.t + self.g.install - 1
        halves[0].installed, halves[0].shadow = halves[0].shadow, {}

    def abc(self, issue: Issue) -> None:
        g, kind = self.g, issue.fields["type"]
        halves = self.halves(g.unit[issue.queue], kind)
        plane = halves[0]
        if any(self.t <= half.feeding_until for half in halves):
            raise self.fail("unit_busy", issue, max(half.feeding_until for half in halves))
        if any(half.installed_type != kind for half in halves):
            raise self.fail("weights_missing", issue, 0)
        size = TYPE_BYTES[kind]
        values = [self.take(issue, issue.fields["s"] + byte) for byte in range(size)]
        for half in halves:
            half.feeding_until = self.t + (g.f16_feed - 1 if kind == F16 else 0)
        out, poison = np.zeros(g.lanes, dtype=np.uint32), 0
        if any(value.poison for value in values):
            poison = self.full
        else:
            x = raw_lanes(values)
            for row, (_, mask) in plane.installed.items():
                poison |= 1 << (row // 16) if mask else 0
            rows = sorted(plane.installed)  # outputs whose row was never loaded stay zero
            out[rows] = replica.mxm_dot(kind, np.stack([plane.installed[row][0] for row in rows]), x)
        self.macs += len(plane.installed) * g.lanes
        landing = self.t + g.abc_delay(size)
        plane.under_way.append(landing)
        self.pend(issue, landing, (out, poison))

    def acc(self, issue: Issue) -> None:
        plane = self.planes[self.g.unit[issue.queue]]
        if not plane.accumulator:
            raise self.fail("accumulator_early", issue, plane.under_way[0] if plane.under_way else -1)
        lanes, poison = plane.accumulator.popleft()
        for byte in range(4):
            data = ((lanes >> np.uint32(8 * byte)) & np.uint32(0xFF)).astype(np.uint8)
            self.put(issue, issue.fields["s"] + byte, self.g.column[issue.queue], data, poison)

    # -- SXM -----------------------------------------------------------------------------------------
    def sxm(self, issue: Issue) -> None:
        """Lane moves. A result that mixes superlanes is poison everywhere if any operand is anywhere."""
        g, fields = self.g, issue.fields
        done = self.t + g.sxm_delay(issue.name, fields.get("n", 0))
        if self.slot_taken(issue.queue, done):
            raise self.fail("unit_busy", issue, done)
        values = [self.take(issue, fields["src"] + n) for n in range(fields.get("streams", 16))]
        poison = any_poison(values)
        data = np.stack([value.data for value in values])
        lane = np.arange(g.lanes)
        if issue.name == "TRANSPOSE":
            result = data.reshape(16, g.superlanes, 16).transpose(2, 1, 0).reshape(16, g.lanes)
        elif issue.name == "DISTRIBUTE":
            lane_map = self.text.maps[fields["map"]].astype(np.int64)
            source = np.where(lane_map == ZERO_LANE, 0, lane // 16 * 16 + lane_map % 16)
            result = np.where(lane_map == ZERO_LANE, 0, data[:, source])
        else:
            if issue.name == "PERMUTE":
                result = data[:, self.text.maps[fields["map"]]]
            else:
                source = lane - fields["n"]
                result = np.where((source >= 0) & (source < g.lanes), data[:, source.clip(0, g.lanes - 1)], 0)
            poison = self.full if poison else 0
        self.pend(issue, done, (fields["dst"], list(result.astype(np.uint8)), int(poison)))

    # -- links -----------------------------------------------------------------------------------------
    def end(self, issue: Issue) -> End:
        if issue.fields["port"] not in self.ends:
            raise self.fail("no_link", issue)
        return self.ends[issue.fields["port"]]

    def send(self, issue: Issue) -> None:
        end = self.end(issue)
        if self.t < end.free:
            raise self.fail("link_busy", issue, end.free)
        value = self.take(issue, issue.fields["s"])
        end.wire[0] = Parcel(value.data, value.poison, issue, self.t)
        end.free = self.t + self.g.slot
        end.sent += 1

    def recv(self, issue: Issue) -> None:
        end = self.end(issue)
        if not end.arrived:
            assert end.far is not None
            under_way = [parcel.sent + end.later for parcel in end.far.wire if parcel is not None]
            before = [sent for sent in under_way if sent < self.t]  # the other chip's SENDs of this cycle are not known
            raise self.fail("receive_early", issue, min(before) + self.g.hop if before else -1)
        parcel = end.arrived.popleft()
        end.received += 1
        self.put(issue, issue.fields["s"], self.g.column[issue.queue], parcel.data, parcel.poison)


def raw_lanes(values: list[Value]) -> np.ndarray:
    """One weight or activation a lane: its only byte (s8), or low and high byte joined (f16)."""
    if len(values) == 1:
        return values[0].data
    return values[0].data.astype(np.uint16) | values[1].data.astype(np.uint16) << np.uint16(8)


def any_poison(values: Sequence[Value]) -> int:
    """Superlanes in which at least one of the values is poison."""
    return reduce(or_, (value.poison for value in values))
