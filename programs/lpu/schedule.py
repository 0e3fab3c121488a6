"""The scheduler: puts rigid patterns of instructions at the first cycle at which everything is free.

A Scheduler holds one block (what runs before the layers, one layer, or what runs after them). Every
method places one pattern, reserves what it uses, remembers when its results can be read and emits
its instructions. Blocks follow each other without overlap, so a layer is scheduled once.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from emulator.accounting import LPU_REASONS, reason_index
from emulator.lpu.geometry import MXM_ABC, Geometry
from isa.encoding import encode
from isa.opcodes import ALU_BASE, BY_NAME, F16, NO_STREAM, S8
from isa.opcodes import WEST as WEST_FLAG
from programs.lpu import chain as vxm
from programs.lpu.board import BOTH, EAST, WEST, Alternative, Board, Resources, Use
from programs.lpu.chain import Leaf, Op
from programs.lpu.memory import Buffer, Memory
from programs.lpu.place import Placer

ALL_QUADS = frozenset(range(8))
TRIES = 6  # ALU assignments looked at before the best is taken
REASON = {reason.name: reason_index(LPU_REASONS, reason.name) for reason in LPU_REASONS}
EVENT_COLUMNS = ("queue", "cycle", "n", "d", "stride", "node", "reason", "layered")


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
    return encode("lpu", BY_NAME[name], values)


class Scheduler:
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
        self.board = Board(self.resources)
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
             reason: str = "data", layered: bool = False) -> None:
        self.events.extend((queue, cycle, n - 1, d, stride, self.node, REASON[reason], layered))
        self.words.append(code)
        self.end = max(self.end, cycle + (n - 1) * d + completion)

    def _columns(self, buffer: Buffer) -> list[int]:
        return [self.g.column[s] for s in buffer.slices]

    # -- memory to anywhere -----------------------------------------------------------------
    def _read_offsets(self, buffer: Buffer, target: int, sampled: int) -> list[int]:
        """Issue offsets of the byte planes' READs so that all are at column `target` at `sampled`."""
        return [sampled - abs(target - column) for column in self._columns(buffer)]

    def _read_uses(self, buffer: Buffer, first: int, last: int, offsets: Sequence[int], span: int,
                   whole: bool = False) -> list[Use]:
        uses: list[Use] = []
        for byte, s in enumerate(buffer.slices):
            uses += self.resources.read(s, self.bank(buffer, byte, first, last), offsets[byte], span, whole)
        return uses

    def _write_uses(self, buffer: Buffer, first: int, last: int, offsets: Sequence[int], span: int,
                    whole: bool = False) -> list[Use]:
        uses: list[Use] = []
        for byte, s in enumerate(buffer.slices):
            uses += self.resources.write(s, self.bank(buffer, byte, first, last), offsets[byte], span, whole)
        return uses

    def _ready_bound(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int]) -> int:
        low = min(offsets)
        ready = buffer.ready
        return max(ready[start + step * k] - low - k * d for k in range(n))

    def _write_bound(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int]) -> int:
        low, bound = min(offsets), -(1 << 60)
        for k in range(n):
            i = start + step * k
            bound = max(bound, max(buffer.used[i] + 1, buffer.ready[i]) - low - k * d)
        return bound

    def _note_read(self, buffer: Buffer, start: int, step: int, n: int, d: int, latest: int) -> None:
        for k in range(n):
            i = start + step * k
            buffer.used[i] = max(buffer.used[i], latest + k * d)

    def _note_write(self, buffer: Buffer, start: int, step: int, n: int, d: int, latest: int) -> None:
        for k in range(n):
            buffer.ready[start + step * k] = latest + k * d + 1

    def _emit_reads(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int], time: int,
                    direction: int, streams: Sequence[int], reason: str) -> None:
        for byte, s in enumerate(buffer.slices):
            code = memory_word("READ", buffer.address(byte, start), stream_field(direction, streams[byte]))
            self.emit(s, time + offsets[byte], code, 1, n, d, step * buffer.pitch, reason, buffer.layered)

    def _emit_writes(self, buffer: Buffer, start: int, step: int, n: int, d: int, offsets: Sequence[int], time: int,
                     direction: int, streams: Sequence[int], reason: str) -> None:
        for byte, s in enumerate(buffer.slices):
            code = memory_word("WRITE", buffer.address(byte, start), stream_field(direction, streams[byte]))
            self.emit(s, time + offsets[byte], code, 1, n, d, step * buffer.pitch, reason, buffer.layered)

    def _flows(self, buffer: Buffer, direction: int, streams: Sequence[int], target: int, offsets: Sequence[int],
               span: int) -> list[Use]:
        uses: list[Use] = []
        for byte, column in enumerate(self._columns(buffer)):
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
        size, span = source.bytes(), (n - 1) * d + 1
        columns = [self.g.column[x] for dst in dsts for x in dst.buffer.slices]
        sources = self._columns(source.buffer)
        direction = EAST if min(columns) >= max(sources) else WEST
        base = min(sources) if direction == EAST else max(sources)  # upstream of all: keeps the planes together
        read = [abs(c - base) for c in sources]
        fixed = self._read_uses(source.buffer, source.start, source.start + source.step * (n - 1), read, span)
        bound = self._ready_bound(source.buffer, source.start, source.step, n, d, read)
        writes = []
        for dst in dsts:
            offsets = [abs(c - base) for c in self._columns(dst.buffer)]
            fixed += self._write_uses(dst.buffer, dst.start, dst.start + dst.step * (n - 1), offsets, span)
            bound = max(bound, self._write_bound(dst.buffer, dst.start, dst.step, n, d, offsets))
            writes.append(offsets)
        far = max(columns) if direction == EAST else min(columns)
        choice = [Alternative(self._flows(source.buffer, direction, range(b, b + size), far, read, span), (b,))
                  for b in self.groups(size)]
        found = self.board.find(fixed, [choice], bound)
        assert found is not None
        t, picked = found.time, choice[found.chosen[0]]
        streams = range(picked.tag[0], picked.tag[0] + size)
        self.board.mark([*fixed, *picked.uses], t)
        self._emit_reads(source.buffer, source.start, source.step, n, d, read, t, direction, streams, found.reason)
        self._note_read(source.buffer, source.start, source.step, n, d, t + max(read))
        for dst, offsets in zip(dsts, writes, strict=True):
            self._emit_writes(dst.buffer, dst.start, dst.step, n, d, offsets, t, direction, streams, found.reason)
            self._note_write(dst.buffer, dst.start, dst.step, n, d, t + max(offsets))

    # -- VXM --------------------------------------------------------------------------------
    def vop(self, outs: Sequence[tuple[Op, Sequence[Dst]]], n: int = 1, d: int = 1, after: int = 0,
            fold: str = "", period: int = 0, own_half: int = -1, quads: frozenset[int] = ALL_QUADS) -> int:
        """Compute expressions for n vectors, d cycles apart, and store the results. Gives the start cycle.

        outs: (operation, where its result goes). Leaves are Mem and Mat; a pattern has one Mat at most
        a plane. `after`: not before this cycle. fold: the n values of the one operation are combined
        by this instruction (ADD, MAX, MIN, ...), and only the result is stored, in one hemisphere. period:
        cycles from one tile to the next, where tiles follow each other: results then travel in the
        gaps between the tiles' weights. own_half: activations keep to the lower (0) or upper (1) half
        of the streams, with whose plane they are in step; -1: any stream. quads: those for the results.
        """
        if fold and n == 1:
            fold = ""
        if fold:
            d = max(d, self.g.op)
        if any(isinstance(leaf, Mat) and leaf.type == F16 for op, _ in outs for leaf in _leaves(op)) and n > 1:
            d = max(d, self.g.f16_feed)
        split: list[tuple[Op, list[Dst], int]] = []
        for op, dsts in outs:
            for direction in (EAST, WEST):
                mine = [x for x in dsts if x.buffer.side == (1 if direction == EAST else 0)]
                if mine:
                    split.append((op, mine, direction))
        span = (n - 1) * d + 1
        chain, later = self._legalise(split, n, d, fold)
        out_n, out_delay = n, 0
        if fold:
            vxm.add_fold(self.g, chain, fold)
            out_n, out_delay = 1, (n - 1) * d
        out_span = (out_n - 1) * d + 1
        fixed: list[Use] = []
        bound = after
        rc = self.g.result_column
        leaf_offsets: list[Any] = []
        for leaf, sampled in chain.leaves:
            if isinstance(leaf, Mem):
                last = leaf.start + leaf.step * (n - 1)
                offsets = self._read_offsets(leaf.buffer, 0, sampled)
                fixed += self._read_uses(leaf.buffer, leaf.start, last, offsets, span)
                bound = max(bound, self._ready_bound(leaf.buffer, leaf.start, leaf.step, n, d, offsets))
                leaf_offsets.append(offsets)
            else:
                leaf_offsets.append(None)
        out_offsets: list[list[list[int]]] = []
        for number, (_, dsts, _direction) in enumerate(split):
            appears = next(s.result for s in chain.steps if s.out == number) + out_delay
            rows = []
            for dst in dsts:
                offsets = [appears + abs(c) - rc for c in self._columns(dst.buffer)]
                last = dst.start + dst.step * (out_n - 1)
                fixed += self._write_uses(dst.buffer, dst.start, last, offsets, out_span)
                bound = max(bound, self._write_bound(dst.buffer, dst.start, dst.step, out_n, d, offsets))
                rows.append(offsets)
            out_offsets.append(rows)

        best = None
        ways = vxm.assignments(self.g, chain.signature)
        if not ways:
            raise ValueError(f"no ALUs for {[s.op.name for s in chain.steps]}")
        slacks = self._slacks(chain, n, d, period)
        self.half, self.quads = own_half, quads
        tries = 0
        for attempt in range(len(ways)):
            if tries == TRIES:
                break
            alus = ways[(attempt + self.hint) % len(ways)]
            found = self._try(chain, alus, split, out_offsets, fixed, leaf_offsets, bound, span, n, d, slacks,
                              None if best is None else best[0].time - 1)
            tries += found is not None or best is not None
            if found is not None:
                best = found
                if found[0].time <= bound:
                    break
        if best is None:
            raise ValueError("no place found for a vector operation")
        self.half, self.quads = -1, ALL_QUADS
        self._commit(chain, split, out_offsets, fixed, leaf_offsets, n, d, best)
        self.hint += 1
        for source, dst in later:
            self.move(source, [dst], out_n)
            self.memory.release(source.buffer)
        self.memory.release(*self.temporaries)
        self.temporaries.clear()
        return best[0].time

    def settle(self, buffer: Buffer, avoid: Iterable[int] = ()) -> None:
        if not buffer.settled:
            self.memory.settle(buffer, set(avoid), buffer.groups or self.placer.scratch_groups)

    def _legalise(self, split: list[tuple[Op, list[Dst], int]], n: int, d: int, fold: str) -> tuple[vxm.Chain, list[tuple[Mem, Dst]]]:
        """Give every operand and result slices of its own where accesses would meet.

        Results without a place get one; operands that meet are copied elsewhere first; a result that
        meets an operand goes to a scratch place, and the copies to make afterwards are returned.
        """
        span = (n - 1) * d + 1
        leaves = {id(leaf): leaf for op, _, _ in split for leaf in _leaves(op) if isinstance(leaf, Mem)}
        taken = {x for leaf in leaves.values() for x in leaf.buffer.slices}
        for _, dsts, _ in split:
            taken |= {x for dst in dsts for x in dst.buffer.slices}
        for _, dsts, _ in split:
            for dst in dsts:
                if not dst.buffer.settled:
                    self.settle(dst.buffer, () if n == 1 and dst.buffer.groups else taken)
                    taken |= set(dst.buffer.slices)
        chain = vxm.arrange(self.g, [s[0] for s in split], [s[2] for s in split], self._leaf_direction)
        reads: list[tuple[int, int, Mem]] = []
        for leaf, sampled in chain.leaves:
            if not isinstance(leaf, Mem):
                continue
            offsets = self._read_offsets(leaf.buffer, 0, sampled)
            mine = list(zip(leaf.buffer.slices, offsets, strict=True))
            if any(x == y and abs(a - o) < span for x, a, _ in reads for y, o in mine):
                if leaf.step == 0:
                    temporary, count = self.memory.later(leaf.buffer.size, 1, leaf.buffer.side), 1
                else:
                    temporary, count = self.memory.later(leaf.buffer.size, n, leaf.buffer.side), n
                self.settle(temporary, taken)
                taken |= set(temporary.slices)
                self.temporaries.append(temporary)
                self.move(Mem(leaf.buffer, leaf.start, leaf.step), [Dst(temporary)], count)
                leaf.buffer, leaf.start, leaf.step = temporary, 0, min(leaf.step, 1)
                mine = list(zip(temporary.slices, self._read_offsets(temporary, 0, sampled), strict=True))
            reads += [(x, o, leaf) for x, o in mine]
        later: list[tuple[Mem, Dst]] = []
        for number, (_, dsts, _) in enumerate(split):
            appears = next(s.result for s in chain.steps if s.out == number) + (span - 1 if fold else 0)
            for k, dst in enumerate(dsts):
                offsets = [appears + abs(c) - self.g.result_column for c in self._columns(dst.buffer)]
                width = 1 if fold else span
                if any(x == y and (a == o or (a < o + width and o < a + span))
                       for x, a, _ in reads for y, o in zip(dst.buffer.slices, offsets, strict=True)):
                    count = 1 if fold else n
                    temporary = self.memory.later(dst.buffer.size, count, dst.buffer.side)
                    self.settle(temporary, taken)
                    taken |= set(temporary.slices)
                    later.append((Mem(temporary), dst))
                    dsts[k] = Dst(temporary)
        return chain, later

    def _leaf_direction(self, leaf: Leaf) -> int:
        if isinstance(leaf, Mem):
            return self.inward(leaf.buffer.slices[0])
        assert isinstance(leaf, Mat)
        return EAST if leaf.plane < self.g.planes // 2 else WEST

    def _slacks(self, chain: vxm.Chain, n: int, d: int, period: int) -> list[int]:
        """Cycles a result may wait in the accumulator before its ACC, the best ones first.

        Weights leave one cycle free a tile, in which the tile's activation arrives at the plane. What
        the VXM sends out should be in such a gap too: its invariant differs by whole periods.
        """
        mats = [(leaf, at) for leaf, at in chain.leaves if isinstance(leaf, Mat)]
        if not mats:
            return [0]
        if n > 1:
            return list(range(min(d, 8)))
        slacks = list(range(8))
        if period:
            leaf, sampled = mats[0]
            mxm = abs(self.g.column[self.g.mxm_queue(leaf.plane, MXM_ABC)])
            fed = sampled - mxm - self.g.abc_delay(2 if leaf.type == F16 else 1)
            appears = next(s.result for s in chain.steps if s.out == 0)
            best = (fed - mxm - (appears - self.g.result_column)) % period
            if best < period - 1:
                slacks = [best, *(x for x in slacks if x != best)]
        return slacks

    def _try(self, chain: vxm.Chain, alus: tuple[int, ...], split: list[Any], out_offsets: list[Any],
             fixed: list[Use], leaf_offsets: list[Any], bound: int, span: int, n: int, d: int, slacks: list[int],
             limit: int | None) -> Any:
        key = (self.quads, chain.signature, tuple((p.issue, p.result) for p in chain.steps), alus, span, d, chain.fold,
               tuple((leaf.buffer.slices, self._banks(leaf, n), at) if isinstance(leaf, Mem) else (leaf.plane, at)
                     for leaf, at in chain.leaves),
               tuple((x[2], x[0].result_bytes, *((y.buffer.slices, self._banks(y, n)) for y in x[1])) for x in split))
        built = self.memo.get(key)
        if built is None:
            built = self.memo[key] = self._build(chain, alus, split, fixed, leaf_offsets, span)
        own, choices, info = built
        if not all(choices):
            return None

        def agree(chosen: list[int]) -> bool:
            k = len(chosen) - 1
            users, direction = info[k]
            quad = choices[k][chosen[k]].tag[0]
            return not any(users & info[j][0] and info[j][1] != direction and choices[j][chosen[j]].tag[0] == quad
                           for j in range(k))

        best = None
        for slack in slacks:
            feeds, low, extra = self._feeds(chain, slack, n, d, span)
            found = self.board.find(own + extra, choices + feeds, max(bound, low), limit=limit, agree=(
                lambda c: True if len(c) > len(info) else agree(c)), checked=True)
            if found is not None:
                best = (found, alus, choices + feeds, own + extra, slack)
                limit = found.time - 1
                if found.time <= max(bound, low):
                    break
        return best

    def _banks(self, place: Mem | Dst, n: int) -> tuple[int, ...]:
        last = place.start + place.step * (n - 1)
        return tuple(self.bank(place.buffer, byte, place.start, last) for byte in range(len(place.buffer.slices)))

    def _build(self, chain: vxm.Chain, alus: tuple[int, ...], split: list[Any], fixed: list[Use],
               leaf_offsets: list[Any], span: int) -> tuple[list[Use], list[list[Alternative]], list[Any]]:
        """Uses of a pattern on given ALUs: fixed ones, stream choices of operands and results, and for each
        choice the steps that use its quad, with its direction."""
        g, r = self.g, self.resources
        own = list(fixed)
        for step, alu in zip(chain.steps, alus, strict=True):
            execute = step.issue + g.entry if step.streams else step.issue
            own += r.alu(alu, step.issue, execute, span)
        choices: list[list[Alternative]] = []
        info: list[tuple[frozenset[int], int]] = []  # steps that use the choice's quad, direction
        for number, (leaf, sampled) in enumerate(chain.leaves):
            users = frozenset(k for k, s in enumerate(chain.steps) if ("L", number) in s.operands)
            quads = [q for q in g.reach(alus[min(users)]) if all(q in g.reach(alus[u]) for u in users)]
            direction = self._leaf_direction(leaf)
            alternatives = []
            for q in quads:
                if isinstance(leaf, Mem):
                    size = leaf.bytes()
                    for base in range(4 * q, 4 * q + 4, size if size < 4 else 4):
                        streams = list(range(base, base + size))
                        alternatives.append(Alternative(
                            self._flows(leaf.buffer, direction, streams, 0, leaf_offsets[number], span), (q, base)))
                else:
                    start = g.column[g.mxm_queue(leaf.plane, MXM_ABC)]
                    uses: list[Use] = []
                    for s in range(4 * q, 4 * q + 4):
                        uses += r.flow(direction, s, start, 0, sampled - abs(start), span)
                    alternatives.append(Alternative(uses, (q, 4 * q)))
            choices.append(alternatives)
            info.append((users, direction))
        rc = g.result_column
        for number, (op, dsts, direction) in enumerate(split):
            k = next(k for k, s in enumerate(chain.steps) if s.out == number)
            appears = chain.steps[k].result + (span - 1 if chain.fold else 0)
            out_span = 1 if chain.fold else span
            far = max((abs(c) for dst in dsts for c in self._columns(dst.buffer)))
            sign = 1 if direction == EAST else -1
            alternatives = []
            size = op.result_bytes
            for q in g.reach(alus[k]):
                if q not in self.quads:
                    continue
                for base in range(4 * q, 4 * q + 4, size if size < 4 else 4):
                    uses = []
                    for s in range(base, base + size):
                        uses += r.flow(direction, s, sign * rc, sign * far, appears, out_span)
                    alternatives.append(Alternative(uses, (q, base)))
            choices.append(alternatives)
            info.append((frozenset(), direction))
        if self.board.clash(own) is not None:
            raise AssertionError("a vector operation clashes with itself")
        return own, choices, info

    def _feeds(self, chain: vxm.Chain, slack: int, n: int, d: int, span: int) -> tuple[list[Any], int, list[Use]]:
        """(stream choices, earliest start, fixed uses) of the activations of a pattern's Mat leaves."""
        g = self.g
        feeds: list[list[Alternative]] = []
        low, extra = -(1 << 60), []
        for leaf, sampled in chain.leaves:
            if not isinstance(leaf, Mat):
                continue
            _, abc_queue, acc_queue = self.resources.matrix_queues(leaf.plane)
            mxm = g.column[abc_queue]
            accumulate = sampled - abs(mxm)
            land = g.abc_delay(2 if leaf.type == F16 else 1)
            abc = accumulate - slack - land
            cycles = g.f16_feed if leaf.type == F16 else 1
            plane = self.planes[leaf.plane]
            low = max(low, plane.installed - abc, plane.fed + 1 - abc, plane.accumulated + 1 - (abc + land))
            offsets = self._read_offsets(leaf.act, mxm, abc)
            low = max(low, self._ready_bound(leaf.act, leaf.start, leaf.step, n, d, offsets))
            key = ("feed", self.half, leaf.plane, abc, accumulate, span, cycles, leaf.act.slices, self._banks(
                Mem(leaf.act, leaf.start, leaf.step), n))
            made = self.memo.get(key)
            if made is None:
                last = leaf.start + leaf.step * (n - 1)
                uses = [(self.resources.queue0 + abc_queue, abc, span + cycles - 1, BOTH),
                        self.resources.queue(acc_queue, accumulate, span),
                        *self._read_uses(leaf.act, leaf.start, last, offsets, span)]
                size = len(leaf.act.slices)
                direction = EAST if mxm > 0 else WEST
                streams = [Alternative(self._flows(leaf.act, direction, range(b, b + size), mxm, offsets, span), (-1, b))
                           for b in self.groups(size) if self.half < 0 or 2 * b // self.g.streams == self.half]
                made = self.memo[key] = (uses, streams)
            extra += made[0]
            feeds.append(made[1])
        return feeds, low, extra

    def _commit(self, chain: vxm.Chain, split: list[Any], out_offsets: list[Any], fixed: list[Use],
                leaf_offsets: list[Any], n: int, d: int, best: Any) -> None:
        g = self.g
        place, alus, choices, own, slack = best
        t, reason = place.time, place.reason
        self.board.mark(own, t)
        for choice, index in zip(choices, place.chosen, strict=True):
            self.board.mark(choice[index].uses, t)
        bases = [choice[index].tag[1] for choice, index in zip(choices, place.chosen, strict=True)]
        feed = len(chain.leaves) + len(split)
        for number, (leaf, sampled) in enumerate(chain.leaves):
            if isinstance(leaf, Mem):
                offsets = leaf_offsets[number]
                direction = self._leaf_direction(leaf)
                streams = range(bases[number], bases[number] + leaf.bytes())
                self._emit_reads(leaf.buffer, leaf.start, leaf.step, n, d, offsets, t, direction, streams, reason)
                self._note_read(leaf.buffer, leaf.start, leaf.step, n, d, t + max(offsets))
                continue
            assert isinstance(leaf, Mat)
            _, abc_queue, acc_queue = self.resources.matrix_queues(leaf.plane)
            mxm = g.column[abc_queue]
            size = 2 if leaf.type == F16 else 1
            land = g.abc_delay(size)
            abc = sampled - abs(mxm) - slack - land
            offsets = self._read_offsets(leaf.act, mxm, abc)
            direction = EAST if mxm > 0 else WEST
            streams = range(bases[feed], bases[feed] + len(leaf.act.slices))
            self._emit_reads(leaf.act, leaf.start, leaf.step, n, d, offsets, t, direction, streams, reason)
            self._note_read(leaf.act, leaf.start, leaf.step, n, d, t + max(offsets))
            self.emit(abc_queue, t + abc, word("ABC", leaf.type, stream_field(direction, bases[feed])), land, n, d,
                      reason=reason)
            back = WEST if mxm > 0 else EAST
            accumulate = t + sampled - abs(mxm)
            self.emit(acc_queue, accumulate, word("ACC", stream_field(back, bases[number])), 1, n, d, reason=reason)
            plane = self.planes[leaf.plane]
            cycles = g.f16_feed if leaf.type == F16 else 1
            plane.fed = t + abc + (n - 1) * d + cycles - 1
            plane.accumulated = accumulate + (n - 1) * d
            if leaf.type == F16:
                other = self.planes[leaf.plane + 1]
                other.fed = plane.fed
            feed += 1
        for k, (step, alu) in enumerate(zip(chain.steps, alus, strict=True)):
            operands = []
            for kind, number in step.operands:
                if kind == "A":
                    operands.append(ALU_BASE + alus[number])
                else:
                    operands.append(stream_field(self._leaf_direction(chain.leaves[number][0]), bases[number]))
            dst = NO_STREAM
            if step.out >= 0:
                dst = stream_field(split[step.out][2], bases[len(chain.leaves) + step.out])
            queue, delay = g.vxm_queue(alu), step.result - step.issue
            if chain.fold and k == len(chain.steps) - 1:
                first = vxm.vxm_word("ADDI", "s32", None, NO_STREAM, (operands[0],), 0)
                again = vxm.vxm_word(step.op.name, step.op.type, None, NO_STREAM, tuple(operands), None)
                final = vxm.vxm_word(step.op.name, step.op.type, None, dst, tuple(operands), None)
                self.emit(queue, t + step.issue, first, delay, reason=reason)
                if n > 2:
                    self.emit(queue, t + step.issue + d, again, delay, n - 2, d, reason=reason)
                self.emit(queue, t + step.issue + (n - 1) * d, final, delay, reason=reason)
                continue
            code = vxm.vxm_word(step.op.name, step.op.type, step.op.from_type, dst, tuple(operands), step.op.imm)
            self.emit(queue, t + step.issue, code, delay, n, d, reason=reason)
        for number, (op, dsts, direction) in enumerate(split):
            base = bases[len(chain.leaves) + number]
            out_n = 1 if chain.fold else n
            for dst, offsets in zip(dsts, out_offsets[number], strict=True):
                self._emit_writes(dst.buffer, dst.start, dst.step, out_n, d, offsets, t, direction,
                                  range(base, base + op.result_bytes), reason)
                self._note_write(dst.buffer, dst.start, dst.step, out_n, d, t + max(offsets))


def _leaves(op: Op) -> list[Leaf]:
    found: list[Leaf] = []
    for a in op.args:
        found += _leaves(a) if isinstance(a, Op) else [a]
    return found


__all__ = ["F16", "S8", "Dst", "Mat", "Mem", "Scheduler", "memory_word", "stream_field", "word"]
