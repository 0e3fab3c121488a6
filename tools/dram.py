"""What `decodelab dram` does: patterns of requests for one DRAM by itself, and what it makes of them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tools.dram_trace import Trace

if TYPE_CHECKING:
    from emulator.chip import Chip
    from emulator.dram.alone import DramResult
    from emulator.dram.config import DramConfig

PATTERNS = ("sequential", "random", "single_bank_group", "single_bank", "mix:R:W")
NEAR = 0.9  # a limit that is used to this share is named as what bounds the run


def pattern(name: str, config: DramConfig, capacity: int, requests: int, size: int, seed: int) -> Trace:
    """The requests of a pattern. Raises ValueError for an unknown one.

    sequential         addresses in order
    random             any place of the memory, aligned to the size
    single_bank_group  rows of bank group 0 of every pseudo-channel in turn, each read to its end
    single_bank        bank 0 of every pseudo-channel, each request another row
    mix:R:W            R reads in order, then W writes in order, which begin at half of the memory
    """
    i = np.arange(requests, dtype=np.int64)
    writes = np.zeros(requests, dtype=bool)
    per_line = 128 // size
    if name == "sequential":
        addresses = i * size % capacity
    elif name == "random":
        addresses = np.random.default_rng(seed).integers(0, capacity // size, requests) * size
    elif name == "single_bank_group":
        line, within = np.divmod(i, per_line)
        turn, pc = np.divmod(line, config.total_pseudo_channels)
        row, column = np.divmod(turn, config.row_bytes // 128)
        bank = row % config.banks_per_group * config.groups
        addresses = config.line_at(pc, bank, row // config.banks_per_group % config.rows, column) * 128 + within * size
    elif name == "single_bank":
        row, pc = np.divmod(i, config.total_pseudo_channels)
        addresses = config.line_at(pc, 0 * pc, row % config.rows, 0 * pc) * 128
    else:
        found = re.fullmatch(r"mix:(\d{1,4}):(\d{1,4})", name)
        if not found or not int(found[1]) + int(found[2]):
            raise ValueError(f"--pattern {name}: unknown; patterns: {', '.join(PATTERNS)}, as in mix:2:1")
        reads, all_of = int(found[1]), int(found[1]) + int(found[2])
        turn, place = np.divmod(i, all_of)
        writes = place >= reads
        count = np.where(writes, turn * (all_of - reads) + place - reads, turn * reads + place)
        addresses = (np.where(writes, capacity // 2, 0) + count * size) % capacity
    return Trace(addresses, writes, None)


@dataclass
class Report:
    """One run of a DRAM by itself."""

    dram: Chip
    config: DramConfig
    what: str
    size: int
    trace: Trace
    result: DramResult
    cpu_seconds: float

    @property
    def seconds(self) -> float:
        """Emulated time."""
        return self.result.cycles / int(self.dram["dram.clock_hz"])

    @property
    def bytes_per_second(self) -> float:
        return self.result.bytes / self.seconds

    def latency(self) -> tuple[str, float, float]:
        """(from when it counts, median, 99th percentile) until the data has passed the bus, in DRAM cycles."""
        start, word = self.result.entered, "queue"
        if self.trace.arrivals is not None:
            start, word = self.trace.arrivals, "arrival"
        p50, p99 = np.percentile(self.result.done - start, [50, 99])
        return word, float(p50), float(p99)

    def limits(self) -> dict[str, float]:
        """Share of the run's time for which each limit holds, where it binds most: 1 is all that it can give."""
        from emulator.dram.alone import places

        c, n, cycles = self.config, self.result.counters, self.result.cycles
        bursts = self.size // c.burst_bytes
        pc, bank = places(c, self.trace.addresses // 128)
        of_bank = np.bincount(pc * c.banks + bank, minlength=c.total_pseudo_channels * c.banks)
        banks = of_bank.reshape(c.total_pseudo_channels, -1, c.groups)  # [pseudo-channel, bank of the group, group]
        activates = n["dram_activates"] / max(1, len(pc))  # a request
        refresh, busy = c.refresh_timing
        stops = busy / refresh if refresh and c.refresh == "all_bank" else 0.0
        row_bus = n["dram_activates"] * c.act_bus_cycles + n["dram_precharges"] * c.pre_bus_cycles
        return {
            "data bus": float(banks.sum(axis=(1, 2)).max()) * bursts * c.burst / cycles + stops,
            "bank group (tCCD_L)": float(banks.sum(axis=1).max()) * bursts * c.ccd_l / cycles + stops,
            "row cycle of a bank (tRC)": float(of_bank.max()) * activates * max(c.rc, c.ras + c.rp) / cycles + stops,
            "four activates (tFAW)": n["dram_activates"] * c.faw / 4 / c.total_pseudo_channels / cycles + stops,
            "row command bus": row_bus / c.channels / cycles + stops,
            "refresh of all banks": stops,
        }

    def bound(self) -> str:
        """What bounds the run, in words."""
        limits = self.limits()
        name, share = max(limits.items(), key=lambda pair: pair[1])
        stops = limits["refresh of all banks"]
        rest = f", with refresh of all banks for {stops:.1%} of the time" if stops else ""
        if share >= NEAR:
            return f"{name}{rest}"
        more = "busy banks and the depth of the queues"
        if self.trace.writes.any() and not self.trace.writes.all():
            more = "turns between reads and writes, rows that meet in a bank"
        elif self.trace.arrivals is not None:
            more = "the arrivals"
        return f"no single limit (nearest: {name}, {share:.0%}); {more}{rest}"

    def json(self) -> dict[str, Any]:
        """The run as plain data."""
        word, p50, p99 = self.latency()
        tck = 1 / int(self.dram["dram.clock_hz"])
        return {
            "schema": "decodelab.dram/1", "config": self.dram.name, "config_hash": self.dram.hash,
            "density_gbit_per_channel": self.dram.numbers["dram.density_gbit"].value
            if "dram.density_gbit" in self.dram.numbers else None,
            "refresh": self.config.refresh, "refresh_cycles": list(self.config.refresh_timing),
            "map": {"order": self.config.order, "chunk_bytes": self.config.chunk_bytes,
                    "scramble_bits": self.config.scramble_bits},
            "pattern": self.what, "requests": len(self.trace.addresses), "size_bytes": self.size,
            "cycles": self.result.cycles, "seconds": self.seconds, "bytes": self.result.bytes,
            "bytes_per_second": self.bytes_per_second, "peak_bytes_per_second": self.config.peak_bytes_per_cycle / tck,
            "efficiency": self.result.efficiency,
            "latency": {"from": word, "p50_cycles": p50, "p99_cycles": p99, "p50_seconds": p50 * tck,
                        "p99_seconds": p99 * tck},
            "counters": self.result.counters, "limits": self.limits(), "bound": self.bound(),
            "cpu_seconds": self.cpu_seconds, "requests_per_cpu_second": len(self.trace.addresses) / self.cpu_seconds,
        }

    def text(self) -> str:
        """What `dram` prints."""
        from tools.report import seconds, size, table

        c, n = self.config, self.result.counters
        tck = 1 / int(self.dram["dram.clock_hz"])
        interval, busy = c.refresh_timing
        every = f", {seconds(busy * tck)} every {seconds(interval * tck)}" if interval else ""
        word, p50, p99 = self.latency()
        kinds = {"ACT": "activates", "PRE": "precharges", "RD": "reads", "WR": "writes", "REF": "refreshes"}
        told = "  ".join(f"{short} {n[f'dram_{name}']:,}" for short, name in kinds.items())
        density = f"{self.dram['dram.density_gbit']} Gb a channel, " if "dram.density_gbit" in self.dram.numbers else ""
        peak = c.peak_bytes_per_cycle / tck
        rows = [
            ["efficiency", f"{self.result.efficiency:.2%} of {size(peak)}/s"],
            ["bandwidth", f"{size(self.bytes_per_second)}/s"],
            ["time", f"{self.result.cycles:,} DRAM cycles, {seconds(self.seconds)}"],
            ["latency", f"p50 {p50:,.0f} cycles = {seconds(p50 * tck)}, p99 {p99:,.0f} cycles = {seconds(p99 * tck)}, "
                        f"from {'entering the queue' if word == 'queue' else 'arrival'} to the last data"],
            ["commands", f"{told}  row hits {n['dram_row_hits']:,}"],
            ["limits", ", ".join(f"{name} {share:.0%}" for name, share in self.limits().items() if share)],
            ["bound by", self.bound()],
            ["emulated", f"{len(self.trace.addresses) / self.cpu_seconds / 1e6:.2f} M requests a CPU-second"],
        ]
        head = (f"{self.dram.name}: {self.dram.title}\n{density}{c.channels} channels x {c.pseudo_channels}, "
                f"{c.banks} banks each; refresh {c.refresh}{every}; map {c.order}, {c.chunk_bytes} B chunks, "
                f"{c.scramble_bits} scramble bits\n"
                f"{len(self.trace.addresses):,} requests of {self.size} B, {self.what}\n")
        return head + table(rows, indent=2)


def load_config(name: str, settings: tuple[str, ...]) -> Chip:
    """A DRAM that ships with the package, a DRAM's file, or the DRAM of a GPU chip, with --set values. ChipError."""
    from emulator.chip import ChipError, chip_names, dram_names, load_chip, load_dram
    from tools.options import split_setting

    if name in chip_names():
        dram = load_chip(name)
        if dram.kind != "gpu":
            raise ChipError(f"--config {name}: that chip has no DRAM; DRAMs: {', '.join(dram_names())}")
    else:
        dram = load_dram(name)
    for setting in settings:
        target, key, text = split_setting(setting)
        if target != dram.name:
            raise ValueError(f"--set {setting}: only {dram.name} is run here")
        dram = dram.with_override(key, text)
    return dram


def run(dram: Chip, config: DramConfig, what: str, trace: Trace, size: int, engine: str = "fast") -> Report:
    """Run requests on a DRAM. Raises ValueError."""
    from emulator.dram.alone import simulate

    if engine == "fast":
        simulate(config, [0], size=size)  # compile
    start = time.process_time()
    result = simulate(config, trace.addresses, trace.writes, trace.arrivals, size, engine=engine)
    return Report(dram, config, what, size, trace, result, max(time.process_time() - start, 1e-9))


def offered(trace: Trace, config: DramConfig, size: int, percent: float) -> Trace:
    """The same requests, arriving evenly at a share of the peak bandwidth."""
    at = np.arange(len(trace.addresses)) * size / (config.peak_bytes_per_cycle * percent / 100)
    return Trace(trace.addresses, trace.writes, at.astype(np.int64))
