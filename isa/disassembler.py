"""Program -> assembly text. `assemble` of the text gives the same program back.

Memory images and LPU word tables are too large for text: the text names them by their hash, and
they are kept beside it (f.s and f.s.npz).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from isa.encoding import ALWAYS, decode
from isa.opcodes import PT, Kind
from isa.operands import write_instruction
from isa.program import Expectation, GpuImage, GpuText, Launch, LpuText, Program, Tensor

_PLAIN = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def array_hash(array: np.ndarray) -> str:
    """Name of an array beside a listing: h and 16 hex digits of its type, shape and bytes."""
    head = f"{array.dtype.str}{array.shape}".encode()
    return "h" + hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def blobs_path(path: Path) -> Path:
    """Where the arrays of a listing are kept."""
    return path.with_name(path.name + ".npz")


def instruction_text(dialect: str, word: int) -> str:
    """One instruction as text, with its guard: for listings, traces and error messages."""
    op, guard, values = decode(dialect, word)
    text = write_instruction(op, dialect, values)
    return text if guard == ALWAYS else f"@{'!' if guard & 8 else ''}{_predicate(guard & 7)} {text}"


def _predicate(number: int) -> str:
    return "PT" if number == PT else f"P{number}"


def _symbol(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else f'"{name}"'


def disassemble(program: Program, queue_names: tuple[str, ...] | None = None) -> tuple[str, dict[str, np.ndarray]]:
    """(text, arrays by hash) of a program. queue_names: the chip's, needed for an LPU program."""
    blobs: dict[str, np.ndarray] = {}

    def keep(array: np.ndarray) -> str:
        name = array_hash(array)
        blobs[name] = array
        return name

    out = [f".dialect {program.dialect}", f'.chip {program.chip} hash "{program.chip_hash}"']
    if program.meta:
        out.append(f".meta {json.dumps(program.meta)}")
    for tensor in program.tensors.values():
        out.append(_tensor(tensor, "" if tensor.words is None else keep(tensor.words)))
    for image in program.images:
        if isinstance(image, GpuImage):
            out.append(f".image {keep(image.data)} phantom {image.phantom_base} {image.phantom_bytes}")
        else:
            parts = (image.words, image.data, image.zero_words, image.phantom_words)
            out.append(".image " + " ".join(keep(part) for part in parts))
    for text in program.texts:
        out += ["", ".text"]
        if isinstance(text, LpuText):
            if queue_names is None or len(queue_names) != len(text.starts) - 1:
                raise ValueError("disassembling an LPU program needs the names of its chip's queues")
            if len(text.maps):
                out.append(f".maps {keep(text.maps)}")
            out += _queues(text, queue_names)
        else:
            out += _kernels(text)
    for text_index, image_index, coordinates in program.chips:
        out.append(f".place {text_index} {image_index} ({', '.join(map(str, coordinates))})")
    out += [_expectation(expectation) for expectation in program.expectations]
    return "\n".join(out) + "\n", blobs


def save_listing(program: Program, path: str | Path, queue_names: tuple[str, ...] | None = None) -> None:
    """Write a disassembly: PATH, and PATH.npz with the arrays that it names. Raises OSError."""
    from isa.files import write_atomically
    from isa.programfile import save_arrays

    path = Path(path)
    text, blobs = disassemble(program, queue_names)
    save_arrays(blobs_path(path), blobs)
    write_atomically(path, text.encode())


def _tensor(tensor: Tensor, words: str) -> str:
    flags = " phantom" * tensor.phantom + " replicated" * tensor.replicated
    if tensor.chips != (0,) or tensor.sharded:
        flags += f" chips ({', '.join(map(str, tensor.chips))})" + " sharded" * tensor.sharded
    where = f"words {words}" if words else f"address {tensor.address} pitch {tensor.pitch}"
    rows, columns = tensor.shape
    return f".tensor {_symbol(tensor.name)} {tensor.dtype} [{rows},{columns}] {tensor.role}{flags} {where}"


def _expectation(expectation: Expectation) -> str:
    values = expectation.values
    if expectation.name == "cycles":
        return f".expect cycles {values}"
    text = f"({values})" if isinstance(values, str) else f"[{', '.join(repr(float(v)) for v in values)}]"
    return f".expect {_symbol(expectation.name)} {text} {expectation.tolerance!r}"


def _queues(text: LpuText, queue_names: tuple[str, ...]) -> list[str]:
    out = []
    for queue, name in enumerate(queue_names):
        words = text.words[text.starts[queue]:text.starts[queue + 1]]
        if len(words):
            out.append(f".queue {name}")
            out += [f"        {instruction_text('lpu', int(word))}" for word in words]
    return out


def _kernels(text: GpuText) -> list[str]:
    out = []
    for kernel in text.kernels:
        out.append(f".kernel {_symbol(kernel.name)}")
        if kernel.parameters:
            out.append(f".param {', '.join(_symbol(p) for p in kernel.parameters)}")
        out.append(f".registers {kernel.registers}")
        words = [int(word) for word in text.words[kernel.first:kernel.first + kernel.count]]
        targets = {target for word in words for target in _targets(word)}
        for i, word in enumerate(words):
            label = f"L{i}:" if i in targets else ""
            out.append(f"{label:8}{instruction_text('gpu', word)}")
    return out + [_launch(text, launch) for launch in text.launches]


def _targets(word: int) -> list[int]:
    op, _, values = decode("gpu", word)
    return [v for f, v in zip(op.fields("gpu"), values, strict=True) if f.kind is Kind.TARGET]


def _launch(text: GpuText, launch: Launch) -> str:
    after = " ".join(map(str, launch.after)) if launch.after else "none"
    node = f' node "{launch.node}"' if launch.node else ""
    return (f".launch {_symbol(text.kernels[launch.kernel].name)} {launch.grid} {launch.block} {launch.shared_bytes} "
            f"({', '.join(map(str, launch.arguments))}) after {after}{node}")
