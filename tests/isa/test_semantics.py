"""Arithmetic: accuracy against float64 libm, corner cases by hand, and the NumPy replica bit for bit."""

import numpy as np
import pytest

from isa import formats, products, replica, semantics
from isa.opcodes import BF16, BY_NAME, COMPARISONS, E4M3, F16, F32, OPS, S8, S32, TYPES, code

ARITHMETIC = [op for op in OPS if op.unit in ("alu", "alu_large", "mufu") and op.name not in ("S2R", "SETP")]
NAN = 0x7FC00000


def run(op, typ, a, b=None, c=None, imm=0, from_type=0):
    a = np.ascontiguousarray(a, dtype=np.uint32)
    b, c = (a if x is None else np.ascontiguousarray(x, dtype=np.uint32) for x in (b, c))
    out = np.full(len(a) + 7, 0xDEADBEEF, dtype=np.uint32)
    semantics.alu(code(op), typ, from_type, a, 0, b, 0, c, 0, imm, out, 3, len(a))
    assert np.all(out[:3] == 0xDEADBEEF) and np.all(out[len(a) + 3:] == 0xDEADBEEF)
    return out[3:len(a) + 3]


def f(*values):
    return np.array(values, dtype=np.float32).view(np.uint32)


def lanes(seed, count=4000):
    """Bit patterns: random ones, and every pair of special numbers next to each other."""
    rng = np.random.default_rng(seed)
    special = np.concatenate([f(0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, 65520, 448.1, 2.5),
                              np.array([0x7F800001, 0xFFC00000, 0x80000000, 0x7FFFFFFF, 127, 128, 255],
                                       dtype=np.uint32)])
    normal = rng.standard_normal(count).astype(np.float32).view(np.uint32)
    return np.concatenate([rng.integers(0, 2**32, count, dtype=np.uint64).astype(np.uint32), normal,
                           rng.permutation(np.tile(special, 20))])


@pytest.mark.parametrize("op", ARITHMETIC, ids=lambda op: op.name)
def test_replica_is_equal_bit_for_bit(op):
    a, b, c = lanes(1), lanes(2), lanes(3)
    imm = {"SHL": 5, "SHR": 31, "UNPACK": 1}.get(op.name, 0xC0490FDB)
    for typ in op.types or (F32,):
        sources = range(len(TYPES)) if op.name == "CVT" else (0,)
        for source in sources:
            got = run(op.name, typ, a, b, c, imm, source)
            assert np.array_equal(got, replica.alu(op.code, typ, source, a, b, c, imm)), (typ, source)


@pytest.mark.parametrize("op", ["ADD", "MUL", "EXP2", "CVT", "SELECT", "FMA"])
def test_the_result_may_take_an_operands_place(op):
    a, b, c = lanes(4), lanes(5), lanes(6)
    expected = run(op, F32 if op != "CVT" else F16, a, b, c)
    out = a.copy()
    semantics.alu(code(op), F32 if op != "CVT" else F16, 0, out, 0, b, 0, c, 0, 0, out, 0, len(a))
    assert np.array_equal(out, expected)


# -- accuracy ---------------------------------------------------------------------------------
def inputs(op):
    rng = np.random.default_rng(7)
    if op == "EXP2":
        return np.concatenate([rng.uniform(-150, 128, 300_000), rng.uniform(-1, 1, 100_000),
                               rng.standard_normal(50_000) * 1e-6])
    if op == "TANH":
        return np.concatenate([rng.uniform(-10, 10, 300_000), rng.standard_normal(100_000) * 1e-3,
                               rng.standard_normal(50_000) * 1e-30])
    bits = rng.integers(1, 0x7F800000, 450_000).astype(np.uint32)
    if op == "RCP":
        bits |= rng.integers(0, 2, len(bits)).astype(np.uint32) << np.uint32(31)
    return bits.view(np.float32)


@pytest.mark.parametrize("op,exact", [("EXP2", np.exp2), ("TANH", np.tanh), ("RCP", lambda x: 1 / x),
                                      ("RSQRT", lambda x: 1 / np.sqrt(x))])
def test_functions_are_rounded_correctly_almost_always(op, exact):
    x = inputs(op).astype(np.float32)
    got = run(op, F32, x.view(np.uint32)).view(np.float32)
    with np.errstate(all="ignore"):
        reference = exact(x.astype(np.float64))  # libm in float64: wrong in the 53rd bit at most
        expected = reference.astype(np.float32)
        step = np.spacing(np.abs(expected))
        close = np.abs(got.astype(np.float64) - reference) <= step
    infinite = np.isinf(expected)
    assert np.array_equal(got[infinite], expected[infinite])
    assert np.all(close[~infinite])
    assert np.mean(got == expected) > 0.9999


def test_functions_at_their_corners():
    assert list(run("EXP2", F32, f(0, 1, -1, 127, 128, -149, -150, -151, np.inf, -np.inf, np.nan))) == list(
        f(1, 2, 0.5, 2.0**127, np.inf, 2.0**-149, 0, 0, np.inf, 0, np.nan))
    assert list(run("RSQRT", F32, f(4, 0.25, 1, 0, -0.0, -1, np.inf, -np.inf, np.nan, 2.0**-148))) == list(
        f(0.5, 2, 1, np.inf, -np.inf, np.nan, 0, np.nan, np.nan, 2.0**74))
    assert list(run("TANH", F32, f(0, -0.0, 20, -20, np.inf, -np.inf, np.nan, 1e-45))) == list(
        f(0, -0.0, 1, -1, 1, -1, np.nan, 1e-45))
    assert list(run("RCP", F32, f(2, -4, 0, -0.0, np.inf, -np.inf, np.nan))) == list(
        f(0.5, -0.25, np.inf, -np.inf, 0, -0.0, np.nan))


def test_exp2_of_whole_numbers_is_exact():
    whole = np.arange(-149, 128)
    assert np.array_equal(run("EXP2", F32, whole.astype(np.float32).view(np.uint32)).view(np.float32),
                          2.0 ** whole.astype(np.float64))


# -- by hand ----------------------------------------------------------------------------------
def test_maximum_and_minimum_of_nans_and_zeros():
    a, b = f(1, np.nan, 2, np.nan, 0.0, -0.0), f(np.nan, 3, 1, np.nan, -0.0, 0.0)
    assert list(run("MAX", F32, a, b)) == [*f(1, 3, 2), NAN, *f(0.0, 0.0)]
    assert list(run("MIN", F32, a, b)) == [*f(1, 3, 1), NAN, *f(-0.0, -0.0)]


def test_fma_rounds_once_to_f32():
    # (1 + 2**-12)**2 - 1 = 2**-11 + 2**-24: a product rounded to f32 first would lose the last term.
    a = f(1 + 2.0**-12)
    assert run("FMA", F32, a, a, f(-1))[0] == f(2.0**-11 + 2.0**-24)[0]


def test_select_looks_at_the_sign_bit_only():
    a = np.array([0, 0x80000000, 0x7FFFFFFF, 0xFFC00000], dtype=np.uint32)
    assert list(run("SELECT", F32, a, f(1, 1, 1, 1), f(2, 2, 2, 2))) == list(f(1, 2, 1, 2))


def test_integers_wrap():
    a = np.array([0x7FFFFFFF, 0x80000000, 65536], dtype=np.uint32)
    assert list(run("ADDI", S32, a, imm=1)) == [0x80000000, 0x80000001, 65537]
    assert list(run("MUL", S32, a, a)) == [1, 0, 0]
    assert list(run("NEG", S32, a)) == [0x80000001, 0x80000000, 0xFFFF0000]
    assert list(run("MAX", S32, a, np.zeros(3))) == [0x7FFFFFFF, 0, 65536]


def test_subnormals_are_kept():
    assert run("MULI", F32, f(2.0**-130), imm=int(f(0.5)[0]))[0] == f(2.0**-131)[0]
    assert run("CVT", F16, f(2.0**-24))[0] == 1


@pytest.mark.parametrize("typ", [F32, S32])
@pytest.mark.parametrize("cmp", range(len(COMPARISONS)))
def test_comparisons(cmp, typ):
    a, b = lanes(8)[:60], lanes(9)[:60]
    a[::5] = b[::5]
    a[:5], b[:5] = f(np.nan, 1, 0, np.nan, -1), f(1, np.nan, -0.0, np.nan, 2)
    mask = semantics.compare(cmp, typ, a, 0, b, 0, 60)
    assert [bool(mask >> i & 1) for i in range(60)] == replica.compare(cmp, typ, a, b).tolist()
    if typ == F32:
        assert [bool(mask >> i & 1) for i in range(3)] == [cmp == 5, cmp == 5, cmp in (1, 3, 4)]


# -- products against the replica --------------------------------------------------------------
@pytest.mark.parametrize("typ", [F16, BF16, E4M3, S8])
def test_mma_equals_its_replica(typ):
    rng = np.random.default_rng(typ)
    for _ in range(5):  # any bits at all: infinities and NaNs too
        registers = rng.integers(0, 2**32, (14, 32), dtype=np.uint64).astype(np.uint32)
        flat = registers.reshape(-1).copy()
        products.mma(typ, flat, 0, flat, 128, flat, 192, flat, 320, np.zeros(products.MMA_WORK))
        a, b, c = registers[:4], registers[4:6], registers[6:10]
        assert np.array_equal(flat.reshape(14, 32)[10:], replica.mma(typ, a, b, c))


@pytest.mark.parametrize("typ", [F16, S8])
def test_mxm_equals_its_replica(typ):
    rng = np.random.default_rng(typ)
    raw = formats.RAW[TYPES[typ]]
    limit = 1 << (8 * formats.item_bytes(TYPES[typ]))
    weights, x = rng.integers(0, limit, (48, 64)).astype(raw), rng.integers(0, limit, 64).astype(raw)
    out = np.zeros(48, dtype=np.uint32)
    if typ == F16:
        tile = np.zeros(48 * 64, dtype=np.float32)
        products.mxm_install_f16(weights.reshape(-1), 0, tile, 0, 48, 64)
        products.mxm_dot_f16(tile, 0, x, 0, out, 0, 48, 64, np.zeros(48 + 64))
    else:
        tile = np.zeros(48 * 64, dtype=np.int16)
        products.mxm_install_s8(weights.reshape(-1), 0, tile, 0, 48, 64)
        products.mxm_dot_s8(tile, 0, x, 0, out, 0, 48, 64, np.zeros(64, dtype=np.int16))
    assert np.array_equal(out, replica.mxm_dot(typ, weights, x))


def test_every_arithmetic_row_has_a_meaning():
    """A row that `alu` does not know would fall through to UNPACK; none may."""
    known = {name for name, value in vars(semantics).items() if isinstance(value, int) and name in BY_NAME}
    assert {op.name for op in ARITHMETIC} <= known
