"""The NVLink port of a GPU whose peers do the same at the same time.

What this GPU asks of the peer at distance d in some cycle, the peer at distance d asks of it in the same cycle. So
a request that leaves through the port is, a link's latency later, the mirrored request that a peer has sent, and is
served by this GPU's own slices; its answer leaves through the same port, as that to the peer, and a latency later
is the peer's answer to this GPU, and goes on to the SM. The port passes bytes in order: requests of SMs first, by
SM, then answers, by slice. Part of emulator/gpu/memory.py; emulator/gpu/naive_memory.py defines it.

A store to a peer lands as if it had been issued there `request_latency` + 1 before it reaches its slice (values move
when instructions issue), though not before it has left the port. What has landed stands in the order of landing in
a ring of (cycle, number of what is stored).
"""

from __future__ import annotations

from emulator.dram import layout as dram
from emulator.gpu.l2 import append, enqueue, into_ring, sectors, through_port
from emulator.gpu.memory_layout import (
    ANSWER,
    ARRIVE_N,
    ARRIVE_RING,
    BANK_COUNT,
    EARLY,
    LANDED,
    LANDED_LAST,
    LANDED_SIZE,
    LANDING_AT,
    N_PEER_BYTES,
    N_PEER_REQUESTS,
    N_PEER_SECTORS,
    PC_BITS,
    PCS_SHIFT,
    PEER_BYTES,
    PEER_HEADER,
    PEER_LATENCY,
    PEER_N,
    PEER_PORT,
    PEER_RING,
    PEER_T,
    R_FLAGS,
    R_NEXT,
    R_PLACE,
    R_TAG,
    R_TIME,
    RING,
    SECTOR_BYTES,
    SLICES,
    SM_AT,
    SM_MASK,
    TO_SM,
    TRACE,
    WRITE,
    D,
)
from emulator.trace import KIND_INDEX
from emulator.trace_record import record
from isa.jit import njit

NVLINK = KIND_INDEX["nvlink"]


@njit
def send(M, sm, e, t):
    """A request of an SM for a peer reaches the port at t."""
    M[N_PEER_REQUESTS] += 1
    M[N_PEER_SECTORS] += sectors(M[e + R_FLAGS] & 15)
    M[PEER_N] += 1
    into_ring(M, M[PEER_RING], t, sm, e)


@njit
def _leave(M, e, t):
    """A request or an answer that has reached the port at t leaves, and arrives."""
    flags = M[e + R_FLAGS]
    size = M[PEER_HEADER]
    if (flags & WRITE == 0) == (flags & ANSWER != 0):  # the answer to a read, or a write
        size += SECTOR_BYTES * sectors(flags & 15)
    M[N_PEER_BYTES] += size
    begin = t
    t = through_port(M, PEER_PORT, M[PEER_BYTES], t, size)
    if M[TRACE] != 0:
        port = M[SLICES] + M[D + dram.TOTAL_PC] * M[BANK_COUNT]
        record(M, M[TRACE], NVLINK, port, begin, t, -1, (flags & SM_MASK) >> SM_AT, 0, size)
    number = (M[e + R_PLACE] & (1 << PC_BITS) - 1) >> M[PCS_SHIFT]
    if flags & ANSWER:
        M[ARRIVE_N] += 1
        into_ring(M, M[ARRIVE_RING], t + M[PEER_LATENCY] + M[TO_SM], M[SLICES] + number, e)
        return
    enqueue(M, number, e, t + M[PEER_LATENCY])
    landing = M[e + R_TAG] >> LANDING_AT
    if landing > 0:
        last = M[LANDED_LAST]
        M[M[LANDED] + 2 * last] = t + M[EARLY]
        M[M[LANDED] + 2 * last + 1] = landing - 1
        M[LANDED_LAST] = last + 1 if last + 1 < M[LANDED_SIZE] else 0


@njit
def port(M, until):
    """Everything that reaches the port by cycle `until` leaves; what does is known by then."""
    t = M[PEER_T]
    while t <= until and M[PEER_N] > 0:
        bucket = M[PEER_RING] + 2 * (t & (RING - 1))
        e = M[bucket]
        M[bucket] = -1
        M[bucket + 1] = -1
        while e >= 0:
            after = M[e + R_NEXT]
            if M[e + R_TIME] == t:
                M[PEER_N] -= 1
                _leave(M, e, t)
            else:  # its turn comes when the ring has gone round
                append(M, bucket, e)
            e = after
        t += 1
    M[PEER_T] = max(M[PEER_T], until + 1)
