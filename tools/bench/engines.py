"""How fast the engines are on this computer: instructions and requests emulated a second, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rate:
    """One measured rate; aim: what this project set out for, on one core; None where it set none."""

    what: str
    per_second: float
    unit: str
    aim: float | None = None


@dataclass(frozen=True)
class Shown:
    """A measurement that is no rate of the emulator, as it is printed."""

    what: str
    value: str
    unit: str
    aim: str


def clock(work: Callable[[], int], seconds: float = 2.0) -> float:
    """Units a second of processor time, best of a few repeats: `work` does something and says how many units."""
    work()  # compiles, and brings everything into memory
    best, started = 0.0, time.process_time()
    while time.process_time() - started < seconds or not best:
        before = time.process_time()
        units = work()
        best = max(best, units / (time.process_time() - before))
    return best


def machine_for(chip_name: str, timing_only: bool, **options: Any) -> Any:
    """The bundled model, or one layer of llama-3.1-8b for timing, on a chip."""
    from emulator.chip import load_chip
    from emulator.run import load
    from programs.compile import compile_decode
    from programs.models.checkpoint import load_model

    chip = load_chip(chip_name)
    if timing_only:
        program = compile_decode(
            load_model("llama-3.1-8b"), chip, context=1024, layers=(0, 1), timing_only=True, **options
        )
    else:
        program = compile_decode(load_model("tiny_kjv"), chip, context=128, **options)
    return load(program, chip)


def counted(machine: Any, counter: str, values: bool) -> Callable[[], int]:
    """A step of a machine that gives one of its counters."""
    import numpy as np

    start = np.zeros((1, 1), dtype=np.int32)

    def work() -> int:
        machine.write("position", start if values else start + 1023)
        return int(machine.step(token=1 if values else None).counters[counter])

    return work


def lpu() -> list[Rate]:
    """LPU vector instructions (one 320-lane operation of one unit in one cycle) and int8 multiply-adds."""
    from tools.bench.bench_lpu import rates

    timing = machine_for("groq_tsp_v1", True, arithmetic="int8")
    values = machine_for("groq_tsp_v1", False)
    narrow = machine_for("groq_tsp_v1", False, arithmetic="int8")
    unit = "vector instructions/s"
    return [
        Rate("LPU, timing (llama-3.1-8b layer)", clock(counted(timing, "vector_instructions", False)), unit, 10e6),
        Rate("LPU, values (tiny_kjv fp16)", clock(counted(values, "vector_instructions", True)), unit, 2e6),
        Rate("LPU, values (tiny_kjv int8)", clock(counted(narrow, "vector_instructions", True)), unit, 2e6),
        Rate("LPU, values (tiny_kjv int8)", clock(counted(narrow, "macs", True)), "int8 MAC/s"),
        *rates(),
    ]


def gpu() -> list[Rate]:
    """GPU warp instructions, with the memory system below them. tools.bench.bench_gpu has more kernels."""
    from tools.bench.bench_dram import cold_lines
    from tools.bench.bench_gpu import copies, instructions, loads

    timing = machine_for("h100_sxm", True, weights="int8")
    values = machine_for("h100_sxm", False)
    unit = "warp instructions/s"
    return [
        Rate("GPU, timing, L2 hits (loads and FMAs)", clock(instructions(loads, True)), unit, 5e6),
        Rate("GPU, values, L2 hits (loads and FMAs)", clock(instructions(loads, False)), unit, 2e6),
        Rate("GPU, timing, L2 hits (copies and MMAs)", clock(instructions(copies, True)), unit),
        Rate("GPU, timing (llama-3.1-8b layer)", clock(counted(timing, "warp_instructions", False)), unit, 2e6),
        Rate("GPU, values (tiny_kjv fp16)", clock(counted(values, "warp_instructions", True)), unit, 2e6),
        Rate("GPU, memory below L1, cold lines", clock(cold_lines), "lines of 128 B/s", 1.3e6),
    ]


def dram() -> list[Rate]:
    """DRAM reads of 64 bytes, in order and at random, on h100_sxm's DRAM and on those that ship with the package."""
    from emulator.chip import dram_names, load_chip, load_dram
    from emulator.dram.alone import simulate
    from emulator.dram.config import DramConfig
    from tools.dram import pattern

    count = 500_000
    rates = []
    for name in ("h100_sxm", *dram_names()):
        dram = load_chip(name) if name == "h100_sxm" else load_dram(name)
        config = DramConfig.from_chip(dram)
        for what, aim in (("sequential", 5e6), ("random", 3e6)):
            trace = pattern(what, config, int(dram["dram.capacity_bytes"]), count, 64, seed=1)

            def work(config: Any = config, addresses: Any = trace.addresses) -> int:
                simulate(config, addresses, size=64)
                return count

            rates.append(Rate(f"DRAM {name}, {what}", clock(work, 1.0), "reads of 64 B/s", aim))
    return rates


def viewer() -> list[Shown]:
    """The page that `decodelab view` writes, in a headless Chromium."""
    from tools.bench import viewer as measured

    return measured.viewer()


def trace() -> list[Shown]:
    """What recording a layer costs."""
    from tools.bench.bench_trace import tracing

    return tracing()


def export() -> list[Rate]:
    """Traces into files."""
    from tools.bench.bench_export import exports

    return exports()


BENCHES: dict[str, Callable[[], Sequence[Rate | Shown]]] = {
    "lpu": lpu, "gpu": gpu, "dram": dram, "trace": trace, "viewer": viewer, "export": export,
}  # fmt: skip
