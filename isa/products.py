"""Matrix products of both machines, as compiled functions. Arrays are flat; offsets are elements.

    mxm_install_f16(RAW, r0, TILE, t0, rows, lanes)     loaded weights -> the form the product reads
    mxm_install_s8(RAW, r0, TILE, t0, rows, lanes)      (once an IW, not once a product)
        RAW: uint16 (f16) or uint8 (s8) bits, weight of output r in lane l at r0 + r * lanes + l.
        TILE: float32 [lanes, rows] for f16, int16 [rows, lanes] for s8.
    mxm_dot_f16(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK)    X: uint16 bits; WORK: float64, rows long
    mxm_dot_s8(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK)     X: uint8 bits; WORK: int16, lanes long
        OUT[o0 + r] (uint32) = sum over l of weight[r, l] * x[l]. f16: a float64 sum in lane order from
        zero, rounded once to f32. s8: an s32.
    mma(typ, A, a0, B, b0, C, c0, OUT, o0, WORK)
        D = A B + C of one warp, PTX mma.sync fragments, typ F16, BF16, E4M3 or S8. Fragments are uint32
        lanes: register j of one is the 32 lanes from its offset + 32 * j. c0 = -1: C is zero. OUT may be
        C. WORK: float64 scratch, MMA_WORK long. An element is a float64 sum in k order that starts
        from c, rounded once to f32 (s8: s32).
"""

from __future__ import annotations

import numpy as np

from isa.jit import njit
from isa.opcodes import BF16, F16, S8
from isa.semantics import bf16_to_f32, bits32, e4m3_to_f32, f16_to_f32, f32

MMA_WORK = 16 * 32 + 32 * 8 + 16 * 8  # decoded A and B of the deepest shape, and the result
LANES = 32  # of a warp


@njit
def mxm_install_f16(RAW, r0, TILE, t0, rows, lanes):
    """TILE[lane, row] = float32 of RAW[row, lane]."""
    for row in range(rows):
        for lane in range(lanes):
            TILE[t0 + lane * rows + row] = f32(f16_to_f32(RAW[r0 + row * lanes + lane]))


@njit
def mxm_install_s8(RAW, r0, TILE, t0, rows, lanes):
    """TILE[row, lane] = int16 of the signed byte RAW[row, lane]."""
    for i in range(rows * lanes):
        TILE[t0 + i] = np.int8(RAW[r0 + i])


@njit
def mxm_dot_f16(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK):
    """f16 products of one activation vector with every row; see the module's head."""
    for row in range(rows):
        WORK[row] = 0.0
    for lane in range(lanes):
        x = np.float64(f32(f16_to_f32(X[x0 + lane])))
        base = t0 + lane * rows
        for row in range(rows):
            WORK[row] += np.float64(TILE[base + row]) * x
    for row in range(rows):
        OUT[o0 + row] = bits32(np.float32(WORK[row]))


@njit
def mxm_dot_s8(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK):
    """s8 products of one activation vector with every row; see the module's head."""
    for lane in range(lanes):
        WORK[lane] = np.int8(X[x0 + lane])
    for row in range(rows):
        total = np.int32(0)
        base = t0 + row * lanes
        for lane in range(lanes):
            total = np.int32(total + np.int32(TILE[base + lane]) * np.int32(WORK[lane]))
        OUT[o0 + row] = np.uint32(total)


@njit
def mma(typ, A, a0, B, b0, C, c0, OUT, o0, WORK):
    """D = A B + C of one warp; see the module's head."""
    # Register j of A holds row g + 8 (j & 1) and register j of B column g, g = lane / 4: the four
    # bytes from 4 (lane % 4) on, plus 16 for j >= 2 (A) or j = 1 (B), whatever the element's size.
    depth = 16 if typ == F16 or typ == BF16 else 32
    b_at = 16 * 32
    d_at = b_at + 32 * 8
    for j in range(6):
        for lane in range(LANES):
            group, tig = lane >> 2, lane & 3
            if j < 4:
                word = A[a0 + LANES * j + lane]
                at = (group + 8 * (j & 1)) * depth
                step, k = 1, (depth >> 1) * (j >> 1)
            else:
                word = B[b0 + LANES * (j - 4) + lane]
                at = b_at + group
                step, k = 8, (depth >> 1) * (j - 4)
            if depth == 16:
                k += 2 * tig
                low, high = word & np.uint32(0xFFFF), word >> np.uint32(16)
                first = f16_to_f32(low) if typ == F16 else bf16_to_f32(low)
                second = f16_to_f32(high) if typ == F16 else bf16_to_f32(high)
                WORK[at + k * step] = f32(first)
                WORK[at + (k + 1) * step] = f32(second)
            else:
                k += 4 * tig
                for byte in range(4):
                    raw = (word >> np.uint32(8 * byte)) & np.uint32(0xFF)
                    value = np.float64(np.int8(raw)) if typ == S8 else np.float64(f32(e4m3_to_f32(raw)))
                    WORK[at + (k + byte) * step] = value
    _multiply(WORK, b_at, d_at, depth, typ, C, c0)
    for j in range(4):
        for lane in range(LANES):
            value = WORK[d_at + ((lane >> 2) + 8 * (j >> 1)) * 8 + 2 * (lane & 3) + (j & 1)]
            if typ == S8:
                # Products are exact in float64; the sum onto c wraps to 32 bits.
                carry = np.int64(0) if c0 < 0 else np.int64(np.int32(C[c0 + LANES * j + lane]))
                OUT[o0 + LANES * j + lane] = np.uint32(carry + np.int64(value))
            else:
                OUT[o0 + LANES * j + lane] = bits32(np.float32(value))


@njit
def _multiply(WORK, b_at, d_at, depth, typ, C, c0):
    """WORK[d_at ..] [16, 8] = C (floats only) + A [16, depth] B [depth, 8], in k order."""
    for j in range(4):
        for lane in range(LANES):
            at = d_at + ((lane >> 2) + 8 * (j >> 1)) * 8 + 2 * (lane & 3) + (j & 1)
            WORK[at] = 0.0 if c0 < 0 or typ == S8 else np.float64(f32(C[c0 + LANES * j + lane]))
    for row in range(16):
        at = d_at + 8 * row
        s0, s1, s2, s3 = WORK[at], WORK[at + 1], WORK[at + 2], WORK[at + 3]
        s4, s5, s6, s7 = WORK[at + 4], WORK[at + 5], WORK[at + 6], WORK[at + 7]
        for k in range(depth):
            a = WORK[row * depth + k]
            b = b_at + 8 * k
            s0 += a * WORK[b]
            s1 += a * WORK[b + 1]
            s2 += a * WORK[b + 2]
            s3 += a * WORK[b + 3]
            s4 += a * WORK[b + 4]
            s5 += a * WORK[b + 5]
            s6 += a * WORK[b + 6]
            s7 += a * WORK[b + 7]
        WORK[at], WORK[at + 1], WORK[at + 2], WORK[at + 3] = s0, s1, s2, s3
        WORK[at + 4], WORK[at + 5], WORK[at + 6], WORK[at + 7] = s4, s5, s6, s7
