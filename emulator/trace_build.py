"""From what engines record to a Trace: sections of events, the twins' notes, columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from emulator.host_memory import zeros
from emulator.trace import COLUMNS, KINDS, Trace, TraceError, Window, in_order
from emulator.trace_layout import (
    CAPACITY,
    END,
    FIRST,
    HEADER,
    LAST,
    LOST,
    MASK,
    RECORD,
    RETURN_AT,
    START,
    USED,
    WHAT,
)

FOREVER = 1 << 60


def with_section(state: np.ndarray, records: int, reserve: int) -> np.ndarray:
    """A longer copy of an engine's array, with a section behind what was there."""
    longer = zeros(len(state) + HEADER + records * RECORD, np.int64)
    longer[: len(state)] = state
    longer[len(state) + CAPACITY], longer[len(state) + RETURN_AT] = records, records - reserve
    return longer


def open_section(words: np.ndarray, window: Window, origin: int) -> None:
    """Make a section ready for a window of a step that begins at the engine's cycle `origin`."""
    words[USED] = words[LOST] = 0
    words[FIRST] = origin + window.first
    words[LAST] = FOREVER if window.end is None else origin + window.end
    words[MASK] = window.mask()


def taken(words: np.ndarray) -> np.ndarray:
    """The records of a section, int64 [n, RECORD], where they stand: the section counts as empty afterwards. Raises
    TraceError when some were lost."""
    if words[LOST]:
        raise TraceError(f"{words[LOST]} events of the trace were lost: a cycle of this chip has more than there is "
                         "room for; record fewer kinds")
    used = int(words[USED])
    words[USED] = 0
    return words[HEADER : HEADER + used * RECORD].reshape(-1, RECORD)


def recorded_cycles(window: Window, cycles: int) -> tuple[int, int]:
    """The cycles of a step that a window covers. Raises TraceError when it begins after the step's end."""
    if window.first >= cycles > 0:
        raise TraceError(f"the window begins at cycle {window.first:,}, but the step ends after {cycles:,} cycles")
    return max(0, window.first), cycles if window.end is None else min(cycles, window.end)


class Notes:
    """Events noted by Python code, with the rules of `record`: the twins, and what happens between launches."""

    def __init__(self, window: Window, origin: int = 0) -> None:
        self.mask, self.first = window.mask(), origin + window.first
        self.last = FOREVER if window.end is None else origin + window.end
        self.rows: list[tuple[int, ...]] = []

    def record(self, kind: int, unit: int, start: int, end: int, instruction: int = -1, actor: int = -1,
               reason: int = 0, size: int = 0) -> None:
        """One event; see emulator.trace_record.record."""
        if self.mask >> kind & 1 and start < self.last and end > self.first:
            self.rows.append((start, end, unit << 16 | kind << 8 | reason, instruction, actor, size))

    def take_out(self) -> np.ndarray:
        """What was noted, int64 [n, RECORD]."""
        rows, self.rows = self.rows, []
        return np.array(rows, dtype=np.int64).reshape(-1, RECORD)


def wanted(records: np.ndarray, window: Window, origin: int = 0) -> np.ndarray:
    """Those of some records that a window asks for, made otherwise than by `record`."""
    last = FOREVER if window.end is None else origin + window.end
    kept = (window.mask() >> (records[:, WHAT] >> 8 & 255) & 1).astype(bool)
    return records[kept & (records[:, START] < last) & (records[:, END] > origin + window.first)]


def event_columns(records: np.ndarray, *, origin: int = 0, units: int = 0, instructions: int = 0,
                  launch: int = -1) -> dict[str, np.ndarray]:
    """Records as columns of a trace. origin: cycle of the step's start; units, instructions: number of the first one in
    the trace's tables; launch: the one that they belong to, -1 none."""
    from emulator.trace_record import unpack  # imports Numba

    columns = {name: np.empty(len(records), dtype=dtype) for name, dtype in COLUMNS.items()}
    unpack(np.ascontiguousarray(records).reshape(-1), origin, units, instructions, launch, *columns.values())
    return columns


class Joined(Mapping[str, np.ndarray]):
    """Columns of several parts, put together when they are asked for. The next column of the same type takes the place
    of the last one: with millions of events fresh memory costs more than copies."""

    def __init__(self, parts: list[dict[str, np.ndarray]]) -> None:
        self.parts = parts
        self.count = sum(len(part["start"]) for part in parts)
        self.room = {dtype: np.empty(self.count, dtype) for dtype in set(COLUMNS.values())}

    def __getitem__(self, name: str) -> np.ndarray:
        room = self.room[COLUMNS[name]]
        return np.concatenate([part[name] for part in self.parts], out=room) if self.count else room

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Columns of several parts as one sorted whole, in the dtypes of a trace."""
    return in_order(Joined(parts))


def recorded(window: Window, dialect: str) -> list[str]:
    """Names of the kinds that a window records on a machine."""
    mask = window.mask()
    return [kind.name for number, kind in enumerate(KINDS) if dialect in kind.dialects and mask >> number & 1]


def make(columns: dict[str, np.ndarray], **rest: Any) -> Trace:
    """A checked Trace of sorted columns. Raises TraceError."""
    facts: dict[str, Any] = {**columns, **rest}
    trace = Trace(**facts)
    trace.check()
    return trace
