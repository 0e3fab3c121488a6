"""Bulk copies: the latency of one, and the rate of one at a time and CTA by its size."""

from __future__ import annotations

from emulator.chip import Chip
from isa.builder import Kernel
from programs.microbench.build import Run, make_program, run_steps, spans
from programs.microbench.chase import LINE_BYTES

BARRIER_BYTES = 16  # of shared memory, in front of the tile; tiles are aligned to as much
SHORT, LONG = 16, 144  # copies of the two launches whose difference counts
FEW, MORE, MORE_BYTES = 8, 24, 1 << 17  # the same where all SMs copy: at least so many, or so many bytes, more
FOOTPRINT = 1 << 28  # bytes that a launch goes round in, a power of two; two launches have their own
STEP_LINES = 40503  # odd: a walk of so many lines at a time meets every line of the footprint
BASE = 1 << 21


def bulk_kernel() -> Kernel:
    """Parameters: base, bytes of a tile, step, copies. One warp a CTA copies a tile, waits for it, and goes on.

    Tile i of CTA c is at base + (c x bytes + i x step) modulo FOOTPRINT.
    """
    k = Kernel("bulk", ("base", "bytes", "step", "copies"))
    base, size, step, copies = (k.parameter(name) for name in k.parameters)
    bar, tile, at, address, n = (k.ureg(name) for name in ("bar", "tile", "at", "address", "n"))
    k.UMOVI(bar, 0)
    k.UMOVI(tile, BARRIER_BYTES)
    k.UMOVI(n, 0)
    k.MBINIT(bar, 0, 1)
    k.S2UR(at, "CTAID")
    k.UMUL(at, at, size)
    k.UADD(address, base, at)
    k.label("next")
    k.MBARRIVE(bar, 0, size)
    k.BULK(tile, address, 0, size, bar, 0)
    k.UADD(at, at, step)
    k.UANDI(at, at, FOOTPRINT - 1)
    k.UADD(address, base, at)
    k.MBWAIT(bar, 0, n)
    k.UADDI(n, n, 1)
    k.UBR("LT", n, copies, "next")
    k.EXIT()
    return k


def _difference(chip: Chip, runs: list[Run]) -> int:
    before, after = spans(run_steps(chip, make_program(chip, runs, 256, 2 * FOOTPRINT))[0])[-2:]
    return after - before


def bulk_latency(chip: Chip, cold: bool) -> float:
    """Cycles of a copy of one line by one warp that waits for it; cold: every line from DRAM, else one line from L2."""
    kernel = bulk_kernel()
    step = STEP_LINES * LINE_BYTES if cold else 0

    def launch(copies: int) -> Run:
        return Run(kernel, 1, 32, (BASE + copies * LINE_BYTES * cold, LINE_BYTES, step, copies),
                   BARRIER_BYTES + LINE_BYTES)

    return _difference(chip, [launch(n) for n in (4, SHORT, LONG)]) / (LONG - SHORT)


def bulk_rate(chip: Chip, tile: int, ctas: int) -> float:
    """Bytes a second while `ctas` CTAs an SM copy tiles from DRAM, one at a time each."""
    kernel, grid = bulk_kernel(), int(chip["core.sms"]) * ctas
    more = max(MORE, MORE_BYTES // tile)
    cycles = _difference(chip, [
        Run(kernel, grid, 32, (BASE + place * FOOTPRINT, tile, tile * grid, copies), BARRIER_BYTES + tile)
        for place, copies in enumerate((FEW, FEW + more))])
    return tile * grid * more * chip.clock_hz / cycles
