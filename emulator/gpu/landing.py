"""Stores to peers, from their issue to the cycle in which they land in the peer's memory.

A store to a peer is not seen at its issue like one to the GPU's own memory: who polls a flag must find it when it
arrives, not before. At its issue every line of it gets a record with its bytes (layout.LANDING); the memory path
says when it lands (emulator/gpu/nvlink.py). Peers do the same at the same time, so record n of this GPU is on its
way to the peer at distance d exactly when record n of that peer is on its way to this one: landing means to take the
peer's record. A GPU that stands for all takes its own.

A record is free again after the window in which it has landed, when no peer needs it any more.
"""

from __future__ import annotations

import numpy as np

from emulator.gpu.layout import (
    H_LANDED,
    H_LANDING,
    H_LANDINGS,
    H_LANDINGS_USED,
    H_RANK,
    H_RANKS,
    H_STRIDE,
    H_U_GLOBAL,
    H_U_LANDINGS,
    LANDING,
    LANDING_DATA,
    LANDING_MASK,
    Q_LANDING,
    Q_LINE,
    Q_LINES,
)
from emulator.gpu.memory_layout import LANDED, LANDED_FIRST, LANDED_LAST, LANDED_SIZE
from emulator.gpu.timing import LINE_AT_PEER, PEER_AT
from isa.jit import njit


@njit
def peer_words(S, distance):
    """How far a peer's part of U is from this rank's."""
    return ((S[H_RANK] ^ distance) - S[H_RANK]) * S[H_STRIDE]


@njit
def global_words(S, address):
    """The word of U that holds address 0 of the memory in whose window an address lies, less that window's words:
    add the whole address >> 2."""
    distance = address >> PEER_AT
    if distance == 0:
        return S[H_U_GLOBAL]
    return S[H_U_GLOBAL] + peer_words(S, distance) - (distance << PEER_AT - 2)


@njit
def is_peer(S, distance):
    """Whether there is a peer at a distance."""
    return 0 < distance < S[H_RANKS]


@njit
def new_landings(S, U, e):
    """Give each line of the store in queue entry e a record without bytes; the first is S[e + Q_LANDING]."""
    S[e + Q_LANDING] = -1
    for back in range(S[e + Q_LINES]):
        line = S[e + Q_LINE + S[e + Q_LINES] - 1 - back]
        n = S[H_LANDING]
        if n >= 0:
            S[H_LANDING] = S[S[H_LANDINGS] + n]
        else:
            n = S[H_LANDINGS_USED]
            S[H_LANDINGS_USED] = n + 1
        u = S[H_U_LANDINGS] + n * LANDING
        U[u], U[u + 1] = np.uint32(line & 0xFFFFFFFF), np.uint32(line >> 32)
        for i in range(LANDING_MASK, LANDING_MASK + 4):
            U[u + i] = 0
        S[S[H_LANDINGS] + n] = S[e + Q_LANDING]
        S[e + Q_LANDING] = n


@njit
def put_landing(S, U, e, address, lane_bytes, value):
    """A word, half word or byte of the store in queue entry e."""
    i, n = 0, S[e + Q_LANDING]
    while S[e + Q_LINE + i] != address >> 7:
        i += 1
        n = S[S[H_LANDINGS] + n]
    u = S[H_U_LANDINGS] + n * LANDING
    at, size = address & 127, min(lane_bytes, 4)
    word, shift = at >> 2, np.uint32(8 * (at & 3))
    bits = np.uint32((np.int64(1) << 8 * size) - 1) << shift
    U[u + LANDING_DATA + word] = (U[u + LANDING_DATA + word] & ~bits) | ((value << shift) & bits)
    U[u + LANDING_MASK + (at >> 5)] |= np.uint32((1 << size) - 1) << np.uint32(at & 31)


@njit
def _land(S, U, n):
    """Record n of the peer at the distance of this rank's record n is written to this rank's memory."""
    own = S[H_U_LANDINGS] + n * LANDING
    distance = (np.int64(U[own]) | np.int64(U[own + 1]) << 32) >> LINE_AT_PEER
    u = own + peer_words(S, distance)
    line = (np.int64(U[u]) | np.int64(U[u + 1]) << 32) & (1 << LINE_AT_PEER) - 1
    for word in range(32):
        four = U[u + LANDING_MASK + (word >> 3)] >> np.uint32(4 * (word & 7)) & np.uint32(15)
        if four == 0:
            continue
        bits = np.uint32(0)
        for i in range(4):
            if four >> np.uint32(i) & np.uint32(1):
                bits |= np.uint32(0xFF) << np.uint32(8 * i)
        at = S[H_U_GLOBAL] + (line << 5) + word
        U[at] = (U[at] & ~bits) | (U[u + LANDING_DATA + word] & bits)


@njit
def land_until(S, U, M, t):
    """Write to memory what has landed by cycle t."""
    while M[LANDED_FIRST] != M[LANDED_LAST]:
        first = M[LANDED_FIRST]
        if M[M[LANDED] + 2 * first] > t:
            return
        n = M[M[LANDED] + 2 * first + 1]
        _land(S, U, n)
        S[S[H_LANDINGS] + n] = S[H_LANDED]
        S[H_LANDED] = n
        M[LANDED_FIRST] = first + 1 if first + 1 < M[LANDED_SIZE] else 0


@njit
def recycle(S):
    """What landed in the window before can be used again."""
    while S[H_LANDED] >= 0:
        n = S[H_LANDED]
        S[H_LANDED] = S[S[H_LANDINGS] + n]
        S[S[H_LANDINGS] + n] = S[H_LANDING]
        S[H_LANDING] = n
