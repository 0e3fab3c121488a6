"""Every row of the opcode table runs on both engines of its machine, with the same result.

An instruction that is added to the table is picked up here by itself; what it needs beyond plain
operands goes into GPU_VALUES or LPU_TEXT.
"""

from __future__ import annotations

import itertools

import numpy as np

from emulator.assemble import assemble
from emulator.chip import load_chip
from emulator.gpu.machine import GpuMachine
from emulator.lpu.geometry import ICU_OPS, KIND_OPS, VXM, geometry
from emulator.lpu.machine import LpuMachine
from isa.opcodes import BY_NAME, COMPARISONS, OPS, SPECIALS, TYPE_BYTES, TYPES, UNIFORM, Field, Kind, Op
from isa.operands import write_instruction

GPU_ROWS = [op for op in OPS if op.gpu is not None]
LPU_ROWS = [op for op in OPS if op.lpu is not None]

# Registers of the GPU test: R1 = lane * 16, R2 = lane * 4, R8.. data, R32.. results; UR0 data, UR4, UR5 numbers.
GPU_VALUES: dict[str, list[int]] = {
    "dst": [32], "a": [8], "c": [16], "src": [8], "n": [1], "xor": [5], "lane": [3], "half": [0, 1],
    "imm": [0x40490FDB],
    "param": [0], "count": [1], "bar_offset": [8], "offset": [16], "dst_offset": [32], "base": [0],
    "transposed": [0, 1], "width": [2]}
MEMORY = [op.name for op in GPU_ROWS if any(f.name == "offset" for f in op.fields("gpu"))]


def gpu_values(op: Op, field: Field) -> list[int]:
    """Raw values of a field to try."""
    if field.kind is Kind.TYPE:
        return list(op.types)
    if field.kind is Kind.CMP:
        return list(range(len(COMPARISONS)))
    if field.kind is Kind.SPECIAL:
        return list(range(len(SPECIALS)))[op.name == "S2UR":]  # a uniform register has no lane number
    if field.kind is Kind.WIDTH:
        return [2, 3] if op.name == "ULDG" else [0, 1, 2, 3, 4]
    if field.kind is Kind.UREG:
        return {"dst": [10], "a": [0] if op.name in ("ULDG", "BULK") else [4], "b": [5], "base": [0], "bar": [6],
                "bytes": [7], "phase": [8], "shared": [9]}[field.name]
    if field.kind is Kind.PRED:
        return [1]
    if field.kind is Kind.RU:
        return [12] if op.unit == "tensor" else [12, UNIFORM + 4]
    if field.kind is Kind.TARGET:
        return [0]
    if op.name in MEMORY and (field.name == "a" or (op.name == "LDGSTS" and field.name == "dst")):
        return [1]
    if field.kind is Kind.INT and field.name == "imm":
        return [-5]
    return GPU_VALUES[field.name]


def gpu_text() -> tuple[str, set[str]]:
    """A kernel with every instruction in every type, each result stored; and the mnemonics in it."""
    lines = [".chip toy_gpu", ".data x f32 [1,1024] random 1 -3 3", ".data y s32 [600,32]", ".kernel k(x, y)",
             "UMOVI UR4, 1000", "UMOVI UR5, -7", "UMOVI UR7, 64",
             "UMOVI UR8, 0", "UMOVI UR9, 1536", "S2UR UR6, WARPID", "USHL UR6, UR6, 4", "UADDI UR6, UR6, 1984",
             "S2R R1, LANEID", "SHL R2, R1, 2", "SHL R1, R1, 4",
             "LDG.128 R8, [R1 + UR0]", "LDG.128 R12, [R1 + UR0 + 512]", "LDG.128 R16, [R1 + UR0 + 1024]",
             "STS.128 [R1], R8", "STS.128 [R1 + 32], R12", "BAR"]
    seen, label = set(), 0
    for op in GPU_ROWS:
        if op.name == "EXIT":
            continue
        fields = op.fields("gpu")
        for values in itertools.product(*(gpu_values(op, f) for f in fields)):
            seen.add(op.name)
            text = write_instruction(op, "gpu", list(values))
            if any(f.kind is Kind.TARGET for f in fields):
                label += 1
                lines += ["MOVI.s32 R32, 1", text.replace(" L0", f" N{label}").replace(", L0", f", N{label}"),
                          "MOVI.s32 R32, 2", f"N{label}:"]
            else:
                lines.append(text)
            dst = next((f for f in fields if f.name == "dst"), None)
            if dst is not None and dst.kind is Kind.UREG:
                lines.append("MOV R32, UR10")
            elif dst is not None and dst.kind is Kind.PRED:
                lines += ["MOVI.s32 R32, 0", "@P1 MOVI.s32 R32, 1", "@!P1 ADDI.s32 R32, R32, 5"]
            if op.name == "MBINIT":  # the first row of its kind; MBARRIVE, MBWAIT and BULK use the mbarrier
                lines.append("BULK UR9, [UR0 + 32], UR7, [UR6 + 8]")
            if op.name == "BULK":
                lines += ["UMOVI UR8, 1", "MBARRIVE [UR6 + 8], UR7", "MBWAIT [UR6 + 8], UR8", "BAR",
                          "LDS.32 R32, [R2 + 1536]"]
            if op.name == "LDGSTS":
                lines += ["CPCOMMIT", "CPWAIT 0", "BAR", "LDS.32 R32, [R1 + 32]"]
            wide = 4 if op.name == "MMA" or "128" in text else 1
            for register in range(32, 32 + wide):
                lines += [f"STG.32 [R2 + UR1], R{register}", "UADDI UR1, UR1, 128"]
    assert sum("STG.32 [R2 + UR1]" in line for line in lines) <= 600
    return "\n".join([*lines, "EXIT", ".launch k 1 64 2048 (x, y)", ""]), {*seen, "EXIT"}


def test_every_gpu_row_runs_alike_on_both_engines() -> None:
    text, seen = gpu_text()
    assert seen == {op.name for op in GPU_ROWS}
    program, chip = assemble(text), load_chip("toy_gpu")
    fast, naive = GpuMachine(program, chip), GpuMachine(program, chip, engine="naive")
    one, other = fast.step(), naive.step()
    y = fast.read("y")
    assert np.array_equal(y, naive.read("y"))
    assert len(np.unique(y)) > 1000, "the results are results"
    assert (one.cycles, one.traffic, one.accounting) == (other.cycles, other.traffic, other.accounting)


# -- the LPU ----------------------------------------------------------------------------------
LPU_TEXT = """
.data t s8 [16,320] random 4 @E16:E31
.data u s8 [16,320] @W0:W15
.data m s8 [1,320] (c % 2) @W20                       ; even lanes 0, odd lanes 1: the 16-bit value 256
.data h f16 [16,320] random 5 @E32:E39
.data g s8 [300,320] random 6 @E40
.data z s8 [1,320] 1 @W43
.data v s8 [1,320] @W33 chips (1)                     ; what the other chip sent
.map turn (319 - l)
.map twist [3, -1, 0, 5, 2, 2, 9, 15, 14, 13, 12, 11, 10, 8, 7, 6]
.queue C2C.W0
SYNC
.queue C2C.E0
NOP 3
NOTIFY
.queue MEM.W43
SYNC
READ 0, S31.W
REPEAT 2, 3, 0
"""


def lpu_text() -> tuple[str, set[str]]:
    """Every vector instruction in every type on ALU 0, its result written to its own row of y."""
    g = geometry(load_chip("groq_tsp_v1"))
    lines, seen, cycle, row = [], set(), 40, 0
    for op in LPU_ROWS:
        if op.name not in KIND_OPS[VXM]:
            continue
        seen.add(op.name)
        for types in itertools.product(*([op.types] if f.kind is Kind.TYPE else [(0,)] for f in op.fields("lpu")
                                         if f.kind is Kind.TYPE)):
            for kinds in itertools.product(*types):
                given = {"dst": 12, "a": 32, "b": 36, "c": 40, "imm": 0x40490FDB}
                values, pending = [], list(kinds)
                for f in op.fields("lpu"):
                    values.append(pending.pop(0) if f.kind is Kind.TYPE else given[f.name])
                lines += [f"{name}: READ S{first}.W arrive {cycle} VXM"
                          for name, first in (("a", 0), ("b", 4), ("c", 8)) if first == 0 or len(op.fields("lpu")) > 3]
                lines.append(f"VXM0: {write_instruction(op, 'lpu', values)} at {cycle}")
                size = TYPE_BYTES[kinds[0]]
                lines += [f"E{12 + i}: WRITE y+{row}, S{12 + i}.E leave {cycle + g.vxm_delay(op.name, False)} VXM"
                          for i in range(size)]
                cycle, row = cycle + 10, row + 1
    data = [f".data {name} f32 [1,320] random {seed} -3 3 @E{first}:E{first + 3}"
            for name, seed, first in (("a", 1, 0), ("b", 2, 4), ("c", 3, 8))]
    return "\n".join([".chip groq_tsp_v1", *data, f".data y f32 [{row},320] @E12:E15", *lines]), seen


SXM_AND_MXM = """
t: READ S0.E                       arrive 3000 SXM.E
SXM.E.TRANSPOSE0: TRANSPOSE S0.E, S0.W     at 3000
u: WRITE S0.W                      leave 3004 SXM.E
E16: READ t, S0.E                  arrive 3100 SXM.E
SXM.E.SHIFT0: SHIFT 1, S0.E, S1.W, 7       at 3100
SXM.E.DISTRIBUTE0: DISTRIBUTE 1, S0.E, S2.W, twist  at 3100
SXM.E.PERMUTE0: PERMUTE 1, S0.E, S3.W, turn         at 3100
W22: WRITE 1, S1.W                 leave 3104 SXM.E
W23: WRITE 1, S2.W                 leave 3102 SXM.E
W24: WRITE 1, S3.W                 leave 3123 SXM.E
m: READ S8.E                       arrive 3200 E40
E40: GATHER g, S0.W, S8.E          at 3200
W25: WRITE 1, S0.W                 leave 3201 E40
m: READ S8.E                       arrive 3300 E41
E16: READ t, S0.E                  arrive 3300 E41
E41: SCATTER 2, S0.E, S8.E         at 3300
E41: READ 258, S0.W                at 3310
W26: WRITE 1, S0.W                 leave 3310 E41
t: READ S0.E                       arrive 3400 MXM2
MXM2.LW: LW.s8 S0.E, 16, 0         at 3400
MXM2.LW: IW.s8                     at 3401
E17: READ t, S0.E                  arrive 3402 MXM2
MXM2.ABC: ABC.s8 S0.E              at 3402
MXM2.ACC: ACC S0.W                 at 3442
W28: WRITE 1, S0.W                 leave 3442 MXM2
h: READ S0.E                       arrive 3500 MXM2
MXM2.LW: LW.f16 S0.E, 4, 8         at 3500
MXM2.LW: IW.f16                    at 3501
E32: READ h+1, S0.E                arrive 3503 MXM2
E33: READ h+1, S1.E                arrive 3503 MXM2
MXM2.ABC: ABC.f16 S0.E             at 3503
MXM2.ACC: ACC S0.W                 at 3544
W29: WRITE 1, S0.W                 leave 3544 MXM2
W30: WRITE 1, S1.W                 leave 3544 MXM2
W31: WRITE 1, S2.W                 leave 3544 MXM2
W32: WRITE 1, S3.W                 leave 3544 MXM2
E18: READ t, S0.E                  arrive 3600 C2C.E
C2C.E1: SEND 1, S0.E               at 3600
C2C.W1: RECV 1, S0.E               at 3870
v: WRITE S0.E                      leave 3870 C2C.W
.place 0 0 (0)
.place 0 0 (1)
.meta {"system": "groq_production"}
"""


def test_every_lpu_row_runs_alike_on_both_engines() -> None:
    vector, seen = lpu_text()
    text = vector + LPU_TEXT + SXM_AND_MXM
    seen |= {name for name in BY_NAME if f"{name} " in LPU_TEXT + SXM_AND_MXM or f"{name}\n" in LPU_TEXT
             or f"{name}." in SXM_AND_MXM} | {"REPEAT"}
    assert seen >= {op.name for op in LPU_ROWS}
    assert {op.name for op in LPU_ROWS} == set(ICU_OPS).union(*KIND_OPS)
    program, chip = assemble(text), load_chip("groq_tsp_v1")
    fast, naive = LpuMachine(program, chip), LpuMachine(program, chip, engine="naive")
    one, other = fast.step(), naive.step()
    for name in program.tensors:
        assert np.array_equal(np.nan_to_num(fast.read(name)), np.nan_to_num(naive.read(name))), name
    assert (one.cycles, one.traffic, one.accounting) == (other.cycles, other.traffic, other.accounting)
    t, u = (fast.read(name).reshape(16, 20, 16) for name in "tu")
    assert np.array_equal(u, t.transpose(2, 1, 0)), "TRANSPOSE: lane l of stream j = lane j of stream l"
    assert np.array_equal(fast.read("v").reshape(20, 16), t[2]), "RECV: chip 1 has what SEND took from E18 on chip 0"


def test_types_are_listed_once() -> None:
    assert len(set(TYPES)) == len(TYPES) == len(TYPE_BYTES)
