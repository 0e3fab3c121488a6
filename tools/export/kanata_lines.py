"""The lines of a Kanata file in the order of time: compiled code."""

from __future__ import annotations

import numpy as np

from isa.jit import njit
from tools.export.pieces import put_byte, put_decimal, put_text

ROW, LABEL, STAGE, STAGE_END, RETIRE, ARROW, CYCLES = (ord(letter) for letter in "ILSERWC")
TAB, NEWLINE, SPACE, ZERO, ONE = 9, 10, 32, 48, 49


@njit
def _command(block, at, letter, row):
    """A line's command and the row that it is about, with the TAB after it."""
    block[at] = letter
    block[at + 1] = TAB
    at = put_decimal(block, at + 2, row)
    block[at] = TAB
    return at + 1


@njit
def _label(block, at, row, kind):
    """The beginning of a label line."""
    at = _command(block, at, LABEL, row)
    block[at] = ZERO + kind
    block[at + 1] = TAB
    return at + 2


@njit
def _plain(block, at, text):
    """Bytes of a constant."""
    for letter in text:
        block[at] = letter
        at += 1
    return at


_CYCLE = np.frombuffer(b"issued in cycle ", dtype=np.uint8)
_AFTER = np.frombuffer(b" after ", dtype=np.uint8)
_CYCLES_OF = np.frombuffer(b" cycles of ", dtype=np.uint8)


@njit
def _stage(block, at, letter, row, lane, data, starts, which):
    """A stage begins (S) or ends (E)."""
    at = _command(block, at, letter, row)
    block[at] = ZERO + lane
    block[at + 1] = TAB
    at = put_text(block, at + 2, data, starts, which)
    return put_byte(block, at, NEWLINE)


@njit
def _open(block, at, row, unit, actor, start, wait, reason, instruction, launch, unit_data, unit_starts, asm_data,
          asm_starts, place_data, place_starts, launch_data, launch_starts, reason_data, reason_starts, letter):
    """A row with its labels."""
    at = put_decimal(block, _command(block, at, ROW, row), row)
    at = put_decimal(block, put_byte(block, at, TAB), unit)
    at = put_byte(block, at, NEWLINE)
    at = put_text(block, _label(block, at, row, 0), unit_data, unit_starts, unit)
    if actor >= 0:
        block[at], block[at + 1] = SPACE, letter
        at = put_decimal(block, at + 2, actor)
    at = put_byte(block, put_byte(block, at, 58), SPACE)
    at = put_text(block, at, asm_data, asm_starts, instruction)
    at = _label(block, put_byte(block, at, NEWLINE), row, 1)
    at = put_decimal(block, _plain(block, at, _CYCLE), start)
    if wait > 0:
        at = put_decimal(block, _plain(block, at, _AFTER), wait)
        at = put_text(block, _plain(block, at, _CYCLES_OF), reason_data, reason_starts, reason)
    at = put_text(block, at, place_data, place_starts, instruction)
    at = put_text(block, at, launch_data, launch_starts, launch)
    return put_byte(block, at, NEWLINE)


@njit
def fill(block, row_bytes, places, first, begin, start, end, begins, ends, unit, instruction, launch, actor, wait,
         reason, producer, letter, unit_data, unit_starts, asm_data, asm_starts, place_data, place_starts, launch_data,
         launch_starts, reason_data, reason_starts, stage_data, stage_starts):
    """Lines into the block until it is full or all are out; gives the bytes used.

    letter: what stands before an actor's number. places: int64 [5], rows opened, waits begun, rows issued, rows
    retired, and the cycle of the last line; call again until nothing comes. Of one cycle, rows open before waits
    begin, then rows issue, then rows retire.
    """
    opened, begun, issued, retired, now = places[0], places[1], places[2], places[3], places[4]
    far = np.int64(2**62)
    used = 0
    n = len(first)
    while used + row_bytes <= len(block) and retired < n:
        while begun < n and wait[begins[begun]] == 0:
            begun += 1
        t_open = first[opened] if opened < n else far
        t_begin = begin[begins[begun]] if begun < n else far
        t_issue = start[issued] if issued < n else far
        t_retire = end[ends[retired]]
        t = min(min(t_open, t_begin), min(t_issue, t_retire))
        if t > now:
            block[used] = CYCLES
            used = put_decimal(block, put_byte(block, used + 1, TAB), t - now)
            used = put_byte(block, used, NEWLINE)
            now = t
        if t_open == t:
            i = opened
            used = _open(block, used, i, unit[i], actor[i], start[i], wait[i], reason[i], instruction[i], launch[i],
                         unit_data, unit_starts, asm_data, asm_starts, place_data, place_starts, launch_data,
                         launch_starts, reason_data, reason_starts, letter)
            opened += 1
        elif t_begin == t:
            i = begins[begun]
            used = _stage(block, used, STAGE, i, 1, reason_data, reason_starts, reason[i])
            begun += 1
        elif t_issue == t:
            i = issued
            if wait[i] > 0:
                used = _stage(block, used, STAGE_END, i, 1, reason_data, reason_starts, reason[i])
            used = _stage(block, used, STAGE, i, 0, stage_data, stage_starts, instruction[i])
            if producer[i] >= 0:
                used = put_decimal(block, _command(block, used, ARROW, i), producer[i])
                block[used], block[used + 1], block[used + 2] = TAB, ZERO, NEWLINE
                used += 3
            issued += 1
        else:
            i = ends[retired]
            used = put_decimal(block, _command(block, used, RETIRE, i), i)
            block[used], block[used + 1], block[used + 2] = TAB, ZERO, NEWLINE
            used += 3
            retired += 1
    places[0], places[1], places[2], places[3], places[4] = opened, begun, issued, retired, now
    return used
