"""The GPU compiler: decode steps on the emulated machine against the float64 oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.assemble import assemble
from emulator.chip import load_chip
from emulator.run import load
from isa.program import GpuText, Program
from programs.decode.reference import Reference, logit_bound
from programs.decode.stored import SCHEMES, StoredModel, store
from programs.gpu.compile import CapacityError, compile_gpu
from programs.models.checkpoint import load_model
from tests.models import AWKWARD, AWKWARD_GROUPS, random_llama

QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 40, "vocab_size": 77}
WIDE_HEADS = {"hidden_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
              "num_hidden_layers": 1}
ODD_HEADS = {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 10}


def stored_model(folder: Path, scheme: str, timing_only: bool = False, **changes: Any) -> StoredModel:
    return store(load_model(str(random_llama(folder / "model", **changes))), SCHEMES[scheme], timing_only=timing_only)


def check_steps(stored: StoredModel, program: Program, chip: str, batch: int, steps: int) -> None:
    """Logits within the bound, argmax of the machine's own logits, positions that count up."""
    machine = load(program, load_chip(chip))
    exact, rounded = Reference(stored, batch), Reference(stored, batch, machine_like=True)
    rng = np.random.default_rng(7)
    ours, theirs, likes = [], [], []
    for step in range(steps):
        tokens = rng.integers(0, stored.config.vocab, size=batch)
        result = machine.step([int(t) for t in tokens])
        positions = np.full(batch, step)
        ours.append(machine.read("logits"))
        theirs.append(exact.step(tokens, positions))
        likes.append(rounded.step(tokens, positions))
        assert result.tokens == ours[-1].argmax(axis=1).tolist()
        assert machine.read("position").ravel().tolist() == [step + 1] * batch
    error = max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))
    assert error <= logit_bound(theirs, likes)


@pytest.mark.parametrize(("name", "scheme", "chip", "batch"), [
    (AWKWARD, "fp16", "toy_gpu", 1),
    (AWKWARD, "int8", "h100_sxm", 2),
    (AWKWARD_GROUPS, "fp16", "h100_sxm", 9),
    (AWKWARD_GROUPS, "fp8", "toy_gpu", 1),
    (QWEN, "bf16", "toy_gpu", 2),
    (QWEN, "int8", "h100_sxm", 1),
    (WIDE_HEADS, "bf16", "h100_sxm", 1),
    (ODD_HEADS, "fp16", "h100_sxm", 3),
])
def test_logits_agree_with_the_oracle(
    name: dict[str, Any], scheme: str, chip: str, batch: int, tmp_path: Path
) -> None:
    stored = stored_model(tmp_path, scheme, **name)
    check_steps(stored, compile_gpu(stored, load_chip(chip), batch=batch, context=64), chip, batch, 3)


@pytest.mark.parametrize(("model", "scheme", "chip"), [
    (AWKWARD, "fp16", "h100_sxm"), (AWKWARD_GROUPS, "int8", "toy_gpu"), (ODD_HEADS, "bf16", "a100_sxm")])
def test_k_and_v_of_8_bits_agree_with_the_oracle(model: dict[str, Any], scheme: str, chip: str, tmp_path: Path) -> None:
    found = load_model(str(random_llama(tmp_path / "model", **model)))
    stored = store(found, replace(SCHEMES[scheme], kv="e4m3"))
    check_steps(stored, compile_gpu(stored, load_chip(chip), batch=2, context=64), chip, 2, 3)


def test_k_and_v_are_rounded_where_the_oracle_rounds(tmp_path: Path) -> None:
    """Far nearer to the oracle that rounds K and V to 8 bits than to the one that rounds nothing."""
    stored = store(load_model(str(random_llama(tmp_path / "model", **AWKWARD))), replace(SCHEMES["fp16"], kv="e4m3"))
    chip = load_chip("h100_sxm")
    machine = load(compile_gpu(stored, chip, batch=1, context=64), chip)
    exact, alike = Reference(stored, 1), Reference(stored, 1, machine_like=True)
    far = near = 0.0
    for position in range(4):
        machine.step([3 + position])
        logits = machine.read("logits")
        far = max(far, float(np.abs(logits - exact.step([3 + position], [position])).max()))
        near = max(near, float(np.abs(logits - alike.step([3 + position], [position])).max()))
    assert near < far / 10


@pytest.mark.parametrize("scheme", ["fp16", "int8", "fp8"])
def test_separate_activation_kernels_agree_with_the_oracle(scheme: str, tmp_path: Path) -> None:
    stored = stored_model(tmp_path, scheme, **AWKWARD)
    program = compile_gpu(stored, load_chip("h100_sxm"), batch=9, context=64, fused_values_max=0)
    assert "qkv_operand" in {kernel.name for kernel in program.texts[0].kernels}
    check_steps(stored, program, "h100_sxm", 9, 2)


def test_more_than_64_sequences_run_in_slices(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16")
    check_steps(stored, compile_gpu(stored, load_chip("h100_sxm"), batch=67, context=16), "h100_sxm", 67, 2)


@pytest.mark.parametrize(("chip", "split", "steps"), [
    ("toy_gpu", 16, 40),  # three splits, live ones added by the combine
    ("toy_gpu", 64, 70),  # one warp refills its ring; the second split begins at position 64
    ("h100_sxm", 64, 70),
])
def test_split_attention_agrees_with_the_oracle(chip: str, split: int, steps: int, tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16", num_hidden_layers=1, vocab_size=40)
    program = compile_gpu(stored, load_chip(chip), context=80, split=split)
    assert "combine" in {kernel.name for kernel in program.texts[0].kernels}
    check_steps(stored, program, chip, 1, steps)


def test_sequences_may_be_at_different_positions(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16")
    machine = load(compile_gpu(stored, load_chip("h100_sxm"), batch=2, context=64), load_chip("h100_sxm"))
    oracle = Reference(stored, 2)  # its cache, like the machine's, holds zeros where nothing was appended
    for step in range(3):
        positions = np.array([step, 4 + step])
        machine.write("position", positions.reshape(2, 1))
        machine.step([3 + step, 5])
        logits = oracle.step(np.array([3 + step, 5]), positions)
        assert np.abs(machine.read("logits") - logits).max() < 0.05


@pytest.mark.parametrize(("scheme", "chip", "batch"), [("fp16", "toy_gpu", 1), ("int8", "h100_sxm", 2)])
def test_timing_only_takes_the_same_cycles_and_traffic(
    scheme: str, chip: str, batch: int, tmp_path: Path
) -> None:
    loaded = load_chip(chip)
    results = []
    for timing_only in (False, True):
        stored = stored_model(tmp_path / str(timing_only), scheme, timing_only, **AWKWARD_GROUPS)
        machine = load(compile_gpu(stored, loaded, batch=batch, context=64, timing_only=timing_only), loaded)
        results.append([machine.step([5] * batch) for _ in range(3)])
    for values, timing in zip(*results, strict=True):
        assert (values.cycles, values.traffic, values.accounting) == (timing.cycles, timing.traffic, timing.accounting)
    assert results[1][0].logits is None


@pytest.mark.parametrize("scheme", ["fp16", "int8"])
def test_the_twin_runs_a_compiled_step_alike(scheme: str, tmp_path: Path) -> None:
    stored, chip = stored_model(tmp_path, scheme, num_hidden_layers=1, vocab_size=40), load_chip("toy_gpu")
    program = compile_gpu(stored, chip, context=32)
    fast, naive = load(program, chip), load(program, chip, engine="naive")
    one, other = fast.step(3), naive.step(3)
    assert (one.cycles, one.traffic, one.accounting) == (other.cycles, other.traffic, other.accounting)
    assert np.array_equal(fast.read("logits"), naive.read("logits"))


def test_every_launch_has_its_graph_node(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16")
    program = compile_gpu(stored, load_chip("toy_gpu"), context=64)
    result = load(program, load_chip("toy_gpu")).step(1)
    nodes = [kernel["node"] for kernel in result.kernels]
    layer = ["qkv", "attention", "o", "gate_up", "down"]
    expected = ["embed", *(f"layers.{i}.{n}" for i in range(2) for n in layer), "lm_head", "argmax"]
    assert list(dict.fromkeys(nodes)) == expected
    assert len(nodes) == len(program.texts[0].launches)


def test_a_run_of_layers_starts_from_hidden_and_writes_it_back(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16", num_hidden_layers=3)
    program = compile_gpu(stored, load_chip("h100_sxm"), context=64, layers=(1, 3))
    machine = load(program, load_chip("h100_sxm"))
    hidden = np.random.default_rng(3).standard_normal((1, 32)).astype(np.float32)
    machine.write("hidden", hidden)
    machine.step()
    expected = Reference(stored, 1, (1, 3)).step_hidden(hidden, [0])
    assert np.abs(machine.read("hidden") - expected).max() < 0.02
    assert machine.read("position").ravel().tolist() == [1]


def test_the_listing_is_assembly_that_gives_the_same_words(tmp_path: Path) -> None:
    text = compile_gpu(stored_model(tmp_path, "int8"), load_chip("h100_sxm"), context=128, split=64).texts[0]
    assert isinstance(text, GpuText)
    again = assemble(".chip h100_sxm\n" + "\n".join(text.source.lines) + "\n").texts[0]
    assert np.array_equal(again.words, text.words)
    at = [text.source.lines[line].split()[0].lstrip("@!") for line in text.source.line]
    assert at[text.kernels[1].first] == "S2R"


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16")
    first, second = (compile_gpu(stored, load_chip("h100_sxm"), context=64) for _ in range(2))
    assert np.array_equal(first.texts[0].words, second.texts[0].words)
    assert first.texts[0].launches == second.texts[0].launches
    assert np.array_equal(first.images[0].data, second.images[0].data)


def test_a_model_that_does_not_fit_is_refused_with_numbers() -> None:
    stored = store(load_model("llama-2-70b"), SCHEMES["bf16"], timing_only=True)
    with pytest.raises(CapacityError, match=r"llama-2-70b .* takes 1\d\d,.* bytes; h100_sxm has 85,899,345,920") as e:
        compile_gpu(stored, load_chip("h100_sxm"), context=1024, timing_only=True, ranks=1)
    assert e.value.chips_needed == 2  # 138 GB of weights, 80 GiB a chip
