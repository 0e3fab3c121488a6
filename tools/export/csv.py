"""A trace as a CSV table: one row an event, everything in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from emulator.trace import KINDS, Trace, layer_of
from isa.jit import njit
from tools.export.output import BLOCK_BYTES, packed_file
from tools.export.pieces import Texts, put_byte, put_decimal, put_text

HEADER = ("chip,chip_row,unit,unit_class,start,end,kind,reason,launch,layer,node,kernel,opcode,asm,line,actor,wait,"
          "bytes\n")  # fmt: skip
NUMBERS_BYTES = 160  # what the numbers and commas of a row take at most
COMMA, NEWLINE, MINUS, ONE = 44, 10, 45, 49


def export(traces: Sequence[Trace], path: Path) -> int:
    """Write every event of the traces, one after another; gives the number of rows. Raises OSError.

    launch and actor are -1 and layer, line empty where there is none; reason is empty where it is "busy".
    """
    with packed_file(path) as file:
        file.write(HEADER.encode())
        for trace in traces:
            texts = _texts(trace)
            row_bytes = NUMBERS_BYTES + sum(text.longest for text in texts)
            block = np.empty(max(BLOCK_BYTES, 2 * row_bytes), dtype=np.uint8)
            flat = [part for text in texts for part in (text.data, text.starts)]
            columns = [column.astype(np.int64) for column in trace.columns().values()]
            at = 0
            while at < len(trace):
                at, used = _rows(block, row_bytes, at, *columns, *flat)
                file.write(block[:used].data)
    return sum(map(len, traces))


def cell(text: str) -> bytes:
    """A text as a CSV cell: in quotes where it holds a comma, a quote or a line's end."""
    if any(c in text for c in ',"\r\n'):
        text = '"' + text.replace('"', '""') + '"'
    return text.encode("utf-8", "replace")


def _joined(rows: Iterable[Sequence[str]]) -> Texts:
    return Texts.of(b",".join(map(cell, row)) for row in rows)


def _texts(trace: Trace) -> tuple[Texts, ...]:
    """Units, kinds, reasons, nodes of launches, nodes of instructions, instructions: each the cells it fills."""
    table, launches, units = trace.instructions, trace.launches, trace.units

    def place(node: str, kernel: str) -> tuple[str, str, str]:
        return str(layer_of(node)) if layer_of(node) >= 0 else "", node, kernel

    return (
        _joined((trace.chip, str(row), name, word)
                for name, row, word in zip(units.name, units.chip, units.unit_class)),
        _joined([[kind.name] for kind in KINDS]),
        _joined([[""], *([reason.name] for reason in trace.reasons[1:])]),
        _joined(place(node, kernel) for node, kernel in zip(launches.node, launches.kernel)),
        # the last entry of the next two: no instruction
        _joined([*(place(node, kernel) for node, kernel in zip(table.node, table.kernel)), ("", "", "")]),
        _joined([*((opcode, asm, str(line or "")) for opcode, asm, line in zip(table.opcode, table.asm, table.line)),
                 ("", "", "")]),
    )  # fmt: skip


@njit
def _number(block, at, value):
    """A comma and a number that may be -1."""
    block[at] = COMMA
    if value < 0:
        block[at + 1], block[at + 2] = MINUS, ONE
        return at + 3
    return put_decimal(block, at + 1, value)


@njit
def _text(block, at, data, starts, which):
    """A comma and a text."""
    block[at] = COMMA
    return put_text(block, at + 1, data, starts, which)


@njit
def _rows(block, row_bytes, i, start, end, unit, kind, reason, launch, instruction, actor, wait, carried, unit_data,
          unit_starts, kind_data, kind_starts, reason_data, reason_starts, launch_data, launch_starts, place_data,
          place_starts, asm_data, asm_starts):
    """Rows from number i on until the block is full: (next row, bytes used)."""
    at = 0
    none = len(asm_starts) - 2
    while i < len(start) and at + row_bytes <= len(block):
        at = put_text(block, at, unit_data, unit_starts, unit[i])
        at = _number(block, _number(block, at, start[i]), end[i])
        at = _text(block, at, kind_data, kind_starts, kind[i])
        at = _text(block, at, reason_data, reason_starts, reason[i])
        at = _number(block, at, launch[i])
        which = instruction[i] if instruction[i] >= 0 else none
        if launch[i] >= 0:
            at = _text(block, at, launch_data, launch_starts, launch[i])
        else:
            at = _text(block, at, place_data, place_starts, which)
        at = _text(block, at, asm_data, asm_starts, which)
        at = _number(block, _number(block, _number(block, at, actor[i]), wait[i]), carried[i])
        at = put_byte(block, at, NEWLINE)
        i += 1
    return i, at
