"""The chip's numbers for the SM side, as the engine and its twin use them.

`Timing` reads the [core], [sm...] and [launch] sections of a chip file once; `issue_timing` gives an
instruction's unit, latency and initiation interval. Times are SM cycles.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from emulator.chip import Chip, ChipError
from isa.opcodes import F32, Op

MAX_CYCLES = 4096  # of one latency or interval: beyond it a number is a slip, and a run would not end
MAX_GAP = 1 << 20  # cycles between kernels
MAX_REGISTERS = 1 << 18  # of an SM: four times a real one
MAX_SM_BYTES = 1 << 22  # of an SM's shared memory or L1: these are kept for every SM
CLOCK_HZ = (10**6, 10**11)  # of either clock: times of one are counted in whole cycles of the other
SUB_CORES = 4  # a warp's slot modulo 4 is its sub-core
MAX_WARPS = 64  # most warp slots an SM can have; the chip's number may be lower
MAX_QUEUE = 16
MAX_OPEN_GROUPS = 16  # copy groups of a warp that may be unfinished
LINE_BYTES, SECTOR_BYTES, SECTORS = 128, 32, 4
PEER_AT = 40  # a global address is distance << PEER_AT | local address; distance 0 is the GPU's own memory
LINE_AT_PEER = PEER_AT - 7  # where a line's number has the distance

# Execution units of a sub-core. LSU instructions queue in front of the SM's load-store unit;
# CONTROL needs no unit.
UNITS = ("fp32", "int", "convert", "mufu", "tensor", "uniform", "lsu", "control")
FP32, INT, CONVERT, MUFU, TENSOR, UNIFORM_UNIT, LSU, CONTROL = range(len(UNITS))

_MUFU = ("EXP2", "RSQRT", "TANH", "RCP")
_CONVERT = ("CVT", "PACK", "UNPACK")
_NOT_QUEUED = ("CPCOMMIT",)


@dataclass(frozen=True)
class Timing:
    """Numbers of one chip; each field's metadata is in its chip file under the key in KEYS."""

    sms: int
    max_warps: int
    max_ctas: int
    registers: int
    shared_bytes: int
    shared_reserved: int
    shared_per_cta: int
    fp32_latency: int
    fp32_interval: int
    int_latency: int
    int_interval: int
    convert_latency: int
    convert_interval: int
    mufu_latency: int
    mufu_interval: int
    tensor_latency: int
    tensor_interval: int
    uniform_latency: int
    uniform_interval: int
    branch_taken: int
    barrier_latency: int
    lsu_queue: int
    lsu_sub_core_interval: int
    lsu_interval: int
    lsu_phase_cycles: int
    l1_bytes: int
    l1_ways: int
    l1_latency_32: int
    l1_latency_64: int
    l1_latency_128: int
    l1_uniform_latency: int
    l1_return: int
    shared_latency: int
    shuffle_latency: int
    copy_extra: int
    atomic_extra: int
    bulk_engines: int
    bulk_queue: int
    bulk_issue: int
    bulk_extra: int
    bulk_lines: int
    outstanding_sectors: int
    outstanding_stores: int
    graph_gap: int
    stream_gap: int
    graph_start: int
    shared_start: int
    kernel_head: int
    ctas_per_cycle: int
    cta_start: int

    @property
    def l1_sets(self) -> int:
        """Sets of the whole unified array; a launch's shared memory takes away ways."""
        return self.l1_bytes // (LINE_BYTES * self.l1_ways)

    def gap(self, launch: str, shared_bytes: int = 0, first: bool = False) -> int:
        """Cycles from the end of a kernel to the first CTA of the next, by launch mode and its shared memory.

        first: of a step; a graph then starts anew.
        """
        gap = self.graph_gap if launch == "graph" else self.stream_gap
        if first and launch == "graph":
            gap += self.graph_start
        return gap + (self.shared_start if shared_bytes else 0)

    def head(self, launch: str, shared_bytes: int = 0) -> int:
        """Cycles of the gap, those before the first CTA, that a profiler counts as the kernel's own.

        A profiler's kernel begins where the launch does: code, parameters and SMs are made ready after that.
        """
        return min(self.kernel_head, self.gap(launch)) + (self.shared_start if shared_bytes else 0)


KEYS = {
    "sms": "core.sms",
    "max_warps": "sm.max_warps",
    "max_ctas": "sm.max_ctas",
    "registers": "sm.registers",
    "shared_bytes": "sm.shared.bytes",
    "shared_reserved": "sm.shared.reserved_per_cta",
    "shared_per_cta": "sm.shared.max_per_cta",
    "branch_taken": "sm.branch.taken_latency",
    "barrier_latency": "sm.barrier.latency",
    "lsu_queue": "sm.lsu.queue",
    "lsu_sub_core_interval": "sm.lsu.sub_core_interval",
    "lsu_interval": "sm.lsu.interval",
    "lsu_phase_cycles": "sm.lsu.phase_cycles",
    "l1_bytes": "sm.l1.bytes",
    "l1_ways": "sm.l1.ways",
    "l1_latency_32": "sm.l1.hit_latency_32",
    "l1_latency_64": "sm.l1.hit_latency_64",
    "l1_latency_128": "sm.l1.hit_latency_128",
    "l1_uniform_latency": "sm.l1.uniform_hit_latency",
    "l1_return": "sm.l1.return_latency",
    "shared_latency": "sm.shared.latency",
    "shuffle_latency": "sm.shared.shuffle_latency",
    "copy_extra": "sm.async_copy.extra_latency",
    "atomic_extra": "sm.atomic.extra_latency",
    "bulk_engines": "sm.bulk.engines",
    "bulk_queue": "sm.bulk.queue",
    "bulk_issue": "sm.bulk.issue_interval",
    "bulk_extra": "sm.bulk.extra_latency",
    "bulk_lines": "sm.bulk.outstanding_lines",
    "outstanding_sectors": "sm.outstanding_sectors",
    "outstanding_stores": "sm.outstanding_stores",
    "graph_gap": "launch.graph_gap",
    "stream_gap": "launch.stream_gap",
    "graph_start": "launch.graph_start",
    "shared_start": "launch.shared_start",
    "kernel_head": "launch.kernel_head",
    "ctas_per_cycle": "launch.ctas_per_cycle",
    "cta_start": "launch.cta_start",
} | {f"{unit}_{what}": f"sm.{unit}.{what}" for unit in UNITS[:6] for what in ("latency", "interval")}

OTHER_CYCLES = ("shared_start", "branch_taken", "lsu_phase_cycles", "l1_return", "copy_extra", "atomic_extra",
                "bulk_issue", "bulk_extra", "cta_start")


def read_timing(chip: Chip) -> Timing:
    """The SM side of a GPU chip. Raises ChipError for numbers that no SM of this kind can have."""
    if chip.kind != "gpu":
        raise ChipError(f"{chip.name} is not a GPU")
    check_clock(chip, "core.clock_hz")
    t = Timing(**{f.name: int(chip[KEYS[f.name]]) for f in fields(Timing)})

    def need(key: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ChipError(f"{chip.name}.{KEYS[key]}={getattr(t, key)}: must be {allowed}")

    need("sms", 1 <= t.sms <= 1024, "between 1 and 1024")
    need("max_warps", 4 <= t.max_warps <= MAX_WARPS and t.max_warps % SUB_CORES == 0,
         f"a multiple of {SUB_CORES} up to {MAX_WARPS}")
    need("max_ctas", 1 <= t.max_ctas <= MAX_WARPS, f"between 1 and {MAX_WARPS}")
    need("lsu_queue", 1 <= t.lsu_queue <= MAX_QUEUE, f"between 1 and {MAX_QUEUE}")
    need("shared_bytes", t.shared_bytes % LINE_BYTES == 0 and t.shared_bytes <= MAX_SM_BYTES,
         f"a multiple of {LINE_BYTES} up to {MAX_SM_BYTES}")
    need("l1_ways", 1 <= t.l1_ways <= 64, "between 1 and 64")
    need("l1_bytes", 1 <= t.l1_sets and t.l1_bytes <= MAX_SM_BYTES and t.l1_bytes == t.l1_sets * t.l1_ways * LINE_BYTES,
         f"a whole number of 128-byte lines in every way, up to {MAX_SM_BYTES} bytes")
    need("outstanding_sectors", 32 <= t.outstanding_sectors <= 1 << 16, "32 (one instruction) to 65536")
    need("outstanding_stores", 32 <= t.outstanding_stores <= 1 << 16, "32 (one instruction) to 65536")
    need("bulk_engines", t.bulk_engines <= 1, "1, or 0 for an SM that has no bulk copies")
    need("bulk_queue", 1 <= t.bulk_queue <= 1 << 12, "between 1 and 4096 copies")
    need("bulk_lines", 1 <= t.bulk_lines <= 1 << 14, "between 1 and 16384 lines")
    need("ctas_per_cycle", t.ctas_per_cycle >= 1, "at least 1")
    need("registers", 32 <= t.registers <= MAX_REGISTERS, f"between 32 (one a lane) and {MAX_REGISTERS}")
    for name in (f.name for f in fields(Timing)):
        if name.endswith("_gap") or name in ("graph_start", "kernel_head"):
            need(name, getattr(t, name) <= MAX_GAP, f"at most {MAX_GAP} cycles")
        elif "latency" in name or name.endswith("_interval") or name in OTHER_CYCLES:
            need(name, getattr(t, name) <= MAX_CYCLES, f"at most {MAX_CYCLES} cycles")
    return t


def check_clock(chip: Chip, key: str) -> None:
    """Raise ChipError for a clock outside CLOCK_HZ."""
    low, high = CLOCK_HZ
    if not low <= chip[key] <= high:
        raise ChipError(f"{chip.name}.{key}={chip[key]}: must be between {low} and {high} Hz")


def unit_of(op: Op, typ: int) -> int:
    """Execution unit of an instruction; typ is its TYPE field (0 where it has none)."""
    if op.name in _MUFU:
        return MUFU
    if op.name in _CONVERT:
        return CONVERT
    if op.unit in ("alu", "alu_large"):
        floating = typ == F32 and op.name in (
            "ADD", "SUB", "MUL", "MAX", "MIN", "NEG", "ADDI", "MULI", "MAXI", "MINI", "FMA")
        return FP32 if floating else INT
    if op.unit == "lsu" and op.name not in _NOT_QUEUED:
        return LSU
    return {"tensor": TENSOR, "uniform": UNIFORM_UNIT}.get(op.unit, CONTROL)


def issue_timing(timing: Timing, unit: int) -> tuple[int, int]:
    """(latency, initiation interval) of a fixed-latency unit; (0, 0) for LSU and CONTROL."""
    if unit in (LSU, CONTROL):
        return 0, 0
    name = UNITS[unit]
    return getattr(timing, f"{name}_latency"), getattr(timing, f"{name}_interval")
