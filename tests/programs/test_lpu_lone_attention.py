"""One layer's attention by itself on the LPU, against a float64 softmax."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.lpu.geometry import geometry
from emulator.run import load
from programs.errors import CapacityError
from programs.lpu.lone_attention import AttentionValues, attention_config, attention_program
from programs.lpu.partition import attention_layout

CHIP = load_chip("groq_tsp_v1")
LANES = geometry(CHIP).lanes


def rotated(x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Rotate-half RoPE over the last axis."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1)


def attention(v: AttentionValues, angle: np.ndarray) -> np.ndarray:
    """float64 [batch, q_heads, head_dim], from the fp16 values that the machine stores."""
    half = np.float16
    q = rotated(v.q, angle).astype(half).astype(np.float64)
    k, values = v.k.astype(half).astype(np.float64), v.v.astype(half).astype(np.float64)
    k[:, -1] = rotated(v.k[:, -1], angle).astype(half)
    group = q.shape[1] // k.shape[2]
    k, values = np.repeat(k, group, axis=2), np.repeat(values, group, axis=2)
    scores = np.einsum("bhd,bphd->bhp", q, k) / np.sqrt(q.shape[2])
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return np.einsum("bhp,bphd->bhd", weights / weights.sum(axis=2, keepdims=True), values)


@pytest.mark.parametrize(("batch", "positions", "q_heads", "kv_heads", "head_dim"), [
    (1, 1, 2, 1, 8), (1, 17, 3, 1, 10), (2, 40, 4, 2, 16), (1, 330, 6, 2, 64), (1, 641, 2, 2, 32),
    # several V vectors, at the first and last positions of blocks of 16 and tiles of 320
    (1, 16, 6, 6, 128), (1, 320, 5, 5, 128), (2, 321, 6, 6, 128), (1, 337, 12, 6, 192), (1, 640, 12, 4, 128),
    (1, 323, 42, 42, 128),  # 21 V vectors: one more than superlanes
])  # fmt: skip
def test_attention_follows_the_softmax(batch: int, positions: int, q_heads: int, kv_heads: int, head_dim: int) -> None:
    """fp16 probabilities and sums of at most 641: 2^-11 relative each, 3e-3 of values up to about 4 in all."""
    r = np.random.default_rng(positions)
    shape = (batch, positions, kv_heads, head_dim)
    values = AttentionValues(r.standard_normal((batch, q_heads, head_dim)), r.standard_normal(shape),
                             r.standard_normal(shape))
    program = attention_program(CHIP, batch, positions, q_heads, kv_heads, head_dim, values)
    machine = load(program, CHIP)
    assert machine.step().cycles == program.meta["predicted_cycles"]
    config = attention_config(q_heads, kv_heads, head_dim, positions)
    layout = attention_layout(config, LANES)
    out = machine.read("out").reshape(len(layout.out), batch, LANES)
    found = np.full((batch, q_heads * head_dim), np.nan)
    for vector, lanes in zip(layout.out, out):
        real = vector.columns >= 0
        found[:, vector.columns[real]] = lanes[:, : len(real)][:, real]
    want = attention(values, config.rope_frequencies() * (positions - 1))
    assert np.abs(found.reshape(want.shape) - want).max() < 3e-3


def test_values_and_timing_only_take_the_same_cycles() -> None:
    r = np.random.default_rng(1)
    values = AttentionValues(r.random((1, 4, 16)), r.random((1, 40, 2, 16)), r.random((1, 40, 2, 16)))
    timed, real = attention_program(CHIP, 1, 40, 4, 2, 16), attention_program(CHIP, 1, 40, 4, 2, 16, values)
    assert load(timed, CHIP).step().cycles == load(real, CHIP).step().cycles


def test_more_positions_take_more_loads() -> None:
    """K and V enter the planes: 1,024 positions of 8 heads of 128 have 2 x 1,024 x 1,024 x 2 bytes, padded to tiles."""
    short, long = (load(attention_program(CHIP, 1, n, 32, 8, 128), CHIP).step() for n in (320, 1024))
    assert long.cycles > short.cycles
    assert long.traffic["mxm_ingest"] >= 2 * 1024 * 1024 * 2


@pytest.mark.parametrize(("numbers", "message"), [
    ((1, 16, 3, 2, 8), "q_heads 3 is no multiple of kv_heads 2"),
    ((1, 16, 2, 2, 7), "head_dim 7 is odd"),
    ((1, 16, 2, 2, 322), "heads of 322 do not fit a vector of 320 lanes"),
])  # fmt: skip
def test_impossible_heads_are_refused(numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_program(CHIP, *numbers)


def test_a_cache_that_does_not_fit_is_refused() -> None:
    """2 x 2 B x 1,024 channels a position, and 6 B of scores a query head: 4,288 B."""
    with pytest.raises(CapacityError, match="64 x 4096 positions take at least 1,125 MB and groq_tsp_v1 has 230.7 MB"):
        attention_program(CHIP, 64, 4096, 32, 8, 128)
    with pytest.raises(CapacityError, match="a KV cache of 1 x 250000 positions needs .* SRAM words"):
        attention_program(CHIP, 1, 250000, 1, 1, 170)  # half of the lanes of K are padding
    for numbers in ((1 << 31, 1, 1, 1, 2), (1, 1 << 31, 1, 1, 2), (1, 1, 1 << 31, 1, 2)):
        with pytest.raises(CapacityError):
            attention_program(CHIP, *numbers)
