"""Configs: the shapes of public models, what each family means, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from programs.models.checkpoint import load_model, model_names
from programs.models.config import load_config, parse_config
from programs.models.errors import ModelError
from tests.models import _frequencies, small_config

# Parameters as the models' Hugging Face pages count them (tensors of the checkpoint, head counted where untied).
PUBLIC_WEIGHTS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b": 7_248_023_552,
    "qwen2.5-7b": 7_615_616_512,
    "smollm2-135m": 134_515_008,
    "tiny_kjv": 918_656,
}


def parsed(**changes: Any) -> Any:
    return parse_config(small_config(**changes), "config.json")


@pytest.mark.parametrize("name", PUBLIC_WEIGHTS)
def test_models_have_the_public_number_of_weights(name: str) -> None:
    assert load_model(name).config.weight_count() == PUBLIC_WEIGHTS[name]


def test_every_bundled_name_opens_and_presets_are_shapes_only_in_bf16() -> None:
    assert sorted(model_names()) == sorted(PUBLIC_WEIGHTS)
    for name in model_names():
        model = load_model(name)
        assert model.name == name
        assert (model.weights is None, model.dtype) == ((False, "f16") if name == "tiny_kjv" else (True, "bf16"))


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"])
def test_only_qwen2_has_biases(architecture: str) -> None:
    config = parsed(architectures=[architecture], model_type=...)
    assert config.qkv_bias == (architecture == "Qwen2ForCausalLM")
    assert ("layers.0.bq" in config.weight_shapes()) == config.qkv_bias


def test_fields_that_older_files_leave_out_have_the_library_s_defaults() -> None:
    absent = ("rope_theta", "num_key_value_heads", "tie_word_embeddings", "architectures", "torch_dtype")
    config = parsed(**dict.fromkeys(absent, ...))
    assert (config.rope_theta, config.kv_heads, config.tied, config.dtype) == (10000.0, 4, False, "bf16")
    assert config.head_dim == 8  # 32 / 4


def test_newer_files_keep_rope_together_and_say_dtype() -> None:
    rope = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    config = parsed(rope_theta=..., rope_parameters=rope, torch_dtype=..., dtype="float16")
    assert (config.rope_theta, config.dtype) == (5e5, "f16")
    assert config.rope_scaling is not None and config.rope_scaling.factor == 2.0


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-2-7b", "qwen2.5-7b", "smollm2-135m"])
def test_rope_frequencies_of_public_models(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "programs/models/presets" / f"{name}.json"
    config = load_config(path)
    expected = _frequencies(json.loads(path.read_text()), config.head_dim)
    assert config.rope_frequencies() == pytest.approx(expected, rel=1e-12)


def test_llama3_scaling_at_its_two_ends() -> None:
    # Llama 3.1: factor 8; pair 0 turns once in 2 pi positions, below 8192 / 4: kept;
    # the last pair turns once in 2 pi 500000 ** (126 / 128) = 2.6 M positions, above 8192: divided by 8
    frequency = load_model("llama-3.1-8b").config.rope_frequencies()
    assert frequency[0] == 1.0
    assert frequency[-1] == pytest.approx(500000.0 ** (-126 / 128) / 8, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"vocab_size": ...}, "vocab_size is missing"),
        ({"rms_norm_eps": ...}, "rms_norm_eps is missing"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_key_value_heads": ...},
         "num_key_value_heads is missing"),
        ({"intermediate_size": -48}, "intermediate_size = -48 must be a whole number from 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0 must be a whole number from 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000 must be a whole number from 1 to 4096"),
        ({"hidden_size": 2**62}, "must be a whole number from 1 to 1048576"),
        ({"hidden_size": 32.5}, "hidden_size = 32.5 must be a whole number"),
        ({"hidden_size": True}, "hidden_size = True must be a whole number"),
        ({"hidden_size": "32"}, "hidden_size = '32' must be a whole number"),
        ({"hidden_size": 30}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"rms_norm_eps": 0}, "rms_norm_eps = 0 must be a number above 0"),
        ({"rms_norm_eps": -1e-5}, "rms_norm_eps = -1e-05 must be a number above 0"),
        ({"rope_theta": -1.0}, "rope_theta = -1.0 must be a number"),
        ({"rope_theta": "x"}, "rope_theta = 'x' must be a number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes' must be true or false"),
        ({"eos_token_id": 61}, "eos_token_id = 61 is not a token of the vocabulary of 61"),
        ({"torch_dtype": "float64"}, "torch_dtype = 'float64' is not supported"),
        ({"torch_dtype": ["float16"]}, "torch_dtype = .* is not supported"),
        ({"architectures": ["GemmaForCausalLM"]}, "architecture 'GemmaForCausalLM' is not supported; known: Llama"),
        ({"architectures": [{}]}, "architecture {} is not supported"),
        ({"architectures": []}, r"architecture \[\] is not supported"),
        ({"architectures": ..., "model_type": "gpt2"}, "architecture 'gpt2' is not supported"),
        ({"model_type": "qwen3"}, "model_type 'qwen3' does not go with LlamaForCausalLM"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported, only silu"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"mlp_bias": True}, "mlp_bias = True is not supported"),
        ({"num_local_experts": 8}, "num_local_experts = 8 is not supported"),
        ({"use_qk_norm": True}, "use_qk_norm = True is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not supported"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config = .*gptq.* is not supported"),
        ({"auto_map": {"AutoModel": "code.py"}}, "auto_map = .* is not supported"),
        ({"rope_interleaved": True}, "rope_interleaved = True is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "RoPE scaling 'yarn' is not supported, only linear"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "RoPE scaling 'dynamic' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}},
         "high_freq_factor must be above low_freq_factor"),
        ({"rope_scaling": 8}, "rope_scaling must be an object"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "must be one object for all layers"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layer_types holds a kind of attention"),
        ({"sliding_window": -4}, "sliding_window = -4 must be a whole number"),
    ],
)  # fmt: skip
def test_config_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        parsed(**changes)
    assert str(error.value).startswith("config.json: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"sliding_window": 64}, 64),
        ({"sliding_window": None}, None),
        ({"sliding_window": 64, "use_sliding_window": False}, None),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 64}, None),
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "sliding_window": 64,
          "use_sliding_window": True}, 64),
        ({"sliding_window": 64, "layer_types": ["full_attention", "full_attention"]}, None),
        ({"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, 64),
    ],
)  # fmt: skip
def test_sliding_window_is_known_where_it_is_used(changes: dict[str, Any], window: int | None) -> None:
    assert parsed(**changes).window == window


def test_contexts_inside_the_window_are_exact_and_longer_ones_refused() -> None:
    config = parsed(sliding_window=64)
    config.check_context(64)
    with pytest.raises(ModelError, match="context of 65 positions needs the sliding window of 64 of the model"):
        config.check_context(65)
    wide = parsed(sliding_window=4096)  # never reached
    wide.check_context(256)
    with pytest.raises(ModelError, match="context of 257 positions is over the 256 of the model"):
        wide.check_context(257)
    with pytest.raises(ModelError, match="context of 0 positions is too short"):
        wide.check_context(0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "must hold a JSON object"),
        (b'{"hidden_size": NaN}', "not valid JSON"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "not valid JSON"),
        (b" " * (1 << 20) + b"{}", "1048578 bytes, more than the 1048576 such a file may have"),
    ],
)
def test_damaged_config_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_directory_with_only_a_config_works_like_a_preset(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    model = load_model(tmp_path)
    assert model.weights is None and model.tokenizer is None and model.dtype == "f16"
    assert np.isfinite(model.config.rope_frequencies()).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("llama-3.1-9b", "unknown model llama-3.1-9b; did you mean llama-3.1-8b"),
        ("tinykjv", "did you mean tiny_kjv"),
        ("zzz", "unknown model zzz; known models: tiny_kjv, "),
        ("no/such/model", "no/such/model: no such file or directory"),
        ("missing.gguf", "missing.gguf: no such file or directory"),
        ("bad\0name", "unknown model"),
    ],
)
def test_unknown_model_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(name)


def test_folder_and_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no config.json"):
        load_model(tmp_path)
    for name, message in (("m.bin", "pickled weights can run code"), ("m.txt", "give a Hugging Face directory")):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / name)
