"""One slice of the fast GPU's L2: lookups, fills, the link to its partner in the other partition.

Part of emulator/gpu/memory.py; emulator/gpu/memory_layout.py names the words of the array M.
"""

from __future__ import annotations

import numpy as np

from emulator.dram import layout as dram
from emulator.dram.address import scramble
from emulator.dram.controller import push
from emulator.dram.layout import E_AUX, E_NEXT, E_TAG, E_TIME, INF
from emulator.gpu.memory_layout import (
    ANSWER,
    ARRIVE_N,
    ARRIVE_RING,
    BANK_COUNT,
    CHUNK_SHIFT,
    COPIED,
    DIRTY,
    DROP,
    FAR,
    FREE_NODE,
    FROM_DRAM,
    HEADER_BYTES,
    LINE_AT,
    LINK,
    LINK_BYTES,
    LINK_LATENCY,
    MSHR_AT,
    MSHRS,
    N_DROPPED,
    N_FAR,
    N_FAR_HIT,
    N_FAR_MERGED,
    N_L2_EVICT,
    N_L2_FILL,
    N_L2_HIT,
    N_L2_MERGED,
    N_L2_READ,
    N_L2_WRITE,
    N_L2_WRITEBACK,
    N_PEER_SERVED,
    NOTHING,
    ONE,
    PARTITIONS,
    PC_BITS,
    PCS_SHIFT,
    PEER,
    PEER_N,
    PEER_RING,
    R_FLAGS,
    R_KEY,
    R_LINE,
    R_NEXT,
    R_PLACE,
    R_PREVIOUS,
    R_SET,
    R_TIME,
    RATIO_DRAM,
    RATIO_SM,
    RING,
    ROW_SHIFT,
    S_ASKED,
    S_BUFFERS,
    S_COPIES,
    S_FILL_T,
    S_FREE_AT,
    S_FREE_T,
    S_HEAD,
    S_IN_T,
    S_INBOX,
    S_LINK,
    S_MSHR,
    S_OUT,
    S_OUT_T,
    S_SINK,
    S_STALLED,
    S_TAIL,
    S_WORDS,
    SECTOR_BYTES,
    SLICE_BASE,
    SLICE_BYTES,
    SLICE_WORDS,
    SLICES,
    SLICES_PER_CHANNEL,
    SM_AT,
    SM_MASK,
    SMS,
    TO_DRAM,
    TO_SM,
    TRACE,
    VALID,
    WAKE,
    WAYS,
    WRITE,
    D,
)
from emulator.trace import KIND_INDEX
from emulator.trace_record import record
from isa.jit import njit, prefetcher

prefetch = prefetcher()

TAKEN, FOR_ANY, FOR_MSHR, FOR_COPY = range(4)  # what _access says
# S_STALLED: the partner's first request (A) or the SMs' (E) waits; the others: for an MSHR, for one of a copy.
A_STALLED, E_STALLED, A_MSHR, E_MSHR, E_COPY = 1, 2, 4, 8, 16

L2_READ, L2_WRITE, L2_FILL = (np.int64(KIND_INDEX[name]) for name in ("l2_read", "l2_write", "l2_fill"))
NO_SM = np.int64(-1)


@njit
def sectors(mask):
    return (mask & 1) + (mask >> 1 & 1) + (mask >> 2 & 1) + (mask >> 3 & 1)


@njit
def trace_slice(M, kind, number, t, mask, flags):
    """A slice serves sectors of a line at t; flags say for which SM."""
    sm = (flags & SM_MASK) >> SM_AT if flags >= 0 else flags
    record(M, M[TRACE], kind, number, t, t + 1, -1, sm, 0, SECTOR_BYTES * sectors(mask))


@njit
def through_port(M, port, rate, t, size):
    """Cycle in which `size` bytes that are there at t have passed a port of `rate` bytes a cycle."""
    if rate == 0:
        return t + 1
    end = max(t * rate, M[port]) + size
    M[port] = end
    return max(t + 1, (end + rate - 1) // rate)


@njit
def append(M, first, e):
    """Put a request at the end of the list whose first and last are M[first] and M[first + 1]."""
    M[e + R_NEXT] = -1
    if M[first] < 0:
        M[first] = e
    else:
        M[M[first + 1] + R_NEXT] = e
    M[first + 1] = e


@njit
def into_ring(M, ring, t, key, e):
    """Put a node into the bucket of cycle t of a ring: at the same time the lower key first, then in order."""
    M[e + R_TIME] = t
    M[e + R_KEY] = key
    bucket = ring + 2 * (t & (RING - 1))
    last = M[bucket + 1]
    if last < 0 or M[last + R_KEY] <= key:
        append(M, bucket, e)
        return
    before = -1
    after = M[bucket]
    while M[after + R_KEY] <= key:
        before = after
        after = M[after + R_NEXT]
    M[e + R_NEXT] = after
    if before < 0:
        M[bucket] = e
    else:
        M[before + R_NEXT] = e


@njit
def enqueue(M, number, e, t):
    """Put a request into a slice's queue, in order of arrival; at the same time the lower SM first, peers' last."""
    M[e + R_TIME] = t
    sm = M[e + R_FLAGS] >> SM_AT
    wake = M[WAKE] + number // M[SLICES_PER_CHANNEL]
    M[wake] = min(M[wake], t)
    s = M[SLICE_BASE] + number * M[SLICE_WORDS]
    after = -1
    before = M[s + S_TAIL]
    while before >= 0 and (M[before + R_TIME] > t or (M[before + R_TIME] == t and M[before + R_FLAGS] >> SM_AT > sm)):
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
def place_of(M, line):
    """Where the address map puts a line: line of its pseudo-channel << PC_BITS | pseudo-channel."""
    shift = M[CHUNK_SHIFT]
    total = M[D + dram.TOTAL_PC]
    chunk = scramble(line >> shift, M[D + dram.SCRAMBLE_BITS], total, M[D + dram.STRIDE])
    high = chunk // total
    return (high << shift | line & (1 << shift) - 1) << PC_BITS | chunk - high * total


@njit
def _partner(M, number):
    half = M[SLICES] >> 1
    return number + half if number < half else number - half


@njit
def _over_link(M, s, number, e, t, size, inbox):
    """Send node e from a slice to its partner: a request into its queue, anything else into its inbox."""
    t = through_port(M, s + S_LINK, M[LINK_BYTES], t, size) + M[LINK_LATENCY]
    M[e + R_TIME] = t
    other = _partner(M, number)
    target = M[SLICE_BASE] + other * M[SLICE_WORDS]
    if inbox:
        if M[target + S_INBOX] < 0:
            M[target + S_IN_T] = t
        append(M, target + S_INBOX, e)
    else:
        append(M, target + S_ASKED, e)
    wake = M[WAKE] + other // M[SLICES_PER_CHANNEL]
    M[wake] = min(M[wake], t)


@njit
def _message(M, line, flags, set_at, place):
    """A node for the link."""
    e = M[FREE_NODE]
    M[FREE_NODE] = M[e + R_NEXT]
    M[e + R_LINE] = line
    M[e + R_FLAGS] = flags | LINK
    M[e + R_SET] = set_at
    M[e + R_PLACE] = place
    return e


@njit
def _respond(M, s, number, e, t):
    """The slice answers request e at t: through its output and the crossbar, to the SM's port; or over the link."""
    flags = M[e + R_FLAGS]
    if flags & LINK:
        _over_link(M, s, number, e, t, M[HEADER_BYTES] + SECTOR_BYTES * sectors(flags & 15), True)
        return
    size = 0 if flags & WRITE else SECTOR_BYTES * sectors(flags & 15)
    free = max(t, M[s + S_OUT_T])
    t = through_port(M, s + S_OUT, M[SLICE_BYTES], t, size)
    M[s + S_OUT_T] = t if size else free
    if flags & PEER:  # back to the peer that asked, through the GPU's port
        M[e + R_FLAGS] = flags | ANSWER
        M[N_PEER_SERVED] += 1
        M[PEER_N] += 1
        into_ring(M, M[PEER_RING], t, M[SMS] + number, e)
        return
    t += M[TO_SM]
    if flags & FAR:
        t += M[LINK_LATENCY]
    M[ARRIVE_N] += 1
    into_ring(M, M[ARRIVE_RING], t, number, e)


@njit
def _to_dram(M, t, place, line, mask, write, set_at):
    """Send a line's sectors to DRAM: the controller has them to_dram_latency later, rounded up."""
    block = place >> PC_BITS + M[ROW_SHIFT]
    row = block // M[BANK_COUNT]
    arrival = ((t + M[TO_DRAM]) * M[RATIO_DRAM] + M[RATIO_SM] - 1) // M[RATIO_SM]
    push(M, D, place & (1 << PC_BITS) - 1, block - row * M[BANK_COUNT], row, mask, write, arrival, line,
         set_at << 4 | mask)


@njit
def _write_back(M, s, set_at, word, t):
    """Send the dirty sectors of an evicted line to DRAM."""
    line = word >> LINE_AT
    M[s + S_BUFFERS] -= 1
    _to_dram(M, t, place_of(M, line), line, word >> DIRTY & 15, ONE, set_at)
    M[N_L2_WRITEBACK] += sectors(word >> DIRTY & 15)


@njit
def _access(M, s, number, e, t):
    """The slice looks request e up at t. Returns TAKEN, or what has to come first: anything, an MSHR that becomes free,
    or one of a copy."""
    line = M[e + R_LINE]
    flags = M[e + R_FLAGS]
    set_at = M[e + R_SET]
    place = M[e + R_PLACE]
    mask = flags & 15
    write = flags >> 4 & 1
    copy = (place & (1 << PC_BITS) - 1) >> M[PCS_SHIFT] != number
    tags = s + set_at
    last = tags + M[WAYS] - 1
    there = False  # all at once, as the host compares several words in one instruction: mostly the line is not there
    for i in range(M[WAYS]):
        there |= M[tags + i] >> LINE_AT == line
    way = tags if there else last
    word = M[way]
    while (word >> LINE_AT != line or word & 0xFFF == 0) and way < last:
        way += 1
        word = M[way]
    found = there and word >> LINE_AT == line and word & 0xFFF != 0
    valid = word >> VALID & 15 if found else 0
    coming = word & 15 if found else 0
    absent = mask & ~valid
    fetch = 0 if write else absent & ~coming
    mshr = M[s + S_MSHR]
    if fetch and coming == 0:
        if copy and M[s + S_COPIES] == M[MSHRS] >> 1:
            return FOR_COPY
        if mshr < 0:
            return FOR_MSHR
    if not found:
        if copy:
            waiting = 0
            for at in range(tags, last + 1):
                waiting += 1 if M[at] & 15 else 0
            if waiting >= M[WAYS] >> 1:
                return FOR_ANY
        while way >= tags and M[way] & 15:  # the least recently used that waits for nothing
            way -= 1
        if way < tags:
            return FOR_ANY
        old = M[way]
        if old >> DIRTY & 15:  # write it back, through a buffer
            if M[s + S_BUFFERS] == 0:
                return FOR_ANY
            _write_back(M, s, set_at, old, t)
        if old:
            M[N_L2_EVICT] += 1
        word = line << LINE_AT
    if write:
        if M[PARTITIONS] == 2 and (not found or word & COPIED):
            _over_link(M, s, number, _message(M, line, mask | DROP, set_at, place), t, M[HEADER_BYTES], True)
            word &= ~COPIED
        word |= mask << VALID | mask << DIRTY
        M[N_L2_WRITE] += sectors(mask)
        if M[TRACE] != 0:
            trace_slice(M, L2_WRITE, number, t, mask, flags)
    elif flags & LINK:
        word |= COPIED
        M[N_FAR] += sectors(mask)
        M[N_FAR_HIT] += sectors(mask & valid)
        M[N_FAR_MERGED] += sectors(absent & coming)
    else:
        M[N_L2_READ] += sectors(mask)
        if M[TRACE] != 0:
            trace_slice(M, L2_READ, number, t, mask, flags)
        M[N_L2_HIT] += sectors(mask & valid)
        M[N_L2_MERGED] += sectors(absent & coming)
    if fetch:
        if coming == 0:
            slot = s + S_WORDS + 2 * mshr
            M[s + S_MSHR] = M[slot]
            M[slot] = -1
            M[slot + 1] = -1
            word = word & ~(0xFFF << MSHR_AT) | mshr << MSHR_AT
            M[s + S_COPIES] += copy
        word |= fetch
        if copy:
            _over_link(M, s, number, _message(M, line, fetch, set_at, place), t, M[HEADER_BYTES], False)
        else:
            M[N_L2_FILL] += sectors(fetch)
            _to_dram(M, t, place, line, fetch, NOTHING, set_at)
    moved = word
    for i in range(way - tags + 1):  # first, and the others one place on
        moved, M[tags + i] = M[tags + i], moved
    if write or absent == 0:
        _respond(M, s, number, e, t)
    else:
        append(M, s + S_WORDS + 2 * (word >> MSHR_AT & 0xFFF), e)
    return TAKEN


@njit
def _fill(M, s, number, line, set_at, mask, copy, t):
    """Sectors of a line come to the slice at t: answer what has waited for nothing else."""
    way = s + set_at
    while M[way] >> LINE_AT != line or M[way] & 0xFFF == 0:
        way += 1
    word = M[way] & ~mask | mask << VALID
    M[way] = word
    coming = word & 15
    mshr = word >> MSHR_AT & 0xFFF
    slot = s + S_WORDS + 2 * mshr
    e = M[slot]
    M[slot] = -1
    M[slot + 1] = -1
    while e >= 0:
        after = M[e + R_NEXT]
        if M[e + R_FLAGS] & coming:
            append(M, slot, e)
        else:
            _respond(M, s, number, e, t)
        e = after
    if coming == 0:
        M[slot] = M[s + S_MSHR]
        M[s + S_MSHR] = mshr
        M[s + S_COPIES] -= copy
        M[s + S_STALLED] &= ~(A_MSHR | E_MSHR | copy * E_COPY)


@njit
def _drop(M, s, line, set_at, mask):
    """Forget sectors of a copy, if there is one: the home has been written."""
    tags = s + set_at
    last = tags + M[WAYS] - 1
    way = tags
    while (M[way] >> LINE_AT != line or M[way] & 0xFFF == 0) and way < last:
        way += 1
    word = M[way]
    if word >> LINE_AT != line or word & 0xFFF == 0:
        return
    M[N_DROPPED] += 1
    word &= ~(mask << VALID)
    if word & 0xFFF:
        M[way] = word
        return
    while way < last:  # an empty place is the first to be used
        M[way] = M[way + 1]
        way += 1
    M[last] = 0


@njit
def _expect(M, s, set_at):
    """A set will be looked through soon: its words of up to 24 ways are brought near."""
    prefetch(M, s + set_at)
    prefetch(M, s + set_at + 8)
    prefetch(M, s + set_at + 16)


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
        _expect(M, s, M[e + E_AUX] >> 4)
    M[s + S_FILL_T + side] = t


@njit
def _arrivals(M, s, number, t):
    """What reaches the slice at t: from DRAM, freed write buffers, over the link."""
    while M[s + S_FILL_T] == t:
        d = M[s + S_SINK]
        aux = M[d + E_AUX]
        if M[TRACE] != 0:
            trace_slice(M, L2_FILL, number, t, aux & 15, NO_SM)
        _fill(M, s, number, M[d + E_TAG], aux >> 4, aux & 15, NOTHING, t)
        _next_finished(M, s, NOTHING, ONE)
    while M[s + S_FREE_T] == t:
        M[s + S_BUFFERS] += 1
        _next_finished(M, s, ONE, ONE)
    while M[s + S_IN_T] == t:
        e = M[s + S_INBOX]
        after = M[e + R_NEXT]
        M[s + S_INBOX] = after
        M[s + S_IN_T] = INF
        if after >= 0:
            M[s + S_IN_T] = M[after + R_TIME]
            _expect(M, s, M[after + R_SET])
        flags = M[e + R_FLAGS]
        if flags & DROP:
            _drop(M, s, M[e + R_LINE], M[e + R_SET], flags & 15)
        else:
            _fill(M, s, number, M[e + R_LINE], M[e + R_SET], flags & 15, ONE, t)
        M[e + R_NEXT] = M[FREE_NODE]
        M[FREE_NODE] = e


@njit
def run_slice(M, number, until):
    """Run one slice through cycle `until`: in each cycle arrivals, then one request. Says when it goes on."""
    s = M[SLICE_BASE] + number * M[SLICE_WORDS]
    rate = M[SLICE_BYTES]
    _next_finished(M, s, NOTHING, NOTHING)
    _next_finished(M, s, ONE, NOTHING)
    while True:
        a = M[s + S_ASKED]  # the partner's first request goes before the SMs' first
        e = M[s + S_HEAD]
        stalled = M[s + S_STALLED]
        look = INF
        if a >= 0 and stalled & A_STALLED == 0:
            look = M[a + R_TIME]
        if e >= 0 and stalled & E_STALLED == 0:
            look = min(look, M[e + R_TIME])
        if look < INF:
            look = max(look, M[s + S_FREE_AT])
            if rate:  # the output has to be free
                look = max(look, M[s + S_OUT_T])
        come = min(M[s + S_FILL_T], M[s + S_FREE_T], M[s + S_IN_T])
        t = min(look, come)
        if t > until:
            return t
        if come == t:
            _arrivals(M, s, number, t)
            if stalled:  # try again, now at the earliest; not what waits for an MSHR that is still in use
                stalled = M[s + S_STALLED]
                left = A_MSHR | A_STALLED if stalled & A_MSHR else 0
                if stalled & (E_MSHR | E_COPY):
                    left |= stalled & (E_MSHR | E_COPY) | E_STALLED
                M[s + S_STALLED] = left
                M[s + S_FREE_AT] = max(M[s + S_FREE_AT], t)
            continue
        if a >= 0 and stalled & A_STALLED == 0 and M[a + R_TIME] <= t:
            after = M[a + R_NEXT]
            if after >= 0:
                _expect(M, s, M[after + R_SET])
            missing = _access(M, s, number, a, t)
            if missing != TAKEN:
                M[s + S_STALLED] = stalled | A_STALLED | (A_MSHR if missing == FOR_MSHR else 0)
                continue
            M[s + S_ASKED] = after
            M[s + S_FREE_AT] = t + 1
        else:
            after = M[e + R_NEXT]  # the link is used again for whatever list comes next
            if after >= 0:
                _expect(M, s, M[after + R_SET])
            cycles = 1
            if M[e + R_FLAGS] & WRITE and rate:
                cycles = max(1, (SECTOR_BYTES * sectors(M[e + R_FLAGS] & 15) + rate - 1) // rate)
            missing = _access(M, s, number, e, t)
            if missing != TAKEN:
                waits = E_COPY if missing == FOR_COPY else (E_MSHR if missing == FOR_MSHR else 0)
                M[s + S_STALLED] = stalled | E_STALLED | waits
                continue
            M[s + S_FREE_AT] = t + cycles
            M[s + S_HEAD] = after
            if after < 0:
                M[s + S_TAIL] = -1
            else:
                M[after + R_PREVIOUS] = -1
        M[s + S_STALLED] = 0  # what one request changes may be what the other waits for
