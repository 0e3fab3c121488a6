"""The layout of a section of recorded events in an engine's own int64 array; see emulator/trace_record.py."""

from __future__ import annotations

USED, CAPACITY, RETURN_AT, FIRST, LAST, MASK, LOST, HEADER = range(8)
# WHAT: unit << 16 | kind << 8 | reason
START, END, WHAT, INSTRUCTION, ACTOR, BYTES, RECORD = range(7)
