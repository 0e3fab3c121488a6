"""How fast the GPU engine is on code that hits L2, L1, shared memory or only its registers.

    python -m tools.bench.bench_gpu

Each kernel runs with 264 CTAs of 8 warps on h100_sxm; values or timing only (its data phantom). Compilation and
the first run, which fills L2, are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from isa.builder import UZERO, ZERO, Kernel
from isa.program import GpuImage, GpuText, Launch, Program, Source
from isa.program import Kernel as KernelRow

SPAN = 8 << 20  # bytes that the CTAs read: a sixth of L2
CTAS, THREADS, SHARED = 264, 256, 40960
WARP_BYTES = 16384  # that a warp reads


def _walk(k: Kernel, phantom: bool, body: Callable[[Any, Any], None]) -> Kernel:
    """A loop in which every warp walks over its 16 KB, 2 KB at a time; body gets the base and 16 x lane."""
    base, end, warp = (k.ureg(name) for name in ("base", "end", "warp"))
    offset = k.reg("offset")
    k.S2UR(base, "CTAID")
    k.UMULI(base, base, WARP_BYTES * THREADS // 32)
    k.UANDI(base, base, SPAN - 1)
    k.S2UR(warp, "WARPID")
    k.UMULI(end, warp, WARP_BYTES)
    k.UADD(base, base, end)
    k.UADDI(base, base, SPAN if phantom else 0)
    k.UADDI(end, base, WARP_BYTES)
    k.S2R(offset, "LANEID")
    k.SHL(offset, offset, 4)
    body(base, offset)
    k.UADDI(base, base, 2048)
    k.UBR("LT", base, end, "loop")
    k.EXIT()
    return k


def loads(phantom: bool) -> Kernel:
    """A dot product as a GEMV has it: four 16-byte loads a lane from L2, 32 conversions and 32 FMAs."""
    k = Kernel("loads")

    def body(base: Any, offset: Any) -> None:
        sums, data, value = k.reg("sums", 4), [k.reg(f"data{i}", 4) for i in range(4)], k.reg("value")
        for i in range(4):
            k.MOVI("f32", sums[i], 0.0)
        k.label("loop")
        for i in range(4):
            k.LDG(128, data[i], offset, base, 512 * i)
        for i in range(32):
            k.UNPACK("bf16", value, data[i // 8][i // 2 % 4], i % 2)
            k.FMA("f32", sums[i % 4], value, value, sums[i % 4])

    return _walk(k, phantom, body)


def copies(phantom: bool) -> Kernel:
    """A tensor-core loop: 16-byte asynchronous copies from L2, fragments from shared memory, MMA."""
    k = Kernel("copies")

    def body(base: Any, offset: Any) -> None:
        to, sums = k.reg("to"), k.reg("sums", 4)
        a, b = k.reg("a", 4), k.reg("b", 4)
        k.S2R(to, "WARPID")
        k.MULI("s32", to, to, 4096)
        k.ADD("s32", to, to, offset)
        for i in range(4):
            k.MOVI("f32", sums[i], 0.0)
        k.label("loop")
        for i in range(4):
            k.LDGSTS(to, 512 * i, offset, base, 512 * i)
        k.CPCOMMIT()
        k.CPWAIT(1)
        for i in range(2):
            k.LDSM(4, 0, a, to, 512 * i)
            k.LDSM(4, 0, b, to, 1024 + 512 * i)
            for half in range(2):
                k.MMA("bf16", sums, a, b.part(2 * half, 2), sums)

    return _walk(k, phantom, body)


def arithmetic(phantom: bool) -> Kernel:
    """Registers only: 16 FMAs, 4 additions of integers, a counter, a branch."""
    k = Kernel("arithmetic")
    r = [k.reg(f"r{i}") for i in range(8)]
    counter, base = k.ureg("counter"), k.ureg("base")
    k.UMOVI(counter, 100)
    k.UMOVI(base, SPAN if phantom else 0)
    for one in r:
        k.LDG(32, one, ZERO, base, 0)
    k.label("loop")
    for i in range(16):
        k.FMA("f32", r[i % 8], r[i % 8], r[(i + 1) % 8], r[(i + 2) % 8])
    for i in range(4):
        k.ADDI("s32", r[i], r[i], 3)
    k.UADDI(counter, counter, -1)
    k.UBR("GT", counter, UZERO, "loop")
    k.EXIT()
    return k


def machine(kernel: Kernel, phantom: bool) -> Any:
    """h100_sxm with one launch of the kernel in its memory."""
    from emulator.chip import load_chip
    from emulator.gpu.machine import GpuMachine

    chip = load_chip("h100_sxm")
    words = kernel.words()
    none = np.full(len(words), -1, dtype=np.int32)
    text = GpuText(words, [KernelRow(kernel.name, 0, kernel.count, kernel.registers, ())],
                   [Launch(0, CTAS, THREADS, SHARED)], Source(none, none.copy(), none.astype(np.int16)))
    image = GpuImage(np.zeros(4096 if phantom else SPAN, dtype=np.uint8), *((SPAN, SPAN) if phantom else (0, 0)))
    return GpuMachine(Program("gpu", chip.name, chip.hash, [text], [image], [(0, 0, ())], {}), chip)


def instructions(kernel: Callable[[bool], Kernel], phantom: bool) -> Callable[[], int]:
    """A step of the kernel that gives its warp instructions."""
    gpu = machine(kernel(phantom), phantom)

    def work() -> int:
        return int(gpu.step().counters["warp_instructions"])

    return work


def main() -> None:
    """Print the rates."""
    from tools import console
    from tools.bench.engines import clock

    for kernel in (arithmetic, loads, copies):
        for phantom in (True, False):
            rate = clock(instructions(kernel, phantom), 1.0)
            console.data(f"{kernel.__name__:10} {'timing' if phantom else 'values'} {rate / 1e6:6.2f} M instructions/s")


if __name__ == "__main__":
    main()
