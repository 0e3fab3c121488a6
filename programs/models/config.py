"""Shapes and constants of a Llama-family model, read strictly from a Hugging Face config.json.

What would change the result and is not built is refused by name, never ignored. Model files are
untrusted: every field is checked for type and range before anything is sized by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from isa.angles import powers
from programs.models.errors import ModelError

# architecture name of config.json -> (model_type, has biases on q, k and v)
ARCHITECTURES = {
    "LlamaForCausalLM": ("llama", False),
    "MistralForCausalLM": ("mistral", False),
    "Qwen2ForCausalLM": ("qwen2", True),
}
FLOATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}  # config.json's words -> ours
CONFIG_BYTES = 1 << 20  # a config.json is a few kB
# Fields that change the result: {field: values that mean "not used"}. Others are refused by name.
UNUSED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),  # Llama's also adds a bias to o_proj
    "mlp_bias": (False, None),
    "quantization_config": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "n_routed_experts": (None, 0),
    "use_qk_norm": (False, None),
    "qk_norm": (False, None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "attention_multiplier": (None,),
    "embedding_multiplier": (None, 1),
    "residual_multiplier": (None, 1),
    "logits_scaling": (None, 1),
    "no_rope_layers": (None,),
    "auto_map": (None,),  # the model brings its own code
}


@dataclass(frozen=True)
class RopeScaling:
    """How RoPE frequencies are changed for a longer context.

    kind "linear": all divided by factor. kind "llama3": frequencies with a wavelength above
    original_context / low_freq_factor are divided by factor, those below original_context /
    high_freq_factor are kept, between them both are blended (Llama 3.1 model card and transformers).
    kind "factors": each divided by its own number (GGUF's rope_freqs tensor).
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context: int = 0
    factors: tuple[float, ...] = ()


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of the Llama family: RMSNorm, rotate-half RoPE, grouped queries, SiLU gate."""

    architecture: str  # "llama", "mistral" or "qwen2"
    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int  # most positions the model was trained for
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    window: int | None = None  # sliding window, in positions; contexts up to it are exact
    tied: bool = False  # lm_head is the embedding
    qkv_bias: bool = False
    bos: int | None = None
    eos: tuple[int, ...] = ()
    dtype: str = "bf16"  # type the checkpoint says it is in: f32, f16 or bf16

    @property
    def q_size(self) -> int:
        """Rows of the query projection."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key projection, and of the value projection."""
        return self.kv_heads * self.head_dim

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.heads // self.kv_heads

    def rope_frequencies(self) -> np.ndarray:
        """Radians a position, float64 [head_dim / 2]: theta ** (-2 i / head_dim), then the scaling."""
        frequency = powers(self.rope_theta, range(0, -self.head_dim, -2), self.head_dim)
        scaling = self.rope_scaling
        if scaling is None:
            return frequency
        if scaling.kind == "linear":
            return frequency / scaling.factor
        if scaling.kind == "factors":
            return frequency / np.array(scaling.factors)
        # share of the unscaled frequency: 0 for long wavelengths, 1 for short ones
        turns = scaling.original_context * frequency / (2 * np.pi)
        keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        keep = np.clip(keep, 0.0, 1.0)
        return keep * frequency + (1 - keep) * frequency / scaling.factor

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name -> shape ([out, in] for matrices) of every weight of the checkpoint."""
        shapes: dict[str, tuple[int, ...]] = {"embed": (self.vocab, self.hidden)}
        for i in range(self.layers):
            p = f"layers.{i}."
            shapes[p + "attn_norm"] = (self.hidden,)
            for name, rows in (("q", self.q_size), ("k", self.kv_size), ("v", self.kv_size)):
                shapes[f"{p}w{name}"] = (rows, self.hidden)
                if self.qkv_bias:
                    shapes[f"{p}b{name}"] = (rows,)
            shapes[p + "wo"] = (self.hidden, self.q_size)
            shapes[p + "mlp_norm"] = (self.hidden,)
            shapes[p + "w_gate"] = (self.ffn, self.hidden)
            shapes[p + "w_up"] = (self.ffn, self.hidden)
            shapes[p + "w_down"] = (self.hidden, self.ffn)
        shapes["final_norm"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head"] = (self.vocab, self.hidden)
        return shapes

    def weight_count(self) -> int:
        """Parameters in the checkpoint; a tied head counts once."""
        return sum(int(np.prod(shape)) for shape in self.weight_shapes().values())

    @property
    def positions_max(self) -> int:
        """Most positions of a sequence: what the model was trained for, or a sliding window below that."""
        return self.context if self.window is None else min(self.context, self.window)

    def check_context(self, positions: int, model: str = "the model") -> None:
        """Raise ModelError, with the model's name, unless a sequence may be this long."""
        if positions < 1:
            raise ModelError(f"a context of {positions} positions is too short; at least 1 is needed")
        if self.window is not None and self.window < min(positions, self.context):
            raise ModelError(
                f"a context of {positions} positions needs the sliding window of {self.window} of {model}, "
                f"which is not supported; at most {self.window} positions can be used"
            )
        if positions > self.context:
            raise ModelError(f"a context of {positions} positions is over the {self.context} of {model}")


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from an untrusted file of at most `limit` bytes. Raises ModelError."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise ModelError(f"{path}: {size} bytes, more than the {limit} such a file may have")
        document = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(document, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    return document


def load_config(path: Path) -> ModelConfig:
    """ModelConfig of a Hugging Face config.json. Raises ModelError with one sentence."""
    return parse_config(read_json(path, CONFIG_BYTES), str(path))


def parse_config(document: dict[str, Any], where: str) -> ModelConfig:
    """ModelConfig of a parsed config.json; `where` names the file in errors. Raises ModelError."""
    architecture, bias = _architecture(document, where)
    for field, harmless in UNUSED.items():
        if document.get(field) not in harmless:
            raise ModelError(f"{where}: {field} = {_short(document[field])} is not supported")
    if document.get("hidden_act", "silu") != "silu":
        raise ModelError(f"{where}: hidden_act = {_short(document['hidden_act'])} is not supported, only silu")

    hidden = _count(document, "hidden_size", where, 1 << 20)
    heads = _count(document, "num_attention_heads", where, 1 << 12)
    kv_heads = _count(document, "num_key_value_heads", where, 1 << 12, heads if architecture == "llama" else None)
    if document.get("head_dim") is None and hidden % heads:
        raise ModelError(f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    head_dim = _count(document, "head_dim", where, 1 << 12, hidden // heads)
    if heads % kv_heads:
        raise ModelError(f"{where}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_dim % 2:
        raise ModelError(f"{where}: head_dim {head_dim} is odd, RoPE needs pairs")
    context = _count(document, "max_position_embeddings", where, 1 << 30)
    rope = document.get("rope_parameters") or {}  # transformers 5 keeps base and scaling together
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise ModelError(f"{where}: rope_parameters must be one object for all layers")
    theta = document.get("rope_theta", rope.get("rope_theta", 10000.0))
    dtype = document.get("dtype", document.get("torch_dtype", "bfloat16"))
    if not isinstance(dtype, str) or dtype not in FLOATS:
        raise ModelError(f"{where}: torch_dtype = {_short(dtype)} is not supported, only {', '.join(FLOATS)}")
    vocab = _count(document, "vocab_size", where, 1 << 24)
    return ModelConfig(
        architecture=architecture,
        vocab=vocab,
        hidden=hidden,
        ffn=_count(document, "intermediate_size", where, 1 << 22),
        layers=_count(document, "num_hidden_layers", where, 1 << 12),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=context,
        norm_eps=_number(document.get("rms_norm_eps"), "rms_norm_eps", where, 0.0, 1.0),
        rope_theta=_number(theta, "rope_theta", where, 1.0, 1e15),
        rope_scaling=_rope_scaling(document.get("rope_scaling") or rope, where),
        window=_window(document, where),
        tied=_flag(document, "tie_word_embeddings", where),
        qkv_bias=bias,
        bos=next(iter(_tokens(document, "bos_token_id", vocab, where)), None),
        eos=_tokens(document, "eos_token_id", vocab, where),
        dtype=FLOATS[dtype],
    )


def _architecture(document: dict[str, Any], where: str) -> tuple[str, bool]:
    names = document.get("architectures")
    if names is None:  # old files say only the type
        named = {kind: (kind, bias) for kind, bias in ARCHITECTURES.values()}
        kind = document.get("model_type")
        if isinstance(kind, str) and kind in named:
            return named[kind]
        raise ModelError(f"{where}: architecture {_short(kind)} is not supported; known: {', '.join(ARCHITECTURES)}")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in list(ARCHITECTURES):
        shown = names[0] if isinstance(names, list) and names else names
        raise ModelError(f"{where}: architecture {_short(shown)} is not supported; known: {', '.join(ARCHITECTURES)}")
    kind, bias = ARCHITECTURES[names[0]]
    if document.get("model_type", kind) != kind:
        raise ModelError(f"{where}: model_type {_short(document['model_type'])} does not go with {names[0]}")
    return kind, bias


def _rope_scaling(entry: Any, where: str) -> RopeScaling | None:
    if not isinstance(entry, dict):
        raise ModelError(f"{where}: rope_scaling must be an object")
    kind = entry.get("rope_type", entry.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise ModelError(f"{where}: RoPE scaling {_short(kind)} is not supported, only linear and llama3")
    factor = _number(entry.get("factor"), "rope_scaling.factor", where, 1.0, 1e6)
    if kind == "linear":
        return RopeScaling("linear", factor)
    low = _number(entry.get("low_freq_factor"), "rope_scaling.low_freq_factor", where, 0.0, 1e6)
    high = _number(entry.get("high_freq_factor"), "rope_scaling.high_freq_factor", where, 0.0, 1e6)
    if high <= low:
        raise ModelError(f"{where}: rope_scaling.high_freq_factor must be above low_freq_factor")
    original = _count(entry, "original_max_position_embeddings", where, 1 << 30)
    return RopeScaling("llama3", factor, low, high, original)


def _window(document: dict[str, Any], where: str) -> int | None:
    """Sliding window in positions, or None where every layer sees the whole context."""
    kinds = document.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or any(k not in ("full_attention", "sliding_attention") for k in kinds):
            raise ModelError(f"{where}: layer_types holds a kind of attention that is not supported")
        if "sliding_attention" not in kinds:
            return None
    if document.get("sliding_window") is None or document.get("use_sliding_window") is False:
        return None
    if document.get("model_type") == "qwen2" and "use_sliding_window" not in document:
        return None  # Qwen2's default is off
    return _count(document, "sliding_window", where, 1 << 30)


def _count(document: dict[str, Any], field: str, where: str, limit: int, default: int | None = None) -> int:
    value = document.get(field)
    if value is None:
        if default is None:
            raise ModelError(f"{where}: {field} is missing")
        value = default
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
        raise ModelError(f"{where}: {field} = {_short(value)} must be a whole number from 1 to {limit}")
    return value


def _number(value: Any, field: str, where: str, low: float, high: float) -> float:
    if value is None:
        raise ModelError(f"{where}: {field} is missing")
    in_range = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value and low <= value <= high
    if not in_range:
        raise ModelError(f"{where}: {field} = {_short(value)} must be a number above 0, from {low:g} to {high:g}")
    return float(value)


def _flag(document: dict[str, Any], field: str, where: str) -> bool:
    value = document.get(field, False)
    if not isinstance(value, bool):
        raise ModelError(f"{where}: {field} = {_short(value)} must be true or false")
    return value


def _tokens(document: dict[str, Any], field: str, vocab: int, where: str) -> tuple[int, ...]:
    value = document.get(field)
    tokens = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(t, bool) or not isinstance(t, int) or not -1 <= t < vocab for t in tokens):
        raise ModelError(f"{where}: {field} = {_short(value)} is not a token of the vocabulary of {vocab}")
    return tuple(t for t in tokens if t >= 0)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
