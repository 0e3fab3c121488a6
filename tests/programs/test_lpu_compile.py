"""Compiled LPU programs against the float64 oracle, and what the compiler says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.accounting import LPU_REASONS
from emulator.chip import load_chip
from emulator.run import load
from isa.opcodes import code
from programs.compile import scheme_for
from programs.decode.reference import Reference, logit_bound
from programs.decode.stored import StoredModel, store
from programs.errors import CapacityError
from programs.lpu.system import compile_lpu
from programs.models.checkpoint import load_model
from tests.models import AWKWARD, AWKWARD_GROUPS, random_llama, random_weights, small_config, write_model

CHIP = load_chip("groq_tsp_v1")
WIDE = {  # several column tiles, K vectors of three heads, an output vector of several query heads
    "hidden_size": 704, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 96,
    "intermediate_size": 700, "vocab_size": 2500, "num_hidden_layers": 1,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "small": {}, "one KV head": AWKWARD, "grouped": AWKWARD_GROUPS, "wide": WIDE,
    "biases": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
}  # fmt: skip


def stored_model(folder: Path, arithmetic: str, **shape: Any) -> StoredModel:
    model = load_model(str(random_llama(folder, **shape)))
    return store(model, scheme_for(model, CHIP, arithmetic))


def check_steps(stored: StoredModel, program: Any, batch: int, steps: int) -> None:
    """Feed random tokens; logits must be inside the oracle's bound, the token the first largest logit."""
    machine = load(program)
    exact, rounded = Reference(stored, batch), Reference(stored, batch, machine_like=True)
    random = np.random.default_rng(5)
    found, want, like = [], [], []
    for at in range(steps):
        tokens = random.integers(0, stored.config.vocab, batch).tolist()
        step = machine.step(tokens)
        assert step.cycles == program.meta["predicted_cycles"]
        assert step.tokens == step.logits.argmax(axis=1).tolist()
        assert machine.read("position").ravel().tolist() == [at + 1] * batch
        found.append(step.logits)
        want.append(exact.step(tokens, [at] * batch))
        like.append(rounded.step(tokens, [at] * batch))
    error = max(float(np.abs(a - b).max()) for a, b in zip(found, want, strict=True))
    assert error <= logit_bound(want, like)


@pytest.mark.parametrize("arithmetic", ["fp16", "cast8", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_inside_the_oracles_bound(tmp_path: Path, shape: str, arithmetic: str) -> None:
    stored = stored_model(tmp_path, arithmetic, **SHAPES[shape])
    check_steps(stored, compile_lpu(stored, CHIP, context=64), 1, 4)


@pytest.mark.parametrize(("arithmetic", "batch"), [("fp16", 2), ("int8", 3), ("cast8", 20)])
def test_every_sequence_of_a_batch_has_its_own_cache(tmp_path: Path, arithmetic: str, batch: int) -> None:
    stored = stored_model(tmp_path, arithmetic)
    check_steps(stored, compile_lpu(stored, CHIP, batch=batch, context=64), batch, 4)


def test_positions_beyond_one_tile_of_the_cache(tmp_path: Path) -> None:
    # V is transposed tile by tile of 320 positions: steps 310 to 329 cross into the second tile.
    stored = stored_model(tmp_path, "fp16", max_position_embeddings=512, num_hidden_layers=1)
    check_steps(stored, compile_lpu(stored, CHIP, context=400), 1, 330)


@pytest.mark.parametrize("size", [2.0**-10, 8000.0])
def test_residuals_of_any_size_are_normalised(tmp_path: Path, size: float) -> None:
    # Squares go through fp16 on their way to the sum over lanes; SmolLM2 has elements of 22,400.
    config = small_config(num_hidden_layers=1)
    weights = random_weights(config)
    weights["model.embed_tokens.weight"] *= np.float32(size)
    model = load_model(str(write_model(tmp_path, config, weights)))
    stored = store(model, scheme_for(model, CHIP, "fp16"))
    check_steps(stored, compile_lpu(stored, CHIP, context=64), 1, 2)


def test_a_run_of_layers_takes_and_gives_the_residual(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16", num_hidden_layers=3)
    program = compile_lpu(stored, CHIP, context=64, layers=(1, 3))
    machine = load(program)
    x = np.random.default_rng(2).standard_normal((1, stored.config.hidden)).astype(np.float32)
    machine.write("hidden", x)
    assert machine.step().cycles == program.meta["predicted_cycles"]
    want = Reference(stored, 1, (1, 3)).step_hidden(x, [0])
    assert np.abs(machine.read("hidden") - want).max() < 0.01 * np.abs(want).max()


@pytest.mark.parametrize("arithmetic", ["fp16", "int8"])
def test_timing_only_takes_the_same_cycles_and_bytes(tmp_path: Path, arithmetic: str) -> None:
    stored = stored_model(tmp_path, arithmetic)
    with_values = load(compile_lpu(stored, CHIP, context=64)).step([3])
    without = load(compile_lpu(stored, CHIP, context=64, timing_only=True)).step([3])
    assert (without.cycles, without.traffic) == (with_values.cycles, with_values.traffic)
    assert without.accounting == with_values.accounting


def test_the_same_model_gives_the_same_program(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "int8")
    one, two = (compile_lpu(stored, CHIP, context=64) for _ in range(2))
    assert np.array_equal(one.texts[0].words, two.texts[0].words)
    assert np.array_equal(one.images[0].data, two.images[0].data)


def test_every_wait_has_a_reason_and_every_instruction_a_node(tmp_path: Path) -> None:
    text = compile_lpu(stored_model(tmp_path, "fp16"), CHIP, context=64).texts[0]
    operation = text.words & np.uint64(0xFF)
    waits = operation == code("NOP")
    assert set(text.source.reason[waits]) <= set(range(1, len(LPU_REASONS)))
    ours = ~np.isin(operation, [code("SYNC"), code("NOTIFY")])
    assert text.source.node[ours].min() >= 0
    nodes = {text.source.nodes[n] for n in text.source.node[ours]}
    assert {"layers.0.qkv", "layers.1.down", "embed", "lm_head", "argmax"} <= nodes


def test_a_model_that_does_not_fit_one_chip_is_refused_with_numbers() -> None:
    model = load_model("llama-3.1-8b")
    stored = store(model, scheme_for(model, CHIP, "int8"), timing_only=True)
    words = r"does not fit one chip of groq_tsp_v1: a layer needs 708,784 words a chip .* has 720,896"
    with pytest.raises(CapacityError, match=words):
        compile_lpu(stored, CHIP, context=1024, timing_only=True, chips=1)


def test_smollm2_fits_one_chip_in_8_bits_and_two_in_16() -> None:
    model = load_model("smollm2-135m")
    wide = store(model, scheme_for(model, CHIP, "fp16"), timing_only=True)
    assert len(compile_lpu(wide, CHIP, context=64, timing_only=True).chips) == 2
    narrow = store(model, scheme_for(model, CHIP, "cast8"), timing_only=True)
    program = compile_lpu(narrow, CHIP, context=64, timing_only=True)
    assert len(program.chips) == 1
    assert program.meta["sram_words"] <= program.meta["sram_words_available"] == 88 * 8192


def test_one_layer_of_llama_8b_runs_on_one_chip() -> None:
    model = load_model("llama-3.1-8b")
    stored = store(model, scheme_for(model, CHIP, "int8"), timing_only=True)
    program = compile_lpu(stored, CHIP, context=1024, timing_only=True, layers=(0, 1))
    step = load(program).step()
    assert step.cycles == program.meta["predicted_cycles"]
    # floor: 690,176 weight rows through 4 planes x 16 streams
    assert 690_176 // 64 < step.cycles < 2 * 690_176 // 64
