"""Results as plain data, for people who keep them or feed them to other tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import programs
from decodelab import assemble, compile_decode, load_chip, load_model, run

EXAMPLES = Path(programs.__file__).parent / "examples"


def test_a_programs_result_is_json_with_integers_and_adds_up() -> None:
    """gemv.lpu.s takes 111 cycles (docs/assembly has them one by one) and reads 102,720 bytes of SRAM: 100 KB of
    weights and a vector of 320."""
    found = json.loads(json.dumps(run(assemble(EXAMPLES / "gemv.lpu.s")).to_json()))
    assert found["schema"] == "decodelab.result/1" and found["cycles_per_token"] == 111
    assert found["step"]["traffic_bytes"]["sram_read"] == 320 * 320 + 320
    assert sum(leaf["cycles"] for leaf in found["step"]["time_tree"]) == 111
    assert [entry["cycles"] for entry in found["per_token"]] == [111]


def test_a_models_result_has_its_tokens_and_every_step() -> None:
    program = compile_decode(load_model("tiny_kjv"), load_chip("h100_sxm"), context=64)
    result = run(program, prompt_ids=[41, 78], tokens=2)
    found = json.loads(json.dumps(result.to_json()))
    assert found["token_ids"] == [[int(i) for i in np.ravel(ids)] for ids in result.token_ids]
    assert [entry["phase"] for entry in found["per_token"]] == ["prompt", "generate", "generate"]
    assert found["step"]["cycles"] == found["per_token"][-1]["cycles"] == result.steps[-1].cycles
    assert found["step"]["kernels"][0]["kernel"]
