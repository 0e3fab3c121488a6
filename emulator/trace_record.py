"""How engines record events: one helper that writes into a section of the engine's own int64 array.

The section begins with a header and goes on with records of RECORD words. Its place is a scalar of the array: 0 is
off. When little room is left the engine returns to Python, which takes the records out and enters it again
(emulator/trace_build.py).
"""

from __future__ import annotations

from emulator.trace_layout import (
    ACTOR,
    BYTES,
    CAPACITY,
    END,
    FIRST,
    HEADER,
    INSTRUCTION,
    LAST,
    LOST,
    MASK,
    RECORD,
    RETURN_AT,
    START,
    USED,
    WAIT_AT,
    WHAT,
)
from isa.jit import njit


@njit
def record(A, at, kind, unit, start, end, instruction, actor, reason, size):
    """Write an event into the section at `at` of A, if its kind is wanted and it overlaps the window."""
    if A[at + MASK] >> kind & 1 == 0 or start >= A[at + LAST] or end <= A[at + FIRST]:
        return
    used = A[at + USED]
    if used >= A[at + CAPACITY]:
        A[at + LOST] += 1
        return
    A[at + USED] = used + 1
    e = at + HEADER + used * RECORD
    A[e + START], A[e + END], A[e + WHAT] = start, end, unit << 16 | kind << 8 | reason
    A[e + INSTRUCTION], A[e + ACTOR], A[e + BYTES] = instruction, actor, size


@njit
def full(A, at):
    """Whether an engine that records should return to Python now."""
    return A[at + USED] >= A[at + RETURN_AT]


@njit
def unpack(R, origin, units, instructions, launch_number, start, end, unit, kind, reason, launch, instruction, actor,
           wait, size):
    """Records as columns of a trace: `origin` is taken off their times; units and instructions are added."""
    for i in range(len(start)):
        r = i * RECORD
        what = R[r + WHAT]
        start[i], end[i] = R[r + START] - origin, R[r + END] - origin
        unit[i] = (what >> 16) + units
        kind[i], reason[i] = what >> 8 & 255, what & 255
        launch[i] = launch_number
        instruction[i] = R[r + INSTRUCTION] + instructions if R[r + INSTRUCTION] >= 0 else -1
        actor[i] = R[r + ACTOR]
        wait[i] = R[r + BYTES] >> WAIT_AT
        size[i] = R[r + BYTES] & (1 << WAIT_AT) - 1
