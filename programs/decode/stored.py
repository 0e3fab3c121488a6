"""What a machine stores of a model: linear layers, norms and embedding in the scheme's formats.

Both compilers and the oracle start from the same StoredModel, so that all of them compute with the
same numbers. Raw bits only (uint16 for f16 and bf16, int8 for s8, uint8 for e4m3); the names and
shapes are the same with and without values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from programs.models.checkpoint import Model
from programs.models.config import ModelConfig
from programs.models.errors import ModelError

BYTES = {"f32": 4, "f16": 2, "bf16": 2, "s8": 1, "e4m3": 1}
NUMPY: dict[str, Any] = {  # format -> NumPy type that has its values
    "f16": np.float16, "bf16": ml_dtypes.bfloat16, "s8": np.int8, "e4m3": ml_dtypes.float8_e4m3fn,
}  # fmt: skip
RAW: dict[str, Any] = {"f16": np.uint16, "bf16": np.uint16, "s8": np.int8, "e4m3": np.uint8}
LARGEST = {"s8": 127.0, "e4m3": 448.0}  # value that the largest weight of a row is scaled to
# Activations of 8-bit products are x * factor / rms(x): s8 spans 8 rms, e4m3 28 rms before it saturates.
ACTIVATION_FACTOR = {"s8": 127.0 / 8.0, "e4m3": 16.0}
RMS_FLOOR = 1e-12  # added to the mean square of o and down inputs, so that a zero vector has a scale
BLOCK_ROWS = 4096  # rows converted at a time: bounds the memory of a wide vocabulary


@dataclass(frozen=True)
class Scheme:
    """Number formats of a compiled model.

    weights: of all linear layers. activations: what a linear layer's input is cast to. kv: of the
    cache; `wide`, of q and of the probabilities, is the same or f16, also of the embedding where weights are 8 bit.
    fold_norms: RMSNorm weights are multiplied into the columns of the matrix that follows.
    """

    weights: str
    activations: str
    kv: str
    fold_norms: bool = False

    def __post_init__(self) -> None:
        allowed = {("f16", "f16"), ("bf16", "bf16"), ("s8", "f16"), ("s8", "bf16"), ("s8", "s8"), ("e4m3", "e4m3")}
        if (self.weights, self.activations) not in allowed or self.kv not in ("f16", "bf16", "e4m3"):
            words = f"{self.weights} weights, {self.activations} activations, {self.kv} KV"
            raise ModelError(f"{words}: no machine computes this")
        if self.fold_norms != (self.activations in ACTIVATION_FACTOR):
            raise ModelError("norm weights are folded with 8-bit activations, and only then")

    @property
    def scaled(self) -> bool:
        """Whether linear layers carry one fp32 scale an output row."""
        return self.weights in LARGEST

    @property
    def embed(self) -> str:
        """Format of the embedding table."""
        return self.wide if self.scaled else self.weights

    @property
    def wide(self) -> str:
        """16-bit format that meets K and V in products."""
        return "f16" if self.kv == "e4m3" else self.kv


SCHEMES = {  # LPU: fp16, cast8, int8. GPU: fp16, bf16, int8, fp8 (with the kv format the user asks for)
    "fp16": Scheme("f16", "f16", "f16"),
    "bf16": Scheme("bf16", "bf16", "bf16"),
    "cast8": Scheme("s8", "f16", "f16"),
    "int8": Scheme("s8", "s8", "f16", fold_norms=True),
    "fp8": Scheme("e4m3", "e4m3", "f16", fold_norms=True),
}


@dataclass(frozen=True)
class StoredLinear:
    """One linear layer y = (values * scale[:, None]) @ x + bias, values [out, in].

    values: raw uint16, int8 or uint8 [out, in]; scale: f32 [out]; bias: f32 [out]. All None in a
    model of shapes only; has_scale and has_bias tell what there would be.
    """

    name: str
    format: str
    out: int
    inputs: int
    has_scale: bool
    has_bias: bool
    values: np.ndarray | None = None
    scale: np.ndarray | None = None
    bias: np.ndarray | None = None

    @property
    def bytes(self) -> int:
        """Bytes of values, scales and bias, without padding."""
        return self.out * self.inputs * BYTES[self.format] + 4 * self.out * (self.has_scale + self.has_bias)

    def decoded(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """Rows first .. end - 1 as float64, scale applied."""
        if self.values is None:
            raise ModelError(f"{self.name} has no values: the model is shapes only")
        rows = self.values[first:end].view(NUMPY[self.format]).astype(np.float64)
        if self.scale is not None:
            rows *= self.scale[first:end, None].astype(np.float64)
        return rows


@dataclass(frozen=True)
class StoredModel:
    """A model in a scheme's formats.

    embed: raw uint16 [vocab, hidden] in scheme.embed. norms: f32 [hidden] of layers.{i}.attn_norm,
    layers.{i}.mlp_norm and final_norm; empty where norms are folded. linears: layers.{i}.qkv (rows
    q, then k, then v), layers.{i}.o, layers.{i}.gate_up (gate rows, then up rows), layers.{i}.down,
    lm_head. Without values (timing only) arrays are None.

    parts: columns of o and down (by short name) that each chip of a tensor-parallel group multiplies:
    with 8-bit activations every chip has a scale of its own for what it quantises. Empty: one chip.
    """

    config: ModelConfig
    scheme: Scheme
    name: str
    embed: np.ndarray | None
    norms: dict[str, np.ndarray | None]
    linears: dict[str, StoredLinear]
    parts: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def has_values(self) -> bool:
        """Whether there are numbers, or only shapes."""
        return self.embed is not None


# linear layer -> (weights whose rows it stacks, their biases, norm folded into its columns)
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None]] = {
    "qkv": (("wq", "wk", "wv"), ("bq", "bk", "bv"), "attn_norm"),
    "o": (("wo",), (), None),
    "gate_up": (("w_gate", "w_up"), (), "mlp_norm"),
    "down": (("w_down",), (), None),
}


def linear_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(out, in) of the linear layers of one decoder layer and of lm_head, by short name."""
    return {
        "qkv": (config.q_size + 2 * config.kv_size, config.hidden),
        "o": (config.hidden, config.q_size),
        "gate_up": (2 * config.ffn, config.hidden),
        "down": (config.hidden, config.ffn),
        "lm_head": (config.vocab, config.hidden),
    }


def store(
    model: Model, scheme: Scheme, *, timing_only: bool = False, progress: Callable[[int, int], None] | None = None
) -> StoredModel:
    """The model in the scheme's formats; only shapes with timing_only or for a model without weights.

    Raises ModelError for weights that are NaN, infinite, or too large for f16. `progress(done, total)`
    is called after each linear layer.
    """
    config = model.config
    source = None if timing_only else model.weights
    shapes = linear_shapes(config)
    norms: dict[str, np.ndarray | None] = {}
    linears: dict[str, StoredLinear] = {}
    total = 4 * config.layers + 1

    def read(name: str) -> np.ndarray:
        assert source is not None
        return source[name]

    def add(name: str, short: str, weights: list[str], biases: list[str], norm: str) -> None:
        out, inputs = shapes[short]
        has_bias = bool(biases)
        values = scale = bias = None
        if source is not None:
            fold = read(norm).astype(np.float64) if norm and scheme.fold_norms else None
            values, scale = _encode_rows([read(w) for w in weights], scheme.weights, fold, model.name, name)
            bias = np.concatenate([read(b) for b in biases]).astype(np.float32) if has_bias else None
        linears[name] = StoredLinear(name, scheme.weights, out, inputs, scheme.scaled, has_bias, values, scale, bias)
        if norm and not scheme.fold_norms:
            norms[norm] = None if source is None else read(norm).astype(np.float32)
        if progress is not None:
            progress(len(linears), total)

    for i in range(config.layers):
        for short, (weights, biases, norm) in PARTS.items():
            p = f"layers.{i}."
            names = [p + b for b in biases] if config.qkv_bias else []
            add(p + short, short, [p + w for w in weights], names, p + norm if norm else "")
    add("lm_head", "lm_head", ["embed" if config.tied else "lm_head"], [], "final_norm")
    embed = linears["lm_head"].values if config.tied and scheme.embed == scheme.weights else None
    if source is not None and embed is None:
        embed, _ = _encode_rows([read("embed")], scheme.embed, None, model.name, "embed")
    return StoredModel(config, scheme, model.name, embed, norms, linears)


def _encode_rows(
    parts: list[np.ndarray], format: str, fold: np.ndarray | None, model: str, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """(raw [out, in], scale f32 [out] or None) of stacked matrices. Only formats with a scale fold a norm."""
    out = sum(len(part) for part in parts)
    raw = np.empty((out, parts[0].shape[1]), RAW[format])
    scale = np.ones(out, np.float32) if format in LARGEST else None
    row = 0
    for part in parts:
        for first in range(0, len(part), BLOCK_ROWS):
            block = part[first : first + BLOCK_ROWS]
            end = row + len(block)
            if scale is not None:
                block = block.astype(np.float64)
                if fold is not None:
                    block *= fold
                scale[row:end] = _row_scales(block, LARGEST[format])
                block /= scale[row:end, None].astype(np.float64)
            elif format == "f16" and float(np.abs(block).max(initial=0)) >= 65520.0:  # would round to infinity
                raise ModelError(f"{model}: {name} has weights beyond the range of fp16; use bf16 weights")
            raw[row:end] = encode(block, format)
            row = end
    return raw, scale


def _row_scales(block: np.ndarray, largest: float) -> np.ndarray:
    """fp32 scale of each row, so that its largest value becomes `largest`; 1 for rows of (nearly) zeros."""
    top = np.abs(block).max(axis=1) / largest
    top[top < np.finfo(np.float32).tiny] = 1.0
    scales: np.ndarray = top.astype(np.float32)
    return scales


def encode(values: np.ndarray, format: str) -> np.ndarray:
    """Raw bits of float values, rounded once to nearest even; s8 and e4m3 saturate."""
    if format == "s8":
        return np.clip(np.rint(values), -128, 127).astype(np.int8)
    if format == "e4m3":
        values = np.clip(values, -448.0, 448.0)
    raw: np.ndarray = values.astype(NUMPY[format]).view(RAW[format])
    return raw


def decode(raw: np.ndarray, format: str) -> np.ndarray:
    """float64 values of raw bits."""
    values: np.ndarray = raw.view(NUMPY[format]).astype(np.float64)
    return values


def rounded(values: np.ndarray, format: str) -> np.ndarray:
    """float64 values rounded to a format."""
    return decode(encode(values, format), format)
