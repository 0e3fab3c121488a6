"""Small GPU programs for tests: built kernels, launches and memory in one call."""

from __future__ import annotations

import numpy as np

from emulator.chip import Chip
from isa import builder
from isa.program import GpuImage, GpuText, Kernel, Launch, Program, Source, Tensor


def make_program(chip: Chip, kernels: list[builder.Kernel], launches: list[Launch], data: np.ndarray | int = 4096,
                 phantom: tuple[int, int] = (0, 0), registers: int | None = None) -> Program:
    """A program of built kernels. data: initial global memory (uint8) or its size in bytes.

    phantom: base and size. Tensor "memory" is all of the real memory as bytes.
    """
    words, table = [], []
    for k in kernels:
        table.append(Kernel(k.name, sum(len(w) for w in words), k.count, registers or k.registers, k.parameters))
        words.append(k.words())
    text = np.concatenate(words)
    none = np.full(len(text), -1, dtype=np.int32)
    image = np.zeros(data, dtype=np.uint8) if isinstance(data, int) else np.asarray(data, dtype=np.uint8)
    return Program(
        dialect="gpu", chip=chip.name, chip_hash=chip.hash,
        texts=[GpuText(text, table, launches, Source(none, none.copy(), none.astype(np.int16)))],
        images=[GpuImage(image, *phantom)], chips=[(0, 0, ())],
        tensors={"memory": Tensor("memory", "u8", (1, len(image)), "output", address=0, pitch=len(image))})


def lane_offset(k: builder.Kernel, shift: int = 2) -> builder.Reg:
    """A register with lane << shift."""
    r = k.reg("offset")
    k.S2R(r, "LANEID")
    k.SHL(r, r, shift)
    return r
