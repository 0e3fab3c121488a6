"""The flat int64 array of the fast GPU memory system: names of its words, and an idle system.

The array M has a header (numbers, counters), the DRAM block (emulator/dram/layout.py), the SM ports and
TLBs, the slices with their MSHRs and tags, three rings of time buckets, the stores that have landed from peers,
and a pool of requests. A tag word is
    line << 25 | MSHR << 12 | valid sectors << 8 | dirty sectors << 4 | sectors on their way,
a home's with COPIED if its partner may hold a copy; the words of a set stand in order of last use.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from emulator.chip import Chip, ChipError
from emulator.dram import layout as dram
from emulator.dram.config import LINE_BYTES, DramConfig
from emulator.dram.layout import INF
from emulator.gpu.timing import MAX_CYCLES, check_clock
from emulator.host_memory import zeros

SECTOR_BYTES = 32
NOTHING, ONE = np.int64(0), np.int64(1)  # typed: Numba compiles anew for each literal argument
RING = 8192  # time buckets; a later entry waits in its bucket for its turn

(SMS, HEADER_BYTES, OUT_BYTES, IN_BYTES, TO_SLICE, TO_SM, SLICES, SET_MASK, WAYS, SLICE_BYTES, MSHRS, WRITE_BUFFERS,
 TO_DRAM, FROM_DRAM, RATIO_DRAM, RATIO_SM, LEAST_DRAM, PCS_SHIFT, SLICES_PER_CHANNEL,
 PARTITIONS, LINK_LATENCY, LINK_BYTES, WINDOW, TLB_ENTRIES, PAGE_SHIFT, TLB_MISS, CHUNK_SHIFT, ROW_SHIFT, BANK_COUNT,
 OUT_PORT, IN_PORT, TLB, WAKE, SLICE_BASE, SLICE_WORDS, DONE, ARRIVE_RING, DUE_RING, FREE_NODE,
 ARRIVE_T, ARRIVE_N, DUE_T, DUE_N, KNOWN, NEXT_DUE, READY, READY_LAST, LIVE, SYNC, SETTLE, NODES_LOST,
 N_L2_READ, N_L2_WRITE, N_L2_HIT, N_L2_MERGED, N_L2_FILL, N_L2_WRITEBACK, N_L2_EVICT, N_REQUESTS,
 N_FAR, N_FAR_HIT, N_FAR_MERGED, N_DROPPED, N_TLB_MISS,
 STRETCH, PEER_BYTES, PEER_HEADER, PEER_LATENCY, PEER_PORT, PEER_RING, PEER_T, PEER_N, EARLY, LANDED, LANDED_SIZE,
 LANDED_FIRST, LANDED_LAST, N_PEER_BYTES, N_PEER_REQUESTS, N_PEER_SERVED, N_PEER_SECTORS) = range(81)
TRACE = 87  # where recorded events go, 0 for off
D = 88  # where the DRAM block begins

# A slice's words, then two words an MSHR (waiting requests; the first links free ones), then the tags.
# Its three lists: requests of SMs (both ways), of its partner, and what else comes over the link. S_OUT_T: the cycle
# from which on its output is free.
(S_HEAD, S_TAIL, S_ASKED, S_ASKED_LAST, S_INBOX, S_INBOX_LAST, S_STALLED, S_FREE_AT, S_OUT, S_FILL_T, S_FREE_T, S_IN_T,
 S_MSHR, S_BUFFERS, S_COPIES, S_LINK, S_OUT_T, S_SINK) = range(18)
S_WORDS = S_SINK + dram.SINK_WORDS
# A request's words: a cache line of the host. Flags: sectors, WRITE, LINK, FAR, DROP, SM << SM_AT, PEER, ANSWER.
# R_SET: where its set begins, from the beginning of a slice. R_PLACE: line of its pseudo-channel << PC_BITS | pc.
R_NEXT, R_PREVIOUS, R_TIME, R_LINE, R_FLAGS, R_TAG, R_SET, R_PLACE, R_WORDS = range(9)
R_KEY = R_PREVIOUS  # in a ring: its place among what has the same time, low ones first
WRITE, LINK, FAR, DROP, SM_AT = 16, 32, 64, 128, 8
PEER, ANSWER = 1 << 18, 1 << 19  # between a GPU and a peer; on its way back. Bits 8 to 17 are the SM
SM_MASK = PEER - 1
LANDING_AT = 40  # a store to a peer has in its tag, from this bit on, 1 + the number of what it stores
PC_BITS = 12
VALID, DIRTY, MSHR_AT, LINE_AT = 8, 4, 12, 25  # shifts within a tag word; sectors on their way are at 0
COPIED = 1 << 24

# Name -> slot of every counter, in units of sectors (32 bytes) or as the name says.
COUNTERS = {
    "l2_requests": N_REQUESTS, "l2_read_sectors": N_L2_READ, "l2_write_sectors": N_L2_WRITE,
    "l2_hit_sectors": N_L2_HIT, "l2_merged_sectors": N_L2_MERGED, "l2_fill_sectors": N_L2_FILL,
    "l2_writeback_sectors": N_L2_WRITEBACK, "l2_evicted_lines": N_L2_EVICT, "l2_far_sectors": N_FAR,
    "l2_far_hit_sectors": N_FAR_HIT, "l2_far_merged_sectors": N_FAR_MERGED, "l2_dropped_copies": N_DROPPED,
    "tlb_misses": N_TLB_MISS, "nvlink_requests": N_PEER_REQUESTS, "nvlink_served": N_PEER_SERVED,
    "nvlink_sectors": N_PEER_SECTORS, "nvlink_bytes_out": N_PEER_BYTES,
} | {name: D + slot for name, slot in dram.COUNTERS.items()}


def read_numbers(chip: Chip) -> tuple[DramConfig, dict[str, int]]:
    """The DRAM and the numbers of [noc], [l2], [tlb] and [nvlink] (as peer_...), checked. Raises ChipError."""
    config = DramConfig.from_chip(chip)
    keys = [key for key in chip.numbers if key.startswith(("noc.", "l2.", "tlb."))]
    n = {key.split(".")[1]: int(chip[key]) for key in keys}
    keys.append("nvlink.latency")
    n |= {f"peer_{key.split('.')[1]}": int(chip[key]) for key in chip.numbers if key.startswith("nvlink.")}
    n["sms"] = int(chip["core.sms"])
    for key in ("core.clock_hz", "dram.clock_hz"):
        check_clock(chip, key)
    if not 1 <= chip["dram.sustained_percent"] <= 100:
        raise ChipError(f"{chip.name}.dram.sustained_percent={chip['dram.sustained_percent']}: must be 1 to 100")
    below, above = int(chip["dram.clock_hz"]) * int(chip["dram.sustained_percent"]), 100 * chip.clock_hz
    common = gcd(below, above)
    n["ratio_dram"], n["ratio_sm"] = below // common, above // common
    n["least_dram"] = min(config.cl, config.cwl) + config.burst  # DRAM cycles from a command to its data's end
    n["requests"] = n["sms"] * int(chip["sm.outstanding_sectors"] + chip["sm.outstanding_stores"]
                                      + chip["sm.bulk.outstanding_lines"])
    n["stores"] = n["sms"] * int(chip["sm.outstanding_stores"])
    if n["least_dram"] * n["ratio_sm"] < n["ratio_dram"]:
        raise ChipError(f"{chip.name}: dram.timing cl and cwl are too short for a DRAM clock this fast")
    if n["slices"] < 1 or n["slices"] % config.channels or config.total_pseudo_channels % max(1, n["slices"]):
        raise ChipError(f"{chip.name}: l2.slices must be a multiple of dram.channels and divide the "
                        f"{config.total_pseudo_channels} pseudo-channels, not {n['slices']}")
    if config.burst_bytes != SECTOR_BYTES or config.order != "row_interleaved":
        raise ChipError(f"{chip.name}: the L2 needs dram.burst_bytes of {SECTOR_BYTES} and map.order row_interleaved, "
                        f"not {config.burst_bytes} and {config.order}")
    if chip["dram.capacity_bytes"] < 1:
        raise ChipError(f"{chip.name}.dram.capacity_bytes=0: must be at least 1")
    for key in keys:
        if key.endswith("latency") and chip[key] > MAX_CYCLES:
            raise ChipError(f"{chip.name}.{key}={chip[key]}: must be at most {MAX_CYCLES} cycles")
    two = n["partitions"] == 2  # then half of the MSHRs and places are for copies
    for name, low, high in (("partitions", 1, 2), ("mshrs", 1 + two, 4095), ("write_buffers", 1, 4095),
                            ("ways", 1 + two, 64), ("sets", 1, 2**20)):
        if not low <= n[name] <= high:
            raise ChipError(f"{chip.name}: l2.{name} must be {low} to {high}, not {n[name]}")
    if two and n["slices"] % 2:
        raise ChipError(f"{chip.name}: l2.slices must be even in two partitions, not {n['slices']}")
    if n["entries"] > 4096:
        raise ChipError(f"{chip.name}.tlb.entries={n['entries']}: must be at most 4096")
    for what, number in (("l2.sets", n["sets"]), ("tlb.page_bytes", n["page_bytes"]),
                         ("dram.map.chunk_bytes", config.chunk_bytes), ("dram.row_bytes", config.row_bytes),
                         ("pseudo-channels of a slice", config.total_pseudo_channels // n["slices"])):
        if number < 1 or number & (number - 1):
            raise ChipError(f"{chip.name}: {what} must be a power of two, not {number}")
    if n["page_bytes"] < LINE_BYTES:
        raise ChipError(f"{chip.name}.tlb.page_bytes={n['page_bytes']}: must be at least {LINE_BYTES}")
    return config, n


def _messages(n: dict[str, int]) -> int:
    """The most that a slice can have on its link: requests or data of the partner's MSHRs, and, for each cycle that
    these take, the dropped copy of a write."""
    sectors = 4 * (n["mshrs"] // 2)
    cycles = sectors * (n["header_bytes"] + SECTOR_BYTES) // max(1, n["link_bytes"])
    return 2 * sectors + cycles + n["link_latency"] + 2


def build(chip: Chip, ranks: int = 1) -> np.ndarray:
    """An idle memory system with empty caches: the int64 array M. Raises ChipError.

    ranks: GPUs that do the same at the same time; this is one of them.
    """
    config, n = read_numbers(chip)
    slice_words = S_WORDS + 2 * n["mshrs"] + n["sets"] * n["ways"]
    slice_words += -slice_words % 8  # whole cache lines of the host
    # A pending line asks DRAM at most once for each of its sectors; so does a copy its home.
    entries = n["slices"] * (4 * n["mshrs"] + n["write_buffers"])
    messages = n["slices"] * _messages(n) if n["partitions"] == 2 else 0
    out_port = D + dram.words(config, entries)
    in_port = out_port + n["sms"]
    tlb = in_port + n["sms"]
    wake = tlb + n["sms"] * n["entries"]
    slice_base = wake + config.channels
    slice_base += -slice_base % 8
    arrive = slice_base + n["slices"] * slice_words
    due = arrive + 2 * RING
    peers = due + 2 * RING
    landed = peers + 2 * RING
    landed_size = n["stores"] + 1 if ranks > 1 else 1
    nodes = landed + 2 * landed_size
    nodes += -nodes % 8
    count = n["requests"] + messages
    m = zeros(nodes + count * R_WORDS, np.int64)
    per_slice = config.total_pseudo_channels // n["slices"]
    window = n["link_latency"] + 1 if n["partitions"] == 2 else INF
    stretch = n["request_latency"] + n["response_latency"] + 3
    early = max(0, n["peer_latency"] - n["request_latency"] - 1)
    if ranks > 1:  # what is sent to a peer at one end of a window reaches it after the other; see nvlink.py
        window = min(window, n["peer_latency"] + 2)
        stretch = min(stretch, n["request_latency"] + 2 + early)
    numbers = {
        SMS: n["sms"], HEADER_BYTES: n["header_bytes"], OUT_BYTES: n["sm_out_bytes"], IN_BYTES: n["sm_in_bytes"],
        TO_SLICE: n["request_latency"], TO_SM: n["response_latency"], SLICES: n["slices"], SET_MASK: n["sets"] - 1,
        WAYS: n["ways"], SLICE_BYTES: n["slice_bytes"], MSHRS: n["mshrs"], WRITE_BUFFERS: n["write_buffers"],
        TO_DRAM: n["to_dram_latency"], FROM_DRAM: n["from_dram_latency"], RATIO_DRAM: n["ratio_dram"],
        RATIO_SM: n["ratio_sm"], LEAST_DRAM: n["least_dram"],
        PCS_SHIFT: per_slice.bit_length() - 1, SLICES_PER_CHANNEL: n["slices"] // config.channels,
        PARTITIONS: n["partitions"], LINK_LATENCY: n["link_latency"], LINK_BYTES: n["link_bytes"],
        WINDOW: window, STRETCH: stretch, PEER_BYTES: n["peer_bytes"], PEER_HEADER: n["peer_header_bytes"],
        PEER_LATENCY: n["peer_latency"], PEER_RING: peers, EARLY: early, LANDED: landed, LANDED_SIZE: landed_size,
        TLB_ENTRIES: n["entries"],
        PAGE_SHIFT: (n["page_bytes"] // LINE_BYTES).bit_length() - 1, TLB_MISS: n["miss_latency"],
        CHUNK_SHIFT: (config.chunk_bytes // LINE_BYTES).bit_length() - 1,
        ROW_SHIFT: (config.row_bytes // LINE_BYTES).bit_length() - 1, BANK_COUNT: config.banks,
        OUT_PORT: out_port, IN_PORT: in_port, TLB: tlb, WAKE: wake, SLICE_BASE: slice_base, SLICE_WORDS: slice_words,
        DONE: -1, ARRIVE_RING: arrive, DUE_RING: due, FREE_NODE: nodes if count else -1, NEXT_DUE: INF, READY: -1,
        READY_LAST: -1,
    }
    for slot, value in numbers.items():
        m[slot] = value
    m[tlb:wake] = -1
    m[wake : wake + config.channels] = INF
    slices = m[slice_base:arrive].reshape(n["slices"], slice_words)
    slices[:, [S_HEAD, S_TAIL, S_ASKED, S_ASKED_LAST, S_INBOX, S_INBOX_LAST]] = -1
    slices[:, [S_FILL_T, S_FREE_T, S_IN_T]] = INF
    slices[:, S_BUFFERS] = n["write_buffers"]
    slices[:, S_WORDS : S_WORDS + 2 * n["mshrs"] : 2] = np.arange(1, n["mshrs"] + 1)  # the free list
    slices[:, S_WORDS + 2 * (n["mshrs"] - 1)] = -1
    m[arrive:landed] = -1
    pool = m[nodes:].reshape(count, R_WORDS)
    pool[:, R_NEXT] = nodes + R_WORDS * np.arange(1, count + 1)
    pool[-1:, R_NEXT] = -1
    owner = np.arange(config.total_pseudo_channels) // per_slice
    dram.build(m, D, config, entries, slice_base + owner * slice_words + S_SINK)
    return m


def counters(state: np.ndarray) -> dict[str, int]:
    """Every counter by name (COUNTERS), since `build`."""
    return {name: int(state[slot]) for name, slot in COUNTERS.items()}
