"""Neutral values: what a chip's numbers would be if one of its limits were not there.

An ideal is a change of the chip and of nothing else: the engines know no such switch. Where an engine needs a
number to be finite the value is one that binds nowhere; where it needs at least one, it is one.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from emulator.chip import Chip, ChipError

Value = int | str | Callable[[Chip], int]


def _core_clock(chip: Chip) -> int:
    return chip.clock_hz


NEAR_SLICES = 12  # on a column, where distances are a third of groq_tsp_v1's


def _behind_memory(columns: int) -> Callable[[Chip], int]:
    """So many columns behind the last slice, when NEAR_SLICES stand on each column."""
    return lambda chip: 1 + (int(chip["mem.slices_per_hemisphere"]) - 1) // NEAR_SLICES + columns


DRAM_RULES = ("ccd_s", "ccd_l", "cl", "cwl", "rcd_rd", "rcd_wr", "rp", "ras", "rc", "rrd_s", "rrd_l", "faw", "wtr_s",
              "wtr_l", "rtw", "wr", "rtp", "refi", "rfc", "refi_ab", "rfc_ab")  # fmt: skip
GPU_UNITS = ("fp32", "int", "convert", "mufu", "tensor", "uniform")

# kind of chip -> word -> key -> value. A cycle is the least that any step of a request takes.
NEUTRAL: Mapping[str, Mapping[str, Mapping[str, Value]]] = {
    "gpu": {
        # Arithmetic, branches and barriers: results in the next cycle, every unit takes an instruction a cycle.
        "issue": {f"sm.{unit}.{what}": 1 for unit in GPU_UNITS for what in ("latency", "interval")}
        | {"sm.branch.taken_latency": 1, "sm.barrier.latency": 1},
        # Load-store unit, L1 and shared memory: hits in the next cycle, no limit on what is under way.
        "l1": {f"sm.l1.hit_latency_{width}": 1 for width in (32, 64, 128)}
        | {"sm.l1.uniform_hit_latency": 1, "sm.l1.return_latency": 0, "sm.shared.latency": 1,
           "sm.shared.shuffle_latency": 1, "sm.async_copy.extra_latency": 0, "sm.lsu.queue": 16,
           "sm.lsu.sub_core_interval": 0, "sm.lsu.interval": 0, "sm.lsu.phase_cycles": 0,
           "sm.outstanding_sectors": 4096, "sm.outstanding_stores": 1024},
        # Bulk copies: complete with their last line, as many under way as fit the tables.
        "bulk": {"sm.bulk.queue": 4096, "sm.bulk.issue_interval": 0, "sm.bulk.extra_latency": 0,
                 "sm.bulk.outstanding_lines": 16384},
        # Crossbar: no distance, ports without a limit.
        "noc": {"noc.header_bytes": 0, "noc.sm_out_bytes": 0, "noc.sm_in_bytes": 0, "noc.request_latency": 0,
                "noc.response_latency": 0},
        # L2: one partition, atomics as fast as stores, slices without a limit on bytes, misses or lines to write back.
        "l2": {"l2.partitions": 1, "l2.link_latency": 0, "l2.link_bytes": 0, "l2.slice_bytes": 0, "l2.mshrs": 4095,
               "l2.write_buffers": 4095, "sm.atomic.extra_latency": 0},
        # Virtual memory: translation costs nothing.
        "tlb": {"tlb.entries": 0, "tlb.miss_latency": 0},
        # NVLink: no distance between GPUs, ports without a limit.
        "nvlink": {"nvlink.bytes": 0, "nvlink.header_bytes": 0, "nvlink.latency": 0},
        # DRAM: no latency, no refresh and no rule but one: data passes the pins at their peak rate.
        "dram": {f"dram.timing.{rule}": 0 for rule in DRAM_RULES} | {
            "dram.sustained_percent": 100, "dram.act_bus_cycles": 0, "dram.pre_bus_cycles": 0,
            "l2.to_dram_latency": 0, "l2.from_dram_latency": 0},
        # The pins: a channel's pseudo-channels share a command bus, so that each channel moves a burst in every core
        # cycle.
        "pins": {"dram.timing.burst": 1, "dram.clock_hz": _core_clock},
        # Waves: a launch's CTAs start all at once, and an SM takes as many as its warps and shared memory allow.
        "waves": {"launch.ctas_per_cycle": 4096, "launch.cta_start": 0, "sm.max_ctas": 64, "sm.registers": 1 << 18},
        # Launches: a kernel begins when the one before it ends.
        "launch": {"launch.graph_gap": 0, "launch.stream_gap": 0, "launch.graph_start": 0, "launch.shared_start": 0,
                   "launch.kernel_head": 0},
    },
    "lpu": {
        # Links between chips: a vector every cycle, there in the next.
        "links": {"c2c.link_latency_cycles": 1, "c2c.overhead_cycles": 0, "c2c.slot_cycles": 1},
        # Distances on the chip: a third. Values that follow each other on a stream use different columns, so a single
        # column of slices would take room away from the streams.
        "transit": {"mem.slices_per_column": NEAR_SLICES, "sxm.column": _behind_memory(1),
                    "mxm.column": _behind_memory(2), "stream.edge_column": _behind_memory(2), "vxm.result_column": 0},
        # Vector unit: results in the next cycle, every ALU can do everything. Sixteen ALUs a lane stay.
        "vxm": {"vxm.entry_cycles": 0, "vxm.op_cycles": 1, "vxm.special_cycles": 1,
                "vxm.large_alus": ",".join(map(str, range(16)))},
        # Depth of the other units: lane switches in the next cycle; a plane's sums after the 16 cycles that the
        # compiler's transposition through a plane needs.
        "units": {"mxm.latency_cycles": 16, "mxm.install_cycles": 1, "sxm.shift_cycles": 1, "sxm.permute_cycles": 1,
                  "sxm.distribute_cycles": 1, "sxm.transpose_cycles": 1, "mem.gather_cycles": 1,
                  "icu.barrier_cycles": 1},
    },
}  # fmt: skip


def ideal_values(chip: Chip, word: str) -> dict[str, int | str]:
    """The numbers of a chip that a word replaces, with their neutral values. Raises ChipError for a word that a
    chip of this kind does not have."""
    words = NEUTRAL[chip.kind]
    if word not in words:
        near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ChipError(f"ideal {word}: {chip.name} has no such limit; {hint}known: {', '.join(words)}")
    return {key: value(chip) if callable(value) else value for key, value in words[word].items()}


def ideal_chip(chip: Chip, *words: str) -> Chip:
    """A copy of a chip without the limits named. Raises ChipError."""
    for word in words:
        for key, value in ideal_values(chip, word).items():
            chip = chip.with_override(key, str(value))
    return chip
