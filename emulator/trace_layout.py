"""The layout of a section of recorded events in an engine's own int64 array; see emulator/trace_record.py."""

from __future__ import annotations

USED, CAPACITY, RETURN_AT, FIRST, LAST, MASK, LOST, HEADER = range(8)
WAIT_AT = 32  # an issue on the GPU has its wait above the bytes that it moves
# WHAT: unit << 16 | kind << 8 | reason
START, END, WHAT, INSTRUCTION, ACTOR, BYTES, RECORD = range(7)
