"""A compiled program: everything a machine needs to run, and nothing of the machine.

A Program holds texts (instruction queues or kernels), memory images, and a table that gives each
chip of the system its text and image. Tensors name places in the memory, so that hosts, viewers
and tests can find a value without knowing the compiler.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from isa.opcodes import TYPE_BYTES, TYPES

ROLES = ("weight", "kv", "activation", "state", "table", "output")


@dataclass
class Tensor:
    """A named array in a machine's memory: shape [rows, columns] of a number type.

    LPU: element (r, c) lies in lane c % lanes of the words `words[r, c // lanes, byte]`, one word a
    byte plane; a word number is slice * words_per_slice + address. GPU: row r starts at
    `address + r * pitch`. `replicated` marks an LPU scalar per row that stands in every lane
    (shape is then [rows, lanes]; a host writes one value a row).
    A phantom tensor has no values: reading it gives poison.
    `chips` are rows of Program.chips. Every one has a copy in the same words: a host write goes to all,
    a read takes the first. `sharded`: the columns are cut into runs of words.shape[1] * lanes (LPU) or
    ceil(columns / chips) (GPU), and run j lies in the words of chips[j]; the last runs may be short or empty.
    """

    name: str
    dtype: str
    shape: tuple[int, int]
    role: str
    phantom: bool = False
    replicated: bool = False
    words: np.ndarray | None = None  # int32 [rows, ceil(columns / lanes), bytes]; LPU
    address: int = 0  # bytes; GPU
    pitch: int = 0  # bytes from row to row; GPU
    chips: tuple[int, ...] = (0,)
    sharded: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return TYPE_BYTES[TYPES.index(self.dtype)]


@dataclass
class Source:
    """Where instructions come from. Parallel arrays, one entry an instruction of a text.

    `line` indexes `lines` (assembly text), `node` indexes `nodes` (graph node, e.g.
    "layers.3.qkv"), `reason` indexes emulator.accounting's LPU wait reasons for a NOP. `tensor` indexes
    `tensors`: what an LPU's instruction reads or writes in SRAM, where the compiler has said so; it may be
    empty.
    """

    line: np.ndarray  # int32 [n], -1 = none
    node: np.ndarray  # int32 [n], -1 = none
    reason: np.ndarray  # int16 [n], -1 = none
    nodes: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    file: str = ""
    tensor: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))  # int32, -1 = none
    tensors: list[str] = field(default_factory=list)


@dataclass
class LpuText:
    """Queues of one LPU. Queue q's instructions are words[starts[q]:starts[q + 1]], in order.

    Queue numbers follow the chip: emulator.lpu.geometry names them. maps: uint16 [n, lanes].
    """

    words: np.ndarray  # uint64 [n]
    starts: np.ndarray  # int64 [queues + 1]
    maps: np.ndarray  # uint16 [maps, lanes]
    source: Source


@dataclass
class Kernel:
    """One GPU kernel in a text: instructions first .. first + count - 1, and what a CTA needs."""

    name: str
    first: int
    count: int
    registers: int  # vector registers a lane
    parameters: tuple[str, ...] = ()


@dataclass
class Launch:
    """One node of the launch graph: a kernel with its grid, as recorded once and replayed every step."""

    kernel: int  # index into GpuText.kernels
    grid: int  # CTAs
    block: int  # threads, a multiple of 32
    shared_bytes: int
    arguments: tuple[int, ...] = ()  # signed 64-bit kernel parameters
    after: tuple[int, ...] = ()  # launches that must have finished; compilers chain them
    node: str = ""  # graph node, e.g. "layers.3.qkv"


@dataclass
class GpuText:
    """Kernels of one GPU and the launches of one decode step."""

    words: np.ndarray  # uint64 [n]
    kernels: list[Kernel]
    launches: list[Launch]
    source: Source


@dataclass
class LpuImage:
    """Initial SRAM contents: word numbers and their 'lanes' bytes; phantom words have no bytes.

    zero_words are initialised to zero without being stored.
    """

    words: np.ndarray  # int32 [n]
    data: np.ndarray  # uint8 [n, lanes]
    zero_words: np.ndarray  # int32 [m]
    phantom_words: np.ndarray  # int32 [p]


@dataclass
class GpuImage:
    """Initial global memory. Real bytes are [0, len(data)); phantom addresses are
    [phantom_base, phantom_base + phantom_bytes), phantom_base >= len(data)."""

    data: np.ndarray  # uint8 [n]
    phantom_base: int = 0
    phantom_bytes: int = 0


@dataclass
class Expectation:
    """`.expect`: a tensor's values with a tolerance, or a cycle count (name "cycles")."""

    name: str
    values: Any
    tolerance: float = 0.0
    line: int = 0


@dataclass
class Program:
    """A self-contained program for one chip type. See the module's head.

    meta holds what people want to know and machines do not need: model, batch, context,
    arithmetic, layers, graph nodes, predicted_cycles (LPU). With several chips, meta["system"] names
    the system whose links join them.
    """

    dialect: str  # "lpu" or "gpu"
    chip: str  # chip name
    chip_hash: str
    texts: list[LpuText] | list[GpuText]
    images: list[LpuImage] | list[GpuImage]
    chips: list[tuple[int, int, tuple[int, ...]]]  # (text, image, coordinates) of each chip; see place_of
    tensors: dict[str, Tensor]
    expectations: list[Expectation] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """One line: everything in a program would be megabytes."""
        words = sum(len(text.words) for text in self.texts)
        name = f"{self.meta['model']}, " if "model" in self.meta else ""
        count = f", {len(self.chips)} chips" if len(self.chips) > 1 else ""
        return f"<Program {name}{self.chip}{count}: {words:,} instructions, {len(self.tensors)} tensors>"

    def _repr_html_(self) -> str:
        """What Jupyter shows: what the program was made for, its texts, its tensors."""
        from isa.program_html import program_html

        return program_html(self)


@dataclass(frozen=True)
class Place:
    """What an LPU's coordinates say: its number in the system, the cycle of the step in which its text
    begins, and the port that plays each role (-1: not wired)."""

    number: int = 0
    start: int = 0
    roles: tuple[int, ...] = ()


def place_of(coordinates: tuple[int, ...]) -> Place:
    """Coordinates (number, start, port of role 0, port of role 1, ...) by name; missing ones are zero."""
    number, start = (*coordinates[:2], 0, 0)[:2]
    return Place(number, start, tuple(coordinates[2:]))


def difference(one: Any, other: Any, where: str = "program") -> str | None:
    """Where two programs (or parts of them) differ, None when they are equal.

    The source map is not compared: a listing has lines of its own.
    """
    if isinstance(one, Source) and isinstance(other, Source):
        return None
    if is_dataclass(one) and type(one) is type(other):
        pairs = [(f"{where}.{f.name}", getattr(one, f.name), getattr(other, f.name)) for f in fields(one)
                 if not (isinstance(one, Expectation) and f.name == "line")]
    elif isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return None if one.dtype == other.dtype and np.array_equal(one, other) else where
    elif isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        pairs = [(f"{where}[{key!r}]", one[key], other[key]) for key in one]
    elif isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return None if type(one) is type(other) and one == other else where
    return next((found for name, a, b in pairs if (found := difference(a, b, name))), None)
