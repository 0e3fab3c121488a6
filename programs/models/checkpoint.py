"""Opening models: bundled, preset, Hugging Face directory or GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from programs.models.config import ModelConfig, load_config
from programs.models.errors import ModelError, nearest
from programs.models.tokenizer import Tokenizer, tokenizer_file
from programs.models.weights import Weights, open_safetensors

FOLDER = Path(__file__).resolve().parent
BUNDLED = ("tiny_kjv",)
DTYPES = {"f32": "f16", "f16": "f16", "bf16": "bf16"}  # type of the checkpoint -> 16-bit type it is stored in


@dataclass(frozen=True)
class Model:
    """A model to compile: shapes, and where there are any, weights and a tokenizer.

    dtype is the 16-bit type the weights are stored in by default ("f16" or "bf16"): the
    checkpoint's own; fp32 and GGUF become f16; presets are bf16. weights is None for shapes only.
    """

    config: ModelConfig
    weights: Weights | None
    tokenizer: Tokenizer | None
    name: str
    dtype: str


def model_names() -> list[str]:
    """Names that load_model knows: the bundled models, then the presets."""
    return [*BUNDLED, *sorted(path.stem for path in (FOLDER / "presets").glob("*.json"))]


def load_model(name: str | Path) -> Model:
    """Open a model by bundled name, preset name, Hugging Face directory or .gguf file.

    Weights are checked for names, shapes, types and file size here, and read when they are used.
    Raises ModelError with one sentence.
    """
    text = str(name)
    if text in BUNDLED:
        return _directory(FOLDER / text, text)
    if text in model_names():
        return Model(load_config(FOLDER / "presets" / f"{text}.json"), None, None, text, "bf16")
    path = Path(name)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, ValueError):  # a name no file system takes
        is_folder = is_file = False
    if is_folder:
        return _directory(path, path.resolve().name)
    if is_file:
        if path.suffix.lower() == ".gguf":
            from programs.models.gguf_file import open_gguf

            config, weights, tokenizer = open_gguf(path)
            return Model(config, weights, tokenizer, path.stem, "f16")
        if path.suffix.lower() in (".bin", ".pt", ".pth", ".pkl", ".ckpt"):
            raise ModelError(f"{path}: pickled weights can run code when opened; convert them to safetensors")
        raise ModelError(f"{path}: give a Hugging Face directory (with config.json) or a .gguf file")
    if len(path.parts) > 1 or path.suffix.lower() in (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".json"):
        raise ModelError(f"{text}: no such file or directory")
    known = model_names()
    raise ModelError(f"unknown model {text}; {nearest(text, known)}known models: {', '.join(known)}")


def _directory(folder: Path, name: str) -> Model:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: has no config.json")
    config = load_config(folder / "config.json")
    opened = open_safetensors(folder, config)
    tokenizer_path = folder / "tokenizer.json"
    tokenizer = tokenizer_file(tokenizer_path, config.vocab) if tokenizer_path.is_file() else None
    if opened is None:
        return Model(config, None, tokenizer, name, DTYPES[config.dtype])
    weights, dtype = opened
    return Model(config, weights, tokenizer, name, DTYPES[dtype])
