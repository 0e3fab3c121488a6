"""Compiled memory slices of the fast LPU engine: READ, WRITE, GATHER, SCATTER.

FLAGS of a word: bit k = superlane k was written, bit 32 + k = superlane k is poison.
"""

from __future__ import annotations

import numpy as np

from emulator.lpu.errors import KINDS
from emulator.lpu.state import (
    ACCESS_AT,
    ACCESS_BANKS,
    COLUMN_AT,
    FORM_SIMPLE,
    FULL,
    GATHER_BYTES,
    GATHER_DELAY,
    GATHER_MASK,
    LANE_COUNT,
    NO_DETAIL,
    NOW,
    PEND_DST,
    PEND_ITERATION,
    PEND_POISON,
    PEND_ROW,
    QUEUE_AT,
    QUEUE_SIZE,
    SUPERLANES,
    WORDS_PER_BANK,
    WORDS_PER_SLICE,
)
from emulator.lpu.streams import copy, fail, pend, pending, poison_of, put, take
from emulator.lpu.text import FIELDS, STRIDE
from isa.jit import njit

BANK_CONFLICT, SRAM_UNWRITTEN, POISON_ADDRESS, ADDRESS_RANGE = (
    np.int64(KINDS.index(k)) for k in ("bank_conflict", "sram_unwritten", "poison_address", "address_range"))
ONE_BANK, BOTH_BANKS = np.int64(0), np.int64(1)


@njit
def use_banks(M, T, queue, row, iteration, both):
    """Address of an access (before any map), its banks taken for this cycle; -1 on an error."""
    address = T[row, FIELDS] + T[row, STRIDE] * iteration
    if address < 0 or address >= M[WORDS_PER_SLICE]:
        fail(M, ADDRESS_RANGE, queue, row, iteration, FORM_SIMPLE, address)
        return np.int64(-1)
    banks = np.int64(3) if both else np.int64(1) if address < M[WORDS_PER_BANK] else np.int64(2)
    q = M[QUEUE_AT] + queue * QUEUE_SIZE
    used = M[q + ACCESS_BANKS] if M[q + ACCESS_AT] == M[NOW] else np.int64(0)
    if used & banks:
        fail(M, BANK_CONFLICT, queue, row, iteration, FORM_SIMPLE, used & banks)
        return np.int64(-1)
    M[q + ACCESS_AT] = M[NOW]
    M[q + ACCESS_BANKS] = used | banks
    return address


@njit
def put_word(M, T, SRAM, FLAGS, BYTES, queue, row, iteration):
    """READ: the word is on the slice's column in this cycle."""
    address = use_banks(M, T, queue, row, iteration, ONE_BANK)
    if address < 0:
        return True
    word = queue * M[WORDS_PER_SLICE] + address
    flags = FLAGS[word]
    if flags & M[FULL] != M[FULL]:
        return fail(M, SRAM_UNWRITTEN, queue, row, iteration, FORM_SIMPLE, word)
    poison = flags >> 32
    register = put(M, T[row, FIELDS + 1], M[M[COLUMN_AT] + queue], poison, queue, row, iteration)
    if register < 0:
        return True
    if poison != M[FULL]:
        lanes = M[LANE_COUNT]
        copy(BYTES, register * lanes, SRAM, word * lanes, lanes)
    return False


@njit
def write(M, T, SRAM, FLAGS, BYTES, queue, row, iteration):
    address = use_banks(M, T, queue, row, iteration, ONE_BANK)
    if address < 0:
        return True
    register = take(M, T[row, FIELDS + 1], M[M[COLUMN_AT] + queue], queue, row, iteration)
    if register < 0:
        return True
    word = queue * M[WORDS_PER_SLICE] + address
    poison = poison_of(M, register)
    FLAGS[word] = M[FULL] | (poison << 32)
    if poison != M[FULL]:
        lanes = M[LANE_COUNT]
        copy(SRAM, word * lanes, BYTES, register * lanes, lanes)
    return False


@njit
def map_register(M, T, queue, row, iteration):
    """Register of a GATHER's or SCATTER's map; -1 on an error."""
    register = take(M, T[row, FIELDS + 2], M[M[COLUMN_AT] + queue], queue, row, iteration)
    if register >= 0 and poison_of(M, register) != 0:
        fail(M, POISON_ADDRESS, queue, row, iteration, FORM_SIMPLE, NO_DETAIL)
        return np.int64(-1)
    return register


@njit
def mapped(M, BYTES, map_at, base, k):
    """Address of superlane k: base + the 16-bit value in its first two lanes, inside the slice."""
    address = base + np.int64(BYTES[map_at + 16 * k]) + (np.int64(BYTES[map_at + 16 * k + 1]) << 8)
    last = M[WORDS_PER_SLICE] - 1
    return address if address < last else last


@njit
def gather(M, T, SRAM, FLAGS, BYTES, queue, row, iteration):
    base = use_banks(M, T, queue, row, iteration, BOTH_BANKS)
    if base < 0:
        return True
    register = map_register(M, T, queue, row, iteration)
    if register < 0:
        return True
    lanes = M[LANE_COUNT]
    when = M[NOW] + M[GATHER_DELAY]
    to = M[GATHER_BYTES] + (queue * (M[GATHER_MASK] + 1) + (when & M[GATHER_MASK])) * lanes
    poison = np.int64(0)
    for k in range(M[SUPERLANES]):
        word = queue * M[WORDS_PER_SLICE] + mapped(M, BYTES, register * lanes, base, k)
        flags = FLAGS[word]
        if (flags >> k) & 1 == 0:
            return fail(M, SRAM_UNWRITTEN, queue, row, iteration, FORM_SIMPLE, word)
        poison |= (flags >> 32) & (np.int64(1) << k)
        copy(BYTES, to + 16 * k, SRAM, word * lanes + 16 * k, 16)
    pend(M, queue, when, T[row, FIELDS + 1], poison, row, iteration)
    return False


@njit
def gather_appears(M, T, BYTES, queue):
    t = M[NOW]
    p = pending(M, queue, t)
    register = put(M, M[p + PEND_DST], M[M[COLUMN_AT] + queue], M[p + PEND_POISON], queue, M[p + PEND_ROW],
                   M[p + PEND_ITERATION])
    if register < 0:
        return True
    lanes = M[LANE_COUNT]
    copy(BYTES, register * lanes, BYTES,
         M[GATHER_BYTES] + (queue * (M[GATHER_MASK] + 1) + (t & M[GATHER_MASK])) * lanes, lanes)
    return False


@njit
def scatter(M, T, SRAM, FLAGS, BYTES, queue, row, iteration):
    base = use_banks(M, T, queue, row, iteration, BOTH_BANKS)
    if base < 0:
        return True
    register = take(M, T[row, FIELDS + 1], M[M[COLUMN_AT] + queue], queue, row, iteration)
    if register < 0:
        return True
    addresses = map_register(M, T, queue, row, iteration)
    if addresses < 0:
        return True
    lanes = M[LANE_COUNT]
    poison = poison_of(M, register)
    for k in range(M[SUPERLANES]):
        word = queue * M[WORDS_PER_SLICE] + mapped(M, BYTES, addresses * lanes, base, k)
        bit = np.int64(1) << k
        FLAGS[word] = (FLAGS[word] & ~(bit << 32)) | bit | ((poison & bit) << 32)
        if poison & bit == 0:
            copy(SRAM, word * lanes + 16 * k, BYTES, register * lanes + 16 * k, 16)
    return False
