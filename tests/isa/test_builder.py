"""The kernel builder: words, registers, labels, errors and its listing."""

from __future__ import annotations

import numpy as np
import pytest

from isa.assembler import Target, assemble
from isa.builder import UZERO, BuilderError, Kernel, immediate_bits
from isa.disassembler import instruction_text


def scale_kernel() -> Kernel:
    k = Kernel("scale", parameters=("x", "y"))
    x, y = k.parameter("x"), k.parameter("y")
    offset, value, few = k.reg("offset"), k.reg("value"), k.pred("few")
    count = k.ureg("count")
    k.UMOVI(count, 4)
    k.S2R(offset, "LANEID")
    k.SETP("LT", "s32", few, offset, count)
    k.SHL(offset, offset, 2)
    k.comment("one element a lane")
    loop = k.label("again")
    k.LDG(32, value, offset, x, 0)
    k.MULI("f32", value, value, -0.5)
    k.STG(32, offset, y, 8, value, guard=~few)
    k.UADDI(count, count, -1)
    k.UBR("GT", count, UZERO, loop)
    k.EXIT()
    return k


def test_words_are_the_instructions_that_were_written() -> None:
    assert [instruction_text("gpu", int(word)) for word in scale_kernel().words()] == [
        "LDP UR0, 0", "LDP UR1, 1", "UMOVI UR2, 4", "S2R R0, LANEID", "SETP.LT.s32 P0, R0, UR2", "SHL R0, R0, 2",
        "LDG.32 R1, [R0 + UR0]", "MULI.f32 R1, R1, -0.5", "@!P0 STG.32 [R0 + UR1 + 8], R1", "UADDI UR2, UR2, -1",
        "UBR.GT UR2, URZ, L6", "EXIT",
    ]  # fmt: skip


def test_the_listing_is_assembly_of_the_same_words() -> None:
    k = scale_kernel()
    lines, line_of = k.listing()
    program = assemble(".chip any\n" + "\n".join(lines) + "\n", lambda name: Target("gpu", name, ""))
    assert np.array_equal(program.texts[0].words, k.words())
    assert program.texts[0].kernels[0].parameters == ("x", "y")
    assert lines[line_of[6]].split()[0] == "LDG.32"
    assert lines[line_of[6] - 2:line_of[6]] == ["        ; one element a lane", "again:"]


def test_groups_of_registers_are_aligned_and_given_back() -> None:
    k = Kernel("k")
    one, four, two = k.reg("one"), k.reg("four", 4), k.reg("two", 2)
    assert (one.index, four.index, two.index) == (0, 4, 2)
    assert (four[3].index, four.part(2, 2).index) == (7, 6)
    k.free(four)
    with k.scratch():
        assert k.reg("again", 4).index == 4
    assert k.reg("and again").index == 1
    assert k.registers == 8


def test_too_many_registers_are_refused_by_name() -> None:
    k = Kernel("k")
    k.reg("most", 252)
    with pytest.raises(BuilderError, match="kernel k: no 4 free vector registers for rest"):
        k.reg("rest", 4)


@pytest.mark.parametrize(("write", "message"), [
    (lambda k: k.BRA("nowhere"), "no label nowhere"),
    (lambda k: k.SHL(k.reg("r"), k.ureg("u"), 2), "is not a vector register"),
    (lambda k: k.SHL(k.reg("r"), k.reg("s"), 32), "does not fit 5 bits"),
    (lambda k: k.LDG(32, k.reg("r"), k.reg("s"), k.ureg("u"), 40000), "does not fit 16 bits"),
    (lambda k: k.SHL(k.reg("r"), 2), "SHL takes"),
    (lambda k: (k.label("here"), k.label("here")), "defined twice"),
])
def test_bad_operands_are_refused(write: object, message: str) -> None:
    k = Kernel("k")
    with pytest.raises(ValueError, match=message):
        write(k)  # type: ignore[operator]
        k.words()


def test_only_gpu_instructions_are_methods() -> None:
    with pytest.raises(AttributeError, match="GATHER is not an instruction of the gpu dialect"):
        _ = Kernel("k").GATHER


def test_immediates() -> None:
    assert immediate_bits(1.0, True) == 0x3F800000
    assert immediate_bits(-1, False) == 0xFFFFFFFF
    with pytest.raises(ValueError, match="does not fit 32 bits"):
        immediate_bits(1 << 32, False)
