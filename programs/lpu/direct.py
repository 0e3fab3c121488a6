"""Schedules with a plain rhythm, laid down instruction by instruction at given cycles.

Nothing is searched here: the caller's arithmetic says what happens when, and the engine refuses what
cannot be (a missing value, a port or bank taken twice). It suits operations that are too long for the
scheduler and repeat one pass thousands of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import Geometry, geometry
from isa.encoding import encode
from isa.opcodes import ALU_BASE, BY_NAME, S8, TYPE_BYTES
from isa.program import LpuImage, LpuText, Program, Tensor
from isa.timeline import Timeline
from programs.errors import CapacityError
from programs.lpu.core import REASON
from programs.lpu.requirements import check_chip


@dataclass(frozen=True)
class Region:
    """Vectors of len(parts[0]) byte planes: vector v lies in the slices parts[v // depth], at address v % depth."""

    parts: tuple[tuple[int, ...], ...]
    depth: int

    def runs(self, first: int, count: int) -> Iterator[tuple[int, tuple[int, ...], int, int]]:
        """(vectors before it, slices, address, vectors) of each piece of a run that lies in one part."""
        done = 0
        while done < count:
            part, address = divmod(first + done, self.depth)
            n = min(count - done, self.depth - address)
            yield done, self.parts[part], address, n
            done += n

    def words(self, vectors: np.ndarray) -> np.ndarray:
        """Word numbers int64 [..., byte planes] of vectors."""
        slices = np.array(self.parts, dtype=np.int64)
        return slices[vectors // self.depth] * self.depth + (vectors % self.depth)[..., None]


class Slices:
    """Whole slices of one hemisphere, given out from the VXM outward."""

    def __init__(self, g: Geometry, side: int) -> None:
        first = side * g.slices_per_hemisphere
        self.g, self.left = g, list(range(first, first + g.slices_per_hemisphere))

    def region(self, n: int, planes: int) -> Region:
        """Room for n vectors of `planes` bytes. Raises CapacityError when the slices run out."""
        parts = max(1, -(-n // self.g.words_per_slice))
        if parts * planes > len(self.left):
            raise CapacityError(f"{n:,} vectors of {planes} B need {parts * planes} memory slices of "
                                f"{self.g.words_per_slice:,} words, and {len(self.left)} are left")
        taken = [tuple(self.left[p * planes : (p + 1) * planes]) for p in range(parts)]
        del self.left[: parts * planes]
        return Region(tuple(taken), self.g.words_per_slice)

    def next_column(self) -> None:
        """Go on in a column of slices that nothing has been given out from."""
        if self.left and self.left[0] % self.g.slices_per_hemisphere:
            before = self.g.column[self.left[0] - 1]
            self.left = [s for s in self.left if self.g.column[s] != before]


class Direct:
    """Instructions at cycles, the words that hold data, and the program they make.

    Raises ChipError for a chip with numbers that compiled programs cannot have.
    """

    def __init__(self, chip: Chip, name: str, barrier: bool = True) -> None:
        check_chip(chip)
        self.chip, self.g, self.barrier = chip, geometry(chip), barrier
        self.timeline = Timeline(nodes=[name])
        self.queues: set[int] = set()
        self.end = 0
        self.filled: list[tuple[np.ndarray, np.ndarray]] = []  # word numbers, bytes
        self.phantom: list[np.ndarray] = []
        self.tensors: dict[str, Tensor] = {}

    @property
    def start(self) -> int:
        """First cycle after the barrier that a program begins with."""
        return self.g.barrier if self.barrier else 0

    def add(self, cycle: int, queue: int, op: str, *fields: int, n: int = 1, d: int = 1, stride: int = 0) -> None:
        """Issue an instruction n times, d cycles apart; fields are raw field values."""
        row = BY_NAME[op]
        self.timeline.add(queue, cycle, encode("lpu", row, fields), n - 1, d, stride, node=0, reason=REASON["order"])
        self.queues.add(queue)
        named = dict(zip((f.name for f in row.fields("lpu")), fields, strict=True))
        chained = all(named[x] >= ALU_BASE for x in "abc" if x in named)
        size = TYPE_BYTES[named.get("type", S8)]
        self.end = max(self.end, cycle + (n - 1) * d + self.g.completion(op, chained=chained, type_bytes=size))

    def fill(self, words: np.ndarray, data: np.ndarray | None) -> None:
        """Contents of words: uint8 [words, lanes], None for words whose values are not known."""
        if data is None:
            self.phantom.append(words.ravel())
        else:
            self.filled.append((words.ravel(), data.reshape(-1, self.g.lanes)))

    def image(self) -> LpuImage:
        """Initial SRAM contents."""
        none = np.zeros(0, dtype=np.int32)
        return LpuImage(
            np.concatenate([w for w, _ in self.filled]).astype(np.int32) if self.filled else none,
            np.concatenate([d for _, d in self.filled]) if self.filled else np.zeros((0, self.g.lanes), np.uint8),
            none, np.concatenate(self.phantom).astype(np.int32) if self.phantom else none)

    def program(self, meta: dict[str, Any], maps: list[np.ndarray] | None = None) -> Program:
        """The program, timing only when any word is phantom; meta gains predicted_cycles. maps: lane maps."""
        for k, queue in enumerate(sorted(self.queues) if self.barrier else ()):
            word = encode("lpu", BY_NAME["SYNC" if k else "NOTIFY"], [])
            self.timeline.add(queue, 0, word, busy=self.g.barrier, reason=REASON["start_barrier"])
        words, starts, source = self.timeline.pack(self.g.queues)
        lane_maps = np.array(maps or np.zeros((0, self.g.lanes)), dtype=np.uint16)
        text, image = LpuText(words, starts, lane_maps, source), self.image()
        meta = {**meta, "timing_only": len(image.phantom_words) > 0, "nodes": source.nodes,
                "predicted_cycles": self.end + self.g.superlanes - 1}
        return Program("lpu", self.chip.name, self.chip.hash, [text], [image], [(0, 0, (0,))], self.tensors, [], meta)
