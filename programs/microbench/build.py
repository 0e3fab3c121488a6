"""Programs of hand-built kernels: memory, launches in a chain, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emulator.chip import Chip
from emulator.result import StepResult
from emulator.run import load
from isa import builder
from isa.program import GpuImage, GpuText, Kernel, Launch, Program, Source

PAGE = 1 << 21  # phantom memory begins at a multiple of it
CLOSE = 256  # bytes to which data is aligned


@dataclass
class Run:
    """One launch: a kernel with its grid, threads of a CTA, shared bytes and arguments."""

    kernel: builder.Kernel
    grid: int
    block: int
    arguments: tuple[int, ...] = ()
    shared_bytes: int = 0


def make_program(chip: Chip, runs: Sequence[Run], data: np.ndarray | int = CLOSE, phantom_bytes: int = 0) -> Program:
    """A program of these launches, one after the other.

    data: initial global memory from address 0 (uint8), or its size in bytes. phantom_bytes: memory without
    values from `phantom_base` on.
    """
    kernels = list({id(run.kernel): run.kernel for run in runs}.values())
    words = [k.words() for k in kernels]
    table, lines, line_of = [], list[str](), list[int]()
    for k, code in zip(kernels, words, strict=True):
        table.append(Kernel(k.name, len(line_of), len(code), k.registers, k.parameters))
        listing, places = k.listing()
        line_of += [len(lines) + at for at in places]
        lines += listing
    number = {id(k): n for n, k in enumerate(kernels)}
    launches = [Launch(number[id(run.kernel)], run.grid, run.block, run.shared_bytes, tuple(map(int, run.arguments)),
                       (at - 1,) if at else ()) for at, run in enumerate(runs)]
    none = np.full(len(line_of), -1, dtype=np.int32)
    source = Source(np.array(line_of, dtype=np.int32), none, none.astype(np.int16), [], lines)
    image = np.zeros(data, dtype=np.uint8) if isinstance(data, int) else data
    base = phantom_base(image) if phantom_bytes else 0
    return Program(
        dialect="gpu", chip=chip.name, chip_hash=chip.hash,
        texts=[GpuText(np.concatenate(words), table, launches, source)],
        images=[GpuImage(image, base, phantom_bytes)], chips=[(0, 0, ())], tensors={})


def phantom_base(data: np.ndarray | int) -> int:
    """Where phantom memory begins behind these bytes."""
    size = data if isinstance(data, int) else len(data)
    return -(-size // PAGE) * PAGE


def run_steps(chip: Chip, program: Program, steps: int = 1, launch: str = "graph") -> list[StepResult]:
    """The results of `steps` steps of one machine, caches empty at first."""
    machine = load(program, chip, launch=launch)
    return [machine.step() for _ in range(steps)]


def spans(step: StepResult) -> list[int]:
    """Cycles of each launch, from its first CTA's dispatch to its end."""
    return [kernel["end"] - kernel["first_cta"] for kernel in step.kernels]
