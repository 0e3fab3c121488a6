"""64-bit words <-> operand fields, both ways from the opcode table.

`encode` and `decode` work on one instruction; `decode_words` turns a whole text into the flat
integer table that the engines read.
"""

from __future__ import annotations

import numpy as np

from isa.opcodes import BY_CODE, OPS, Field, Kind, Op

GUARD_BITS = 4
ALWAYS = 7  # guard: predicate PT, not negated
_SIGNED = (Kind.INT,)

# Columns of the decoded table: opcode, guard, then the operand fields in row order.
CODE, GUARD, FIELD0 = 0, 1, 2
COLUMNS = FIELD0 + max(len(f) for op in OPS for f in (op.lpu, op.gpu) if f is not None)


def field_base(dialect: str) -> int:
    """First bit after the opcode (and the guard, on the GPU)."""
    return 8 if dialect == "lpu" else 8 + GUARD_BITS


def _check(op: Op, field: Field, value: int) -> int:
    low, high = (-(1 << (field.bits - 1)), (1 << (field.bits - 1)) - 1) if field.kind in _SIGNED else (
        0, (1 << field.bits) - 1)
    if not low <= value <= high:
        raise ValueError(f"{op.name}: {field.name} = {value} does not fit {field.bits} bits ({low} to {high})")
    return value & ((1 << field.bits) - 1)


def encode(dialect: str, op: Op, values: tuple[int, ...] | list[int], guard: int = ALWAYS) -> int:
    """The 64-bit word of one instruction. `values` are raw field values in row order.

    Raises ValueError when a value does not fit its field.
    """
    fields = op.fields(dialect)
    if len(fields) != len(values):
        raise ValueError(f"{op.name} takes {len(fields)} operands, got {len(values)}")
    word = op.code
    if dialect == "gpu":
        word |= guard << 8
    at = field_base(dialect)
    for field, value in zip(fields, values, strict=True):
        word |= _check(op, field, int(value)) << at
        at += field.bits
    return word


def decode(dialect: str, word: int) -> tuple[Op, int, list[int]]:
    """(row, guard, raw field values) of one word. Raises ValueError for an unknown opcode."""
    word = int(word)
    op = BY_CODE.get(word & 0xFF)
    if op is None or (op.lpu if dialect == "lpu" else op.gpu) is None:
        raise ValueError(f"no {dialect} instruction has opcode 0x{word & 0xFF:02x}")
    guard = (word >> 8) & 0xF if dialect == "gpu" else ALWAYS
    at, values = field_base(dialect), []
    for field in op.fields(dialect):
        value = (word >> at) & ((1 << field.bits) - 1)
        if field.kind in _SIGNED and value >> (field.bits - 1):
            value -= 1 << field.bits
        values.append(value)
        at += field.bits
    if word >> at:
        raise ValueError(f"{op.name}: bits above the last field are set")
    return op, guard, values


def decode_words(dialect: str, words: np.ndarray) -> np.ndarray:
    """Table [n, COLUMNS] int64 of a text: opcode, guard, fields in row order, zero-padded.

    Raises ValueError for an unknown opcode. Vectorised: one pass per opcode that occurs.
    """
    words = np.asarray(words, dtype=np.uint64)
    table = np.zeros((len(words), COLUMNS), dtype=np.int64)
    codes = (words & np.uint64(0xFF)).astype(np.int64)
    table[:, CODE] = codes
    table[:, GUARD] = ALWAYS if dialect == "lpu" else ((words >> np.uint64(8)) & np.uint64(0xF)).astype(np.int64)
    for number in np.unique(codes):
        op = BY_CODE.get(int(number))
        if op is None or (op.lpu if dialect == "lpu" else op.gpu) is None:
            raise ValueError(f"no {dialect} instruction has opcode 0x{int(number):02x}")
        rows = np.flatnonzero(codes == number)
        at = field_base(dialect)
        for column, field in enumerate(op.fields(dialect), start=FIELD0):
            value = ((words[rows] >> np.uint64(at)) & np.uint64((1 << field.bits) - 1)).astype(np.int64)
            if field.kind in _SIGNED:
                value = np.where(value >> (field.bits - 1), value - (1 << field.bits), value)
            table[rows, column] = value
            at += field.bits
    return table
