"""The bundled GPU chips: one set of keys, and peaks that data sheets state."""

from __future__ import annotations

import pytest

from emulator.chip import chip_names, load_chip
from emulator.dram.config import DramConfig
from emulator.gpu.memory_layout import read_numbers
from emulator.gpu.timing import SUB_CORES, read_timing

GPUS = [name for name in chip_names() if load_chip(name).kind == "gpu"]
MMA_FLOP = 2 * 16 * 8 * 16  # of one m16n8k16


def test_all_gpus_have_the_same_numbers() -> None:
    assert {"toy_gpu", "a100_sxm", "h100_sxm", "h200_sxm"} <= set(GPUS)
    first = set(load_chip(GPUS[0]).numbers)
    for name in GPUS[1:]:
        assert set(load_chip(name).numbers) ^ first == set(), name


@pytest.mark.parametrize(("name", "dram_gb_s", "l2_mib", "pins"), [
    ("a100_sxm", 2039, 40, 5120),  # 5120 pins x 3.186 Gb/s
    ("h100_sxm", 3352, 50, 5120),  # 5120 pins x 5.238 Gb/s
    ("h200_sxm", 4800, 60, 6144),  # 6144 pins x 6.25 Gb/s
])  # fmt: skip
def test_memory_has_the_stated_size_and_rate(name: str, dram_gb_s: float, l2_mib: int, pins: int) -> None:
    chip = load_chip(name)
    config, n = read_numbers(chip)
    assert DramConfig.from_chip(chip) == config
    assert config.peak_bytes_per_cycle * chip["dram.clock_hz"] / 1e9 == pytest.approx(dram_gb_s, rel=0.0005)
    assert n["slices"] * n["sets"] * n["ways"] * 128 == l2_mib << 20
    bits = 64 if name == "a100_sxm" else 32  # of a pseudo-channel: HBM2E, HBM3
    assert config.total_pseudo_channels * bits == pins


def test_a100_multiplies_at_its_stated_312_tflops() -> None:
    """108 SMs x 4 sub-cores x 4096 FLOP in 8 cycles x 1.41 GHz = 311.9e12."""
    chip = load_chip("a100_sxm")
    t = read_timing(chip)
    flop = t.sms * SUB_CORES * MMA_FLOP / t.tensor_interval * chip.clock_hz
    assert flop == pytest.approx(312e12, rel=0.001)


def test_h200_is_h100_with_another_memory() -> None:
    """Nothing of it is fitted to its own kernels: only cache size and DRAM differ in value."""
    h100, h200 = load_chip("h100_sxm"), load_chip("h200_sxm")
    differ = {key for key in h100.numbers if h100[key] != h200[key]}
    assert "l2.slices" in differ and "dram.channels" in differ and "dram.clock_hz" in differ
    assert all(key == "l2.slices" or key.startswith("dram.") for key in differ), differ
