"""GGUF files: shapes, weights (dequantised to fp32) and tokenizer, through the `gguf` package.

GGUF of architecture `llama` stores the rows of Q and K for interleaved RoPE pairs (2i, 2i + 1);
they are put back in the rotate-half order (i, i + head_dim / 2) that everything here uses. Its
`qwen2` keeps rotate-half.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from programs.models.config import ModelConfig, RopeScaling, parse_config
from programs.models.errors import ModelError
from programs.models.tokenizer import Tokenizer
from programs.models.weights import Weights

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
INTERLEAVED = ("llama",)  # architectures whose Q and K rows are in RoPE pair order
KEYS = {  # GGUF key behind the architecture's name -> field of config.json
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
OPTIONAL_KEYS = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "attention.sliding_window": "sliding_window",
    "expert_count": "num_experts",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "attention.scale": "attention_multiplier",
}
NAMES = {
    "token_embd.weight": "embed",
    "output_norm.weight": "final_norm",
    "output.weight": "lm_head",
    "attn_norm.weight": "attn_norm",
    "ffn_norm.weight": "mlp_norm",
    "attn_q.weight": "wq",
    "attn_k.weight": "wk",
    "attn_v.weight": "wv",
    "attn_q.bias": "bq",
    "attn_k.bias": "bk",
    "attn_v.bias": "bv",
    "attn_output.weight": "wo",
    "ffn_gate.weight": "w_gate",
    "ffn_up.weight": "w_up",
    "ffn_down.weight": "w_down",
}
ENTRIES = 2_000_000  # metadata values and list entries of a file; the largest public vocabularies need about 1.3 M
LAYER = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(.+)", re.ASCII)


def open_gguf(path: Path) -> tuple[ModelConfig, Weights, Tokenizer | None]:
    """Config, weights and tokenizer of a GGUF file. Raises ModelError with one sentence."""
    reader = _reader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    config = _config(path, fields, tensors)
    return config, _weights(path, config, tensors), _tokenizer(path, fields, config.vocab)


def _reader(path: Path) -> Any:
    try:
        import gguf
    except ImportError:
        raise ModelError(f"{path}: GGUF files need the gguf package: pip install 'decodelab[gguf]'") from None

    class PlainReader(gguf.GGUFReader):
        """Slices a plain array: np.memmap makes each of the 100,000 slices of a token list 3 times slower.

        Refuses what the package would go on with: entries behind the end of the file (empty arrays
        without end), and lists longer than any vocabulary (an array of each entry).
        """

        entries = 0

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if name == "data" else value)

        def _get(self, offset: int, *arguments: Any, **options: Any) -> Any:
            if offset >= len(self.data):
                raise ValueError("the file ends early")
            return super()._get(offset, *arguments, **options)

        def _get_field_parts(self, *arguments: Any) -> Any:
            self.entries += 1
            if self.entries > ENTRIES:
                raise ValueError(f"more than {ENTRIES} metadata entries")
            return super()._get_field_parts(*arguments)

    try:
        reader = PlainReader(path)
    except Exception as error:  # the package raises whatever numpy did with the damaged file
        raise ModelError(f"{path}: not a whole GGUF file ({_one_line(error)})") from None
    if reader.byte_order != "I":
        raise ModelError(f"{path}: written for machines of the other byte order")
    return reader


def _value(path: Path, fields: Mapping[str, Any], key: str) -> Any:
    """A metadata value as a Python object, None if it is not there."""
    if key not in fields:
        return None
    try:
        return fields[key].contents()
    except Exception as error:
        raise ModelError(f"{path}: {key} cannot be read ({_one_line(error)})") from None


def _config(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> ModelConfig:
    """The same checks as for a config.json, on the same fields under GGUF's names."""
    name = _value(path, fields, "general.architecture")
    if name not in list(ARCHITECTURES):
        raise ModelError(f"{path}: architecture {str(name)[:60]!r} is not supported; known: {', '.join(ARCHITECTURES)}")
    document: dict[str, Any] = {"architectures": [ARCHITECTURES[name]], "torch_dtype": "float32"}
    for key, field in KEYS.items():
        document[field] = _value(path, fields, f"{name}.{key}")
        if document[field] is None:
            raise ModelError(f"{path}: {name}.{key} is missing")
    for key, field in OPTIONAL_KEYS.items():
        value = _value(path, fields, f"{name}.{key}")
        if value is not None:
            document[field] = value
    if "num_key_value_heads" not in document:
        document["num_key_value_heads"] = document["num_attention_heads"]
    document["use_sliding_window"] = bool(document.get("sliding_window"))
    embedding = tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{path}: tensor token_embd.weight is missing or not a matrix")
    document["vocab_size"] = int(embedding.shape[1])
    document["tie_word_embeddings"] = "output.weight" not in tensors
    for ours, theirs in (("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")):
        document[ours] = _value(path, fields, f"tokenizer.ggml.{theirs}")
    scaling = _value(path, fields, f"{name}.rope.scaling.type")
    if scaling not in (None, "none"):
        document["rope_scaling"] = {
            "rope_type": scaling, "factor": _value(path, fields, f"{name}.rope.scaling.factor")
        }  # fmt: skip
    config = parse_config(document, str(path))

    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        length = _value(path, fields, f"{name}.{key}")
        if length not in (None, config.head_dim):
            raise ModelError(f"{path}: {name}.{key} = {length} is not supported, only the head's {config.head_dim}")
    if "rope_freqs.weight" in tensors:
        if config.rope_scaling is not None:
            raise ModelError(f"{path}: rope_freqs.weight together with RoPE scaling {scaling!r} is not supported")
        factors = np.asarray(_dequantised(path, tensors["rope_freqs.weight"]), np.float64)
        if factors.shape != (config.head_dim // 2,) or not np.isfinite(factors).all() or (factors <= 0).any():
            raise ModelError(f"{path}: rope_freqs.weight must hold {config.head_dim // 2} numbers above 0")
        config = replace(config, rope_scaling=RopeScaling("factors", factors=tuple(factors.tolist())))
    return config


def _weights(path: Path, config: ModelConfig, tensors: Mapping[str, Any]) -> Weights:
    shapes = config.weight_shapes()
    readers: dict[str, Callable[[], np.ndarray]] = {}
    examples: dict[Any, Any] = {}
    for key, tensor in tensors.items():
        layer = LAYER.fullmatch(key)
        name = NAMES.get(key, key) if layer is None else f"layers.{int(layer[1])}.{NAMES.get(layer[2], layer[2])}"
        if key == "rope_freqs.weight":
            continue
        if name not in shapes:
            raise ModelError(f"{path}: tensor {key[:80]!r} does not belong to a model of this architecture")
        shape = tuple(int(n) for n in reversed(tensor.shape))
        if shape != shapes[name]:
            raise ModelError(f"{path}: tensor {key} has shape {list(shape)}, its metadata says {list(shapes[name])}")
        examples.setdefault(tensor.tensor_type, tensor)
        heads = {"wq": config.heads, "wk": config.kv_heads}.get(name.rpartition(".")[2], 0)
        readers[name] = _tensor_reader(path, tensor, heads if config.architecture in INTERLEAVED else 0)
    missing = [name for name in shapes if name not in readers]
    if missing:
        raise ModelError(f"{path}: {len(missing)} weights are missing, the first is {missing[0]}")
    for tensor in examples.values():  # one row of each type: fails now if the package cannot read it
        _dequantised(path, tensor, rows=1)
    return Weights(str(path), readers)


def _tensor_reader(path: Path, tensor: Any, pair_heads: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        values = _dequantised(path, tensor)
        return rotate_half_order(values, pair_heads) if pair_heads else values

    return read


def rotate_half_order(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from pairs (2i, 2i + 1) to halves (i, i + head_dim / 2). matrix: [heads * head_dim, in]."""
    pairs = matrix.reshape(heads, -1, 2, matrix.shape[1])
    return pairs.swapaxes(1, 2).reshape(matrix.shape)


def _dequantised(path: Path, tensor: Any, rows: int | None = None) -> np.ndarray:
    import gguf

    try:
        data = tensor.data if rows is None else tensor.data[:rows]
        values: np.ndarray = gguf.dequantize(data, tensor.tensor_type)
        return values
    except Exception as error:
        kind = getattr(tensor.tensor_type, "name", tensor.tensor_type)
        raise ModelError(f"{path}: tensor {tensor.name} of type {kind} cannot be read ({_one_line(error)})") from None


def _tokenizer(path: Path, fields: Mapping[str, Any], vocab: int) -> Tokenizer | None:
    if "tokenizer.ggml.tokens" not in fields:
        return None

    def load() -> Any:
        from programs.models.gguf_tokenizer import build_tokenizer

        prefix = "tokenizer.ggml."
        entries = {k[len(prefix) :]: _value(path, fields, k) for k in fields if k.startswith(prefix)}
        return build_tokenizer(entries, str(path))

    return Tokenizer(load, vocab, str(path))


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]
