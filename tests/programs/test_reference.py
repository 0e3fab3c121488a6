"""The oracle against an independent forward pass, published outputs and hand arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from programs.decode.reference import Reference, _either_way, check_agreement, logit_bound, oracle_logits, rope, silu
from programs.decode.stored import SCHEMES, Scheme, StoredModel, rounded, store
from programs.models.checkpoint import FOLDER, load_model
from programs.models.errors import ModelError
from tests.models import (
    AWKWARD,
    AWKWARD_GROUPS,
    forward,
    random_llama,
    random_weights,
    shared_checkpoint,
    small_config,
    smollm2,
    write_model,
)

LLAMA3_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
FAMILIES = {
    "llama": {},
    "tied": {"tie_word_embeddings": True},
    "awkward": AWKWARD,
    "awkward groups": AWKWARD_GROUPS,
    "llama 3 rope": {"rope_scaling": LLAMA3_ROPE, "rope_theta": 500000.0},
    "linear rope": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "mistral": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": None},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "head wider than hidden": {"head_dim": 24},
    "bf16": {"torch_dtype": "bfloat16"},
}


def opened(folder: Path, scheme: str = "fp16") -> StoredModel:
    return store(load_model(folder), SCHEMES[scheme])


@pytest.mark.parametrize("family", FAMILIES)
def test_oracle_agrees_with_an_independent_forward_pass(family: str, tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m", **FAMILIES[family])
    scheme = "bf16" if family == "bf16" else "fp16"
    ids = [3, 17, 3, 60, 0, 5, 9, 33, 12]
    expected = forward(folder, ids)
    oracle = Reference(opened(folder, scheme), 1)
    for position, token in enumerate(ids):
        logits = oracle.step([token], [position])
        assert np.abs(logits[0] - expected[position]).max() < 1e-10


def test_sequences_of_a_batch_have_their_own_positions(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m")
    texts = [[3, 17, 3, 60, 0, 5], [9, 8, 7]]
    oracle = Reference(opened(folder), 2)
    oracle.step([texts[0][0], 1], [0, 50])  # whatever stands at position 50 is not seen from below
    for step in range(3):
        logits = oracle.step([texts[0][step + 1], texts[1][step]], [step + 1, step])
    assert np.abs(logits[0] - forward(folder, texts[0][:4])[-1]).max() < 1e-10
    assert np.abs(logits[1] - forward(folder, texts[1])[-1]).max() < 1e-10


def test_cache_grows_past_its_first_size_and_keeps_its_contents(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m", num_hidden_layers=1)
    ids = [int(i) for i in np.random.default_rng(0).integers(0, 61, 150)]
    oracle = Reference(opened(folder), 1)
    for position, token in enumerate(ids):
        logits = oracle.step([token], [position])
    assert np.abs(logits[0] - forward(folder, ids)[-1]).max() < 1e-10


@pytest.mark.parametrize("scheme", ["fp16", "int8", "fp8"])
def test_all_positions_at_once_equal_step_by_step(scheme: str, tmp_path: Path) -> None:
    stored = opened(random_llama(tmp_path / "m"), scheme)
    prompts, generated = [[3, 17, 3], [9]], [[60, 0, 5], [8, 7, 6, 5]]
    together = oracle_logits(stored, prompts, generated)
    for prompt, tokens, logits in zip(prompts, generated, together, strict=True):
        oracle = Reference(stored, 1)
        rows = [oracle.step([token], [p])[0] for p, token in enumerate([*prompt, *tokens[:-1]])]
        assert logits.shape == (len(tokens), 61)
        assert np.abs(logits - np.array(rows[len(prompt) - 1 :])).max() < 1e-6  # the grid of printed logits


def test_runs_of_layers_compose_to_the_whole_model(tmp_path: Path) -> None:
    stored = opened(random_llama(tmp_path / "m", num_hidden_layers=3), "int8")
    whole, low, high = Reference(stored, 2), Reference(stored, 2, (0, 1)), Reference(stored, 2, (1, 3))
    for position in range(3):
        tokens = np.array([position, 40 + position])
        logits = whole.step(tokens, [position, position])
        hidden = low.step_hidden(low.embed(tokens), [position, position])
        assert np.array_equal(high.head(high.step_hidden(hidden, [position, position])), logits)


def test_rope_turns_each_pair_by_position_times_frequency() -> None:
    # head_dim 4, frequencies 1 and 0.5, position 2: angles 2 and 1; pairs are (0, 2) and (1, 3)
    x = np.array([[[1.0, 0.0, 0.0, 1.0]]])
    out = rope(x, np.array([2]), np.array([1.0, 0.5]))[0, 0]
    assert out == pytest.approx([np.cos(2), -np.sin(1), np.sin(2), np.cos(1)], abs=1e-15)


def test_silu_does_not_overflow() -> None:
    # silu(x) = x / (1 + e^-x): 0 at -800, x at 800, 1 / (1 + 1/e) at 1
    assert silu(np.array([-800.0, 800.0, 1.0])) == pytest.approx([0.0, 800.0, 1 / (1 + np.exp(-1.0))], rel=1e-14)


@pytest.mark.parametrize(("scheme", "factor"), [("int8", 127 / 8), ("fp8", 16.0)])
def test_activations_are_quantised_where_the_scheme_says(scheme: str, factor: float, tmp_path: Path) -> None:
    """One linear layer by hand: straight from RMSNorm with rms 1, otherwise with the vector's own."""
    stored = opened(random_llama(tmp_path / "m"), scheme)
    x = 3.0 * np.random.default_rng(5).standard_normal((1, 32))
    grid = (lambda v: np.rint(v)) if scheme == "int8" else (lambda v: v.astype(ml_dtypes.float8_e4m3fn).astype(float))
    oracle = Reference(stored, 1)
    for name, rms in (("layers.0.qkv", 1.0), ("layers.0.o", np.sqrt((x**2).mean() + 1e-12))):
        linear = stored.linears[name]
        assert linear.values is not None and linear.scale is not None
        raw = linear.values if scheme == "int8" else linear.values.view(ml_dtypes.float8_e4m3fn)
        limit = 127 if scheme == "int8" else 448
        sums = raw.astype(np.float64) @ np.clip(grid(x[0] * factor / rms), -limit - (scheme == "int8"), limit)
        expected = sums * linear.scale * rms / factor
        assert oracle._linear(name, x, normed=rms == 1.0)[0] == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_zero_vector_is_quantised_to_zero(tmp_path: Path) -> None:
    oracle = Reference(opened(random_llama(tmp_path / "m"), "int8"), 1)
    assert not oracle._linear("layers.0.o", np.zeros((1, 32)), normed=False).any()


@pytest.mark.parametrize(
    ("checkpoint", "tolerance"),
    [("tiny_kjv", 5e-5), ("stories260K", 7e-3)],  # fp32 rounding; fp16 weights: 0.0068 (facts, table 3)
)
def test_published_outputs(checkpoint: str, tolerance: float) -> None:
    """Logits, ids and margins that transformers printed for the same checkpoint in fp32."""
    folder = FOLDER / "tiny_kjv" if checkpoint == "tiny_kjv" else shared_checkpoint(checkpoint)
    stored = opened(folder)
    cases = [case for case in json.loads((folder / "reference.json").read_text()).values() if isinstance(case, dict)]
    prompts, generated = [case["prompt_ids"] for case in cases], [case["greedy_ids"] for case in cases]
    check = check_agreement(stored, prompts, generated)
    assert check.tokens_match and not check.near_ties
    for case, rows, margins in zip(cases, oracle_logits(stored, prompts, generated), check.margins, strict=True):
        assert np.abs(rows[0] - np.array(case["first_logits"])).max() < tolerance
        assert margins == pytest.approx(case["margins"], abs=10 * tolerance)


def test_stories260k_residuals_after_every_layer() -> None:
    """Hidden vectors that transformers printed in fp32; ours come from weights rounded to fp16."""
    folder = shared_checkpoint("stories260K")
    case = json.loads((folder / "reference.json").read_text())["once"]
    expected = case["hidden_last_pos_first_step"]
    stored, ids = opened(folder), np.array(case["prompt_ids"])
    everywhere = np.zeros(len(ids), int), np.arange(len(ids))
    x = Reference(stored, 1).embed(ids)
    assert x[-1] == pytest.approx(expected["embed"], abs=2e-3)
    for i, after in enumerate(expected["after_layer"]):
        x = Reference(stored, 1, (i, i + 1)).body(everywhere[0], x, everywhere[1])
        assert x[-1] == pytest.approx(after, abs=1e-2)


def test_machine_like_rounding_stays_far_inside_the_bound_and_scales_with_the_format(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m")
    prompts, generated = [[3, 17, 3, 60]], [[0, 5, 9, 33]]
    bounds = {}
    for scheme in (SCHEMES["fp16"], SCHEMES["bf16"], SCHEMES["int8"]):
        stored = store(load_model(folder), scheme)
        exact = oracle_logits(stored, prompts, generated)
        bounds[scheme.activations] = logit_bound(exact, oracle_logits(stored, prompts, generated, machine_like=True))
    # fp16 keeps 11 bits, bf16 8: errors 8 times as large, give or take a draw of the largest of 244 logits
    assert 2 < bounds["bf16"] / bounds["f16"] < 32
    assert bounds["s8"] > bounds["f16"]
    # an fp16 result is good to about 2**-11 of the logits' size (4), times a few for depth
    assert 2**-11 < bounds["f16"] < 0.5


@pytest.mark.parametrize("format", ["s8", "e4m3"])
def test_machine_like_8_bit_activations_near_a_tie_go_the_other_way(format: str) -> None:
    """2.5 is a tie of s8; 17 is one of e4m3, whose neighbours there are 16 and 18 (quantum 2)."""
    tie, step = (2.5, 1.0) if format == "s8" else (17.0, 2.0)
    near, far = 2.0**-9 * step, 2.0**-6 * step
    low, high = tie - step / 2, tie + step / 2
    x = np.array([tie - near, tie + near, tie - far, tie + far])
    assert rounded(x, format).tolist() == [low, high, low, high]
    assert _either_way(x, format).tolist() == [high, low, low, high]


def test_bound_of_exact_agreement_is_the_floor() -> None:
    # 4 x 0 + 2**-16 x 8
    assert logit_bound([np.array([[8.0, -2.0]])], [np.array([[8.0, -2.0]])]) == 8 * 2**-16
    # 4 x 0.5 + 2**-16 x 8
    assert logit_bound([np.array([[8.0, -2.0]])], [np.array([[8.0, -1.5]])]) == 2 + 8 * 2**-16
    # 2 x 0.5 + 2**-16 x 8
    assert logit_bound([np.array([[8.0, -2.0]])], [np.array([[8.0, -1.5]])], 2) == 1 + 8 * 2**-16


def test_agreement_tells_near_ties_from_mismatches(tmp_path: Path) -> None:
    stored = opened(random_llama(tmp_path / "m"))
    first = oracle_logits(stored, [[3, 17]], [[0]])[0][0]
    order = np.argsort(-first)
    exact = check_agreement(stored, [[3, 17]], [[int(order[0])]], [first[None]])
    assert exact.tokens_match and exact.near_ties == () and exact.logits_max_abs_error == 0.0
    assert exact.margins[0][0] == pytest.approx(first[order[0]] - first[order[1]], abs=1e-6)
    wrong = check_agreement(stored, [[3, 17]], [[int(order[-1])]], [first[None] + 0.25])
    assert wrong.mismatches == ((0, 0),) and not wrong.tokens_match
    assert wrong.logits_max_abs_error == pytest.approx(0.25)
    nothing = check_agreement(stored, [[3, 17]], [[int(order[0])]], [first[None] * np.nan])
    assert nothing.logits_max_abs_error == np.inf


@pytest.mark.parametrize(("scheme", "safety"), [("fp16", 4), ("int8", 2)])
def test_a_token_is_a_near_tie_up_to_the_bound_and_wrong_beyond(scheme: str, safety: int, tmp_path: Path) -> None:
    """A second-best head row, scaled so that its logit is half a bound below the best, and then one and a half.

    The bound itself: safety times the largest shift of the prompt's and the new token's logits.
    """
    config = small_config()
    weights = random_weights(config)
    prompt = [5, 9, 33]
    best = int(forward(write_model(tmp_path / "m", config, weights), prompt)[-1].argmax())
    other = (best + 1) % 61
    plain = opened(write_model(tmp_path / "m", config, weights), scheme)
    exact, like = (oracle_logits(plain, [prompt], [[best]], machine_like=m, before=2)[0] for m in (False, True))
    assert len(exact) == 3 and int(exact[-1].argmax()) == best
    bound = check_agreement(plain, [prompt], [[best]]).bound
    assert bound == pytest.approx(safety * np.abs(exact - like).max() + 2.0**-16 * np.abs(exact).max(), rel=1e-12)
    for lead, near in ((0.5, True), (1.5, False)):
        factor = np.float32(1 - lead * bound / exact[-1, best])
        weights["lm_head.weight"][other] = weights["lm_head.weight"][best] * factor
        stored = opened(write_model(tmp_path / "m", config, weights), scheme)
        check = check_agreement(stored, [prompt], [[other]])
        assert (check.near_ties, check.mismatches) == ((((0, 0),), ()) if near else ((), ((0, 0),)))


def test_a_logit_beyond_the_bound_is_told(tmp_path: Path) -> None:
    stored = opened(random_llama(tmp_path / "m"))
    exact = oracle_logits(stored, [[3, 17]], [[0]])[0]
    token, bound = int(exact[0].argmax()), check_agreement(stored, [[3, 17]], [[0]]).bound
    off = exact.copy()
    for error, within in ((0.9, True), (1.1, False), (np.nan, False)):
        off[0, 7] = exact[0, 7] + error * bound
        assert check_agreement(stored, [[3, 17]], [[token]], [off]).logits_within_bound is within
    assert check_agreement(stored, [[3, 17]], [[token]]).logits_within_bound is None


# A V head that is lost, the o inputs of a head, a k block of a down projection: (linear, rows, columns) of zeros.
FAULTS = {
    "none": None,
    "v head": ("layers.2.qkv", slice(192, 224), slice(None)),
    "o of a head": ("layers.0.o", slice(None), slice(0, 32)),
    "64 inputs of down": ("layers.1.down", slice(None), slice(0, 64)),
}


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_machine_with_a_fault_is_told_from_rounding_in_8_bit_arithmetic(fault: str, scheme: str) -> None:
    """The machine-like oracle plays the machine, with some weights lost as a wrong program would lose them.

    tiny_kjv: qkv's rows are 4 Q heads of 32 (to 128), then 2 of K, then 2 of V.
    """
    model = load_model("tiny_kjv")
    stored = store(model, SCHEMES[scheme])
    assert (stored.config.q_size, stored.config.kv_size, stored.config.head_dim) == (128, 64, 32)
    linears, broken = dict(stored.linears), FAULTS[fault]
    if broken is not None:
        name, rows, columns = broken
        values = linears[name].values.copy()
        values[rows, columns] = 0
        linears[name] = replace(linears[name], values=values)
    machine = Reference(replace(stored, linears=linears), 1, machine_like=True)
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("And the LORD said")
    prompt, logits = list(ids), []
    for position in range(len(prompt) + 7):
        logits.append(machine.step([ids[position]], [position])[0])
        if position >= len(prompt) - 1:
            ids.append(int(logits[-1].argmax()))
    check = check_agreement(stored, [prompt], [ids[len(prompt) :]], [np.array(logits[len(prompt) - 1 :])])
    assert (check.tokens_match and check.logits_within_bound) is (fault == "none")


def test_equal_logits_are_a_near_tie(tmp_path: Path) -> None:
    """Two vocabulary entries with the same head row have the same logit: either is right."""
    config = small_config()
    weights = random_weights(config)
    best = int(forward(write_model(tmp_path / "m", config, weights), [5])[0].argmax())
    other = (best + 1) % 61
    weights["lm_head.weight"][other] = weights["lm_head.weight"][best]
    stored = opened(write_model(tmp_path / "m", config, weights))
    checks = [check_agreement(stored, [[5]], [[token]]) for token in (best, other)]
    assert all(check.tokens_match and check.margins == ((0.0,),) for check in checks)
    # the oracle itself takes the lowest id on ties
    assert [check.near_ties for check in checks] == ([(), ((0, 0),)] if best < other else [((0, 0),), ()])


def test_shapes_only_model_has_no_oracle() -> None:
    with pytest.raises(ModelError, match="no weights, only shapes"):
        Reference(store(load_model("smollm2-135m"), SCHEMES["fp16"]), 1)


def test_kv_format_of_its_own(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m")
    stored = store(load_model(folder), Scheme("f16", "f16", "bf16"))
    exact = oracle_logits(stored, [[3, 17, 3]], [[0]])
    assert np.abs(exact[0][0] - forward(folder, [3, 17, 3])[-1]).max() < 1e-6


def test_smollm2_answers_in_english() -> None:
    """Facts: SmolLM2-135M-Instruct knows the capital of France; 12 steps of the oracle, one at a time."""
    model = load_model(smollm2())
    assert model.tokenizer is not None
    stored = store(model, SCHEMES["fp16"])
    ids = model.tokenizer.encode("The capital of France")
    prompt = list(ids)
    oracle = Reference(stored, 1)
    for position in range(12):
        logits = oracle.step([ids[position]], [position])
        if position == len(ids) - 1:
            ids.append(int(logits[0].argmax()))
    assert model.tokenizer.continuation(prompt, ids[len(prompt) :]).startswith(" is Paris")
    assert check_agreement(stored, [prompt], [ids[len(prompt) :]]).tokens_match
