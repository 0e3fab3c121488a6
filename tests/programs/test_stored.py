"""Stored formats by hand: rows, scales, folded norms, and the same names with and without values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from programs.decode.stored import SCHEMES, Scheme, encode, linear_shapes, rounded, store
from programs.models.checkpoint import load_model
from programs.models.errors import ModelError
from tests.models import random_llama, random_weights, small_config, write_model


def written(folder: Path, **changes: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """A random model, and its weights as the file holds them, widened to float64."""
    config = small_config(**changes)
    weights = random_weights(config)
    model = load_model(write_model(folder / "m", config, weights))
    number = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}[config["torch_dtype"]]
    return model, {name: a.astype(number).astype(np.float64) for name, a in weights.items()}


def test_rows_of_qkv_and_gate_up_stand_one_below_the_other(tmp_path: Path) -> None:
    model, w = written(tmp_path, architectures=["Qwen2ForCausalLM"], model_type="qwen2")
    stored = store(model, SCHEMES["fp16"])
    p = "model.layers.1."
    parts = [w[f"{p}self_attn.{name}_proj.weight"] for name in "qkv"]
    qkv = stored.linears["layers.1.qkv"]
    assert np.array_equal(qkv.decoded(), np.vstack(parts))
    assert (qkv.out, qkv.inputs, qkv.has_bias, qkv.has_scale) == (32 + 16 + 16, 32, True, False)
    assert qkv.bias is not None
    assert np.array_equal(qkv.bias, np.concatenate([w[f"{p}self_attn.{name}_proj.bias"] for name in "qkv"]))
    gate_up = stored.linears["layers.1.gate_up"]
    assert np.array_equal(
        gate_up.decoded(), np.vstack([w[p + "mlp.gate_proj.weight"], w[p + "mlp.up_proj.weight"]])
    )
    assert gate_up.values is not None and gate_up.values.dtype == np.uint16
    assert stored.embed is not None and stored.embed.shape == (61, 32)
    assert np.array_equal(stored.embed.view(np.float16), w["model.embed_tokens.weight"].astype(np.float16))


def test_tied_head_is_the_embedding(tmp_path: Path) -> None:
    model, _ = written(tmp_path, tie_word_embeddings=True)
    stored = store(model, SCHEMES["fp16"])
    assert stored.embed is not None
    assert np.array_equal(stored.linears["lm_head"].values, stored.embed)  # type: ignore[arg-type]


def test_int8_rows_have_their_own_scale(tmp_path: Path) -> None:
    config = small_config(torch_dtype="float32")
    weights = random_weights(config)
    row = np.zeros(32, np.float32)
    row[:4] = [2.54, -1.27, 0.013, 0.011]
    weights["model.layers.0.mlp.down_proj.weight"][0, :] = 0.0
    weights["model.layers.0.self_attn.o_proj.weight"][5] = row
    stored = store(load_model(write_model(tmp_path / "m", config, weights)), SCHEMES["cast8"])
    # scale 2.54 / 127 = 0.02: 127, -63.5 to even -64 or -63 by rounding of 0.02 in fp32, 0.65 -> 1, 0.55 -> 1
    o = stored.linears["layers.0.o"]
    assert o.values is not None and o.scale is not None
    assert o.scale[5] == np.float32(0.02)
    assert o.values[5, :5].tolist() in ([127, -64, 1, 1, 0], [127, -63, 1, 1, 0])
    down = stored.linears["layers.0.down"]
    assert down.values is not None and down.scale is not None
    assert down.scale[0] == 1.0 and not down.values[0].any()
    for linear in stored.linears.values():  # every row uses the whole range, and no value is -128
        assert linear.values is not None
        top = np.abs(linear.values.astype(int)).max(axis=1)
        assert set(top) <= {0, 127}


@pytest.mark.parametrize(("scheme", "step"), [("cast8", 0.5 / 127), ("fp8", 2.0**-4)])
def test_quantisation_error_is_at_most_half_a_step(scheme: str, step: float, tmp_path: Path) -> None:
    model, w = written(tmp_path)
    exact = w["model.layers.0.self_attn.o_proj.weight"]
    error = np.abs(store(model, SCHEMES[scheme]).linears["layers.0.o"].decoded() - exact)
    top = np.abs(exact).max(axis=1, keepdims=True)
    if scheme == "cast8":
        assert (error <= step * top * (1 + 1e-6)).all()
    else:  # e4m3 keeps 3 bits behind the first: half of 2**-3 of the value, and 2**-10 of 448 below the normals
        assert (error <= step * np.abs(exact) + top / 448 * 2.0**-10).all()


@pytest.mark.parametrize("scheme", ["int8", "fp8"])
def test_norm_weights_are_folded_into_columns(scheme: str, tmp_path: Path) -> None:
    model, w = written(tmp_path)
    stored = store(model, SCHEMES[scheme])
    assert stored.norms == {}
    folded = w["model.layers.0.mlp.gate_proj.weight"] * w["model.layers.0.post_attention_layernorm.weight"]
    gate_up = stored.linears["layers.0.gate_up"]
    assert gate_up.scale is not None
    largest = 127 if scheme == "int8" else 448
    assert gate_up.scale[:48] == pytest.approx(np.abs(folded).max(axis=1) / largest, rel=1e-6)
    head = w["lm_head.weight"] * w["model.norm.weight"]
    relative = np.abs(stored.linears["lm_head"].decoded() - head).max() / np.abs(head).max()
    assert relative < (0.005 if scheme == "int8" else 0.04)


def test_norms_are_fp32_and_named(tmp_path: Path) -> None:
    model, w = written(tmp_path)
    norms = store(model, SCHEMES["fp16"]).norms
    expected = {f"layers.{i}.{name}" for i in (0, 1) for name in ("attn_norm", "mlp_norm")} | {"final_norm"}
    assert set(norms) == expected
    final = norms["final_norm"]
    assert final is not None and final.dtype == np.float32 and np.array_equal(final, w["model.norm.weight"])


@pytest.mark.parametrize("name", SCHEMES)
def test_names_shapes_and_bytes_do_not_depend_on_values(name: str, tmp_path: Path) -> None:
    model, _ = written(tmp_path, architectures=["Qwen2ForCausalLM"], model_type="qwen2")
    full, empty = store(model, SCHEMES[name]), store(model, SCHEMES[name], timing_only=True)
    assert full.has_values and not empty.has_values
    assert set(full.norms) == set(empty.norms)
    assert list(full.linears) == list(empty.linears)
    for key, linear in full.linears.items():
        other = empty.linears[key]
        assert (linear.out, linear.inputs, linear.has_scale, linear.has_bias, linear.bytes) == (
            other.out, other.inputs, other.has_scale, other.has_bias, other.bytes
        )  # fmt: skip
        assert linear.values is not None and linear.values.shape == (linear.out, linear.inputs)
        assert (linear.scale is not None) == linear.has_scale and (linear.bias is not None) == linear.has_bias
        held = sum(a.nbytes for a in (linear.values, linear.scale, linear.bias) if a is not None)
        assert held == linear.bytes
        assert other.values is None and other.scale is None and other.bias is None
        with pytest.raises(ModelError, match="has no values"):
            other.decoded()


def test_preset_of_8b_takes_no_memory() -> None:
    stored = store(load_model("llama-3.1-8b"), SCHEMES["int8"])
    # q 32 x 128, k and v 8 x 128 each; gate and up
    assert linear_shapes(stored.config)["qkv"] == (4096 + 2 * 1024, 4096)
    assert stored.linears["layers.31.gate_up"].out == 2 * 14336
    assert len(stored.linears) == 4 * 32 + 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_beyond_fp16_are_refused_by_name(dtype: str, tmp_path: Path) -> None:
    config = small_config(torch_dtype=dtype)
    weights = random_weights(config)
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 70000.0
    model = load_model(write_model(tmp_path / "m", config, weights))
    with pytest.raises(ModelError, match="layers.1.gate_up has weights beyond the range of fp16; use bf16"):
        store(model, SCHEMES["fp16"])
    assert store(model, SCHEMES["bf16"]).has_values


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    config = small_config()
    weights = random_weights(config)
    weights["model.embed_tokens.weight"][3, 3] = np.nan
    with pytest.raises(ModelError, match="weight embed holds 1 values that are NaN or infinite"):
        store(load_model(write_model(tmp_path / "m", config, weights)), SCHEMES["fp16"])


@pytest.mark.parametrize(
    "formats", [("e4m3", "f16", "f16", False), ("f16", "s8", "f16", True), ("f16", "f16", "s8", False)]
)
def test_schemes_that_no_machine_computes(formats: tuple[str, str, str, bool]) -> None:
    with pytest.raises(ModelError, match="no machine computes this"):
        Scheme(*formats)
    with pytest.raises(ModelError, match="norm weights are folded with 8-bit activations, and only then"):
        Scheme("s8", "s8", "f16", fold_norms=False)


def test_encoding_rounds_to_even_and_saturates() -> None:
    assert encode(np.array([0.5, 1.5, -2.5, 200.0, -200.0]), "s8").tolist() == [0, 2, -2, 127, -128]
    # e4m3 above 16 has steps of 2: 17 is halfway between 16 and 18, 19 between 18 and 20 (even mantissas 16, 20)
    assert rounded(np.array([17.0, 19.0, 1e9, -1e9]), "e4m3").tolist() == [16.0, 20.0, 448.0, -448.0]
    # fp16 above 2048 has steps of 2
    assert rounded(np.array([2049.0, 2051.0]), "f16").tolist() == [2048.0, 2052.0]


def test_progress_counts_linear_layers(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    store(load_model(random_llama(tmp_path / "m")), SCHEMES["fp16"], progress=lambda done, of: seen.append((done, of)))
    assert seen == [(i + 1, 9) for i in range(9)]
