"""Arrays of the engines that begin where a cache line of the host does."""

from __future__ import annotations

from typing import Any

import numpy as np

LINE = 64  # bytes of a cache line of today's processors


def zeros(words: int, dtype: Any) -> np.ndarray:
    """A zeroed one-dimensional array that begins at a cache line: a record of a line's size then lies in one.

    Pages that nobody writes to cost nothing.
    """
    size = words * np.dtype(dtype).itemsize
    room = np.zeros(size + LINE, dtype=np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(dtype)
