"""The floor against hand arithmetic: bytes once, operations once, at the chip's peaks."""

from __future__ import annotations

import pytest

from emulator.chip import load_chip
from programs.decode.stored import SCHEMES
from programs.models.checkpoint import load_model
from tools.floor import decode_work, floor, hbm_bytes_per_second, l2_capacity_bytes
from tools.where import told_bound


@pytest.fixture(scope="module")
def layer():
    """One layer of llama-3.1-8b, int8, context 1024."""
    return decode_work(load_model("llama-3.1-8b").config, SCHEMES["int8"], 1, 1024, (0, 1))


def test_work_of_a_llama_layer(layer) -> None:
    # qkv 6144 x 4096, o 4096 x 4096, gate and up 28672 x 4096, down 4096 x 14336
    assert layer.weights == 6144 * 4096 + 4096 * 4096 + 28672 * 4096 + 4096 * 14336 == 218_103_808
    # one fp32 scale a row; norm weights are folded into the matrices
    assert layer.weight_bytes == 218_103_808 + 4 * (6144 + 4096 + 28672 + 4096)
    # K and V: 2 x 1024 positions x 8 heads x 128 x 2 bytes
    assert layer.kv_read_bytes == 2 * 1024 * 8 * 128 * 2 == 4_194_304
    assert layer.kv_write_bytes == 4096
    assert layer.embedding_bytes == 0
    # scores and values: 2 x 1024 positions x 4096 channels
    assert layer.attention_macs == 2 * 1024 * 4096


def test_weight_ingest_bounds_the_lpu(layer) -> None:
    """(218,103,808 weights + 4,194,304 bytes of K and V) / 20,480 bytes a cycle at 900 MHz = 12.06 us."""
    found = floor(load_chip("groq_tsp_v1"), layer, SCHEMES["int8"])
    assert found.bound_by == "weight ingest"
    assert found.seconds == pytest.approx((218_103_808 + 4_194_304) / 20_480 / 900e6, rel=1e-12)


def test_casts_bound_the_lpu_when_8_bit_weights_are_cast(layer) -> None:
    """8 large ALUs x 320 lanes = 2,560 weights a cycle."""
    found = floor(load_chip("groq_tsp_v1"), layer, SCHEMES["cast8"])
    assert found.bound_by == "casts in the VXM"
    assert found.seconds == pytest.approx(218_103_808 / 2560 / 900e6, rel=1e-12)


def test_hbm_bounds_the_gpu_when_the_weights_do_not_fit_the_l2(layer) -> None:
    """160 pseudo-channels x 32 bytes every 2 cycles of 1309.5 MHz = 3.352 TB/s."""
    chip = load_chip("h100_sxm")
    assert hbm_bytes_per_second(chip) == 80 * 2 * 32 * 1_309_500_000 // 2 == 3_352_320_000_000
    found = floor(chip, layer, SCHEMES["int8"])
    assert found.bound_by == "HBM read"
    assert found.seconds == pytest.approx((layer.weight_bytes + 4_194_304 + 4096) / 3.35232e12, rel=1e-12)


def test_what_fits_in_the_l2_need_not_come_from_hbm() -> None:
    chip = load_chip("h100_sxm")
    work = decode_work(load_model("tiny_kjv").config, SCHEMES["fp16"], 1, 23)
    assert l2_capacity_bytes(chip) == 80 * 256 * 20 * 128
    assert work.memory_bytes < l2_capacity_bytes(chip)
    assert "HBM read" not in dict(floor(chip, work, SCHEMES["fp16"]).parts)


def test_gpus_that_share_the_work_have_the_l2_of_all(layer) -> None:
    """One layer of llama-3.1-8b in int8, 222 MB: eight shares of 28 MB fit, two of 111 MB do not."""
    chip = load_chip("h100_sxm")
    parts = {ranks: dict(floor(chip, layer, SCHEMES["int8"], 1, ranks).parts) for ranks in (2, 8)}
    assert "HBM read" in parts[2] and "HBM read" not in parts[8]
    assert parts[2]["L2 read"] == pytest.approx(4 * parts[8]["L2 read"])


def test_a_step_far_above_its_floor_is_bound_by_latency(layer) -> None:
    found = floor(load_chip("h100_sxm"), layer, SCHEMES["int8"])
    assert told_bound(found, found.seconds * 1.9) == "HBM read"
    assert told_bound(found, found.seconds * 2.1) == "latency"
