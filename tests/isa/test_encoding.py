"""Encoding: round trips of every row, the vectorised decoder, and what does not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.encoding import CODE, FIELD0, GUARD, decode, decode_words, encode
from isa.opcodes import BY_NAME, OPS, Kind
from isa.operands import READERS, SUFFIXES, WRITERS
from tests.isa.strategies import ROWS, instruction


def test_codes_and_names_are_unique_and_rows_fit_a_word():
    assert len({op.code for op in OPS}) == len({op.name for op in OPS}) == len(OPS)
    for dialect, op in ROWS:
        assert 0 <= op.code < 256
        assert (8 if dialect == "lpu" else 12) + sum(f.bits for f in op.fields(dialect)) <= 64, op.name


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_a_row_is_complete(op):
    """Whatever adds an instruction must give it a meaning in words, a unit, and operands that can be written."""
    assert op.doc and op.unit and (op.lpu is not None or op.gpu is not None)
    for fields in (op.lpu, op.gpu):
        for field in fields or ():
            assert field.kind in SUFFIXES or field.kind is Kind.BITS32 or (
                field.kind in READERS and field.kind in WRITERS)
        kinds = [field.kind in SUFFIXES for field in fields or ()]
        assert kinds == sorted(kinds, reverse=True), "types, comparisons and widths come first"
        names = [field.name for field in fields or ()]
        assert len(set(names)) == len(names)


@settings(max_examples=300, deadline=None)
@given(instruction(), st.integers(0, 15))
def test_decoding_gives_back_what_was_encoded(given_instruction, guard):
    dialect, op, values = given_instruction
    guard = guard if dialect == "gpu" else 7
    word = encode(dialect, op, values, guard)
    assert 0 <= word < 1 << 64
    assert decode(dialect, word) == (op, guard, list(values))
    table = decode_words(dialect, np.array([word, word], dtype=np.uint64))
    assert table.dtype == np.int64
    assert list(table[1, [CODE, GUARD]]) == [op.code, guard]
    assert list(table[1, FIELD0:FIELD0 + len(values)]) == list(values)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"READ: a = 8192 does not fit 13 bits \(0 to 8191\)"):
        encode("lpu", BY_NAME["READ"], [8192, 0])
    with pytest.raises(ValueError, match="READ takes 2 operands, got 1"):
        encode("lpu", BY_NAME["READ"], [0])
    with pytest.raises(KeyError, match="MMA is not an instruction of the lpu dialect"):
        encode("lpu", BY_NAME["MMA"], [0, 0, 0, 0, 0])
    with pytest.raises(ValueError, match="no gpu instruction has opcode 0x08"):
        decode("gpu", BY_NAME["READ"].code)
    with pytest.raises(ValueError, match="no lpu instruction has opcode 0xff"):
        decode_words("lpu", np.array([0xFF], dtype=np.uint64))
    with pytest.raises(ValueError, match="SYNC: bits above the last field are set"):
        decode("lpu", BY_NAME["SYNC"].code | 1 << 20)
