"""Timeline: issue cycles in, queues with NOPs and REPEATs out."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.encoding import decode, encode
from isa.opcodes import BY_NAME
from isa.timeline import NOP_MAX, QueueLate, Timeline

READ = encode("lpu", BY_NAME["READ"], [5, 3])


def unpack(words):
    """(mnemonic, values) of each word."""
    return [(op.name, values) for op, _, values in (decode("lpu", word) for word in words)]


def test_gaps_become_nops_and_carry_the_reason():
    timeline = Timeline(nodes=["a"])
    timeline.add(1, 12, READ, node=0, line=7, reason=3)
    timeline.add(1, 4, READ, n=2, d=5, stride=-1)
    words, starts, source = timeline.pack(3)
    # Queue 1: cycles 0-3 waiting, READ at 4 (the REPEAT takes no time), 5-11 waiting, READ at 12.
    assert unpack(words) == [("NOP", [4]), ("READ", [5, 3]), ("REPEAT", [2, 5, -1]), ("NOP", [7]), ("READ", [5, 3])]
    assert list(starts) == [0, 0, 5, 5]
    assert list(source.reason) == [-1, -1, -1, 3, -1]
    assert list(source.line) == [-1, -1, -1, 7, 7]
    assert list(source.node) == [-1, -1, -1, 0, 0] and source.nodes == ["a"]


def test_long_waits_are_split():
    timeline = Timeline()
    timeline.add(0, 2 * NOP_MAX + 10, READ)
    words, _, _ = timeline.pack(1)
    assert unpack(words) == [("NOP", [NOP_MAX]), ("NOP", [NOP_MAX]), ("NOP", [10]), ("READ", [5, 3])]


def test_after_a_barrier_waiting_counts_from_its_release():
    timeline = Timeline()
    timeline.add(0, 0, encode("lpu", BY_NAME["SYNC"], []), busy=35)
    timeline.add(0, 37, READ)
    words, _, _ = timeline.pack(1)
    assert unpack(words) == [("SYNC", []), ("NOP", [2]), ("READ", [5, 3])]


def test_two_instructions_in_one_cycle_are_late():
    timeline = Timeline()
    timeline.add(2, 9, READ, line=1)
    timeline.add(2, 9, READ, line=4)
    with pytest.raises(QueueLate, match="queue 2 is late.*cycle 9.*until cycle 10") as caught:
        timeline.pack(4)
    assert caught.value.kind == "queue_late" and (caught.value.first_line, caught.value.line) == (1, 4)


def test_what_cannot_be_encoded_is_refused():
    for bad in ({"cycle": -1}, {"n": 65536}, {"n": 1, "d": 0}, {"stride": 40000}, {"queue": 3}):
        timeline = Timeline()
        timeline.add(**({"queue": 0, "cycle": 0, "word": READ} | bad))
        with pytest.raises(ValueError, match="is not in"):
            timeline.pack(3)


def test_an_empty_timeline_packs():
    words, starts, source = Timeline().pack(2)
    assert len(words) == 0 and list(starts) == [0, 0, 0] and len(source.line) == 0


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 200_000)), st.integers(0, 3), max_size=30))
def test_replaying_the_queues_gives_the_issue_cycles_back(wanted):
    timeline = Timeline()
    for (queue, cycle), n in wanted.items():
        timeline.add(queue, cycle, READ, n=n)
    words, starts, _ = timeline.pack(5)
    found = {}
    for queue in range(5):
        now = 0
        for name, values in unpack(words[starts[queue]:starts[queue + 1]]):
            if name == "NOP":
                assert 1 <= values[0] <= NOP_MAX
                now += values[0]
            elif name == "READ":
                found[queue, now] = 0
                now += 1
            else:
                found[queue, now - 1] = values[0]
    assert found == wanted


def test_a_hundred_thousand_entries_take_well_under_a_second():
    timeline = Timeline()
    started = time.perf_counter()
    for i in range(100_000):
        timeline.add(i % 144, 3 * (i // 144), READ, 1)
    words, _, _ = timeline.pack(144)
    assert time.perf_counter() - started < 2
    assert words.dtype == np.uint64 and len(words) > 200_000
