"""What the parts of an SM have in common: waking a warp, ending its loads and copies, asking for a line."""

from __future__ import annotations

from emulator.gpu.layout import (
    H_LOG,
    H_LOG_CYCLES,
    H_LOG_USED,
    H_START_OF_WINDOW,
    LOG,
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
def wake(S, base, slot, time):
    """Let a warp be looked at again at `time`."""
    s = base + SUB + (slot & 3) * SUB_SIZE
    at = s + SUB_WAKE + (slot >> 2)
    if time < S[at]:
        S[at] = time
    if time < S[s + SUB_NEXT]:
        S[s + SUB_NEXT] = time


@njit
def settle(S, base, slot, time):
    """One pending load or copy of a warp is complete at `time`."""
    w = base + SM_WARPS + slot * WARP
    S[w + W_PENDING] -= 1
    S[w + W_PENDING_TIME] = max(S[w + W_PENDING_TIME], time)


@njit
def ask(S, sm, t, line, mask, write, tag):
    """Ask the memory system for sectors of a line at cycle t: it hears of it at the end of the window."""
    n = S[H_LOG_USED]
    S[H_LOG_USED] = n + 1
    a = S[H_LOG] + LOG * n
    S[a], S[a + 1], S[a + 2], S[a + 3] = -1, sm << 5 | write << 4 | mask, line, tag
    cycle = S[H_LOG_CYCLES] + 2 * (t - S[H_START_OF_WINDOW])
    if S[cycle] < 0:
        S[cycle] = a
    else:
        S[S[cycle + 1]] = a
    S[cycle + 1] = a
