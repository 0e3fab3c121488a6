"""One all-reduce by itself on 2, 4 or 8 LPUs of a node: direct reduce-scatter and all-gather of fp32 vectors.

Every chip starts with a message of its own in memory and ends with the sum of all. There is no start barrier: the
program's first cycle issues the first READ, and its last one writes the last word of the sum (in the last
superlane), so its cycles are those from memory to memory. What a collective in a running program does not need
either is not in it: launching, and making the address maps by which ranks differ.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from emulator.chip import Chip
from isa.program import LpuImage, Program
from programs.errors import CapacityError
from programs.lpu.kernels.network import all_reduce
from programs.lpu.lone import Lone
from programs.lpu.node import CHIPS, on_node
from programs.lpu.place import Fill, byte_planes

ELEMENT = 4  # bytes: fp32


class LoneAllReduce(Lone):
    """The text of every chip. values: f32 [chips, elements], None: timing only."""

    def __init__(self, chip: Chip, chips: int, elements: int, values: np.ndarray | None) -> None:
        super().__init__(chip, "all_reduce", 0, barrier=False)
        b, g = self.b, self.g
        n = -(-elements // g.lanes)
        if n + 1 > g.words_per_slice:  # and a dummy that stands for vectors beyond the last
            raise CapacityError(f"a message of {n:,} vectors is longer than a memory slice of {g.chip}, "
                                f"{g.words_per_slice:,} words", None)
        if g.local_ports < chips - 1:
            raise CapacityError(f"{g.chip} has {g.local_ports} links to chips of its node; a direct all-reduce over "
                                f"{chips} needs {chips - 1}", None)
        b.ranks, self.timing_only = chips, values is None
        message = self.place(ELEMENT, n + 1, 0)
        if values is None:
            self.give(message, None)
        else:
            padded = np.zeros((chips, n + 1, g.lanes), dtype=np.float32)
            padded.reshape(chips, -1)[:, :elements] = values
            b.place.fills.append(Fill(message, lambda layer: byte_planes(padded[b.rank])))
        total = b.scratch(ELEMENT, n + 1, 1)
        all_reduce(b, message, None, total)
        b.s.links.check()
        self.tensor("sum", "f32", elements, "output", total.words(g)[None, :n], values is None)

    def images(self) -> list[LpuImage]:
        """Every rank's memory; timing only, all are alike."""
        if self.timing_only:
            return [self.image()]
        return [self._image_of(rank) for rank in range(self.b.ranks)]

    def _image_of(self, rank: int) -> LpuImage:
        self.b.rank = rank
        return self.image()


def all_reduce_program(chip: Chip, chips: int, elements: int, values: np.ndarray | None = None) -> Program:
    """Every chip's sum of `elements` fp32 numbers of each chip; tensor "sum" f32 [1, elements] on all of them.

    values: f32 [chips, elements]; without them timing only. Raises ValueError for another number of chips than 2,
    4 or 8, CapacityError for a message that does not fit.
    """
    if chips not in CHIPS:
        raise ValueError(f"chips {chips}: all-reduces are built for {', '.join(map(str, CHIPS))} chips of one node")
    lone = LoneAllReduce(chip, chips, elements, values)
    program = lone.finish({"op": "allreduce", "elements": elements})
    tensors = {"sum": replace(program.tensors["sum"], chips=tuple(range(chips)))}
    return on_node(program, chips, lone.images(), tensors, {})


__all__ = ["ELEMENT", "all_reduce_program"]
