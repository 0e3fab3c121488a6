"""DRAM by itself: run an address trace through every channel and report cycles and commands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emulator.dram import layout
from emulator.dram.address import scramble
from emulator.dram.config import BURST_BYTES, BURSTS, LINE_BYTES, DramConfig
from emulator.dram.controller import push, run_channel
from emulator.dram.naive import Entry, NaiveChannel
from isa.jit import njit

_NAMES = {layout.C_ACT: "ACT", layout.C_PRE: "PRE", layout.C_RD: "RD", layout.C_WR: "WR", layout.C_REF: "REF"}
Command = tuple[int, int, str, int, int]


@dataclass
class DramResult:
    """cycles: DRAM cycle in which the last data passed a bus. done: that cycle for each request.

    commands: (cycle, pseudo-channel, name, bank, row of an ACT, burst of a RD or WR)
    by channel in the order of issue; empty unless asked for.
    """

    cycles: int
    done: np.ndarray
    counters: dict[str, int]
    commands: list[Command]
    peak_bytes_per_cycle: float

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return (self.counters["dram_reads"] + self.counters["dram_writes"]) * BURST_BYTES

    @property
    def efficiency(self) -> float:
        """Share of the peak bandwidth that was used."""
        return self.bytes / (self.cycles * self.peak_bytes_per_cycle)


def simulate(config: DramConfig, addresses, writes=None, arrivals=None, size: int = LINE_BYTES, *,
             engine: str = "fast", log: bool = False) -> DramResult:
    """Run requests of `size` bytes (32, 64, 96 or 128, inside one 128-byte line) at byte addresses.

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
    if size not in (32, 64, 96, 128):
        raise ValueError(f"size must be 32, 64, 96 or 128 bytes, not {size}")
    if n and (address.min() < 0 or (address % BURST_BYTES).any() or (address % LINE_BYTES + size > LINE_BYTES).any()):
        raise ValueError("addresses must be multiples of 32 and requests must not cross a 128-byte line")
    if n and (np.diff(arrival) < 0).any():
        raise ValueError("arrivals must not fall")
    line = address // LINE_BYTES
    mask = ((1 << (size // BURST_BYTES)) - 1) << (address % LINE_BYTES // BURST_BYTES)
    run = {"fast": _fast, "naive": _naive}[engine]
    return run(config, line, mask, write, arrival, log)


def _fast(config, line, mask, write, arrival, log) -> DramResult:
    n = len(line)
    # Each burst needs one RD or WR; an ACT, PRE or REF can come on top of each, so 64 a request is ample.
    log_room = n * BURSTS * 16 + 100_000 if log else 0
    sinks = layout.SINK_WORDS * np.arange(config.total_pseudo_channels)
    offset = int(layout.SINK_WORDS * config.total_pseudo_channels)
    state = np.zeros(offset + layout.words(config, n, log_room), dtype=np.int64)
    layout.build(state, offset, config, n, sinks, log_room)
    state[offset + layout.STOP_WHEN_EMPTY] = 1
    done = np.zeros(n, dtype=np.int64)
    cycles = _run_trace(state, offset, line, mask, write, arrival, done)
    counters = {name: int(state[offset + slot]) for name, slot in layout.COUNTERS.items()}
    logged = int(state[offset + layout.LOG_N])
    if log and logged > log_room:
        raise ValueError(f"{logged} commands do not fit the log of {log_room}")
    at = int(state[offset + layout.LOG])
    rows = state[at : at + logged * layout.LOG_WORDS].reshape(-1, layout.LOG_WORDS).tolist() if log else []
    commands = [(d, pc, _NAMES[c], bank, what) for d, pc, c, bank, what in rows]
    return DramResult(int(cycles), done, counters, commands, config.peak_bytes_per_cycle)


@njit
def _run_trace(S, D, line, mask, write, arrival, done):
    total = S[D + layout.TOTAL_PC]
    for i in range(len(line)):
        within = line[i] % S[D + layout.CHUNK_LINES]
        chunk = scramble(line[i] // S[D + layout.CHUNK_LINES], S[D + layout.SCRAMBLE_BITS], total, S[D + layout.STRIDE])
        block = chunk // total // S[D + layout.ROW_CHUNKS]
        banks = S[D + layout.BANKS]
        push(S, D, chunk % total, block % banks, block // banks, mask[i], write[i], arrival[i], i, within)
    cycles = 0
    for channel in range(S[D + layout.CHANNELS]):
        run_channel(S, D, channel, layout.INF)
    for pc in range(total):
        for side in range(2):
            e = S[pc * layout.SINK_WORDS + 2 * side]
            while e >= 0:
                done[S[e + layout.E_TAG]] = S[e + layout.E_TIME]
                cycles = max(cycles, S[e + layout.E_TIME])
                e = S[e + layout.E_NEXT]
    return cycles


def _naive(config, line, mask, write, arrival, log) -> DramResult:
    channels = [NaiveChannel(config, number) for number in range(config.channels)]
    for i in range(len(line)):
        pc, bank, row, _ = config.locate(int(line[i]))
        channel, local = divmod(pc, config.pseudo_channels)
        channels[channel].push(local, Entry(bank, row, int(mask[i]), bool(write[i]), int(arrival[i]), tag=i))
    done = np.zeros(len(line), dtype=np.int64)
    counters: dict[str, int] = dict.fromkeys(layout.COUNTERS, 0)
    commands: list[Command] = []
    for channel in channels:
        while channel.pending:
            channel.step()
        for entry in channel.finished:
            done[entry.tag] = entry.done
        for name, count in channel.counters.items():
            counters[name] += count
        commands += channel.commands if log else []
    return DramResult(int(done.max(initial=0)), done, counters, commands, config.peak_bytes_per_cycle)
