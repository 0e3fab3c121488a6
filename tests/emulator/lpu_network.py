"""Small programs on several LPUs for tests: one scratch pad a chip, and random exchanges between them."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from emulator.chip import Chip, load_chip
from emulator.lpu.errors import ScheduleError
from emulator.lpu.machine import LpuMachine
from emulator.trace import Window
from isa.opcodes import ROLE_PORT, WEST
from isa.program import LpuImage, Program
from tests.emulator.lpu_programs import Pad, Random

NONE = np.zeros(0, dtype=np.int32)
# The toy chip: links take a vector in 3 cycles, it arrives 14 later, 4 may wait; the link column is +-4.
SLOT, HOP, DEPTH, LINK_COLUMN = 3, 14, 4, 4


@dataclass
class Board:
    """Chips of a system. pads: one a text; rows: (pad, number, start, *ports of roles) of each chip."""

    pads: list[Pad]
    rows: list[tuple[int, ...]]
    system: str | None = "groq_production"
    meta: dict[str, object] = field(default_factory=dict)

    def program(self, timing_only: bool = False) -> Program:
        meta = {**self.meta, "timing_only": timing_only} | ({"system": self.system} if self.system else {})
        images = []
        for pad in self.pads:
            real = np.array(sorted(set(pad.words) - pad.phantom), dtype=np.int32)
            data = np.stack([pad.words[n] for n in real]) if len(real) else np.zeros((0, pad.g.lanes), np.uint8)
            images.append(LpuImage(real, data, NONE, np.array(sorted(pad.phantom), dtype=np.int32)))
        chip = self.pads[0].chip
        return Program("lpu", chip.name, chip.hash, [pad.text() for pad in self.pads], images,
                       [(row[0], row[0], row[1:]) for row in self.rows], {}, meta=meta)

    def machine(self, engine: str = "fast", timing_only: bool = False) -> LpuMachine:
        return LpuMachine(self.program(timing_only), self.pads[0].chip, engine)


def joined(chips: int = 2, chip: Chip | str = "toy_lpu", starts: tuple[int, ...] = ()) -> Board:
    """Chips 0, 1, .. of a node, each with a pad of its own whose first words are known."""
    pads = [Pad(chip) for _ in range(chips)]
    for number, pad in enumerate(pads):
        for s in range(pad.g.slices):
            for a in range(4):
                pad.put(s, a, np.full(pad.g.lanes, 64 * number + 4 * s % 60 + a))
    return Board(pads, [(n, n, (*starts, *[0] * chips)[n]) for n in range(chips)])


def error_of(board: Board, engine: str = "fast", timing_only: bool = False) -> ScheduleError:
    """The ScheduleError that a step raises."""
    try:
        board.machine(engine, timing_only).step()
    except ScheduleError as error:
        return error
    raise AssertionError("the program ran to its end")


def result_of(board: Board, engine: str, timing_only: bool = False, trace: Window | None = None):
    """Everything an engine says about a step, comparable: the error, or report, memories and events of a trace."""
    machine = board.machine(engine, timing_only)
    try:
        step = machine.step(trace=trace)
    except ScheduleError as error:
        return error.key, str(error)
    memories = []
    for sram in machine.srams:
        poison = np.repeat((sram.flags[:, None] >> 32 + np.arange(machine.geometry.superlanes)) & 1, 16, axis=1)
        memories.append((sram.flags.tobytes(), np.where(poison.astype(bool), 0, sram.data).tobytes()))
    events = None if step.trace is None else (step.trace.chips, [c.tobytes() for c in step.trace.columns().values()])
    if step.trace is not None:
        assert step.trace.whole() and step.trace.traffic() == step.traffic
    return step.cycles, step.traffic, step.accounting, step.counters, memories, events


# -- random programs -------------------------------------------------------------------------------
def random_board(seed: int, *, slip: bool = False, shared: bool = False) -> Board:
    """2 to 4 chips of a node that work and exchange vectors.

    slip: the SENDs or RECVs of one exchange are issued a few cycles off their place. shared: two texts for
    all chips, so that chips 2 n and 2 n + 1 exchange with each other over port 1.
    """
    rng = random.Random(seed)
    chip = load_chip("toy_lpu").with_override("core.superlanes", str(rng.choice((1, 2)))).with_override(
        "c2c.queues", "8")
    count = rng.choice((2, 4)) if shared else rng.randrange(2, 5)
    work = [Random(Pad(chip), random.Random(rng.getrandbits(32))) for _ in range(2 if shared else count)]
    starts = [rng.randrange(0, 30) for _ in work]
    taken: dict[tuple[int, int], list[tuple[int, int]]] = {}  # link -> (first, last) cycle of each exchange
    exchanges = rng.randrange(1, 10)
    slipping = rng.randrange(exchanges) if slip else -1
    for n in range(exchanges):
        a, b = rng.sample(range(len(work)), 2)
        exchange(rng, work[a], work[b], a ^ b, starts[b] - starts[a], taken.setdefault((a, b), []), n, n == slipping)
    for piece in work:
        for _ in range(rng.randrange(0, 6)):
            rng.choice((piece.copy, piece.vxm, piece.sxm))(60 + rng.randrange(200))
            piece.commit()
    rows = [(n % len(work), n, starts[n % len(work)], 1, 2, 3) for n in range(count)]  # role k is port k + 1
    return Board([piece.pad for piece in work], rows)


def exchange(rng: random.Random, a: Random, b: Random, port: int, shift: int, taken: list[tuple[int, int]],
             number: int, slip: bool) -> None:
    """READ .. SEND on one chip, RECV .. WRITE on the other, up to 4 vectors. shift: start of b minus a's.

    Exchanges over a link mostly come one after the other, and each has a queue of its own. Either end may
    name its port or the role that the port plays.
    """
    here, there = (rng.choice((port, port, ROLE_PORT + port - 1)) for _ in range(2))
    n, d = rng.randrange(0, 4), rng.randrange(SLOT, SLOT + 4)
    repeat = {"n": n, "d": d} if n else {}
    t = rng.randrange(60, 200)
    span = (t - SLOT, t + n * d + SLOT)
    if any(first < span[1] and span[0] < last for first, last in taken) and rng.random() < 0.8:
        return
    late, off = rng.choice((0, 0, 1, 5, 20)), rng.choice((-2, -1, 1, 2)) if slip else 0
    at_send = off if rng.random() < 0.5 else 0
    stream, column = side(rng)
    a.feed(stream, column, t, **repeat)
    a.issue(t + at_send, f"C2C.{'E' if column > 0 else 'W'}{number % 8}", "SEND", here, stream, **repeat)
    stream, column = side(rng)
    inward = stream ^ WEST
    arrives = t + HOP + late - shift + off - at_send
    b.issue(arrives, f"C2C.{'E' if column > 0 else 'W'}{number % 8}", "RECV", there, inward, **repeat)
    b.drain(inward, column, arrives, **repeat)
    if all(fits(work) for work in (a, b)):
        a.commit()
        b.commit()
        taken.append(span)
    a.plan, b.plan = [], []


def side(rng: random.Random) -> tuple[int, int]:
    """A stream that leads outward to the link column of one hemisphere, and that column."""
    east = rng.random() < 0.5
    return (0 if east else WEST) + rng.randrange(32), LINK_COLUMN if east else -LINK_COLUMN


def fits(work: Random) -> bool:
    """`commit` would take the plan: its issue slots are free."""
    slots = {(queue, cycle) for cycle, queue, *_ in work.plan}
    return len(slots) == len(work.plan) and not slots & work.taken and all(cycle >= 0 for _, cycle in slots)
