"""What load-store instructions do to registers and memory, and the queue entry that they leave for timing.

An entry says how many shared-memory phases or which lines and sectors the instruction needs; the
load-store unit (lsu.py) decides when it gets them.
"""

from __future__ import annotations

import numpy as np

from emulator.gpu.decode import (
    D_A,
    D_B,
    D_BASE,
    D_BYTES,
    D_C,
    D_DST,
    D_IMM,
    D_KIND,
    D_OP,
    D_REGS,
    K_ATOM,
    K_COPY,
    K_LDS,
    K_LDSM,
    K_STG,
    K_STS,
    K_ULDG,
    UREG0,
)
from emulator.gpu.errors import (
    ADDRESS_RANGE,
    MISALIGNED,
    NONE,
    POISON_ADDRESS,
    POISON_UNIFORM,
    SHARED_RANGE,
)
from emulator.gpu.landing import global_words, is_peer, new_landings, put_landing
from emulator.gpu.layout import (
    C_CONFLICT,
    C_POISONED,
    C_SHARED_READ,
    C_SHARED_WRITE,
    H_HAS_PHANTOM,
    H_HIT32,
    H_HIT64,
    H_HIT128,
    H_HIT_UNIFORM,
    H_PHANTOM,
    H_PHANTOM_END,
    H_PHASE,
    H_REAL_BYTES,
    H_SHARED,
    H_SHARED_LATENCY,
    H_SHUFFLE,
    H_U_GLOBAL,
    NEVER,
    OK,
    POISON,
    Q_DST,
    Q_LANDING,
    Q_LATENCY,
    Q_LINE,
    Q_LINES,
    Q_MASK,
    Q_PHASES,
    Q_REGS,
    Q_SECTORS,
    SM_BANKS,
    SM_COUNTERS,
    SM_LANES,
    U_RESULT,
    U_ZERO,
    W_POISON,
    W_REGISTERS,
    W_SCORE,
    W_SHARED,
    W_UNIFORM,
)
from emulator.gpu.registers import CLASS_GLOBAL, CLASS_SHARED, FULL, fail, set_register, state_of
from emulator.gpu.timing import PEER_AT
from isa.jit import njit
from isa.opcodes import RZ, URZ, code

S2UR, R2UR, SHFL = (code(n) for n in ("S2UR", "R2UR", "SHFL"))


@njit
def _entry(S, e, dst, registers, latency, phases):
    """Fill what every queue entry has; no lines yet."""
    S[e + Q_DST], S[e + Q_REGS] = dst, registers
    S[e + Q_LATENCY], S[e + Q_PHASES] = latency, phases
    S[e + Q_LINES], S[e + Q_SECTORS], S[e + Q_LANDING] = 0, 0, -1


@njit
def shuffle(S, U, D, row, w, mask, poison, e):
    """SHFL and BCAST."""
    dst = D[row + D_DST]
    _entry(S, e, dst, 1, S[H_SHUFFLE], 1)
    if dst == RZ:
        return NONE
    r0 = S[w + W_REGISTERS]
    a0 = U_ZERO if D[row + D_A] == RZ else r0 + 32 * D[row + D_A]
    for lane in range(32):
        U[U_RESULT + lane] = U[a0 + ((lane ^ D[row + D_IMM]) if D[row + D_OP] == SHFL else D[row + D_IMM])]
    for lane in range(32):
        if (mask >> lane) & 1:
            U[r0 + 32 * dst + lane] = U[U_RESULT + lane]
    set_register(S, U, w, dst, mask, poison, NEVER, CLASS_SHARED)
    return NONE


@njit
def _conflict_phases(S, base, mask, lane_bytes):
    """Cycles that the 32 banks of 4 bytes need.

    Accesses go in groups of lanes that fill 128 bytes; a group takes as many cycles as one bank has
    distinct words. Wide accesses are aligned, so all banks of one access see the same picture.
    """
    shift = 4 if lane_bytes == 16 else (3 if lane_bytes == 8 else 2)
    banks = 128 >> shift
    b0 = base + SM_BANKS
    phases = 0
    for first in range(0, 32, banks):
        lanes, seen, other = (mask >> first) & ((1 << banks) - 1), np.int64(0), np.int64(0)
        if lanes == (1 << banks) - 1:  # the common cases: every lane a bank of its own, or all lanes one word
            head = S[base + SM_LANES + first] >> shift
            for i in range(first, first + banks):
                word = S[base + SM_LANES + i] >> shift
                seen |= np.int64(1) << (word & (banks - 1))
                other |= word ^ head
            if seen == lanes or other == 0:
                phases += 1
                continue
        most = 0
        for i in range(banks):
            S[b0 + i] = 0
        for i in range(first, first + banks):
            if not (mask >> i) & 1:
                continue
            word = S[base + SM_LANES + i] >> shift
            at = b0 + (word & (banks - 1))
            if S[at] == 0:
                S[at + 32] = word
            elif S[at + 32] == word:
                continue
            else:
                fresh = True
                for j in range(first, i):
                    if (mask >> j) & 1 and S[base + SM_LANES + j] >> shift == word:
                        fresh = False
                if not fresh:
                    continue
            S[at] += 1
            most = max(most, S[at])
        phases += most
    return max(1, phases)


@njit
def _poisoned(U, w_poison, address, words):
    """Whether one of `words` (a power of two up to 4, aligned) words at a shared address is poison."""
    word = address >> 2
    bits = np.uint32((1 << words) - 1) << np.uint32(word & 31)
    return (U[w_poison + (word >> 5)] & bits) != 0


@njit
def _set_poison(U, w_poison, address, words, poison):
    """Mark `words` (a power of two up to 4, aligned) words at a shared address as poison, or not."""
    word = address >> 2
    bits = np.uint32((1 << words) - 1) << np.uint32(word & 31)
    if poison:
        U[w_poison + (word >> 5)] |= bits
    else:
        U[w_poison + (word >> 5)] &= ~bits


@njit
def _poison_row(U, w_poison, d0, offset):
    """Mark the four words at each of eight shared addresses, U[d0] and the next, plus an offset: mostly of one line."""
    line = (np.int64(U[d0]) + offset) >> 7
    bits, other = np.uint32(0), np.int64(0)
    for lane in range(8):
        address = np.int64(U[d0 + lane]) + offset
        other |= (address >> 7) ^ line
        bits |= np.uint32(15) << np.uint32(address >> 2 & 31)
    if other == 0:
        U[w_poison + line] |= bits
        return
    for lane in range(8):
        _set_poison(U, w_poison, np.int64(U[d0 + lane]) + offset, 4, True)


@njit
def shared_access(S, U, D, row, base, w, mask, e):
    """LDS, STS and LDSM."""
    kind, lane_bytes = D[row + D_KIND], D[row + D_BYTES]
    if D[row + D_A] != RZ and state_of(S, w, D[row + D_A]) == POISON:
        return fail(S, POISON_ADDRESS, 0)
    r0, s0, p0 = S[w + W_REGISTERS], S[w + W_SHARED], S[w + W_POISON]
    a0 = U_ZERO if D[row + D_A] == RZ else r0 + 32 * D[row + D_A]
    if kind == K_LDSM:
        mask = (1 << (8 * D[row + D_REGS])) - 1
    end, odd, moved = np.int64(0), np.int64(0), 32 * lane_bytes
    for lane in range(32):
        address = np.int64(U[a0 + lane]) + D[row + D_IMM]
        S[base + SM_LANES + lane] = address
        end, odd = max(end, address), odd | address
    if mask != FULL or odd < 0 or odd & (lane_bytes - 1) or end + lane_bytes > S[H_SHARED]:
        moved = 0
        for lane in range(32):
            if (mask >> lane) & 1:
                address = S[base + SM_LANES + lane]
                if address < 0 or address + lane_bytes > S[H_SHARED]:
                    return fail(S, SHARED_RANGE, address)
                if address & (lane_bytes - 1):
                    return fail(S, MISALIGNED, address)
                moved += lane_bytes
    phases = _conflict_phases(S, base, mask, lane_bytes)
    least = max(1, -(-moved // 128))
    S[base + SM_COUNTERS + C_CONFLICT] += max(0, phases - least)
    words = max(1, lane_bytes >> 2)
    track = S[H_HAS_PHANTOM] != 0
    if kind == K_STS:
        _entry(S, e, RZ, 0, 0, phases)
        S[base + SM_COUNTERS + C_SHARED_WRITE] += moved
        for j in range(words):
            poison = D[row + D_C] != RZ and state_of(S, w, D[row + D_C] + j) == POISON
            for lane in range(32):
                if not (mask >> lane) & 1:
                    continue
                address = S[base + SM_LANES + lane]
                value = np.uint32(0) if D[row + D_C] == RZ else U[r0 + 32 * (D[row + D_C] + j) + lane]
                if not poison:
                    _put(U, s0, address + 4 * j, lane_bytes, value)
                if track and (poison or lane_bytes >= 4):
                    _set_poison(U, p0, address + 4 * j, 1, poison)
        return NONE
    S[base + SM_COUNTERS + C_SHARED_READ] += moved
    dst, registers = D[row + D_DST], D[row + D_REGS]
    _entry(S, e, dst, registers, S[H_SHARED_LATENCY] + (phases - 1) * S[H_PHASE], phases)
    if dst == RZ:
        return NONE
    if kind == K_LDS:
        for j in range(registers):
            poison = False
            if track:
                for lane in range(32):
                    if (mask >> lane) & 1 and _poisoned(U, p0, S[base + SM_LANES + lane] + 4 * j, 1):
                        poison = True
                        break
            if not poison:
                for lane in range(32):
                    if (mask >> lane) & 1:
                        address = S[base + SM_LANES + lane] + 4 * j
                        U[r0 + 32 * (dst + j) + lane] = _get(U, s0, address, lane_bytes)
            set_register(S, U, w, dst + j, mask, poison, NEVER, CLASS_SHARED)
        return NONE
    for j in range(registers):
        poison = False
        if track:
            for i in range(8):
                if _poisoned(U, p0, S[base + SM_LANES + 8 * j + i], 4):
                    poison = True
                    break
        for lane in range(0 if poison else 32):
            if D[row + D_B]:  # transposed: two 16-bit elements of one column
                low = _get(U, s0, S[base + SM_LANES + 8 * j + 2 * (lane & 3)] + 2 * (lane >> 2), 2)
                high = _get(U, s0, S[base + SM_LANES + 8 * j + 2 * (lane & 3) + 1] + 2 * (lane >> 2), 2)
                value = low | (high << np.uint32(16))
            else:
                value = U[s0 + ((S[base + SM_LANES + 8 * j + (lane >> 2)] + 4 * (lane & 3)) >> 2)]
            U[r0 + 32 * (dst + j) + lane] = value
        set_register(S, U, w, dst + j, FULL, poison, NEVER, CLASS_SHARED)
    return NONE


@njit
def _get(U, u0, address, lane_bytes):
    """A word, or a zero-extended byte or half word, of memory that starts at U[u0]."""
    word = U[u0 + (address >> 2)]
    if lane_bytes >= 4:
        return word
    word = word >> np.uint32(8 * (address & 3))
    return word & np.uint32(0xFFFF if lane_bytes == 2 else 0xFF)


@njit
def _put(U, u0, address, lane_bytes, value):
    """Store a word, half word or byte."""
    at = u0 + (address >> 2)
    if lane_bytes >= 4:
        U[at] = value
        return
    shift = np.uint32(8 * (address & 3))
    bits = np.uint32(0xFFFF if lane_bytes == 2 else 0xFF) << shift
    U[at] = (U[at] & ~bits) | ((value << shift) & bits)


@njit
def _place(S, address, lane_bytes):
    """0 real, 1 phantom, -1 outside; of a peer's window, where peers have theirs."""
    if address >> PEER_AT:
        if not is_peer(S, address >> PEER_AT):
            return -1
        address &= (1 << PEER_AT) - 1
    if address >= 0 and address + lane_bytes <= S[H_REAL_BYTES]:
        return 0
    if address >= S[H_PHANTOM] and address + lane_bytes <= S[H_PHANTOM_END]:
        return 1
    return -1


@njit
def _add_line(S, e, address):
    """Add one lane's sector to the entry's lines; lanes of one access lie in one sector each."""
    line, bit = address >> 7, np.int64(1) << ((address >> 5) & 3)
    count = S[e + Q_LINES]
    for back in range(count):
        i = count - 1 - back
        if S[e + Q_LINE + i] == line:
            if not S[e + Q_MASK + i] & bit:
                S[e + Q_MASK + i] |= bit
                S[e + Q_SECTORS] += 1
            return
    S[e + Q_LINE + count] = line
    S[e + Q_MASK + count] = bit
    S[e + Q_LINES] = count + 1
    S[e + Q_SECTORS] += 1


@njit
def _consecutive(S, base, mask, lane_bytes, e):
    """The common case: 32 lanes one after the other, all real (0) or all phantom (1). Fills the entry's lines.

    -1, and nothing done, for anything else.
    """
    first = S[base + SM_LANES]
    last = first + 32 * lane_bytes
    if mask != FULL or first & (lane_bytes - 1):
        return -1
    place = _place(S, first, 32 * lane_bytes)
    if place < 0:
        return -1
    other = np.int64(0)
    for lane in range(32):
        other |= S[base + SM_LANES + lane] ^ (first + lane * lane_bytes)
    if other:
        return -1
    line, count = first >> 7, 0
    while line << 7 < last:
        low = max(0, (first - (line << 7)) >> 5)
        high = min(3, (last - 1 - (line << 7)) >> 5)
        S[e + Q_LINE + count] = line
        S[e + Q_MASK + count] = (2 << high) - (1 << low)
        S[e + Q_SECTORS] += high - low + 1
        line += 1
        count += 1
    S[e + Q_LINES] = count
    return place


@njit
def _whole_lines(S, base, mask, lane_bytes, e):
    """Rows of a tile: 16 bytes a lane, and each eight lanes are one of four different lines; like `_consecutive`."""
    if mask != FULL or lane_bytes != 16:
        return -1
    at = base + SM_LANES
    a, b, c, d = S[at], S[at + 8], S[at + 16], S[at + 24]
    if (a | b | c | d) & 127 or a == b or a == c or a == d or b == c or b == d or c == d:
        return -1
    other = np.int64(0)
    for lane in range(8):
        other |= (S[at + lane] ^ (a + 16 * lane)) | (S[at + 8 + lane] ^ (b + 16 * lane))
        other |= (S[at + 16 + lane] ^ (c + 16 * lane)) | (S[at + 24 + lane] ^ (d + 16 * lane))
    if other:
        return -1
    place = _place(S, a, 128)
    if place < 0 or _place(S, b, 128) != place or _place(S, c, 128) != place or _place(S, d, 128) != place:
        return -1
    for i in range(4):
        S[e + Q_LINE + i] = S[at + 8 * i] >> 7
        S[e + Q_MASK + i] = 15
    S[e + Q_LINES], S[e + Q_SECTORS] = 4, 16
    return place


@njit
def _one_address(S, base, mask, lane_bytes, e):
    """All lanes read or write one place, real (0) or phantom (1). Fills the entry's line; -1 for anything else."""
    first = S[base + SM_LANES]
    if mask != FULL or first & (lane_bytes - 1):
        return -1
    other = np.int64(0)
    for lane in range(32):
        other |= S[base + SM_LANES + lane] ^ first
    place = _place(S, first, lane_bytes)
    if other == 0 and place >= 0:
        _add_line(S, e, first)
        return place
    return -1


@njit
def global_access(S, U, D, row, base, w, mask, e):
    """LDG, STG, LDGSTS and ULDG: addresses, coalescing into lines, and the values."""
    kind, lane_bytes, registers = D[row + D_KIND], D[row + D_BYTES], D[row + D_REGS]
    a, dst = D[row + D_A], D[row + D_DST]
    r0 = S[w + W_REGISTERS]
    width_phases = 1 if lane_bytes <= 4 else lane_bytes // 4
    if kind == K_ULDG:
        mask, width_phases = 1, 1
        _entry(S, e, UREG0 + dst, 1, S[H_HIT_UNIFORM], 1)
        S[base + SM_LANES] = S[w + W_UNIFORM + a] + D[row + D_IMM]
    else:
        latency = S[H_HIT32] if lane_bytes <= 4 else (S[H_HIT64] if lane_bytes == 8 else S[H_HIT128])
        _entry(S, e, dst, registers, latency, 1)
        if a != RZ and state_of(S, w, a) == POISON:
            return fail(S, POISON_ADDRESS, 0)
        if kind == K_COPY and dst != RZ and state_of(S, w, dst) == POISON:
            return fail(S, POISON_ADDRESS, 0)
        start = S[w + W_UNIFORM + D[row + D_BASE]] + D[row + D_IMM]
        a0 = U_ZERO if a == RZ else r0 + 32 * a
        for lane in range(32):
            S[base + SM_LANES + lane] = start + np.int64(U[a0 + lane])
    phantom = False
    places = _consecutive(S, base, mask, lane_bytes, e)
    if places < 0:
        places = _whole_lines(S, base, mask, lane_bytes, e)
    if places < 0:
        places = _one_address(S, base, mask, lane_bytes, e)
    if places >= 0:
        phantom = places == 1
    else:
        for lane in range(32):
            if (mask >> lane) & 1:
                address = S[base + SM_LANES + lane]
                place = _place(S, address, lane_bytes)
                if place < 0:
                    return fail(S, ADDRESS_RANGE, address)
                if address & (lane_bytes - 1):
                    return fail(S, MISALIGNED, address)
                phantom = phantom or place == 1
                _add_line(S, e, address)
    phases = max(width_phases, S[e + Q_LINES])
    S[e + Q_PHASES] = phases
    S[e + Q_LATENCY] += (phases - width_phases) * S[H_PHASE]
    first = np.int64(0)
    while first < 31 and not (mask >> first) & 1:
        first += 1
    first = S[base + SM_LANES + first]  # the windows of peers are so large that an access lies in one
    g0 = global_words(S, first)
    if first >> PEER_AT and kind == K_STG:
        return _store_to_peer(S, U, D, row, base, w, mask, e)
    if first >> PEER_AT and kind == K_ATOM:
        return fail(S, ADDRESS_RANGE, first)
    if kind == K_ULDG:
        return _load_uniform(S, U, w, dst, g0, S[base + SM_LANES], lane_bytes, phantom)
    if kind == K_STG:
        return _store(S, U, D, row, base, w, mask, places)
    if kind == K_COPY:
        return _copy(S, U, D, row, base, w, mask, places, g0)
    if kind == K_ATOM:
        return _atomic(S, U, D, row, base, w, mask, phantom)
    if dst == RZ:
        return NONE
    for j in range(registers):
        if not phantom:
            d0 = r0 + 32 * (dst + j)
            if lane_bytes >= 4:
                for lane in range(32):
                    if (mask >> lane) & 1:
                        U[d0 + lane] = U[g0 + (S[base + SM_LANES + lane] >> 2) + j]
            else:
                for lane in range(32):
                    if (mask >> lane) & 1:
                        U[d0 + lane] = _get(U, g0, S[base + SM_LANES + lane], lane_bytes)
        set_register(S, U, w, dst + j, mask, phantom, NEVER, CLASS_GLOBAL)
    return NONE


@njit
def _load_uniform(S, U, w, dst, g0, address, lane_bytes, phantom):
    """ULDG: 32 bits sign-extended, or 64."""
    if phantom:
        return fail(S, POISON_UNIFORM, address)
    if dst == URZ:
        return NONE
    low = U[g0 + (address >> 2)]
    value = np.int64(np.int32(low))
    if lane_bytes == 8:
        value = np.int64(low) | (np.int64(np.int32(U[g0 + (address >> 2) + 1])) << 32)
    S[w + W_UNIFORM + dst] = value
    S[w + W_SCORE + UREG0 + dst] = NEVER * 16 + OK * 4 + CLASS_GLOBAL
    return NONE


@njit
def _store(S, U, D, row, base, w, mask, places):
    """STG: a poisoned value is dropped, and counted where the memory is real."""
    lane_bytes, source = D[row + D_BYTES], D[row + D_C]
    r0, g0 = S[w + W_REGISTERS], S[H_U_GLOBAL]
    dropped = False
    for j in range(D[row + D_REGS]):
        poison = source != RZ and state_of(S, w, source + j) == POISON
        for lane in range(32):
            if not (mask >> lane) & 1:
                continue
            address = S[base + SM_LANES + lane]
            if places == 1 or places < 0 and _place(S, address, lane_bytes) == 1:
                continue
            if poison:
                dropped = True
            else:
                value = np.uint32(0) if source == RZ else U[r0 + 32 * (source + j) + lane]
                _put(U, g0, address + 4 * j, lane_bytes, value)
    if dropped:
        S[base + SM_COUNTERS + C_POISONED] += 1
    return NONE


@njit
def _store_to_peer(S, U, D, row, base, w, mask, e):
    """STG to a peer: what is stored goes along with the request. A poisoned value is dropped, and counted."""
    lane_bytes, source, r0 = D[row + D_BYTES], D[row + D_C], S[w + W_REGISTERS]
    dropped = False
    new_landings(S, U, e)
    for j in range(D[row + D_REGS]):
        poison = source != RZ and state_of(S, w, source + j) == POISON
        for lane in range(32):
            if not (mask >> lane) & 1 or _place(S, S[base + SM_LANES + lane], lane_bytes) == 1:
                continue
            if poison:
                dropped = True
            else:
                value = np.uint32(0) if source == RZ else U[r0 + 32 * (source + j) + lane]
                put_landing(S, U, e, S[base + SM_LANES + lane] + 4 * j, lane_bytes, value)
    if dropped:
        S[base + SM_COUNTERS + C_POISONED] += 1
    return NONE


@njit
def _atomic(S, U, D, row, base, w, mask, phantom):
    """ATOM: lane after lane. Phantom words have no value; a poisoned addend is dropped, and counted."""
    r0, g0, dst, source = S[w + W_REGISTERS], S[H_U_GLOBAL], D[row + D_DST], D[row + D_C]
    poison = source != RZ and state_of(S, w, source) == POISON
    dropped = False
    for lane in range(32):
        if not (mask >> lane) & 1:
            continue
        address = S[base + SM_LANES + lane]
        if _place(S, address, 4) == 1:
            continue
        at = g0 + (address >> 2)
        old = U[at]
        if poison:
            dropped = True
        elif source != RZ:
            U[at] = np.uint32(old + U[r0 + 32 * source + lane])
        if dst != RZ and not phantom:
            U[U_RESULT + lane] = old
    if dropped:
        S[base + SM_COUNTERS + C_POISONED] += 1
    if dst != RZ:
        if not phantom:
            for lane in range(32):
                if (mask >> lane) & 1:
                    U[r0 + 32 * dst + lane] = U[U_RESULT + lane]
        set_register(S, U, w, dst, mask, phantom, NEVER, CLASS_GLOBAL)
    return NONE


@njit
def _copy(S, U, D, row, base, w, mask, places, g0):
    """LDGSTS: 16 bytes a lane from global to shared memory."""
    r0, s0, p0 = S[w + W_REGISTERS], S[w + W_SHARED], S[w + W_POISON]
    d0 = U_ZERO if D[row + D_DST] == RZ else r0 + 32 * D[row + D_DST]
    track = S[H_HAS_PHANTOM] != 0
    if mask == FULL and places == 1:
        end, odd = np.int64(0), np.int64(0)
        for lane in range(32):
            target = np.int64(U[d0 + lane]) + D[row + D_B]
            end, odd = max(end, target), odd | target & ~0x3FFFFFF0  # below zero shows in the high bits
        if odd == 0 and end + 16 <= S[H_SHARED]:
            for first in range(0, 32, 8):
                _poison_row(U, p0, d0 + first, D[row + D_B])
            S[base + SM_COUNTERS + C_SHARED_WRITE] += 512
            return NONE
    for lane in range(32):
        if not (mask >> lane) & 1:
            continue
        target = np.int64(U[d0 + lane]) + D[row + D_B]
        if target < 0 or target + 16 > S[H_SHARED]:
            return fail(S, SHARED_RANGE, target)
        if target & 15:
            return fail(S, MISALIGNED, target)
        address = S[base + SM_LANES + lane]
        phantom = places == 1 or places < 0 and _place(S, address, 16) == 1
        if not phantom:
            for j in range(4):
                U[s0 + (target >> 2) + j] = U[g0 + (address >> 2) + j]
        if track:
            _set_poison(U, p0, target, 4, phantom)
        S[base + SM_COUNTERS + C_SHARED_WRITE] += 16
    return NONE
