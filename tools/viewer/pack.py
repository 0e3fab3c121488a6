"""Events as few bytes, in a form that a browser unpacks in milliseconds.

Events are sorted by unit and start; columns that grow inside a unit are kept as differences, signed numbers are
folded (0, -1, 1, -2 -> 0, 1, 2, 3), and each column is cut into as many planes of bytes as its largest value needs: a
byte that says how many, the lowest bytes of all values, their next ones, and so on. All columns go through one zlib
stream. assets/codec.js is the other half.
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

# Columns of the page, in the order of their bytes: name, whether kept as differences inside a unit.
LAYOUT = (("start", True), ("duration", False), ("kind", False), ("reason", False), ("launch", True),
          ("instruction", True), ("actor", True), ("wait", False), ("bytes", False))  # fmt: skip


def folded(values: np.ndarray) -> np.ndarray:
    """Signed 64-bit numbers as unsigned ones, small ones staying small: 0, -1, 1, -2 -> 0, 1, 2, 3."""
    return ((values << 1) ^ (values >> 63)).astype(np.uint64)


def planes(values: np.ndarray) -> bytes:
    """Unsigned numbers below 2 ** 32 as planes, their count first. ValueError for a larger one."""
    most = int(values.max()) if len(values) else 0
    size = (most.bit_length() + 7) // 8
    if size > 4:
        raise ValueError(f"a value of {most} does not fit 32 bits")
    low = values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size]
    return bytes([size]) + np.ascontiguousarray(low.T).tobytes()


def packed_events(recording: Recording) -> bytes:
    """The events of a recording: counts by unit, then the columns of LAYOUT, deflated.

    Raises ValueError for a window of more than CYCLES_MAX cycles.
    """
    trace = recording.trace
    first, end = trace.window
    if end - first > CYCLES_MAX:
        raise ValueError(f"{recording.label}: a window of {end - first} cycles is too long to show; "
                         f"record at most {CYCLES_MAX}")
    order = np.argsort(trace.unit, kind="stable")  # a trace is in order of time
    unit = trace.unit[order]
    counts = np.bincount(unit, minlength=len(trace.units))
    heads = np.flatnonzero(np.diff(unit, prepend=-1))
    parts = [planes(counts)]
    for name, differences in LAYOUT:
        if name == "start":
            values = trace.start[order] - first
        elif name == "duration":
            values = trace.end[order] - trace.start[order]
        else:
            values = getattr(trace, name)[order].astype(np.int64)
        if differences:
            steps = np.diff(values, prepend=0)
            steps[heads] = values[heads]  # every unit begins anew
            values = steps
        parts.append(planes(folded(values)))
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
