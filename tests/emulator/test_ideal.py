"""Chips without one of their limits: a change of numbers that both engines take, and that moves what it should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import programs
from emulator.assemble import assemble
from emulator.chip import Chip, ChipError, chip_names, load_chip
from emulator.gpu.machine import GpuMachine
from emulator.ideal import NEUTRAL, ideal_chip, ideal_values
from programs.microbench.latency import dram_distribution, l1_latency, l2_latency
from programs.microbench.launches import period
from programs.microbench.stream import dram_rate, l2_rate

EXAMPLES = Path(programs.__file__).parent / "examples"
H100 = load_chip("h100_sxm")
WORDS = tuple(NEUTRAL["gpu"])


@pytest.mark.parametrize("name", chip_names())
def test_every_word_names_numbers_of_every_chip_of_its_kind_once(name: str) -> None:
    chip = load_chip(name)
    keys = [key for word in NEUTRAL[chip.kind] for key in ideal_values(chip, word)]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(chip.numbers)


def test_an_ideal_changes_its_own_numbers_only() -> None:
    ideal = ideal_chip(H100, "noc")
    changed = {key for key in H100.numbers if H100[key] != ideal[key]}
    assert changed == {key for key in H100.numbers if key.startswith("noc.")}
    assert ideal.hash != H100.hash and ideal.numbers["noc.header_bytes"].status == "assumed"


@pytest.mark.parametrize("words", [(word,) for word in WORDS] + [WORDS], ids=lambda words: "+".join(words))
@pytest.mark.parametrize("example", ["gemv", "softmax"])
def test_twin_and_fast_engine_agree_without_limits(words: tuple[str, ...], example: str) -> None:
    def target(name: str) -> Chip:
        return ideal_chip(load_chip(name), *words)

    program = assemble(EXAMPLES / f"{example}.gpu.s", target)
    fast, naive = (GpuMachine(program, target(program.chip), engine=engine) for engine in ("fast", "naive"))
    one, other = fast.step(), naive.step()
    assert (one.cycles, one.traffic, one.accounting, one.counters) == (
        other.cycles, other.traffic, other.accounting, other.counters)
    for tensor in program.tensors:
        assert np.array_equal(fast.read(tensor), naive.read(tensor))


def test_no_crossbar_leaves_an_l2_hit_as_near_as_l1() -> None:
    """A load is never faster than one that hits L1, 32 cycles."""
    assert l2_latency(ideal_chip(H100, "noc"), 1 << 20) == H100["sm.l1.hit_latency_32"] == 32


def test_no_dram_timing_leaves_an_l2_hit_and_a_burst() -> None:
    """In a single partition without translation: the command in one cycle, its data in the next."""
    ideal = dram_distribution(ideal_chip(H100, "dram", "pins", "l2", "tlb"), 64)
    assert ideal.p10 == ideal.p90 == l2_latency(ideal_chip(H100, "l2", "tlb"), 1 << 20) + 2


def test_far_lines_and_translation_are_part_of_a_random_chase() -> None:
    """p90 is a far home behind a TLB miss: twice the link's latency less without it, a miss less without a TLB."""
    at = dram_distribution(H100, 64).p90
    near = dram_distribution(ideal_chip(H100, "l2"), 64).p90
    assert at - near == pytest.approx(2 * H100["l2.link_latency"], abs=10)
    assert at - dram_distribution(ideal_chip(H100, "tlb"), 64).p90 == pytest.approx(H100["tlb.miss_latency"], abs=5)


def test_no_launch_cost_leaves_the_body_of_a_kernel() -> None:
    body = period(H100, "graph") * H100.clock_hz - H100["launch.graph_gap"] - H100["launch.cta_start"]
    for mode in ("graph", "stream"):
        assert period(ideal_chip(H100, "launch", "waves"), mode) * H100.clock_hz == pytest.approx(body, abs=1)


def test_no_issue_and_l1_limits_leave_a_chase_its_own_instructions() -> None:
    """A step is then a load, an addition and a branch, each a cycle apart."""
    assert l1_latency(ideal_chip(H100, "issue", "l1"), 128) == 3


def test_rates_grow_to_the_next_limit() -> None:
    """Reads of L2 are bound by the SMs' ports and their headers; without them by the slices' 64 bytes a cycle; without
    those by neither. Without DRAM timing a stream is bound by the pins, without those by the command buses, 32 bytes
    a core cycle each."""
    rates = [l2_rate(chip, 8 << 20, 4) for chip in (H100, ideal_chip(H100, "noc"), ideal_chip(H100, "noc", "l2"))]
    ports, slices, free = (rate.bytes / rate.cycles for rate in rates)
    most = H100["core.sms"] * H100["noc.sm_in_bytes"] * 128 / (128 + H100["noc.header_bytes"])
    assert 0.97 * most < ports <= most
    assert 1.02 * ports < slices <= H100["l2.slices"] * H100["l2.slice_bytes"] < free
    stream = dram_rate(ideal_chip(H100, "dram"), "read", 8 << 20)
    pins = H100["dram.channels"] * H100["dram.pseudo_channels"] * 32 / H100["dram.timing.burst"]
    assert stream.bytes / stream.cycles * H100.clock_hz == pytest.approx(pins * H100["dram.clock_hz"], rel=0.1)
    stream = dram_rate(ideal_chip(H100, "dram", "pins"), "read", 8 << 20)
    buses = H100["dram.channels"] * 32
    assert stream.bytes / stream.cycles == pytest.approx(buses, rel=0.15)


def test_unknown_words_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ChipError, match="ideal dran: h100_sxm has no such limit; did you mean dram"):
        ideal_values(H100, "dran")
    with pytest.raises(ChipError, match="ideal l2: groq_tsp_v1 has no such limit; known: links"):
        ideal_chip(load_chip("groq_tsp_v1"), "l2")
