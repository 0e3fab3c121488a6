"""GGUF files written with the gguf package: values, RoPE order, formats, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from programs.decode.reference import Reference
from programs.decode.stored import SCHEMES, store
from programs.models.checkpoint import load_model
from programs.models.errors import ModelError
from programs.models.gguf_file import rotate_half_order
from tests.models import forward, random_weights, small_config, smollm2, write_gguf, write_model

gguf = pytest.importorskip("gguf", reason="the gguf extra is not installed")


def test_rotate_half_order_undoes_pairs() -> None:
    # one head of 6 rows in pair order: row 2i is element i, row 2i + 1 is element i + 3
    pairs = np.array([[0], [3], [1], [4], [2], [5]])
    assert rotate_half_order(pairs, 1)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
@pytest.mark.parametrize("tied", [True, False])
def test_gguf_gives_the_logits_of_the_same_hugging_face_model(architecture: str, tied: bool, tmp_path: Path) -> None:
    config = small_config(architectures=[architecture], model_type=..., tie_word_embeddings=tied, torch_dtype="float16")
    weights = {name: a.astype(np.float16).astype(np.float32) for name, a in random_weights(config).items()}
    model = load_model(write_gguf(tmp_path / "m.gguf", config, weights))
    assert (model.name, model.dtype, model.config.tied) == ("m", "f16", tied)
    oracle = Reference(store(model, SCHEMES["fp16"]), 1)
    ids = [3, 17, 60, 5]
    for position, token in enumerate(ids):
        logits = oracle.step([token], [position])
    expected = forward(write_model(tmp_path / "hf", config, weights), ids)[-1]
    # biases and norms stay fp32 in both; rms_norm_eps is fp32 in GGUF: 1e-5 to 3e-8
    assert np.abs(logits[0] - expected).max() < 1e-6


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_quantised_types_are_what_the_package_dequantises(kind: str, tmp_path: Path) -> None:
    config = small_config(hidden_size=64, num_attention_heads=4, intermediate_size=96, vocab_size=96)
    weights = random_weights(config)
    model = load_model(write_gguf(tmp_path / "m.gguf", config, weights, kind))
    assert model.weights is not None
    quant = gguf.GGMLQuantizationType[kind]
    expected = gguf.dequantize(gguf.quantize(weights["model.layers.1.mlp.down_proj.weight"], quant), quant)
    assert np.array_equal(model.weights["layers.1.w_down"], expected)
    assert model.weights["layers.1.mlp_norm"].dtype == np.float32


def test_rope_factors_of_llama3(tmp_path: Path) -> None:
    """Llama 3.1's converter writes the scaling as one divisor a frequency."""
    config, divisors = small_config(), np.array([1.0, 2.0, 8.0, 8.0], np.float32)
    weights = random_weights(config) | {"rope_freqs.weight": divisors}
    frequencies = load_model(write_gguf(tmp_path / "m.gguf", config, weights)).config.rope_frequencies()
    assert frequencies == pytest.approx(10000.0 ** (-np.arange(4) / 4) / divisors)


def test_linear_scaling_and_window(tmp_path: Path) -> None:
    config = small_config()
    extra = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0, "attention__sliding_window": 64}
    opened = load_model(write_gguf(tmp_path / "m.gguf", config, random_weights(config), **extra)).config
    assert opened.rope_scaling is not None and (opened.rope_scaling.kind, opened.rope_scaling.factor) == ("linear", 4.0)
    assert opened.window == 64


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"embedding_length": None}, "llama.embedding_length is missing"),
        ({"attention__layer_norm_rms_epsilon": None}, "llama.attention.layer_norm_rms_epsilon is missing"),
        ({"block_count": -2}, "num_hidden_layers = -2 must be a whole number"),
        ({"block_count": 3}, "9 weights are missing, the first is layers.2.attn_norm"),
        ({"block_count": 1}, "tensor 'blk.1.attn_norm.weight' does not belong"),
        ({"feed_forward_length": 50}, "metadata says"),
        ({"attention__head_count_kv": [2, 1]}, r"num_key_value_heads = \[2, 1\] must be a whole number"),
        ({"expert_count": 8}, "num_experts = 8 is not supported"),
        ({"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0}, "RoPE scaling 'yarn' is not supported"),
        ({"rope__dimension_count": 4}, "llama.rope.dimension_count = 4 is not supported, only the head's 8"),
        ({"attention__value_length": 16}, "llama.attention.value_length = 16 is not supported"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping = 30.0 is not supported"),
    ],
)
def test_metadata_is_refused_by_name(extra: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = small_config()
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config), **extra)
    with pytest.raises(ModelError, match=message) as error:
        load_model(path)
    assert "\n" not in str(error.value)


def test_tensors_are_refused_by_name(tmp_path: Path) -> None:
    config = small_config()
    for number, (change, message) in enumerate(
        (
            ({"rope_freqs.weight": np.zeros(4, np.float32)}, "rope_freqs.weight must hold 4 numbers above 0"),
            ({"rope_freqs.weight": np.ones(3, np.float32)}, "rope_freqs.weight must hold 4 numbers above 0"),
            ({"model.layers.0.attn_q_norm.weight": np.ones(8, np.float32)}, "attn_q_norm.weight' does not belong"),
            ({"model.norm.weight": np.ones(31, np.float32)}, r"output_norm.weight has shape \[31\]"),
        )
    ):
        path = write_gguf(tmp_path / f"{number}.gguf", config, random_weights(config) | change)
        with pytest.raises(ModelError, match=message):
            load_model(path)


def test_other_architectures_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "gemma3")
    writer.add_tensor("token_embd.weight", np.ones((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="architecture 'gemma3' is not supported; known: llama, qwen2"):
        load_model(tmp_path / "m.gguf")


def test_nan_is_refused_when_read(tmp_path: Path) -> None:
    config = small_config()
    weights = random_weights(config)
    weights["model.layers.0.self_attn.v_proj.weight"][1, 1] = np.nan
    model = load_model(write_gguf(tmp_path / "m.gguf", config, weights))
    with pytest.raises(ModelError, match="weight layers.0.wv holds 1 values that are NaN or infinite"):
        store(model, SCHEMES["fp16"])


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    config = small_config(num_hidden_layers=1)
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config))
    whole = path.read_bytes()
    sizes = {0, 3, 4, 8, 16, 23, 24, 100, 400, len(whole) // 3, len(whole) // 2, len(whole) - 33}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="not a whole GGUF file"):
            load_model(path)


@pytest.mark.parametrize("offset", [0, 4, 8, 16, 24])
def test_damaged_heads_are_refused(offset: int, tmp_path: Path) -> None:
    """Magic, version, tensor count, field count, first key's length: all set to ones."""
    config = small_config(num_hidden_layers=1)
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config))
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="m.gguf: not a whole GGUF file"):
        load_model(path)


def test_smollm2_matches_the_documented_file() -> None:
    """Facts, section 1: 134,515,008 weights, 30 layers, tied head, RoPE base 100000."""
    model = load_model(smollm2())
    config = model.config
    assert (config.weight_count(), config.layers, config.tied, config.rope_theta) == (134_515_008, 30, True, 100000.0)
    assert (config.heads, config.kv_heads, config.head_dim, config.vocab) == (9, 3, 64, 49152)


def test_list_that_claims_more_than_the_file_holds_is_refused_at_once(tmp_path: Path) -> None:
    """The package would make an empty array for each of 2**60 entries behind the end of the file."""
    config = small_config(num_hidden_layers=1)
    path = write_gguf(tmp_path / "m.gguf", config, random_weights(config), attention__head_count_kv=[2, 2])
    content = bytearray(path.read_bytes())
    length = content.index(b"head_count_kv") + len(b"head_count_kv") + 8  # field type, entry type, then the length
    assert content[length] == 2
    content[length : length + 8] = (2**60).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a whole GGUF file .*the file ends early"):
        load_model(path)
