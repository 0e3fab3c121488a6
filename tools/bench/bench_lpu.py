"""Small LPU schedules that keep one kind of unit busy, for `python -m tools.bench lpu`.

A vector instruction is one 320-lane operation of one unit in one cycle; each REPEAT iteration counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emulator.chip import load_chip
from emulator.lpu.engine import FastEngine
from emulator.lpu.geometry import geometry
from emulator.lpu.sram import Sram
from isa.encoding import encode
from isa.opcodes import BY_NAME, F16, F32, OPS, S8, WEST
from isa.program import LpuText
from isa.timeline import Timeline
from tools.bench.engines import Rate, clock

FIRST = 40  # cycle of the first LW
UNIT_CODES = [op.code for op in OPS if op.lpu is not None and op.unit != "icu"]
G = geometry(load_chip("groq_tsp_v1"))


class Schedule:
    """Instructions at cycles, and the words that they read."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.words: set[int] = set()

    def add(self, cycle: int, queue: str | int, op: str, *fields: int, n: int = 1, d: int = 1, stride: int = 0) -> None:
        """Issue an instruction n times, d cycles apart, from `cycle` on; stride: of its address or row each time."""
        number = G.queue(queue) if isinstance(queue, str) else queue
        self.timeline.add(number, cycle, encode("lpu", BY_NAME[op], fields), n - 1, d, stride)
        if op == "READ":
            self.words |= {number * G.words_per_slice + fields[0] + i * stride for i in range(n)}

    def engine(self, timing_only: bool) -> FastEngine:
        """An engine with the schedule, its words random; timing_only: phantom."""
        words, starts, source = self.timeline.pack(G.queues)
        sram, numbers = Sram(G), np.array(sorted(self.words))
        sram.store(numbers, np.random.default_rng(1).integers(0, 60, (len(numbers), G.lanes)).astype(np.uint8))
        if timing_only:
            sram.flags[numbers] |= sram.full << 32
        return FastEngine(G, LpuText(words, starts, np.zeros((0, G.lanes), dtype=np.uint16), source), sram)


def matrix(tiles: int, passes: int, kind: int) -> Schedule:
    """Weight tiles through all four planes at full ingest: 20 LW cycles a tile, then `passes` activations."""
    s, size = Schedule(), 1 if kind == S8 else 2
    for tile in range(tiles):
        at = FIRST + tile * (20 + passes * size)
        for side, out, back in ((0, WEST, 0), (1, 0, WEST)):
            base, planes = G.slices_per_hemisphere * side, range(2 * side, 2 * side + 2, size)
            for i in range(32):
                s.add(at - (18 - abs(G.column[base + i])), base + i, "READ", 20 * (tile % 200), out + i, n=20, stride=1)
            for byte in range(size):
                source = base + 40 + byte
                s.add(at + 20 - (18 - abs(G.column[source])), source, "READ", G.words_per_bank, out + byte, n=passes,
                      d=size)
            for plane in planes:
                s.add(at, f"MXM{plane}.LW", "LW", kind, out + 16 * (plane % 2), 16, 0, n=20, stride=16)
                s.add(at + 20, f"MXM{plane}.LW", "IW", kind)
                s.add(at + 20, f"MXM{plane}.ABC", "ABC", kind, out, n=passes, d=size)
                s.add(at + 20 + G.abc_delay(size), f"MXM{plane}.ACC", "ACC", back + 4 * (plane % 2), n=passes, d=size)
    return s


def vector(cycles: int) -> Schedule:
    """One fp32 addition of two operands every cycle, read from eight slices."""
    s = Schedule()
    for i in range(8):
        s.add(FIRST - abs(G.column[i]), i, "READ", 0, i, n=cycles)
    s.add(FIRST, "VXM0", "ADD", F32, WEST + 8, 0, 4, n=cycles)
    return s


def rates() -> list[Rate]:
    """Rates of single units at work, beside those of whole decode steps."""
    found = []
    for label, schedule, timing_only, aim in (
        ("int8 weights at full ingest", matrix(400, 1, S8), True, 10e6),
        ("fp32 vectors", vector(20_000), True, 10e6),
        ("int8 weights at full ingest, batch 1", matrix(60, 1, S8), False, 2e6),
        ("fp16 weights at full ingest, batch 1", matrix(60, 1, F16), False, 2e6),
        ("int8 weights, batch 16", matrix(40, 16, S8), False, 2e6),
        ("fp32 vectors", vector(20_000), False, 2e6),
    ):
        engine = schedule.engine(timing_only)
        mode = "timing" if timing_only else "values"
        found.append(Rate(f"LPU, {mode} ({label})", clock(instructions(engine)), "vector instructions/s", aim))
        if label == "int8 weights, batch 16":
            found.append(Rate(f"LPU, {mode} ({label})", clock(products(engine)), "int8 MAC/s", 2e9))
    return found


def instructions(engine: FastEngine) -> Callable[[], int]:
    """A run that gives its vector instructions."""
    return lambda: int(engine.run().issued[UNIT_CODES].sum())


def products(engine: FastEngine) -> Callable[[], int]:
    """A run that gives its multiply-accumulates."""
    return lambda: engine.run().macs
