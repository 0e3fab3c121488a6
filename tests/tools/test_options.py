"""Values of options that several commands share, and how wrong ones are refused."""

from __future__ import annotations

import re

import click
import pytest

from emulator.chip import ChipError
from tools.options import (
    Binding,
    Count,
    CycleRange,
    Finite,
    Layers,
    Names,
    TokenIds,
    load_chips,
    split_setting,
    with_ideal,
)


def convert(kind: click.ParamType, text: str):
    return kind.convert(text, None, None)


def test_counts_take_k_for_1024() -> None:
    assert convert(Count(), "64") == 64
    assert convert(Count(), "8k") == 8 * 1024
    assert convert(Count(), "1K") == 1024


def test_lists_of_counts_keep_their_order_and_drop_repeats() -> None:
    assert convert(Count(many=True), "64,1,8,64") == (64, 1, 8)
    assert convert(Count(many=True), "1k,8k") == (1024, 8192)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "k", "", "1,2", "1e3"])
def test_a_count_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a number such as"):
        convert(Count(), text)


@pytest.mark.parametrize("text", ["1,,2", "1,0", "a", ","])
def test_a_list_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not numbers such as"):
        convert(Count(many=True), text)


def test_a_count_that_is_too_large_is_told_so() -> None:
    assert convert(Count(), str(1 << 30)) == 1 << 30
    assert convert(Count(), "0" * 30 + "64") == 64
    for text in (str((1 << 30) + 1), "9" * 5000):
        with pytest.raises(click.BadParameter, match="is more than 1,073,741,824"):
            convert(Count(), text)


def test_a_number_must_be_finite() -> None:
    """Every comparison with nan is false: a gate with such a tolerance would let all pass."""
    assert convert(Finite(0, 10), "2.5") == 2.5
    for text in ("nan", "inf", "11"):
        with pytest.raises(click.BadParameter):
            convert(Finite(0, 10), text)
    with pytest.raises(click.BadParameter, match="nan is not a finite number"):
        convert(Finite(min=0), "nan")


def test_names_stand_between_commas() -> None:
    assert convert(Names(), "issue, stall,") == ("issue", "stall")
    assert convert(Names(), "") == convert(Names(), ",") == ()


def test_token_ids() -> None:
    assert convert(TokenIds(), "5, 77,640") == (5, 77, 640)
    for text in ("", "5,", "-1", "5;6"):
        with pytest.raises(click.BadParameter, match="not a list of token ids"):
            convert(TokenIds(), text)


def test_ranges_must_not_be_empty() -> None:
    assert convert(Layers(), "0:1") == (0, 1)
    assert convert(CycleRange(), "0:60") == (0, 60)
    for text in ("1:1", "2:1", "1", ":", "0:-1"):
        with pytest.raises(click.BadParameter, match="range of layers"):
            convert(Layers(), text)
        with pytest.raises(click.BadParameter, match="range of cycles"):
            convert(CycleRange(), text)


def test_bindings() -> None:
    name, path = convert(Binding(), "W=data/w.npy")
    assert (name, path.as_posix()) == ("W", "data/w.npy")
    for text in ("W", "=w.npy", "W="):
        with pytest.raises(click.BadParameter, match="is not NAME=FILE"):
            convert(Binding(), text)


def test_settings_split_at_the_first_dot_and_equals_sign() -> None:
    assert split_setting("h100_sxm.dram.channels=80") == ("h100_sxm", "dram.channels", "80")
    for text in ("h100_sxm", "h100_sxm=3", "h100_sxm.dram.channels", "h100_sxm.dram.channels=", ".x=1"):
        with pytest.raises(ValueError, match="expected CHIP.KEY=VALUE"):
            split_setting(text)


def test_a_setting_reaches_its_chip_only_and_is_marked_as_the_users() -> None:
    lpu, gpu = load_chips((), ("h100_sxm.dram.channels=40",))
    assert (lpu.name, gpu.name) == ("groq_tsp_v1", "h100_sxm")
    assert gpu["dram.channels"] == 40
    assert (gpu.numbers["dram.channels"].status, gpu.numbers["dram.channels"].source) == ("assumed", "user")
    plain = load_chips(("h100_sxm",), ())[0]
    assert gpu.hash != plain.hash


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("h100.dram.channels=40", "did you mean h100_sxm"),
        ("h100_sxm.dram.chanels=40", "did you mean h100_sxm.dram.channels"),
        ("h100_sxm.dram.channels=many", "expected a whole number"),
        ("h100_sxm.dram.channels=-1", "must be at least 0 and less than"),
    ],
)
def test_wrong_settings_are_refused_with_the_nearest_name(setting: str, message: str) -> None:
    with pytest.raises((ValueError, ChipError), match=message):
        load_chips((), (setting,))


def test_a_chip_cannot_be_named_twice() -> None:
    with pytest.raises(ValueError, match="named twice"):
        load_chips(("h100_sxm", "h100_sxm"), ())


def test_ideal_words_become_settings_of_the_chips_that_have_them() -> None:
    settings = with_ideal("launch, links", (), ("h100_sxm.launch.graph_gap=7",))
    lpu, gpu = load_chips((), settings)
    assert (gpu["launch.stream_gap"], gpu["launch.graph_gap"]) == (0, 7)  # the user's own number wins
    assert lpu["c2c.overhead_cycles"] == 0 and lpu["c2c.link_latency_cycles"] == 1
    assert with_ideal(None, (), ("x",)) == ("x",)


@pytest.mark.parametrize(("word", "message"), [
    ("dran", "--ideal dran: h100_sxm has no such limit; did you mean dram?"),
    ("", "--ideal : h100_sxm has no such limit"),
])  # fmt: skip
def test_unknown_ideal_words_are_refused(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        with_ideal(word, ("h100_sxm",), ())
