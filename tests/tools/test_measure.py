"""From options to a job: defaults, what is refused by name, and what makes a comparison fail."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emulator.chip import load_chip
from programs.compile import compile_decode
from programs.decode import reference
from programs.models.checkpoint import load_model
from programs.models.errors import ModelError
from tests.models import random_llama
from tests.tools.test_cli import refused, run
from tools import screen
from tools.compare import Outcome, Point, flat
from tools.measure import Job, check, disagreement

TINY = Job("tiny_kjv", "groq_tsp_v1")


def test_a_sliding_window_limits_the_context_and_its_default(tmp_path: Path) -> None:
    folder = random_llama(
        tmp_path / "m", architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=64,
        max_position_embeddings=256,
    )  # fmt: skip
    job = Job(str(folder), "h100_sxm", tokens=4)
    assert check(job).job.context == 64
    assert check(replace(job, context=32)).job.context == 32
    assert check(replace(job, timing_only=True, tokens=None)).job.context == 64
    program = compile_decode(load_model(folder), load_chip("h100_sxm"), timing_only=True)
    assert program.meta["context"] == 64
    with pytest.raises(ModelError, match="a context of 65 positions needs the sliding window of 64 of m"):
        check(replace(job, context=65))


def test_a_context_over_the_models_names_the_model() -> None:
    with pytest.raises(ModelError, match="a context of 1024 positions is over the 512 of tiny_kjv"):
        check(replace(TINY, context=1024))


@pytest.mark.parametrize(
    ("prompt", "tokens", "context"),
    [(3, 16, 64), (10, 54, 64), (10, 55, 128), (500, 12, 512), (500, 13, 512)],  # prompt + tokens, rounded up to 64
)
def test_default_context_with_values(prompt: int, tokens: int, context: int) -> None:
    assert check(replace(TINY, prompt_ids=((7,) * prompt,), tokens=tokens)).job.context == context


def test_the_last_token_needs_no_position() -> None:
    """It is never fed: 3 prompt tokens and 6 new ones are 8 steps."""
    job = replace(TINY, prompt_ids=((5, 6, 7),), tokens=6)
    assert check(replace(job, context=8)).job.context == 8
    with pytest.raises(ValueError, match="3 prompt tokens and 6 new ones need 8 positions, over --context 7"):
        check(replace(job, context=7))
    with pytest.raises(ModelError, match="513 positions is over the 512"):
        check(replace(TINY, prompt_ids=((7,) * 500,), tokens=14))


def test_timing_only_has_one_default_context_however_it_is_fed() -> None:
    """1024, or the model's own limit: 512."""
    for feeds in (False, True):
        assert check(replace(TINY, timing_only=True, feeds=feeds)).job.context == 512
    llama = Job("llama-3.1-8b", "h100_sxm", timing_only=True, layers=(0, 1))
    assert check(llama).job.context == check(replace(llama, feeds=True)).job.context == 1024


@pytest.mark.parametrize("arguments", [
    ("compare", "--prompt", "a"), ("compare", "--prompt-ids", "3"), ("compare", "--tokens", "2"),
    ("compare", "--stop-at-eos"), ("generate", "--tokens", "2"), ("generate", "--stop-at-eos"),
])  # fmt: skip
def test_what_timing_only_would_ignore_is_refused_by_name(capsys, arguments: tuple[str, ...]) -> None:
    told = refused(capsys, *arguments, "--timing-only", "--model", "tiny_kjv")
    assert arguments[1] in told and "makes no sense with --timing-only" in told


def test_a_prompt_that_is_no_text_and_an_empty_model_are_blamed_themselves(capsys) -> None:
    assert "error: '\\udcff\\udcfe' is not text in UTF-8" in refused(capsys, "generate", "--prompt", "\udcff\udcfe")
    for command in ("generate", "compare"):
        assert "--model is empty" in refused(capsys, command, "--model", "")


# -- failures of a comparison ------------------------------------------------------------------
GOOD: dict[str, Any] = {
    "chip": "toy", "tokens_match_reference": True, "mismatches": 0, "logits_within_bound": True,
    "logits_max_abs_error": 0.25, "logits_error_bound": 0.5,
}  # fmt: skip


def test_what_disagrees_is_told_in_a_sentence() -> None:
    assert disagreement(GOOD) is None
    assert disagreement({"chip": "toy", "tokens_match_reference": None}) is None
    wrong = GOOD | {"tokens_match_reference": False, "mismatches": 2}
    assert disagreement(wrong) == (
        "toy: 2 generated tokens differ from the float64 reference by more than the error bound of 0.5000"
    )
    off = GOOD | {"logits_within_bound": False, "logits_max_abs_error": 0.75}
    assert disagreement(off) == "toy: a logit is off by 0.7500, more than the error bound of 0.5000"
    assert "a logit is not a number" in (disagreement(off | {"logits_max_abs_error": None}) or "")


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_logits_beyond_the_bound_are_exit_code_1(capsys, monkeypatch, command: str) -> None:
    """With a bound of 2 ** -16 of the largest logit no fp16 machine stays inside."""
    monkeypatch.setenv("DECODELAB_JOBS", "1")
    monkeypatch.setattr(reference, "SAFETY", 0.0)
    code, out, err = run(capsys, command, "--model", "tiny_kjv", "--chip", "groq_tsp_v1", "--tokens", "2", "--json")
    assert code == 1
    assert "comparison failed: groq_tsp_v1: a logit is off by" in err
    found = json.loads(out)
    entry = found["chips"][0] if command == "compare" else found
    assert entry["logits_within_bound"] is False
    assert entry["logits_max_abs_error"] > entry["logits_error_bound"]


def test_an_all_failed_comparison_writes_no_csv(capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECODELAB_JOBS", "1")
    code, _, _ = run(
        capsys, "compare", "--timing-only", "--chip", "h100_sxm", "--set", "h100_sxm.dram.capacity_bytes=1000",
        "--csv", str(tmp_path / "x.csv"),
    )  # fmt: skip
    assert code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_batch_stays_readable_in_a_csv_cell() -> None:
    cells = flat({"token_ids": [[3, 4], [5]], "layers": [0, 1], "text": ["a b", "c"], "margins": [0.5, 1.0]})
    assert cells == {"token_ids": "3 4;5", "layers": "0 1", "text": "a b;c", "margins": "0.5 1.0"}
    point = Point("m", 64, 2, [{"chip": "toy", **cells}])
    row = next(csv.DictReader(Outcome([point], [], TINY).csv().splitlines()))
    assert row["token_ids"] == "3 4;5"


def test_a_sweep_tells_whether_its_tokens_agree() -> None:
    entry = GOOD | {
        "context": 64, "arithmetic": "fp16 x fp16", "seconds_per_token": 1e-6, "cycles_per_token": 900,
        "tokens_per_second": 1e6, "floor_seconds": 1e-7, "bound_by": "latency", "token_ids": [3, 4], "near_ties": 1,
    }  # fmt: skip
    shown = screen.sweep([(1, 64, entry)], "m")
    assert shown.splitlines()[-1].endswith("1/2 = float64 reference, 1 near tie")
    timing = entry | {"tokens_match_reference": None}
    assert "tokens/s" in (head := screen.sweep([(1, 64, timing)], "m").splitlines()[1]) and not head.endswith("tokens")
