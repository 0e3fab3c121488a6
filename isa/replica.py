"""Arithmetic and matrix products in plain NumPy, bit for bit what the compiled functions give.

The second opinion on isa/semantics.py and isa/products.py, readable without knowing Numba: arrays in,
arrays out. A lane is a uint32; types and operations are numbers as in isa/opcodes.py.
"""

from __future__ import annotations

import numpy as np

from isa import formats
from isa.opcodes import BY_CODE, F32, S32, TYPES

_NAN = np.uint32(formats.NAN_BITS["f32"])
_SIGN = np.uint32(0x80000000)


def _f32(bits: np.ndarray) -> np.ndarray:
    return np.asarray(bits, dtype=np.uint32).view(np.float32)


def _f64(bits: np.ndarray) -> np.ndarray:
    """float64 of f32 bits; signalling NaNs are not worth a warning."""
    with np.errstate(invalid="ignore"):
        return _f32(bits).astype(np.float64)


def _bits(values: np.ndarray) -> np.ndarray:
    """Bits of numbers rounded to f32, NaNs all the same."""
    with np.errstate(all="ignore"):
        single = np.asarray(values).astype(np.float32)
    return np.where(np.isnan(single), _NAN, single.view(np.uint32))


def alu(op: int, typ: int, from_type: int, a: np.ndarray, b: np.ndarray | None = None, c: np.ndarray | None = None,
        imm: int = 0) -> np.ndarray:
    """Result lanes (uint32) of one arithmetic instruction; operands are uint32 arrays of one length."""
    name = BY_CODE[op].name
    a = np.asarray(a, dtype=np.uint32)
    zero = np.zeros_like(a)
    b = zero if b is None else np.asarray(b, dtype=np.uint32)
    c = zero if c is None else np.asarray(c, dtype=np.uint32)
    if name in ("ADDI", "MULI", "MAXI", "MINI", "ANDI"):
        name, b = name[:-1], np.full_like(a, imm)
    if name == "CVT":
        return _convert(typ, from_type, a)
    if name in _FUNCTIONS:
        return _FUNCTIONS[name](a)
    if name in ("PACK", "UNPACK"):
        half = TYPES[typ]
        if name == "PACK":
            low, high = (formats.encode(_f32(x), half).astype(np.uint32) for x in (a, c))
            return low | high << np.uint32(16)
        return _bits(formats.decode(((a >> np.uint32(16 * imm)) & np.uint32(0xFFFF)).astype(np.uint16), half))
    simple = {
        "MOV": lambda: b, "MOVI": lambda: np.full_like(a, imm), "AND": lambda: a & b, "OR": lambda: a | b,
        "XOR": lambda: a ^ b, "SHL": lambda: a << np.uint32(imm), "SHR": lambda: a >> np.uint32(imm),
        "SELECT": lambda: np.where(a & _SIGN, c, b)}
    if name in simple:
        return np.asarray(simple[name](), dtype=np.uint32).copy()
    return _arithmetic_f32(name, a, b, c) if typ == F32 else _arithmetic_s32(name, a, b, c)


def _arithmetic_f32(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    x, y = _f32(a), _f32(b)
    with np.errstate(all="ignore"):
        if name == "FMA":
            return _bits(_f64(a) * _f64(b) + _f64(c))
        if name == "NEG":
            return np.where(np.isnan(x), _NAN, a ^ _SIGN)
        if name in ("MAX", "MIN"):
            first = x > y if name == "MAX" else x < y
            chosen = np.where(first, a, b)
            chosen = np.where(x == y, a & b if name == "MAX" else a | b, chosen)  # signed zeros
            chosen = np.where(np.isnan(y), a, chosen)
            return np.where(np.isnan(x) & np.isnan(y), _NAN, chosen)
        return _bits({"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply}[name](x, y))


def _arithmetic_s32(name: str, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    x, y, z = (v.view(np.int32).astype(np.int64) for v in (a, b, c))
    result = {"ADD": lambda: x + y, "SUB": lambda: x - y, "MUL": lambda: x * y, "MAX": lambda: np.maximum(x, y),
              "MIN": lambda: np.minimum(x, y), "NEG": lambda: -x, "FMA": lambda: x * y + z}[name]()
    return (result & 0xFFFFFFFF).astype(np.uint32)


def _convert(typ: int, from_type: int, a: np.ndarray) -> np.ndarray:
    source, target = TYPES[from_type], TYPES[typ]
    mask = np.uint32((1 << (8 * formats.item_bytes(source))) - 1)
    values = formats.decode((a & mask).astype(formats.RAW[source]), source)
    if from_type == S32 and target == "s32":
        return a.copy()
    return formats.encode(values, target).astype(np.uint32)


# -- functions: the same float64 steps in the same order ---------------------------------------
def _nearest_whole(x: np.ndarray) -> np.ndarray:
    return (x + 1.5 * 2.0**52) - 1.5 * 2.0**52


def _power_of_two(k: np.ndarray) -> np.ndarray:
    return ((k.astype(np.int64) + 1023) << 52).view(np.float64)


def _expm1(r: np.ndarray) -> np.ndarray:
    """e**r - 1: Taylor series up to r**14 / 14!, innermost term first."""
    factorial = [1.0]
    for n in range(1, 15):
        factorial.append(factorial[-1] * n)
    p = np.full_like(r, 1.0 / factorial[14])
    for n in range(13, 1, -1):
        p = p * r + 1.0 / factorial[n]
    return (p * r) * r + r


def exp2(a: np.ndarray) -> np.ndarray:
    """f32 bits of 2 ** a."""
    value = _f64(a)
    x = np.where(value > -160.0, value, -160.0)
    x = np.where(x < 130.0, x, 130.0)
    k = _nearest_whole(x)
    result = (_expm1((x - k) * 0.6931471805599453) + 1.0) * _power_of_two(k)
    return np.where(np.isnan(value), _NAN, _bits(result))


def rsqrt(a: np.ndarray) -> np.ndarray:
    """f32 bits of 1 / sqrt(a)."""
    a = np.asarray(a, dtype=np.uint32)
    value = np.abs(_f64(a))
    y = (np.int64(0x5FE6EB50C7B537A9) - (value.view(np.int64) >> 1)).view(np.float64)
    half = 0.5 * value
    with np.errstate(all="ignore"):
        for _ in range(4):
            y = y * (1.5 - (half * y) * y)
    result = np.where(np.isinf(value), np.uint32(0), _bits(y))
    result = np.where((a > _SIGN) | np.isnan(value), _NAN, result)
    return np.where(value == 0, (a & _SIGN) | np.uint32(0x7F800000), result).astype(np.uint32)


def tanh(a: np.ndarray) -> np.ndarray:
    """f32 bits of tanh(a)."""
    a = np.asarray(a, dtype=np.uint32)
    value = np.abs(_f64(a))
    x = 2.0 * np.where(value < 20.0, value, 20.0)
    k = _nearest_whole(x * 1.4426950408889634)
    scale = _power_of_two(k)
    e = scale * _expm1((x - k * 0.6931471803691238) - k * 1.9082149292705877e-10) + (scale - 1.0)
    return np.where(np.isnan(value), _NAN, (a & _SIGN) | _bits(e / (e + 2.0)))


def rcp(a: np.ndarray) -> np.ndarray:
    """f32 bits of 1 / a."""
    with np.errstate(all="ignore"):
        return _bits(1.0 / _f64(a))


_FUNCTIONS = {"EXP2": exp2, "RSQRT": rsqrt, "TANH": tanh, "RCP": rcp}


def compare(cmp: int, typ: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Boolean lanes of a cmp b; cmp numbers opcodes.COMPARISONS."""
    x, y = (_f32(v) if typ == F32 else np.asarray(v, dtype=np.uint32).view(np.int32) for v in (a, b))
    return (x < y, x <= y, x > y, x >= y, x == y, x != y)[cmp]


# -- matrix products ---------------------------------------------------------------------------
def mxm_dot(typ: int, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """uint32 [rows]: raw weights [rows, lanes] times raw x [lanes]. Floats: float64 in lane order, rounded once."""
    w, v = formats.decode(weights, TYPES[typ]), formats.decode(x, TYPES[typ])
    if TYPES[typ] == "s8":
        return ((w.astype(np.int64) @ v.astype(np.int64)) & 0xFFFFFFFF).astype(np.uint32)
    total = np.zeros(len(w))
    with np.errstate(all="ignore"):
        for lane in range(w.shape[1]):
            total = total + w[:, lane].astype(np.float64) * np.float64(v[lane])
    return _bits(total)


def mma(typ: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Registers [4, 32] of D = A B + C from registers of A [4, 32], B [2, 32] and C [4, 32]; PTX fragments."""
    name = TYPES[typ]
    parts = 4 // formats.item_bytes(name)
    lane = np.arange(32)
    group, tig = lane // 4, lane % 4
    x, y = np.zeros((16, 8 * parts)), np.zeros((8 * parts, 8))
    for j in range(4):
        for part in range(parts):
            x[group + 8 * (j % 2), parts * tig + part + 4 * parts * (j // 2)] = _part(a[j], part, name)
    for j in range(2):
        for part in range(parts):
            y[parts * tig + part + 4 * parts * j, group] = _part(b[j], part, name)
    total = np.zeros((16, 8))
    rows = [(group + 8 * (j // 2), 2 * tig + j % 2) for j in range(4)]
    for j in range(4):
        total[rows[j]] = np.asarray(c[j], dtype=np.uint32).view(np.int32) if name == "s8" else _f64(c[j])
    with np.errstate(all="ignore"):
        for k in range(8 * parts):
            total = total + x[:, k:k + 1] * y[k:k + 1]
    if name == "s8":
        return np.stack([(total[at].astype(np.int64) & 0xFFFFFFFF).astype(np.uint32) for at in rows])
    return np.stack([_bits(total[at]) for at in rows])


def _part(register: np.ndarray, part: int, name: str) -> np.ndarray:
    """Values of one element of each lane of a fragment register."""
    bits = 8 * formats.item_bytes(name)
    raw = (np.asarray(register, dtype=np.uint32) >> np.uint32(bits * part)) & np.uint32((1 << bits) - 1)
    with np.errstate(invalid="ignore"):
        return formats.decode(raw.astype(formats.RAW[name]), name).astype(np.float64)
