"""One operation by itself, scheduled by the compiler: a program of one block with its own inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emulator.chip import Chip
from isa.opcodes import TYPE_BYTES, TYPES
from isa.program import LpuImage, Program, Tensor
from programs.decode.stored import SCHEMES, StoredModel
from programs.lpu.build import Build
from programs.lpu.core import EVENT_COLUMNS
from programs.lpu.direct import Direct
from programs.lpu.emit import ADDRESS_BIT, make_image, text_words, timeline_rows
from programs.lpu.memory import Buffer, Memory
from programs.lpu.partition import attention_layout
from programs.lpu.place import NEAR_GROUPS, Fill, Placer, byte_planes
from programs.lpu.schedule import Scheduler
from programs.models.config import ModelConfig


def plain_config(lanes: int) -> ModelConfig:
    """A model config for operations that need none of it."""
    return ModelConfig("llama", lanes, lanes, lanes, 1, 1, 1, lanes, 64, 1e-5, 1e4)


class Lone(Direct):
    """A scheduler with memory to place things in. words: SRAM words that weights will take.

    Values are given where buffers are filled; a program any of whose inputs has none is timing only.
    """

    def __init__(self, chip: Chip, name: str, words: int, batch: int = 1, arithmetic: str = "int8",
                 config: ModelConfig | None = None, context: int = 64, barrier: bool = True) -> None:
        super().__init__(chip, name, barrier)
        g = self.g
        config = config or plain_config(g.lanes)
        memory = Memory(g, 1)
        placer = Placer(g, memory, words / g.words)
        memory.reuse = not placer.roomy
        self.s = Scheduler(g, [], memory, placer)
        stored = StoredModel(config, SCHEMES[arithmetic], name, None, {}, {})
        self.b = Build(g, stored, batch, context, self.s, memory, placer, attention_layout(config, g.lanes),
                       config.vocab)
        self.s.at(name)
        self.timing_only = False

    def place(self, size: int, n: int, side: int, groups: Sequence[int] = NEAR_GROUPS) -> Buffer:
        """A buffer of n vectors of `size` bytes at a known place, without contents."""
        return self.b.memory.near(size, n, side, tuple(groups))

    def give(self, buffer: Buffer, values: np.ndarray | None) -> None:
        """Contents of a placed buffer: values [n, lanes] of its vectors; None: not known (timing only)."""
        self.timing_only |= values is None
        data = None if values is None else byte_planes(values)
        self.b.place.fills.append(Fill(buffer, make=lambda layer: data))  # type: ignore[arg-type, return-value]

    def zero(self, buffer: Buffer) -> None:
        """A placed buffer that begins with zeros."""
        self.b.place.fills.append(Fill(buffer, zero=True))

    def tensor(self, name: str, dtype: str, columns: int, role: str, words: np.ndarray, phantom: bool) -> None:
        """Name a place: words int [rows, vectors, bytes]."""
        assert words.shape[2] == TYPE_BYTES[TYPES.index(dtype)]
        self.tensors[name] = Tensor(name, dtype, (len(words), columns), role, phantom, False, words.astype(np.int32))

    def rows(self, buffer: Buffer, first: int, vectors: int, batch: int) -> np.ndarray:
        """Words [batch, vectors, bytes] of vectors first + v * batch + row."""
        words = buffer.words(self.g)[first : first + vectors * batch]
        return words.reshape(vectors, batch, -1).transpose(1, 0, 2)

    def image(self) -> LpuImage:
        """Initial SRAM contents; a timing-only program knows none of the values."""
        return make_image(self.g, self.b.memory, self.b.place.fills, range(1), self.timing_only)

    def finish(self, meta: dict[str, object]) -> Program:
        """The program of what has been scheduled. Raises CapacityError when a slice is over-full."""
        s, memory = self.s, self.b.memory
        table = np.array(s.events, dtype=np.int64).reshape(-1, len(EVENT_COLUMNS))
        words = np.array(s.words, dtype=np.uint64)
        layered = table[:, 7] != 0
        base = np.array([memory.base(x, 0) for x in range(self.g.slices)], dtype=np.uint64)
        words[layered] += base[table[layered, 0]] << np.uint64(ADDRESS_BIT)
        rows = timeline_rows(table)
        rows[:, 1] += self.start
        self.timeline.nodes = list(s.nodes)
        self.timeline.tensors = [name.removeprefix("layer.") for name in memory.names]
        self.timeline.extend(rows, words)
        self.queues |= set(table[:, 0].tolist())
        self.end = self.start + s.end
        memory.check(text_words(self.g, 3 * len(rows)))  # an instruction, its NOP and its REPEAT
        return self.program(meta, self.b.maps)
