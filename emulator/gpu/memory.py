"""The fast GPU memory system below L1: SM ports, crossbar, L2 slices, DRAM, on one flat int64 array.

emulator/gpu/naive_memory.py defines the machine one cycle at a time; this does the same. Times are SM
cycles. Nothing that an SM does at cycle t can come back to it before t + 3 + both crossbar latencies.
So the system is run in stretches of that length: every response that is due within one is known before
it begins (`advance`), whoever calls when. Within a stretch one channel with its slices is run after the
other, in windows no longer than the way over the link between the two partitions.
emulator/gpu/memory_layout.py names the words of the array M.
"""

from __future__ import annotations

import numpy as np

from emulator.dram import layout as dram
from emulator.dram.controller import run_channel
from emulator.dram.layout import INF
from emulator.gpu.l2 import enqueue, place_of, run_slice, sectors, through_port
from emulator.gpu.memory_layout import (
    ARRIVE_N,
    ARRIVE_RING,
    ARRIVE_T,
    DONE,
    DUE_N,
    DUE_RING,
    DUE_T,
    FAR,
    FREE_NODE,
    FROM_DRAM,
    HEADER_BYTES,
    IN_BYTES,
    IN_PORT,
    KNOWN,
    LEAST_DRAM,
    LINK_LATENCY,
    LIVE,
    MSHRS,
    N_REQUESTS,
    N_TLB_MISS,
    NEXT_DUE,
    NODES_LOST,
    OUT_BYTES,
    OUT_PORT,
    PAGE_SHIFT,
    PARTITIONS,
    PC_BITS,
    PCS_SHIFT,
    PEER,
    R_FLAGS,
    R_LINE,
    R_NEXT,
    R_PLACE,
    R_SET,
    R_TAG,
    R_TIME,
    RATIO_DRAM,
    RATIO_SM,
    READY,
    RING,
    S_WORDS,
    SECTOR_BYTES,
    SET_MASK,
    SETTLE,
    SLICES,
    SLICES_PER_CHANNEL,
    SM_AT,
    SM_MASK,
    SMS,
    STRETCH,
    SYNC,
    TLB,
    TLB_ENTRIES,
    TLB_MISS,
    TO_DRAM,
    TO_SLICE,
    TO_SM,
    WAKE,
    WAYS,
    WINDOW,
    WRITE,
    D,
    build,
    counters,
)
from emulator.gpu.nvlink import port, send
from emulator.gpu.timing import LINE_AT_PEER
from isa.jit import njit, prefetcher

prefetch = prefetcher()

__all__ = ["LIVE", "advance", "build", "counters", "horizon", "next_event", "pop_response", "request", "settle"]


@njit
def _translate(M, sm, line):
    """Cycles that the SM's TLB adds: its pages stand in order of last use."""
    entries = M[TLB_ENTRIES]
    if entries == 0:
        return 0
    page = line >> M[PAGE_SHIFT]
    first = M[TLB] + sm * entries
    if M[first] == page:
        return 0
    at = 1
    while at < entries and M[first + at] != page:
        at += 1
    known = at < entries
    for i in range(at if known else entries - 1, 0, -1):
        M[first + i] = M[first + i - 1]
    M[first] = page
    if known:
        return 0
    M[N_TLB_MISS] += 1
    return M[TLB_MISS]


@njit
def request(M, now, sm, line, mask, write, tag):
    """An SM hands over a request for sectors of a 128-byte line; always taken. Ask `advance` first.

    now: SM cycle, never before the latest `advance`. The tag comes back from `pop_response`.
    """
    distance = line >> LINE_AT_PEER
    e = M[FREE_NODE]
    if e < 0:  # the SM broke its own limits of outstanding sectors and stores
        M[NODES_LOST] += 1
        return
    M[FREE_NODE] = M[e + R_NEXT]
    prefetch(M, M[e + R_NEXT])
    if M[LIVE] == 0:
        M[SYNC] = now + M[STRETCH]
    M[LIVE] += 1
    M[N_REQUESTS] += 1
    size = M[HEADER_BYTES] + write * SECTOR_BYTES * sectors(mask)
    t = through_port(M, M[OUT_PORT] + sm, M[OUT_BYTES], now, size) + M[TO_SLICE] + _translate(M, sm, line)
    line -= distance << LINE_AT_PEER
    place = place_of(M, line)
    pc = place & (1 << PC_BITS) - 1
    split = M[PCS_SHIFT]
    number = pc >> split
    flags = mask | write << 4 | sm << SM_AT
    if distance:
        flags |= PEER
    elif M[PARTITIONS] == 2:
        half = M[SLICES] >> 1
        if (2 * sm >= M[SMS]) != (number >= half):  # the home is in the other partition
            if write:
                flags |= FAR
                t += M[LINK_LATENCY]
            else:
                number += half if number < half else -half
    dense = place >> PC_BITS << split | pc & (1 << split) - 1
    M[e + R_LINE] = line
    M[e + R_FLAGS] = flags
    M[e + R_TAG] = tag
    M[e + R_SET] = S_WORDS + 2 * M[MSHRS] + (dense & M[SET_MASK]) * M[WAYS]
    M[e + R_PLACE] = place
    if distance:
        send(M, sm, e, t)
    else:
        enqueue(M, number, e, t)


@njit
def _deliver(M, until):
    """Pass the responses that reach the SMs by cycle `until` through their input ports."""
    t = M[ARRIVE_T]
    while t <= until and M[ARRIVE_N] > 0:
        bucket = M[ARRIVE_RING] + 2 * (t & (RING - 1))
        e = M[bucket]
        if e >= 0:
            M[bucket] = -1
            M[bucket + 1] = -1
            while e >= 0:
                after = M[e + R_NEXT]
                M[e + R_NEXT] = -1
                if M[e + R_TIME] == t:
                    flags = M[e + R_FLAGS]
                    size = M[HEADER_BYTES]
                    if flags & WRITE == 0:
                        size += SECTOR_BYTES * sectors(flags & 15)
                    due = through_port(M, M[IN_PORT] + ((flags & SM_MASK) >> SM_AT), M[IN_BYTES], t, size)
                    M[e + R_TIME] = due
                    M[ARRIVE_N] -= 1
                    M[DUE_N] += 1
                    target = M[DUE_RING] + 2 * (due & (RING - 1))
                else:  # its turn comes when the ring has gone round
                    target = bucket
                if M[target] < 0:
                    M[target] = e
                else:
                    M[M[target + 1] + R_NEXT] = e
                M[target + 1] = e
                e = after
        t += 1
    M[ARRIVE_T] = until + 1


@njit
def _find_due(M):
    """Set NEXT_DUE to the first known due time from DUE_T on."""
    t = M[DUE_T]
    M[NEXT_DUE] = INF
    while t <= M[KNOWN] and M[DUE_N] > 0:
        e = M[M[DUE_RING] + 2 * (t & (RING - 1))]
        while e >= 0:
            if M[e + R_TIME] == t:
                M[NEXT_DUE] = t
                M[DUE_T] = t
                return
            e = M[e + R_NEXT]
        t += 1
    M[DUE_T] = M[KNOWN] + 1


@njit
def _dram_until(M, done):
    """The last DRAM cycle that is over before what a slice sends after its cycle `done` gets there."""
    return ((done + 1 + M[TO_DRAM]) * M[RATIO_DRAM] + M[RATIO_SM] - 1) // M[RATIO_SM] - 1


@njit
def _window(M, start, until):
    """Run every channel with its slices from cycle `start` through cycle `until`."""
    per = M[SLICES_PER_CHANNEL]
    for channel in range(M[SLICES] // per):
        wake = M[M[WAKE] + channel]
        if wake > until:
            continue
        c = M[D + dram.CH_BASE] + channel * M[D + dram.CH_WORDS]
        for word in range(M[D + dram.CH_WORDS], 2 * M[D + dram.CH_WORDS], 8):  # the next channel's turn comes soon
            prefetch(M, c + word)
        done = max(start, wake - 1)  # nothing happens before
        while done < until:
            last = _dram_until(M, done)
            run_channel(M, D, channel, last)
            # And what DRAM finishes later reaches no slice before this one is over.
            back = ((last + 1 + M[LEAST_DRAM]) * M[RATIO_SM] + M[RATIO_DRAM] - 1) // M[RATIO_DRAM] + M[FROM_DRAM]
            done = min(until, back - 1)
            wake = INF
            for number in range(channel * per, channel * per + per):
                wake = min(wake, run_slice(M, number, done))
        M[M[WAKE] + channel] = until + 1 if M[c + dram.PENDING] > 0 else wake


@njit
def advance(M, now):
    """Make every response known that is due at or before `now`; `now` never goes back."""
    until = now + M[TO_SLICE]  # what SMs ask for from now on reaches a slice later
    if M[SETTLE] == 0 and (M[LIVE] == 0 or now < M[SYNC]):
        return
    while M[DONE] < until:
        port(M, M[DONE] + 1)
        # A slice hears nothing from its partner's cycle DONE + 1 before the end of the window.
        end = min(until, M[DONE] + M[WINDOW])
        _window(M, M[DONE], end)
        M[DONE] = end
    if M[SETTLE]:
        for channel in range(M[SLICES] // M[SLICES_PER_CHANNEL]):
            run_channel(M, D, channel, _dram_until(M, until))
        return
    port(M, until)
    _deliver(M, until + 1 + M[TO_SM])
    M[KNOWN] = until + 2 + M[TO_SM]
    if M[NEXT_DUE] == INF:
        _find_due(M)
    M[SYNC] = now + M[STRETCH]


@njit
def next_event(M):
    """Earliest cycle at which a response is due or `advance` has to be called; 2**62 if never."""
    if M[READY] >= 0:
        return 0
    if M[LIVE] == 0:
        return INF
    return min(M[NEXT_DUE], M[SYNC])


@njit
def horizon(M, now):
    """The first cycle in which a response may be due that `advance(M, now)` has not made known."""
    if M[LIVE] == 0:
        return now + M[STRETCH]
    return M[SYNC]


@njit
def pop_response(M, now):
    """Tag of the next response (or store acknowledgement) due at or before `now`, or -1.

    Order: due time, then time of arrival at the SM's port, then slice, then the slice's order.
    """
    if M[READY] < 0:
        t = M[NEXT_DUE]
        if t > now:
            return -1
        bucket = M[DUE_RING] + 2 * (t & (RING - 1))
        e = M[bucket]
        M[bucket] = -1
        M[bucket + 1] = -1
        while e >= 0:
            after = M[e + R_NEXT]
            M[e + R_NEXT] = -1
            target = bucket
            if M[e + R_TIME] == t:
                M[DUE_N] -= 1
                target = READY
            if M[target] < 0:
                M[target] = e
            else:
                M[M[target + 1] + R_NEXT] = e
            M[target + 1] = e
            e = after
        M[DUE_T] = t + 1
        _find_due(M)
    e = M[READY]
    M[READY] = M[e + R_NEXT]
    M[e + R_NEXT] = M[FREE_NODE]
    M[FREE_NODE] = e
    M[LIVE] -= 1
    return M[e + R_TAG]


def settle(state: np.ndarray, now: int) -> None:
    """With nothing outstanding: let DRAM run ahead to a fixed distance, so that its counters are exact.

    Writes that L2 has sent may still wait there. The twin's `settle` stops at the same DRAM cycle.
    """
    state[SETTLE] = 1
    advance(state, now)
    state[SETTLE] = 0
