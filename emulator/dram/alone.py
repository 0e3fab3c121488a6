"""DRAM by itself: run an address trace through every channel and report cycles and commands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.dram import layout
from emulator.dram.address import scramble
from emulator.dram.config import LINE_BYTES, DramConfig
from emulator.dram.controller import run_channel
from emulator.dram.naive import Entry, NaiveChannel
from emulator.dram.queues import bank_and_row, push
from isa.jit import njit

_NAMES = {layout.C_ACT: "ACT", layout.C_PRE: "PRE", layout.C_RD: "RD", layout.C_WR: "WR", layout.C_REF: "REF"}
FEED = 64  # requests that a pseudo-channel is handed at a time, on top of what its queues hold
BURSTS = 4  # of a line, at most
Command = tuple[int, int, str, int, int]


@dataclass
class DramResult:
    """cycles: DRAM cycle in which the last data passed a bus. done: that cycle for each request; entered: the
    cycle in which its queue took it.

    commands: (cycle, pseudo-channel, name, bank, row of an ACT, burst of a RD or WR)
    by channel in the order of issue; empty unless asked for.
    """

    cycles: int
    done: np.ndarray
    entered: np.ndarray
    counters: dict[str, int]
    commands: list[Command]
    config: DramConfig

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return (self.counters["dram_reads"] + self.counters["dram_writes"]) * self.config.burst_bytes

    @property
    def efficiency(self) -> float:
        """Share of the peak bandwidth that was used."""
        return self.bytes / (self.cycles * self.config.peak_bytes_per_cycle)


def simulate(config: DramConfig, addresses, writes=None, arrivals=None, size: int = LINE_BYTES, *,
             engine: str = "fast", log: bool = False) -> DramResult:
    """Run requests of `size` bytes (whole bursts inside one 128-byte line) at byte addresses.

    writes: true for writes; arrivals: DRAM cycles, not falling. Each pseudo-channel takes its requests
    in order, as soon as they have arrived and its queue has room. engine: "fast" or "naive", the same
    machine. A channel stops with its last request. Raises ValueError.
    """
    address = np.ascontiguousarray(addresses, dtype=np.int64)
    n = len(address)
    write = np.zeros(n, np.int64) if writes is None else np.ascontiguousarray(writes, dtype=bool).astype(np.int64)
    arrival = np.zeros(n, np.int64) if arrivals is None else np.ascontiguousarray(arrivals, dtype=np.int64)
    if len(write) != n or len(arrival) != n:
        raise ValueError(f"{n} addresses, but {len(write)} writes and {len(arrival)} arrivals")
    burst = config.burst_bytes
    if size not in range(burst, LINE_BYTES + 1, burst):
        raise ValueError(f"size must be {' or '.join(map(str, range(burst, LINE_BYTES + 1, burst)))} bytes, not {size}")
    within = address & (LINE_BYTES - 1)
    if n and (address.min() < 0 or (address & (burst - 1)).any() or within.max() + size > LINE_BYTES):
        raise ValueError(f"addresses must be multiples of {burst} and requests must not cross a 128-byte line")
    if n and (arrival[1:] < arrival[:-1]).any():
        raise ValueError("arrivals must not fall")
    line = address // LINE_BYTES
    mask = ((1 << (size // burst)) - 1) << (within // burst)
    run = {"fast": _fast, "naive": _naive}[engine]
    return run(config, line, mask, write, arrival, log)


def places(config: DramConfig, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(pseudo-channel of all, bank) of each 128-byte line, as `DramConfig.locate` has them."""
    chunks = np.empty(len(lines), dtype=np.int64)
    numbers = (config.chunk_bytes // LINE_BYTES, config.scramble_bits, config.total_pseudo_channels, config.stride)
    _scramble_all(np.ascontiguousarray(lines, dtype=np.int64), *numbers, chunks)
    local, pc = np.divmod(chunks, config.total_pseudo_channels)
    return pc, config.place(local)[0]


@njit
def _scramble_all(line, lines, bits, total, stride, chunks):
    for i in range(len(line)):
        chunks[i] = scramble(line[i] // lines, bits, total, stride)


def _fast(config, line, mask, write, arrival, log) -> DramResult:
    n = len(line)
    # Each burst needs one RD or WR; an ACT, PRE or REF can come on top of each, so 64 a request is ample.
    log_room = n * BURSTS * 16 + 100_000 if log else 0
    total = config.total_pseudo_channels
    sinks = layout.SINK_WORDS * np.arange(total)
    offset = int(layout.SINK_WORDS * total)
    # The channels run one after the other, so one pool is enough: what waits, and what finished since the last meal.
    room = FEED + config.read_queue + config.write_queue
    entries = config.pseudo_channels * room
    state = np.zeros(offset + layout.words(config, entries, log_room), dtype=np.int64)
    layout.build(state, offset, config, entries, sinks, log_room)
    state[offset + layout.STOP_WHEN_EMPTY] = 1
    done, entered = np.zeros((2, n), dtype=np.int64)
    fed, end, number, packed, when = np.zeros((5, max(n, total)), dtype=np.int64)
    _deal(state, offset, line, mask, write, arrival, fed, end, number, packed, when)
    cycles = _run_trace(state, offset, fed, end, number, packed, when, done, entered, room)
    counters = {name: int(state[offset + slot]) for name, slot in layout.COUNTERS.items()}
    logged = int(state[offset + layout.LOG_N])
    if log and logged > log_room:
        raise ValueError(f"{logged} commands do not fit the log of {log_room}")
    at = int(state[offset + layout.LOG])
    rows = state[at : at + logged * layout.LOG_WORDS].reshape(-1, layout.LOG_WORDS)
    return DramResult(int(cycles), done, entered, counters, _in_order(config, rows), config)


def _in_order(config: DramConfig, rows: np.ndarray) -> list[Command]:
    """Logged commands as the twin has them: by channel, cycle, and refreshes first, then columns, then rows."""
    phase = np.select([rows[:, 2] == layout.C_REF, rows[:, 2] >= layout.C_RD], [0, 1], 2)
    order = np.lexsort((rows[:, 1], phase, rows[:, 0], rows[:, 1] // config.pseudo_channels))
    return [(d, pc, _NAMES[c], bank, what) for d, pc, c, bank, what in rows[order].tolist()]


@njit
def _deal(S, D, line, mask, write, arrival, fed, end, number, packed, when):
    """Sort requests by pseudo-channel: its own are fed[pc] to end[pc] of number, packed (their place) and when."""
    total = S[D + layout.TOTAL_PC]
    lines = S[D + layout.CHUNK_LINES]
    for i in range(len(line)):
        chunk = scramble(line[i] // lines, S[D + layout.SCRAMBLE_BITS], total, S[D + layout.STRIDE])
        when[i] = chunk
        end[chunk % total] += 1
    at = 0
    for pc in range(total):
        fed[pc] = at
        at += end[pc]
        end[pc] = fed[pc]
    for i in range(len(line)):
        local = when[i] // total
        pc = when[i] - local * total
        bank, row = bank_and_row(S, D, local)
        to = end[pc]
        end[pc] += 1
        number[to] = i
        packed[to] = row << 11 | bank << 5 | mask[i] << 1 | write[i]
    for to in range(len(line)):
        when[to] = arrival[number[to]]


@njit
def _run_trace(S, D, fed, end, number, packed, when, done, entered, room):
    npc = S[D + layout.NPC]
    cycles = 0
    for channel in range(S[D + layout.CHANNELS]):
        c = S[D + layout.CH_BASE] + channel * S[D + layout.CH_WORDS]
        while True:
            left = False
            for pc in range(channel * npc, channel * npc + npc):
                q = c + layout.CH_HEAD + (pc - channel * npc) * S[D + layout.PC_WORDS]
                cycles = max(cycles, _collect(S, D, pc, done, entered))
                # As many as fit: those of earlier meals that are not done take up room.
                last = min(end[pc], fed[pc] + room - S[q + layout.COUNT] - S[q + layout.COUNT + 1]
                           - _waiting(S, q))
                for i in range(fed[pc], last):
                    word = packed[i]
                    push(S, D, pc, word >> 5 & 63, word >> 11, word >> 1 & 15, word & 1, when[i], number[i], i)
                fed[pc] = last
                S[q + layout.MORE] = 1 if last < end[pc] else 0
                left |= last < end[pc]
            S[c + layout.HUNGRY] = 0
            run_channel(S, D, channel, layout.INF)
            if not left:
                break
        for pc in range(channel * npc, channel * npc + npc):
            cycles = max(cycles, _collect(S, D, pc, done, entered))
    return cycles


@njit
def _waiting(S, q):
    """Entries that have been pushed and not yet taken into a queue."""
    n = 0
    e = S[q + layout.FIFO_HEAD]
    while e >= 0:
        n += 1
        e = S[e + layout.E_NEXT]
    return n


@njit
def _collect(S, D, pc, done, entered):
    """Note the times of a pseudo-channel's finished requests and free their entries; the latest time."""
    latest = 0
    for side in range(2):
        sink = pc * layout.SINK_WORDS + 2 * side
        e = S[sink]
        while e >= 0:
            time = S[e + layout.E_TIME]
            done[S[e + layout.E_TAG]] = time
            entered[S[e + layout.E_TAG]] = S[e + layout.E_SEQ]
            latest = max(latest, time)
            after = S[e + layout.E_NEXT]
            S[e + layout.E_NEXT] = S[D + layout.FREE]
            S[D + layout.FREE] = e
            e = after
        S[sink] = -1
    return latest


def _naive(config, line, mask, write, arrival, log) -> DramResult:
    channels = [NaiveChannel(config, number) for number in range(config.channels)]
    for i in range(len(line)):
        pc, bank, row, _ = config.locate(int(line[i]))
        channel, local = divmod(pc, config.pseudo_channels)
        channels[channel].push(local, Entry(bank, row, int(mask[i]), bool(write[i]), int(arrival[i]), tag=i))
    done, entered = np.zeros((2, len(line)), dtype=np.int64)
    counters: dict[str, int] = dict.fromkeys(layout.COUNTERS, 0)
    commands: list[Command] = []
    for channel in channels:
        while channel.pending:
            channel.step()
        for entry in channel.finished:
            done[entry.tag], entered[entry.tag] = entry.done, entry.entered
        for name, count in channel.counters.items():
            counters[name] += count
        commands += channel.commands if log else []
    return DramResult(int(done.max(initial=0)), done, entered, counters, commands, config)
