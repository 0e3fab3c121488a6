"""Matrix products against plain NumPy written from the PTX fragment tables and the MXM's definition."""

import numpy as np
import pytest

from isa import formats, products
from isa.opcodes import BF16, E4M3, F16, S8, TYPES


def fragments(typ, a, b, c):
    """Registers [14, 32] of A (4), B (2), C (4), D (4) from matrices of raw bits, as PTX lists them."""
    bits = 8 * formats.item_bytes(TYPES[typ])
    parts = 32 // bits
    registers = np.zeros((14, 32), dtype=np.uint32)
    for lane in range(32):
        group, tig = lane // 4, lane % 4
        for j in range(4):
            for part in range(parts):
                k = tig * parts + part + (4 * parts if j >= 2 else 0)
                registers[j, lane] |= np.uint32(int(a[group + 8 * (j % 2), k]) << (bits * part))
        for j in range(2):
            for part in range(parts):
                k = tig * parts + part + 4 * parts * j
                registers[4 + j, lane] |= np.uint32(int(b[k, group]) << (bits * part))
        for j in range(4):
            registers[6 + j, lane] = c[group + 8 * (j // 2), 2 * tig + j % 2]
    return registers


def result(registers, at=10):
    """D [16, 8] raw bits from registers at .. at + 3."""
    d = np.zeros((16, 8), dtype=np.uint32)
    for lane in range(32):
        for j in range(4):
            d[lane // 4 + 8 * (j // 2), 2 * (lane % 4) + j % 2] = registers[at + j, lane]
    return d


def sequential(a, b, c):
    """float64 sums in k order that start from c, rounded once to f32."""
    total = c.astype(np.float64)
    for k in range(a.shape[1]):
        total = total + a[:, k:k + 1].astype(np.float64) * b[k:k + 1].astype(np.float64)
    return total.astype(np.float32)


def matrices(typ, seed):
    rng = np.random.default_rng(seed)
    depth = 16 if typ in (F16, BF16) else 32
    name = TYPES[typ]
    a, b = (formats.encode(rng.standard_normal(s) * 20, name) for s in ((16, depth), (depth, 8)))
    c = rng.integers(-(2**31), 2**31, (16, 8)).astype(np.int32) if typ == S8 else \
        rng.standard_normal((16, 8)).astype(np.float32)
    return a, b, c


@pytest.mark.parametrize("typ", [F16, BF16, E4M3, S8])
@pytest.mark.parametrize("seed", range(3))
def test_mma_is_the_ptx_matrix_product(typ, seed):
    a, b, c = matrices(typ, seed)
    registers = fragments(typ, a, b, c.view(np.uint32))
    flat = registers.reshape(-1).copy()
    products.mma(typ, flat, 0, flat, 4 * 32, flat, 6 * 32, flat, 10 * 32, np.zeros(products.MMA_WORK))
    got = result(flat.reshape(14, 32))
    x, y = formats.decode(a, TYPES[typ]), formats.decode(b, TYPES[typ])
    if typ == S8:
        expected = (c.astype(np.int64) + x.astype(np.int64) @ y.astype(np.int64)) & 0xFFFFFFFF
        assert np.array_equal(got, expected)
    else:
        assert np.array_equal(got.view(np.float32), sequential(x, y, c))


def test_mma_without_c_starts_from_zero_and_c_may_be_overwritten():
    a, b, c = matrices(F16, 5)
    flat = fragments(F16, a, b, c.view(np.uint32)).reshape(-1)
    work = np.zeros(products.MMA_WORK)
    x, y = formats.decode(a, "f16"), formats.decode(b, "f16")
    in_place = flat.copy()
    products.mma(F16, flat, 0, flat, 128, flat, 192, in_place, 192, work)
    assert np.array_equal(result(in_place.reshape(14, 32), 6).view(np.float32), sequential(x, y, c))
    products.mma(F16, flat, 0, flat, 128, flat, -1, flat, 320, work)
    assert np.array_equal(result(flat.reshape(14, 32)).view(np.float32), sequential(x, y, np.zeros((16, 8))))


def test_mma_nan_has_one_pattern():
    a, b, c = matrices(F16, 6)
    a[3, 2] = 0x7C00  # infinity times zero
    b[2, :] = 0
    flat = fragments(F16, a, b, c.view(np.uint32)).reshape(-1)
    products.mma(F16, flat, 0, flat, 128, flat, 192, flat, 320, np.zeros(products.MMA_WORK))
    assert np.all(result(flat.reshape(14, 32))[3] == 0x7FC00000)


@pytest.mark.parametrize("rows,lanes", [(320, 320), (16, 16), (48, 80)])
def test_mxm_f16_sums_in_lane_order(rows, lanes):
    rng = np.random.default_rng(rows)
    weights = formats.encode(rng.standard_normal((rows, lanes)) * 10.0 ** rng.integers(-6, 4, (rows, lanes)), "f16")
    x = formats.encode(rng.standard_normal(lanes), "f16")
    tile, out = np.zeros(rows * lanes + 3, dtype=np.float32), np.zeros(rows + 2, dtype=np.uint32)
    products.mxm_install_f16(weights.reshape(-1), 0, tile, 3, rows, lanes)
    products.mxm_dot_f16(tile, 3, x, 0, out, 2, rows, lanes, np.zeros(rows + lanes))
    expected = sequential(formats.decode(weights, "f16"), formats.decode(x, "f16")[:, None], np.zeros((rows, 1)))
    assert np.array_equal(out[2:].view(np.float32), expected[:, 0])


@pytest.mark.parametrize("rows,lanes", [(320, 320), (16, 16), (48, 80)])
def test_mxm_s8_is_exact(rows, lanes):
    rng = np.random.default_rng(rows)
    weights = rng.integers(-128, 128, (rows, lanes)).astype(np.int8)
    weights[0], x = -128, rng.integers(-128, 128, lanes).astype(np.int8)
    x[:] = np.where(rng.random(lanes) < 0.5, x, -128)
    tile, out = np.zeros(rows * lanes + 3, dtype=np.int16), np.zeros(rows + 2, dtype=np.uint32)
    products.mxm_install_s8(weights.view(np.uint8).reshape(-1), 0, tile, 3, rows, lanes)
    products.mxm_dot_s8(tile, 3, x.view(np.uint8), 0, out, 2, rows, lanes, np.zeros(lanes, dtype=np.int16))
    assert np.array_equal(out[2:].view(np.int32), weights.astype(np.int64) @ x.astype(np.int64))
