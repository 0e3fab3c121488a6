"""The fast GPU memory system below L1: SM ports, crossbar, L2 slices, DRAM, on one flat int64 array.

emulator/gpu/naive_memory.py defines the machine one cycle at a time; this does the same. Times are SM
cycles. Nothing that an SM does at cycle t can come back to it before t + 3 + both crossbar latencies.
So the system is run in windows of that length, one channel with its slices after the other: every
response that is due within the window is known before it begins (`advance`), whoever calls when.
emulator/gpu/memory_layout.py names the words of the array M.
"""

from __future__ import annotations

import numpy as np

from emulator.dram import layout as dram
from emulator.dram.address import scramble
from emulator.dram.controller import push, run_channel
from emulator.dram.layout import E_AUX, E_NEXT, E_TAG, E_TIME, INF
from emulator.gpu.memory_layout import (
    ARRIVE_N,
    ARRIVE_RING,
    ARRIVE_T,
    DIRTY,
    DONE,
    DUE_N,
    DUE_RING,
    DUE_T,
    FREE_NODE,
    FROM_DRAM,
    HEADER_BYTES,
    IN_BYTES,
    IN_PORT,
    KNOWN,
    LEAST_DRAM,
    LINE_AT,
    LIVE,
    MSHR_AT,
    MSHRS,
    N_L2_EVICT,
    N_L2_FILL,
    N_L2_HIT,
    N_L2_MERGED,
    N_L2_READ,
    N_L2_WRITE,
    N_L2_WRITEBACK,
    N_REQUESTS,
    NEXT_DUE,
    NODES_LOST,
    NOTHING,
    ONE,
    OUT_BYTES,
    OUT_PORT,
    PCS_PER_SLICE,
    R_FLAGS,
    R_LINE,
    R_LOCAL,
    R_NEXT,
    R_PC,
    R_PREVIOUS,
    R_SLICE,
    R_TAG,
    R_TIME,
    RATIO_DRAM,
    RATIO_SM,
    READY,
    RING,
    S_BUFFERS,
    S_FILL_T,
    S_FREE_AT,
    S_FREE_T,
    S_HEAD,
    S_MSHR,
    S_OUT,
    S_SINK,
    S_STALLED,
    S_TAIL,
    S_WORDS,
    SECTOR_BYTES,
    SETS,
    SETTLE,
    SLICE_BASE,
    SLICE_BYTES,
    SLICE_WORDS,
    SLICES,
    SLICES_PER_CHANNEL,
    SYNC,
    TO_DRAM,
    TO_SLICE,
    TO_SM,
    VALID,
    WAYS,
    D,
    build,
    counters,
)
from isa.jit import njit

__all__ = ["LIVE", "advance", "build", "counters", "next_event", "pop_response", "request", "settle"]


@njit
def _sectors(mask):
    return (mask & 1) + (mask >> 1 & 1) + (mask >> 2 & 1) + (mask >> 3 & 1)


@njit
def _through_port(M, port, rate, t, size):
    """Cycle in which `size` bytes that are there at t have passed a port of `rate` bytes a cycle."""
    if rate == 0:
        return t + 1
    end = max(t * rate, M[port]) + size
    M[port] = end
    return max(t + 1, (end + rate - 1) // rate)


@njit
def request(M, now, sm, line, mask, write, tag):
    """An SM hands over a request for sectors of a 128-byte line; always taken. Ask `advance` first.

    now: SM cycle, never before the latest `advance`. The tag comes back from `pop_response`.
    """
    e = M[FREE_NODE]
    if e < 0:  # the SM broke its own limits of outstanding sectors and stores
        M[NODES_LOST] += 1
        return
    M[FREE_NODE] = M[e + R_NEXT]
    if M[LIVE] == 0:
        M[SYNC] = now + M[TO_SLICE] + M[TO_SM] + 3
    M[LIVE] += 1
    M[N_REQUESTS] += 1
    size = M[HEADER_BYTES] + write * SECTOR_BYTES * _sectors(mask)
    t = _through_port(M, M[OUT_PORT] + sm, M[OUT_BYTES], now, size) + M[TO_SLICE]
    lines = M[D + dram.CHUNK_LINES]
    total = M[D + dram.TOTAL_PC]
    chunk = scramble(line // lines, M[D + dram.SCRAMBLE_BITS])
    pc = chunk % total
    M[e + R_TIME] = t
    M[e + R_PC] = pc
    M[e + R_LINE] = line
    M[e + R_FLAGS] = mask | write << 4 | sm << 8
    M[e + R_TAG] = tag
    M[e + R_LOCAL] = chunk // total * lines + line % lines
    # Into the slice's queue, in order of arrival; at the same time the lower SM first.
    s = M[SLICE_BASE] + pc // M[PCS_PER_SLICE] * M[SLICE_WORDS]
    after = -1
    before = M[s + S_TAIL]
    while before >= 0 and (M[before + R_TIME] > t or (M[before + R_TIME] == t and M[before + R_FLAGS] >> 8 > sm)):
        after = before
        before = M[before + R_PREVIOUS]
    M[e + R_NEXT] = after
    M[e + R_PREVIOUS] = before
    if before < 0:
        M[s + S_HEAD] = e
    else:
        M[before + R_NEXT] = e
    if after < 0:
        M[s + S_TAIL] = e
    else:
        M[after + R_PREVIOUS] = e


@njit
def _respond(M, s, number, e, t):
    """The slice answers request e at t: through its output and the crossbar, to the SM's port."""
    flags = M[e + R_FLAGS]
    size = 0 if flags & 16 else SECTOR_BYTES * _sectors(flags & 15)
    t = _through_port(M, s + S_OUT, M[SLICE_BYTES], t, size) + M[TO_SM]
    M[e + R_TIME] = t
    M[e + R_SLICE] = number
    M[ARRIVE_N] += 1
    # Into the bucket; at the same time the lower slice first, then in the slice's order.
    bucket = M[ARRIVE_RING] + 2 * (t & (RING - 1))
    last = M[bucket + 1]
    if last < 0:
        M[e + R_NEXT] = -1
        M[bucket] = e
        M[bucket + 1] = e
    elif M[last + R_SLICE] <= number:
        M[e + R_NEXT] = -1
        M[last + R_NEXT] = e
        M[bucket + 1] = e
    else:
        before = -1
        after = M[bucket]
        while M[after + R_SLICE] <= number:
            before = after
            after = M[after + R_NEXT]
        M[e + R_NEXT] = after
        if before < 0:
            M[bucket] = e
        else:
            M[before + R_NEXT] = e


@njit
def _to_dram(M, t, pc, local, line, mask, write, tags):
    """Send a line's sectors to DRAM: the controller has them to_dram_latency later, rounded up."""
    block = local // (M[D + dram.CHUNK_LINES] * M[D + dram.ROW_CHUNKS])
    banks = M[D + dram.BANKS]
    arrival = ((t + M[TO_DRAM]) * M[RATIO_DRAM] + M[RATIO_SM] - 1) // M[RATIO_SM]
    push(M, D, pc, block % banks, block // banks, mask, write, arrival, line, tags << 4 | mask)


@njit
def _access(M, s, number, e, t):
    """The slice looks request e up at t. False: it has to wait for a fill or a free buffer."""
    line = M[e + R_LINE]
    flags = M[e + R_FLAGS]
    mask = flags & 15
    write = flags >> 4 & 1
    pc = M[e + R_PC]
    per_slice = M[PCS_PER_SLICE]
    dense = M[e + R_LOCAL] * per_slice + pc % per_slice
    tags = s + S_WORDS + 2 * M[MSHRS] + dense % M[SETS] * M[WAYS]
    way = 0
    last = M[WAYS] - 1
    word = M[tags]
    while (word >> LINE_AT != line or word & 0xFFF == 0) and way < last:
        way += 1
        word = M[tags + way]
    found = word >> LINE_AT == line and word & 0xFFF != 0
    valid = word >> VALID & 15 if found else 0
    coming = word & 15 if found else 0
    absent = mask & ~valid
    fetch = 0 if write else absent & ~coming
    mshr = M[s + S_MSHR]
    if fetch and coming == 0 and mshr < 0:
        return False
    if not found:
        while way >= 0 and M[tags + way] & 15:  # the least recently used that waits for nothing
            way -= 1
        if way < 0:
            return False
        old = M[tags + way]
        dirty = old >> DIRTY & 15
        if dirty:  # write it back, through a buffer
            if M[s + S_BUFFERS] == 0:
                return False
            M[s + S_BUFFERS] -= 1
            lines = M[D + dram.CHUNK_LINES]
            total = M[D + dram.TOTAL_PC]
            chunk = scramble((old >> LINE_AT) // lines, M[D + dram.SCRAMBLE_BITS])
            local = chunk // total * lines + (old >> LINE_AT) % lines
            _to_dram(M, t, chunk % total, local, old >> LINE_AT, dirty, ONE, tags)
            M[N_L2_WRITEBACK] += _sectors(dirty)
        if old:
            M[N_L2_EVICT] += 1
        word = line << LINE_AT
    if write:
        word |= mask << VALID | mask << DIRTY
        M[N_L2_WRITE] += _sectors(mask)
    else:
        M[N_L2_READ] += _sectors(mask)
        M[N_L2_HIT] += _sectors(mask & valid)
        M[N_L2_MERGED] += _sectors(absent & coming)
    if fetch:
        M[N_L2_FILL] += _sectors(fetch)
        if coming == 0:
            slot = s + S_WORDS + 2 * mshr
            M[s + S_MSHR] = M[slot]
            M[slot] = -1
            M[slot + 1] = -1
            word = word & ~(0xFFF << MSHR_AT) | mshr << MSHR_AT
        word |= fetch
        _to_dram(M, t, pc, M[e + R_LOCAL], line, fetch, write, tags)
    for i in range(way, 0, -1):
        M[tags + i] = M[tags + i - 1]
    M[tags] = word
    if write or absent == 0:
        _respond(M, s, number, e, t)
    else:
        slot = s + S_WORDS + 2 * (word >> MSHR_AT & 0xFFF)
        M[e + R_NEXT] = -1
        if M[slot] < 0:
            M[slot] = e
        else:
            M[M[slot + 1] + R_NEXT] = e
        M[slot + 1] = e
    return True


@njit
def _fill(M, s, number, d, t):
    """Sectors of DRAM entry d arrive in the slice at t: answer what has waited for nothing else."""
    line = M[d + E_TAG]
    tags = M[d + E_AUX] >> 4
    mask = M[d + E_AUX] & 15
    way = 0
    while M[tags + way] >> LINE_AT != line:
        way += 1
    word = M[tags + way] & ~mask | mask << VALID
    M[tags + way] = word
    coming = word & 15
    mshr = word >> MSHR_AT & 0xFFF
    slot = s + S_WORDS + 2 * mshr
    e = M[slot]
    last = -1
    M[slot] = -1
    while e >= 0:
        after = M[e + R_NEXT]
        if M[e + R_FLAGS] & coming:
            M[e + R_NEXT] = -1
            if last < 0:
                M[slot] = e
            else:
                M[last + R_NEXT] = e
            last = e
        else:
            _respond(M, s, number, e, t)
        e = after
    M[slot + 1] = last
    if coming == 0:
        M[slot] = M[s + S_MSHR]
        M[s + S_MSHR] = mshr


@njit
def _next_finished(M, s, side, taken):
    """Set the cycle in which the next finished read (0) or write (1) of DRAM reaches the slice.

    taken: how many to take out of the list first, 0 or 1.
    """
    sink = s + S_SINK + 2 * side
    e = M[sink]
    if taken:
        M[sink] = M[e + E_NEXT]
        M[e + E_NEXT] = M[D + dram.FREE]
        M[D + dram.FREE] = e
        e = M[sink]
    t = INF
    if e >= 0:
        t = (M[e + E_TIME] * M[RATIO_SM] + M[RATIO_DRAM] - 1) // M[RATIO_DRAM] + M[FROM_DRAM]
    M[s + S_FILL_T + side] = t


@njit
def _run_slice(M, number, until):
    """Run one slice through cycle `until`: in each cycle fills, freed buffers, then one request."""
    s = M[SLICE_BASE] + number * M[SLICE_WORDS]
    rate = M[SLICE_BYTES]
    for side in range(2):
        _next_finished(M, s, side, NOTHING)
    while True:
        e = M[s + S_HEAD]
        look = INF
        if e >= 0 and M[s + S_STALLED] == 0:
            look = max(M[e + R_TIME], M[s + S_FREE_AT])
            if rate:  # the output has to be free
                look = max(look, (M[s + S_OUT] + rate - 1) // rate)
        t = min(look, M[s + S_FILL_T], M[s + S_FREE_T])
        if t > until:
            break
        if M[s + S_FILL_T] == t or M[s + S_FREE_T] == t:
            for side in range(2):
                while M[s + S_FILL_T + side] == t:
                    if side == 0:
                        _fill(M, s, number, M[s + S_SINK], t)
                    else:
                        M[s + S_BUFFERS] += 1
                    _next_finished(M, s, side, ONE)
            if M[s + S_STALLED]:  # try again, now at the earliest
                M[s + S_STALLED] = 0
                M[s + S_FREE_AT] = t
            continue
        if look == t:
            after = M[e + R_NEXT]  # the link is used again for whatever list comes next
            cycles = 1
            if M[e + R_FLAGS] & 16 and rate:
                size = SECTOR_BYTES * _sectors(M[e + R_FLAGS] & 15)
                cycles = max(1, (size + rate - 1) // rate)
            if _access(M, s, number, e, t):
                M[s + S_FREE_AT] = t + cycles
                M[s + S_HEAD] = after
                if after < 0:
                    M[s + S_TAIL] = -1
                else:
                    M[after + R_PREVIOUS] = -1
            else:
                M[s + S_STALLED] = 1


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
                    if flags & 16 == 0:
                        size += SECTOR_BYTES * _sectors(flags & 15)
                    due = _through_port(M, M[IN_PORT] + (flags >> 8), M[IN_BYTES], t, size)
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
def advance(M, now):
    """Make every response known that is due at or before `now`; `now` never goes back."""
    settling = M[SETTLE]
    if settling == 0 and (M[LIVE] == 0 or now < M[SYNC]):
        return
    start = M[DONE]
    until = now + M[TO_SLICE]  # what SMs ask for from now on reaches a slice later
    per = M[SLICES_PER_CHANNEL]
    for channel in range(M[SLICES] // per):
        c = M[D + dram.CH_BASE] + channel * M[D + dram.CH_WORDS]
        busy = M[c + dram.PENDING] > 0
        done = until  # nothing happens before the first arrival, unless DRAM works
        for number in range(channel * per, channel * per + per):
            s = M[SLICE_BASE] + number * M[SLICE_WORDS]
            busy |= M[s + S_SINK] >= 0 or M[s + S_SINK + 2] >= 0
            if M[s + S_HEAD] >= 0:
                done = min(done, max(start, M[M[s + S_HEAD] + R_TIME] - 1))
        if busy:
            done = start
        while done < until or settling:
            # No slice can send anything after its cycle `done` that DRAM has before this cycle is over.
            last = ((done + 1 + M[TO_DRAM]) * M[RATIO_DRAM] + M[RATIO_SM] - 1) // M[RATIO_SM] - 1
            run_channel(M, D, channel, last)
            if done >= until:
                break
            # And what DRAM finishes later reaches no slice before this one is over.
            back = ((last + 1 + M[LEAST_DRAM]) * M[RATIO_SM] + M[RATIO_DRAM] - 1) // M[RATIO_DRAM] + M[FROM_DRAM]
            done = min(until, back - 1)
            for number in range(channel * per, channel * per + per):
                _run_slice(M, number, done)
    if until > start:
        M[DONE] = until
        _deliver(M, until + 1 + M[TO_SM])
        M[KNOWN] = until + 2 + M[TO_SM]
        if M[NEXT_DUE] == INF:
            _find_due(M)
    M[SYNC] = M[KNOWN] + 1


@njit
def next_event(M):
    """Earliest cycle at which a response is due or `advance` has to be called; 2**62 if never."""
    if M[READY] >= 0:
        return 0
    if M[LIVE] == 0:
        return INF
    return min(M[NEXT_DUE], M[SYNC])


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
