"""The load-store unit of an SM, its L1, and what happens when the memory system answers.

Each sub-core has a queue of load-store instructions. The unit takes the head of one queue at a
time, sub-cores in turn. The memory below L1 is emulator.gpu.memory.
"""

from __future__ import annotations

from emulator.gpu.bulk import bulk_respond, serve_barrier
from emulator.gpu.decode import K_ATOM, K_BULK, K_COPY, K_LDCG, K_LDG, K_MBARRIVE, K_MBINIT, K_STG, K_STS, K_ULDG
from emulator.gpu.layout import (
    C_ATOM_REQUESTS,
    C_ATOM_SECTORS,
    C_BYPASS_REQUESTS,
    C_BYPASS_SECTORS,
    C_COPY,
    C_COPY_REQUESTS,
    C_L1_HIT,
    C_L1_MERGED,
    C_L1_MISS,
    C_L1_READ,
    C_LOAD_REQUESTS,
    C_STORE,
    C_STORE_REQUESTS,
    ENTRY,
    FREE,
    GROUPS,
    H_ATOM_EXTRA,
    H_BULK_QUEUE,
    H_COPY_EXTRA,
    H_END,
    H_IN_FLIGHT,
    H_LANDINGS,
    H_LOADS,
    H_LSU_INTERVAL,
    H_PHASE,
    H_POOL_SIZE,
    H_POOLS,
    H_QUEUE,
    H_REQUESTS,
    H_RETURN,
    H_SECTOR_LIMIT,
    H_SETS,
    H_STORE_LIMIT,
    H_SUB_INTERVAL,
    H_TRACE,
    H_WAYS,
    INVALID,
    L1_LINE,
    LD_DST,
    LD_LEFT,
    LD_REGS,
    LD_TIME,
    LD_WARP,
    LINK,
    LK_LOAD,
    LK_NEXT,
    LK_SECTORS,
    LOAD,
    NEVER,
    NUMBER,
    Q_DST,
    Q_GROUP,
    Q_KIND,
    Q_LANDING,
    Q_LATENCY,
    Q_LINE,
    Q_LINES,
    Q_MASK,
    Q_PHASES,
    Q_REGS,
    Q_SECTORS,
    Q_SLOT,
    Q_TIME,
    REQUEST,
    RQ_ATOM,
    RQ_BYPASS,
    RQ_FILL,
    RQ_GROUP,
    RQ_KIND,
    RQ_LOAD,
    RQ_LOAD_SECTORS,
    RQ_SECTORS,
    RQ_STORE,
    RQ_WAITERS,
    RQ_WARP,
    RQ_WAY,
    SM_BITS,
    SM_BULK_LIVE,
    SM_COUNTERS,
    SM_ENTRIES,
    SM_EPOCH,
    SM_LINK,
    SM_LINKS_USED,
    SM_LOAD,
    SM_LOADS_USED,
    SM_LSU_FREE,
    SM_LSU_NEXT,
    SM_REQUEST,
    SM_REQUESTS_USED,
    SM_SECTORS,
    SM_SIZE,
    SM_STALLED,
    SM_STAMP,
    SM_STORES,
    SM_TURN,
    SM_WARPS,
    SUB,
    SUB_BLOCKED,
    SUB_COUNT,
    SUB_HEAD,
    SUB_SIZE,
    SUB_SPACE,
    SUB_TAKEN,
    TAG_AT,
    TAG_BULK,
    TAG_COPY,
    VALID,
    W_AGE,
    W_CLOSED,
    W_GROUP_COUNT,
    W_GROUP_TIME,
    W_PENDING,
    W_RETIRED,
    W_SCORE,
    W_STATE,
    W_STORES,
    WARP,
)
from emulator.gpu.memory_layout import LANDING_AT
from emulator.gpu.timing import MAX_QUEUE
from emulator.gpu.tracing import trace_load
from emulator.gpu.wake import ask, settle, wake
from isa.jit import njit
from isa.opcodes import RZ

TAG_EPOCH = 40  # an L1 tag is line + (epoch << TAG_EPOCH): a new epoch empties the cache


@njit
def _finish(S, base, slot, dst, registers, time):
    """A load's registers can be read from `time` on."""
    w = base + SM_WARPS + slot * WARP
    if dst != RZ:
        for j in range(registers):
            at = w + W_SCORE + dst + j
            S[at] = time * 16 + (S[at] & 15)
    settle(S, base, slot, time)
    wake(S, base, slot, time)


@njit
def retire_groups(S, w):
    """Closed copy groups finish in order; a group's time is the latest of its own and the one before."""
    while S[w + W_RETIRED] < S[w + W_CLOSED]:
        group = S[w + W_RETIRED]
        if S[w + W_GROUP_COUNT + group % GROUPS] != 0:
            break
        if group > 0:
            before = S[w + W_GROUP_TIME + (group - 1) % GROUPS]
            at = w + W_GROUP_TIME + group % GROUPS
            S[at] = max(S[at], before)
        S[w + W_RETIRED] = group + 1


@njit
def _pool(S, sm):
    return S[H_POOLS] + sm * S[H_POOL_SIZE]


@njit
def _take(S, at, free, used, size, link):
    """A record of a pool: a freed one (chained through field `link`), else a new one."""
    found = S[free]
    if found >= 0:
        S[free] = S[at + found * size + link]
        return found
    S[used] += 1
    return S[used] - 1


@njit
def _count(mask):
    """Sectors of a mask."""
    return (mask & 1) + (mask >> 1 & 1) + (mask >> 2 & 1) + (mask >> 3 & 1)


@njit
def _request(S, sm, base, kind, line, mask, way, slot, group, t):
    """Send a request below L1; returns the number of its record."""
    pool = _pool(S, sm)
    number = _take(S, pool, base + SM_REQUEST, base + SM_REQUESTS_USED, REQUEST, RQ_WAITERS)
    r = pool + number * REQUEST
    S[r + RQ_KIND], S[r + RQ_LOAD] = kind, -1
    S[r + RQ_WAITERS], S[r + RQ_WAY] = -1, way
    S[r + RQ_WARP], S[r + RQ_GROUP] = slot, group
    S[r + RQ_SECTORS] = _count(mask)
    tag = number << TAG_AT | sm
    if kind == RQ_STORE:  # `way` is what it stores to a peer, or -1
        tag |= (way + 1) << LANDING_AT
    ask(S, sm, t, line, mask, 1 if kind >= RQ_STORE else 0, tag)
    return number


@njit
def _wait_for(S, sm, base, load, number, sectors):
    """Put a load on the list of a request."""
    pool = _pool(S, sm)
    r = pool + number * REQUEST
    if S[r + RQ_LOAD] < 0:
        S[r + RQ_LOAD], S[r + RQ_LOAD_SECTORS] = load, sectors
    else:
        links = pool + S[H_REQUESTS] * REQUEST + S[H_LOADS] * LOAD
        link = _take(S, links, base + SM_LINK, base + SM_LINKS_USED, LINK, LK_NEXT)
        k = links + link * LINK
        S[k + LK_LOAD], S[k + LK_SECTORS], S[k + LK_NEXT] = load, sectors, S[r + RQ_WAITERS]
        S[r + RQ_WAITERS] = link
    S[base + SM_SECTORS] += sectors
    S[pool + S[H_REQUESTS] * REQUEST + load * LOAD + LD_LEFT] += 1


@njit
def _set_of(S, base, line):
    """Where the L1 set of a line begins: the tags of its ways, their last uses, the states of their sectors."""
    return base + SM_SIZE + (line % S[H_SETS]) * S[H_WAYS] * L1_LINE


@njit
def _find(S, at, tag):
    """The way of a set that holds a line, or -1."""
    for way in range(S[H_WAYS]):
        if S[at + way] == tag:
            return way
    return -1


@njit
def _sectors_of(S, at, way):
    """Where the states of a way's sectors stand."""
    return at + 2 * S[H_WAYS] + 4 * way


@njit
def _waits(S, at, way):
    """Whether a way waits for a sector."""
    x = _sectors_of(S, at, way)
    return S[x] >= 0 or S[x + 1] >= 0 or S[x + 2] >= 0 or S[x + 3] >= 0


@njit
def _victim(S, base, at):
    """The way to replace: the first empty one, else the least recently used that waits for nothing, or -1."""
    ways, epoch = S[H_WAYS], S[base + SM_EPOCH]
    for way in range(ways):
        if S[at + way] >> TAG_EPOCH != epoch:
            return way
    best = 0
    for way in range(1, ways):
        if S[at + ways + way] < S[at + ways + best]:
            best = way
    if not _waits(S, at, best):
        return best
    best, oldest = -1, NEVER
    for way in range(ways):
        if S[at + ways + way] < oldest and not _waits(S, at, way):
            best, oldest = way, S[at + ways + way]
    return best


@njit
def _new_load(S, sm, base, q, time):
    """A record of a load whose data is complete at `time`, but for the requests that it has to wait for."""
    loads = _pool(S, sm) + S[H_REQUESTS] * REQUEST
    load = _take(S, loads, base + SM_LOAD, base + SM_LOADS_USED, LOAD, LD_LEFT)
    d = loads + load * LOAD
    S[d + LD_WARP], S[d + LD_DST], S[d + LD_REGS] = S[q + Q_SLOT], S[q + Q_DST], S[q + Q_REGS]
    S[d + LD_LEFT], S[d + LD_TIME] = 0, time
    return load


@njit
def _load(S, sm, base, q, t):
    """LDG and ULDG: look every line up in L1, ask for what is missing."""
    counters = base + SM_COUNTERS
    slot = S[q + Q_SLOT]
    hit_time = max(t + 1, t - 1 + S[q + Q_LATENCY])
    load = -1
    for i in range(S[q + Q_LINES]):
        line, mask = S[q + Q_LINE + i], S[q + Q_MASK + i]
        tag = line + (S[base + SM_EPOCH] << TAG_EPOCH)
        at = _set_of(S, base, line)
        way = _find(S, at, tag)
        if way < 0:
            way = _victim(S, base, at)
            if way >= 0:
                S[at + way] = tag
                x = _sectors_of(S, at, way)
                S[x], S[x + 1], S[x + 2], S[x + 3] = INVALID, INVALID, INVALID, INVALID
        x = -1
        if way >= 0:
            S[base + SM_STAMP] += 1
            S[at + S[H_WAYS] + way] = S[base + SM_STAMP]
            x = _sectors_of(S, at, way)
        missing, needed, hit, wanted = 0, 0, 0, 0
        for s in range(4):
            if (mask >> s) & 1:
                wanted += 1
                state = INVALID if way < 0 else S[x + s]
                if state == VALID:
                    hit += 1
                elif state < 0:
                    missing |= 1 << s
                    needed += 1
        S[counters + C_L1_READ] += wanted
        S[counters + C_L1_HIT] += hit
        S[counters + C_L1_MISS] += needed
        S[counters + C_L1_MERGED] += wanted - hit - needed
        if hit == wanted:
            continue
        if load < 0:
            load = _new_load(S, sm, base, q, hit_time)
        if missing:
            number = _request(S, sm, base, RQ_FILL if way >= 0 else RQ_BYPASS, line, missing, x, slot, 0, t)
            S[counters + C_LOAD_REQUESTS] += 1
            _wait_for(S, sm, base, load, number, needed)
        if hit + needed < wanted:  # wait once for each request that brings other sectors of this line
            for s in range(4):
                state = S[x + s]
                if not (mask >> s) & 1 or state < 0:
                    continue
                sectors, first = 0, True
                for z in range(4):
                    if (mask >> z) & 1 and S[x + z] == state:
                        first = first and z >= s
                        sectors += 1
                if first:
                    _wait_for(S, sm, base, load, state, sectors)
        if way >= 0:
            for s in range(4):
                if (missing >> s) & 1:
                    S[x + s] = number
    if load < 0:
        _finish(S, base, slot, S[q + Q_DST], S[q + Q_REGS], hit_time)


@njit
def _forget(S, base, line, mask):
    """Drop L1's copy of sectors that are written."""
    at = _set_of(S, base, line)
    way = _find(S, at, line + (S[base + SM_EPOCH] << TAG_EPOCH))
    if way >= 0:
        x = _sectors_of(S, at, way)
        for s in range(4):
            if (mask >> s) & 1:
                S[x + s] = INVALID


@njit
def _past_l1(S, sm, base, q, t):
    """LDCG and ATOM: a request for every line."""
    kind = RQ_ATOM if S[q + Q_KIND] == K_ATOM else RQ_BYPASS
    slot, lines = S[q + Q_SLOT], S[q + Q_LINES]
    counters = base + SM_COUNTERS
    S[counters + (C_ATOM_REQUESTS if kind == RQ_ATOM else C_BYPASS_REQUESTS)] += lines
    S[counters + (C_ATOM_SECTORS if kind == RQ_ATOM else C_BYPASS_SECTORS)] += S[q + Q_SECTORS]
    load = _new_load(S, sm, base, q, max(t + 1, t - 1 + S[q + Q_LATENCY]))
    for i in range(lines):
        line, mask = S[q + Q_LINE + i], S[q + Q_MASK + i]
        if kind == RQ_ATOM:
            _forget(S, base, line, mask)
        number = _request(S, sm, base, kind, line, mask, -1, slot, 0, t)
        _wait_for(S, sm, base, load, number, S[_pool(S, sm) + number * REQUEST + RQ_SECTORS])


@njit
def _serve(S, U, sm, base, q, t):
    """The load-store unit takes one instruction."""
    kind = S[q + Q_KIND]
    counters = base + SM_COUNTERS
    if kind == K_LDG or kind == K_ULDG:
        _load(S, sm, base, q, t)
    elif kind == K_STG:
        lines, landing = S[q + Q_LINES], S[q + Q_LANDING]
        for i in range(lines):
            line, mask = S[q + Q_LINE + i], S[q + Q_MASK + i]
            _forget(S, base, line, mask)
            _request(S, sm, base, RQ_STORE, line, mask, landing, S[q + Q_SLOT], S[q + Q_GROUP], t)
            if landing >= 0:
                landing = S[S[H_LANDINGS] + landing]
        S[base + SM_STORES] += lines
        w = base + SM_WARPS + S[q + Q_SLOT] * WARP
        if S[w + W_AGE] == S[q + Q_GROUP] and S[w + W_STATE] != FREE:
            S[w + W_STORES] += lines - 1
        S[H_IN_FLIGHT] += lines - 1
        S[counters + C_STORE] += S[q + Q_SECTORS]
        S[counters + C_STORE_REQUESTS] += lines
    elif kind == K_ATOM or kind == K_LDCG:
        _past_l1(S, sm, base, q, t)
    elif kind == K_COPY:
        warp = S[q + Q_SLOT] | S[q + Q_GROUP] % GROUPS << 6
        for i in range(S[q + Q_LINES]):
            mask = S[q + Q_MASK + i]
            ask(S, sm, t, S[q + Q_LINE + i], mask, 0, (warp << 3 | _count(mask)) << TAG_AT | TAG_COPY << SM_BITS | sm)
        S[base + SM_SECTORS] += S[q + Q_SECTORS]
        S[counters + C_COPY] += S[q + Q_SECTORS]
        S[counters + C_COPY_REQUESTS] += S[q + Q_LINES]
    elif kind == K_STS or kind == K_MBINIT:
        S[H_IN_FLIGHT] -= 1
        S[H_END] = max(S[H_END], t + 1)
    elif kind >= K_MBARRIVE:
        serve_barrier(S, U, sm, base, q, t)
    else:  # LDS, LDSM, SHFL, BCAST
        time = max(t + 1, t - 1 + S[q + Q_LATENCY])
        _finish(S, base, S[q + Q_SLOT], S[q + Q_DST], S[q + Q_REGS], time)


@njit
def _head(S, base, s, sub):
    return base + SM_ENTRIES + (sub * MAX_QUEUE + S[s + SUB_HEAD]) * ENTRY


@njit
def _fits(S, base, q):
    """Whether the limits on outstanding sectors and stores let the unit take an instruction.

    An instruction counts with all sectors that it touches (32 at most), whether L1 holds them or not.
    """
    kind = S[q + Q_KIND]
    if kind == K_LDG or kind == K_ULDG or kind == K_COPY or kind == K_ATOM or kind == K_LDCG:
        return S[base + SM_SECTORS] + S[q + Q_SECTORS] <= S[H_SECTOR_LIMIT]
    if kind == K_STG:
        return S[base + SM_STORES] + S[q + Q_LINES] <= S[H_STORE_LIMIT]
    if kind == K_BULK:
        return S[base + SM_BULK_LIVE] < S[H_BULK_QUEUE]
    return True


@njit
def lsu_step(S, U, sm, base, t):
    """Take what can be taken at cycle t, then say when to look again."""
    while S[base + SM_LSU_FREE] <= t:
        found = -1
        for k in range(4):
            sub = (S[base + SM_TURN] + k) & 3
            s = base + SUB + sub * SUB_SIZE
            if S[s + SUB_COUNT] == 0:
                continue
            q = _head(S, base, s, sub)
            if max(S[q + Q_TIME] + 1, S[s + SUB_TAKEN] + S[H_SUB_INTERVAL]) <= t and _fits(S, base, q):
                found = sub
                break
        if found < 0:
            break
        s = base + SUB + found * SUB_SIZE
        q = _head(S, base, s, found)
        _serve(S, U, sm, base, q, t)
        S[base + SM_LSU_FREE] = t + max(S[H_LSU_INTERVAL], S[q + Q_PHASES] * S[H_PHASE])
        if S[H_TRACE] != 0 and (S[q + Q_KIND] == K_LDG or S[q + Q_KIND] == K_ULDG):
            trace_load(S, sm, base, q, t, max(t + 1, S[base + SM_LSU_FREE]))
        S[base + SM_TURN] = (found + 1) & 3
        S[s + SUB_TAKEN] = t
        if S[s + SUB_COUNT] == S[H_QUEUE]:  # was full: warps that wait for space can go on next cycle
            S[s + SUB_SPACE] = t + 1
            blocked = S[s + SUB_BLOCKED]
            S[s + SUB_BLOCKED] = 0
            at = 0
            while blocked:
                if blocked & 1:
                    wake(S, base, at * 4 + found, t + 1)
                blocked >>= 1
                at += 1
        S[s + SUB_COUNT] -= 1
        S[s + SUB_HEAD] = S[s + SUB_HEAD] + 1 if S[s + SUB_HEAD] + 1 < S[H_QUEUE] else 0
    again = NEVER
    S[base + SM_STALLED] = 0
    for sub in range(4):
        s = base + SUB + sub * SUB_SIZE
        if S[s + SUB_COUNT] > 0:
            q = _head(S, base, s, sub)
            time = max(S[q + Q_TIME] + 1, S[s + SUB_TAKEN] + S[H_SUB_INTERVAL], S[base + SM_LSU_FREE])
            if time <= t:  # a head that is ready but does not fit waits for a response
                S[base + SM_STALLED] = 1
            elif time < again:
                again = time
    S[base + SM_LSU_NEXT] = again


@njit
def _copied(S, base, number, t):
    """A line of a warp's asynchronous copies has arrived at cycle t."""
    slot, group = number >> 3 & 63, number >> 9
    w = base + SM_WARPS + slot * WARP
    time = t + S[H_RETURN] + S[H_COPY_EXTRA]
    S[base + SM_SECTORS] -= number & 7
    left = S[w + W_GROUP_COUNT + group] - 1
    S[w + W_GROUP_COUNT + group] = left
    S[w + W_GROUP_TIME + group] = max(S[w + W_GROUP_TIME + group], time)
    settle(S, base, slot, time)
    retired = S[w + W_RETIRED]
    if left == 0:
        retire_groups(S, w)
    if S[w + W_RETIRED] != retired or S[w + W_PENDING] == 0:  # CPWAIT or EXIT may go on
        wake(S, base, slot, time)


@njit
def _stalled(S, base, t):
    """The load-store unit may have waited for an answer."""
    if S[base + SM_STALLED]:
        S[base + SM_LSU_NEXT] = min(t, S[base + SM_LSU_NEXT])


@njit
def _part_of_load(S, base, loads, load, sectors, time):
    """Sectors that a load has waited for can be read from `time` on."""
    d = loads + load * LOAD
    S[base + SM_SECTORS] -= sectors
    S[d + LD_TIME] = max(S[d + LD_TIME], time)
    S[d + LD_LEFT] -= 1
    if S[d + LD_LEFT] == 0:
        _finish(S, base, S[d + LD_WARP], S[d + LD_DST], S[d + LD_REGS], S[d + LD_TIME])
        S[d + LD_LEFT] = S[base + SM_LOAD]
        S[base + SM_LOAD] = load


@njit
def respond(S, sm, base, tag, t):
    """The memory system answers a request of an SM at cycle t. tag: without the SM's number."""
    kind, number = tag & 3, tag >> 2 & NUMBER
    if kind == TAG_COPY:
        _copied(S, base, number, t)
        _stalled(S, base, t)
        return
    if kind == TAG_BULK:
        bulk_respond(S, sm, base, number, t)
        return
    pool = _pool(S, sm)
    loads = pool + S[H_REQUESTS] * REQUEST
    links = loads + S[H_LOADS] * LOAD
    r = pool + number * REQUEST
    kind = S[r + RQ_KIND]
    time = t + S[H_RETURN]
    if kind == RQ_STORE:
        S[base + SM_STORES] -= 1
        S[H_IN_FLIGHT] -= 1
        S[H_END] = max(S[H_END], t)
        slot = S[r + RQ_WARP]
        w = base + SM_WARPS + slot * WARP
        if S[w + W_AGE] == S[r + RQ_GROUP] and S[w + W_STATE] != FREE:
            S[w + W_STORES] -= 1
            if S[w + W_STORES] == 0:  # MEMBAR may go on
                wake(S, base, slot, t)
    else:
        if kind == RQ_FILL:
            x = S[r + RQ_WAY]
            for s in range(4):
                if S[x + s] == number:
                    S[x + s] = VALID
        elif kind == RQ_ATOM:
            time += S[H_ATOM_EXTRA]
        _part_of_load(S, base, loads, S[r + RQ_LOAD], S[r + RQ_LOAD_SECTORS], time)
        link = S[r + RQ_WAITERS]
        while link >= 0:
            k = links + link * LINK
            after = S[k + LK_NEXT]
            _part_of_load(S, base, loads, S[k + LK_LOAD], S[k + LK_SECTORS], time)
            S[k + LK_NEXT] = S[base + SM_LINK]
            S[base + SM_LINK] = link
            link = after
    S[r + RQ_WAITERS] = S[base + SM_REQUEST]
    S[base + SM_REQUEST] = number
    _stalled(S, base, t)
