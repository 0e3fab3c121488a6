"""Events as few bytes, in a form that a browser unpacks in milliseconds.

Events are sorted by unit and start; columns that grow inside a unit are kept as differences, signed numbers are
folded (0, -1, 1, -2 -> 0, 1, 2, 3), 32-bit columns are cut into four planes of bytes, and all planes go through one
zlib stream. assets/codec.js is the other half.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import numpy as np

from tools.viewer.recording import Recording

LEVEL = 6  # zlib's; higher ones take several times as long for a few per cent
CYCLES_MAX = 2**31 - 1  # the page holds cycles since the window's start in 32 bits

# Columns of the page, in the order of their bytes: name, bytes of a value, kept as differences inside a unit.
LAYOUT = (("start", 4, True), ("duration", 4, False), ("kind", 1, False), ("reason", 1, False),
          ("launch", 4, True), ("instruction", 4, True), ("actor", 4, True), ("wait", 4, False),
          ("bytes", 4, False))  # fmt: skip


def folded(values: np.ndarray) -> np.ndarray:
    """Signed 64-bit numbers as unsigned ones, small ones staying small: 0, -1, 1, -2 -> 0, 1, 2, 3."""
    return ((values << 1) ^ (values >> 63)).astype(np.uint64)


def planes(values: np.ndarray, size: int) -> bytes:
    """Unsigned numbers as `size` planes: all lowest bytes, then all next ones. ValueError if one does not fit."""
    if len(values) and int(values.max()) >= 1 << (8 * size):
        raise ValueError(f"a value of {int(values.max())} does not fit {size} bytes")
    low = values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size]
    return np.ascontiguousarray(low.T).tobytes()


def packed_events(recording: Recording) -> bytes:
    """The events of a recording: counts by unit, then the columns of LAYOUT, deflated.

    Raises ValueError for a window of more than CYCLES_MAX cycles.
    """
    trace = recording.trace
    first, end = trace.window
    if end - first > CYCLES_MAX:
        raise ValueError(f"{recording.label}: a window of {end - first} cycles is too long to show; "
                         f"record at most {CYCLES_MAX}")
    events = {name: values.astype(np.int64) for name, values in trace.columns().items()}
    order = np.lexsort((events["start"], events["unit"]))
    unit = events["unit"][order]
    counts = np.bincount(unit, minlength=len(trace.units))
    columns = {name: events[name][order] for name in ("kind", "reason", "launch", "instruction", "actor", "wait",
                                                      "bytes")}  # fmt: skip
    columns["start"] = events["start"][order] - first
    columns["duration"] = events["end"][order] - events["start"][order]
    heads = np.flatnonzero(np.diff(unit, prepend=-1))
    parts = [planes(counts, 4)]
    for name, size, differences in LAYOUT:
        values = columns[name]
        if differences:
            steps = np.diff(values, prepend=0)
            steps[heads] = values[heads]  # every unit begins anew
            values = steps
        parts.append(planes(folded(values) if size > 1 else values, size))
    return zlib.compress(b"".join(parts), LEVEL)


def packed_json(value: Any) -> bytes:
    """Tables of text, deflated."""
    return zlib.compress(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(), LEVEL)


def in_base64(data: bytes) -> str:
    """Bytes as text that no HTML parser stumbles over."""
    return base64.b64encode(data).decode("ascii")


def script_json(value: Any) -> str:
    """JSON that may stand inside a <script> element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
