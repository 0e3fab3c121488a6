"""Where everything lies in the engine's two arrays.

S (int64): header | one block an SM | request, load and link pools of each SM.
U (uint32): zeros and scratch | registers of each SM | shared memory of each SM | its poison bits | what is stored
to peers, on its way | global memory. GPUs that run side by side with values share one U: each has all of this but
the scratch area, `stride` words behind that of the rank before; their S are their own.

Times are SM cycles. A scoreboard word is time * 16 + state * 4 + class: the register can be read from
`time` on; `class` says what produces it (it becomes the stall reason).
"""

from __future__ import annotations

import numpy as np

from emulator.accounting import GPU_REASONS, reason_index
from emulator.gpu.decode import SLOTS
from emulator.gpu.memory_layout import LANDING_AT
from emulator.gpu.timing import MAX_QUEUE, MAX_WARPS, SUB_CORES, Timing
from emulator.host_memory import zeros
from isa.opcodes import PT

NEVER = 1 << 58  # a time that has not been decided; times 16 still fits 63 bits

# Reasons (emulator.accounting) under the names used here.
(R_BUSY, R_FIXED, R_GLOBAL, R_SHARED, R_COPY, R_MBARRIER, R_UNIT, R_QUEUE, R_BARRIER, R_LAUNCH, R_NO_WARP) = (
    reason_index(GPU_REASONS, name) for name in (
        "busy", "fixed_latency", "global_memory", "shared_memory", "copy_wait", "mbarrier", "unit_busy",
        "memory_queue", "barrier", "launch", "no_warp"))
REASONS = len(GPU_REASONS)
OK, POISON, EMPTY = 0, 1, 2  # state of a register
# class of a scoreboard word: the reason's number less R_FIXED (fixed, global, shared)

# -- header -------------------------------------------------------------------------------------
(H_NOW, H_START, H_ERROR, H_ERROR_VALUE, H_ERROR_PC, H_ERROR_CTA, H_ERROR_WARP, H_SMS, H_GRID, H_WARPS,
 H_REGISTERS, H_SHARED, H_CTAS_PER_SM, H_NEXT_CTA, H_NEXT_SM, H_LIVE_CTAS, H_IN_FLIGHT, H_EPOCH, H_WAYS, H_SETS,
 H_ALL_WAYS, H_QUEUE, H_SUB_INTERVAL, H_LSU_INTERVAL, H_PHASE, H_HIT32, H_HIT64, H_HIT128, H_HIT_UNIFORM, H_RETURN,
 H_SHARED_LATENCY, H_SHUFFLE, H_COPY_EXTRA, H_SECTOR_LIMIT, H_STORE_LIMIT, H_BRANCH, H_BARRIER, H_CTA_RATE,
 H_CTA_START, H_REAL_BYTES, H_PHANTOM, H_PHANTOM_END, H_POOLS, H_POOL_SIZE, H_REQUESTS, H_LOADS, H_U_REGISTERS,
 H_REGISTERS_PER_SM, H_U_SHARED, H_SHARED_WORDS, H_U_POISON, H_POISON_WORDS, H_U_GLOBAL, H_TOUCHED,
 H_HAS_PHANTOM, H_BLOCK, H_BULK_LINES, H_BULK_QUEUE, H_BULK_INTERVAL, H_BULK_DONE,
 H_ATOM_EXTRA, H_END, H_START_OF_WINDOW, H_LOG, H_LOG_USED, H_LOG_CYCLES, H_ANSWERS, H_FAILED_SM, H_WINDOW,
 H_FOUND, H_RANK, H_RANKS, H_STRIDE, H_U_LANDINGS, H_LANDINGS, H_LANDINGS_USED, H_LANDING, H_LANDED) = range(78)
H_TRACE = 79  # where recorded events go, 0 for off
H_PARAMETERS = 80  # kernel parameters
H_SM_NEXT = H_PARAMETERS + 64  # earliest cycle at which an SM can do something; 1024 SMs
H_SM_STOP = H_SM_NEXT + 1024  # cycle * 2 + why in which an SM waits for the others; NEVER if it does not
HEADER = H_SM_STOP + 1024
DISPATCH, ORDER = 0, 1  # it has room for a CTA; its next instruction acts in the order of all SMs
WINDOW_MAX = 512  # cycles that one SM runs before the next one does
# The tag of a request: a number, what it is, the SM. It is that of a record (of a request; of a bulk copy), or the
# copy itself: group % GROUPS << 9 | warp's slot << 3 | sectors. From bit LANDING_AT on: emulator/gpu/landing.py.
SM_BITS, TAG_AT = 10, 12
NUMBER = (1 << LANDING_AT - TAG_AT) - 1  # of a request's record
TAG_RECORD, TAG_BULK, TAG_COPY = range(3)
# A request in the log of a window: the next of its cycle, SM << 5 | write << 4 | sectors, line, tag. An answer: the
# SM's next one, cycle, tag.
LOG, ANSWER = 4, 3

# -- counters of an SM (bytes where the name says so, else events) --------------------------------
COUNTERS = (
    "warp_instructions", "l1_read_sectors", "l1_hit_sectors", "l1_merged_sectors", "l1_miss_sectors",
    "copy_sectors", "store_sectors", "shared_read_bytes", "shared_write_bytes", "bank_conflict_cycles",
    "poisoned_stores", "tensor_instructions", "load_requests", "store_requests", "copy_requests", "ctas",
    "bulk_copies", "bulk_requests", "bulk_sectors", "atomic_requests", "atomic_sectors", "bypass_requests",
    "bypass_sectors", "sm_active_cycles")
(C_INSTRUCTIONS, C_L1_READ, C_L1_HIT, C_L1_MERGED, C_L1_MISS, C_COPY, C_STORE, C_SHARED_READ, C_SHARED_WRITE,
 C_CONFLICT, C_POISONED, C_TENSOR, C_LOAD_REQUESTS, C_STORE_REQUESTS, C_COPY_REQUESTS, C_CTAS, C_BULK_COPIES,
 C_BULK_REQUESTS, C_BULK_SECTORS, C_ATOM_REQUESTS, C_ATOM_SECTORS, C_BYPASS_REQUESTS,
 C_BYPASS_SECTORS, C_ACTIVE) = range(len(COUNTERS))

# -- a warp ---------------------------------------------------------------------------------------
(W_STATE, W_PC, W_TIME, W_CTA, W_SLOT, W_WARP, W_AGE, W_REGISTERS, W_PENDING, W_PENDING_TIME, W_CLOSED,
 W_RETIRED, W_SHARED, W_POISON, W_WAITS, W_STORES) = range(16)
# W_WAITS: 1 + address of the mbarrier that holds the warp; W_STORES: stores that wait in the
# queue, and lines without acknowledgement
GROUPS = 32  # ring of copy groups
W_GROUP_COUNT = 16
W_GROUP_TIME = W_GROUP_COUNT + GROUPS
W_PREDICATES = W_GROUP_TIME + GROUPS
W_UNIFORM = W_PREDICATES + 8
W_SCORE = W_UNIFORM + 64
WARP = W_SCORE + SLOTS
FREE, LIVE, AT_BARRIER = 0, 1, 2

# -- an instruction in front of the load-store unit -------------------------------------------------
(Q_KIND, Q_SLOT, Q_DST, Q_REGS, Q_LATENCY, Q_PHASES, Q_GROUP, Q_LINES, Q_SECTORS, Q_TIME, Q_LANDING) = range(11)
Q_LINE = 11
Q_MASK = Q_LINE + 32
ENTRY = Q_MASK + 32 + 5  # whole cache lines of the host
# What mbarrier instructions and bulk copies have there: bytes (of MBWAIT: the parity), the instruction's index, the
# mbarrier's address, last line and its sectors.
Q_BYTES, Q_PC, Q_SHARED, Q_LAST, Q_LAST_MASK = (Q_LINE + i for i in range(1, 6))

# -- an SM ------------------------------------------------------------------------------------------
(SM_LSU_FREE, SM_LSU_NEXT, SM_TURN, SM_SECTORS, SM_STORES, SM_LIVE_CTAS, SM_REQUEST, SM_LOAD, SM_LINK, SM_STAMP,
 SM_REQUESTS_USED, SM_LOADS_USED, SM_LINKS_USED, SM_STALLED, SM_BULK_NEXT, SM_BULK_HEAD, SM_BULK_TAIL,
 SM_BULK_ARRIVED, SM_BULK_ARRIVED_LAST, SM_BULK_POOL, SM_BULK_LIVE, SM_BULK_LINES, SM_BULK_FREE, SM_BULK_STATE,
 SM_BULK_SINCE, SM_EPOCH, SM_ANSWER, SM_ANSWER_LAST, SM_ENDED, SM_BULK_ENTERED, SM_ACTIVE_SINCE,
 SM_BULK_CYCLES) = range(32)
BULK_BUSY, BULK_ISSUE, BULK_LIMIT, BULK_IDLE = range(4)  # what the bulk engine does; SM_BULK_CYCLES counts them
BULK_STATES = ("busy", "issue", "limit")
SM_COUNTERS = SM_BULK_CYCLES + 4
UNIT_SLOTS = 8
SUB = -(-(SM_COUNTERS + len(COUNTERS)) // 8) * 8  # four sub-cores
(SUB_NEXT, SUB_SINCE, SUB_LAST, SUB_LIVE, SUB_HEAD, SUB_COUNT, SUB_TAKEN, SUB_SPACE) = range(8)
SUB_BLOCKED = 8  # bits of the warps that wait for room in the queue
SUB_TOP, SUB_SURE = 9, 10  # one more than its highest warp; the cycle in which the last warp surely can issue
SUB_FREE = 11  # time at which each unit takes the next instruction
SUB_WAKE = SUB_FREE + UNIT_SLOTS  # earliest cycle at which each warp could issue
SUB_REASONS = SUB_WAKE + MAX_WARPS // SUB_CORES
SUB_SIZE = SUB_REASONS + 21  # whole cache lines of the host
SM_CTA = SUB + SUB_CORES * SUB_SIZE  # live warps of each CTA slot
SM_ARRIVED = SM_CTA + MAX_WARPS  # and how many wait at the barrier
SM_ENTRIES = -(-(SM_ARRIVED + MAX_WARPS) // 8) * 8
SM_LANES = SM_ENTRIES + SUB_CORES * MAX_QUEUE * ENTRY  # lane addresses of the instruction being executed
SM_BANKS = SM_LANES + 32  # and per bank: accesses, first word
SM_ISSUED = SM_BANKS + 64  # of each warp, for traces: its last issue; then the start of each CTA slot's CTA
SM_CTA_START = SM_ISSUED + MAX_WARPS
SM_WARPS = -(-(SM_CTA_START + MAX_WARPS) // 8) * 8
SM_SIZE = SM_WARPS + MAX_WARPS * WARP  # the L1 tags follow; H_BLOCK is the size of both

# -- a set of L1: a tag (line number + epoch << 40) a way, then the last use, then the state of four sectors ----
L1_LINE = 6
VALID, INVALID = -2, -1  # else: the request that will bring the sector

# -- pools --------------------------------------------------------------------------------------------
# A request: the first load that waits for it and for how many sectors, a list of the others (or of free records).
(RQ_KIND, RQ_LOAD, RQ_LOAD_SECTORS, RQ_WAITERS, RQ_WAY, RQ_WARP, RQ_GROUP, RQ_SECTORS) = range(8)
REQUEST = 8
RQ_FILL, RQ_BYPASS, RQ_STORE, RQ_ATOM = range(4)
(LD_WARP, LD_DST, LD_REGS, LD_LEFT, LD_TIME) = range(5)
LOAD = 6
# A bulk copy: lines B_LINE .. B_LAST are still to be asked for, B_LEFT of all have not arrived.
(B_SLOT, B_PC, B_BAR, B_SIZE, B_LINE, B_LAST, B_MASK, B_LAST_MASK, B_LEFT, B_HANDED, B_STARTED, B_DONE,
 B_NEXT) = range(13)
BULK = 16
LK_LOAD, LK_NEXT, LK_SECTORS = 0, 1, 2
LINK = 4

# -- U ------------------------------------------------------------------------------------------------
U_ZERO = 0  # 128 zeros: RZ
U_SPLAT = 128  # a uniform register in every lane
U_RESULT = 256  # result of a guarded instruction before it is merged
U_DATA = 512  # zeros, results: end of the scratch area
# What a store to a peer holds for one line: the line with the distance (low and high word), a bit for each byte that
# is stored, the bytes.
LANDING_MASK, LANDING_DATA, LANDING = 2, 8, 40


def rank_words(timing: Timing, image_bytes: int, ranks: int) -> tuple[int, int, int]:
    """Words of U that a rank has for itself: all, where its landings begin, where its global memory begins."""
    landings = timing.sms * timing.registers + timing.sms * (timing.shared_bytes // 4)
    landings += timing.sms * -(-timing.shared_bytes // 128)
    u_global = landings + (landings_of(timing) * LANDING if ranks > 1 else 0)
    u_global = -(-u_global // 4) * 4
    return u_global + -(-image_bytes // 16) * 4, landings, u_global


def landings_of(timing: Timing) -> int:
    """Lines that can be on their way to peers: queued stores, and those that are not acknowledged."""
    return timing.sms * (SUB_CORES * timing.lsu_queue * 32 + 2 * timing.outstanding_stores)


def build_state(timing: Timing, image: np.ndarray, phantom: tuple[int, int], ranks: int = 1, rank: int = 0,
                lanes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """S and U for a chip with a memory image (uint8) and a phantom range (base, end).

    ranks: of how many GPUs this one is `rank`. lanes: the U that all of them share; without it this one stands for
    all (its own memory in the place of its peers').
    """
    poison_words = -(-timing.shared_bytes // 128)
    stride, u_landings, u_global = rank_words(timing, len(image), ranks)
    alone = lanes is None
    if lanes is None:
        lanes = zeros(U_DATA + stride, np.uint32)
    u_registers = U_DATA + (0 if alone else rank * stride)
    u_landings += u_registers
    u_global += u_registers
    u_shared = u_registers + timing.sms * timing.registers
    u_poison = u_shared + timing.sms * (timing.shared_bytes // 4)
    lanes[u_global:].view(np.uint8)[: len(image)] = image
    l1 = timing.l1_sets * timing.l1_ways * L1_LINE
    block = -(-(SM_SIZE + l1) // 8) * 8
    loads = timing.outstanding_sectors  # what waits, waits for a sector at least
    requests = loads + timing.outstanding_stores
    pool = -(-(requests * REQUEST + loads * (LOAD + LINK)) // 8) * 8 + timing.bulk_queue * BULK
    pools = HEADER + timing.sms * block
    answers = pools + timing.sms * pool
    most = timing.sms * (requests + timing.bulk_lines)  # that can be under way
    log = answers + ANSWER * most
    # In a window an SM asks for what its limits leave, again for what is answered, and for a bulk line a cycle.
    cycles = log + LOG * timing.sms * (2 * requests + WINDOW_MAX)
    landings = cycles + 2 * WINDOW_MAX  # lists of them: the next one of each
    state = zeros(landings + (landings_of(timing) if ranks > 1 else 0), np.int64)
    state[cycles:landings] = -1
    values = {
        H_SMS: timing.sms, H_SETS: timing.l1_sets, H_ALL_WAYS: timing.l1_ways, H_QUEUE: timing.lsu_queue,
        H_SUB_INTERVAL: timing.lsu_sub_core_interval, H_LSU_INTERVAL: timing.lsu_interval,
        H_PHASE: timing.lsu_phase_cycles, H_HIT32: timing.l1_latency_32, H_HIT64: timing.l1_latency_64,
        H_HIT128: timing.l1_latency_128, H_HIT_UNIFORM: timing.l1_uniform_latency, H_RETURN: timing.l1_return,
        H_SHARED_LATENCY: timing.shared_latency, H_SHUFFLE: timing.shuffle_latency,
        H_COPY_EXTRA: timing.copy_extra, H_SECTOR_LIMIT: timing.outstanding_sectors,
        H_STORE_LIMIT: timing.outstanding_stores, H_BRANCH: max(1, timing.branch_taken),
        H_BARRIER: max(1, timing.barrier_latency), H_CTA_RATE: timing.ctas_per_cycle,
        H_CTA_START: timing.cta_start, H_REAL_BYTES: len(image), H_PHANTOM: phantom[0], H_PHANTOM_END: phantom[1],
        H_POOLS: pools, H_POOL_SIZE: pool, H_REQUESTS: requests, H_LOADS: loads, H_U_REGISTERS: u_registers,
        H_REGISTERS_PER_SM: timing.registers, H_U_SHARED: u_shared, H_SHARED_WORDS: timing.shared_bytes // 4,
        H_U_POISON: u_poison, H_POISON_WORDS: poison_words, H_U_GLOBAL: u_global,
        H_HAS_PHANTOM: int(phantom[1] > phantom[0]), H_BLOCK: block, H_BULK_LINES: timing.bulk_lines,
        H_BULK_QUEUE: timing.bulk_queue, H_BULK_INTERVAL: timing.bulk_issue,
        H_LOG: log,
        H_LOG_CYCLES: cycles, H_ANSWERS: answers, H_ATOM_EXTRA: timing.atomic_extra,
        H_BULK_DONE: timing.l1_return + timing.bulk_extra,
        H_RANK: rank, H_RANKS: ranks, H_STRIDE: 0 if alone else stride, H_U_LANDINGS: u_landings,
        H_LANDINGS: landings, H_LANDING: -1, H_LANDED: -1,
    }
    for at, value in values.items():
        state[at] = value
    for sm in range(timing.sms):
        base = HEADER + sm * block
        state[base + SM_REQUEST : base + SM_LINK + 1] = -1  # free lists are empty: pools grow first
        for warp in range(MAX_WARPS):
            w = base + SM_WARPS + warp * WARP
            state[w + W_PREDICATES + PT] = 0xFFFFFFFF
        for sub in range(SUB_CORES):
            s = base + SUB + sub * SUB_SIZE
            state[s + SUB_LAST] = -1
            state[s + SUB_TAKEN] = -NEVER
            state[s + SUB_WAKE : s + SUB_REASONS] = NEVER
            state[s + SUB_NEXT] = NEVER
        state[base + SM_LSU_NEXT] = NEVER
        state[base + SM_BULK_NEXT] = NEVER
        state[[base + SM_ANSWER, base + SM_BULK_HEAD, base + SM_BULK_ARRIVED, base + SM_BULK_POOL]] = -1
        state[base + SM_BULK_STATE] = BULK_IDLE
    state[H_SM_NEXT : H_SM_NEXT + timing.sms] = NEVER
    state[H_SM_STOP : H_SM_STOP + timing.sms] = NEVER
    return state, lanes

