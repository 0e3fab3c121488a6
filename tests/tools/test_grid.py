"""Units x cycles as text, and the replay of an LPU's queues that it is made from."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.lpu.replay import queue_times
from isa.encoding import decode_words, encode
from isa.opcodes import BY_NAME, code
from tools.grid import Events, check_window, letters, merged, render, ruler


def times(*queues: list[tuple], barrier: int = 35) -> list[list[int]]:
    """Issue cycles of queues written as lists of (mnemonic, operands ...)."""
    words = [encode("lpu", BY_NAME[name], operands) for queue in queues for name, *operands in queue]
    starts = np.cumsum([0, *(len(queue) for queue in queues)])
    found = queue_times(decode_words("lpu", np.array(words, np.uint64)), starts, barrier)
    return [found[a:b].tolist() for a, b in zip(starts, starts[1:])]


READ = ("READ", 0, 0)


def test_nops_take_their_cycles_and_repeats_none() -> None:
    # READ at 0, its REPEAT takes no slot, NOP 5 from 1 to 5, READ at 6
    assert times([READ, ("REPEAT", 9, 2, 1), ("NOP", 5), READ]) == [[0, 1, 1, 6]]


def test_a_barrier_lines_the_queues_up() -> None:
    # NOTIFY issues at 3 (after NOP 3): every queue goes on at 3 + 35 = 38
    first = [("NOP", 3), ("NOTIFY",), READ]
    second = [("SYNC",), ("NOP", 2), READ]
    assert times(first, second) == [[0, 3, 38], [0, 38, 40]]


def test_a_second_barrier_counts_from_the_first() -> None:
    # released at 35; NOTIFY at 35 + 4 = 39, so the next release is 39 + 35 = 74
    first = [("NOTIFY",), ("NOP", 4), ("NOTIFY",), READ]
    second = [("SYNC",), ("SYNC",), READ]
    assert times(first, second) == [[0, 35, 39, 74], [0, 35, 74]]


def test_a_sync_that_nobody_releases_is_refused() -> None:
    with pytest.raises(ValueError, match="no NOTIFY releases it"):
        times([("SYNC",), READ])


def test_the_ruler_numbers_every_tenth_column() -> None:
    assert ruler(0, 21) == "0         10        20"
    assert ruler(95, 10) == "     100"


def test_letters_are_distinct_and_come_from_the_names() -> None:
    found = letters([code("ADD"), code("AND"), code("ABC"), code("ACC")])
    assert found[code("ADD")] == "A"
    assert len(set(found.values())) == 4


def test_equal_neighbours_are_one_row() -> None:
    rows = [("MEM.E3", "R."), ("MEM.E4", "R."), ("MEM.E5", ".R"), ("MEM.W0", ".R")]
    assert merged(rows) == [("MEM.E3..MEM.E4", "R."), ("MEM.E5", ".R"), ("MEM.W0", ".R")]
    rows = [("SM0.0", "A"), ("SM1.0", "A"), ("SM2.0", "A"), ("SM2.1", "A"), ("SM5.1", "A")]
    assert merged(rows) == [("SM0.0..SM2.1", "A"), ("SM5.1", "A")]


def test_a_window_shows_who_issued_what_when() -> None:
    names = ("MEM.E0", "MEM.E1", "VXM0")
    events = Events(
        names,
        np.array([0, 1, 2, 0]),
        np.array([10, 10, 13, 50]),
        np.array([code("READ"), code("READ"), code("ADD"), code("READ")]),
        first=10,
    )
    assert render(events, (10, 16)).splitlines() == [
        "                10",
        "MEM.E0..MEM.E1  R.....",
        "VXM0            ...A..",
        "",
        "R READ  A ADD  . nothing issued",
    ]
    assert render(events, (20, 30)) == "cycles 20 to 29: nothing is issued; the first instruction is in cycle 10"


def test_a_stretch_without_issues_has_a_sentence_instead_of_a_ruler() -> None:
    """Issues in cycles 5 and 250 of 0 to 299: the second hundred is empty."""
    op = BY_NAME["READ"].code
    events = Events(["MEM.E0"], np.array([0, 0]), np.array([5, 250]), np.array([op, op]))
    lines = render(events, (0, 300)).splitlines()
    assert "nothing is issued from cycle 100 to 199" in lines
    assert sum(line.startswith("MEM.E0") for line in lines) == 2
    assert not any(line.split()[:1] == ["100"] for line in lines)


def test_a_window_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 2000 cycles"):
        check_window((0, 2001))
