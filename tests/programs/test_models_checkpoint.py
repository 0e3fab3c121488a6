"""Safetensors: the same weights from every layout, and damaged or hostile files refused in one sentence."""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from programs.models.checkpoint import load_model
from programs.models.errors import ModelError
from programs.models.weights import canonical
from tests.models import random_llama, random_weights, small_config, write_model


@pytest.mark.parametrize(("dtype", "stored"), [("float32", "f16"), ("float16", "f16"), ("bfloat16", "bf16")])
@pytest.mark.parametrize("shards", [1, 3])
def test_weights_come_back_in_the_checkpoint_s_own_type(dtype: str, stored: str, shards: int, tmp_path: Path) -> None:
    config = small_config(torch_dtype=dtype)
    weights = random_weights(config)
    model = load_model(write_model(tmp_path / "model", config, weights, shards))
    assert (model.dtype, model.name) == (stored, "model")
    assert model.weights is not None and list(model.config.weight_shapes()) == sorted(
        model.weights, key=list(model.config.weight_shapes()).index
    )
    number = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    for ours, theirs in (
        ("embed", "model.embed_tokens.weight"),
        ("lm_head", "lm_head.weight"),
        ("layers.1.wk", "model.layers.1.self_attn.k_proj.weight"),
        ("layers.0.mlp_norm", "model.layers.0.post_attention_layernorm.weight"),
        ("layers.1.w_down", "model.layers.1.mlp.down_proj.weight"),
    ):
        array = model.weights[ours]
        assert array.dtype == number
        assert np.array_equal(array, weights[theirs].astype(number))


def test_type_of_the_file_counts_not_what_the_config_says(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m", torch_dtype="bfloat16")
    (folder / "config.json").write_text(json.dumps(small_config(torch_dtype="float32")))
    assert load_model(folder).dtype == "bf16"


def test_names_of_hugging_face_tensors() -> None:
    assert canonical("model.layers.12.self_attn.q_proj.bias") == "layers.12.bq"
    assert canonical("model.layers.3.self_attn.rotary_emb.inv_freq") is None
    assert canonical("model.layers.3.self_attn.q_norm.weight") == "layers.3.self_attn.q_norm.weight"
    assert canonical("model.layers.03.mlp.up_proj.weight") == "model.layers.03.mlp.up_proj.weight"


def test_head_of_a_tied_model_is_its_embedding(tmp_path: Path) -> None:
    config = small_config(tie_word_embeddings=True)
    weights = random_weights(config) | {"lm_head.weight": np.ones((61, 32), np.float32)}
    model = load_model(write_model(tmp_path / "m", config, weights))
    assert model.weights is not None and "lm_head" not in model.weights


def altered(folder: Path, **changes: Any) -> Path:
    """Rewrite a model's safetensors with tensors replaced (None removes one)."""
    tensors = load_file(folder / "model.safetensors")
    for name, array in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if array is not None:
            tensors[key] = array
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm_head__weight": None}, "1 weights are missing, the first is lm_head"),
        ({"model__layers__1__mlp__up_proj__weight": None}, "the first is layers.1.w_up"),
        ({"model__norm__weight": np.ones(31, np.float16)}, r"norm.weight has shape \[31\], config.json says \[32\]"),
        ({"model__norm__weight": np.ones((32, 1), np.float16)}, r"has shape \[32, 1\], config.json says \[32\]"),
        ({"model__norm__weight": np.ones(32)}, "model.norm.weight is F64; only F32, F16 and BF16"),
        ({"model__norm__weight": np.ones(32, np.int8)}, "model.norm.weight is I8; only"),
        ({"model__layers__0__self_attn__q_norm__weight": np.ones(8, np.float16)},
         "layers.0.self_attn.q_norm.weight does not belong to the model"),
        ({"model__layers__2__input_layernorm__weight": np.ones(32, np.float16)}, "does not belong to the model"),
        ({"model__layers__0__self_attn__q_proj__bias": np.ones(32, np.float16)}, "q_proj.bias does not belong"),
        ({"evil\nname": np.ones(2, np.float16)}, r"tensor evil\?name does not belong"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_the_config_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as error:
        load_model(altered(random_llama(tmp_path / "m"), **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_weights_that_are_not_numbers_are_refused_when_read(value: float, dtype: str, tmp_path: Path) -> None:
    config = small_config(torch_dtype=dtype)
    weights = random_weights(config)
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    model = load_model(write_model(tmp_path / "m", config, weights))
    assert model.weights is not None
    assert model.weights["layers.0.w_down"].shape == (32, 48)
    with pytest.raises(ModelError, match="weight layers.1.w_down holds 1 values that are NaN or infinite"):
        model.weights["layers.1.w_down"]


def test_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for size in (0, 5, 8, 100, header - 1, header, header + 10, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(ModelError, match="not a whole safetensors file"):
            load_model(folder)


def test_bytes_after_the_last_tensor_are_refused(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m")
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x" * 64)
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        load_model(folder)


def hostile(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "content",
    [
        hostile({}, length=2**63),
        hostile({}, length=99 << 20),
        hostile(b"{not json"),
        hostile(b"\xff\xff"),
        hostile([1, 2]),
        hostile({"a": {"dtype": "F16", "shape": [2**40, 2**20], "data_offsets": [0, 2**61]}}, b"xx"),
        hostile({"a": {"dtype": "F16", "shape": [-1], "data_offsets": [0, 2]}}, b"xx"),
        hostile({"a": {"dtype": "F16", "shape": [2**63, 2], "data_offsets": [0, 2]}}, b"xx"),
        hostile({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
                 "b": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}, b"xx"),
        hostile({"a": {"dtype": "F999", "shape": [1], "data_offsets": [0, 2]}}, b"xx"),
        hostile({"a": {"shape": [1]}}, b"xx"),
        pickle.dumps({"model.norm.weight": [1.0] * 32}),
        b"PK\x03\x04" + b"\0" * 200,
    ],
)  # fmt: skip
def test_hostile_headers_are_refused_without_taking_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    (tmp_path / "model.safetensors").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="not a whole safetensors file") as error:
            load_model(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..\\outside.safetensors",
        "C:model.safetensors",
        "\\\\host\\share.safetensors",
        "https://host/model.safetensors",
        ".hidden.safetensors",
        "weights.bin",
        "a\0.safetensors",
        "a\n.safetensors",
        "",
        7,
    ],
)
def test_index_may_only_name_plain_files_of_its_folder(name: object, tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m", shards=2)
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    table["weight_map"]["lm_head.weight"] = name
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match="is not the plain name of a .safetensors file") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_broken_indexes(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m", shards=2)
    index = folder / "model.safetensors.index.json"
    for content, message in (
        ("{", "not valid JSON"),
        ("{}", "weight_map is missing or empty"),
        ('{"weight_map": []}', "weight_map is missing or empty"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "names gone.safetensors, which is not there"),
    ):
        index.write_text(content)
        with pytest.raises(ModelError, match=message):
            load_model(folder)
    index.unlink()
    with pytest.raises(ModelError, match="expected model.safetensors or model.safetensors.index.json"):
        load_model(folder)


def test_missing_shard_and_doubled_tensor(tmp_path: Path) -> None:
    folder = random_llama(tmp_path / "m", shards=2)
    first, second = sorted(folder.glob("*.safetensors"))
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(ModelError, match="is there twice"):
        load_model(folder)
    second.unlink()
    with pytest.raises(ModelError, match="names model-00002-of-00002.safetensors, which is not there"):
        load_model(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickles_are_never_opened(name: str, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "config.json").write_text(json.dumps(small_config()))
    (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="pickled weights can run code when opened; convert them to safetensors"):
        load_model(tmp_path)
    assert not (tmp_path / "ran").exists()
