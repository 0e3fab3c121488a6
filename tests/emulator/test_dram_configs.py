"""The DRAMs that ship with the package, against what other simulators and closed forms give for them."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.chip import ChipError, dram_names, load_chip, load_dram
from emulator.dram.alone import simulate
from emulator.dram.config import DramConfig

N = 200_000


def config(name: str) -> DramConfig:
    return DramConfig.from_chip(load_dram(name))


def stream(dram: DramConfig, n: int = N) -> float:
    """Share of the peak that 64-byte reads in order reach."""
    return simulate(dram, np.arange(n) * 64, size=64).efficiency


def scattered(dram: DramConfig, size: int, n: int = N) -> float:
    """Share of the peak that random reads of the whole memory reach."""
    at = np.random.default_rng(5).integers(0, dram.row_capacity // size, n) * size
    return simulate(dram, at, size=size).efficiency


def one_channel(name: str) -> DramConfig:
    return config(name).but(channels=1, refresh="none")


@pytest.mark.parametrize("name", dram_names())
def test_every_dram_says_its_density_refresh_and_map(name):
    dram = load_dram(name)
    c = DramConfig.from_chip(dram)
    assert dram["dram.capacity_bytes"] == dram["dram.density_gbit"] * c.channels << 27
    assert dram["dram.capacity_bytes"] == c.row_capacity
    assert c.refresh == "all_bank" and c.refi_ab > 0 and c.rfc_ab > 0 and c.refi > 0 and c.rfc > 0
    assert c.ccd_s >= c.burst  # data of two bursts never overlap on the bus
    clock = dram["dram.clock_hz"]
    assert c.refi_ab / clock == pytest.approx(3900e-9, rel=0.001)
    density = {2: 160e-9, 4: 260e-9, 8: 260e-9 if "dramsim3" in name else 350e-9}
    assert c.rfc_ab / clock == pytest.approx(density[dram["dram.density_gbit"]], rel=0.005)


def test_dramsim3_sequential_reads():
    # DRAMsim3 itself: 92 % of peak. Closed form: 1 - 260 / 3900 = 93.3 %, less closing and opening the rows again.
    assert stream(config("dramsim3_hbm2_8gb_x128")) == pytest.approx(0.92, abs=0.02)


def test_dramsim3_random_reads():
    # DRAMsim3 itself: 24 %. Closed form: four 64-byte reads (2 cycles each) in tFAW 30, less refresh = 24.9 %.
    assert scattered(config("dramsim3_hbm2_8gb_x128"), 64) == pytest.approx(0.24, abs=0.03)


@pytest.mark.parametrize("name, share", [("hbm2_2g0", 0.945), ("hbm3_6g4_jesd", 0.916), ("hbm3_6g4_att", 0.916)])
def test_refresh_of_all_banks_is_what_a_stream_loses(name, share):
    # Ramulator 2.1: 94.5 and 91.6 %, bank-interleaved rows.
    c = config(name)
    assert stream(c) == pytest.approx(share, abs=0.015)
    # Hand: tRFC, PRE + ACT + RD around it, of every tREFI. A bank may be opened and read while others still open.
    lost = (c.rfc_ab + c.rp + c.rcd_rd + c.rtp) / c.refi_ab
    assert stream(c) == pytest.approx(1 - lost, abs=0.01)
    assert stream(c.but(refresh="none")) > 0.995


def test_per_bank_refresh_hides_behind_the_other_banks():
    # A bank is out of use for 160 of 3888 cycles: the other 15 keep the bus busy.
    c = config("hbm2_2g0")
    assert stream(c.but(refresh="per_bank")) > stream(c) + 0.03


def test_random_hbm2_reads_are_limited_by_the_row_command_bus():
    # ACT takes 2 cycles of the bus that two pseudo-channels share, PRE 1: a 32-byte read every 3 ns, of one each ns.
    assert scattered(one_channel("hbm2_2g0"), 32) == pytest.approx(1 / 3, abs=0.005)


@pytest.mark.parametrize("name, faw", [("hbm3_6g4_jesd", 24), ("hbm3_6g4_att", 48), ("hbm3_5g2", 39)])
def test_random_hbm3_reads_are_limited_by_four_activates_a_window(name, faw):
    # Four 32-byte reads of 2 cycles in tFAW: 33.3, 16.7 and 20.5 %.
    assert scattered(one_channel(name), 32) == pytest.approx(4 * 2 / faw, rel=0.015)


def test_sixteen_places_in_the_queue_are_enough_for_a_stream_and_not_for_random_reads():
    # Random reads meet a busy bank: with few places no other bank is in sight. HBM3 needs 16 of 16 banks for 33 %.
    short = one_channel("hbm3_6g4_jesd").but(read_queue=16)
    assert stream(short) > 0.99
    assert 0.24 < scattered(short, 32) < 0.29
    # A bank of 16 with k of 16 requests: by chance 10.3 banks have work, each can read 2 of every tRC 72 cycles.
    busy = 16 * (1 - (15 / 16) ** 16)
    assert scattered(short, 32) == pytest.approx(busy * 2 / 72, rel=0.1)


@pytest.mark.parametrize("order, share", [
    ("bank_interleaved", 1), ("row_interleaved", 1), ("in_order", 64 / (128 + 5 + 14 + 14 - 4))])
def test_the_order_of_rows_decides_what_a_stream_meets(order, share):
    # In order, a row of 1 KB (32 bursts of one group, 4 cycles each = 128) ends with PRE and ACT of the same bank:
    # tRC 48 is over, so tRTP 5 + tRP 14 + tRCD 14 less the 4 cycles to the next burst: 64 of 157 bus cycles.
    c = one_channel("hbm2_2g0").but(order=order, pseudo_channels=1)
    assert stream(c, 50_000) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("reads, writes", [(1, 1), (2, 1), (4, 1)])
def test_reads_and_writes_lose_the_turnarounds(reads, writes):
    # A drain writes 48 - 16 = 32 lines of 4 bursts (256 cycles) plus what arrives meanwhile; a turn there and back
    # costs RTW - CCD_S and CWL + burst + WTR_S - CCD_S or more: 11 + 11 cycles at least.
    c = one_channel("hbm2_2g0").but(pseudo_channels=1)
    i = np.arange(60_000)
    writing = i % (reads + writes) >= reads
    run = simulate(c, np.where(writing, c.row_capacity // 2, 0) + i * 128, writing)
    ideal = 1 - 22 / (256 * (reads + writes) / writes + 22)
    assert ideal - 0.08 < run.efficiency < ideal + 0.005


def test_a_chip_can_take_the_numbers_of_a_dram(tmp_path):
    text = load_dram("hbm3_5g2")
    file = tmp_path / "c.toml"
    file.write_text('[chip]\nname = "c"\nkind = "gpu"\ndram = "hbm3_5g2"\n[dram]\n'
                    'channels = { value = 80, unit = "channels", status = "assumed", source = "test" }\n')
    chip = load_chip(file)
    assert chip["dram.channels"] == 80 and chip["dram.timing.faw"] == text["dram.timing.faw"] == 39
    assert DramConfig.from_chip(chip) == DramConfig.from_chip(text).but(channels=80)


def test_an_unknown_dram_is_refused_with_the_nearest():
    with pytest.raises(ChipError, match="unknown DRAM hbm2_2g1; did you mean hbm2_2g0"):
        load_dram("hbm2_2g1")
