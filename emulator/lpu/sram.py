"""The SRAM of one LPU: payload, and which superlanes of a word hold a value."""

from __future__ import annotations

import numpy as np

from emulator.lpu.geometry import LANES_PER_SUPERLANE, Geometry
from isa.program import LpuImage


class Sram:
    """data: uint8 [words, lanes]; flags: int64 [words], bit k = superlane k was written,
    bit 32 + k = superlane k is poison (a value that timing mode does not know).

    np.zeros takes memory from the system only where it is touched, so a phantom word costs its flags.
    """

    def __init__(self, g: Geometry) -> None:
        self.data = np.zeros((g.words, g.lanes), dtype=np.uint8)
        self.flags = np.zeros(g.words, dtype=np.int64)
        self.full = (1 << g.superlanes) - 1

    def load(self, image: LpuImage) -> None:
        """Put a program's image in. Raises ValueError for words that the chip does not have."""
        for name in ("words", "zero_words", "phantom_words"):
            numbers = getattr(image, name)
            if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self.flags)):
                raise ValueError(f"the image's {name} go beyond the chip's {len(self.flags)} SRAM words")
        if len(image.words):
            if image.data.shape != (len(image.words), self.data.shape[1]):
                raise ValueError(f"the image holds {image.data.shape} bytes for {len(image.words)} words")
            self.data[image.words] = image.data
        self.flags[image.words] = self.full
        self.flags[image.zero_words] = self.full
        self.flags[image.phantom_words] = self.full | (self.full << 32)

    def store(self, words: np.ndarray, data: np.ndarray) -> None:
        """Host write: words int [n], data uint8 [n, lanes]."""
        self.data[words] = data
        self.flags[words] = self.full

    def state(self, words: np.ndarray) -> str:
        """"real", "poison" or "unwritten": the worst of some words."""
        flags = self.flags[words]
        if np.any((flags & self.full) != self.full):
            return "unwritten"
        return "poison" if np.any(flags >> 32) else "real"


def spread(mask: int, g: Geometry) -> np.ndarray:
    """bool [lanes] of a superlane mask."""
    return np.repeat((mask >> np.arange(g.superlanes)) & 1, LANES_PER_SUPERLANE).astype(bool)
