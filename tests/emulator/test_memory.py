"""The GPU memory system below L1: latencies by hand, L2 rules, counters; both engines agree.

toy_gpu: header 8 B, SM ports 32 B a cycle each way, crossbar 8 and 9 cycles, 2 slices of 128 sets x
8 ways with 32 B a cycle, 8 MSHRs, 4 write buffers, 6 cycles to DRAM and 5 back, three DRAM cycles in
four SM cycles; DRAM: RCD 6, CL 5, burst 2.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.chip import Chip, ChipError, load_chip
from emulator.dram.config import DramConfig
from emulator.gpu import memory
from emulator.gpu.memory_layout import LANDED, LANDED_LAST, LANDING_AT
from emulator.gpu.naive_memory import NaiveMemory
from emulator.gpu.timing import LINE_AT_PEER

EXAMPLES = int(os.environ.get("DECODELAB_RANDOM_PROGRAMS", "200"))
TOY2 = load_chip("toy_gpu")  # as it is: two partitions, a TLB of two pages of 8 KB
TOY = TOY2.with_override("l2.partitions", "1").with_override("tlb.entries", "0")
CALM = TOY2.with_override("tlb.entries", "0")
H100 = load_chip("h100_sxm")
Request = tuple[int, int, int, int, bool]  # cycle, SM, line, sector mask, write
READ, WRITE = False, True
ALL = 15  # all four sectors of a line


def chip_with(chip: Chip, **changes: int) -> Chip:
    """A copy with some numbers changed; `__` stands for the dot."""
    for key, value in changes.items():
        chip = chip.with_override(key.replace("__", "."), str(value))
    return chip


class Fast:
    """The fast engine behind the twin's interface."""

    def __init__(self, chip: Chip, ranks: int = 1) -> None:
        self.state = memory.build(chip, ranks)

    def tick(self, now: int) -> None:
        memory.advance(self.state, now)

    def pop_response(self, now: int) -> int:
        tag = memory.pop_response(self.state, now)
        return tag & (1 << LANDING_AT) - 1 if tag >= 0 else tag

    def request(self, now: int, sm: int, line: int, mask: int, write: bool, tag: int) -> None:
        stored = tag + 1 if write and line >> LINE_AT_PEER else 0
        memory.request(self.state, now, sm, line, mask, int(write), tag | stored << LANDING_AT)

    def landed(self) -> list[tuple[int, int]]:
        """Stores to peers: when they land, their tag."""
        count = self.state[LANDED_LAST]
        return [tuple(row) for row in self.state[self.state[LANDED] :][: 2 * count].reshape(count, 2).tolist()]

    @property
    def live(self) -> int:
        return int(self.state[memory.LIVE])

    def next(self, now: int) -> int:
        following = memory.next_event(self.state)
        assert following > now
        return following

    def settle(self, now: int) -> None:
        memory.settle(self.state, now)

    def counters(self) -> dict[str, int]:
        return memory.counters(self.state)


class Naive(NaiveMemory):
    def next(self, now: int) -> int:
        return now + 1 if self.live else 2**62


def play(system, requests: list[Request], start: int = 0, every_cycle: bool = False):
    """(due cycle, index of the request) of every response in order, and the cycle after the last one."""
    answers, now, i = [], start, 0
    while i < len(requests) or system.live:
        system.tick(now)
        while (tag := system.pop_response(now)) >= 0:
            answers.append((now, tag))
        while i < len(requests) and requests[i][0] <= now:
            system.request(now, *requests[i][1:], i)
            i += 1
        following = min(system.next(now), requests[i][0] if i < len(requests) else 2**62)
        if isinstance(system, NaiveMemory) or every_cycle or following == 2**62:
            following = now + 1
        now = following
    return answers, now


def both(chip: Chip, *rounds: list[Request], ranks: int = 1) -> tuple[list[list[tuple[int, int]]], dict[str, int]]:
    """Responses of each round of requests (times from its start) and the counters; the engines agree."""
    outcomes = []
    for system in (Fast(chip, ranks), Naive(chip)):
        now, answers = 0, []
        for requests in rounds:
            got, end = play(system, [(now + r[0], *r[1:]) for r in requests], now)
            system.settle(end)
            answers.append([(cycle - now, tag) for cycle, tag in got])
            now = end + 1
        landed = system.landed() if isinstance(system, Fast) else list(system.landed)
        outcomes.append((answers, system.counters(), landed))
    assert outcomes[0] == outcomes[1]
    counters = outcomes[0][1]
    assert counters["l2_read_sectors"] == sum(
        counters[f"l2_{name}_sectors"] for name in ("hit", "merged", "far_hit", "far_merged", "fill"))
    assert counters["dram_reads"] == counters["l2_fill_sectors"]
    assert counters["nvlink_requests"] == counters["nvlink_served"]
    assert counters["dram_writes"] <= counters["l2_writeback_sectors"] <= counters["l2_write_sectors"]
    return answers, counters


def latency(chip: Chip, *rounds: list[Request]) -> int:
    """Cycles from the last round's only request to its response."""
    return both(chip, *rounds)[0][-1][0][0]


def same_set(n: int) -> list[int]:
    """n lines of one set of one slice of toy_gpu."""
    config = DramConfig.from_chip(TOY)
    # A slice has two pseudo-channels; 128 sets take 64 lines of each in their DRAM order, which is a
    # row of 8 lines in each of 4 banks, twice.
    return [config.line_at(0, 0, 2 * i, 0) for i in range(n)]


def test_l2_hit_latency():
    # Request 8 B at 32 B/cycle: 1 cycle, crossbar 8; the slice's output 32 B: 1, crossbar 9, port in 40 B: 2.
    assert latency(TOY, [(0, 0, 0, 1, READ)], [(0, 0, 0, 1, READ)]) == 1 + 8 + 1 + 9 + 2
    # Four sectors: 128 B in 4 cycles, 136 B in 5 (4.25).
    assert latency(TOY, [(0, 0, 0, ALL, READ)], [(0, 0, 0, ALL, READ)]) == 1 + 8 + 4 + 9 + 5


def test_idle_dram_latency():
    # At the slice at 9, at DRAM at 15 = DRAM cycle 11.25, rounded up 12: ACT 12, RD 18, data until
    # 18 + 5 + 2 = 25 = SM cycle 33.3, rounded up 34; + 5 = 39, and back as a hit.
    assert latency(TOY, [(0, 0, 0, 1, READ)]) == 39 + 1 + 9 + 2


def test_h100_latencies_are_the_measured_ones():
    # The SM's own part of a miss is 12 cycles (one to the load-store unit, sm.l1.return_latency 11): below
    # it an L2 hit takes 250 of 262 (P34 260, CAL 272).
    hit = latency(H100, [(0, 0, 0, 1, READ)], [(0, 0, 0, 1, READ)])
    assert hit == 1 + 123 + 1 + 124 + 1 == 250
    # The SM's page is not in its TLB: 45 later. DRAM's commands follow each other at 97 % of 1309.5 MHz, 0.64153 of an
    # SM cycle's rate. To DRAM at 169 + 120 = 289 = DRAM cycle 185.4 -> 186; + RCD 19 + CL 19 + 2 = 226 = SM cycle
    # 352.3 -> 353; + 78 = 431, and 1 + 124 + 1 back. A row to close adds RP 19 = 30.
    line = DramConfig.from_chip(H100).line_at(0, 9, 0)  # not in the bank whose refresh begins at 160
    near = latency(H100, [(0, 0, line, 1, READ)])
    assert near == 431 + 126 == 557
    # From the other partition: a copy's lookup and 78 cycles there, 1 and 78 back, each through a port (1).
    far = latency(H100, [(0, 66, line, 1, READ)])
    assert far - near == pytest.approx(2 * (78 + 1), abs=2)  # DRAM's clock rounds


def test_a_store_is_acknowledged_by_l2():
    # 8 + 32 B out take 2 cycles; the acknowledgement is a header: 1 cycle through each port.
    assert latency(TOY, [(0, 0, 0, 1, WRITE)]) == 2 + 8 + 1 + 9 + 1


def test_sm_input_port_rate():
    # 136 B at 32 B/cycle = 4.25 cycles a line. Two slices would send twice that.
    fill = [(0, 0, line, ALL, READ) for line in range(32)]
    hits = both(TOY, fill, fill)[0][1]
    gaps = (hits[-1][0] - hits[0][0]) / (len(hits) - 1)
    assert gaps == pytest.approx(4.25, abs=0.05)


def test_sm_output_port_rate():
    # Writes of whole lines: 136 B at 32 B/cycle each, the last leaves at 32 x 4.25 = 136.
    answers = both(TOY, [(0, 0, line, ALL, WRITE) for line in range(32)])[0][0]
    assert answers[-1][0] - 136 in range(8 + 1 + 9 + 1, 8 + 1 + 9 + 1 + 12)  # + waiting in a slice


def test_slice_bandwidth():
    # Two SMs read 32 lines of one slice: its output gives 128 B in 4 cycles, whoever asks.
    config = DramConfig.from_chip(TOY)
    lines = [config.line_at(pc, bank, 0, column) for pc in (0, 1) for bank in range(2) for column in range(8)]
    fill = [(0, 0, line, ALL, READ) for line in lines]
    hits = both(TOY, fill, [(0, i % 2, line, ALL, READ) for i, line in enumerate(lines)])[0][1]
    assert hits[-1][0] - hits[0][0] == 31 * 4


def test_misses_of_one_line_merge():
    # Both SMs, and the first again: one fetch of the four sectors, the other requests wait for it.
    answers, counters = both(TOY, [(0, 0, 7, ALL, READ), (0, 1, 7, ALL, READ), (2, 0, 7, 2, READ)])
    assert counters["l2_fill_sectors"] == counters["dram_reads"] == 4
    assert counters["l2_merged_sectors"] == 5
    assert len(answers[0]) == 3


def test_only_the_missing_sectors_are_fetched():
    _, counters = both(TOY, [(0, 0, 7, 0b0011, READ)], [(0, 0, 7, 0b0110, READ)])
    assert counters["l2_fill_sectors"] == 3 and counters["l2_hit_sectors"] == 1


def test_a_pending_line_fetches_further_sectors():
    # The second request wants a sector on its way and a new one: one more fetch, of one sector.
    _, counters = both(TOY, [(0, 0, 7, 0b0001, READ), (1, 0, 7, 0b0011, READ)])
    assert counters["l2_fill_sectors"] == 2 and counters["l2_merged_sectors"] == 1


def test_a_write_miss_fetches_nothing():
    _, counters = both(TOY, [(0, 0, 7, 0b0101, WRITE)])
    assert counters["l2_fill_sectors"] == counters["dram_reads"] == 0
    # What was written is valid, the rest is not.
    _, counters = both(TOY, [(0, 0, 7, 0b0101, WRITE)], [(0, 0, 7, ALL, READ)])
    assert counters["l2_hit_sectors"] == 2 and counters["l2_fill_sectors"] == 2


def test_dirty_sectors_are_written_back_when_the_line_is_evicted():
    # 8 ways: the ninth line of the set evicts the first, whose two dirty sectors go to DRAM.
    lines = same_set(9)
    _, counters = both(TOY, [(0, 0, lines[0], 0b0110, WRITE)], [(300 * i, 0, lines[i], 1, READ) for i in range(1, 9)],
                       [(2000, 0, DramConfig.from_chip(TOY).line_at(1, 1, 0), 1, READ)])
    assert counters["l2_evicted_lines"] == 1
    assert counters["l2_writeback_sectors"] == counters["dram_writes"] == 2


def test_the_least_recently_used_line_is_evicted():
    lines = same_set(9)
    order = [*lines[:8], lines[0], lines[8]]  # line 0 was used again, so line 1 goes
    requests = [(200 * i, 0, line, 1, READ) for i, line in enumerate(order)]
    for line, fetched in ((lines[0], 9), (lines[1], 10)):
        _, counters = both(TOY, requests, [(0, 0, line, 1, READ)])
        assert counters["l2_fill_sectors"] == fetched


def test_l2_contents_persist_from_call_to_call():
    first = [(0, 0, line, ALL, READ) for line in range(64)]
    _, counters = both(TOY, first, first, first)
    assert counters["l2_fill_sectors"] == 256 and counters["l2_hit_sectors"] == 512


def test_without_a_free_mshr_a_slice_waits():
    # One MSHR: the second miss of the slice starts when the first is filled, and meets an open row.
    config = DramConfig.from_chip(TOY)
    lines = [config.line_at(0, 0, 0, column) for column in range(2)]
    requests = [(0, 0, line, 1, READ) for line in lines]
    free, one = both(TOY, requests)[0][0], both(chip_with(TOY, l2__mshrs=1), requests)[0][0]
    assert free[0] == one[0] == (51, 0)
    # Filled at 39, and the slice's output is busy until 40; to DRAM at 46 = DRAM cycle 34.5 -> 35: RD 35,
    # data until 42 = SM cycle 56; + 5 = 61, + 1 + 9 + 2.
    assert one[1] == (73, 1)
    assert free[1][0] < 60


def test_unlimited_ports_and_no_latency_are_neutral():
    # Every hop still takes its one cycle: out, slice, in.
    ideal = chip_with(TOY, noc__sm_out_bytes=0, noc__sm_in_bytes=0, noc__request_latency=0, noc__response_latency=0,
                      l2__slice_bytes=0, l2__to_dram_latency=0, l2__from_dram_latency=0)
    assert latency(ideal, [(0, 0, 0, ALL, READ)], [(0, 0, 0, ALL, READ)]) == 3


def test_asking_every_cycle_changes_nothing():
    rng = np.random.default_rng(11)
    requests = [(int(t), int(rng.integers(2)), int(rng.integers(4000)), int(rng.integers(1, 16)), rng.random() < 0.3)
                for t in np.sort(rng.integers(0, 600, 150))]
    assert play(Fast(TOY), requests) == play(Fast(TOY), requests, every_cycle=True)


@pytest.mark.parametrize("changes, message", [
    ({"l2.slices": 3}, "multiple of dram.channels"),
    ({"l2.mshrs": 0}, "l2.mshrs must be 1 to 4095"),
    ({"dram.clock_hz": 0}, "clock"),
    ({"dram.clock_hz": 20_000_000_000}, "too short for a DRAM clock this fast"),
])
def test_an_impossible_memory_system_is_refused(changes, message):
    chip = TOY
    for key, value in changes.items():
        chip = chip.with_override(key, str(value))
    for make in (memory.build, NaiveMemory):
        with pytest.raises(ChipError, match=message):
            make(chip)


def near_and_far(chip: Chip) -> tuple[int, int]:
    """A line whose home is in SM 0's partition, and one whose home is in SM 1's."""
    dram = DramConfig.from_chip(chip)
    slices = [dram.locate(line)[0] * 2 // dram.total_pseudo_channels for line in range(256)]
    return slices.index(0), slices.index(1)


def test_a_far_line_is_copied_into_the_near_partition():
    # Hits: port 1, crossbar 8, output 1 (32 bytes at 32 a cycle), crossbar 9, port 2 (40 bytes at 32): 21 near, and
    # the same for a line whose home is far, once SM 0 has read it; and no SM has asked for the near one from afar.
    near, far = near_and_far(CALM)
    for line in (near, far):
        assert latency(CALM, [(0, 0, line, 1, READ)], [(0, 0, line, 1, READ)]) == 1 + 8 + 1 + 9 + 2
    # Where SM 1 has the home's sectors, SM 0's first read takes two ways over the link more: 1 (header 8 at 16 bytes
    # a cycle) + 7, then 3 (40 bytes at 16) + 7.
    answers, counters = both(CALM, [(0, 1, far, 1, READ)], [(0, 0, far, 1, READ)], [(0, 0, far, 1, READ)])
    assert [round_[0][0] for round_ in answers][1:] == [21 + 1 + 7 + 3 + 7, 21]
    assert counters["l2_far_sectors"] == counters["l2_far_hit_sectors"] == 1
    assert counters["dram_reads"] == 1


def test_what_is_read_from_afar_takes_place_twice():
    # 2 ways, one set: three lines, all with home far from SM 0, which reads them in turn: each copy is evicted
    # before it is read again, each home's too. With 4 ways both hold all three.
    chip = chip_with(CALM, l2__sets=1, l2__ways=2)
    dram = DramConfig.from_chip(chip)
    lines = [line for line in range(512) if dram.locate(line)[0] * 2 >= dram.total_pseudo_channels][:3]
    rounds = [[(0, 0, line, 15, READ)] for line in lines + lines]
    _, counters = both(chip, *rounds)
    assert counters["l2_hit_sectors"] == counters["l2_far_hit_sectors"] == 0 and counters["l2_far_sectors"] == 24
    _, counters = both(chip_with(chip, l2__ways=4), *rounds)
    assert counters["l2_hit_sectors"] == counters["l2_far_sectors"] == 12


def test_a_write_drops_the_copy():
    near, far = near_and_far(CALM)
    read, write = (0, 0, far, 1, READ), (0, 1, far, 1, WRITE)
    _, counters = both(CALM, [read], [read], [write], [(60, 0, far, 1, READ)])
    assert counters["l2_dropped_copies"] == 1
    assert counters["l2_hit_sectors"] == 1 and counters["l2_far_sectors"] == 2 and counters["l2_far_hit_sectors"] == 1


def test_a_far_write_goes_over_the_links_distance():
    near, far = near_and_far(CALM)
    assert latency(CALM, [(0, 0, far, 15, WRITE)]) - latency(CALM, [(0, 0, near, 15, WRITE)]) == 2 * 7


def test_the_link_passes_its_bytes_a_cycle():
    # 12 lines that the home has: 136 bytes each at 16 a cycle = 8.5 cycles; everything else is faster.
    chip = chip_with(CALM, l2__slice_bytes=0, noc__sm_in_bytes=0, noc__sm_out_bytes=0, l2__mshrs=64)
    dram = DramConfig.from_chip(chip)
    lines = [line for line in range(512) if dram.locate(line)[0] * 2 >= dram.total_pseudo_channels][:12]
    answers, _ = both(chip, [(0, 1, line, 15, READ) for line in lines], [(0, 0, line, 15, READ) for line in lines])
    times = [time for time, _ in answers[1]]
    assert times[-1] - times[0] == 12 * 136 // 16 - (136 + 15) // 16


def test_copies_wait_for_half_of_the_mshrs():
    # Four MSHRs: with two copies on their way the third request waits until the first is there.
    chip = chip_with(CALM, l2__mshrs=4, noc__sm_out_bytes=0)
    dram = DramConfig.from_chip(chip)
    lines = [line for line in range(512) if dram.locate(line)[0] * 2 >= dram.total_pseudo_channels][:3]
    warm = [(0, 1, line, 1, READ) for line in lines]
    answers, _ = both(chip, warm, [(0, 0, line, 1, READ) for line in lines])
    first, second, third = (time for time, _ in answers[1])
    assert second - first <= 3 and third - first >= 1 + 7 + 3 + 7


def test_a_page_that_was_not_used_lately_costs_the_miss_latency():
    # 8 KB pages, two of them: page 0 is still known after page 1, and no more after page 2.
    chip = chip_with(TOY, tlb__entries=2)
    lines = [0, 64, 1, 128, 65, 2]
    warm = [[(0, 1, line, 1, READ)] for line in lines]
    answers, counters = both(chip, *warm, *([(0, 0, line, 1, READ)] for line in lines))
    base = min(round_[0][0] for round_ in answers[6:])
    assert [round_[0][0] - base for round_ in answers[6:]] == [5, 5, 0, 5, 5, 5]
    assert counters["tlb_misses"] == 10


@st.composite
def chips(draw) -> Chip:
    """toy_gpu with some numbers changed, neutral values among them."""
    some = st.integers(0, 20)
    changes = draw(st.fixed_dictionaries({}, optional={
        "noc__header_bytes": st.sampled_from([0, 8, 32]), "noc__sm_out_bytes": st.sampled_from([0, 8, 64]),
        "noc__sm_in_bytes": st.sampled_from([0, 1, 8, 64]), "noc__request_latency": some, "noc__response_latency": some,
        "l2__slices": st.sampled_from([2, 4]), "l2__sets": st.sampled_from([1, 2, 8, 128]),
        "l2__ways": st.integers(2, 4), "l2__partitions": st.sampled_from([1, 2]), "l2__link_latency": some,
        "l2__link_bytes": st.sampled_from([0, 1, 16]), "tlb__entries": st.integers(0, 3), "tlb__miss_latency": some,
        "l2__slice_bytes": st.sampled_from([0, 1, 16, 64]), "l2__mshrs": st.integers(2, 5),
        "l2__write_buffers": st.integers(1, 3), "l2__to_dram_latency": some, "l2__from_dram_latency": some,
        "dram__clock_hz": st.sampled_from([300_000_000, 999_999_999, 1_000_000_000, 1_700_000_000]),
        "dram__map__scramble_bits": st.sampled_from([0, 12]), "dram__timing__refi": st.sampled_from([0, 50])}))
    return chip_with(TOY2, **changes)


@settings(max_examples=EXAMPLES)
@given(chips(), st.lists(st.integers(1, 80), min_size=1, max_size=3), st.sampled_from([4, 64, 4096, 1 << 20]),
       st.sampled_from([0, 0.3, 0.9]), st.sampled_from([1, 100, 1500]), st.integers(0, 2**32 - 1))
def test_the_fast_engine_and_the_twin_agree(chip, sizes, span, write_share, time, seed):
    rng = np.random.default_rng(seed)
    rounds = []
    for n in sizes:
        times = np.sort(rng.integers(0, time, n))
        lines = rng.integers(0, span, n) if rng.random() < 0.6 else rng.integers(span) + np.arange(n)
        rounds.append([(int(t), int(sm), int(line), int(mask), bool(write)) for t, sm, line, mask, write in zip(
            times, rng.integers(0, 2, n), lines, rng.integers(1, 16, n), rng.random(n) < write_share)])
    answers, _ = both(chip, *rounds)
    assert [sorted(tag for _, tag in got) for got in answers] == [list(range(n)) for n in sizes]
