"""How fast the DRAM engine and the GPU memory system are: `python -m tools.bench.bench_dram [requests]`.

Prints requests (or 128-byte lines) a second of processor time, one core, compilation not counted, and
what share of the peak bandwidth the emulated memory reached.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from emulator.chip import load_chip
from emulator.dram.alone import simulate
from emulator.dram.config import DramConfig
from emulator.gpu import memory
from isa.jit import njit

COLD_LINES = 400_000


def dram_patterns(requests: int) -> None:
    """DRAM alone: sequential, random and mixed traces of 64-byte requests on h100_sxm's DRAM."""
    config = DramConfig.from_chip(load_chip("h100_sxm"))
    rng = np.random.default_rng(1)
    in_order = np.arange(requests) * 64
    scattered = rng.integers(0, 2**34 // 64, requests) * 64
    every_third = np.arange(requests) % 3 == 2
    patterns = {
        "sequential": (config, in_order, None),
        "sequential, addresses in order": (config.but(scramble_bits=0), in_order, None),
        "sequential, 2 reads : 1 write": (config, in_order, every_third),
        "random": (config, scattered, None),
        "one channel, sequential": (config.but(channels=1, scramble_bits=0), in_order, None),
    }
    simulate(config, [0])  # compile
    print("DRAM alone, 64-byte requests, h100_sxm")
    for name, (dram, addresses, writes) in patterns.items():
        start = time.process_time()
        result = simulate(dram, addresses, writes, size=64)
        seconds = time.process_time() - start
        print(f"  {name:34s} {requests / seconds / 1e6:6.2f} M requests/s   {result.efficiency:6.1%} of peak")


@njit
def _stream(M, free, lines, writes_of_4, start):
    """Every SM keeps free[sm] lines in flight until `lines` were asked for in order; the cycle after the last."""
    now, asked, answered = start, 0, 0
    while answered < lines:
        memory.advance(M, now)
        tag = memory.pop_response(M, now)
        while tag >= 0:
            free[tag] += 1
            answered += 1
            tag = memory.pop_response(M, now)
        more = False
        for sm in range(len(free)):
            if free[sm] > 0 and asked < lines:
                write = 1 if asked % 4 < writes_of_4 else 0
                memory.request(M, now, sm, asked, 15, write, sm)
                asked += 1
                free[sm] -= 1
                more |= free[sm] > 0
        now = now + 1 if more or answered == lines else max(now + 1, memory.next_event(M))
    return now


def memory_streams(lines: int) -> None:
    """The whole memory system below L1: all SMs of h100_sxm stream lines, cold and from L2."""
    chip = load_chip("h100_sxm")
    config = DramConfig.from_chip(chip)
    sms = chip["core.sms"]
    peak = config.peak_bytes_per_cycle * chip["dram.clock_hz"] / chip.clock_hz  # bytes an SM cycle
    _stream(memory.build(chip), np.ones(1, dtype=np.int64), 1, 0, 0)  # compile
    print(f"GPU memory below L1, 128-byte lines, h100_sxm, {sms} SMs with 256 lines in flight each")
    for name, count, writes, repeats in (("cold reads", lines, 0, 1), ("cold, 1 read : 1 write", lines, 2, 1),
                                         ("L2 hits", 200_000, 0, 6)):
        state, now = memory.build(chip), 0
        for _ in range(repeats):
            begin, start = time.process_time(), now
            now = _stream(state, np.full(sms, 256), count, writes, now)
        seconds = time.process_time() - begin
        rate = 128 * count / (now - start)
        print(f"  {name:34s} {count / seconds / 1e6:6.2f} M lines/s      {rate:7.1f} B/cycle"
              + (f" = {rate / peak:5.1%} of DRAM peak" if repeats == 1 else f" = {rate / sms:4.1f} an SM"))


def cold_lines() -> int:
    """All SMs of h100_sxm stream lines that no cache has; how many."""
    chip = load_chip("h100_sxm")
    _stream(memory.build(chip), np.full(chip["core.sms"], 256), COLD_LINES, 0, 0)
    return COLD_LINES


def main() -> None:
    """Print both tables."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    dram_patterns(requests)
    memory_streams(requests)


if __name__ == "__main__":
    main()
