"""Launch costs: the period of small kernels that follow each other, and of passes with a barrier between them."""

from __future__ import annotations

from emulator.chip import Chip
from isa.builder import UZERO, ZERO, Kernel
from programs.microbench.build import Run, make_program, run_steps, spans
from programs.microbench.chase import LINE_BYTES

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


def meeting_kernel() -> Kernel:
    """Parameters: counter, data, passes. Every pass each warp scales its 128 bytes of data, and all CTAs meet.

    To meet, a CTA's first warp adds one to the counter in L2 and polls it until all have; every CTA has to be resident.
    """
    k = Kernel("meeting", ("counter", "data", "passes"))
    counter, data, passes = (k.parameter(name) for name in k.parameters)
    at, value, seen, one = k.reg("at"), k.reg("value"), k.reg("seen"), k.reg("one")
    warp, grid, target, count, n = (k.ureg(name) for name in ("warp", "grid", "target", "count", "n"))
    first = k.pred("first")
    k.S2UR(warp, "WARPID")
    k.S2UR(n, "CTAID")
    k.S2UR(grid, "NWARPS")
    k.UMUL(n, n, grid)
    k.UADD(n, n, warp)
    k.USHL(n, n, 7)
    k.UADD(data, data, n)
    k.S2UR(grid, "NCTAID")
    k.S2R(at, "LANEID")
    k.SETP("EQ", "s32", first, at, ZERO)
    k.SHL(at, at, 2)
    k.MOVI("s32", one, 1)
    k.UMOVI(target, 0)
    k.UMOVI(n, 0)
    k.label("pass")
    k.LDG(32, value, at, data, 0)
    k.MULI("f32", value, value, 0.2)
    k.STG(32, at, data, 0, value)
    k.UADD(target, target, grid)
    k.MEMBAR()
    k.BAR()
    k.UBR("NE", warp, UZERO, "met")
    k.ATOM(seen, ZERO, counter, 0, one, guard=first)
    k.label("poll")
    k.LDCG(32, seen, ZERO, counter, 0)
    k.R2UR(count, seen)
    k.UBR("LT", count, target, "poll")
    k.MEMBAR()
    k.label("met")
    k.BAR()
    k.UADDI(n, n, 1)
    k.UBR("LT", n, passes, "pass")
    k.EXIT()
    return k


def barrier_period(chip: Chip) -> float:
    """Seconds of a pass over 64 KB, shared by all SMs, and a barrier of the grid; one CTA of four warps an SM."""
    kernel, sms = meeting_kernel(), int(chip["core.sms"])
    short, long = 4, 12
    size = 4 * LINE_BYTES * sms  # 66 KB on 132 SMs
    runs = [Run(kernel, sms, 4 * 32, (counter * LINE_BYTES, 2 * LINE_BYTES, passes))
            for counter, passes in enumerate((short, long))]
    before, after = spans(run_steps(chip, make_program(chip, runs, 2 * LINE_BYTES + size))[0])
    return (after - before) / (long - short) / chip.clock_hz
