"""Pointer chases: every load gives the address of the next, so a step lasts one latency.

A chase of n steps lasts c + the sum of its latencies: two chases of different length give the latency of a step
without c (what the kernel needs beside its loads), and chases over A, over B and over A then B give c alone:
T(A) + T(B) - T(AB).
"""

from __future__ import annotations

import numpy as np

from isa.builder import Kernel

LINE_BYTES = 128


def chase_kernel(width: int = 32, lanes: int = 32) -> Kernel:
    """Parameters: base of the ring, first (base of 32-bit offsets where each chain begins, one a lane and warp of
    the grid), steps. Lanes from `lanes` on do nothing. Width: bits of a load; its low word is the next offset."""
    k = Kernel(f"chase_{width}_{lanes}", ("base", "first", "steps"))
    base, first, steps = (k.parameter(name) for name in k.parameters)
    lane, at, value = k.reg("lane"), k.reg("at"), k.reg("value", max(1, width // 32))
    index, warps, step = k.ureg("index"), k.ureg("warps"), k.ureg("step")
    k.S2R(lane, "LANEID")
    k.S2UR(index, "CTAID")
    k.S2UR(warps, "NWARPS")
    k.UMUL(index, index, warps)
    k.S2UR(warps, "WARPID")
    k.UADD(index, index, warps)
    k.USHL(index, index, 7)
    k.UADD(first, first, index)
    k.SHL(at, lane, 2)
    k.LDG(32, value[0], at, first, 0)
    active = k.pred("active")
    limit = k.ureg("limit")
    k.UMOVI(limit, lanes)
    k.SETP("LT", "s32", active, lane, limit)
    k.UMOVI(step, 0)
    k.UBR("GE", step, steps, "end")
    k.label("next")
    k.LDG(width, value, value[0], base, 0, guard=active)
    k.UADDI(step, step, 1)
    k.UBR("LT", step, steps, "next")
    k.label("end")
    k.EXIT()
    return k


def shared_chase_kernel() -> Kernel:
    """Parameter: steps. Shared memory begins as zero: each word holds the offset of the first."""
    k = Kernel("chase_shared", ("steps",))
    steps, step, value = k.parameter("steps"), k.ureg("step"), k.reg("value")
    k.MOVI("s32", value, 0)
    k.UMOVI(step, 0)
    k.label("next")
    k.LDS(32, value, value, 0)
    k.UADDI(step, step, 1)
    k.UBR("LT", step, steps, "next")
    k.EXIT()
    return k


def read_kernel() -> Kernel:
    """Parameters: base, bytes (a multiple of 16 x the CTA's threads). One CTA reads them once, 16 bytes a lane."""
    k = Kernel("read_once", ("base", "bytes"))
    base, size = k.parameter("base"), k.parameter("bytes")
    end, step, at, value = k.ureg("end"), k.ureg("step"), k.reg("at"), k.reg("value", 4)
    k.UADD(end, base, size)
    k.S2UR(step, "NWARPS")
    k.USHL(step, step, 9)
    k.S2R(at, "WARPID")
    k.SHL(at, at, 5)
    lane = k.reg("lane")
    k.S2R(lane, "LANEID")
    k.OR("s32", at, at, lane)
    k.SHL(at, at, 4)
    k.label("next")
    k.LDG(128, value, at, base, 0)
    k.UADD(base, base, step)
    k.UBR("LT", base, end, "next")
    k.EXIT()
    return k


def ring(lines: int, footprint_lines: int, seed: int) -> np.ndarray:
    """Byte offsets of `lines` different lines of a footprint, in random order: int64."""
    generator = np.random.default_rng(seed)
    return generator.permutation(footprint_lines)[:lines] * LINE_BYTES


def link(memory: np.ndarray, order: np.ndarray) -> None:
    """Write a ring into memory (uint8): at each offset of `order` the next one, at the last the first."""
    words = memory.view(np.int32)
    words[order // 4] = np.roll(order, -1)
