"""Weights of a checkpoint: named, checked, and read only when asked for.

Names are canonical (ModelConfig.weight_shapes); all matrices are [out, in] and Q and K are in the
rotate-half RoPE order. Shapes, types and file sizes are checked when a checkpoint is opened, before
memory is allocated; values are checked to be finite when they are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from programs.models.config import ModelConfig, read_json
from programs.models.errors import ModelError

INDEX_BYTES = 64 << 20  # the index of the largest public models is a few MB
HEADER_BYTES = 100 << 20  # safetensors' own limit
SAFETENSORS_TYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
HUGGING_FACE_NAMES = {
    "model.embed_tokens.weight": "embed",
    "model.norm.weight": "final_norm",
    "lm_head.weight": "lm_head",
    "input_layernorm.weight": "attn_norm",
    "post_attention_layernorm.weight": "mlp_norm",
    "self_attn.q_proj.weight": "wq",
    "self_attn.k_proj.weight": "wk",
    "self_attn.v_proj.weight": "wv",
    "self_attn.q_proj.bias": "bq",
    "self_attn.k_proj.bias": "bk",
    "self_attn.v_proj.bias": "bv",
    "self_attn.o_proj.weight": "wo",
    "mlp.gate_proj.weight": "w_gate",
    "mlp.up_proj.weight": "w_up",
    "mlp.down_proj.weight": "w_down",
}
LAYER = re.compile(r"model\.layers\.(0|[1-9]\d{0,3})\.(.+)", re.ASCII)


class Weights(Mapping[str, np.ndarray]):
    """Canonical name -> array in the checkpoint's own float type (bfloat16 from ml_dtypes).

    Each access reads the file again; a value that is NaN or infinite raises ModelError.
    """

    def __init__(self, where: str, readers: Mapping[str, Callable[[], np.ndarray]]) -> None:
        self._where = where
        self._readers = readers

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._readers[name]()
        if not np.isfinite(array).all():
            bad = int(array.size - np.count_nonzero(np.isfinite(array)))
            raise ModelError(f"{self._where}: weight {name} holds {bad} values that are NaN or infinite")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def open_safetensors(folder: Path, config: ModelConfig) -> tuple[Weights, str] | None:
    """(Weights, type of the embedding) of a Hugging Face directory, or None if it has only shapes.

    Reads model.safetensors, or the files that model.safetensors.index.json names. Raises ModelError.
    """
    files = _files(folder)
    if not files:
        pickles = sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
        if pickles:
            raise ModelError(f"{pickles[0]}: pickled weights can run code when opened; convert them to safetensors")
        return None
    shapes = config.weight_shapes()
    readers: dict[str, Callable[[], np.ndarray]] = {}
    dtypes: dict[str, str] = {}
    for path in files:
        for key, shape, dtype in _header(path):
            name = canonical(key)
            if name is None:
                continue
            if name == "lm_head" and config.tied:
                continue  # transformers overwrites it with the embedding
            if name not in shapes:
                raise ModelError(f"{path}: tensor {_printable(key)} does not belong to the model that config.json says")
            if name in readers:
                raise ModelError(f"{path}: tensor {key} is there twice")
            if tuple(shape) != shapes[name]:
                raise ModelError(f"{path}: tensor {key} has shape {shape}, config.json says {list(shapes[name])}")
            if dtype not in SAFETENSORS_TYPES:
                raise ModelError(f"{path}: tensor {key} is {dtype}; only F32, F16 and BF16 are supported")
            readers[name] = _reader(path, key)
            dtypes[name] = SAFETENSORS_TYPES[dtype]
    missing = [name for name in shapes if name not in readers]
    if missing:
        raise ModelError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}")
    return Weights(str(folder), readers), dtypes["embed"]


def canonical(key: str) -> str | None:
    """Our name of a Hugging Face tensor; None for buffers that hold no weights. Unknown names are kept."""
    if key.endswith("rotary_emb.inv_freq"):
        return None  # recomputed from rope_theta
    layer = LAYER.fullmatch(key)
    if layer is None:
        return HUGGING_FACE_NAMES.get(key, key)
    return f"layers.{int(layer[1])}.{HUGGING_FACE_NAMES.get(layer[2], layer[2])}"


def _files(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        loose = sorted(folder.glob("*.safetensors"))
        if loose:
            raise ModelError(f"{loose[0]}: expected model.safetensors or model.safetensors.index.json beside it")
        return []
    table = read_json(index, INDEX_BYTES).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ModelError(f"{index}: weight_map is missing or empty")
    names = sorted({str(name) for name in table.values()})
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", name, re.ASCII):
            raise ModelError(f"{index}: {_printable(name)} is not the plain name of a .safetensors file")
        if not (folder / name).is_file():
            raise ModelError(f"{index}: names {name}, which is not there")
    return [folder / name for name in names]


def _header(path: Path) -> list[tuple[str, list[int], str]]:
    """(key, shape, type) of every tensor. The library checks sizes and offsets against the file."""
    from safetensors import SafetensorError, safe_open

    _check_header_size(path)
    try:
        with safe_open(path, framework="numpy") as file:
            slices = [(key, file.get_slice(key)) for key in file.keys()]  # noqa: SIM118 (not a dict)
            return sorted((key, list(part.get_shape()), str(part.get_dtype())) for key, part in slices)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: not a whole safetensors file ({_printable(str(error))})") from None


def _check_header_size(path: Path) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    if size < 8 or header > min(HEADER_BYTES, size - 8):
        raise ModelError(f"{path}: not a whole safetensors file (a header of {header} bytes in a file of {size})")


def _reader(path: Path, key: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                array: np.ndarray = file.get_tensor(key)
                return array
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"{path}: tensor {key} cannot be read ({_printable(str(error))})") from None

    return read


def _printable(text: Any) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in str(text))
    return shown if len(shown) <= 120 else shown[:117] + "..."
