"""The DRAM engine against its twin, command by command, and the address map, on random input."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.chip import load_chip
from emulator.dram.address import scramble_number, unscramble_number
from emulator.dram.alone import simulate
from emulator.dram.config import DramConfig

EXAMPLES = int(os.environ.get("DECODELAB_RANDOM_PROGRAMS", "200"))
TOY = DramConfig.from_chip(load_chip("toy_gpu"))


@st.composite
def configs(draw) -> DramConfig:
    """The toy DRAM with some of its numbers changed, rules switched off among them."""
    small = st.integers(0, 12)
    changes = draw(st.fixed_dictionaries({}, optional={
        "pseudo_channels": st.integers(1, 3), "stack_ids": st.integers(1, 2), "read_queue": st.integers(1, 10),
        "age_cap": st.integers(0, 100), "scramble_bits": st.sampled_from([0, 5, 12]),
        "refi": st.sampled_from([0, 31, 50]), "rfc": st.integers(0, 60),
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


@given(st.integers(0, 2**34), st.integers(0, 30))
def test_every_place_of_the_map_has_one_chunk(chunk, bits):
    place = scramble_number(chunk, bits)
    assert unscramble_number(place, bits) == chunk
    assert place >> bits == chunk >> bits  # stays in its block


def test_the_map_permutes_a_block():
    for bits in (1, 2, 5, 12):
        for block in (0, 3):
            start = block << bits
            assert sorted(scramble_number(start + i, bits) for i in range(1 << bits)) == list(
                range(start, start + (1 << bits)))


@given(st.integers(0, 2**40))
def test_line_at_undoes_locate(line):
    for config in (TOY, TOY.but(scramble_bits=0)):
        assert config.line_at(*config.locate(line)) == line
