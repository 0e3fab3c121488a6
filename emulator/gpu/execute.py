"""What an instruction does to registers, predicates and memory, at the cycle of its issue.

Values move when an instruction issues; the scoreboard and the load-store unit decide when others may
use them. A program without data races cannot tell the difference.
"""

from __future__ import annotations

import numpy as np

from emulator.gpu.access import global_access, shared_access, shuffle
from emulator.gpu.bulk import barrier_access
from emulator.gpu.decode import (
    D_A,
    D_B,
    D_C,
    D_CHECK0,
    D_COLUMNS,
    D_DST,
    D_FROM,
    D_IMM,
    D_KIND,
    D_LATENCY,
    D_NEGATED,
    D_OP,
    D_PRED,
    D_SOURCES,
    D_TYPE,
    D_WIDE,
    K_ALU,
    K_BRANCH,
    K_LDG,
    K_LDS,
    K_LDSM,
    K_MBINIT,
    K_MMA,
    K_S2R,
    K_SETP,
    K_SHUFFLE,
    K_STS,
    K_UNIFORM,
    PRED0,
    UREG0,
)
from emulator.gpu.errors import (
    DIVERGENT,
    NONE,
    POISON_PREDICATE,
    POISON_UNIFORM,
    UNWRITTEN,
)
from emulator.gpu.layout import (
    C_TENSOR,
    EMPTY,
    H_BRANCH,
    H_GRID,
    H_PARAMETERS,
    H_WARPS,
    OK,
    POISON,
    Q_KIND,
    Q_PHASES,
    R_FIXED,
    SM_COUNTERS,
    U_RESULT,
    U_SPLAT,
    U_ZERO,
    W_CTA,
    W_PC,
    W_PREDICATES,
    W_REGISTERS,
    W_SCORE,
    W_TIME,
    W_UNIFORM,
    W_WARP,
)
from emulator.gpu.registers import FULL, fail, set_register, state_of
from isa.jit import njit
from isa.opcodes import PT, RZ, SPECIALS, UNIFORM, URZ, code
from isa.products import mma
from isa.semantics import alu, compare

LANEID, WARPID, CTAID, NCTAID, NWARPS = (SPECIALS.index(n) for n in ("LANEID", "WARPID", "CTAID", "NCTAID", "NWARPS"))
UMOVI, LDP, UADD, USUB, UMUL, UMIN, UMAX = (code(n) for n in ("UMOVI", "LDP", "UADD", "USUB", "UMUL", "UMIN", "UMAX"))
UADDI, UMULI, USHL, USHR, UANDI = (code(n) for n in ("UADDI", "UMULI", "USHL", "USHR", "UANDI"))
S2UR, R2UR, SHFL = (code(n) for n in ("S2UR", "R2UR", "SHFL"))




@njit
def special_value(S, w, special):
    """A special register that is the same in every lane."""
    if special == WARPID:
        return S[w + W_WARP]
    if special == CTAID:
        return S[w + W_CTA]
    if special == NCTAID:
        return S[H_GRID]
    return S[H_WARPS]


@njit
def holds(cmp, a, b):
    """Signed comparison by its number in opcodes.COMPARISONS."""
    if cmp == 0:
        return a < b
    if cmp == 1:
        return a <= b
    if cmp == 2:
        return a > b
    if cmp == 3:
        return a >= b
    if cmp == 4:
        return a == b
    return a != b


@njit
def uniform_value(S, w, op, a, b, imm):
    """Result of an instruction of the uniform datapath (R2UR apart)."""
    if op == UMOVI:
        return imm
    if op == LDP:
        return S[H_PARAMETERS + imm]
    if op == UADD:
        return a + b
    if op == USUB:
        return a - b
    if op == UMUL:
        return a * b
    if op == UMIN:
        return min(a, b)
    if op == UMAX:
        return max(a, b)
    if op == UADDI:
        return a + imm
    if op == UMULI:
        return a * imm
    if op == USHL:
        return a << imm
    if op == USHR:
        return a >> imm
    if op == UANDI:
        return a & imm
    return special_value(S, w, imm)


@njit
def execute(S, U, F, D, base, w, pc, t, e):
    """Run instruction pc of the warp whose record is at w; returns an error number.

    e: the queue entry that a load-store instruction fills (its Q_PHASES is 0 when no lane is active).
    """
    row = pc * D_COLUMNS
    kind = D[row + D_KIND]
    S[w + W_PC] = pc + 1
    mask = S[w + W_PREDICATES + D[row + D_PRED]]
    if D[row + D_PRED] != PT:
        state = state_of(S, w, PRED0 + D[row + D_PRED])
        if state != OK:
            return fail(S, UNWRITTEN if state == EMPTY else POISON_PREDICATE, PRED0 + D[row + D_PRED])
    if D[row + D_NEGATED]:
        mask ^= FULL
    if mask != FULL and mask != 0 and D[row + D_WIDE]:
        return fail(S, DIVERGENT, 0)
    poison = False
    if mask != 0:
        for i in range(D[row + D_SOURCES]):
            state = state_of(S, w, D[row + D_CHECK0 + i])
            if state == EMPTY:
                return fail(S, UNWRITTEN, D[row + D_CHECK0 + i])
            poison = poison or state == POISON
    if kind >= K_LDG:
        S[e + Q_KIND] = kind
        S[e + Q_PHASES] = 0
        if mask == 0:
            return NONE
        if kind >= K_MBINIT:
            return barrier_access(S, U, D, row, base, w, pc, e)
        if kind == K_SHUFFLE:
            return shuffle(S, U, D, row, w, mask, poison, e)
        if kind == K_LDS or kind == K_STS or kind == K_LDSM:
            return shared_access(S, U, D, row, base, w, mask, e)
        return global_access(S, U, D, row, base, w, mask, e)

    r0 = S[w + W_REGISTERS]
    dst = D[row + D_DST]
    done = t + D[row + D_LATENCY]
    a0 = U_ZERO if D[row + D_A] == RZ else r0 + 32 * D[row + D_A]
    b0 = U_ZERO if D[row + D_B] == RZ else r0 + 32 * D[row + D_B]
    if (kind == K_ALU or kind == K_SETP) and D[row + D_B] >= UNIFORM:
        splat = np.uint32(S[w + W_UNIFORM + D[row + D_B] - UNIFORM] & FULL)
        for lane in range(32):
            U[U_SPLAT + lane] = splat
        b0 = U_SPLAT
    if kind == K_ALU or kind == K_S2R:
        if dst == RZ:
            return NONE
        if mask != 0 and not poison:
            out = r0 + 32 * dst if mask == FULL else U_RESULT
            if kind == K_ALU:
                c0 = U_ZERO if D[row + D_C] == RZ else r0 + 32 * D[row + D_C]
                alu(D[row + D_OP], D[row + D_TYPE], D[row + D_FROM], U, a0, U, b0, U, c0, D[row + D_IMM], U, out, 32)
            else:
                value = special_value(S, w, D[row + D_IMM])
                for lane in range(32):
                    U[out + lane] = np.uint32(lane) if D[row + D_IMM] == LANEID else np.uint32(value)
            if mask != FULL:
                d0 = r0 + 32 * dst
                for lane in range(32):
                    if (mask >> lane) & 1:
                        U[d0 + lane] = U[U_RESULT + lane]
        set_register(S, U, w, dst, mask, poison, done, 0)
    elif kind == K_MMA:
        S[base + SM_COUNTERS + C_TENSOR] += 1
        if dst == RZ:
            return NONE
        if mask != 0 and not poison:
            c0 = -1 if D[row + D_C] == RZ else r0 + 32 * D[row + D_C]
            mma(D[row + D_TYPE], U, a0, U, b0, U, c0, U, r0 + 32 * dst, F)
        for j in range(4):
            set_register(S, U, w, dst + j, mask, poison, done, 0)
    elif kind == K_SETP:
        if dst == PT:
            return NONE
        at = w + W_SCORE + PRED0 + dst
        old = (S[at] >> 2) & 3
        state = old
        if mask != 0:
            state = POISON if poison or (old == POISON and mask != FULL) else OK
            found = np.int64(0) if poison else compare(D[row + D_C], D[row + D_TYPE], U, a0, U, b0, 32)
            kept = np.int64(0) if old == EMPTY else S[w + W_PREDICATES + dst]
            S[w + W_PREDICATES + dst] = (kept & ~mask) | (found & mask)
        S[at] = done * 16 + state * 4
    elif kind == K_UNIFORM:
        if mask != 0 and poison:
            return fail(S, POISON_UNIFORM, 0)
        if dst == URZ:
            return NONE
        at = w + W_SCORE + UREG0 + dst
        state = (S[at] >> 2) & 3
        if mask != 0:
            state = OK
            if D[row + D_OP] == R2UR:
                S[w + W_UNIFORM + dst] = np.int64(np.int32(U[a0]))
            else:
                a = S[w + W_UNIFORM + (D[row + D_A] & 63)]
                b = S[w + W_UNIFORM + (D[row + D_B] & 63)]
                S[w + W_UNIFORM + dst] = uniform_value(S, w, D[row + D_OP], a, b, D[row + D_IMM])
        S[at] = done * 16 + state * 4
    elif kind == K_BRANCH and mask != 0:
        taken = D[row + D_C] < 0
        if not taken:
            taken = holds(D[row + D_C], S[w + W_UNIFORM + D[row + D_A]], S[w + W_UNIFORM + D[row + D_B]])
        if taken:
            S[w + W_PC] = D[row + D_IMM]
            S[w + W_TIME] = (t + S[H_BRANCH]) * 16 + R_FIXED
    return NONE
