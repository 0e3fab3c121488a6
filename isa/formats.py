"""Number formats: NumPy arrays <-> raw bits, and raw bits <-> bytes in memory.

Raw bits are uint32 (f32, s32), uint16 (f16, bf16) or uint8 (e4m3, s8, u8). Encoding rounds to
nearest even, once; integers saturate and take 0 for a NaN, f16 and bf16 overflow to infinity,
e4m3 (fp8, no infinity) saturates at 448, as the CVT instruction does. NaNs become one pattern.
isa/semantics.py holds the same rules for compiled code; tests compare both with ml_dtypes.
"""

from __future__ import annotations

import numpy as np

from isa.opcodes import TYPE_BYTES, TYPES

RAW = {"f32": np.uint32, "s32": np.uint32, "f16": np.uint16, "bf16": np.uint16,
       "e4m3": np.uint8, "s8": np.uint8, "u8": np.uint8}
INTEGERS = ("s32", "s8", "u8")
INTEGER_RANGE = {"s32": (-(2**31), 2**31 - 1), "s8": (-128, 127), "u8": (0, 255)}

NAN_BITS = {"f32": 0x7FC00000, "f16": 0x7E00, "bf16": 0x7FC0, "e4m3": 0x7F}
HIGHEST = {"f32": (2 - 2.0**-23) * 2.0**127, "bf16": (2 - 2.0**-7) * 2.0**127, "f16": 65504.0, "e4m3": 448.0}


def item_bytes(dtype: str) -> int:
    """Bytes of one element of a number type."""
    return TYPE_BYTES[TYPES.index(dtype)]


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Raw bits of `values` (any real or integer array) in `dtype`, same shape; one rounding."""
    values = np.asarray(values)
    if dtype in INTEGERS:
        return _encode_integer(values, dtype)
    if dtype == "f16":
        with np.errstate(over="ignore", invalid="ignore"):
            half = values.astype(np.float16)
        return np.where(np.isnan(half), np.uint16(NAN_BITS["f16"]), half.view(np.uint16))
    single = _to_odd_f32(values) if dtype != "f32" else _to_f32(values)
    bits = single.view(np.uint32)
    if dtype == "f32":
        return np.where(np.isnan(single), np.uint32(NAN_BITS["f32"]), bits)
    if dtype == "bf16":
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.where(np.isnan(single), np.uint16(NAN_BITS["bf16"]), rounded.astype(np.uint16))
    return _encode_e4m3(single)


def check_range(values: np.ndarray, dtype: str) -> None:
    """Raise ValueError, with the first such value, for values that `encode` would have to replace in `dtype`."""
    values = np.asarray(values)
    low, high = INTEGER_RANGE[dtype] if dtype in INTEGERS else (-HIGHEST[dtype], HIGHEST[dtype])
    good = (values >= low) & (values <= high)
    if dtype not in INTEGERS:
        good |= np.isnan(values)
        if dtype != "e4m3":
            good |= np.isinf(values)
    if not good.all():
        span = f"{low} to {high}" if dtype in INTEGERS else f"{low:g} to {high:g}"
        raise ValueError(f"holds {values[~good].reshape(-1)[0]}, and {dtype} goes from {span}")


def decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Values of raw bits: float32 for float types, int32 for integers; exact, same shape."""
    raw = np.asarray(raw, dtype=RAW[dtype], order="C")
    if dtype == "f32":
        return raw.view(np.float32)
    if dtype == "s32":
        return raw.view(np.int32)
    if dtype == "s8":
        return raw.view(np.int8).astype(np.int32)
    if dtype == "u8":
        return raw.astype(np.int32)
    if dtype == "f16":
        return raw.view(np.float16).astype(np.float32)
    if dtype == "bf16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return _E4M3[raw]


def to_bytes(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Raw bits as little-endian uint8 [..., bytes of an element]."""
    raw = np.asarray(raw, dtype=RAW[dtype], order="C")
    little = raw.astype(raw.dtype.newbyteorder("<"), copy=False)
    return little[..., None].view(np.uint8)


def from_bytes(data: np.ndarray, dtype: str) -> np.ndarray:
    """Raw bits from little-endian uint8 [..., bytes of an element]."""
    data = np.asarray(data, dtype=np.uint8, order="C")
    return data.view(np.dtype(RAW[dtype]).newbyteorder("<"))[..., 0].astype(RAW[dtype], copy=False)


def _to_f32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return np.asarray(values, dtype=np.float32, order="C")


def _to_odd_f32(values: np.ndarray) -> np.ndarray:
    """float32 of `values`, rounded to odd, so that a second rounding to fewer bits is a single one."""
    if values.dtype in (np.float32, np.float16):
        return _to_f32(values)
    wide = values.astype(np.float64)
    single = _to_f32(wide)
    back = single.astype(np.float64)
    bits = single.view(np.uint32)
    away = np.abs(back) > np.abs(wide)  # rounded away from zero: step back (also from infinity)
    inexact = (back != wide) & ~np.isnan(wide)
    return np.where(inexact, (bits - away) | np.uint32(1), bits).astype(np.uint32).view(np.float32)


def _encode_integer(values: np.ndarray, dtype: str) -> np.ndarray:
    low, high = INTEGER_RANGE[dtype]
    if values.dtype.kind == "f":
        rounded = np.rint(np.where(np.isnan(values), 0, values).astype(np.float64))
        whole = np.clip(rounded, low, high).astype(np.int64)
    else:
        whole = np.clip(values.astype(np.int64), low, high)
    mask = (1 << (8 * item_bytes(dtype))) - 1
    return (whole & mask).astype(RAW[dtype])


def _encode_e4m3(single: np.ndarray) -> np.ndarray:
    bits = single.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    absolute = magnitude.view(np.float32)
    # Normal numbers: drop 20 mantissa bits to nearest even and move the exponent bias from 127 to 7.
    normal = (magnitude + np.uint32(0x7FFFF) + ((magnitude >> np.uint32(20)) & np.uint32(1))) >> np.uint32(20)
    normal = np.minimum(normal.astype(np.int64) - (120 << 3), 0x7E)
    # Below 2**-6 the step is 2**-9: 2**14 has that unit in the last place, so an addition rounds.
    moved = np.where(magnitude < 0x3F800000, absolute, np.float32(0)) + np.float32(16384)
    small = moved.astype(np.float32).view(np.uint32).astype(np.int64) - 0x46800000
    code = np.where(magnitude >= 0x3C800000, normal, small)
    code = np.where(magnitude > 0x7F800000, NAN_BITS["e4m3"], code | ((bits >> np.uint32(24)) & np.uint32(0x80)))
    return code.astype(np.uint8)


def _e4m3_table() -> np.ndarray:
    """Value of each of the 256 e4m3 codes: sign 1, exponent 4 (bias 7), mantissa 3; 0x7f is NaN."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    value = np.where((code & 0x7F) == 0x7F, np.nan, value)
    table = np.where(code & 0x80, -value, value).astype(np.float32)
    bits = np.where(np.isnan(table), np.uint32(NAN_BITS["f32"]), table.view(np.uint32))
    return bits.astype(np.uint32).view(np.float32)


_E4M3 = _e4m3_table()
