"""Programs on disk: one .npz without pickles, with a JSON header.

A file is not trusted: sizes are checked before anything is unpacked, and everything that a machine
relies on (opcodes, operands, addresses, queue and kernel bounds) is checked before the program is returned.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isa import validate
from isa.files import write_atomically
from isa.program import (
    Expectation,
    GpuImage,
    GpuText,
    Kernel,
    Launch,
    LpuImage,
    LpuText,
    Program,
    Source,
    Tensor,
)

FORMAT = "decodelab.program/1"
HEADER = "header"
BYTES_MAX = 1 << 36  # unpacked, of one file
RATIO_MAX = 1100  # deflate cannot pack better than about 1032 to 1
ENTRIES_MAX = 1 << 20


class ProgramFileError(ValueError):
    """A program file that cannot be used: one sentence with the file and what is wrong."""


# -- arrays in an .npz ------------------------------------------------------------------------
def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An .npz with the same bytes for the same arrays (zip entries carry no date)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an .npz. Raises ProgramFileError when it is not a sound one, OSError when unreadable."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) > ENTRIES_MAX or sum(entry.file_size for entry in entries) > BYTES_MAX:
                raise ProgramFileError(f"{path}: larger than a program can be")
            arrays = {}
            for entry in entries:
                name = entry.filename
                if not name.endswith(".npy") or "/" in name or "\\" in name or name in arrays:
                    raise ProgramFileError(f"{path}: unexpected entry {name!r}")
                if entry.file_size > RATIO_MAX * max(entry.compress_size, 1):
                    raise ProgramFileError(f"{path}: entry {name} says it unpacks to {entry.file_size} bytes")
                with archive.open(entry) as file:
                    arrays[name.removesuffix(".npy")] = _read_array(path, name, file, entry.file_size)
            return arrays
    except ProgramFileError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
            ValueError, OverflowError) as error:
        raise ProgramFileError(f"{path}: not a program file, or a damaged one ({error})") from None


def _read_array(path: Path, name: str, file: Any, size: int) -> np.ndarray:
    """One .npy member; its header must promise exactly the bytes that are there."""
    major, _ = np.lib.format.read_magic(file)
    if major != 1:
        raise ProgramFileError(f"{path}: entry {name} has an unknown format version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject or dtype.kind not in "iuf" or fortran:
        raise ProgramFileError(f"{path}: entry {name} is not an array of plain numbers")
    count = 1
    for extent in shape:
        count *= extent
    if count * dtype.itemsize > size:
        raise ProgramFileError(f"{path}: entry {name} is shorter than its shape {shape}")
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize or file.read(1):
        raise ProgramFileError(f"{path}: entry {name} does not have the size of its shape {shape}")
    return np.frombuffer(content, dtype=dtype).reshape(shape).copy()


# -- saving -----------------------------------------------------------------------------------
def save_program(program: Program, path: str | Path) -> None:
    """Write a program file, completely or not at all. Raises OSError."""
    arrays: dict[str, np.ndarray] = {}
    header: dict[str, Any] = {
        "format": FORMAT, "dialect": program.dialect, "chip": program.chip, "chip_hash": program.chip_hash,
        "chips": [[text, image, list(coordinates)] for text, image, coordinates in program.chips],
        "meta": program.meta, "expectations": [asdict(e) for e in program.expectations],
        "tensors": [], "texts": [], "images": []}
    offset = 0
    word_tables = []
    for tensor in program.tensors.values():
        row = {key: getattr(tensor, key) for key in
               ("name", "dtype", "shape", "role", "phantom", "replicated", "address", "pitch", "chips", "sharded")}
        if tensor.words is not None:
            row["words"] = [offset, *tensor.words.shape]
            word_tables.append(tensor.words.reshape(-1))
            offset += tensor.words.size
        header["tensors"].append(row)
    if word_tables:
        arrays["tensor_words"] = np.concatenate(word_tables).astype(np.int32)
    text: Any
    for i, text in enumerate(program.texts):
        arrays[f"text{i}.words"] = text.words
        for key in ("line", "node", "reason", "tensor"):
            arrays[f"text{i}.source_{key}"] = getattr(text.source, key)
        row = {key: getattr(text.source, key) for key in ("nodes", "tensors", "lines", "file")}
        if isinstance(text, LpuText):
            arrays[f"text{i}.starts"], arrays[f"text{i}.maps"] = text.starts, text.maps
        else:
            row["kernels"] = [asdict(kernel) for kernel in text.kernels]
            row["launches"] = [asdict(launch) for launch in text.launches]
        header["texts"].append(row)
    image: Any
    for i, image in enumerate(program.images):
        if isinstance(image, LpuImage):
            for key in ("words", "data", "zero_words", "phantom_words"):
                arrays[f"image{i}.{key}"] = getattr(image, key)
            header["images"].append({})
        else:
            arrays[f"image{i}.data"] = image.data
            header["images"].append({"phantom_base": image.phantom_base, "phantom_bytes": image.phantom_bytes})
    encoded = json.dumps(header, ensure_ascii=True).encode()
    save_arrays(Path(path), {HEADER: np.frombuffer(encoded, dtype=np.uint8), **arrays})


# -- loading ----------------------------------------------------------------------------------
class _Reader:
    """Header values and arrays, each with its type checked."""

    def __init__(self, path: Path, arrays: dict[str, np.ndarray]) -> None:
        self.path, self.arrays = path, arrays

    def fail(self, message: str) -> ProgramFileError:
        return ProgramFileError(f"{self.path}: {message}")

    def array(self, name: str, dtype: type, dimensions: int) -> np.ndarray:
        found = self.arrays.get(name)
        if found is None or found.dtype != np.dtype(dtype) or found.ndim != dimensions:
            raise self.fail(f"the array {name} is missing or of another type")
        return found

    def get(self, row: Any, key: str, kind: type | tuple[type, ...]) -> Any:
        value = row.get(key) if isinstance(row, dict) else None
        wrong_bool = isinstance(value, bool) and kind is not bool
        if not isinstance(value, kind) or wrong_bool:
            raise self.fail(f"{key} is missing from the header or of another type")
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise self.fail(f"{key} = {value} does not fit 64 bits")
        return value

    def integers(self, row: Any, key: str) -> tuple[int, ...]:
        values = self.get(row, key, list)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 63:
                raise self.fail(f"{key} holds {value!r}, not a whole number")
        return tuple(values)

    def strings(self, row: Any, key: str) -> list[str]:
        values = self.get(row, key, list)
        if not all(isinstance(value, str) for value in values):
            raise self.fail(f"{key} holds something that is not text")
        return list(values)


def load_program(path: str | Path) -> Program:
    """Read and check a program file. Raises ProgramFileError, or OSError when the file cannot be read."""
    path = Path(path)
    reader = _Reader(path, load_arrays(path))
    raw = reader.array(HEADER, np.uint8, 1)
    try:
        header = json.loads(raw.tobytes().decode())
    except (ValueError, RecursionError):
        raise reader.fail("the header is not JSON") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise reader.fail(f"not a program file of this version ({FORMAT})")
    dialect = reader.get(header, "dialect", str)
    if dialect not in ("lpu", "gpu"):
        raise reader.fail(f"unknown dialect {dialect!r}")
    texts, images, tensors = _contents(reader, header, dialect)
    chips = []
    for entry in reader.get(header, "chips", list):
        if not isinstance(entry, list) or len(entry) != 3 or not all(isinstance(v, int) for v in entry[:2]):
            raise reader.fail("the table of chips is damaged")
        chips.append((entry[0], entry[1], reader.integers({"coordinates": entry[2]}, "coordinates")))
    program = Program(
        dialect=dialect, chip=reader.get(header, "chip", str), chip_hash=reader.get(header, "chip_hash", str),
        texts=texts, images=images, chips=chips, tensors=tensors,
        expectations=[_expectation(reader, row) for row in reader.get(header, "expectations", list)],
        meta=reader.get(header, "meta", dict))
    try:
        validate.check_program(program)
    except validate.InvalidText as error:
        raise reader.fail(str(error)) from None
    return program


def _contents(reader: _Reader, header: dict[str, Any], dialect: str) -> tuple[Any, Any, dict[str, Tensor]]:
    lpu = dialect == "lpu"
    texts = [(_lpu_text if lpu else _gpu_text)(reader, i, row)
             for i, row in enumerate(reader.get(header, "texts", list))]
    images = [(_lpu_image if lpu else _gpu_image)(reader, i, row)
              for i, row in enumerate(reader.get(header, "images", list))]
    tensors: dict[str, Tensor] = {}
    for row in reader.get(header, "tensors", list):
        tensor = _tensor(reader, row, lpu)
        if tensor.name in tensors:
            raise reader.fail(f"tensor {tensor.name} is there twice")
        tensors[tensor.name] = tensor
    return texts, images, tensors


def _source(reader: _Reader, i: int, row: Any, count: int) -> Source:
    source = Source(
        line=reader.array(f"text{i}.source_line", np.int32, 1), node=reader.array(f"text{i}.source_node", np.int32, 1),
        reason=reader.array(f"text{i}.source_reason", np.int16, 1), nodes=reader.strings(row, "nodes"),
        lines=reader.strings(row, "lines"), file=reader.get(row, "file", str))
    if f"text{i}.source_tensor" in reader.arrays:  # files of earlier compilers do not say it
        source.tensor = reader.array(f"text{i}.source_tensor", np.int32, 1)
        source.tensors = reader.strings(row, "tensors")
    for values, names, expected in ((source.line, source.lines, count), (source.node, source.nodes, count),
                                    (source.tensor, source.tensors, count if len(source.tensor) else 0)):
        if len(values) != expected or (expected and not (-1 <= values.min() and values.max() < len(names))):
            raise reader.fail(f"the source map of text {i} is damaged")
    if len(source.reason) != count or (count and source.reason.min() < -1):
        raise reader.fail(f"the source map of text {i} is damaged")
    return source


def _lpu_text(reader: _Reader, i: int, row: Any) -> LpuText:
    words = reader.array(f"text{i}.words", np.uint64, 1)
    return LpuText(words, reader.array(f"text{i}.starts", np.int64, 1), reader.array(f"text{i}.maps", np.uint16, 2),
                   _source(reader, i, row, len(words)))


def _gpu_text(reader: _Reader, i: int, row: Any) -> GpuText:
    words = reader.array(f"text{i}.words", np.uint64, 1)
    kernels = [Kernel(name=reader.get(k, "name", str), first=reader.get(k, "first", int),
                      count=reader.get(k, "count", int), registers=reader.get(k, "registers", int),
                      parameters=tuple(reader.strings(k, "parameters")))
               for k in reader.get(row, "kernels", list)]
    launches = [Launch(kernel=reader.get(n, "kernel", int), grid=reader.get(n, "grid", int),
                       block=reader.get(n, "block", int), shared_bytes=reader.get(n, "shared_bytes", int),
                       arguments=reader.integers(n, "arguments"), after=reader.integers(n, "after"),
                       node=reader.get(n, "node", str))
                for n in reader.get(row, "launches", list)]
    return GpuText(words, kernels, launches, _source(reader, i, row, len(words)))


def _lpu_image(reader: _Reader, i: int, row: Any) -> LpuImage:
    return LpuImage(
        words=reader.array(f"image{i}.words", np.int32, 1), data=reader.array(f"image{i}.data", np.uint8, 2),
        zero_words=reader.array(f"image{i}.zero_words", np.int32, 1),
        phantom_words=reader.array(f"image{i}.phantom_words", np.int32, 1))


def _gpu_image(reader: _Reader, i: int, row: Any) -> GpuImage:
    return GpuImage(reader.array(f"image{i}.data", np.uint8, 1), reader.get(row, "phantom_base", int),
                    reader.get(row, "phantom_bytes", int))


def _tensor(reader: _Reader, row: Any, lpu: bool) -> Tensor:
    name, dtype, role = (reader.get(row, key, str) for key in ("name", "dtype", "role"))
    shape = reader.integers(row, "shape")
    tensor = Tensor(name, dtype, shape, role, reader.get(row, "phantom", bool),  # type: ignore[arg-type]
                    reader.get(row, "replicated", bool), None, reader.get(row, "address", int),
                    reader.get(row, "pitch", int))
    if "chips" in row:  # not in files of programs from before there were several chips
        tensor.chips, tensor.sharded = reader.integers(row, "chips"), reader.get(row, "sharded", bool)
    if lpu:
        place = reader.integers(row, "words")
        pool = reader.array("tensor_words", np.int32, 1)
        count = 1
        for extent in place[1:]:
            count *= extent
        if len(place) != 4 or min(place) < 0 or place[0] + count > len(pool):
            raise reader.fail(f"tensor {name}: its word table is damaged")
        tensor.words = pool[place[0]:place[0] + count].reshape(place[1:])
    return tensor


def _expectation(reader: _Reader, row: Any) -> Expectation:
    name = reader.get(row, "name", str)
    values = row.get("values")
    if isinstance(values, list):
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            raise reader.fail(f"the expectation of {name} holds something that is not a number")
    elif not isinstance(values, str | int) or isinstance(values, bool):
        raise reader.fail(f"the expectation of {name} is damaged")
    return Expectation(name, values, float(reader.get(row, "tolerance", (int, float))), reader.get(row, "line", int))
