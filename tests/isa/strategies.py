"""Hypothesis strategies: raw field values that are in range, for every row of both dialects."""

from hypothesis import strategies as st

from isa import validate
from isa.opcodes import ALU_BASE, COMPARISONS, NO_STREAM, OPS, SPECIALS, UNIFORM, URZ, WIDTHS, Kind

ROWS = [(dialect, op) for dialect in ("lpu", "gpu") for op in OPS
        if (op.lpu if dialect == "lpu" else op.gpu) is not None]


def field_values(op, field):
    """Raw values that a field of a row may hold (labels stay small)."""
    if (op.name, field.name) in validate.ALLOWED:
        return st.sampled_from(validate.ALLOWED[op.name, field.name])
    if field.kind is Kind.TYPE:
        return st.sampled_from(op.types)
    if field.kind is Kind.INT:
        return st.integers(-(1 << (field.bits - 1)), (1 << (field.bits - 1)) - 1)
    highest = {Kind.CMP: len(COMPARISONS) - 1, Kind.WIDTH: len(WIDTHS) - 1, Kind.SPECIAL: len(SPECIALS) - 1,
               Kind.VSRC: ALU_BASE + 15, Kind.VDST: NO_STREAM, Kind.RU: UNIFORM + URZ, Kind.TARGET: 0, Kind.MAP: 0}
    low = 1 if (op.name, field.name) in (("NOP", "n"), ("REPEAT", "n"), ("REPEAT", "d")) else 0
    if field.name == "param":
        return st.just(0)
    return st.integers(low, highest.get(field.kind, (1 << field.bits) - 1))


def instruction(rows=ROWS):
    """(dialect, row, raw values) of any instruction."""
    return st.sampled_from(rows).flatmap(lambda row: st.tuples(
        st.just(row[0]), st.just(row[1]), st.tuples(*(field_values(row[1], f) for f in row[1].fields(row[0])))))
