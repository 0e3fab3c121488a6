"""Launch costs: the period of small kernels that follow each other."""

from __future__ import annotations

from emulator.chip import Chip
from isa.builder import Kernel
from programs.microbench.build import Run, make_program, run_steps

LAUNCHES = 8
LANE_BYTES = 16
BLOCK = 256


def scale_kernel(width: int = 32) -> Kernel:
    """Parameters: x, y. y = 0.2 x, each lane `width` bits: what a small step of a solver does."""
    k = Kernel(f"scale_{width}", ("x", "y"))
    x, y = k.parameter("x"), k.parameter("y")
    at, lane, cta, warps = k.reg("at"), k.reg("lane"), k.ureg("cta"), k.ureg("warps")
    value = k.reg("value", width // 32)
    k.S2UR(cta, "CTAID")
    k.S2UR(warps, "NWARPS")
    k.UMUL(cta, cta, warps)
    k.UMULI(cta, cta, 32 * width // 8)
    k.UADD(x, x, cta)
    k.UADD(y, y, cta)
    k.S2R(at, "WARPID")
    k.SHL(at, at, 5)
    k.S2R(lane, "LANEID")
    k.OR("s32", at, at, lane)
    k.SHL(at, at, (width // 8).bit_length() - 1)
    k.LDG(width, value, at, x, 0)
    for i in range(width // 32):
        k.MULI("f32", value[i], value[i], 0.2)
    k.STG(width, at, y, 0, value)
    k.EXIT()
    return k


def period(chip: Chip, launch: str, touched: int = 0) -> float:
    """Seconds from one launch to the next of a chain of equal kernels; launch: "graph" or "stream".

    touched: bytes that each kernel reads and writes, half of it each, a multiple of 8192; 0: the smallest
    kernel, one warp. The chain runs twice, and the second time counts.
    """
    half = touched // 2
    if touched:
        one = Run(scale_kernel(128), half // (LANE_BYTES * BLOCK), BLOCK, (0, half))
    else:
        one = Run(scale_kernel(), 1, 32, (0, 128))
    program = make_program(chip, [one] * LAUNCHES, max(touched, 256))
    starts = [kernel["start"] for kernel in run_steps(chip, program, 2, launch)[1].kernels]
    return (starts[-1] - starts[0]) / (LAUNCHES - 1) / chip.clock_hz
