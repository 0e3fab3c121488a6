"""Number formats against ml_dtypes: every 16- and 8-bit pattern, and the rounding of many f32."""

import ml_dtypes
import numpy as np
import pytest

from isa import formats, semantics
from isa.opcodes import BF16, E4M3, F16, F32, S8, S32, TYPES, U8

REFERENCE = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16),
             "e4m3": np.dtype(ml_dtypes.float8_e4m3fn)}


def convert(typ, from_type, raw):
    """CVT of raw lanes, as the machines compute it."""
    lanes = np.ascontiguousarray(raw, dtype=np.uint32)
    out = np.empty_like(lanes)
    semantics.alu(semantics.CVT, typ, from_type, lanes, 0, lanes, 0, lanes, 0, 0, out, 0, len(lanes))
    return out


def awkward_f32():
    """Random bit patterns (all exponents, NaNs, infinities), and every neighbourhood of a rounding boundary."""
    rng = np.random.default_rng(1)
    bits = [rng.integers(0, 2**32, 400_000, dtype=np.uint64).astype(np.uint32)]
    for name in REFERENCE:  # halfway points between neighbours, and one step to each side
        raw = np.arange(1 << (8 * formats.item_bytes(name)), dtype=np.uint32)
        values = formats.decode(raw, name)
        values = np.sort(values[np.isfinite(values)]).astype(np.float64)
        half = ((values[1:] + values[:-1]) / 2).astype(np.float32).view(np.uint32)
        bits += [half, half + np.uint32(1), half - np.uint32(1)]
    return np.concatenate(bits)


def same_but_nan(got, expected):
    """Equal bit for bit, or NaN on both sides."""
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nan)
    kind = np.uint32 if got.dtype == np.float32 else np.dtype(f"u{got.dtype.itemsize}")
    assert np.array_equal(got.view(kind)[~nan], expected.view(kind)[~nan])


@pytest.mark.parametrize("name", REFERENCE)
def test_every_pattern_decodes_as_ml_dtypes(name):
    size = formats.item_bytes(name)
    raw = np.arange(1 << (8 * size)).astype(formats.RAW[name])
    expected = raw.view(REFERENCE[name]).astype(np.float32)
    same_but_nan(formats.decode(raw, name), expected)
    same_but_nan(convert(F32, TYPES.index(name), raw).view(np.float32), expected)


@pytest.mark.parametrize("name", REFERENCE)
def test_every_pattern_survives_decoding_and_encoding(name):
    raw = np.arange(1 << (8 * formats.item_bytes(name))).astype(formats.RAW[name])
    values = formats.decode(raw, name)
    number = ~np.isnan(values)
    assert np.array_equal(formats.encode(values, name)[number], raw[number])
    assert np.array_equal(convert(TYPES.index(name), F32, values.view(np.uint32))[number], raw[number])


@pytest.mark.parametrize("name", REFERENCE)
def test_f32_is_rounded_as_ml_dtypes_does(name):
    bits = awkward_f32()
    values = bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        limit = values if name != "e4m3" else np.clip(values, -448, 448)  # ml_dtypes gives NaN above 448
        expected = limit.astype(REFERENCE[name])
    for raw in (formats.encode(values, name), convert(TYPES.index(name), F32, bits)):
        same_but_nan(raw.astype(formats.RAW[name]).view(REFERENCE[name]).astype(np.float32),
                     expected.astype(np.float32))
        nan = np.isnan(values)
        assert np.all(raw[nan] == formats.NAN_BITS[name])


@pytest.mark.parametrize("name,low,high", [("s8", -128, 127), ("u8", 0, 255), ("s32", -(2**31), 2**31 - 1)])
def test_f32_to_integer_rounds_to_even_and_saturates(name, low, high):
    values = np.concatenate([awkward_f32().view(np.float32), np.arange(-600, 600, dtype=np.float32) / 2])
    whole = np.clip(np.rint(np.nan_to_num(values, nan=0.0, posinf=3e9, neginf=-3e9).astype(np.float64)), low, high)
    mask = (1 << (8 * formats.item_bytes(name))) - 1
    expected = whole.astype(np.int64) & mask
    assert np.array_equal(formats.encode(values, name).astype(np.int64), expected)
    assert np.array_equal(convert(TYPES.index(name), F32, values.view(np.uint32)).astype(np.int64), expected)


@pytest.mark.parametrize("name", REFERENCE)
def test_s32_is_rounded_once(name):
    rng = np.random.default_rng(2)
    whole = np.concatenate([rng.integers(-(2**31), 2**31, 100_000), np.arange(-3000, 3000),
                            [(1 << 30) + (1 << 22), (1 << 30) + (1 << 22) + 1, (1 << 30) + (3 << 22) - 1]])
    raw = (whole & 0xFFFFFFFF).astype(np.uint32)
    values = whole.astype(np.float64) if name != "e4m3" else np.clip(whole, -448, 448).astype(np.float64)
    if name == "f16":
        with np.errstate(over="ignore"):
            expected = values.astype(np.float16).view(np.uint16)
    elif name == "bf16":  # ml_dtypes rounds twice from float64; 8 significant bits by integer arithmetic instead
        expected = np.array([_round_to_bf16(int(v)) for v in whole], dtype=np.uint16)
    else:
        expected = values.astype(np.float32).astype(REFERENCE[name]).view(np.uint8)
    assert np.array_equal(convert(TYPES.index(name), S32, raw), expected)
    assert np.array_equal(formats.encode(whole, name), expected)


def _round_to_bf16(value):
    magnitude, shift = abs(value), max(abs(value).bit_length() - 8, 0)
    kept, rest, half = magnitude >> shift, magnitude & ((1 << shift) - 1), (1 << shift) >> 1
    kept += shift > 0 and (rest > half or (rest == half and kept & 1))
    bits = int(np.float32(float(kept << shift)).view(np.uint32)) >> 16
    return bits | (0x8000 if value < 0 else 0)


def test_integers_convert_exactly():
    raw = np.arange(256, dtype=np.uint32)
    signed = np.where(raw > 127, raw.astype(np.int64) - 256, raw.astype(np.int64))
    assert np.array_equal(convert(F32, S8, raw).view(np.float32), signed)
    assert np.array_equal(convert(F16, S8, raw), signed.astype(np.float16).view(np.uint16))
    assert np.array_equal(convert(S32, S8, raw).view(np.int32), signed)
    assert np.array_equal(convert(F32, U8, raw).view(np.float32), raw)
    assert np.array_equal(convert(S8, U8, raw), np.minimum(raw, 127))
    assert np.array_equal(convert(U8, S8, raw), np.maximum(signed, 0))
    wide = np.array([-(2**31), -129, -128, -1, 0, 127, 128, 255, 256, 2**31 - 1], dtype=np.int32)
    assert np.array_equal(convert(S8, S32, wide.view(np.uint32)).astype(np.uint8).view(np.int8),
                          np.clip(wide, -128, 127))
    assert np.array_equal(convert(U8, S32, wide.view(np.uint32)), np.clip(wide, 0, 255))


def test_upper_bits_of_narrow_sources_do_not_matter():
    raw = np.arange(65536, dtype=np.uint32)
    for typ, mask in ((F16, 0xFFFF), (BF16, 0xFFFF), (E4M3, 0xFF), (S8, 0xFF), (U8, 0xFF)):
        assert np.array_equal(convert(F32, typ, raw | np.uint32(0xABCD0000)),
                              convert(F32, typ, raw & np.uint32(mask)))


@pytest.mark.parametrize("name", TYPES)
def test_bytes_round_trip(name):
    raw = np.arange(24).astype(formats.RAW[name]).reshape(4, 6)
    data = formats.to_bytes(raw, name)
    assert data.shape == (4, 6, formats.item_bytes(name)) and data.dtype == np.uint8
    assert data[1, 2, 0] == 8
    assert np.array_equal(formats.from_bytes(data, name), raw)


def test_float64_is_rounded_once():
    just_above_half = np.array([1 + 2.0**-9 + 2.0**-40])  # f32 would drop the last term and tie to even
    assert formats.encode(just_above_half, "bf16")[0] == 0x3F80 + 0  # below the halfway 2**-8
    value = np.array([1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-8, 65520.0 - 2.0**-20, 1e300, -1e300])
    assert list(formats.encode(value, "bf16")) == [0x3F81, 0x3F80, 0x4780, 0x7F80, 0xFF80]
    assert list(formats.encode(value, "f16")[2:]) == [0x7BFF, 0x7C00, 0xFC00]
    assert list(formats.encode(value, "e4m3")[2:]) == [0x7E, 0x7E, 0xFE]
