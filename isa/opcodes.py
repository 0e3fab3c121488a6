"""The instruction set: one table, one row per instruction.

Everything that must know an instruction reads its row: assembler, disassembler, encoder, both
engines, the naive twins, trace labels and docs/isa.md. An instruction is one 64-bit word:

    LPU   | opcode 8 | operand fields, in row order, from bit 8 |
    GPU   | opcode 8 | guard 4 | operand fields, in row order, from bit 12 |

A guard is a predicate register (3 bits, 7 = always) and a negate bit (bit 3 of the field).
Arithmetic rows belong to both machines: the operation is the same, only the operands differ
(streams and ALU outputs on the LPU, registers on the GPU).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What an operand field holds; it decides how the field is written in assembly."""

    UINT = "unsigned integer"
    INT = "signed integer, two's complement"
    BITS32 = "32-bit immediate; a float literal when the row's type is f32, else an integer"
    TYPE = "number type"
    CMP = "comparison"
    WIDTH = "access width in bits"
    SPECIAL = "special register"
    TARGET = "instruction index of a label in the same kernel"
    # LPU
    STREAM = "stream: S<n>.E or S<n>.W; a group is named by its first stream"
    ADDR = "SRAM word address in a slice; the top bit is the bank"
    VSRC = "VXM operand: a stream group, or A<n>, the output of VXM ALU n"
    VDST = "VXM result: a stream group, or _ when only chained ALUs read it"
    MAP = "index into the text's table of lane maps"
    # GPU
    REG = "vector register R0..R254, or RZ"
    RU = "vector register, or uniform register (broadcast)"
    UREG = "uniform register UR0..UR62, or URZ"
    PRED = "predicate register P0..P6, or PT"


@dataclass(frozen=True)
class Field:
    name: str
    kind: Kind
    bits: int


@dataclass(frozen=True)
class Op:
    """One row. `lpu` and `gpu` are the operand fields on each machine, None where it has none.

    `types` are what the row's type fields may hold (numbers of TYPES).
    """

    name: str
    code: int
    unit: str
    lpu: tuple[Field, ...] | None
    gpu: tuple[Field, ...] | None
    doc: str
    types: tuple[int, ...] = ()

    def fields(self, dialect: str) -> tuple[Field, ...]:
        """Operand fields of this row in `dialect` ("lpu" or "gpu"); KeyError if it has none."""
        found = self.lpu if dialect == "lpu" else self.gpu
        if found is None:
            raise KeyError(f"{self.name} is not an instruction of the {dialect} dialect")
        return found


# Number types, as they stand in TYPE fields. F32 and S32 are what ALUs compute in.
TYPES = ("f32", "s32", "f16", "bf16", "e4m3", "s8", "u8")
F32, S32, F16, BF16, E4M3, S8, U8 = range(7)
TYPE_BYTES = (4, 4, 2, 2, 1, 1, 1)

_COMPUTED, _HALVES, _WEIGHTS = (F32, S32), (F16, BF16), (S8, F16)
_ANY = (F32, S32, F16, BF16, E4M3, S8, U8)

COMPARISONS = ("LT", "LE", "GT", "GE", "EQ", "NE")
WIDTHS = (8, 16, 32, 64, 128)  # bits a lane moves
SPECIALS = ("LANEID", "WARPID", "CTAID", "NCTAID", "NWARPS")

# VSRC encoding: 0..63 stream (bit 5 set = westward), 64 + n = output of ALU n.
# STREAM encoding: number, plus 32 when westward. VDST encoding: as STREAM, 64 = none.
WEST = 32
ALU_BASE = 64
NO_STREAM = 64

# Ports in SEND and RECV: local ones from 1, then roles. A chip's coordinates say which of its ports plays a role.
ROLE_PORT, PORTS = 8, 16

RZ, URZ, PT = 255, 63, 7
UNIFORM = 256  # RU encoding: 0..255 vector register, 256 + n = uniform register n

T = Field("type", Kind.TYPE, 3)
_VDST, _VA, _VB, _VC = (
    Field("dst", Kind.VDST, 7),
    Field("a", Kind.VSRC, 7),
    Field("b", Kind.VSRC, 7),
    Field("c", Kind.VSRC, 7),
)
_RD, _RA, _RC = Field("dst", Kind.REG, 8), Field("a", Kind.REG, 8), Field("c", Kind.REG, 8)
_RB = Field("b", Kind.RU, 9)
_UD, _UA, _UB = Field("dst", Kind.UREG, 6), Field("a", Kind.UREG, 6), Field("b", Kind.UREG, 6)
_BASE = Field("base", Kind.UREG, 6)
_W = Field("width", Kind.WIDTH, 3)
_BAR, _BAR_OFFSET = Field("bar", Kind.UREG, 6), Field("bar_offset", Kind.INT, 12)
_IMM32 = Field("imm", Kind.BITS32, 32)
_OFF16 = Field("offset", Kind.INT, 16)
_STREAM = Field("s", Kind.STREAM, 6)
_ADDR = Field("a", Kind.ADDR, 13)
_PORT = Field("port", Kind.UINT, 4)  # 1..7 to chip XOR port of the node, ROLE_PORT + k the port that plays role k
_SXM_SRC, _SXM_DST = Field("src", Kind.STREAM, 6), Field("dst", Kind.STREAM, 6)
_STREAMS = Field("streams", Kind.UINT, 3)  # 1, 2 or 4 streams of an aligned group


def _binary(name, code, unit, doc):
    return Op(name, code, unit, (T, _VDST, _VA, _VB), (T, _RD, _RA, _RB), doc, _COMPUTED)


def _unary(name, code, unit, doc, types=(F32,)):
    return Op(name, code, unit, (T, _VDST, _VA), (T, _RD, _RA), doc, types)


def _immediate(name, code, unit, doc):
    return Op(name, code, unit, (T, _VDST, _VA, _IMM32), (T, _RD, _RA, _IMM32), doc, _COMPUTED)


def _lpu(name, code, unit, fields, doc, types=()):
    return Op(name, code, unit, tuple(fields), None, doc, types)


def _gpu(name, code, unit, fields, doc, types=()):
    return Op(name, code, unit, None, tuple(fields), doc, types)


OPS: tuple[Op, ...] = (
    # -- LPU instruction control: any queue -------------------------------------------------
    _lpu("NOP", 0x00, "icu", [Field("n", Kind.UINT, 16)], "the queue waits n cycles (1 to 65535)"),
    _lpu("REPEAT", 0x01, "icu",
         [Field("n", Kind.UINT, 16), Field("d", Kind.UINT, 16), Field("stride", Kind.INT, 16)],
         "issue the previous instruction n more times, d cycles apart; its address (READ, WRITE, "
         "GATHER, SCATTER) or first row (LW) grows by stride each time; takes no issue slot"),
    _lpu("SYNC", 0x02, "icu", [], "the queue parks until a NOTIFY releases it"),
    _lpu("NOTIFY", 0x03, "icu", [], "release every parked queue, this one too, after the barrier latency"),
    # -- LPU memory slices ------------------------------------------------------------------
    _lpu("READ", 0x08, "mem", [_ADDR, _STREAM], "put word a on stream s at the slice's column"),
    _lpu("WRITE", 0x09, "mem", [_ADDR, _STREAM], "store what is on stream s at the slice's column in word a"),
    _lpu("GATHER", 0x0A, "mem", [_ADDR, _STREAM, Field("map", Kind.STREAM, 6)],
         "READ of word a + m, where each superlane's m is the 16-bit little-endian value in its "
         "first two lanes of stream map; clamped to the slice"),
    _lpu("SCATTER", 0x0B, "mem", [_ADDR, _STREAM, Field("map", Kind.STREAM, 6)],
         "WRITE to word a + m, where each superlane's m is the 16-bit little-endian value in its "
         "first two lanes of stream map; clamped to the slice"),
    # -- arithmetic, both machines ----------------------------------------------------------
    _binary("ADD", 0x10, "alu", "dst = a + b"),
    _binary("SUB", 0x11, "alu", "dst = a - b"),
    _binary("MUL", 0x12, "alu", "dst = a * b (s32: low 32 bits)"),
    _binary("MAX", 0x13, "alu_large", "dst = the larger of a and b; a NaN gives the other operand"),
    _binary("MIN", 0x14, "alu_large", "dst = the smaller of a and b; a NaN gives the other operand"),
    _unary("NEG", 0x15, "alu", "dst = -a", _COMPUTED),
    _binary("AND", 0x16, "alu", "dst = a & b, bitwise on 32 bits whatever the type"),
    _binary("OR", 0x17, "alu", "dst = a | b, bitwise on 32 bits whatever the type"),
    _binary("XOR", 0x18, "alu", "dst = a ^ b, bitwise on 32 bits whatever the type"),
    Op("SELECT", 0x19, "alu", (T, _VDST, _VA, _VB, _VC), (T, _RD, _RA, _RB, _RC),
       "dst = b where the sign bit of a is clear, else c", _COMPUTED),
    _immediate("ADDI", 0x1A, "alu", "dst = a + imm"),
    _immediate("MULI", 0x1B, "alu", "dst = a * imm (s32: low 32 bits)"),
    _immediate("MAXI", 0x1C, "alu_large", "dst = the larger of a and imm; a NaN gives the other operand"),
    _immediate("MINI", 0x1D, "alu_large", "dst = the smaller of a and imm; a NaN gives the other operand"),
    _immediate("ANDI", 0x1E, "alu", "dst = a & imm, bitwise on 32 bits whatever the type"),
    _unary("EXP2", 0x20, "alu_large", "dst = 2 ** a, fp32, one rounding"),
    _unary("RSQRT", 0x21, "alu_large", "dst = 1 / sqrt(a), fp32, one rounding"),
    _unary("TANH", 0x22, "alu_large", "dst = tanh(a), fp32, one rounding"),
    Op("CVT", 0x23, "alu_large",
       (Field("type", Kind.TYPE, 3), Field("from_type", Kind.TYPE, 3), _VDST, _VA),
       (Field("type", Kind.TYPE, 3), Field("from_type", Kind.TYPE, 3), _RD, _RA),
       "dst = a converted from from_type to type, to nearest even; integers saturate, NaN gives 0; "
       "f16 and bf16 overflow to infinity, e4m3 saturates at 448; on the LPU a 1- or 2-byte type "
       "takes 1 or 2 streams, on the GPU the low bits of the register (upper bits zero)", _ANY),
    # -- LPU matrix planes ------------------------------------------------------------------
    _lpu("LW", 0x30, "mxm",
         [T, _STREAM, Field("rows", Kind.UINT, 5), Field("row", Kind.UINT, 9)],
         "load rows row .. row+rows-1 of the shadow weights from consecutive streams from s (s8: one "
         "stream a row; f16: two, low byte first, on an even plane for the pair); row r holds the "
         "weights of output r, lane by lane; rows never loaded since the last IW are zero", _WEIGHTS),
    _lpu("IW", 0x31, "mxm", [T],
         "install the shadow weights (f16: of the plane pair); the shadow becomes empty", _WEIGHTS),
    _lpu("ABC", 0x32, "mxm", [T, _STREAM],
         "feed the activation on stream s (f16: 2 streams, low byte first, 2 cycles) through the "
         "installed weights; the result reaches the plane's accumulator after the MXM latency", _WEIGHTS),
    _lpu("ACC", 0x33, "mxm", [_STREAM],
         "take the oldest result from the plane's accumulator and put it (s32 or f32) on streams s .. s+3"),
    # -- LPU lane switch --------------------------------------------------------------------
    _lpu("SHIFT", 0x38, "sxm_shift", [_STREAMS, _SXM_SRC, _SXM_DST, Field("n", Kind.INT, 10)],
         "lane l of dst = lane l - n of src, zero where there is none"),
    _lpu("PERMUTE", 0x39, "sxm_permute", [_STREAMS, _SXM_SRC, _SXM_DST, Field("map", Kind.MAP, 12)],
         "lane l of dst = lane map[l] of src; map is a bijection over all lanes"),
    _lpu("DISTRIBUTE", 0x3A, "sxm_distribute", [_STREAMS, _SXM_SRC, _SXM_DST, Field("map", Kind.MAP, 12)],
         "within each superlane, lane l of dst = lane map[l] of src, or zero where map[l] is 65535"),
    _lpu("TRANSPOSE", 0x3B, "sxm_transpose", [_SXM_SRC, _SXM_DST],
         "16 streams from src, 16 streams from dst: within each superlane, lane l of stream j = "
         "lane j of stream l"),
    # -- LPU links to other chips -----------------------------------------------------------
    _lpu("SEND", 0x3C, "c2c", [_PORT, _STREAM],
         "send the vector on stream s at the link column over port; it can be received after the link's latency"),
    _lpu("RECV", 0x3D, "c2c", [_PORT, _STREAM],
         "put the oldest vector that has arrived on port on stream s at the link column"),
    # -- GPU arithmetic ---------------------------------------------------------------------
    _gpu("FMA", 0x40, "alu", [T, _RD, _RA, _RB, _RC],
         "dst = a * b + c; f32: float64 product and sum, rounded once; s32: low 32 bits", _COMPUTED),
    _gpu("RCP", 0x41, "mufu", [T, _RD, _RA], "dst = 1 / a, fp32, one rounding", (F32,)),
    _gpu("MOV", 0x42, "alu", [_RD, _RB], "dst = b (a uniform register gives its low 32 bits to every lane)"),
    _gpu("MOVI", 0x43, "alu", [T, _RD, _IMM32], "dst = imm", _COMPUTED),
    _gpu("SHL", 0x44, "alu", [_RD, _RA, Field("n", Kind.UINT, 5)], "dst = a << n"),
    _gpu("SHR", 0x45, "alu", [_RD, _RA, Field("n", Kind.UINT, 5)], "dst = a >> n, zeros come in"),
    _gpu("PACK", 0x46, "alu", [T, _RD, _RA, _RC],
         "dst = two 16-bit values of type (f16 or bf16), from fp32: a in the low half, c in the high", _HALVES),
    _gpu("UNPACK", 0x47, "alu", [T, _RD, _RA, Field("half", Kind.UINT, 1)],
         "dst = fp32 of the low (0) or high (1) 16-bit value of type (f16 or bf16) in a", _HALVES),
    _gpu("SETP", 0x48, "alu",
         [Field("cmp", Kind.CMP, 3), T, Field("dst", Kind.PRED, 3), _RA, _RB],
         "lane's predicate dst = a cmp b (f32 or s32); with a NaN only NE holds", _COMPUTED),
    _gpu("S2R", 0x49, "alu", [_RD, Field("special", Kind.SPECIAL, 5)], "dst = special register"),
    _gpu("SHFL", 0x4A, "lsu", [_RD, _RA, Field("xor", Kind.UINT, 5)], "dst = a of lane (this lane XOR xor)"),
    _gpu("BCAST", 0x4B, "lsu", [_RD, _RA, Field("lane", Kind.UINT, 5)], "dst = a of the named lane"),
    # -- GPU memory -------------------------------------------------------------------------
    _gpu("LDG", 0x50, "lsu", [_W, _RD, _RA, _BASE, _OFF16],
         "dst .. = global memory at base + a + offset (a: unsigned 32-bit, one address a lane; 8 and "
         "16 bits are zero-extended; 64 and 128 bits fill 2 and 4 registers); through L1"),
    _gpu("STG", 0x51, "lsu", [_W, _RA, _BASE, _OFF16, Field("src", Kind.REG, 8)],
         "global memory at base + a + offset = src ..; written through to L2, L1's copy is dropped"),
    _gpu("LDS", 0x52, "lsu", [_W, _RD, _RA, _OFF16], "dst .. = shared memory at a + offset"),
    _gpu("STS", 0x53, "lsu", [_W, _RA, _OFF16, Field("src", Kind.REG, 8)], "shared memory at a + offset = src .."),
    _gpu("LDSM", 0x54, "lsu",
         [Field("n", Kind.UINT, 3), Field("transposed", Kind.UINT, 1), _RD, _RA, _OFF16],
         "load n (1, 2 or 4) matrices of 8 rows x 16 bytes from shared memory: lane 8j + i holds the "
         "address (a + offset) of row i of matrix j; register dst + j of lane l gets the 4 bytes at "
         "row l / 4, byte 4 (l % 4); transposed: 16-bit elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4)"),
    _gpu("LDGSTS", 0x55, "lsu",
         [Field("dst", Kind.REG, 8), Field("dst_offset", Kind.INT, 12), Field("a", Kind.REG, 8), _BASE,
          Field("offset", Kind.INT, 16)],
         "asynchronous copy of 16 bytes a lane: shared memory at dst + dst_offset = global memory at "
         "base + a + offset; through L2, not L1; belongs to the warp's open copy group"),
    _gpu("CPCOMMIT", 0x56, "lsu", [], "close the warp's open group of asynchronous copies"),
    _gpu("CPWAIT", 0x57, "control", [Field("n", Kind.UINT, 4)],
         "wait until at most n closed copy groups of the warp are unfinished"),
    _gpu("ATOM", 0x5E, "lsu", [_RD, _RA, _BASE, _OFF16, Field("src", Kind.REG, 8)],
         "32 bits of global memory at base + a + offset grow by src, in lane order, and dst = what was there before; "
         "in L2, L1's copy is dropped"),
    _gpu("LDCG", 0x5F, "lsu", [_W, _RD, _RA, _BASE, _OFF16],
         "LDG past L1: sees what other SMs have stored, or added with ATOM"),
    # -- GPU bulk copies and mbarriers: one operation a warp, addresses in uniform registers ----
    _gpu("MBINIT", 0x5A, "lsu", [_BAR, _BAR_OFFSET, Field("count", Kind.UINT, 10)],
         "the 8 bytes of shared memory at bar + bar_offset become an mbarrier in phase 0 that expects count arrivals "
         "a phase"),
    _gpu("MBARRIVE", 0x5B, "lsu", [_BAR, _BAR_OFFSET, Field("bytes", Kind.UREG, 6)],
         "the mbarrier's phase expects bytes more, then one arrival of the warp; the phase is complete when all its "
         "arrivals and bytes have come, and the next one begins"),
    _gpu("MBWAIT", 0x5C, "lsu", [_BAR, _BAR_OFFSET, Field("phase", Kind.UREG, 6)],
         "the warp waits until the mbarrier's phase of this parity (bit 0 of phase) is complete: its present phase "
         "has the other parity"),
    _gpu("BULK", 0x5D, "lsu",
         [Field("shared", Kind.UREG, 6), Field("a", Kind.UREG, 6), Field("offset", Kind.INT, 16),
          Field("bytes", Kind.UREG, 6), _BAR, _BAR_OFFSET],
         "asynchronous bulk copy: bytes (a multiple of 16) of global memory at a + offset to the shared memory at "
         "shared, both aligned to 16; through L2, not L1; when all are there, the mbarrier's phase gets them"),
    # -- GPU tensor core --------------------------------------------------------------------
    _gpu("MMA", 0x58, "tensor", [T, _RD, _RA, _RB, _RC],
         "D = A B + C, fragments as in PTX mma.sync: m16n8k16 for f16 and bf16, m16n8k32 for s8 and "
         "e4m3; A 4 registers, B 2, C and D 4 (f32, or s32 for s8); a column is a float64 sum in k "
         "order onto c, rounded once", (F16, BF16, E4M3, S8)),
    # -- GPU uniform datapath: 64-bit, one value a warp --------------------------------------
    _gpu("UMOVI", 0x60, "uniform", [_UD, Field("imm", Kind.INT, 32)], "dst = imm, sign-extended"),
    _gpu("LDP", 0x61, "uniform", [_UD, Field("param", Kind.UINT, 6)], "dst = kernel parameter"),
    _gpu("UADD", 0x62, "uniform", [_UD, _UA, _UB], "dst = a + b"),
    _gpu("USUB", 0x63, "uniform", [_UD, _UA, _UB], "dst = a - b"),
    _gpu("UMUL", 0x64, "uniform", [_UD, _UA, _UB], "dst = a * b, low 64 bits"),
    _gpu("UMIN", 0x65, "uniform", [_UD, _UA, _UB], "dst = the smaller of a and b, signed"),
    _gpu("UMAX", 0x66, "uniform", [_UD, _UA, _UB], "dst = the larger of a and b, signed"),
    _gpu("UADDI", 0x67, "uniform", [_UD, _UA, Field("imm", Kind.INT, 32)], "dst = a + imm"),
    _gpu("UMULI", 0x68, "uniform", [_UD, _UA, Field("imm", Kind.INT, 32)], "dst = a * imm, low 64 bits"),
    _gpu("USHL", 0x69, "uniform", [_UD, _UA, Field("n", Kind.UINT, 6)], "dst = a << n"),
    _gpu("USHR", 0x6A, "uniform", [_UD, _UA, Field("n", Kind.UINT, 6)], "dst = a >> n, sign-extended"),
    _gpu("UANDI", 0x6B, "uniform", [_UD, _UA, Field("imm", Kind.INT, 32)], "dst = a & imm, imm sign-extended"),
    _gpu("S2UR", 0x6C, "uniform", [_UD, Field("special", Kind.SPECIAL, 5)], "dst = special register"),
    _gpu("R2UR", 0x6D, "uniform", [_UD, _RA], "dst = a of lane 0, sign-extended"),
    _gpu("ULDG", 0x6E, "lsu", [_W, _UD, _UA, Field("offset", Kind.INT, 24)],
         "dst = 32 bits (sign-extended) or 64 bits of global memory at a + offset; through L1"),
    # -- GPU control ------------------------------------------------------------------------
    _gpu("BRA", 0x70, "control", [Field("target", Kind.TARGET, 24)], "jump (every lane of the warp)"),
    _gpu("UBR", 0x71, "control",
         [Field("cmp", Kind.CMP, 3), _UA, _UB, Field("target", Kind.TARGET, 24)], "jump if a cmp b (signed)"),
    _gpu("BAR", 0x72, "control", [], "wait for all warps of the CTA"),
    _gpu("MEMBAR", 0x74, "control", [],
         "wait until the warp's stores are acknowledged by L2; then the SM's L1 forgets what it holds"),
    _gpu("EXIT", 0x73, "control", [], "the warp ends"),
)

BY_NAME: dict[str, Op] = {op.name: op for op in OPS}
BY_CODE: dict[int, Op] = {op.code: op for op in OPS}


def code(name: str) -> int:
    """Opcode number of a mnemonic; for module-level constants in engines."""
    return BY_NAME[name].code
