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
from emulator.dram.address import scramble
from emulator.dram.controller import push, run_channel
from emulator.dram.layout import E_AUX, E_NEXT, E_TAG, E_TIME, INF
from emulator.gpu.memory_layout import (
    ARRIVE_N,
    ARRIVE_RING,
    ARRIVE_T,
    BANK_COUNT,
    CHUNK_SHIFT,
    COPIED,
    DIRTY,
    DONE,
    DROP,
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
    LINE_AT,
    LINK,
    LINK_BYTES,
    LINK_LATENCY,
    LIVE,
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
    N_REQUESTS,
    N_TLB_MISS,
    NEXT_DUE,
    NODES_LOST,
    NOTHING,
    ONE,
    OUT_BYTES,
    OUT_PORT,
    PAGE_SHIFT,
    PARTITIONS,
    PC_BITS,
    PCS_SHIFT,
    R_FLAGS,
    R_LINE,
    R_NEXT,
    R_PLACE,
    R_PREVIOUS,
    R_SET,
    R_SLICE,
    R_TAG,
    R_TIME,
    RATIO_DRAM,
    RATIO_SM,
    READY,
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
    S_SINK,
    S_STALLED,
    S_TAIL,
    S_WORDS,
    SECTOR_BYTES,
    SET_MASK,
    SETTLE,
    SLICE_BASE,
    SLICE_BYTES,
    SLICE_WORDS,
    SLICES,
    SLICES_PER_CHANNEL,
    SM_AT,
    SMS,
    SYNC,
    TLB,
    TLB_ENTRIES,
    TLB_MISS,
    TO_DRAM,
    TO_SLICE,
    TO_SM,
    VALID,
    WAKE,
    WAYS,
    WINDOW,
    WRITE,
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
def _append(M, first, e):
    """Put a request at the end of the list whose first and last are M[first] and M[first + 1]."""
    M[e + R_NEXT] = -1
    if M[first] < 0:
        M[first] = e
    else:
        M[M[first + 1] + R_NEXT] = e
    M[first + 1] = e


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
    t = _through_port(M, M[OUT_PORT] + sm, M[OUT_BYTES], now, size) + M[TO_SLICE] + _translate(M, sm, line)
    shift = M[CHUNK_SHIFT]
    total = M[D + dram.TOTAL_PC]
    chunk = scramble(line >> shift, M[D + dram.SCRAMBLE_BITS], total, M[D + dram.STRIDE])
    high = chunk // total
    pc = chunk - high * total
    local = high << shift | line & (1 << shift) - 1
    split = M[PCS_SHIFT]
    number = pc >> split
    flags = mask | write << 4 | sm << SM_AT
    if M[PARTITIONS] == 2:
        half = M[SLICES] >> 1
        if (2 * sm >= M[SMS]) != (number >= half):  # the home is in the other partition
            if write:
                flags |= FAR
                t += M[LINK_LATENCY]
            else:
                number += half if number < half else -half
    dense = local << split | pc & (1 << split) - 1
    M[e + R_TIME] = t
    M[e + R_LINE] = line
    M[e + R_FLAGS] = flags
    M[e + R_TAG] = tag
    M[e + R_SET] = S_WORDS + 2 * M[MSHRS] + (dense & M[SET_MASK]) * M[WAYS]
    M[e + R_PLACE] = local << PC_BITS | pc
    wake = M[WAKE] + number // M[SLICES_PER_CHANNEL]
    M[wake] = min(M[wake], t)
    # Into the slice's queue, in order of arrival; at the same time the lower SM first.
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
def _partner(M, number):
    half = M[SLICES] >> 1
    return number + half if number < half else number - half


@njit
def _over_link(M, s, number, e, t, size, inbox):
    """Send node e from a slice to its partner: a request into its queue, anything else into its inbox."""
    t = _through_port(M, s + S_LINK, M[LINK_BYTES], t, size) + M[LINK_LATENCY]
    M[e + R_TIME] = t
    other = _partner(M, number)
    target = M[SLICE_BASE] + other * M[SLICE_WORDS]
    if inbox:
        if M[target + S_INBOX] < 0:
            M[target + S_IN_T] = t
        _append(M, target + S_INBOX, e)
    else:
        _append(M, target + S_ASKED, e)
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
        _over_link(M, s, number, e, t, M[HEADER_BYTES] + SECTOR_BYTES * _sectors(flags & 15), True)
        return
    size = 0 if flags & WRITE else SECTOR_BYTES * _sectors(flags & 15)
    t = _through_port(M, s + S_OUT, M[SLICE_BYTES], t, size) + M[TO_SM]
    if flags & FAR:
        t += M[LINK_LATENCY]
    M[e + R_TIME] = t
    M[e + R_SLICE] = number
    M[ARRIVE_N] += 1
    # Into the bucket; at the same time the lower slice first, then in the slice's order.
    bucket = M[ARRIVE_RING] + 2 * (t & (RING - 1))
    last = M[bucket + 1]
    if last < 0 or M[last + R_SLICE] <= number:
        _append(M, bucket, e)
        return
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
    shift = M[CHUNK_SHIFT]
    total = M[D + dram.TOTAL_PC]
    chunk = scramble(line >> shift, M[D + dram.SCRAMBLE_BITS], total, M[D + dram.STRIDE])
    high = chunk // total
    local = high << shift | line & (1 << shift) - 1
    M[s + S_BUFFERS] -= 1
    _to_dram(M, t, local << PC_BITS | chunk - high * total, line, word >> DIRTY & 15, ONE, set_at)
    M[N_L2_WRITEBACK] += _sectors(word >> DIRTY & 15)


@njit
def _access(M, s, number, e, t):
    """The slice looks request e up at t. False: it has to wait for a fill or a free buffer."""
    line = M[e + R_LINE]
    flags = M[e + R_FLAGS]
    set_at = M[e + R_SET]
    place = M[e + R_PLACE]
    mask = flags & 15
    write = flags >> 4 & 1
    copy = (place & (1 << PC_BITS) - 1) >> M[PCS_SHIFT] != number
    tags = s + set_at
    last = tags + M[WAYS] - 1
    way = tags
    word = M[way]
    while (word >> LINE_AT != line or word & 0xFFF == 0) and way < last:
        way += 1
        word = M[way]
    found = word >> LINE_AT == line and word & 0xFFF != 0
    valid = word >> VALID & 15 if found else 0
    coming = word & 15 if found else 0
    absent = mask & ~valid
    fetch = 0 if write else absent & ~coming
    mshr = M[s + S_MSHR]
    if fetch and coming == 0 and (mshr < 0 or copy and M[s + S_COPIES] == M[MSHRS] >> 1):
        return False
    if not found:
        if copy:
            waiting = 0
            for at in range(tags, last + 1):
                waiting += 1 if M[at] & 15 else 0
            if waiting >= M[WAYS] >> 1:
                return False
        while way >= tags and M[way] & 15:  # the least recently used that waits for nothing
            way -= 1
        if way < tags:
            return False
        old = M[way]
        if old >> DIRTY & 15:  # write it back, through a buffer
            if M[s + S_BUFFERS] == 0:
                return False
            _write_back(M, s, set_at, old, t)
        if old:
            M[N_L2_EVICT] += 1
        word = line << LINE_AT
    if write:
        if M[PARTITIONS] == 2 and (not found or word & COPIED):
            _over_link(M, s, number, _message(M, line, mask | DROP, set_at, place), t, M[HEADER_BYTES], True)
            word &= ~COPIED
        word |= mask << VALID | mask << DIRTY
        M[N_L2_WRITE] += _sectors(mask)
    elif flags & LINK:
        word |= COPIED
        M[N_FAR] += _sectors(mask)
        M[N_FAR_HIT] += _sectors(mask & valid)
        M[N_FAR_MERGED] += _sectors(absent & coming)
    else:
        M[N_L2_READ] += _sectors(mask)
        M[N_L2_HIT] += _sectors(mask & valid)
        M[N_L2_MERGED] += _sectors(absent & coming)
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
            M[N_L2_FILL] += _sectors(fetch)
            _to_dram(M, t, place, line, fetch, NOTHING, set_at)
    while way > tags:
        M[way] = M[way - 1]
        way -= 1
    M[tags] = word
    if write or absent == 0:
        _respond(M, s, number, e, t)
    else:
        _append(M, s + S_WORDS + 2 * (word >> MSHR_AT & 0xFFF), e)
    return True


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
            _append(M, slot, e)
        else:
            _respond(M, s, number, e, t)
        e = after
    if coming == 0:
        M[slot] = M[s + S_MSHR]
        M[s + S_MSHR] = mshr
        M[s + S_COPIES] -= copy


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
def _arrivals(M, s, number, t):
    """What reaches the slice at t: from DRAM, freed write buffers, over the link."""
    while M[s + S_FILL_T] == t:
        d = M[s + S_SINK]
        aux = M[d + E_AUX]
        _fill(M, s, number, M[d + E_TAG], aux >> 4, aux & 15, NOTHING, t)
        _next_finished(M, s, NOTHING, ONE)
    while M[s + S_FREE_T] == t:
        M[s + S_BUFFERS] += 1
        _next_finished(M, s, ONE, ONE)
    while M[s + S_IN_T] == t:
        e = M[s + S_INBOX]
        after = M[e + R_NEXT]
        M[s + S_INBOX] = after
        M[s + S_IN_T] = M[after + R_TIME] if after >= 0 else INF
        flags = M[e + R_FLAGS]
        if flags & DROP:
            _drop(M, s, M[e + R_LINE], M[e + R_SET], flags & 15)
        else:
            _fill(M, s, number, M[e + R_LINE], M[e + R_SET], flags & 15, ONE, t)
        M[e + R_NEXT] = M[FREE_NODE]
        M[FREE_NODE] = e


@njit
def _run_slice(M, number, until):
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
        if a >= 0 and stalled & 1 == 0:
            look = M[a + R_TIME]
        if e >= 0 and stalled & 2 == 0:
            look = min(look, M[e + R_TIME])
        if look < INF:
            look = max(look, M[s + S_FREE_AT])
            if rate:  # the output has to be free
                look = max(look, (M[s + S_OUT] + rate - 1) // rate)
        come = min(M[s + S_FILL_T], M[s + S_FREE_T], M[s + S_IN_T])
        t = min(look, come)
        if t > until:
            return t
        if come == t:
            _arrivals(M, s, number, t)
            if stalled:  # try again, now at the earliest
                M[s + S_STALLED] = 0
                M[s + S_FREE_AT] = max(M[s + S_FREE_AT], t)
            continue
        if a >= 0 and stalled & 1 == 0 and M[a + R_TIME] <= t:
            after = M[a + R_NEXT]
            if not _access(M, s, number, a, t):
                M[s + S_STALLED] = stalled | 1
                continue
            M[s + S_ASKED] = after
            M[s + S_FREE_AT] = t + 1
        else:
            after = M[e + R_NEXT]  # the link is used again for whatever list comes next
            cycles = 1
            if M[e + R_FLAGS] & WRITE and rate:
                cycles = max(1, (SECTOR_BYTES * _sectors(M[e + R_FLAGS] & 15) + rate - 1) // rate)
            if not _access(M, s, number, e, t):
                M[s + S_STALLED] = stalled | 2
                continue
            M[s + S_FREE_AT] = t + cycles
            M[s + S_HEAD] = after
            if after < 0:
                M[s + S_TAIL] = -1
            else:
                M[after + R_PREVIOUS] = -1
        M[s + S_STALLED] = 0  # what one request changes may be what the other waits for


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
                        size += SECTOR_BYTES * _sectors(flags & 15)
                    due = _through_port(M, M[IN_PORT] + (flags >> SM_AT), M[IN_BYTES], t, size)
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
        done = max(start, wake - 1)  # nothing happens before
        while done < until:
            last = _dram_until(M, done)
            run_channel(M, D, channel, last)
            # And what DRAM finishes later reaches no slice before this one is over.
            back = ((last + 1 + M[LEAST_DRAM]) * M[RATIO_SM] + M[RATIO_DRAM] - 1) // M[RATIO_DRAM] + M[FROM_DRAM]
            done = min(until, back - 1)
            wake = INF
            for number in range(channel * per, channel * per + per):
                wake = min(wake, _run_slice(M, number, done))
        M[M[WAKE] + channel] = until + 1 if M[c + dram.PENDING] > 0 else wake


@njit
def advance(M, now):
    """Make every response known that is due at or before `now`; `now` never goes back."""
    until = now + M[TO_SLICE]  # what SMs ask for from now on reaches a slice later
    if M[SETTLE] == 0 and (M[LIVE] == 0 or now < M[SYNC]):
        return
    while M[DONE] < until:
        # A slice hears nothing from its partner's cycle DONE + 1 before the end of the window.
        end = min(until, M[DONE] + M[WINDOW])
        _window(M, M[DONE], end)
        M[DONE] = end
    if M[SETTLE]:
        for channel in range(M[SLICES] // M[SLICES_PER_CHANNEL]):
            run_channel(M, D, channel, _dram_until(M, until))
        return
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
