"""`explain`: steps that add up, numbers that are those of `compare`, words and charts for any terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.chip import load_chip
from emulator.ideal import NEUTRAL
from emulator.run import load, measured_step
from isa.program import difference
from programs.compile import compile_decode
from programs.models.checkpoint import load_model
from tools import cli
from tools.explain import LIMITS, Limit, Stage, explain, explained_job, limits_of, stage_jobs, steps
from tools.explain_view import bar, by_part, text
from tools.explain_why import most_changed
from tools.measure import Job, prepare

OPTIONS = {"model": None, "chips": ("groq_tsp_v1", "toy_gpu"), "settings": (), "engine": "fast", "timing_only": True,
           "batch": None, "context": None}


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECODELAB_JOBS", "1")


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.run(list(arguments)) == 0
    return capsys.readouterr().out


def test_steps_are_the_differences_of_the_runs_and_may_be_negative() -> None:
    """Floor 100 of 1 GHz; runs of 130, 120 and 150 cycles: + 30, - 10, + 30."""
    stages = [Stage(Limit(name, (), ""), cycles, []) for name, cycles in (("a", 130), ("b", 120), ("c", 150))]
    entry = {"floor_seconds": 1e-7, "clock_hz": 10**9, "cycles_per_token": 150}
    found = steps(entry, stages, ["f", "x", "y", "z"])
    assert [(step["name"], step["cycles"], step["why"]) for step in found] == [
        ("floor", 100, "f"), ("a", 30, "x"), ("b", -10, "y"), ("c", 30, "z")]
    with pytest.raises(AssertionError, match="add up to 150 of 151"):
        steps(entry | {"cycles_per_token": 151}, stages, ["f", "x", "y", "z"])


@pytest.mark.parametrize("kind", ["gpu", "lpu"])
def test_limits_come_back_one_by_one(kind: str) -> None:
    jobs = stage_jobs(Job("m", "c"), LIMITS[kind])
    every = {word for limit in LIMITS[kind] for word in limit.words}
    assert set(jobs[0].ideal) == every == set(NEUTRAL[kind]) - {"pins"}  # the pins' peak is part of the floor
    assert jobs[-1].ideal == ()
    for before, after, limit in zip(jobs, jobs[1:], LIMITS[kind]):
        assert before.ideal == limit.words + after.ideal


def test_links_are_a_limit_only_where_there_are_several() -> None:
    def only_where_several(kind: str) -> list[str]:
        return [limit.name for limit in limits_of(kind, True) if limit not in limits_of(kind, False)]

    assert (only_where_several("gpu"), only_where_several("lpu")) == (["NVLink"], ["network"])


def test_large_models_run_two_layers_of_a_gpu_unless_asked_for_all() -> None:
    def layers(chip: str, full: bool = False, **options: object) -> int | None:
        return explained_job({"model": "llama-3.1-8b", "chip": chip, "timing_only": True} | options, full).sample_layers

    assert layers("h100_sxm") == 2
    assert layers("h100_sxm", sample_layers=3) == 3
    assert layers("h100_sxm", full=True) is None
    assert layers("h100_sxm", layers=(0, 8)) is None
    assert layers("h100_sxm", launch="persistent") is None
    assert layers("groq_tsp_v1") is None
    with pytest.raises(ValueError, match="--full runs every layer"):
        layers("h100_sxm", full=True, sample_layers=2)


def test_a_gpu_without_limits_runs_the_same_program_and_an_lpu_one_made_for_it() -> None:
    job = Job("tiny_kjv", "toy_gpu", timing_only=True, context=64)
    real, ideal = prepare(job), prepare(replace(job, ideal=("l1", "launch")))
    assert difference(real.program.texts, ideal.program.texts) is None
    assert ideal.chip["launch.graph_gap"] == 0 and ideal.program.chip_hash == ideal.chip.hash != real.chip.hash
    lpu = prepare(replace(job, chip="groq_tsp_v1", ideal=("vxm",)))
    assert lpu.program.chip_hash == lpu.chip.hash and lpu.chip["vxm.op_cycles"] == 1


@pytest.mark.parametrize("word", ["transit", "vxm", "units"])
def test_an_lpu_without_a_limit_runs_as_compiled_and_faster(word: str) -> None:
    from emulator.ideal import ideal_chip

    def cycles(*words: str) -> int:
        chip = ideal_chip(load_chip("groq_tsp_v1"), *words)
        program = compile_decode(load_model("tiny_kjv"), chip, context=64, timing_only=True)
        step = measured_step(load(program, chip), 64, warm=False)
        assert step.cycles == program.meta["predicted_cycles"]
        return step.cycles

    assert cycles(word) < cycles()


@pytest.fixture(scope="module")
def tiny() -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DECODELAB_JOBS", "1")
        return explain(OPTIONS)


def sums(entry: dict) -> set[int]:
    return {entry["cycles_per_token"], sum(step["cycles"] for step in entry["waterfall"]),
            sum(leaf["cycles"] for leaf in entry["time_tree"]), sum(entry["cycles_by_cause"].values())}


def test_waterfall_and_time_tree_add_up_on_both_machines(tiny: dict) -> None:
    for entry in tiny["chips"]:
        assert len(sums(entry)) == 1
        assert all(isinstance(step["cycles"], int) and step["why"] for step in entry["waterfall"])
        assert all(leaf["path"][0] == "token" and len(leaf["path"]) == 4 for leaf in entry["time_tree"])
        assert entry["waterfall"][0]["name"] == "floor"
        assert sum(by_part(entry).values()) == entry["cycles_per_token"]
    assert [step["name"] for step in tiny["chips"][0]["waterfall"][2:]] == [
        "activation transit", "vector work", "pipeline fill"]  # one chip: no network


def test_numbers_are_those_of_compare(capsys: pytest.CaptureFixture[str]) -> None:
    """With values, so that the last token is what is explained; every key of compare's entries, equal."""
    options = ("--chip", "groq_tsp_v1", "--chip", "toy_gpu", "--prompt-ids", "5,77", "--tokens", "2", "--json")
    compared = json.loads(output(capsys, "compare", *options))
    explained = json.loads(output(capsys, "explain", *options))
    assert explained["schema"] == "decodelab.explain/1"
    for one, other in zip(compared["chips"], explained["chips"], strict=True):
        assert {name: other[name] for name in one} == one
        assert len(sums(other)) == 1


def test_a_layer_of_a_preset_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(output(capsys, "explain", "--model", "smollm2-135m", "--layers", "0:1", "--timing-only",
                              "--json", "--chip", "groq_tsp_v1", "--context", "128"))
    for entry in found["chips"]:
        assert len(sums(entry)) == 1 and entry["layers"] == [0, 1]
        assert {leaf["path"][1] for leaf in entry["time_tree"]} >= {"layer 0"}


def test_the_screen_says_why_and_what_to_try_in_any_character_set(tiny: dict) -> None:
    for blocks in (True, False):
        shown = text(tiny, blocks, True)
        assert shown.isascii() != blocks
        for entry in tiny["chips"]:
            for step in entry["waterfall"]:
                assert f"{step['name']}: {step['why']}" in " ".join(shown.split())
            assert entry["advice"]["try"] in " ".join(shown.split()) and f"{entry['cycles_per_token']:,}" in shown


def test_bars_lie_where_their_step_does() -> None:
    assert bar(0, 44, 44, True) == "█" * 44
    assert bar(22, 11, 44, False) == " " * 22 + "#" * 11
    assert bar(22, -11, 44, False) == " " * 11 + "-" * 11  # back from 22 to 11
    assert bar(10, 1, 4400, False) == "|"  # too short for a character of its own


def test_the_largest_change_is_in_the_direction_of_the_whole() -> None:
    assert most_changed({"a": 5, "b": 9}, {"a": 1, "b": 20}) == ("b", 11)
    assert most_changed({"a": 5, "b": 9}, {"a": 1, "b": 10}) == ("a", -4)
    assert most_changed({"a": 5}, {"a": 5}) == ("", 0)


def test_a_file_has_a_row_for_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "steps.csv"
    output(capsys, "explain", "--timing-only", "--chip", "toy_gpu", "--csv", str(file))
    rows = file.read_text().splitlines()
    assert rows[0] == "model,batch,context,chip,name,cycles,why" and len(rows) == 1 + 2 + 6


@pytest.mark.parametrize(("arguments", "said"), [
    (("--chip", "h100"), "h100"),
    (("--batch", "1,8"), "1,8"),
    (("--sample-layers", "2"), "--sample-layers leaves out layers, so it needs --timing-only"),
    (("--timing-only", "--model", "llama-3.1-8b", "--chip", "groq_tsp_v1", "--chips", "1"), "does not fit"),
    (("--csv", "/nowhere/x.csv"), "cannot write /nowhere/x.csv"),
])  # fmt: skip
def test_bad_requests_are_refused_in_one_sentence(capsys, arguments: tuple[str, ...], said: str) -> None:
    assert cli.run(["explain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err
