"""How fast traces become files: events a second of processor time, of a made-up GPU trace of a million events."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.bench.engines import Rate, clock

EVENTS = 1_000_000


def exports() -> list[Rate]:
    """Events a second into and out of Parquet, into Perfetto, Kanata and CSV. The aim of exports: 1 M in two
    seconds."""
    from emulator.trace_file import read_trace, write_trace
    from tools.bench.made_up_trace import gpu_recording
    from tools.export import csv, kanata, perfetto

    trace = gpu_recording(EVENTS, sms=132).trace
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def counted(work: Callable[[], object]) -> Callable[[], int]:
            def run() -> int:
                work()
                return len(trace)

            return run

        write_trace(trace, place / "t")
        return [
            Rate("trace to Parquet", clock(counted(lambda: write_trace(trace, place / "t"))), "events/s"),
            Rate("trace from Parquet", clock(counted(lambda: read_trace(place / "t"))), "events/s"),
            Rate("trace to Perfetto", clock(counted(lambda: perfetto.export([trace], place / "p"))), "events/s", 5e5),
            Rate("trace to Kanata", clock(lambda: kanata.export(trace, place / "k")), "instructions/s", 5e5),
            Rate("trace to CSV", clock(counted(lambda: csv.export([trace], place / "c"))), "events/s", 5e5),
        ]
