"""Latencies, in SM cycles, measured by chases on an emulated GPU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.chip import Chip
from programs.microbench.build import Run, make_program, run_steps, spans
from programs.microbench.chase import LINE_BYTES, chase_kernel, link, read_kernel, ring, shared_chase_kernel

READERS = 512  # threads of the CTA that reads a footprint beforehand
READ_BYTES = 16 * READERS
SHORT, LONG = 64, 576  # steps of the two chases whose difference counts
DRAM_FOOTPRINT = 1 << 28  # bytes: far beyond every L2
DISTRIBUTION_LOADS = 1000


@dataclass(frozen=True)
class Spread:
    """A distribution of latencies in cycles."""

    p10: float
    p50: float
    p90: float
    p99: float
    mean: float


def l2_bytes(chip: Chip) -> int:
    """Bytes that the L2 holds."""
    return int(chip["l2.slices"] * chip["l2.sets"] * chip["l2.ways"]) * LINE_BYTES


def slope(chip: Chip, runs: list[Run], data: np.ndarray | int, steps: int) -> float:
    """Cycles a step by which the last launch exceeds the one before it; `steps` is how many more it has."""
    before, after = spans(run_steps(chip, make_program(chip, runs, data))[0])[-2:]
    return (after - before) / steps


def l1_latency(chip: Chip, width: int) -> float:
    """Cycles of a load of `width` bits that hits L1: a ring of four lines, so all but the first four steps hit.

    L1 is empty when a kernel begins: a chase before the two that count puts the lines into L2.
    """
    memory = np.zeros(5 * LINE_BYTES, dtype=np.uint8)
    link(memory, ring(4, 4, 1))
    kernel = chase_kernel(width)
    return slope(chip, [Run(kernel, 1, 32, (0, 4 * LINE_BYTES, n)) for n in (4, SHORT, LONG)], memory, LONG - SHORT)


def shared_latency(chip: Chip) -> float:
    """Cycles of a 32-bit load from shared memory."""
    kernel = shared_chase_kernel()
    return slope(chip, [Run(kernel, 1, 32, (n,), 1024) for n in (SHORT, LONG)], 256, LONG - SHORT)


def l2_latency(chip: Chip, footprint: int) -> float:
    """Mean cycles of a chase around all lines of a footprint in random order, after it has been around once.

    footprint: bytes, a multiple of 8192. No line is met twice in a launch, so none hits L1.
    """
    memory = np.zeros(footprint + READ_BYTES, dtype=np.uint8)
    lines = footprint // LINE_BYTES
    order = ring(lines, lines, 2)
    link(memory[:footprint], order)
    starts = memory[footprint:].view(np.int32)
    starts[:32], starts[32:64] = order[0], order[SHORT]
    chase = chase_kernel(lanes=1)
    turns = ((LINE_BYTES, 0), (0, lines), (0, SHORT), (LINE_BYTES, LONG))  # the first brings a start into L2
    runs = [Run(chase, 1, 32, (0, footprint + at, steps)) for at, steps in turns]
    return slope(chip, runs, memory, LONG - SHORT)


def dram_distribution(chip: Chip, loads: int = DISTRIBUTION_LOADS) -> Spread:
    """Latencies of single loads to random lines of a large footprint, each by a kernel of its own."""
    memory = np.zeros(DRAM_FOOTPRINT + READ_BYTES, dtype=np.uint8)
    start = DRAM_FOOTPRINT
    near = start + 1024
    memory.view(np.int32)[near // 4] = LINE_BYTES  # the chase over A, then B
    kernel, read = chase_kernel(lanes=1), read_kernel()

    def chase(base: int, steps: int) -> Run:
        return Run(kernel, 1, 32, (base, start, steps))

    order = ring(loads, DRAM_FOOTPRINT // LINE_BYTES, 3)
    runs = [Run(read, 1, READERS, (start, READ_BYTES))] * 2
    runs += [chase(near, 1), chase(near + LINE_BYTES, 1), chase(near, 2)]
    runs += [chase(at, 1) for at in order]
    found = spans(run_steps(chip, make_program(chip, runs, memory))[0])[2:]
    rest = found[0] + found[1] - found[2]
    latencies = np.array(found[3:]) - rest
    p10, p50, p90, p99 = (float(v) for v in np.percentile(latencies, (10, 50, 90, 99)))
    return Spread(p10, p50, p90, p99, float(latencies.mean()))


def loaded_latency(chip: Chip, warps: int, lanes: int, steps: int = 20) -> float:
    """Cycles a step while every SM runs `warps` warps of `lanes` random chains each, all over DRAM."""
    chains = int(chip["core.sms"]) * warps
    short = 4
    order = ring(chains * lanes * (2 * short + steps), DRAM_FOOTPRINT // LINE_BYTES, 4)
    table = chains * LINE_BYTES
    memory = np.zeros(DRAM_FOOTPRINT + 2 * table + READ_BYTES, dtype=np.uint8)
    at, runs = 0, []
    kernel, read = chase_kernel(lanes=lanes), read_kernel()
    reads = -(-2 * table // READ_BYTES) * READ_BYTES
    runs = [Run(read, 1, READERS, (DRAM_FOOTPRINT, reads))]
    for part, length in enumerate((short, short + steps)):
        count = chains * lanes * length
        rows = order[at : at + count].reshape(-1, length)  # a chain a row
        at += count
        memory[:DRAM_FOOTPRINT].view(np.int32)[rows // 4] = np.roll(rows, -1, axis=1)
        first = DRAM_FOOTPRINT + part * table
        starts = memory[first : first + table].view(np.int32).reshape(chains, 32)
        starts[:, :lanes] = rows[:, 0].reshape(chains, lanes)
        runs.append(Run(kernel, int(chip["core.sms"]), 32 * warps, (0, first, length)))
    return slope(chip, runs, memory, steps)
