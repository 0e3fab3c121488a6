"""The DRAM engine against its twin, command by command, and the address map, on random input."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emulator.chip import chip_names, dram_names, load_chip, load_dram
from emulator.dram.address import scramble, scramble_number, unscramble_number
from emulator.dram.alone import simulate
from emulator.dram.config import ORDERS, REFRESHES, DramConfig, stride_of

EXAMPLES = int(os.environ.get("DECODELAB_RANDOM_PROGRAMS", "200"))
GPUS = [name for name in chip_names() if load_chip(name).kind == "gpu"]
TOY = DramConfig.from_chip(load_chip("toy_gpu"))


@st.composite
def configs(draw) -> DramConfig:
    """The toy DRAM with some of its numbers changed, rules switched off among them."""
    small = st.integers(0, 12)
    changes = draw(st.fixed_dictionaries({}, optional={
        "pseudo_channels": st.integers(1, 3), "stack_ids": st.integers(1, 2), "read_queue": st.integers(1, 10),
        "age_cap": st.integers(0, 100), "scramble_bits": st.sampled_from([0, 5, 12]),
        "refi": st.sampled_from([0, 31, 50]), "rfc": st.integers(0, 60),
        "refresh": st.sampled_from(["per_bank", "all_bank", "none"]), "refi_ab": st.sampled_from([0, 200, 333]),
        "rfc_ab": st.integers(0, 60), "order": st.sampled_from(ORDERS), "rows": st.sampled_from([1, 3, 64]),
        "chunk_bytes": st.sampled_from([128, 256, 1024]),
        "rcd_rd": small, "rcd_wr": small, "rp": small, "ras": st.integers(0, 30),
        "rc": st.integers(0, 40), "ccd_s": st.integers(0, 4), "ccd_l": st.integers(0, 8), "rrd_s": small,
        "rrd_l": small,
        "faw": st.integers(0, 30), "wtr_s": small, "wtr_l": small, "rtw": small, "wr": small, "rtp": small,
        "act_bus_cycles": st.integers(0, 3), "pre_bus_cycles": st.integers(0, 2)}))
    queue = draw(st.integers(2, 8))
    high = draw(st.integers(1, queue))
    low = draw(st.integers(0, high - 1))
    return TOY.but(**changes, write_queue=queue, drain_high=high, drain_low=low)


@settings(max_examples=EXAMPLES)
@given(configs(), st.integers(1, 120), st.sampled_from([8, 64, 1024]), st.sampled_from([0, 0.1, 0.5, 1]),
       st.sampled_from([1, 200, 2000]), st.sampled_from([32, 64, 128]), st.integers(0, 2**32 - 1))
def test_the_fast_engine_issues_the_twins_commands(config, n, span, write_share, time, size, seed):
    rng = np.random.default_rng(seed)
    addresses = rng.integers(0, span, n) * 128 + rng.integers(0, 128 // size, n) * size
    writes = rng.random(n) < write_share
    arrivals = np.sort(rng.integers(0, time, n))
    fast = simulate(config, addresses, writes, arrivals, size, log=True)
    naive = simulate(config, addresses, writes, arrivals, size, log=True, engine="naive")
    assert fast.commands == naive.commands
    assert fast.counters == naive.counters
    assert fast.done.tolist() == naive.done.tolist()
    assert fast.counters["dram_reads"] * 32 == size * int((~writes).sum())
    assert fast.counters["dram_writes"] * 32 == size * int(writes.sum())


@settings(max_examples=EXAMPLES // 2)
@given(st.sampled_from([*dram_names(), *GPUS]), st.sampled_from(REFRESHES), st.sampled_from(ORDERS),
       st.sampled_from([2, 16, 64]), st.integers(1, 2), st.sampled_from([0, 0.3, 1]), st.sampled_from([1, 3000]),
       st.booleans(), st.integers(0, 2**32 - 1))
@example("dramsim3_hbm2_8gb_x128", "all_bank", "in_order", 16, 1, 0, 3000, True, 1)  # fed while it was ahead
def test_the_engines_agree_on_every_dram_that_ships(name, refresh, order, queue, channels, write_share, time, near,
                                                    seed):
    config = DramConfig.from_chip(load_chip(name) if name in GPUS else load_dram(name))
    config = config.but(refresh=refresh, order=order, read_queue=queue, channels=channels)
    rng = np.random.default_rng(seed)
    n = 200
    sizes = [size for size in (32, 64, 128) if size >= config.burst_bytes]
    size = sizes[int(rng.integers(len(sizes)))]
    addresses = rng.integers(0, 2**14 if near else 2**30, n) // size * size
    writes = rng.random(n) < write_share
    # Refresh is rare: the second half comes when the first one is due.
    arrivals = np.sort(rng.integers(0, time, n)) + (np.arange(n) > n // 2) * max(0, config.refresh_timing[0] - 100)
    fast = simulate(config, addresses, writes, arrivals, size, log=True)
    naive = simulate(config, addresses, writes, arrivals, size, log=True, engine="naive")
    assert fast.commands == naive.commands
    assert fast.counters == naive.counters
    assert fast.done.tolist() == naive.done.tolist() and fast.entered.tolist() == naive.entered.tolist()


@given(st.integers(0, 2**34), st.integers(0, 30), st.integers(1, 200))
def test_every_place_of_the_map_has_one_chunk(chunk, bits, total):
    place = scramble_number(chunk, bits, total, stride_of(total))
    assert place == scramble(chunk, bits, total, stride_of(total))
    assert unscramble_number(place, bits, total, stride_of(total)) == chunk
    assert place // total >> bits == chunk // total >> bits  # stays near


def test_the_map_permutes_a_block():
    for bits in (1, 2, 5, 8):
        for total in (1, 4, 80, 192):
            start = 3 * total << bits
            chunks = range(start, start + (total << bits))
            assert sorted(scramble_number(chunk, bits, total, stride_of(total)) for chunk in chunks) == list(chunks)


@given(st.integers(0, 2**34), st.sampled_from([4, 80, 160, 192]), st.integers(1, 5000))
def test_a_contiguous_piece_loads_all_pseudo_channels_alike(start, total, count):
    # Whole blocks have one chunk each; the two cut ones at the ends at most one more.
    places = [scramble_number(start + i, 6, total, stride_of(total)) % total for i in range(count)]
    loads = np.bincount(places, minlength=total)
    assert loads.max() - loads.min() <= 2


@given(st.integers(0, 2**40), st.sampled_from(ORDERS), st.sampled_from([1, 3, 64]), st.sampled_from([0, 12]))
def test_line_at_undoes_locate(line, order, rows, bits):
    config = TOY.but(order=order, rows=rows, scramble_bits=bits)
    assert config.line_at(*config.locate(line)) == line
