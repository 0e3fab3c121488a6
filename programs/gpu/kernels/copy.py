"""Rows copied by a kernel of their own, as tensor libraries do it where a layout has to change."""

from __future__ import annotations

from isa.builder import Kernel
from programs.gpu.kernels.common import constant, thread

WARPS = 4
UNROLL = 4  # 4-byte words a thread
CTA_BYTES = 4 * 32 * WARPS * UNROLL


def copy_kernel(name: str, size: int) -> Kernel:
    """The first `size` bytes of `source` to `target`, 4 bytes a thread and instruction. size: a multiple of 4."""
    k = Kernel(name, ("source", "target"))
    t = thread(k)
    source, target, at = k.parameter("source"), k.parameter("target"), k.ureg("at")
    k.UMULI(at, t.cta, CTA_BYTES)
    k.UADD(source, source, at)
    k.UADD(target, target, at)
    limit = constant(k, "limit", size)
    k.USUB(limit, limit, at)
    offset, values = k.reg("offset"), [k.reg(f"value{i}") for i in range(UNROLL)]
    k.SHL(offset, t.tid, 2)
    exists = [k.pred(f"exists{i}") for i in range(UNROLL)]
    number = k.reg("number")
    for i, value in enumerate(values):
        k.ADDI("s32", number, offset, 128 * WARPS * i)
        k.SETP("LT", "s32", exists[i], number, limit)
        k.LDG(32, value, offset, source, 128 * WARPS * i, guard=exists[i])
    for i, value in enumerate(values):
        k.STG(32, offset, target, 128 * WARPS * i, value, guard=exists[i])
    k.EXIT()
    return k
