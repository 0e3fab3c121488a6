"""What recording costs: one layer of llama-3.1-8b on each machine, every event of it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tools.bench.engines import Shown, machine_for

REPEATS = 3
CHIPS: dict[str, dict[str, Any]] = {"h100_sxm": {}, "groq_tsp_v1": {"tensor_parallel": 8}}  # fewer hold no layer


def tracing() -> list[Shown]:
    """Processor time of a recorded step over one that is not, with the tables of its trace, and with the folder
    written; bytes of an event on disk. Pairs, one after the other; medians."""
    shown = []
    for chip, options in CHIPS.items():
        machine = machine_for(chip, True, **options)
        with tempfile.TemporaryDirectory() as folder:
            found = [_pair(machine, Path(folder) / "trace") for _ in range(REPEATS + 1)][1:]  # the first one compiles
        plain, recorded, written, size, events = (median(column) for column in zip(*found, strict=True))
        what = f"layer on {chip}, {events:,.0f} events"
        shown += [Shown(f"{what}: not recorded", f"{plain:.2f}", "s", ""),
                  Shown(f"{what}: recorded", f"{recorded / plain:.2f}", "times that", "2"),
                  Shown(f"{what}: recorded and written", f"{written / plain:.2f}", "times that", ""),
                  Shown(f"{what}: on disk", f"{size / events:.1f}", "bytes/event", "10")]
    return shown


def _pair(machine: Any, place: Path) -> tuple[float, float, float, int, int]:
    """Seconds of a step, of the same recorded, of that and writing it; bytes and number of its events."""
    from emulator.run import measured_step
    from emulator.trace import Window
    from emulator.trace_file import EVENTS, write_trace

    start = time.process_time()
    measured_step(machine, 1024, warm=False)
    plain = time.process_time()
    trace = measured_step(machine, 1024, warm=False, trace=Window()).trace
    recorded = time.process_time()
    assert trace is not None
    write_trace(trace, place)
    return (plain - start, recorded - plain, time.process_time() - plain, (place / EVENTS).stat().st_size, len(trace))
