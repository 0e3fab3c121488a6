"""Streams: all SMs read and write memory without values, 16 bytes a lane at a time.

Memory is dealt out in chunks of BLOCK threads x UNROLL x 16 bytes; CTA c of n takes chunks c, c + n, c + 2 n, ...
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.chip import Chip
from isa.builder import Kernel, Reg, UReg
from programs.microbench.build import Run, make_program, run_steps, spans

BLOCK, UNROLL = 256, 4
CHUNK_BYTES = BLOCK * UNROLL * 16
ROW_BYTES = BLOCK * 16  # of one load of the CTA
WORDS = 4 * UNROLL  # registers of a chunk in a lane


def place(k: Kernel, chunk_stride: int) -> tuple[Reg, UReg, UReg]:
    """(offset of the lane in a chunk, offset of the CTA's first chunk, what takes it to its next)."""
    at, lane, first, step = k.reg("at"), k.reg("lane"), k.ureg("first"), k.ureg("step")
    k.S2R(at, "WARPID")
    k.SHL(at, at, 5)
    k.S2R(lane, "LANEID")
    k.OR("s32", at, at, lane)
    k.SHL(at, at, 4)
    k.free(lane)
    k.S2UR(first, "CTAID")
    k.UMULI(first, first, CHUNK_BYTES)
    if chunk_stride:
        k.UMOVI(step, chunk_stride * CHUNK_BYTES)
    else:
        k.S2UR(step, "NCTAID")
        k.UMULI(step, step, CHUNK_BYTES)
    return at, first, step


def load_chunk(k: Kernel, values: Reg, at: Reg, base: UReg) -> None:
    for u in range(UNROLL):
        k.LDG(128, values.part(4 * u, 4), at, base, u * ROW_BYTES)


def store_chunk(k: Kernel, values: Reg, at: Reg, base: UReg) -> None:
    for u in range(UNROLL):
        k.STG(128, at, base, u * ROW_BYTES, values.part(4 * u, 4))


def dot_kernel() -> Kernel:
    """Parameters: a, b, end of a. Sums a x b; every lane keeps its own four sums."""
    k = Kernel("dot", ("a", "b", "end"))
    a, b, end = (k.parameter(name) for name in k.parameters)
    at, first, step = place(k, 0)
    x, y, total = k.reg("x", WORDS), k.reg("y", WORDS), k.reg("total", 4)
    for i in range(4):
        k.MOVI("f32", total[i], 0.0)
    k.UADD(a, a, first)
    k.UADD(b, b, first)
    k.UBR("GE", a, end, "end")
    k.label("next")
    load_chunk(k, x, at, a)
    load_chunk(k, y, at, b)
    for i in range(WORDS):
        k.FMA("f32", total[i % 4], x[i], y[i], total[i % 4])
    k.UADD(a, a, step)
    k.UADD(b, b, step)
    k.UBR("LT", a, end, "next")
    k.label("end")
    k.EXIT()
    return k


def copy_kernel() -> Kernel:
    """Parameters: a, b, end of a. b = a."""
    k = Kernel("copy", ("a", "b", "end"))
    a, b, end = (k.parameter(name) for name in k.parameters)
    at, first, step = place(k, 0)
    x = k.reg("x", WORDS)
    k.UADD(a, a, first)
    k.UADD(b, b, first)
    k.UBR("GE", a, end, "end")
    k.label("next")
    load_chunk(k, x, at, a)
    store_chunk(k, x, at, b)
    k.UADD(a, a, step)
    k.UADD(b, b, step)
    k.UBR("LT", a, end, "next")
    k.label("end")
    k.EXIT()
    return k


def triad_kernel() -> Kernel:
    """Parameters: a, b, c, end of b. a = b + 3 c."""
    k = Kernel("triad", ("a", "b", "c", "end"))
    a, b, c, end = (k.parameter(name) for name in k.parameters)
    at, first, step = place(k, 0)
    x, y, scale = k.reg("x", WORDS), k.reg("y", WORDS), k.reg("scale")
    k.MOVI("f32", scale, 3.0)
    for base in (a, b, c):
        k.UADD(base, base, first)
    k.UBR("GE", b, end, "end")
    k.label("next")
    load_chunk(k, x, at, b)
    load_chunk(k, y, at, c)
    for i in range(WORDS):
        k.FMA("f32", x[i], y[i], scale, x[i])
    store_chunk(k, x, at, a)
    for base in (a, b, c):
        k.UADD(base, base, step)
    k.UBR("LT", b, end, "next")
    k.label("end")
    k.EXIT()
    return k


def shared_read_kernel(chunk_stride: int) -> Kernel:
    """Parameters: base, bytes of the footprint, rounds. Every round a CTA reads one chunk; its next is `chunk_stride`
    chunks further, around the footprint, so that CTAs meet other chunks each round and L1 does not help."""
    k = Kernel("read_around", ("base", "bytes", "rounds"))
    base, size, rounds = (k.parameter(name) for name in k.parameters)
    at, first, step = place(k, chunk_stride)
    x, address, n = k.reg("x", WORDS), k.ureg("address"), k.ureg("n")
    k.UMOVI(n, 0)
    k.label("wrap")
    k.UBR("LT", first, size, "next")
    k.USUB(first, first, size)
    k.BRA("wrap")
    k.label("next")
    k.UADD(address, base, first)
    load_chunk(k, x, at, address)
    k.UADD(first, first, step)
    k.UADDI(n, n, 1)
    k.UBR("LT", n, rounds, "wrap")
    k.EXIT()
    return k


@dataclass(frozen=True)
class Rate:
    """Bytes moved and the cycles that they took."""

    bytes: int
    cycles: int

    def per_second(self, chip: Chip) -> float:
        return self.bytes * chip.clock_hz / self.cycles


def ctas(chip: Chip) -> int:
    """CTAs that fill the chip's warps."""
    return int(chip["core.sms"] * (chip["sm.max_warps"] // (BLOCK // 32)))


ARRAYS = {"read": 2, "copy": 2, "triad": 3}


def dram_rate(chip: Chip, what: str, array_bytes: int) -> Rate:
    """The rate of "read" (dot), "copy" or "triad" over arrays that L2 does not hold, bytes as the program counts them.

    Two launches, the second over twice as much: their difference is free of start and end. Before them a
    launch fills L2 with what such a kernel leaves behind, so that written lines leave L2 as fast as new ones enter.
    """
    kernel = {"read": dot_kernel, "copy": copy_kernel, "triad": triad_kernel}[what]()
    arrays, grid = ARRAYS[what], ctas(chip)
    pitch = -(-2 * array_bytes // (1 << 21)) * (1 << 21)
    start = 1 << 21

    def launch(place: int, size: int) -> Run:
        """place: the how manieth set of arrays."""
        bases = [start + (place * arrays + n) * pitch for n in range(arrays)]
        end = bases[1 if what == "triad" else 0] + size
        return Run(kernel, grid, BLOCK, (*bases, end))

    runs = [launch(0, 2 * array_bytes), launch(1, array_bytes), launch(2, 2 * array_bytes)]
    program = make_program(chip, runs, 256, 3 * arrays * pitch + start)
    _, short, long = spans(run_steps(chip, program)[0])
    return Rate(arrays * array_bytes, long - short)


def l2_rate(chip: Chip, footprint: int, rounds: int = 8) -> Rate:
    """Reads of all SMs from an L2 that holds the footprint (a multiple of CHUNK_BYTES): bytes that L2 served."""
    kernel = shared_read_kernel(331)
    grid = ctas(chip)
    runs = [Run(kernel, grid, BLOCK, (1 << 21, footprint, n)) for n in (4, 2, 2 + rounds)]
    step = run_steps(chip, make_program(chip, runs, 256, footprint))[0]
    _, short, long = step.kernels
    moved = long["traffic"]["l2_read"] - short["traffic"]["l2_read"]
    _, before, after = spans(step)
    return Rate(moved, after - before)
