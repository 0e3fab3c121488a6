"""The ground of the scheduler: the block under construction, accesses to memory, copies.

A block is what runs before the layers, one layer, or what runs after them. Blocks follow each other
without overlap, so a layer is scheduled once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from emulator.accounting import LPU_REASONS, reason_index
from emulator.lpu.geometry import Geometry
from isa.encoding import encode
from isa.opcodes import BY_NAME
from isa.opcodes import WEST as WEST_FLAG
from programs.lpu.board import EAST, WEST, Alternative, Board, Resources, Use
from programs.lpu.chain import Leaf
from programs.lpu.memory import Buffer, Memory
from programs.lpu.place import Placer
from programs.lpu.ports import PortTimes

ALL_QUADS = frozenset(range(8))
REASON = {reason.name: reason_index(LPU_REASONS, reason.name) for reason in LPU_REASONS}
EVENT_COLUMNS = ("queue", "cycle", "n", "d", "stride", "node", "reason", "layered", "tensor")


@dataclass(eq=False)
class Mem(Leaf):
    """Vectors start, start + step, ... of a buffer, one an iteration."""

    buffer: Buffer
    start: int = 0
    step: int = 1

    def bytes(self) -> int:
        return len(self.buffer.slices)


@dataclass(eq=False)
class Mat(Leaf):
    """Products of activations start, start + step, ... of a buffer with a plane's installed tile."""

    plane: int
    type: int
    act: Buffer
    start: int = 0
    step: int = 1

    def bytes(self) -> int:
        return 4


@dataclass
class Dst:
    """Where a result goes: vectors start, start + step, ... of a buffer."""

    buffer: Buffer
    start: int = 0
    step: int = 1


@dataclass
class Plane:
    """Times of one matrix plane: its last IW, last fed cycle, last ACC; loaded: end of its last LW."""

    installed: int = -1
    fed: int = -1
    accumulated: int = -1
    loaded: int = -1


def stream_field(direction: int, stream: int) -> int:
    """A stream as an instruction names it."""
    return stream + (WEST_FLAG if direction == WEST else 0)


@lru_cache(maxsize=65536)
def _memory_word(name: str, stream: int, map_stream: int | None) -> int:
    values = [0, stream] if map_stream is None else [0, stream, map_stream]
    return encode("lpu", BY_NAME[name], values)


def memory_word(name: str, address: int, stream: int, map_stream: int | None = None) -> int:
    """READ, WRITE, GATHER or SCATTER; the address is the first field."""
    if not 0 <= address < 8192:
        raise ValueError(f"{name}: address {address} is outside the slice")
    return _memory_word(name, stream, map_stream) | address << 8


@lru_cache(maxsize=65536)
def word(name: str, *values: int) -> int:
    """The word of an instruction with these fields."""
    return encode("lpu", BY_NAME[name], values)


class Core:
    """One block under construction."""

    def __init__(self, g: Geometry, nodes: list[str], memory: Memory, placer: Placer) -> None:
        self.g, self.memory, self.placer = g, memory, placer
        self.resources = Resources(g)
        self.nodes = nodes
        self.node = -1
        self.hint = 0
        self.half = -1  # half of the streams that the activations of the pattern being placed keep to
        self.quads = ALL_QUADS  # streams that its results may use
        self.memo: dict[Any, Any] = {}  # uses of patterns that were built before
        self.temporaries: list[Buffer] = []  # copies of operands for the pattern being placed
        self.start_block()

    def start_block(self) -> None:
        """Forget what was placed: cycle 0 of an empty block."""
        self.board = Board(self.resources)
        self.links = PortTimes(self.g.slot, self.g.hop)
        self.planes = [Plane() for _ in range(self.g.planes)]
        self.events = array("q")
        self.words = array("Q")
        self.end = 0  # first cycle after everything so far, completions included
        self.last = 0

    def at(self, name: str) -> None:
        """What follows belongs to this graph node."""
        if name not in self.nodes:
            self.nodes.append(name)
        self.node = self.nodes.index(name)

    # -- small pieces -----------------------------------------------------------------------
    def hemisphere(self, slice_number: int) -> int:
        """Hemisphere of a slice: 0 west, 1 east."""
        return slice_number // self.g.slices_per_hemisphere

    def inward(self, slice_number: int) -> int:
        """Direction from a slice toward the VXM."""
        return EAST if self.hemisphere(slice_number) == 0 else WEST

    def bank(self, buffer: Buffer, byte: int, first: int, last: int) -> int:
        """Bank of a range of vectors, -1 when it is not one known bank."""
        if buffer.layered:
            return -1
        banks = {buffer.address(byte, i) // self.g.words_per_bank for i in (first, last)}
        return banks.pop() if len(banks) == 1 else -1

    def emit(self, queue: int, cycle: int, code: int, completion: int, n: int = 1, d: int = 1, stride: int = 0,
             reason: str = "data", layered: bool = False, tensor: str = "") -> None:
        """Place an instruction, n times d cycles apart; completion: cycles until its last effect is over."""
        self.events.extend((queue, cycle, n - 1, d, stride, self.node, REASON[reason], layered,
                            self.memory.number(tensor)))
        self.words.append(code)
        self.end = max(self.end, cycle + (n - 1) * d + completion)

    def columns(self, buffer: Buffer) -> list[int]:
        """Columns of a buffer's slices, byte by byte."""
        return [self.g.column[s] for s in buffer.slices]

    def settle(self, buffer: Buffer, avoid: Iterable[int] = ()) -> None:
        """Give a buffer its slices, none of `avoid`, where it has none yet."""
        if not buffer.settled:
            self.memory.settle(buffer, set(avoid), buffer.groups or self.placer.scratch_groups)

    # -- memory to anywhere -----------------------------------------------------------------
    def read_offsets(self, buffer: Buffer, target: int, sampled: int) -> list[int]:
        """Issue offsets of the byte planes' READs so that all are at column `target` at `sampled`."""
        return [sampled - abs(target - column) for column in self.columns(buffer)]

    def read_uses(self, buffer: Buffer, first: int, last: int, offsets: Sequence[int], span: int,
                   whole: bool = False) -> list[Use]:
        """What READs of a buffer take, byte by byte; offsets: from the time that is looked for; span: cycles."""
        uses: list[Use] = []
        for byte, s in enumerate(buffer.slices):
            uses += self.resources.read(s, self.bank(buffer, byte, first, last), offsets[byte], span, whole)
        return uses

    def write_uses(self, buffer: Buffer, first: int, last: int, offsets: Sequence[int], span: int,
                    whole: bool = False) -> list[Use]:
        """What WRITEs of a buffer take, as read_uses."""
        uses: list[Use] = []
        for byte, s in enumerate(buffer.slices):
            uses += self.resources.write(s, self.bank(buffer, byte, first, last), offsets[byte], span, whole)
        return uses

    def ready_bound(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int]) -> int:
        """Earliest time at which n vectors, d cycles apart, can be read: all were written before."""
        low = min(offsets)
        ready = buffer.ready
        return max(ready[start + step * k] - low - k * d for k in range(n))

    def write_bound(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int]) -> int:
        """Earliest time at which n vectors can be written: nobody reads or writes the old ones later."""
        low, bound = min(offsets), -(1 << 60)
        for k in range(n):
            i = start + step * k
            bound = max(bound, max(buffer.used[i] + 1, buffer.ready[i]) - low - k * d)
        return bound

    def note_read(self, buffer: Buffer, start: int, step: int, n: int, d: int, latest: int) -> None:
        """Vectors are read, the first one by cycle `latest`, the others d cycles apart."""
        for k in range(n):
            i = start + step * k
            buffer.used[i] = max(buffer.used[i], latest + k * d)

    def note_write(self, buffer: Buffer, start: int, step: int, n: int, d: int, latest: int) -> None:
        """Vectors are written, the first one in cycle `latest`; they can be read a cycle later."""
        for k in range(n):
            buffer.ready[start + step * k] = latest + k * d + 1

    def emit_reads(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int], time: int,
                    direction: int, streams: Sequence[int], reason: str) -> None:
        """READs of a buffer at `time`, one a byte plane."""
        for byte, s in enumerate(buffer.slices):
            code = memory_word("READ", buffer.address(byte, start), stream_field(direction, streams[byte]))
            self.emit(s, time + offsets[byte], code, 1, n, d, step * buffer.pitch, reason, buffer.layered, buffer.name)

    def emit_writes(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int], time: int,
                     direction: int, streams: Sequence[int], reason: str) -> None:
        """WRITEs into a buffer at `time`, one a byte plane."""
        for byte, s in enumerate(buffer.slices):
            code = memory_word("WRITE", buffer.address(byte, start), stream_field(direction, streams[byte]))
            self.emit(s, time + offsets[byte], code, 1, n, d, step * buffer.pitch, reason, buffer.layered, buffer.name)

    def flows(self, buffer: Buffer, direction: int, streams: Sequence[int], target: int, offsets: Sequence[int],
               span: int) -> list[Use]:
        """What a buffer takes of its streams on the way to column `target`."""
        uses: list[Use] = []
        for byte, column in enumerate(self.columns(buffer)):
            uses += self.resources.flow(direction, streams[byte], column, target, offsets[byte], span)
        return uses

    def groups(self, size: int) -> list[int]:
        """First streams of aligned groups, spread from a hint so that neighbours differ."""
        count = self.g.streams // max(size, 1)
        order = [(i * 5 + self.hint) % count for i in range(count)] if count % 5 else list(range(count))
        return [size * i for i in order]

    def move(self, source: Mem, dsts: Sequence[Dst], n: int = 1, d: int = 1) -> None:
        """Copy vectors from slice to slice on streams; all targets are on one side of the source."""
        for dst in dsts:
            self.settle(dst.buffer, source.buffer.slices)
        if any(set(dst.buffer.slices) & set(source.buffer.slices) for dst in dsts):  # a slice cannot copy to itself
            between = self.memory.later(source.buffer.size, n, source.buffer.side).named(source.buffer.name)
            self.settle(between, {x for dst in dsts for x in dst.buffer.slices} | set(source.buffer.slices))
            self.move(source, [Dst(between)], n, d)
            self.move(Mem(between), dsts, n, d)
            self.memory.release(between)
            return
        size, span = source.bytes(), (n - 1) * d + 1
        columns = [self.g.column[x] for dst in dsts for x in dst.buffer.slices]
        sources = self.columns(source.buffer)
        direction = EAST if min(columns) >= max(sources) else WEST
        base = min(sources) if direction == EAST else max(sources)  # upstream of all: keeps the planes together
        read = [abs(c - base) for c in sources]
        fixed = self.read_uses(source.buffer, source.start, source.start + source.step * (n - 1), read, span)
        bound = self.ready_bound(source.buffer, source.start, source.step, n, d, read)
        writes = []
        for dst in dsts:
            offsets = [abs(c - base) for c in self.columns(dst.buffer)]
            fixed += self.write_uses(dst.buffer, dst.start, dst.start + dst.step * (n - 1), offsets, span)
            bound = max(bound, self.write_bound(dst.buffer, dst.start, dst.step, n, d, offsets))
            writes.append(offsets)
        far = max(columns) if direction == EAST else min(columns)
        choice = [Alternative(self.flows(source.buffer, direction, range(b, b + size), far, read, span), (b,))
                  for b in self.groups(size)]
        found = self.board.find(fixed, [choice], bound)
        assert found is not None
        t, picked = found.time, choice[found.chosen[0]]
        streams = range(picked.tag[0], picked.tag[0] + size)
        self.board.mark([*fixed, *picked.uses], t)
        self.emit_reads(source.buffer, source.start, source.step, n, d, read, t, direction, streams, found.reason)
        self.note_read(source.buffer, source.start, source.step, n, d, t + max(read))
        for dst, offsets in zip(dsts, writes, strict=True):
            self.emit_writes(dst.buffer, dst.start, dst.step, n, d, offsets, t, direction, streams, found.reason)
            self.note_write(dst.buffer, dst.start, dst.step, n, d, t + max(offsets))
