"""Requests to peers below L1: latencies by hand, the port's bytes, order; the fast path and the twin agree.

toy_gpu's NVLink: 16 bytes a cycle each way, 6 bytes a header, 30 cycles. The rest as in test_memory.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.gpu.timing import LINE_AT_PEER
from tests.emulator.test_memory import ALL, CALM, EXAMPLES, READ, TOY, WRITE, both, chip_with, chips

PEER = 1 << LINE_AT_PEER  # the same line of the peer at distance 1


def test_a_read_of_a_peer_crosses_the_link_twice():
    # The line is in L2 (of both). To the port: 8 bytes at 32, 1, and the crossbar 8; through it: 6 bytes at 16, 1;
    # link 30; the peer's slice puts a sector out in 1; its port: 38 bytes at 16, 2.375, so 3, as it is idle; link 30;
    # crossbar 9; SM's port 40 bytes at 32, 2.
    answers, counters = both(TOY, [(0, 0, 0, 1, READ)], [(0, 0, PEER, 1, READ)], ranks=2)
    assert answers[1][0][0] == 1 + 8 + 1 + 30 + 1 + 3 + 30 + 9 + 2
    assert counters["nvlink_bytes_out"] == 6 + 38
    assert counters["nvlink_sectors"] == counters["nvlink_requests"] == 1
    assert counters["l2_hit_sectors"] == 1  # it is the peer's L2 that has it


def test_a_store_to_a_peer_carries_its_data_out():
    # 40 bytes at 32: 2, crossbar 8; port 38 bytes at 16: 3; link 30; slice 1; port 6 bytes: 1; 30, 9, and 8 bytes in 1.
    answers, counters = both(TOY, [(0, 0, PEER, 1, WRITE)], ranks=2)
    assert answers[0][0][0] == 2 + 8 + 3 + 30 + 1 + 1 + 30 + 9 + 1
    assert counters["l2_write_sectors"] == 1 and counters["nvlink_bytes_out"] == 38 + 6


def test_a_peers_line_is_kept_at_its_home_only():
    # In two partitions both SMs read the same line of a peer: its home fetches it once, and nobody copies it.
    _, counters = both(CALM, [(0, 0, PEER, ALL, READ)], [(0, 1, PEER, ALL, READ)], ranks=2)
    assert counters["l2_fill_sectors"] == 4 and counters["l2_hit_sectors"] == 4 and counters["l2_far_sectors"] == 0


def test_the_link_passes_its_bytes_a_cycle():
    # 16 lines that L2 holds: each costs 6 bytes of request and 134 of answer, 140 / 16 = 8.75 cycles of the port;
    # two slices and two SM ports give more. All requests are out before the first answer comes.
    lines = list(range(16))
    warm = [(0, 0, line, ALL, READ) for line in lines]
    answers, counters = both(TOY, warm, [(0, line % 2, PEER + line, ALL, READ) for line in lines], ranks=2)
    times = [time for time, _ in answers[1]]
    assert abs(times[-1] - times[0] - 15 * 134 / 16) < 3
    assert counters["nvlink_bytes_out"] == 16 * 140


def test_a_page_of_a_peer_is_another_page():
    _, counters = both(chip_with(TOY, tlb__entries=2), [(0, 0, 0, 1, READ)], [(0, 0, PEER, 1, READ)],
                       [(0, 0, PEER, 1, READ)], ranks=2)
    assert counters["tlb_misses"] == 2


def test_without_limits_a_peer_is_as_near_as_the_port():
    # Through the port twice, a cycle each, beside a near hit of 21.
    ideal = chip_with(TOY, nvlink__bytes=0, nvlink__header_bytes=0, nvlink__latency=0)
    answers, _ = both(ideal, [(0, 0, 0, 1, READ)], [(0, 0, PEER, 1, READ)], ranks=2)
    assert answers[1][0][0] == 21 + 2


@st.composite
def linked_chips(draw):
    """Random memory systems with random links."""
    changes = draw(st.fixed_dictionaries({}, optional={
        "nvlink__bytes": st.sampled_from([0, 1, 16, 64]), "nvlink__header_bytes": st.sampled_from([0, 6, 40]),
        "nvlink__latency": st.integers(0, 60)})) | {"sm__outstanding_stores": 1000}  # nobody takes what has landed
    return chip_with(draw(chips()), **changes)


@settings(max_examples=EXAMPLES)
@given(linked_chips(), st.lists(st.integers(1, 80), min_size=1, max_size=3), st.sampled_from([4, 64, 4096]),
       st.sampled_from([0, 0.3, 0.9]), st.sampled_from([0.1, 0.5, 1]), st.sampled_from([1, 100, 1500]),
       st.integers(0, 2**32 - 1))
def test_the_fast_path_and_the_twin_agree_with_peers(chip, sizes, span, write_share, peer_share, time, seed):
    rng = np.random.default_rng(seed)
    rounds = []
    for n in sizes:
        times = np.sort(rng.integers(0, time, n))
        lines = rng.integers(0, span, n) + np.where(rng.random(n) < peer_share, rng.integers(1, 8, n), 0) * PEER
        rounds.append([(int(t), int(sm), int(line), int(mask), bool(write)) for t, sm, line, mask, write in zip(
            times, rng.integers(0, 2, n), lines, rng.integers(1, 16, n), rng.random(n) < write_share)])
    answers, _ = both(chip, *rounds, ranks=8)
    assert [sorted(tag for _, tag in got) for got in answers] == [list(range(n)) for n in sizes]
