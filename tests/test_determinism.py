"""The same input gives the same bytes: in fresh processes, in parallel or not, with values or for timing only."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

CHIPS = ("groq_tsp_v1", "h100_sxm")
PROMPT = "41,78,259"


def decodelab(*arguments: str, seed: str = "0", jobs: str = "2") -> bytes:
    """Standard output of one command line in a fresh process."""
    environment = dict(os.environ, PYTHONHASHSEED=seed, DECODELAB_JOBS=jobs)
    done = subprocess.run([sys.executable, "-m", "tools.cli", *arguments], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_compare_gives_the_same_bytes_whatever_the_process_and_the_number_of_jobs() -> None:
    arguments = ("compare", "--prompt-ids", PROMPT, "--tokens", "3", "--json")
    first = decodelab(*arguments, seed="1", jobs="2")
    second = decodelab(*arguments, seed="2", jobs="1")
    assert first == second
    entries = json.loads(first)["chips"]
    assert [entry["chip"] for entry in entries] == list(CHIPS)
    assert all(entry["tokens_match_reference"] for entry in entries)


@pytest.fixture(scope="module", params=CHIPS)
def pair(request: pytest.FixtureRequest) -> tuple[dict, dict]:
    """(with values, timing only fed with the same ids) of the bundled model on one chip."""
    chip = request.param
    common = ("--chip", chip, "--context", "64", "--json")
    values = json.loads(decodelab("generate", "--prompt-ids", PROMPT, "--tokens", "4", *common))
    fed = values["prompt_token_ids"] + values["token_ids"][:-1]
    ids = ",".join(str(token) for token in fed)
    timing = json.loads(decodelab("generate", "--prompt-ids", ids, "--timing-only", *common))
    return values, timing


def test_timing_mode_gives_the_cycles_and_traffic_of_values_mode(pair: tuple[dict, dict]) -> None:
    values, timing = pair
    assert timing["token_ids"] == [] and len(timing["per_token"]) == len(values["per_token"])
    for a, b in zip(values["per_token"], timing["per_token"]):
        assert a["cycles"] == b["cycles"]
        # the host writes every token in timing mode, only the prompt's with values
        assert {k: v for k, v in a["traffic_bytes"].items() if k != "host"} == {
            k: v for k, v in b["traffic_bytes"].items() if k != "host"
        }


def test_timing_mode_accounts_for_cycles_like_values_mode(pair: tuple[dict, dict]) -> None:
    values, timing = pair
    assert values["unit_accounting"] == timing["unit_accounting"]
    assert values["cycles_by_cause"] == timing["cycles_by_cause"]
    assert sum(values["cycles_by_cause"].values()) == values["cycles_per_token"]


def test_the_lpu_compiler_predicts_the_emulated_cycles(pair: tuple[dict, dict]) -> None:
    values, timing = pair
    if values["chip"] != "groq_tsp_v1":
        assert values["predicted_cycles"] is None
        return
    assert values["predicted_cycles"] == timing["predicted_cycles"]
    assert {step["cycles"] for step in values["per_token"]} == {values["predicted_cycles"]}
