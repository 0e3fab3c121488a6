"""Compiled code puts text and numbers into a block of bytes with these."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from isa.jit import inlined, njit


@dataclass(frozen=True)
class Texts:
    """Many byte strings one after another: number i is data[starts[i]:starts[i + 1]]."""

    data: np.ndarray  # uint8
    starts: np.ndarray  # int64 [n + 1]

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> Texts:
        """Texts in their order."""
        parts = list(texts)
        starts = np.zeros(len(parts) + 1, dtype=np.int64)
        np.cumsum([len(part) for part in parts], out=starts[1:])
        return cls(np.frombuffer(b"".join(parts) or b"\0", dtype=np.uint8), starts)

    @property
    def longest(self) -> int:
        """Bytes of the longest one."""
        return int(np.diff(self.starts).max(initial=0))


@njit
def put_text(block, at, data, starts, which):
    """Text number `which`; gives the place after it."""
    for i in range(starts[which], starts[which + 1]):
        block[at] = data[i]
        at += 1
    return at


@inlined
def put_byte(block, at, value):
    """One byte; gives the place after it."""
    block[at] = value
    return at + 1


@njit
def put_decimal(block, at, value):
    """A number >= 0 in decimal digits."""
    digits, rest = 1, value
    while rest >= 10:
        rest //= 10
        digits += 1
    for i in range(digits - 1, -1, -1):
        block[at + i] = 48 + value % 10
        value //= 10
    return at + digits


@njit
def put_varint(block, at, value):
    """A number >= 0 as Protocol Buffers write it: seven bits a byte, lowest first."""
    while value >= 128:
        block[at] = 128 | (value & 127)
        value >>= 7
        at += 1
    block[at] = value
    return at + 1


@njit
def varint_size(value):
    """Bytes that put_varint takes."""
    size = 1
    while value >= 128:
        value >>= 7
        size += 1
    return size
