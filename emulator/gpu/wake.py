"""What lets a warp be looked at again: events of the load-store unit, the bulk engine and barriers."""

from __future__ import annotations

from emulator.gpu.layout import (
    H_SM_NEXT,
    SM_WARPS,
    SUB,
    SUB_NEXT,
    SUB_SIZE,
    SUB_WAKE,
    W_PENDING,
    W_PENDING_TIME,
    WARP,
)
from isa.jit import njit


@njit
def wake(S, sm, base, slot, time):
    """Let a warp be looked at again at `time`."""
    s = base + SUB + (slot & 3) * SUB_SIZE
    at = s + SUB_WAKE + (slot >> 2)
    if time < S[at]:
        S[at] = time
    if time < S[s + SUB_NEXT]:
        S[s + SUB_NEXT] = time
    if time < S[H_SM_NEXT + sm]:
        S[H_SM_NEXT + sm] = time


@njit
def settle(S, base, slot, time):
    """One pending load or copy of a warp is complete at `time`."""
    w = base + SM_WARPS + slot * WARP
    S[w + W_PENDING] -= 1
    S[w + W_PENDING_TIME] = max(S[w + W_PENDING_TIME], time)
