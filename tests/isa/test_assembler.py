"""The assembler: what each construct means, and what it says about mistakes."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa import expressions, formats, operands
from isa.assembler import AssemblyError, assemble, assemble_file
from isa.disassembler import disassemble, instruction_text
from isa.encoding import decode
from isa.lexer import Line
from isa.opcodes import F32
from tests.isa.programs import target
from tests.isa.strategies import instruction

GEOMETRY = target("groq_tsp_v1").geometry


def lpu(text, chip="groq_tsp_v1"):
    return assemble(f".chip {chip}\n{text}", target)


def gpu(text):
    return assemble(f".chip toy_gpu\n{text}", target)


def queue(program, name, names=GEOMETRY.queue_names):
    """Instructions of one queue as text."""
    text, q = program.texts[0], names.index(name)
    return [instruction_text("lpu", int(w)) for w in text.words[text.starts[q]:text.starts[q + 1]]]


def kernel(program, index=0):
    text = program.texts[0]
    k = text.kernels[index]
    return [instruction_text("gpu", int(w)) for w in text.words[k.first:k.first + k.count]]


# -- operands ---------------------------------------------------------------------------------
@given(instruction())
def test_every_instruction_reads_back_as_it_was_written(given_instruction):
    dialect, op, values = given_instruction
    text = operands.write_instruction(op, dialect, list(values))
    line = Line("f", 1, text)
    scope = operands.Scope(constants={"L0": 0})
    suffixes = operands.read_suffixes(line, op, dialect, line.next())
    got = operands.read_operands(line, op, dialect, scope, suffixes)
    line.finish()
    bits = values[-1] if values and op.fields(dialect)[-1].name == "imm" else None
    if bits is not None and suffixes.get("type") == F32 and (bits & 0x7FFFFFFF) > 0x7F800000 and bits != 0x7FC00000:
        assert f"0x{bits:08x}" in text  # an odd NaN is written as its bits
    assert got == list(values)


@pytest.mark.parametrize("text,bits", [
    ("1", 0x3F800000), ("-0.5", 0xBF000000), ("1e-3", 0x3A83126F), ("0x3f800000", 0x3F800000), ("inf", 0x7F800000),
    ("-inf", 0xFF800000), ("nan", 0x7FC00000), ("T", 0x41200000), ("1e60", 0x7F800000)])
def test_float_immediates(text, bits):
    program = gpu(f".const T = 10\n.kernel k()\nMOVI.f32 R0, {text}\n")
    assert decode("gpu", int(program.texts[0].words[0]))[2] == [F32, 0, bits]


def test_addresses_in_any_order():
    lines = kernel(gpu(".kernel k(x)\n.reg at, v[4]\nLDG.128 v, [4 + at + x - 2*2]\nSTG.32 [R1 + UR3 + 0x10], v[3]\n"
                       "LDS.32 v, [at]\nLDGSTS [at + 16], [x + at - 8]\nULDG.64 UR5, [x + 8]\nLDG.32 v, [x]\n"))
    assert lines[1:-1] == ["LDG.128 R4, [R0 + UR0]", "STG.32 [R1 + UR3 + 16], R7", "LDS.32 R4, [R0]",
                           "LDGSTS [R0 + 16], [R0 + UR0 - 8]", "ULDG.64 UR5, [UR0 + 8]", "LDG.32 R4, [UR0]"]


# -- the LPU ----------------------------------------------------------------------------------
def test_the_gemv_of_the_manual_issues_where_hand_calculation_says():
    program = lpu("""
.data   W s8  [320,320] random 1 @E20:E35
.data   x s8  [1,320]   random 2 @E16
.data   y s32 [1,320]            @E8:E11
W:        READ  S0.E              arrive 12 MXM2 x20
MXM2.LW:  LW.s8 S0.E, 16, 0       at 12 x20
x:        READ  S16.E             arrive 32 MXM2
MXM2.LW:  IW.s8                   at 32
MXM2.ABC: ABC.s8 S16.E            at 32
MXM2.ACC: ACC   S0.W              at 72
y:        WRITE S0.W              leave 72 MXM2
.expect   y (W @ x)""")
    # E20 lies in column 1 + 20 // 4 = 6, the MXM in column 18: 12 hops, so it is issued at 0; E35 in column 9 at 3.
    assert queue(program, "MEM.E20") == ["READ 0, S0.E", "REPEAT 19, 1, 1"]
    assert queue(program, "MEM.E35") == ["NOP 3", "READ 0, S15.E", "REPEAT 19, 1, 1"]
    assert queue(program, "MEM.E16") == ["NOP 19", "READ 0, S16.E"]  # column 5: 32 - 13
    # LW at 12, repeated until 31; IW at 32 is 19 cycles after the queue is free at 13.
    assert queue(program, "MXM2.LW") == ["NOP 12", "LW.s8 S0.E, 16, 0", "REPEAT 19, 1, 16", "NOP 19", "IW.s8"]
    # E8 is in column 3, 15 columns from 18: the result passes at 72 + 15.
    assert queue(program, "MEM.E8") == ["NOP 87", "WRITE 0, S0.W"]
    assert queue(program, "MEM.E11") == ["NOP 87", "WRITE 0, S3.W"]


def test_arrive_knows_delays_and_result_columns():
    program = lpu("""
.map turn ((l + 1) % 320)
VXM0: MUL.f32 S0.E, S4.W, S8.W       arrive 40 MXM2       ; 7 cycles, appears at +1, 17 hops: issued at 16
VXM1: ADD.f32 S4.W, A0, A0           arrive 40            ; chained: 3, appears at -1, west MXM at -18: 40 - 3 - 17
SXM.E.PERMUTE0: PERMUTE 1, S0.E, S0.W, turn   arrive 60 VXM   ; 4 + 19, from 16 to 0
SXM.E.SHIFT0: SHIFT 4, S4.E, S4.W, -17        arrive 60 E43   ; 4 + ceil(17/16), from 16 to 11
E0: GATHER 5, S0.E, S4.W             arrive 30 SXM.E      ; 1 + 15
E4: WRITE 7, S0.W                    leave 30 MXM2        ; 16 hops
E5: WRITE 7, S0.E                    leave 30 VXM         ; appears at +1 in cycle 30, E5 in column 2
""")
    assert queue(program, "VXM0")[0] == "NOP 16"
    assert queue(program, "VXM1")[0] == "NOP 20"
    assert queue(program, "SXM.E.PERMUTE0")[0] == "NOP 21"
    assert queue(program, "SXM.E.SHIFT0")[0] == f"NOP {60 - (4 + 2) - 5}"
    assert queue(program, "MEM.E0")[0] == "NOP 14"
    assert queue(program, "MEM.E4")[0] == "NOP 46"
    assert queue(program, "MEM.E5")[0] == "NOP 31"
    assert list(program.texts[0].maps[0][[0, 319]]) == [1, 0]
    assert list(lpu(".map m [3, -1]").texts[0].maps[0][[0, 1, 318, 319]]) == [3, 65535, 3, 65535]


def test_data_lies_where_the_manual_says():
    program = lpu("""
.data a f32 [3,400] (r * 1000 + c) @E4:E11+100
.data b s8  [2,16] [1]             @W2,E0
.data e f32 [2,1]  [2.5, -1]       @E0:E3 replicated
.data z s8  [1,16]                 @W2
.phantom p f16 [1,16]              @E40:E41+5""")
    a = program.tensors["a"]
    slices, words = a.words // 8192, a.words % 8192
    # 400 columns are two vectors of 320 lanes; 8 slices are two groups of four; E4 is slice 44 + 4.
    assert a.words.shape == (3, 2, 4)
    assert slices[0].tolist() == [[48, 49, 50, 51], [52, 53, 54, 55]] and slices[2].tolist() == slices[0].tolist()
    assert [words[r, 0, 0] for r in range(3)] == [100, 101, 102]
    image = program.images[0]
    memory = {int(w): row for w, row in zip(image.words, image.data, strict=True)}
    value = b"".join(bytes([memory[int(w)][5]]) for w in a.words[2, 1])
    assert struct.unpack("<f", value)[0] == 2000 + 320 + 5
    assert (program.tensors["b"].words // 8192).reshape(-1).tolist() == [2, 44]
    assert (program.tensors["b"].words % 8192).reshape(-1).tolist() == [0, 0]
    e = program.tensors["e"]
    assert e.replicated and e.shape == (2, 320) and (e.words[:, 0, 0] % 8192).tolist() == [1, 2]  # E0: word 0 is b's
    assert all(memory[int(e.words[1, 0, b])][319] == byte for b, byte in enumerate(struct.pack("<f", -1.0)))
    assert image.zero_words.tolist() == [2 * 8192 + 1]
    assert image.phantom_words.tolist() == [84 * 8192 + 5, 85 * 8192 + 5]
    assert program.tensors["p"].phantom and program.tensors["z"].role == "output"


def test_queues_without_times_are_taken_word_for_word():
    program = lpu(".queue VXM3\nNOP 3\nNOP 4\nADD.f32 S0.E, S0.E, S4.E x3 every 2\nNOP 65535\nSYNC\n")
    assert queue(program, "VXM3") == [
        "NOP 3", "NOP 4", "ADD.f32 S0.E, S0.E, S4.E", "REPEAT 2, 2, 0", "NOP 65535", "SYNC"]
    assert program.texts[0].source.line.tolist() == [2, 3, 4, 4, 5, 6]


def test_source_lines_of_timed_instructions():
    program = lpu("MEM.E0: READ 3, S0.E at 9\n\nMEM.E0: READ 4, S0.E at 2\n")
    source = program.texts[0].source
    assert source.line.tolist() == [3, 3, 1, 1]  # NOP 2, READ 4, NOP 6, READ 3
    assert source.lines[3] == "MEM.E0: READ 4, S0.E at 2"


# -- the GPU ----------------------------------------------------------------------------------
def test_a_kernel_with_parameters_labels_and_guards():
    program = gpu("""
.data x f32 [2,40] 1.5
.phantom w f16 [10,10]
.data y f32 [1,40]
.kernel k(a, x)
.reg v, t[4], acc = 0.25, n = -3
.ureg i = 0, end = 10
.pred p
again: S2R v, LANEID
@!p    ADD.f32 t[2], v, end
       SETP.GE.s32 p, v, t
       UBR.LT i, end, again
.kernel two()
.registers 40
EXIT
.launch k 2 64 1024 (2*3, x)
.launch two 1 32 0 ()
.launch k 2 64 1024 (-1, y+4) after 0 two node "head"
.launch two 1 32 0 () after none""")
    assert kernel(program) == [
        "LDP UR0, 0", "LDP UR1, 1", "MOVI.f32 R8, 0.25", "MOVI.s32 R9, -3", "UMOVI UR2, 0", "UMOVI UR3, 10",
        "S2R R0, LANEID", "@!P0 ADD.f32 R6, R0, UR3", "SETP.GE.s32 P0, R0, R4", "UBR.LT UR2, UR3, L6", "EXIT"]
    text = program.texts[0]
    assert [(k.name, k.registers, k.parameters) for k in text.kernels] == [("k", 10, ("a", "x")), ("two", 40, ())]
    # x: 2 x 160 bytes -> y at 512; phantom w behind all real data, at 768.
    assert (program.tensors["y"].address, program.tensors["w"].address) == (512, 768)
    assert (program.images[0].phantom_base, program.images[0].phantom_bytes) == (768, 256)
    assert [launch.arguments for launch in text.launches] == [(6, 0), (), (-1, 516), ()]
    assert [launch.after for launch in text.launches] == [(), (0,), (0, 1), ()]
    assert text.launches[2].node == "head"
    assert program.images[0].data[:320].view(np.float32).tolist() == [1.5] * 80


def test_registers_count_wide_operands():
    assert gpu(".kernel k()\nLDG.128 R8, [UR0]\n").texts[0].kernels[0].registers == 12
    assert gpu(".kernel k()\nMMA.f16 R0, R4, R20, RZ\n").texts[0].kernels[0].registers == 22


# -- data and expectations --------------------------------------------------------------------
def test_random_numbers_are_splitmix64():
    # Reference: seed 1234567 gives 6457827717110365317, 3203168211198807973 (Vigna's splitmix64.c).
    from isa.literals import random_uniform

    assert (random_uniform(1234567, 2) * 2**53).astype(np.uint64).tolist() == [
        6457827717110365317 >> 11, 3203168211198807973 >> 11]
    values = gpu(".data x s8 [1,1000] random 3 -5 5").images[0].data[:1000].view(np.int8)
    assert values.min() == -5 and values.max() == 5
    data = gpu(".data x f32 [1,1000] random 3").images[0].data.view(np.float32)[:1000]
    assert -1 <= data.min() < -0.9 and 0.9 < data.max() < 1


def test_files_and_what_lies_outside_the_folder(tmp_path):
    np.save(tmp_path / "w.npy", np.arange(6, dtype=np.int64).reshape(2, 3))
    (tmp_path / "sub").mkdir()
    source = tmp_path / "sub" / "f.s"
    (tmp_path / "sub" / "w.npy").write_bytes((tmp_path / "w.npy").read_bytes())
    source.write_text('.chip toy_gpu\n.data w f32 [2,3] "w.npy"\n.expect w "w.npy" 0\n')
    program = assemble_file(source, target)
    assert program.images[0].data[:24].view(np.float32).tolist() == [0, 1, 2, 3, 4, 5]
    assert program.expectations[0].values == [0, 1, 2, 3, 4, 5]
    for name in ("../w.npy", str(tmp_path / "w.npy")):
        source.write_text(f'.chip toy_gpu\n.data w f32 [2,3] "{name}"\n')
        with pytest.raises(AssemblyError, match="must lie beside or below the assembly file"):
            assemble_file(source, target)
    (tmp_path / "sub" / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(tmp_path / "sub" / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("bad.npy", "object.npy"):
        source.write_text(f'.chip toy_gpu\n.data w f32 [1,1] "{name}"\n')
        with pytest.raises(AssemblyError, match="is not a NumPy .npy file of numbers"):
            assemble_file(source, target)


def test_expectations_are_evaluated_in_float64():
    program = gpu("""
.data x f32 [1,4] [1, 2, 3, 4]
.data w f32 [2,4] (r + c)
.data y f32 [1,2]
.expect y (w @ x) 0.5
.expect y [20, 30]
.expect x (exp(x) / sum(exp(x))) 10
.expect w [0, 1, 2, 3] 1
.expect cycles 77""")
    x, w = np.array([[1.0, 2, 3, 4]]), np.array([[0.0, 1, 2, 3], [1, 2, 3, 4]])
    data = {"x": x, "w": w, "y": np.zeros((1, 2))}

    def failures(y, cycles=77):
        after = data | {"y": np.array([y])}
        return [expressions.failure(e, data, after, cycles) for e in program.expectations]

    assert failures([20.0, 30.0]) == [None] * 5  # 0+2+6+12 = 20, 1+4+9+16 = 30
    bad = failures([20.6, 30.0], 78)
    assert bad[0] == "y[0]: expected 20, got 20.6 (tolerance 0.5; 1 of 2 differ)"
    assert bad[4] == "cycles: expected 77, got 78"
    with pytest.raises(expressions.ExpressionError, match="there is no data q"):
        expressions.failure(replace(program.expectations[0], values="q + 1"), data, data, 0)


@pytest.mark.parametrize("text", ["__import__('os')", "x.T", "[1]", "x if 1 else 2", "lambda: 1", "x[0]", "1 << 3",
                                  "sum(1, 2)", "'a'", "2 ** 100", "f'{x}'", "x" * 2000, "(" * 300 + ")" * 300])
def test_expressions_are_only_arithmetic(text):
    with pytest.raises(expressions.ExpressionError):
        expressions.parse(text)


# -- mistakes ---------------------------------------------------------------------------------
MISTAKES = [
    ("lpu", "MEM.E0: REED 0, S0.E at 1", "2:9: unknown instruction REED; did you mean READ?"),
    ("lpu", "MEM.X9: READ 0, S0.E at 1", "2:1: unknown queue MEM.X9; did you mean MEM."),
    ("lpu", "READ 0, S0.E at 1", "2:1: an instruction needs its queue before it"),
    ("lpu", "MEM.E0: READ 0, S32.E at 1", r"2:17: expected a stream \(S0.E to S31.W\) instead of 'S32.E'"),
    ("lpu", "MEM.E0: READ 8192, S0.E at 1", "2:14: READ: a = 8192 is not in 0 to 8191"),
    ("lpu", "MEM.E0: READ 1", "2:15: READ also needs s"),
    ("lpu", "MEM.E0: READ 1, S0.E, 4", r"2:21: ',' is not expected here"),
    ("lpu", "MEM.E0: ADD.f32 S0.E, S0.E, S0.E at 1", "2:9: ADD is not an instruction of queue MEM.E0"),
    ("lpu", "VXM1: EXP2.f32 S0.E, S0.E at 1", r"2:7: EXP2 needs a large ALU \(0, 2, 5, 7, 8, 10, 13, 15\); VXM1 is a"),
    ("lpu", "VXM0: MUL S0.E, S0.E, S0.E at 1", "2:7: MUL is written MUL.<type>"),
    ("lpu", "VXM0: MUL.f16 S0.E, S0.E, S0.E at 1", "2:7: MUL has no type f16; it can be f32, s32"),
    ("lpu", "VXM0: MUL.f32 A16, S0.E, S0.E at 1", "2:15: expected a stream"),
    ("lpu", "VXM0: MUL.f32 S0.E, A16, S0.E at 1", "2:21: there is no ALU A16; they are A0 to A15"),
    ("lpu", "MXM2.LW: LW.s8 S0.E, 17, 0 at 1", "2:22: LW: rows is one of 1, 2, 3"),
    ("lpu", "MEM.E0: READ 0, S0.W arrive 5 MXM2", "2:31: S0 moves west, from column 1 it never reaches column 18"),
    ("lpu", "MEM.E0: READ 0, S0.E arrive 5 MXM2", "2:22: this would have to be issued 12 cycles before cycle 0"),
    ("lpu", "MEM.E0: READ 0, S0.E arrive 5 MXN2", r"2:31: unknown unit MXN2; did you mean MXM2\?"),
    ("lpu", "MEM.E0: WRITE 0, S0.E arrive 5 MXM2", "2:23: WRITE puts nothing on a stream; use at or leave"),
    ("lpu", "MEM.E0: READ 0, S0.E leave 5 MXM2", "2:22: READ takes nothing from a stream; use at or arrive"),
    ("lpu", "MEM.E0: READ 0, S0.E at 5 x0", "2:27: x0: an instruction is issued 1 to 65536 times"),
    ("lpu", "MEM.E0: READ 0, S0.E at 5\nMEM.E0: WRITE 0, S0.E at 5",
     "3:1: queue MEM.E0 is not free in cycle 5: line 2 issues there"),
    ("lpu", "MEM.E0: READ 0, S0.E at 5\nMEM.E0: WRITE 0, S0.E", "3:18: this queue's instructions have times"),
    ("lpu", "MEM.E0: READ 0, S0.E\nMEM.E0: READ 0, S0.E at 5", "3:22: earlier instructions of this queue have no time"),
    ("lpu", "SXM.E.PERMUTE0: PERMUTE 1, S0.E, S0.E, turn at 1", "2:40: unknown map turn"),
    ("lpu", ".map m [1, 2, 3]", "2:8: 3 entries do not make a map of 320 lanes"),
    ("lpu", ".map m (l + 1)", "2:8: a map holds lanes 0 to 319, or -1 for zero"),
    ("lpu", ".data x f32 [1,4] 0 @E0:E2", "2:21: f32 needs a multiple of 4 slices, one a byte, not 3"),
    ("lpu", ".data x s8 [1,4] 0 @E44", r"2:21: expected a MEM slice \(W0 to W43, E0 to E43\), not E44"),
    ("lpu", ".data x s8 [1,4] 0", "2:19: expected '@' instead of the end of the line"),
    ("lpu", ".data x s8 [9000,4] 0 @E0", "2:23: x takes words 0 to 8999 of its slices; a slice has 8192"),
    ("lpu", ".data x s8 [1,4] 0 @E0+7\n.data y s8 [2,4] 0 @E0+6", "3:20: y overlaps x in slice E0"),
    ("lpu", ".data x s8 [1,4] 0 @E0\nx: ACC S0.E at 1", "3:4: ACC is not an instruction of queue MEM.E0"),
    ("lpu", ".data x s8 [1,4] 0 @E0:E3\nx: READ S30.E at 1", "3:.*slice 2 of the data would use a stream beyond S31"),
    ("lpu", ".data x s8 [1,4] 0 @E0:E4\nMEM.W0: WRITE 0, S0.W leave 5 x", "3:31: x lies in 2 columns; name one slice"),
    ("gpu", "ADD.f32 R0, R0, R0", "2:1: this belongs into a kernel; begin one with .kernel NAME"),
    ("gpu", ".kernel k()\nADD.f32 R0, R0, Q", "3:17: unknown register Q"),
    ("gpu", ".kernel k()\n.reg acc\nADD.f32 R0, R0, ac", "4:17: unknown register ac; did you mean acc?"),
    ("gpu", ".kernel k()\nADD.f32 R0, R255, R0", "3:13: there is no register R255; the last is R254"),
    ("gpu", ".kernel k()\nADD.f32 R0, UR0, R0", "3:13: UR0 is a uniform register; expected a vector register"),
    ("gpu", ".kernel k()\n.reg a[2]\nMOV a[2], R0", "4:7: a has 2 registers, no number 2"),
    ("gpu", ".kernel k()\nBRA lop\nloop: EXIT", "3:5: unknown label lop; did you mean loop?"),
    ("gpu", ".kernel k()\na: a: EXIT", "3:4: label a is defined twice"),
    ("gpu", ".kernel k()\n.kernel k()", "3:9: kernel k is defined twice"),
    ("gpu", ".kernel k()\nLDG.12 R0, [UR0]", "3:1: LDG has no width 12; it can be 8, 16, 32, 64, 128"),
    ("gpu", ".kernel k()\nLDG.32 R0, [UR0 + UR1]", "3:19: this address takes only one uniform register"),
    ("gpu", ".kernel k()\nLDS.32 R0, [UR0]", "3:13: this address takes no uniform register"),
    ("gpu", ".kernel k()\nLDG.32 R0, [R1 + 40000]", "3:12: offset 40000 is not in -32768 to 32767"),
    ("gpu", ".kernel k()\nLDG.32 R0, [R1", "3:15: expected . or . instead of the end of the line"),
    ("gpu", ".kernel k()\nLDG.128 R253, [R1]", "3:1: LDG takes 4 registers from R253; the last is R254"),
    ("gpu", ".kernel k()\nS2R R0, LANE", "3:9: unknown special register LANE; did you mean LANEID?"),
    ("gpu", ".kernel k(a)\nLDP UR0, b", "3:10: unknown name b"),
    ("gpu", ".kernel k(a)\n.launch k 1 32 0 ()", r"3:18: k takes 1 arguments \(a\), not 0"),
    ("gpu", ".kernel k()\n.launch q 1 32 0 ()", "3:9: unknown kernel q"),
    ("gpu", ".kernel k()\n.launch k 1 33 0 ()", "3:11: 33 threads: a CTA has 32 to 1024, a multiple of 32"),
    ("gpu", ".kernel k()\n.launch k 1 32 0 () after 0", "3:27: launch 0 is not an earlier one; there are 0"),
    ("gpu", ".kernel k(a)\n.launch k 1 32 0 (dat)", "3:19: unknown data dat"),
    ("gpu", ".kernel k()\nMOVI.s32 R0, 4294967296", "3:14: 4294967296 does not fit 32 bits"),
    ("gpu", ".kernel k()\nMOVI.s32 R0, 1.5", "3:14: 1.5 is not a whole number"),
    ("gpu", ".kernel k()\nSHL R0, R0, 32", "3:13: SHL: n = 32 is not in 0 to 31"),
    ("gpu", ".dta x f32 [1,4]", "2:1: unknown directive .dta; did you mean .data?"),
    ("gpu", ".data x f33 [1,4]", "2:9: unknown number format f33; did you mean f32?"),
    ("gpu", ".data x f32 [0,4]", "2:13: shape .0,4. must be positive"),
    ("gpu", ".data x f32 [1,4] [1, 2]", "2:19: 2 values do not fill .1,4."),
    ("gpu", ".data x f32 [1,4] (q + 1)", "2:19: .q . 1.: there is no data q"),
    ("gpu", ".data x f32 [1,4]\n.data x f32 [1,4]", "3:7: x is defined twice"),
    ("gpu", '.data x f32 [1,4] "x.npy"', "2:19: .x.npy.: text that is not in a file cannot name files"),
    ("gpu", ".expect y [1] 0", "2:9: unknown data y"),
    ("gpu", ".data y f32 [1,1]\n.expect y (W @ y)", "3:11: there is no data W"),
    ("gpu", ".data y f32 [1,1]\n.expect y 3", "3:11: expected values"),
    ("gpu", '.data y f32 [1,1] "abc', "2:19: this string does not end"),
    ("gpu", ".data y f32 [1,1] ?", "2:19: '\\?' has no meaning here"),
    ("gpu", ".chip toy_gpu", "2:7: a program has one .chip"),
    ("gpu", ".data y f32 [1,1] random 1e400", "2:26: the seed is a whole number from 0 on"),
    ("gpu", ".kernel k()\n.registers 256", "3:12: a kernel has 1 to 255 registers, not 256"),
    ("gpu", ".kernel k(a)\n.data x f32 [1,1]\n.launch k 1 32 0 (x+9223372036854775807)", "4:19: 9.* does not fit 64"),
    ("lpu", "VXM0: NOP 1 at 4294967297", "2:13: cycle 4294967297 is too far away; the last is 4294967296"),
    ("gpu", ".meta [1]", "2:7: .meta takes a JSON object"),
]


@pytest.mark.parametrize("dialect,text,message", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_pointed_at(dialect, text, message):
    with pytest.raises(AssemblyError, match=f"^<text>:{message}") as caught:
        (lpu if dialect == "lpu" else gpu)(text)
    lines = str(caught.value).split("\n")
    assert len(lines) == 3 and lines[1].endswith(caught.value.args[0].split("\n")[1][8:])
    assert lines[2].index("^") - 8 == caught.value.column - 1


def test_a_program_names_its_chip():
    with pytest.raises(AssemblyError, match="1:1: a program begins with .chip NAME"):
        assemble("MEM.E0: READ 0, S0.E\n", target)
    with pytest.raises(AssemblyError, match="a program begins with .chip NAME"):
        assemble("; nothing\n", target)
    with pytest.raises(AssemblyError, match="1:7: unknown chip toy_gpv; did you mean toy_gpu?"):
        assemble(".chip toy_gpv\n", target)
    with pytest.raises(AssemblyError, match="2:7: toy_gpu is not a chip of the lpu dialect"):
        assemble(".dialect lpu\n.chip toy_gpu\n", target)


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "f.s").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AssemblyError, match="the file is not UTF-8 text"):
        assemble_file(tmp_path / "f.s", target)


def test_disassembling_an_lpu_program_needs_its_queue_names():
    with pytest.raises(ValueError, match="needs the names of its chip's queues"):
        disassemble(lpu("VXM0: NOP 1"))


def test_formats_of_data():
    data = gpu(".data x bf16 [1,3] [1, 2.5, 1e60]").images[0].data[:6].view(np.uint16)
    assert data.tolist() == formats.encode(np.array([1, 2.5, np.inf]), "bf16").tolist()


PIECES = ('0 1 - + * , : [ ] ( ) @ x y S0.E S31.W at arrive leave x20 every MXM2 VXM E0 R0 UR0 P0 99999999999 1e400 0x '
          '.5 " "a" random READ LW.s8 LDG.32 replicated after none node . ; f32 \\ { é =').split(" ")
TEXTS = ["""\
.chip toy_lpu
.const T = 3
.data x f32 [2,16] random 1 @E0:E3
.data y s8 [1,16] (c + 1) @W0+7
.phantom p f16 [1,16] @W4:W5
.map m (l + 1 - 2 * (l % 2))
x: READ S0.E arrive T+20 MXM2 x2 every 4 step 1
MXM2.LW: LW.s8 S0.E, 16, 0 at 12
VXM0: ADDI.f32 S0.E, A1, 1.5 at 40
.queue SXM.E.PERMUTE0
PERMUTE 1, S0.E, S0.W, m at 60
y: WRITE S0.W leave 72 MXM2
.expect x [0.5] 1
.expect y (x + 1) 1
.expect cycles 3
""", """\
.dialect gpu
.chip toy_gpu
.data x f32 [2,16] [1, 2]
.phantom w s8 [4,4]
.kernel k(a, b)
.reg v, t[4], s = 0.5
.ureg i = 3
.pred p
loop: LDG.128 t, [a + v + 16]
@!p ADD.f32 t[1], s, v
SETP.LT.f32 p, v, s
UBR.LT i, a, loop
S2R v, LANEID
.launch k 1 32 0 (x, x+4) after none node "q"
.place 0 0 (1, 2)
.meta {"a": 1}
"""]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(TEXTS), st.data())
def test_a_garbled_text_is_an_assembly_error_and_nothing_else(text, data):
    lines = text.split("\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        words = lines[at].split(" ")
        word = data.draw(st.integers(0, len(words) - 1))
        piece = data.draw(st.sampled_from(PIECES))
        words[word:word + data.draw(st.integers(0, 1))] = [piece] if data.draw(st.booleans()) else []
        lines[at] = " ".join(words)
    try:
        assemble("\n".join(lines), target)
    except AssemblyError as error:
        assert error.file == "<text>" and 1 <= error.line <= len(lines) and error.column >= 1


def test_several_chips():
    """Texts, places, data on chips, ports by number and role; arrive and leave know the link column."""
    program = assemble(""".chip groq_tsp_v1
.system groq_production
.data x s8 [1,320] @E0
.data y s8 [1,320] @E1 chips (1, 2)
.data n s32 [1,1] 3 @W0:W3 replicated chips (0, 1, 2)
x: READ S0.E arrive 20 C2C.E
C2C.E0: SEND 3, S0.E leave 20 SXM.E
.text
C2C.E4: RECV 9, S0.W arrive 300 E0
y: WRITE S0.W leave 290 C2C.E
.place 0 0 (5, 0, 2, -1)
.place 1 0 (6)
.place 1 0 (7, 30)
""", target)
    assert queue(program, "C2C.E0") == ["NOP 20", "SEND 3, S0.E"]
    assert queue(program, "MEM.E0") == ["NOP 5", "READ 0, S0.E"]  # column 1 to 16
    text = program.texts[1]
    first = text.starts[GEOMETRY.queue("C2C.E4")]
    assert [instruction_text("lpu", int(w)) for w in text.words[first:first + 2]] == ["NOP 285", "RECV 9, S0.W"]
    assert program.chips == [(0, 0, (5, 0, 2, -1)), (1, 0, (6,)), (1, 0, (7, 30))]
    assert program.meta == {"system": "groq_production"}
    assert [program.tensors[name].chips for name in "xyn"] == [(0,), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("line, message", [
    ("C2C.E0: SEND 0, S0.E at 1", "SEND: port is one of 1, 2, "), ("C2C.E0: SEND 16, S0.E at 1", "not in 0 to 15"),
    ("E0: RECV 1, S0.E at 1", "RECV is not an instruction of queue MEM.E0"),
    ("C2C.E0: READ 1, S0.E at 1", "READ is not an instruction of queue C2C.E0"),
    ("C2C.E0: RECV 1, S0.W leave 9 SXM.E", "RECV takes nothing from a stream; use at or arrive"),
    ("C2C.E0: SEND 1, S0.E arrive 9", "SEND puts nothing on a stream; use at or leave"),
    (".data y s8 [1,320] @E1 chips (1)", r"tensor y lies on chips \[1\]; there are 1"),
    (".system 3", "expected the name of a system")])
def test_errors_about_several_chips(line, message):
    with pytest.raises(AssemblyError, match=message):
        assemble(f".chip groq_tsp_v1\n{line}\n", target)


def test_the_complete_program_of_the_manual_assembles():
    manual = (Path(__file__).resolve().parents[2] / "docs" / "assembly.md").read_text(encoding="utf-8")
    block = next(part for part in manual.split("```") if part.startswith("\n.chip   groq_tsp_v1\n"))
    program = assemble(block, target)
    assert len(block.strip().split("\n")) <= 12
    assert queue(program, "MXM2.ACC") == ["NOP 72", "ACC S0.W"]
