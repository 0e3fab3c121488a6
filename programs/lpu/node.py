"""Programs in which several chips of one node run the same text: rank r's port i leads to rank r XOR i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from emulator.lpu.system import NODE
from isa.program import LpuImage, Program, Tensor
from programs.lpu.system import SYSTEM

CHIPS = (2, 4, NODE)  # powers of two: r XOR i stays among them


def on_node(program: Program, chips: int, images: Sequence[LpuImage], tensors: dict[str, Tensor],
            meta: dict[str, object]) -> Program:
    """A one-chip program on chips 0 .. chips - 1, which start together, each with its image or all with the one."""
    table: list[tuple[int, int, tuple[int, ...]]] = [
        (0, rank if len(images) > 1 else 0, (rank, 0)) for rank in range(chips)]
    return replace(program, images=list(images), chips=table, tensors=tensors,
                   meta={**program.meta, **meta, "chips": chips, "system": SYSTEM})


__all__ = ["CHIPS", "on_node"]
