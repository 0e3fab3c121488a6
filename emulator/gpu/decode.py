"""Instruction words -> what an SM needs to issue them: registers, unit, latency, checks.

`Instruction` is one decoded instruction for people and for the twin; `decode_kernel` gives a list of
them and refuses what can be seen to be wrong without running it. `decode_table` lays the same facts
out as the flat table that the engine reads.

Scoreboard slots of a warp: vector registers 0..254, predicates PRED0.., uniform registers UREG0.. .
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from emulator.gpu.errors import LaunchError
from emulator.gpu.timing import LSU, Timing, issue_timing, unit_of
from isa.encoding import ALWAYS, decode
from isa.opcodes import PT, RZ, SPECIALS, UNIFORM, URZ, WIDTHS, Kind, Op
from isa.program import GpuText

PRED0, UREG0, SLOTS = 256, 264, 328

# How the engine dispatches an instruction.
(K_ALU, K_SETP, K_S2R, K_MMA, K_UNIFORM, K_BRANCH, K_BAR, K_EXIT, K_COMMIT, K_WAIT, K_MEMBAR, K_LDG, K_STG, K_LDS,
 K_STS, K_LDSM, K_COPY, K_SHUFFLE, K_ULDG, K_ATOM, K_LDCG, K_MBINIT, K_MBARRIVE, K_MBWAIT, K_BULK) = range(25)
_KINDS = {
    "SETP": K_SETP, "S2R": K_S2R, "MMA": K_MMA, "BRA": K_BRANCH, "UBR": K_BRANCH, "BAR": K_BAR, "EXIT": K_EXIT,
    "CPCOMMIT": K_COMMIT, "CPWAIT": K_WAIT, "LDG": K_LDG, "STG": K_STG, "LDS": K_LDS, "STS": K_STS,
    "LDSM": K_LDSM, "LDGSTS": K_COPY, "SHFL": K_SHUFFLE, "BCAST": K_SHUFFLE, "ULDG": K_ULDG,
    "MBINIT": K_MBINIT, "MBARRIVE": K_MBARRIVE, "MBWAIT": K_MBWAIT, "BULK": K_BULK,
    "ATOM": K_ATOM, "LDCG": K_LDCG, "MEMBAR": K_MEMBAR,
}
# These act for the whole warp: a guard must be the same in every lane.
WARP_WIDE = {K_MMA, K_UNIFORM, K_BRANCH, K_BAR, K_EXIT, K_COMMIT, K_WAIT, K_MEMBAR, K_LDSM, K_ULDG, K_MBINIT,
             K_MBARRIVE, K_MBWAIT, K_BULK}

# Columns of the engine's table.
(D_OP, D_KIND, D_PRED, D_NEGATED, D_WIDE, D_UNIT, D_LATENCY, D_INTERVAL, D_A, D_B, D_C, D_DST, D_REGS, D_IMM, D_BASE,
 D_TYPE, D_FROM, D_BYTES, D_SOURCES, D_CHECKS, D_CHECK0) = range(21)
MAX_CHECKS = 19  # guard, and four registers each of A, B (2), C and D, a few uniform ones
D_COLUMNS = D_CHECK0 + MAX_CHECKS


@dataclass
class Instruction:
    """One decoded instruction. `values` are its raw fields by name; `reads` and `writes` are scoreboard slots."""

    op: Op
    guard: int  # predicate, PT = always
    negated: bool
    values: dict[str, int]
    kind: int
    unit: int
    latency: int
    interval: int
    registers: int  # destination (or source, of a store) registers a lane
    bytes: int  # a lane moves, of a memory instruction
    reads: list[int] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)


def register_name(slot: int) -> str:
    """Assembly name of a scoreboard slot."""
    if slot < PRED0:
        return f"R{slot}"
    return f"P{slot - PRED0}" if slot < UREG0 else f"UR{slot - UREG0}"


def _span(first: int, count: int) -> list[int]:
    return [] if first == RZ else list(range(first, first + count))


def _operands(op: Op, v: dict[str, int], registers: int) -> tuple[list[int], list[int]]:
    """Scoreboard slots that an instruction reads and writes, in field order."""
    reads: list[int] = []
    writes: list[int] = []
    name = op.name
    for item in op.gpu or ():
        value = v[item.name]
        if item.kind is Kind.PRED:
            if value != PT:
                writes.append(PRED0 + value)
        elif item.kind is Kind.UREG:
            if value != URZ:
                (writes if item.name == "dst" else reads).append(UREG0 + value)
        elif item.kind is Kind.RU and value >= UNIFORM:
            if value - UNIFORM != URZ:
                reads.append(UREG0 + value - UNIFORM)
        elif item.kind in (Kind.REG, Kind.RU):
            count = 1
            if name == "MMA":
                count = {"dst": 4, "a": 4, "b": 2, "c": 4}[item.name]
            elif item.name == "src" or (item.name == "dst" and name in ("LDG", "LDCG", "LDS", "LDSM")):
                count = registers
            (writes if item.name == "dst" and name != "LDGSTS" else reads).extend(_span(value, count))
    return reads, writes


def decode_instruction(word: int, timing: Timing) -> Instruction:
    """Decode one word. Raises ValueError for an unknown opcode."""
    op, guard, raw = decode("gpu", word)
    v = {item.name: value for item, value in zip(op.fields("gpu"), raw, strict=True)}
    unit = unit_of(op, v.get("type", 0))
    latency, interval = issue_timing(timing, unit)
    kind = _KINDS.get(op.name, K_UNIFORM if op.unit == "uniform" else K_ALU)
    width = WIDTHS[v["width"]] // 8 if "width" in v and v["width"] < len(WIDTHS) else 0
    lane_bytes = {"LDGSTS": 16, "LDSM": 16, "ATOM": 4}.get(op.name, width)
    registers = v["n"] if op.name == "LDSM" else max(1, lane_bytes // 4)
    made = Instruction(op, guard & 7, bool(guard & 8), v, kind, unit, latency, interval, registers, lane_bytes)
    made.reads, made.writes = _operands(op, v, registers)
    if made.guard != PT:
        made.reads.insert(0, PRED0 + made.guard)
    return made


def _refusal(made: Instruction, at: int, count: int, registers: int, timing: Timing) -> str | None:
    """Why an instruction can never run, or None."""
    v, name = made.values, made.op.name
    for slot in made.reads + made.writes:
        if slot < PRED0 and slot >= registers:
            return f"R{slot} is used, but the kernel has {registers} registers a lane"
    if "width" in v and v["width"] >= len(WIDTHS):
        return f"width field {v['width']} is none of {WIDTHS}"
    if "cmp" in v and v["cmp"] > 5:
        return f"comparison {v['cmp']} does not exist"
    if "type" in v and v["type"] > 6 or "from_type" in v and v["from_type"] > 6:
        return "the number type does not exist"
    if "special" in v and v["special"] >= len(SPECIALS):
        return f"special register {v['special']} does not exist"
    if name == "LDSM" and v["n"] not in (1, 2, 4):
        return f"it loads {v['n']} matrices; 1, 2 and 4 are possible"
    if name == "ULDG" and made.bytes not in (4, 8):
        return "a uniform load takes 32 or 64 bits"
    if name == "S2UR" and SPECIALS[v["special"]] == "LANEID":
        return "LANEID is not the same in every lane"
    if name == "MMA" and (v["b"] >= UNIFORM or v["type"] not in (2, 3, 4, 5)):
        return "it multiplies registers of f16, bf16, e4m3 or s8"
    if name == "BULK" and not timing.bulk_engines:
        return "this chip has no bulk copies (sm.bulk.engines = 0); copy with LDGSTS"
    if name == "MBINIT" and v["count"] < 1:
        return "an mbarrier expects at least one arrival a phase"
    if "target" in v and not 0 <= v["target"] < count:
        return f"it jumps to instruction {v['target']} of {count}"
    if at == count - 1 and not (name in ("EXIT", "BRA") and made.guard == ALWAYS and not made.negated):
        return "the kernel would run past its end: its last instruction must be EXIT or BRA without guard"
    return None


def decode_text(text: GpuText, timing: Timing) -> list[list[Instruction]]:
    """The instructions of every kernel. Raises LaunchError for what can be refused before running."""
    kernels = []
    for kernel in text.kernels:
        if not 1 <= kernel.registers <= RZ:
            raise LaunchError(f"kernel {kernel.name}: {kernel.registers} registers a lane; 1 to {RZ} are possible")
        if kernel.count < 1 or kernel.first < 0 or kernel.first + kernel.count > len(text.words):
            raise LaunchError(f"kernel {kernel.name}: its instructions are not inside the text")
        made = [decode_instruction(int(w), timing) for w in text.words[kernel.first : kernel.first + kernel.count]]
        for at, one in enumerate(made):
            why = _refusal(one, at, kernel.count, kernel.registers, timing)
            if why:
                raise LaunchError(f"kernel {kernel.name}, instruction {at} ({one.op.name}): {why}")
        kernels.append(made)
    return kernels


def decode_table(instructions: list[Instruction]) -> np.ndarray:
    """The engine's table of one kernel: int64 [instructions, D_COLUMNS]."""
    table = np.zeros((len(instructions), D_COLUMNS), dtype=np.int64)
    for row, one in zip(table, instructions, strict=True):
        v = one.values
        row[D_OP], row[D_KIND] = one.op.code, one.kind
        row[D_PRED], row[D_NEGATED], row[D_WIDE] = one.guard, one.negated, one.kind in WARP_WIDE
        row[D_UNIT], row[D_LATENCY], row[D_INTERVAL] = one.unit, one.latency, one.interval
        row[D_A], row[D_B], row[D_C] = v.get("a", RZ), v.get("b", RZ), v.get("c", v.get("src", RZ))
        row[D_DST] = v.get("dst", RZ)
        row[D_REGS], row[D_BYTES] = one.registers, one.bytes
        row[D_TYPE], row[D_FROM] = v.get("type", 0), v.get("from_type", 0)
        # One immediate a row: whatever the instruction has beside registers.
        for name in ("imm", "offset", "n", "half", "xor", "lane", "param", "special", "target", "count"):
            if name in v:
                row[D_IMM] = v[name]
                break
        if one.op.name == "UBR":
            row[D_C] = v["cmp"]
        elif one.op.name == "BRA":
            row[D_C] = -1
        elif one.op.name == "SETP":
            row[D_C] = v["cmp"]
        elif one.op.name == "LDSM":
            row[D_IMM], row[D_B] = v["offset"], v["transposed"]
        elif one.op.name == "LDGSTS":
            row[D_B] = v["dst_offset"]
        row[D_BASE] = v.get("base", v.get("bar", URZ))
        if "bar" in v:
            row[D_B], row[D_C] = v.get("bytes", v.get("phase", URZ)), v["bar_offset"]
            row[D_DST] = v.get("shared", URZ)
        reads = list(dict.fromkeys(one.reads))
        checks = reads + [slot for slot in dict.fromkeys(one.writes) if slot not in reads]
        row[D_SOURCES], row[D_CHECKS] = len(reads), len(checks)
        row[D_CHECK0 : D_CHECK0 + len(checks)] = checks
    return table


def queued(instruction: Instruction) -> bool:
    """Whether an instruction goes through the load-store unit's queue."""
    return instruction.unit == LSU
