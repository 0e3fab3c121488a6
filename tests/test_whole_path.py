"""The whole path through the command line: a checkpoint in, the oracle's tokens out, on both machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from programs.models.checkpoint import FOLDER
from tests.models import AWKWARD, AWKWARD_GROUPS, forward, random_llama, shared_checkpoint

CHIPS = ("groq_tsp_v1", "h100_sxm")
TINY = json.loads((FOLDER / "tiny_kjv" / "reference.json").read_text(encoding="utf-8"))
PROMPTS = {name: entry for name, entry in TINY.items() if isinstance(entry, dict)}


def generate(*arguments: str) -> dict[str, Any]:
    """JSON of `decodelab generate` in a fresh process."""
    environment = dict(os.environ, PYTHONIOENCODING="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "generate", *arguments, "--json"], env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_the_bundled_model_says_what_transformers_says(chip: str, name: str) -> None:
    """reference.json: transformers 5.23.0, fp32; the first 24 greedy ids are the same on both chips."""
    reference = PROMPTS[name]
    found = generate("--chip", chip, "--prompt", reference["prompt"], "--tokens", "24")
    assert found["prompt_token_ids"] == reference["prompt_ids"]
    assert found["token_ids"] == reference["greedy_ids"][:24]
    assert (reference["prompt"] + found["text"]) == reference["text"][: len(reference["prompt"] + found["text"])]
    assert found["tokens_match_reference"] is True
    assert found["logits_max_abs_error"] <= found["logits_error_bound"]
    steps = found["per_token"]
    assert len(steps) == len(reference["prompt_ids"]) + 24 - 1
    assert [s["phase"] for s in steps].count("generate") == 24
    assert steps[-1]["cycles"] == found["cycles_per_token"]


@pytest.mark.parametrize("chip", CHIPS)
def test_a_published_story_comes_out(chip: str) -> None:
    """stories260K: transformers and llama2.c agree on these ids (facts of the checkpoint's folder)."""
    folder = shared_checkpoint("stories260K")
    reference = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["once"]
    found = generate("--model", str(folder), "--chip", chip, "--prompt", "Once upon a time", "--tokens", "24")
    assert found["token_ids"] == reference["greedy_ids"][:24]


@pytest.mark.parametrize(("chip", "ranks"), [
    ("a100_sxm", "1"), ("h200_sxm", "1"), ("a100_sxm", "2"), ("h100_sxm", "2"), ("h200_sxm", "2")])
def test_every_gpu_generates_the_references_tokens(chip: str, ranks: str) -> None:
    """Other numbers of the same machine: the first tokens of both checkpoints are those of their references."""
    reference, where = next(iter(PROMPTS.values())), ("--chip", chip, "--tensor-parallel", ranks)
    found = generate(*where, "--prompt", reference["prompt"], "--tokens", "4")
    assert found["token_ids"] == reference["greedy_ids"][:4]
    assert found["logits_max_abs_error"] <= found["logits_error_bound"]
    folder = shared_checkpoint("stories260K")
    story = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["once"]
    found = generate("--model", str(folder), *where, "--prompt", "Once upon a time", "--tokens", "4")
    assert found["token_ids"] == story["greedy_ids"][:4]


SPLITS = [("2", "1"), ("4", "1"), ("8", "1"), ("2", "2")]


@pytest.mark.parametrize(("ranks", "stages"), SPLITS)
@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_the_bundled_model_says_the_same_on_several_chips(name: str, ranks: str, stages: str) -> None:
    """tiny_kjv has 4 query heads and 2 KV heads: on 8 chips half of them only share the matrices' rest."""
    reference = PROMPTS[name]
    found = generate("--prompt", reference["prompt"], "--tokens", "24", "--tensor-parallel", ranks,
                     "--pipeline-parallel", stages)
    assert found["token_ids"] == reference["greedy_ids"][:24]
    assert found["tokens_match_reference"] is True
    assert found["chips_used"] == int(ranks) * int(stages)
    assert found["cycles_per_token"] == found["predicted_cycles"]


@pytest.mark.parametrize(("ranks", "stages"), SPLITS)
def test_a_published_story_comes_out_of_several_chips(ranks: str, stages: str) -> None:
    folder = shared_checkpoint("stories260K")
    reference = json.loads((folder / "reference.json").read_text(encoding="utf-8"))["once"]
    found = generate("--model", str(folder), "--prompt", "Once upon a time", "--tokens", "24", "--tensor-parallel",
                     ranks, "--pipeline-parallel", stages)
    assert found["token_ids"] == reference["greedy_ids"][:24]
    assert found["cycles_per_token"] == found["predicted_cycles"]


@pytest.mark.parametrize("chip", CHIPS)
def test_two_prompts_go_side_by_side(chip: str) -> None:
    """Sequences of one batch do not touch each other, though their prompts differ in length."""
    first, second = PROMPTS.values()
    found = generate(
        "--chip", chip, "--batch", "2", "--tokens", "8", "--prompt", first["prompt"], "--prompt", second["prompt"]
    )
    assert found["token_ids"] == [first["greedy_ids"][:8], second["greedy_ids"][:8]]
    assert found["tokens_match_reference"] is True


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("shape", [AWKWARD, AWKWARD_GROUPS], ids=["one_kv_head", "odd_vocabulary"])
def test_shapes_that_fit_nothing_are_padded(chip: str, shape: dict[str, int], tmp_path: Path) -> None:
    """A random fp16 Llama against an independent forward pass, position after position."""
    folder = random_llama(tmp_path / "model", **shape)
    prompt = [5, 77, 640]
    found = generate("--model", str(folder), "--chip", chip, "--prompt-ids", "5,77,640", "--tokens", "4")
    assert found["tokens_match_reference"] is True
    logits = forward(folder, prompt + found["token_ids"])
    bound = found["logits_error_bound"]
    for position, token in enumerate(found["token_ids"], start=len(prompt) - 1):
        assert logits[position].max() - logits[position][token] <= bound


@pytest.mark.parametrize(("chip", "option", "value"), [
    ("groq_tsp_v1", "--arithmetic", "int8"),
    ("groq_tsp_v1", "--arithmetic", "cast8"),
    ("h100_sxm", "--weights", "int8"),
    ("h100_sxm", "--weights", "fp8"),
    ("h100_sxm", "--weights", "bf16"),
])  # fmt: skip
def test_every_arithmetic_agrees_with_its_own_oracle(chip: str, option: str, value: str) -> None:
    found = generate("--chip", chip, option, value, "--prompt", "In the beginning", "--tokens", "6")
    assert found["tokens_match_reference"] is True
    assert found["logits_max_abs_error"] <= found["logits_error_bound"]
