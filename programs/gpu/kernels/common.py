"""Pieces that several kernels share: thread numbers, divisions by constants, reductions over lanes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isa.builder import Kernel, Pred, Reg, UReg, immediate_bits

Maker = Callable[[str, tuple[str, ...]], Kernel]  # of a kernel from its name and parameters, or of a part of one
WINDOW = 4096  # bytes an address register reaches through LDGSTS's 12-bit offset
OFFSET_REACH = 32768  # bytes that the 16-bit offset of loads and stores reaches
LOG2_E = 1.4426950408889634


@dataclass
class Thread:
    """Registers that name a thread: lane (0..31), warp and CTA numbers, tid = warp * 32 + lane."""

    lane: Reg
    tid: Reg
    warp: UReg
    cta: UReg


def thread(k: Kernel) -> Thread:
    """Read the special registers."""
    t = Thread(k.reg("lane"), k.reg("tid"), k.ureg("warp"), k.ureg("cta"))
    k.S2R(t.lane, "LANEID")
    k.S2UR(t.warp, "WARPID")
    k.S2UR(t.cta, "CTAID")
    k.S2R(t.tid, "WARPID")
    k.SHL(t.tid, t.tid, 5)
    k.OR("s32", t.tid, t.tid, t.lane)
    return t


def is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def divide(k: Kernel, quotient: Reg, remainder: Reg, value: Reg, divisor: int, limit: int) -> None:
    """quotient, remainder = divmod(value, divisor) in every lane, for 0 <= value < limit.

    quotient and remainder are not value. A division by a constant is a multiplication by
    ceil(2**s / divisor) and a shift; exact while value * divisor < 2**s.
    """
    if is_power_of_two(divisor):
        k.SHR(quotient, value, divisor.bit_length() - 1)
        k.ANDI("s32", remainder, value, divisor - 1)
        return
    shift = (limit * divisor).bit_length()
    factor = -(-(1 << shift) // divisor)
    if limit * factor >= 1 << 32 or shift > 31:
        raise ValueError(f"{k.name}: division of up to {limit} by {divisor} does not fit 32 bits")
    k.MULI("s32", quotient, value, factor)
    k.SHR(quotient, quotient, shift)
    k.MULI("s32", remainder, quotient, -divisor)
    k.ADD("s32", remainder, remainder, value)


def uniform_divide(k: Kernel, quotient: UReg, remainder: UReg, value: UReg, divisor: int, limit: int) -> None:
    """quotient, remainder = divmod(value, divisor) in uniform registers, for 0 <= value < limit < 2**30."""
    if is_power_of_two(divisor):
        k.USHR(quotient, value, divisor.bit_length() - 1)
        k.UANDI(remainder, value, divisor - 1)
        return
    shift = (limit * divisor).bit_length()
    factor = -(-(1 << shift) // divisor)
    if factor >= 1 << 31 or shift > 62:
        raise ValueError(f"{k.name}: division of up to {limit} by {divisor} does not fit")
    k.UMULI(quotient, value, factor)
    k.USHR(quotient, quotient, shift)
    k.UMULI(remainder, quotient, -divisor)
    k.UADD(remainder, remainder, value)


def sum_lanes(k: Kernel, value: Reg, scratch: Reg, masks: tuple[int, ...] = (16, 8, 4, 2, 1)) -> None:
    """value = sum over the lanes that differ in the masks' bits, the same bits in all of them."""
    for mask in masks:
        k.SHFL(scratch, value, mask)
        k.ADD("f32", value, value, scratch)


def max_lanes(k: Kernel, value: Reg, scratch: Reg, masks: tuple[int, ...] = (16, 8, 4, 2, 1)) -> None:
    """value = maximum over the lanes that differ in the masks' bits."""
    for mask in masks:
        k.SHFL(scratch, value, mask)
        k.MAX("f32", value, value, scratch)


def add_offset(k: Kernel, target: UReg, base: UReg, offset: int) -> None:
    """target = base + offset, for offsets past an immediate too (those are multiples of 512 bytes)."""
    if offset < 1 << 31:
        k.UADDI(target, base, offset)
        return
    if offset % 512:
        raise ValueError(f"{k.name}: offset {offset} is no multiple of 512 bytes")
    far = constant(k, "far", offset // 512)
    k.USHL(far, far, 9)
    k.UADD(target, base, far)
    k.free(far)


def scale_offset(k: Kernel, target: UReg, count: UReg, stride: int) -> None:
    """target = count * stride, for strides past an immediate too (those are multiples of 512 bytes)."""
    if stride < 1 << 31:
        k.UMULI(target, count, stride)
        return
    if stride % 512:
        raise ValueError(f"{k.name}: stride {stride} is no multiple of 512 bytes")
    k.UMULI(target, count, stride // 512)
    k.USHL(target, target, 9)


def constant(k: Kernel, name: str, value: int) -> UReg:
    """A uniform register that holds a number."""
    register = k.ureg(name)
    k.UMOVI(register, value)
    return register


def float_constant(k: Kernel, name: str, value: float) -> UReg:
    """A uniform register that holds an fp32 number."""
    bits = immediate_bits(value, True)
    return constant(k, name, bits - ((bits >> 31) << 32))


def below(k: Kernel, value: Reg, limit: int) -> Pred:
    """A predicate: value < limit."""
    predicate = k.pred("below")
    bound = constant(k, "limit", limit)
    k.SETP("LT", "s32", predicate, value, bound)
    k.free(bound)
    return predicate


def reach(k: Kernel, address: Reg, offset: int) -> tuple[Reg, int]:
    """(register, offset) for the address plus offset; far ones take a register and an ADDI."""
    if 0 <= offset < OFFSET_REACH:
        return address, offset
    far = k.reg("far")
    k.ADDI("s32", far, address, offset)
    return far, 0


def skip_idle_warps(k: Kernel, t: Thread, threads: int, label: str) -> None:
    """Warps past the first `threads` threads jump to a label: they would find no work."""
    bound = constant(k, "bound", -(-threads // 32))
    k.UBR("GE", t.warp, bound, label)
    k.free(bound)
