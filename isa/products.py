"""Matrix products of both machines, as compiled functions. Arrays are flat; offsets are elements.

    mxm_install_f16(RAW, r0, TILE, t0, rows, lanes)     loaded weights -> the form the product reads
    mxm_install_s8(RAW, r0, TILE, t0, rows, lanes)      (once an IW, not once a product)
        RAW: uint16 (f16) or uint8 (s8) bits, weight of output r in lane l at r0 + r * lanes + l.
        TILE: float32 [lanes, rows] for f16, int16 or int8 [rows, lanes] for s8.
    mxm_dot_f16(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK)    X: uint16 bits; WORK: float64, rows + lanes long
    mxm_dot_s8(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK)     X: uint8 bits; WORK: int16, lanes long
        OUT[o0 + r] (uint32) = sum over l of weight[r, l] * x[l]. f16: a float64 sum in lane order from
        zero, rounded once to f32. s8: an s32.
    mma(typ, A, a0, B, b0, C, c0, OUT, o0, WORK)
        D = A B + C of one warp, PTX mma.sync fragments, typ F16, BF16, E4M3 or S8. Fragments are uint32
        lanes: register j of one is the 32 lanes from its offset + 32 * j. c0 = -1: C is zero. OUT may be
        C. WORK: float64 scratch, MMA_WORK long. An element is a float64 sum in k order that starts
        from c, rounded once to f32 (s8: s32).

Hot loops use unsigned indices: signed ones could count from the end of an array, and checking for that
keeps the compiler from using vector instructions.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from isa.jit import njit
from isa.opcodes import BF16, F16, S8
from isa.semantics import bf16_to_f32, bits32, e4m3_to_f32, f16_to_f32, f32

LANES = 32  # of a warp
# MMA scratch: a fragment's elements (up to 4 a register) as they lie in its lanes, then A as [k, 16 rows],
# B as [8 columns, k] and D as [8 columns, 16 rows].
_ELEMENTS = 0
_A = _ELEMENTS + 4 * 4 * LANES
_B = _A + 32 * 16
_D = _B + 8 * 32
MMA_WORK = _D + 8 * 16


@partial(njit, allocates=True)
def mxm_install_f16(RAW, r0, TILE, t0, rows, lanes):
    """TILE[lane, row] = float32 of RAW[row, lane]."""
    block = 16  # rows at a time: 64 bytes of a tile line
    values = np.empty(block * lanes, dtype=np.float32)
    for first in range(0, rows, block):
        count = min(block, rows - first)
        start = np.uint64(r0 + first * lanes)
        for i in range(count * lanes):
            values[np.uint64(i)] = f32(f16_to_f32(np.uint32(RAW[start + np.uint64(i)])))
        for lane in range(lanes):
            at, row = np.uint64(lane), np.uint64(t0 + lane * rows + first)
            for _ in range(count):
                TILE[row] = values[at]
                at += np.uint64(lanes)
                row += np.uint64(1)


@njit
def mxm_install_s8(RAW, r0, TILE, t0, rows, lanes):
    """TILE[row, lane] = the signed byte RAW[row, lane]."""
    raw, tile = np.uint64(r0), np.uint64(t0)
    for i in range(rows * lanes):
        TILE[tile + np.uint64(i)] = np.int8(RAW[raw + np.uint64(i)])


@njit
def mxm_dot_f16(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK):
    """f16 products of one activation vector with every row; see the module's head."""
    for row in range(rows):
        WORK[row] = 0.0
    for lane in range(lanes):
        WORK[rows + lane] = f32(f16_to_f32(np.uint32(X[x0 + lane])))
    _add_products(WORK[:rows], 0, TILE, t0, WORK[rows:], 0, lanes, rows, rows)
    for row in range(rows):
        OUT[o0 + row] = bits32(np.float32(WORK[row]))


@njit
def mxm_dot_s8(TILE, t0, X, x0, OUT, o0, rows, lanes, WORK):
    """s8 products of one activation vector with every row; see the module's head."""
    for lane in range(lanes):
        WORK[lane] = np.int8(X[x0 + lane])
    for row in range(rows):
        total = np.int32(0)
        base = np.uint64(t0 + row * lanes)
        for i in range(lanes):
            product = np.int32(np.int32(TILE[base + np.uint64(i)]) * np.int32(WORK[np.uint64(i)]))
            total = np.int32(total + product)
        OUT[o0 + row] = np.uint32(total)


@njit
def mma(typ, A, a0, B, b0, C, c0, OUT, o0, WORK):
    """D = A B + C of one warp; see the module's head."""
    # Register j of A holds row g + 8 (j & 1), register j of B column g, g = lane / 4: the four bytes
    # from 4 (lane % 4) on, plus 16 where j >= 2 (A) or j = 1 (B). A register has `parts` elements.
    parts = 2 if typ == F16 or typ == BF16 else 4
    _elements(typ, A, a0, 4, WORK, _ELEMENTS)
    for half in range(2):
        for part in range(parts):
            for tig in range(4):
                at = _ELEMENTS + LANES * (2 * half * parts + part) + tig
                k = _A + 16 * (4 * parts * half + parts * tig + part)
                for group in range(8):
                    WORK[k + group] = WORK[at + 4 * group]
                    WORK[k + 8 + group] = WORK[at + LANES * parts + 4 * group]
    _elements(typ, B, b0, 2, WORK, _ELEMENTS)
    for half in range(2):
        for part in range(parts):
            for tig in range(4):
                at = _ELEMENTS + LANES * (half * parts + part) + tig
                k = _B + 4 * parts * half + parts * tig + part
                for group in range(8):
                    WORK[k + 32 * group] = WORK[at + 4 * group]
    for j in range(4):
        for lane in range(LANES):
            at = _D + 16 * (2 * (lane & 3) + (j & 1)) + (lane >> 2) + 8 * (j >> 1)
            WORK[at] = 0.0 if c0 < 0 or typ == S8 else np.float64(f32(C[c0 + LANES * j + lane]))
    rows = min(16, OUT.size)  # always 16; but the compiler unrolls short loops of known length, without vectors
    D, A_rows, B_columns = WORK[_D:], WORK[_A:_B], WORK[_B:_D]
    for column in range(8):
        _add_products(D, 16 * column, A_rows, 0, B_columns, 32 * column, 8 * parts, rows, 16)
    for j in range(4):
        for lane in range(LANES):
            value = WORK[_D + 16 * (2 * (lane & 3) + (j & 1)) + (lane >> 2) + 8 * (j >> 1)]
            if typ == S8:
                # The products' sum is exact in float64; adding c wraps to 32 bits.
                start = np.int64(0) if c0 < 0 else np.int64(C[c0 + LANES * j + lane])
                OUT[o0 + LANES * j + lane] = np.uint32(start + np.int64(value))
            else:
                OUT[o0 + LANES * j + lane] = bits32(np.float32(value))


@njit
def _elements(typ, R, r0, registers, WORK, w0):
    """Decode fragment registers: element `part` of register j in lane l goes to w0 + 32 (parts j + part) + l."""
    for j in range(registers):
        r = r0 + LANES * j
        if typ == F16:
            w = w0 + 2 * LANES * j
            for lane in range(LANES):
                WORK[w + lane] = f32(f16_to_f32(np.uint32(R[r + lane] & np.uint32(0xFFFF))))
            for lane in range(LANES):
                WORK[w + LANES + lane] = f32(f16_to_f32(np.uint32(R[r + lane] >> np.uint32(16))))
        elif typ == BF16:
            w = w0 + 2 * LANES * j
            for lane in range(LANES):
                WORK[w + lane] = f32(bf16_to_f32(np.uint32(R[r + lane] & np.uint32(0xFFFF))))
            for lane in range(LANES):
                WORK[w + LANES + lane] = f32(bf16_to_f32(np.uint32(R[r + lane] >> np.uint32(16))))
        elif typ == S8:
            for part in range(4):
                w = w0 + LANES * (4 * j + part)
                left = np.uint32(24 - 8 * part)
                for lane in range(LANES):
                    WORK[w + lane] = np.int32(np.int32(R[r + lane] << left) >> np.int32(24))
        else:
            for part in range(4):
                w = w0 + LANES * (4 * j + part)
                right = np.uint32(8 * part)
                for lane in range(LANES):
                    WORK[w + lane] = f32(e4m3_to_f32(np.uint32((R[r + lane] >> right) & np.uint32(0xFF))))


@njit
def _add_products(D, d, A, a, B, b, depth, rows, stride):
    """D[d + row] += A[a + k * stride + row] * B[b + k], row by row in order of k < depth.

    Eight k at a time, so that D is loaded and stored less often.
    """
    one, eight = np.uint64(stride), np.uint64(8)
    two, three, four = one + one, one + one + one, np.uint64(4) * one
    five, six, seven = four + one, four + two, four + three
    k, whole = np.uint64(0), np.uint64(depth & ~7)
    a, b, d = np.uint64(a), np.uint64(b), np.uint64(d)
    while k < whole:
        b0, b1, b2, b3 = B[b], B[b + np.uint64(1)], B[b + np.uint64(2)], B[b + np.uint64(3)]
        b4, b5, b6, b7 = B[b + np.uint64(4)], B[b + np.uint64(5)], B[b + np.uint64(6)], B[b + np.uint64(7)]
        for i in range(rows):
            row = a + np.uint64(i)
            total = D[d + np.uint64(i)] + A[row] * b0
            total = total + A[row + one] * b1
            total = total + A[row + two] * b2
            total = total + A[row + three] * b3
            total = total + A[row + four] * b4
            total = total + A[row + five] * b5
            total = total + A[row + six] * b6
            D[d + np.uint64(i)] = total + A[row + seven] * b7
        a += eight * one
        b += eight
        k += eight
    while k < np.uint64(depth):
        b0 = B[b]
        for i in range(rows):
            D[d + np.uint64(i)] = D[d + np.uint64(i)] + A[a + np.uint64(i)] * b0
        a += one
        b += np.uint64(1)
        k += np.uint64(1)
