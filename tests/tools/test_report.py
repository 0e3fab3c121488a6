"""Numbers as people read them; parts that add up to exactly one hundred per cent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from emulator.accounting import shares
from tools.report import percentages, seconds, size, table, where_line


def test_times_have_three_figures_and_a_fitting_unit() -> None:
    assert seconds(5.3e-6) == "5.30 us"
    assert seconds(0.0123) == "12.3 ms"
    assert seconds(1.5) == "1.50 s"
    assert seconds(12e-9) == "12.0 ns"


def test_sizes_are_decimal() -> None:
    assert size(1_840_000) == "1.84 MB"
    assert size(52_428_800) == "52.4 MB"
    assert size(999) == "999 B"
    assert size(0) == "0 B"


@given(st.integers(0, 10**12), st.lists(st.integers(0, 10**12), min_size=1, max_size=12))
def test_shares_add_up_and_are_off_by_less_than_one(total: int, values: list[int]) -> None:
    parts = {str(n): value for n, value in enumerate(values)}
    found = shares(total, parts)
    if sum(values) == 0:
        assert found == {}
        return
    assert sum(found.values()) == total
    for name, value in parts.items():
        assert abs(found[name] * sum(values) - total * value) < sum(values)


def test_equal_remainders_go_to_the_earlier_part() -> None:
    # 10 over three equal parts: 3.33 each, one is left over
    assert shares(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 10**9), min_size=1))
def test_percentages_add_up_to_one_hundred(parts: dict[str, int]) -> None:
    found = percentages(parts, least=1.0)
    total = sum(round(10 * float(value)) for value in found.values())
    assert total == (1000 if sum(parts.values()) else 0) or found == {"other": "100.0"}


def test_the_line_is_sorted_and_sums_up_what_is_small() -> None:
    # 8600 + 610 + 500 + 290 = 10000; 2.9 % is below three per cent
    line = where_line({"vector": 610, "ingest": 8600, "memory": 500, "idle": 290})
    assert line == "ingest 86.0  vector 6.1  memory 5.0  other 2.9  = 100.0 %"


def test_tables_align_numbers_to_the_right() -> None:
    assert table([["a", 5], ["bb", 123]], ["x", "n"]) == "x     n\na     5\nbb  123"
