"""The scoreboard of a warp's registers: when each may be used, and whether it holds poison."""

from __future__ import annotations

import numpy as np

from emulator.gpu.layout import (
    EMPTY,
    H_ERROR_VALUE,
    OK,
    POISON,
    R_FIXED,
    R_GLOBAL,
    R_SHARED,
    W_REGISTERS,
    W_SCORE,
)
from isa.jit import njit

FULL = 0xFFFFFFFF
CLASS_GLOBAL, CLASS_SHARED = R_GLOBAL - R_FIXED, R_SHARED - R_FIXED


@njit
def state_of(S, w, slot):
    """OK, POISON or EMPTY of a scoreboard slot."""
    return (S[w + W_SCORE + slot] >> 2) & 3


@njit
def set_register(S, U, w, register, mask, poison, score_time, kind):
    """Scoreboard of a vector register after a write in the lanes of `mask`.

    A register counts as poison while any lane may be; the lanes of a never-written register that a
    guarded first write leaves out become zero.
    """
    at = w + W_SCORE + register
    old = (S[at] >> 2) & 3
    new = old
    if mask != 0:
        new = POISON if poison or (old == POISON and mask != FULL) else OK
        if old == EMPTY and mask != FULL:
            r0 = S[w + W_REGISTERS] + 32 * register
            for lane in range(32):
                if not (mask >> lane) & 1:
                    U[r0 + lane] = np.uint32(0)
    S[at] = score_time * 16 + new * 4 + kind


@njit
def fail(S, error, value):
    """Note what the error message will say."""
    S[H_ERROR_VALUE] = value
    return error
