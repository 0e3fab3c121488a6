"""Small LPU programs for tests: a scratch pad for instructions at cycles, and a random generator."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.chip import Chip, load_chip
from emulator.lpu import geometry as geo
from emulator.lpu.errors import ScheduleError
from emulator.lpu.geometry import Geometry, geometry
from emulator.lpu.outcome import Outcome
from emulator.lpu.sram import Sram
from isa.encoding import encode
from isa.opcodes import ALU_BASE, BY_NAME, F16, F32, NO_STREAM, S8, S32, TYPE_BYTES, WEST, code
from isa.program import LpuText
from isa.timeline import _COLUMNS, Timeline


class Pad:
    """Collects "instruction X at cycle T in queue Q" and memory contents; `run` runs them on an engine."""

    def __init__(self, chip: Chip | str) -> None:
        self.chip = load_chip(chip) if isinstance(chip, str) else chip
        self.g: Geometry = geometry(self.chip)
        self.timeline = Timeline(lines=[], file="pad.lpu.s")
        self.maps: list[np.ndarray] = []
        self.words: dict[int, np.ndarray] = {}
        self.phantom: set[int] = set()
        self.last = 0

    def at(self, cycle: int, queue: str | int, op: str, *fields: int, n: int = 0, d: int = 1, stride: int = 0,
           reason: int = -1) -> None:
        """Issue an instruction; n, d, stride are its REPEAT. The source line is its own text."""
        number = self.g.queue(queue) if isinstance(queue, str) else queue
        line = len(self.timeline.lines)
        self.timeline.lines.append(f"{op} {', '.join(map(str, fields))}")
        busy = fields[0] if op == "NOP" else self.g.barrier if op in ("SYNC", "NOTIFY") else 1
        self.timeline.add(number, cycle, encode("lpu", BY_NAME[op], fields), n, d, stride, line=line, reason=reason,
                          busy=busy)

    def word(self, slice_number: int, address: int) -> int:
        return slice_number * self.g.words_per_slice + address

    def put(self, slice_number: int, address: int, data: np.ndarray) -> None:
        """Initial contents of a word: uint8 [lanes]."""
        self.words[self.word(slice_number, address)] = np.asarray(data, dtype=np.uint8)

    def map(self, lanes: list[int] | np.ndarray) -> int:
        self.maps.append(np.asarray(lanes, dtype=np.uint16))
        return len(self.maps) - 1

    def text(self) -> LpuText:
        words, starts, source = self.timeline.pack(self.g.queues)
        maps = np.stack(self.maps) if self.maps else np.zeros((0, self.g.lanes), dtype=np.uint16)
        return LpuText(words, starts, maps, source)

    def sram(self) -> Sram:
        sram = Sram(self.g)
        if self.words:
            numbers = np.array(sorted(self.words))
            sram.store(numbers, np.stack([self.words[n] for n in numbers]))
        for n in self.phantom:
            sram.flags[n] = sram.full | sram.full << 32
        return sram

    def run(self, engine: str = "fast", **options: Any) -> tuple[Outcome, Sram]:
        """Run on a fresh SRAM. Raises ScheduleError."""
        sram = self.sram()
        return make_engine(engine, self.g, self.text(), sram).run(**options), sram

    def read(self, sram: Sram, slice_number: int, address: int) -> np.ndarray:
        return sram.data[self.word(slice_number, address)]


def make_engine(name: str, g: Geometry, text: LpuText, sram: Sram):
    if name == "naive":
        from emulator.lpu.naive import NaiveEngine

        return NaiveEngine(g, text, sram)
    from emulator.lpu.engine import FastEngine

    return FastEngine(g, text, sram)


def error_of(pad: Pad, engine: str = "fast") -> ScheduleError:
    """The ScheduleError that a program raises."""
    try:
        pad.run(engine)
    except ScheduleError as error:
        return error
    raise AssertionError("the program ran to its end")


def result_of(pad: Pad, engine: str, **options: Any):
    """Everything an engine says about a program, comparable: error key, or outcome, memory and sorted events."""
    try:
        outcome, sram = pad.run(engine, **options)
    except ScheduleError as error:
        return error.key, str(error)
    poison = np.repeat((sram.flags[:, None] >> (32 + np.arange(pad.g.superlanes))) & 1, 16, axis=1).astype(bool)
    events = None if outcome.events is None else outcome.events[np.lexsort(outcome.events.T)].tobytes()
    memory = np.where(poison, 0, sram.data)  # what stands in poison lanes means nothing
    return (outcome.cycles, outcome.issued.tolist(), outcome.fetched, outcome.buckets.tolist(), outcome.values,
            outcome.unconsumed, outcome.hops, outcome.ingested, outcome.macs, sram.flags.tobytes(), memory.tobytes(),
            events)


# -- random programs -------------------------------------------------------------------------------
@dataclass
class Random:
    """Puts random pieces of work on a pad: each is consistent in itself, pieces may get in each other's way."""

    pad: Pad
    rng: random.Random

    def __post_init__(self) -> None:
        self.g = self.pad.g
        self.taken: set[tuple[int, int]] = set()
        self.plan: list[tuple] = []
        half = self.g.words_per_bank
        self.addresses = list(range(24)) + list(range(half, half + 24))
        self.map_addresses = [40, half + 40]  # words that hold small 16-bit numbers
        data = np.random.default_rng(self.rng.getrandbits(32))
        for s in range(self.g.slices):
            for a in self.addresses:
                word = data.integers(0, 256, self.g.lanes)
                if data.random() < 0.5:  # small values: sums that do not saturate, floats that are numbers
                    word &= 0x3F
                self.pad.put(s, a, word)
            for a in self.map_addresses:
                word = np.zeros(self.g.lanes, dtype=np.uint8)
                word[::16] = data.integers(0, 20, self.g.superlanes)
                self.pad.put(s, a, word)

    def issue(self, cycle: int, queue: int, op: str, *fields: int, n: int = 0, d: int = 1, stride: int = 0) -> None:
        self.plan.append((cycle, queue, op, fields, n, d, stride))

    def commit(self) -> None:
        """Take over a piece if its issue slots are free; else drop it."""
        slots = {(queue, cycle) for cycle, queue, *_ in self.plan}
        if len(slots) == len(self.plan) and not slots & self.taken and all(cycle >= 0 for cycle, *_ in self.plan):
            self.taken |= slots
            for cycle, queue, op, fields, n, d, stride in self.plan:
                self.pad.at(cycle, queue, op, *fields, n=n, d=d, stride=stride)
        self.plan = []

    def slice_at(self, low: int, high: int) -> int:
        """A slice whose column is in [low, high]."""
        return self.rng.choice([s for s in range(self.g.slices) if low <= self.g.column[s] <= high])

    def feed(self, stream: int, column: int, cycle: int, address: int | None = None, **repeat: int) -> None:
        """READ something so that it passes a column on a stream in a cycle."""
        west = stream >= WEST
        source = self.slice_at(column, self.g.edge) if west else self.slice_at(-self.g.edge, column)
        if address is None:
            address = self.rng.choice(self.addresses[:16] if self.rng.random() < 0.5 else self.addresses[24:40])
        self.issue(cycle - abs(column - self.g.column[source]), source, "READ", address, stream, **repeat)

    def drain(self, stream: int, column: int, cycle: int, **repeat: int) -> None:
        """WRITE what leaves a column on a stream in a cycle."""
        west = stream >= WEST
        limit = 1 + (self.g.slices_per_hemisphere - 1) // 4
        if (column < -limit and west) or (column > limit and not west):
            return
        target = self.slice_at(-self.g.edge, column) if west else self.slice_at(column, self.g.edge)
        address = self.rng.choice(self.addresses)
        self.issue(cycle + abs(column - self.g.column[target]), target, "WRITE", address, stream, **repeat)

    def stream(self, size: int = 1) -> int:
        return self.rng.randrange(0, 64, size)

    def repeat(self) -> dict[str, int]:
        if self.rng.random() < 0.5:
            return {}
        n, d, stride = self.rng.randrange(1, 5), self.rng.choice((1, 1, 2, 3)), self.rng.choice((0, 1, 1, 2))
        return {"n": n, "d": d, "stride": stride}

    def copy(self, t: int) -> None:
        s, column, repeat = self.stream(), self.rng.choice((-1, 1)), self.repeat()
        self.feed(s, column, t, **repeat)
        self.drain(s, column, t, **repeat)

    def vxm(self, t: int) -> None:
        g, rng = self.g, self.rng
        large = sorted(g.large_alus)
        name = rng.choice(sorted(geo.KIND_OPS[geo.VXM]))
        alu = rng.choice(large if BY_NAME[name].unit == "alu_large" else range(16))
        kind = F32 if name in geo.SPECIAL_OPS else rng.choice((F32, S32))
        source_kind = kind
        if name == "CVT":
            kind, source_kind = rng.randrange(7), rng.randrange(7)
        count = {"SELECT": 3}.get(name, 2 if BY_NAME[name].lpu[-1].name == "b" else 1)
        quads, operands = list(g.reach(alu)), []
        repeat = {**self.repeat(), "stride": 0}
        for quad in rng.sample(quads, count):
            size = TYPE_BYTES[source_kind]
            base = rng.choice((0, WEST)) + 4 * quad + (rng.randrange(0, 4, size) if size < 4 else 0)
            for byte in range(size):
                self.feed(base + byte, 0, t, **repeat)
            operands.append(base)
        done = t + g.vxm_delay(name, False)
        size = TYPE_BYTES[kind]
        dst = rng.choice((0, WEST)) + 4 * rng.choice(quads)
        chain = rng.random() < 0.4
        tail = [rng.getrandbits(32)] if BY_NAME[name].lpu[-1].name == "imm" else []
        head = [kind, source_kind] if name == "CVT" else [kind]
        first_dst = NO_STREAM if chain and rng.random() < 0.5 else dst
        self.issue(t, g.vxm_queue(alu), name, *head, first_dst, *operands, *tail, **repeat)
        if first_dst != NO_STREAM:
            for byte in range(size):
                self.drain(dst + byte, -1 if dst >= WEST else 1, done, **repeat)
        if chain:
            self.chain(alu, done, repeat)

    def chain(self, alu: int, done: int, repeat: dict[str, int]) -> None:
        """An operation that takes another ALU's output, alone or with a stream operand."""
        g, rng = self.g, self.rng
        reader = rng.choice([a for a in range(16) if g.can_chain(alu, a)])
        dst = rng.choice((0, WEST)) + 4 * rng.choice(g.reach(reader))
        if rng.random() < 0.5:
            self.issue(done, g.vxm_queue(reader), "NEG", rng.choice((F32, S32)), dst, ALU_BASE + alu, **repeat)
            out = done + g.op
        else:
            quad = rng.choice(g.reach(reader))
            base = rng.choice((0, WEST)) + 4 * quad
            at = done - g.entry
            for byte in range(4):
                self.feed(base + byte, 0, at, **repeat)
            self.issue(at, g.vxm_queue(reader), "ADD", rng.choice((F32, S32)), dst, ALU_BASE + alu, base, **repeat)
            out = done + g.op
        for byte in range(4):
            self.drain(dst + byte, -1 if dst >= WEST else 1, out, **repeat)

    def mxm(self, t: int) -> None:
        g, rng = self.g, self.rng
        kind = rng.choice((S8, F16))
        plane = rng.choice((0, 2) if kind == F16 else (0, 1, 2, 3))
        size = TYPE_BYTES[kind]
        east = plane >= 2
        outward, inward = (0, WEST) if east else (WEST, 0)
        column = g.column[g.mxm_queue(plane, geo.MXM_LW)]
        rows = rng.randrange(1, 5)
        base = rng.randrange(0, 32 - rows * size)
        loads = rng.randrange(1, 4)
        queue = g.mxm_queue(plane, geo.MXM_LW)
        repeat = {"n": loads - 1, "d": 1, "stride": rows} if loads > 1 else {}
        for n in range(rows * size):
            self.feed(outward + base + n, column, t, n=loads - 1, d=1, stride=rng.choice((0, 1)))
        self.issue(t, queue, "LW", kind, outward + base, rows, rng.randrange(0, g.rows - rows * loads), **repeat)
        swap = t + loads + rng.randrange(0, 3)
        self.issue(swap, queue, "IW", kind)
        fed = swap + rng.randrange(0, 3)
        base = rng.randrange(0, 32 - size)
        passes = rng.randrange(1, 4)
        again = {"n": passes - 1, "d": size + rng.randrange(0, 2)}
        for n in range(size):
            self.feed(outward + base + n, column, fed, **again)
        self.issue(fed, g.mxm_queue(plane, geo.MXM_ABC), "ABC", kind, outward + base, **again)
        out = fed + g.abc_delay(size)
        base = rng.randrange(0, 32, 4)
        self.issue(out, g.mxm_queue(plane, geo.MXM_ACC), "ACC", inward + base, **again)
        for byte in range(4):
            self.drain(inward + base + byte, column, out, **again)

    def indirect(self, t: int) -> None:
        g, rng = self.g, self.rng
        s, m = rng.sample(range(64), 2)
        target = self.slice_at(-1, 1)
        column = g.column[target]
        self.feed(m, column, t, address=rng.choice(self.map_addresses))
        if rng.random() < 0.5:
            self.issue(t, target, "GATHER", rng.choice(self.addresses[:4]), s, m)
            self.drain(s, column, t + g.gather)
        else:
            self.feed(s, column, t)
            self.issue(t, target, "SCATTER", rng.choice(self.addresses[:4]), s, m)

    def sxm(self, t: int) -> None:
        g, rng = self.g, self.rng
        hemisphere = rng.choice("WE")
        name = rng.choice(("SHIFT", "PERMUTE", "DISTRIBUTE", "TRANSPOSE"))
        queue = g.queue(f"SXM.{hemisphere}.{name}0")
        column = g.column[queue]
        outward, inward = (0, WEST) if hemisphere == "E" else (WEST, 0)
        count = 16 if name == "TRANSPOSE" else rng.choice((1, 2, 4))
        source = outward + rng.randrange(0, 32, count)
        target = inward + rng.randrange(0, 32, count)
        repeat = {**self.repeat(), "stride": 0}
        for n in range(count):
            self.feed(source + n, column, t, **repeat)
        argument = 0
        if name == "SHIFT":
            argument = rng.randrange(-g.lanes - 1, g.lanes + 2)
        elif name == "PERMUTE":
            argument = self.pad.map(rng.sample(range(g.lanes), g.lanes))
        elif name == "DISTRIBUTE":
            argument = self.pad.map([rng.choice((*range(16), 65535)) for _ in range(g.lanes)])
        fields = (source, target) if name == "TRANSPOSE" else (count, source, target, argument)
        self.issue(t, queue, name, *fields, **repeat)
        done = t + g.sxm_delay(name, argument if name == "SHIFT" else 0)
        for n in range(count):
            self.drain(target + n, column, done, **repeat)


def random_pad(seed: int, pieces: int, *, superlanes: int = 1, slip: bool = False, phantom: bool = False) -> Pad:
    """A random program for the toy chip. slip: one instruction is issued a few cycles off its place."""
    chip = load_chip("toy_lpu").with_override("core.superlanes", str(superlanes))
    rng = random.Random(seed)
    pad = Pad(chip)
    work = Random(pad, rng)
    start = 40
    kinds = (work.copy, work.vxm, work.vxm, work.mxm, work.indirect, work.sxm)
    for _ in range(pieces):
        rng.choice(kinds)(start + rng.randrange(0, 16 * pieces))
        if slip and work.plan and rng.random() < 0.3:
            at = rng.randrange(len(work.plan))
            cycle, *rest = work.plan[at]
            work.plan[at] = (cycle + rng.choice((-2, -1, 1, 2)), *rest)
        work.commit()
    if rng.random() < 0.5:
        barrier(pad, rng)
    if phantom:
        maps = {pad.word(s, a) for s in range(pad.g.slices) for a in work.map_addresses}
        pad.phantom = set(pad.words) - maps
    return pad


def barrier(pad: Pad, rng: random.Random) -> None:
    """SYNC at the start of every used queue, NOTIFY in one of them."""
    table = np.array(pad.timeline._table).reshape(-1, len(_COLUMNS))
    queues = sorted(set(table[:, 0].tolist()))
    if queues and table[:, 1].min() > pad.g.barrier + 3:
        late = rng.randrange(0, 3)
        for queue in queues[1:]:
            pad.at(rng.randrange(0, late + 1), queue, "SYNC")
        pad.at(late, queues[0], "NOTIFY")


__all__ = ["Pad", "Random", "code", "error_of", "make_engine", "random_pad", "result_of"]
