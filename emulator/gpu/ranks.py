"""GPUs that do the same at the same time: the ranks of a tensor-parallel group.

Rank r finds the memory of rank r XOR d in a window of its addresses, distance << PEER_AT | local address, with
d = 1 .. ranks - 1: kernels name distances and never ranks, so that all ranks share one text. A peer can be read
(LDG, LDCG, ULDG, LDGSTS, BULK) and written (STG), but not added to (ATOM). What is stored there lands when it has
crossed the link; until then LDCG finds what was there before. So a flag is an STG to a peer, and a loop of LDCG
over one's own memory.

Ranks must behave alike: the same kernels, addresses and control flow, whatever their values. Then one of them takes
the time of all, as each request to a peer has its mirror image (emulator/gpu/nvlink.py), and so

* a timing-only program with N rows in `program.chips` runs rank 0 alone; in its peers' windows it finds its own
  memory, which has the same real contents or is phantom;
* with values all ranks run side by side, a window of cycles after the other; that they take the same cycles is
  checked, and AsymmetryError raised when they do not.

`GpuMachine(program, chip)` does this for a program of N rows, all of the same text, whose images have the same size,
the same phantom range, and every tensor at the same address. `machine.write(name, array)` writes to every rank,
`machine.write(name, array, rank=r)` to one; `machine.read(name, rank=0)`. Counters, traffic and accounting of a step
are those of all ranks together, each as much as rank 0. Traffic level `nvlink` is what the GPUs send, headers
included.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.chip import Chip
from emulator.gpu.errors import LaunchError
from emulator.gpu.launch import FastEngine, KernelRun, Shape
from emulator.gpu.timing import Timing
from isa.program import GpuImage, GpuText, Launch, Program


class AsymmetryError(RuntimeError):
    """Ranks that should do the same did not."""


def check_ranks(program: Program, chip: Chip) -> list[GpuImage]:
    """The memory image of each rank. Raises LaunchError for ranks that cannot do the same."""
    ranks, most = len(program.chips), int(chip["nvlink.gpus"])
    if ranks > most or ranks & (ranks - 1):
        raise LaunchError(f"the program is for {ranks} GPUs; {chip.name} works in groups of a power of two, up to the "
                          f"{most} of a node")
    images = [image for _, number, _ in program.chips if isinstance(image := program.images[number], GpuImage)]
    first = images[0]
    if len({text for text, _, _ in program.chips}) > 1:
        raise LaunchError("all GPUs of a program must have the same text")
    if any((len(image.data), image.phantom_base, image.phantom_bytes)
           != (len(first.data), first.phantom_base, first.phantom_bytes) for image in images):
        raise LaunchError("the memory images of a program's GPUs must have the same size and phantom range")
    return images


def make_engines(engine: str, chip: Chip, timing: Timing, text: GpuText, kernels: list[Any], images: list[GpuImage],
                 together: bool) -> list[Any]:
    """The engines of a group's ranks. together: all of them, side by side; else rank 0 stands for all."""
    ranks = len(images)
    phantom = (images[0].phantom_base, images[0].phantom_base + images[0].phantom_bytes)
    data = [np.asarray(image.data, dtype=np.uint8) for image in images]
    if engine == "naive":
        from emulator.gpu.naive import NaiveEngine

        group = [NaiveEngine(chip, timing, text, kernels, data[rank], phantom, ranks)
                 for rank in range(ranks if together else 1)]
        for rank, one in enumerate(group):
            one.rank, one.group = rank, group
        return group
    if ranks == 1 or not together:
        return [FastEngine(chip, timing, text, kernels, data[0], phantom, ranks)]
    from emulator.gpu.layout import U_DATA, rank_words
    from emulator.host_memory import zeros

    lanes = zeros(U_DATA + ranks * rank_words(timing, len(data[0]), ranks)[0], np.uint32)
    return [FastEngine(chip, timing, text, kernels, data[rank], phantom, ranks, rank, lanes) for rank in range(ranks)]


def run_launch(engines: list[Any], number: int, launch: Launch, shape: Shape, gap: int) -> KernelRun:
    """One launch to its end, on every engine: rank 0's run. Raises MachineError, and AsymmetryError."""
    for engine in engines:
        engine.begin(number, launch, shape, gap)
    alone = len(engines) == 1
    while True:
        if alone:
            over = engines[0].go_on()
        else:  # nothing that one does in a window reaches another before its end
            over = [engine.go_on(1) for engine in engines]
            times = [engine.now for engine in engines]
            if len(set(over)) > 1 or len(set(times)) > 1:
                raise AsymmetryError(f"launch {number}: the GPUs are not at the same cycle any more, but at {times}")
            over = over[0]
        if over:
            break
    return [engine.finish() for engine in engines][0]
