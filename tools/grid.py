"""Units x cycles in the terminal: which instruction each unit issued in each cycle of a window."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from isa.opcodes import BY_CODE

if TYPE_CHECKING:
    from emulator.chip import Chip
    from emulator.run import Machine
    from isa.program import Program

SUB_CORES = 4  # of an SM
COLUMNS = 100  # cycles side by side
CYCLES_MAX = 2000  # longer windows are refused: nobody reads them


@dataclass
class Events:
    """What was issued in a window: parallel arrays of unit number, cycle and opcode."""

    names: Sequence[str]  # of the units
    unit: np.ndarray
    cycle: np.ndarray
    opcode: np.ndarray
    first: int = 0  # cycle of the program's first issue, in the window or not


def check_window(window: tuple[int, int]) -> None:
    """Raise ValueError for a window that is too long to print."""
    if window[1] - window[0] > CYCLES_MAX:
        raise ValueError(f"--grid {window[0]}:{window[1]}: at most {CYCLES_MAX} cycles can be printed")


def lpu_events(program: Program, chip: Chip) -> Events:
    """Issues of an LPU program, read off its queues."""
    from emulator.lpu.geometry import geometry
    from emulator.lpu.replay import issues
    from isa.program import LpuText

    text = program.texts[0]
    assert isinstance(text, LpuText)
    found = issues(text, chip)
    first = int(found.cycle.min()) if len(found.cycle) else 0
    return Events(geometry(chip).queue_names, found.queue, found.cycle, found.opcode, first)


def record(machine: Machine, window: tuple[int, int]) -> Callable[[], Events]:
    """Arrange that what a machine's next steps issue is recorded; call the result after them.

    An LPU's schedule is read off its program. A GPU is run event by event and looked at in between,
    which changes no cycle.
    """
    if machine.program.dialect == "lpu":
        return lambda: lpu_events(machine.program, machine.chip)
    return GpuRecorder(machine, window).events


class GpuRecorder:
    """Watches a GPU's fast engine from outside: which sub-core issued which instruction in which cycle."""

    def __init__(self, machine: Any, window: tuple[int, int]) -> None:
        from emulator.gpu.launch import FastEngine

        self.engine, self.window = machine.engine, window
        if not isinstance(self.engine, FastEngine):
            raise ValueError("--grid shows what the fast engine issues; leave --engine naive out")
        self.kernels = machine.kernels
        self.start = self.engine.now
        self.found: list[tuple[int, int, int]] = []  # unit, cycle, opcode
        self.first: int | None = None
        self.steps: int | None = 1  # cycles that all GPUs of a group run at a time; None: as many as they like
        self.originals = [one.advance for one in machine.engines]
        for one, original in zip(machine.engines[1:], self.originals[1:]):
            one.advance = partial(self.keep_up, original)
        self.machine, self.original = machine, self.originals[0]
        self.engine.advance = self.advance  # type: ignore[method-assign, assignment]

    def keep_up(self, original: Callable[..., int], kernel: int, windows: int) -> int:
        """FastEngine.advance of a GPU beside the one that is watched: as far as that one went."""
        return int(original(kernel, windows, self.steps))

    def advance(self, kernel: int, windows: int) -> int:
        """FastEngine.advance for one cycle in which something happens, writing down what was issued in it."""
        engine, y = self.engine, self.engine.layout
        cycle = engine.now - self.start
        if cycle >= self.window[1] and self.first is not None:
            self.steps = None
            return int(self.original(kernel, windows))
        busy = engine.subs[:, :, y.SUB_REASONS].copy()
        warps = engine.blocks[:, y.SM_WARPS : y.SM_WARPS + y.WARP * y.MAX_WARPS].reshape(len(busy), y.MAX_WARPS, y.WARP)
        counters = warps[:, :, y.W_PC].copy()
        outcome = int(self.original(kernel, 1, 1))
        for sm, sub in np.argwhere(engine.subs[:, :, y.SUB_REASONS] != busy).tolist():
            if self.first is None:
                self.first = cycle
            if self.window[0] <= cycle < self.window[1]:
                warp = int(engine.subs[sm, sub, y.SUB_LAST]) * SUB_CORES + sub
                instruction = self.kernels[kernel][int(counters[sm, warp])]
                self.found.append((sm * SUB_CORES + sub, cycle, instruction.op.code))
        return outcome

    def events(self) -> Events:
        """What was recorded; the engine runs unwatched again."""
        for one, original in zip(self.machine.engines, self.originals):
            one.advance = original
        names = [f"SM{sm}.{sub}" for sm in range(len(self.engine.subs)) for sub in range(SUB_CORES)]
        columns = np.array(self.found, dtype=np.int64).reshape(-1, 3)
        return Events(names, columns[:, 0], columns[:, 1], columns[:, 2], self.first or 0)


def letters(opcodes: Sequence[int]) -> dict[int, str]:
    """One character an opcode: a letter of its name that no earlier one took."""
    taken: dict[int, str] = {}
    for number in sorted(opcodes):
        name = BY_CODE[number].name
        choices = name + name.lower() + "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
        taken[number] = next(c for c in choices if c not in taken.values())
    return taken


def render(events: Events, window: tuple[int, int]) -> str:
    """The window as text: one row a unit that issued something, one column a cycle, equal rows merged."""
    first, end = window
    inside = (events.cycle >= first) & (events.cycle < end)
    unit, cycle, opcode = events.unit[inside], events.cycle[inside], events.opcode[inside]
    if not len(unit):
        return f"cycles {first} to {end - 1}: nothing is issued; the first instruction is in cycle {events.first}"
    named = letters(sorted(set(opcode.tolist())))
    grid: dict[int, list[str]] = {}
    for u, t, o in zip(unit.tolist(), cycle.tolist(), opcode.tolist()):
        grid.setdefault(u, ["."] * (end - first))[t - first] = named[o]
    rows = merged([(events.names[u], "".join(grid[u])) for u in sorted(grid)])
    width = max(len(name) for name, _ in rows)
    lines = []
    for start in range(0, end - first, COLUMNS):
        part = range(start, min(start + COLUMNS, end - first))
        shown = [(name, cells[part.start : part.stop]) for name, cells in rows]
        shown = [(name, cells) for name, cells in shown if cells.strip(".")]
        if shown:
            lines.append(" " * width + "  " + ruler(first + part.start, len(part)))
            lines += [f"{name:<{width}}  {cells}" for name, cells in shown]
        else:
            lines.append(f"nothing is issued from cycle {first + part.start} to {first + part.stop - 1}")
        lines.append("")
    legend = "  ".join(f"{letter} {BY_CODE[number].name}" for number, letter in named.items())
    return "\n".join([*lines, f"{legend}  . nothing issued"])


def ruler(first: int, count: int) -> str:
    """Cycle numbers above their columns, one every ten cycles."""
    line = [" "] * (count + 8)
    for at in range(-first % 10, count, 10):
        line[at : at + len(str(first + at))] = str(first + at)
    return "".join(line).rstrip()


def merged(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbouring units with equal rows become one row: MEM.E3, MEM.E4, MEM.E5 -> MEM.E3..MEM.E5."""
    found: list[tuple[str, str, str]] = []  # first name, last name, cells
    for name, cells in rows:
        if found and found[-1][2] == cells and follows(found[-1][1], name):
            found[-1] = (found[-1][0], name, cells)
        else:
            found.append((name, name, cells))
    return [(first if first == last else f"{first}..{last}", cells) for first, last, cells in found]


def follows(name: str, following: str) -> bool:
    """Whether two names differ in one number only, by one: MEM.E3 and MEM.E4, SM7.0 and SM8.0."""
    if re.sub(r"[0-9]+", "#", name) != re.sub(r"[0-9]+", "#", following):
        return False
    steps = [int(b) - int(a) for a, b in zip(re.findall(r"[0-9]+", name), re.findall(r"[0-9]+", following))]
    return sorted(steps)[-1:] == [1] and sum(map(abs, steps)) == 1
