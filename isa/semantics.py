"""What each arithmetic instruction computes, as compiled functions that both machines call.

A lane is a uint32: the bits of an f32 or s32, or a 1- or 2-byte value in the low bits with zeros
above. Every NaN result has the bits 0x7fc00000, so results are the same on every computer; no libm,
no fused contraction. Poison is not handled here.

    alu(op, typ, from_type, A, a0, B, b0, C, c0, imm, OUT, o0, n)
        OUT[o0 .. o0+n) = op(A[a0 ..), B[b0 ..), C[c0 ..), imm); arrays are 1-D uint32, and unused ones
        can be any array (OUT, say). op is an opcode number, typ and from_type are numbers of
        opcodes.TYPES. OUT may be an operand itself (same offset). imm is the raw field value.
        Rows: all with unit alu, alu_large or mufu, and NOT S2R; SETP is `compare`.
    compare(cmp, typ, A, a0, B, b0, n) -> int64 with bit i = A[a0+i] cmp B[b0+i], n <= 63
Scalar helpers (bits in, bits out): f16_to_f32, bf16_to_f32, e4m3_to_f32, f32_to_f16, f32_to_bf16,
f32_to_e4m3, f32_to_s32, exp2, rsqrt, tanh, rcp.
Matrix products are in isa/products.py; isa/replica.py is the same in NumPy, bit for bit.
"""

from __future__ import annotations

import numpy as np

from isa.jit import njit
from isa.opcodes import BF16, E4M3, F16, F32, S8, S32, U8, code

ADD, SUB, MUL, MAX, MIN, NEG = (code(n) for n in ("ADD", "SUB", "MUL", "MAX", "MIN", "NEG"))
AND, OR, XOR, SELECT = (code(n) for n in ("AND", "OR", "XOR", "SELECT"))
ADDI, MULI, MAXI, MINI, ANDI = (code(n) for n in ("ADDI", "MULI", "MAXI", "MINI", "ANDI"))
EXP2, RSQRT, TANH, RCP, CVT, FMA = (code(n) for n in ("EXP2", "RSQRT", "TANH", "RCP", "CVT", "FMA"))
MOV, MOVI, SHL, SHR, PACK, UNPACK = (code(n) for n in ("MOV", "MOVI", "SHL", "SHR", "PACK", "UNPACK"))

NAN = np.uint32(0x7FC00000)
SIGN = np.uint32(0x80000000)
MAGNITUDE = np.uint32(0x7FFFFFFF)
INFINITY = np.uint32(0x7F800000)


# -- bits <-> numbers -------------------------------------------------------------------------
@njit
def f32(bits):
    """The float32 with these bits."""
    return np.uint32(bits).view(np.float32)


@njit
def bits32(value):
    """Bits of a float32; every NaN has the same."""
    return np.float32(value).view(np.uint32) if value == value else NAN


@njit
def f16_to_f32(raw):
    """f32 bits of f16 bits, exactly."""
    raw = np.uint32(raw)
    sign = np.uint32((raw & np.uint32(0x8000)) << np.uint32(16))
    magnitude = np.uint32(raw & np.uint32(0x7FFF))
    normal = np.uint32((magnitude << np.uint32(13)) + np.uint32(0x38000000))
    tiny = np.float32(np.float32(np.int32(magnitude)) * np.float32(2.0**-24)).view(np.uint32)
    bits = normal if magnitude >= np.uint32(0x400) else tiny
    bits = np.uint32(normal + np.uint32(0x38000000)) if magnitude >= np.uint32(0x7C00) else bits
    return NAN if magnitude > np.uint32(0x7C00) else np.uint32(sign | bits)


@njit
def bf16_to_f32(raw):
    """f32 bits of bf16 bits, exactly."""
    bits = np.uint32(np.uint32(raw) << np.uint32(16))
    return NAN if np.uint32(bits & MAGNITUDE) > INFINITY else bits


@njit
def e4m3_to_f32(raw):
    """f32 bits of e4m3 bits, exactly."""
    raw = np.uint32(raw)
    sign = np.uint32((raw & np.uint32(0x80)) << np.uint32(24))
    magnitude = np.uint32(raw & np.uint32(0x7F))
    normal = np.uint32((magnitude << np.uint32(20)) + np.uint32(120 << 23))
    tiny = np.float32(np.float32(np.int32(magnitude)) * np.float32(2.0**-9)).view(np.uint32)
    bits = normal if magnitude >= np.uint32(8) else tiny
    return NAN if magnitude == np.uint32(0x7F) else np.uint32(sign | bits)


@njit
def f32_to_f16(bits):
    """f16 bits nearest to f32 bits, ties to even; overflow gives infinity."""
    bits = np.uint32(bits)
    magnitude = np.uint32(bits & MAGNITUDE)
    odd = np.uint32((magnitude >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32(np.uint32(magnitude + np.uint32(0xFFF) + odd - np.uint32(0x38000000)) >> np.uint32(13))
    # Below 2**-14 the step is 2**-24, which is the last place of 0.5: the addition rounds.
    tiny = np.uint32(np.float32(magnitude.view(np.float32) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000))
    raw = normal if magnitude >= np.uint32(0x38800000) else tiny
    raw = np.uint32(0x7C00) if magnitude >= np.uint32(0x477FF000) else raw
    raw = np.uint32(raw | ((bits >> np.uint32(16)) & np.uint32(0x8000)))
    return np.uint32(0x7E00) if magnitude > INFINITY else raw


@njit
def f32_to_bf16(bits):
    """bf16 bits nearest to f32 bits, ties to even; overflow gives infinity."""
    bits = np.uint32(bits)
    odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
    raw = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    return np.uint32(0x7FC0) if np.uint32(bits & MAGNITUDE) > INFINITY else raw


@njit
def f32_to_e4m3(bits):
    """e4m3 bits nearest to f32 bits, ties to even; saturates at 448, a NaN gives 0x7f."""
    bits = np.uint32(bits)
    magnitude = np.uint32(bits & MAGNITUDE)
    odd = np.uint32((magnitude >> np.uint32(20)) & np.uint32(1))
    normal = np.uint32(np.uint32(magnitude + np.uint32(0x7FFFF) + odd - np.uint32(120 << 23)) >> np.uint32(20))
    # Below 2**-6 the step is 2**-9, which is the last place of 2**14: the addition rounds.
    sum_bits = np.float32(magnitude.view(np.float32) + np.float32(16384.0)).view(np.uint32)
    tiny = np.uint32(sum_bits - np.uint32(0x46800000))
    raw = normal if magnitude >= np.uint32(0x3C800000) else tiny
    raw = np.uint32(0x7E) if magnitude >= np.uint32(0x43E00000) else raw
    raw = np.uint32(raw | ((bits >> np.uint32(24)) & np.uint32(0x80)))
    return np.uint32(0x7F) if magnitude > INFINITY else raw


@njit
def _whole(bits, low, high):
    """The integer in [low, high] (float64) nearest to an f32, ties to even; 0 for a NaN."""
    value = np.float64(f32(bits))
    value = value if value == value else 0.0
    value = low if value < low else value
    value = high if value > high else value
    # 1.5 * 2**52 has 1 in its last place, so the sum is rounded to a whole number.
    return np.int32(np.float64(value + 6755399441055744.0).view(np.int64))


@njit
def f32_to_s32(bits):
    """s32 bits nearest to f32 bits, ties to even; saturates, a NaN gives 0."""
    return np.uint32(_whole(bits, -2147483648.0, 2147483647.0))


@njit
def _s32_to_odd_f32(raw):
    """f32 bits of an s32, rounded to odd: a later rounding to a narrower type is then the only one."""
    value = np.float64(np.int32(raw))
    single = np.float32(value)
    bits = single.view(np.uint32)
    back = np.float64(single)
    if back == value:
        return bits
    away = np.uint32(1) if abs(back) > abs(value) else np.uint32(0)
    return (bits - away) | np.uint32(1)


# -- functions: float64 inside, rounded once --------------------------------------------------
LOG2_E = 1.4426950408889634
LN2 = 0.6931471805599453
LN2_HIGH, LN2_LOW = 0.6931471803691238, 1.9082149292705877e-10  # fdlibm's split; HIGH * k is exact for small k
RSQRT_SEED = 0x5FE6EB50C7B537A9  # first guess of 1 / sqrt from exponent and mantissa (Lomont 2003, for double)


@njit
def _expm1(r):
    """e**r - 1 for |r| <= 0.35 by its Taylor series; relative error below 2**-52."""
    p = 1.0 / 87178291200.0
    p = p * r + 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    return (p * r) * r + r


@njit
def _power_of_two(k):
    """2.0**k for a whole float64 k in -1022 .. 1023."""
    return np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)).view(np.float64)


@njit
def _nearest_whole(value):
    """value rounded to a whole float64; |value| < 2**51."""
    return (value + 6755399441055744.0) - 6755399441055744.0


@njit
def exp2(bits):
    """f32 bits of 2 ** a."""
    value = np.float64(f32(bits))
    x = value if value > -160.0 else -160.0  # below 2**-150 the result is zero (a NaN also goes here)
    x = x if x < 130.0 else 130.0
    k = _nearest_whole(x)
    result = (_expm1((x - k) * LN2) + 1.0) * _power_of_two(k)
    return bits32(np.float32(result)) if value == value else NAN


@njit
def rsqrt(bits):
    """f32 bits of 1 / sqrt(a): infinity for a zero (with its sign), NaN below zero."""
    bits = np.uint32(bits)
    magnitude = np.uint32(bits & MAGNITUDE)
    value = np.float64(magnitude.view(np.float32))
    y = np.int64(np.int64(RSQRT_SEED) - (value.view(np.int64) >> np.int64(1))).view(np.float64)
    half = 0.5 * value
    y = y * (1.5 - (half * y) * y)  # Newton: the error is squared each time, 2**-5 to 2**-52
    y = y * (1.5 - (half * y) * y)
    y = y * (1.5 - (half * y) * y)
    y = y * (1.5 - (half * y) * y)
    result = np.float32(y).view(np.uint32)
    result = np.uint32(0) if magnitude == INFINITY else result
    result = NAN if bits > SIGN or magnitude > INFINITY else result
    return ((bits & SIGN) | INFINITY) if magnitude == np.uint32(0) else result


@njit
def tanh(bits):
    """f32 bits of tanh(a) = e / (e + 2) with e = exp(2 a) - 1."""
    bits = np.uint32(bits)
    magnitude = np.uint32(bits & MAGNITUDE)
    value = np.float64(magnitude.view(np.float32))
    x = value if value < 20.0 else 20.0  # tanh is 1 in f32 from 9.02 on
    x = 2.0 * x
    k = _nearest_whole(x * LOG2_E)
    scale = _power_of_two(k)
    e = scale * _expm1((x - k * LN2_HIGH) - k * LN2_LOW) + (scale - 1.0)
    result = np.float32(e / (e + 2.0)).view(np.uint32)
    return NAN if magnitude > INFINITY else (bits & SIGN) | result


@njit
def rcp(bits):
    """f32 bits of 1 / a; infinity for a zero (with its sign)."""
    return bits32(np.float32(1.0 / np.float64(f32(bits))))


# -- one lane ---------------------------------------------------------------------------------
@njit
def _max_f32(a, b):
    """The larger of two f32 (bits); a NaN gives the other; +0 is larger than -0."""
    x, y = f32(a), f32(b)
    larger = a if x > y else b
    larger = (a & b) if x == y else larger
    larger = a if y != y else larger
    return NAN if x != x and y != y else larger


@njit
def _min_f32(a, b):
    """The smaller of two f32 (bits); a NaN gives the other; -0 is smaller than +0."""
    x, y = f32(a), f32(b)
    smaller = a if x < y else b
    smaller = (a | b) if x == y else smaller
    smaller = a if y != y else smaller
    return NAN if x != x and y != y else smaller


@njit
def _fma_f32(a, b, c):
    """a * b + c on f32 bits: float64 product (exact) and sum, rounded once to f32."""
    return bits32(np.float32(np.float64(f32(a)) * np.float64(f32(b)) + np.float64(f32(c))))


# -- many lanes -------------------------------------------------------------------------------
@njit
def alu(op, typ, from_type, A, a0, B, b0, C, c0, imm, OUT, o0, n):
    """One arithmetic instruction on n lanes; see the module's head."""
    if op == CVT:
        _convert(typ, from_type, A, a0, OUT, o0, n)
    elif op >= EXP2 and op <= TANH or op == RCP:
        _function(op, A, a0, OUT, o0, n)
    elif op <= MIN or op == FMA or (op >= ADDI and op <= MINI):
        if typ == F32:
            _arithmetic_f32(op, A, a0, B, b0, C, c0, np.uint32(imm), OUT, o0, n)
        else:
            _arithmetic_s32(op, A, a0, B, b0, C, c0, np.uint32(imm), OUT, o0, n)
    else:
        _bitwise(op, typ, A, a0, B, b0, C, c0, np.uint32(imm), OUT, o0, n)


@njit
def _arithmetic_f32(op, A, a0, B, b0, C, c0, imm, OUT, o0, n):
    if op == FMA:
        for i in range(n):
            OUT[o0 + i] = _fma_f32(A[a0 + i], B[b0 + i], C[c0 + i])
    elif op == ADD:
        for i in range(n):
            OUT[o0 + i] = bits32(f32(A[a0 + i]) + f32(B[b0 + i]))
    elif op == MUL:
        for i in range(n):
            OUT[o0 + i] = bits32(f32(A[a0 + i]) * f32(B[b0 + i]))
    elif op == SUB:
        for i in range(n):
            OUT[o0 + i] = bits32(f32(A[a0 + i]) - f32(B[b0 + i]))
    elif op == MAX:
        for i in range(n):
            OUT[o0 + i] = _max_f32(A[a0 + i], B[b0 + i])
    elif op == MIN:
        for i in range(n):
            OUT[o0 + i] = _min_f32(A[a0 + i], B[b0 + i])
    elif op == ADDI:
        for i in range(n):
            OUT[o0 + i] = bits32(f32(A[a0 + i]) + f32(imm))
    elif op == MULI:
        for i in range(n):
            OUT[o0 + i] = bits32(f32(A[a0 + i]) * f32(imm))
    elif op == MAXI:
        for i in range(n):
            OUT[o0 + i] = _max_f32(A[a0 + i], imm)
    else:
        for i in range(n):
            OUT[o0 + i] = _min_f32(A[a0 + i], imm)


@njit
def _arithmetic_s32(op, A, a0, B, b0, C, c0, imm, OUT, o0, n):
    if op == FMA:
        for i in range(n):
            OUT[o0 + i] = np.uint32(A[a0 + i] * B[b0 + i] + C[c0 + i])
    elif op == ADD:
        for i in range(n):
            OUT[o0 + i] = np.uint32(A[a0 + i] + B[b0 + i])
    elif op == MUL:
        for i in range(n):
            OUT[o0 + i] = np.uint32(A[a0 + i] * B[b0 + i])
    elif op == SUB:
        for i in range(n):
            OUT[o0 + i] = np.uint32(A[a0 + i] - B[b0 + i])
    elif op == MAX:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] if np.int32(A[a0 + i]) > np.int32(B[b0 + i]) else B[b0 + i]
    elif op == MIN:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] if np.int32(A[a0 + i]) < np.int32(B[b0 + i]) else B[b0 + i]
    elif op == ADDI:
        for i in range(n):
            OUT[o0 + i] = np.uint32(A[a0 + i] + imm)
    elif op == MULI:
        for i in range(n):
            OUT[o0 + i] = np.uint32(A[a0 + i] * imm)
    elif op == MAXI:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] if np.int32(A[a0 + i]) > np.int32(imm) else imm
    else:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] if np.int32(A[a0 + i]) < np.int32(imm) else imm


@njit
def _bitwise(op, typ, A, a0, B, b0, C, c0, imm, OUT, o0, n):
    """Everything that moves or combines bits. NEG is here: it flips a sign bit, or negates an s32."""
    if op == MOV:
        for i in range(n):
            OUT[o0 + i] = B[b0 + i]
    elif op == MOVI:
        for i in range(n):
            OUT[o0 + i] = imm
    elif op == SELECT:
        for i in range(n):
            OUT[o0 + i] = C[c0 + i] if A[a0 + i] >= SIGN else B[b0 + i]
    elif op == NEG:
        for i in range(n):
            a = A[a0 + i]
            flipped = NAN if np.uint32(a & MAGNITUDE) > INFINITY else a ^ SIGN
            OUT[o0 + i] = flipped if typ == F32 else np.uint32(np.uint32(0) - a)
    elif op == AND:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] & B[b0 + i]
    elif op == OR:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] | B[b0 + i]
    elif op == XOR:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] ^ B[b0 + i]
    elif op == ANDI:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] & imm
    elif op == SHL:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] << imm
    elif op == SHR:
        for i in range(n):
            OUT[o0 + i] = A[a0 + i] >> imm
    elif op == PACK:
        for i in range(n):
            a, c = A[a0 + i], C[c0 + i]
            half = f32_to_f16(a) | (f32_to_f16(c) << np.uint32(16))
            brain = f32_to_bf16(a) | (f32_to_bf16(c) << np.uint32(16))
            OUT[o0 + i] = half if typ == F16 else brain
    else:  # UNPACK
        shift = imm << np.uint32(4)
        for i in range(n):
            raw = (A[a0 + i] >> shift) & np.uint32(0xFFFF)
            OUT[o0 + i] = f16_to_f32(raw) if typ == F16 else bf16_to_f32(raw)


@njit
def _function(op, A, a0, OUT, o0, n):
    if op == EXP2:
        for i in range(n):
            OUT[o0 + i] = exp2(A[a0 + i])
    elif op == RSQRT:
        for i in range(n):
            OUT[o0 + i] = rsqrt(A[a0 + i])
    elif op == TANH:
        for i in range(n):
            OUT[o0 + i] = tanh(A[a0 + i])
    else:
        for i in range(n):
            OUT[o0 + i] = rcp(A[a0 + i])


@njit
def _convert(typ, from_type, A, a0, OUT, o0, n):
    """CVT in two passes over the lanes: to f32 bits (s32 stays), then to the target."""
    if from_type == F32:
        for i in range(n):
            a = A[a0 + i]
            OUT[o0 + i] = NAN if np.uint32(a & MAGNITUDE) > INFINITY else a
    elif from_type == F16:
        for i in range(n):
            OUT[o0 + i] = f16_to_f32(A[a0 + i] & np.uint32(0xFFFF))
    elif from_type == BF16:
        for i in range(n):
            OUT[o0 + i] = bf16_to_f32(A[a0 + i] & np.uint32(0xFFFF))
    elif from_type == E4M3:
        for i in range(n):
            OUT[o0 + i] = e4m3_to_f32(A[a0 + i] & np.uint32(0xFF))
    elif from_type == S8:
        for i in range(n):
            OUT[o0 + i] = np.float32(np.int32(A[a0 + i] << np.uint32(24)) >> np.int32(24)).view(np.uint32)
    elif from_type == U8:
        for i in range(n):
            OUT[o0 + i] = np.float32(np.int32(A[a0 + i] & np.uint32(0xFF))).view(np.uint32)
    elif typ == F32:
        for i in range(n):
            OUT[o0 + i] = np.float32(np.int32(A[a0 + i])).view(np.uint32)
    elif typ == F16 or typ == BF16 or typ == E4M3:
        for i in range(n):
            OUT[o0 + i] = _s32_to_odd_f32(A[a0 + i])
    else:
        _saturate_s32(typ, A, a0, OUT, o0, n)
        return
    if typ == F16:
        for i in range(n):
            OUT[o0 + i] = f32_to_f16(OUT[o0 + i])
    elif typ == BF16:
        for i in range(n):
            OUT[o0 + i] = f32_to_bf16(OUT[o0 + i])
    elif typ == E4M3:
        for i in range(n):
            OUT[o0 + i] = f32_to_e4m3(OUT[o0 + i])
    elif typ == S32:
        for i in range(n):
            OUT[o0 + i] = f32_to_s32(OUT[o0 + i])
    elif typ == S8:
        for i in range(n):
            OUT[o0 + i] = np.uint32(_whole(OUT[o0 + i], -128.0, 127.0)) & np.uint32(0xFF)
    elif typ == U8:
        for i in range(n):
            OUT[o0 + i] = np.uint32(_whole(OUT[o0 + i], 0.0, 255.0))


@njit
def _saturate_s32(typ, A, a0, OUT, o0, n):
    low, high, mask = np.int32(-2147483648), np.int32(2147483647), np.uint32(0xFFFFFFFF)
    if typ == S8:
        low, high, mask = np.int32(-128), np.int32(127), np.uint32(0xFF)
    elif typ == U8:
        low, high, mask = np.int32(0), np.int32(255), np.uint32(0xFF)
    for i in range(n):
        value = np.int32(A[a0 + i])
        value = low if value < low else value
        value = high if value > high else value
        OUT[o0 + i] = np.uint32(value) & mask


@njit
def compare(cmp, typ, A, a0, B, b0, n):
    """Bit i of the result: lane i of A cmp lane i of B (cmp numbers opcodes.COMPARISONS)."""
    mask = np.int64(0)
    for i in range(n):
        a, b = A[a0 + i], B[b0 + i]
        if typ == F32:
            less, equal, greater = f32(a) < f32(b), f32(a) == f32(b), f32(a) > f32(b)
        else:
            less, equal, greater = np.int32(a) < np.int32(b), a == b, np.int32(a) > np.int32(b)
        holds = not equal  # NE: also true for a NaN
        if cmp == 0:
            holds = less
        elif cmp == 1:
            holds = less or equal
        elif cmp == 2:
            holds = greater
        elif cmp == 3:
            holds = greater or equal
        elif cmp == 4:
            holds = equal
        if holds:
            mask |= np.int64(1) << np.int64(i)
    return mask
