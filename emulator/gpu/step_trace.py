"""What a GPU recorded in a step, launch by launch, as one trace."""

from __future__ import annotations

import numpy as np

from emulator.chip import Chip
from emulator.gpu.launch import KernelRun
from emulator.gpu.memory_layout import read_numbers
from emulator.gpu.timing import SUB_CORES, Timing
from emulator.trace import KERNEL, KIND_INDEX, Instructions, Trace, TracedChip, Units, Window
from emulator.trace_build import Notes, event_columns, joined, make, recorded, recorded_cycles
from emulator.trace_tables import add_instructions, launches_of
from emulator.trace_tensors import addressed
from isa.program import GpuText, Program


class StepTrace:
    """Collects a step's launches; rank 0 is recorded and stands for all of them."""

    def __init__(self, chip: Chip, timing: Timing, program: Program, text: GpuText, ranks: int, window: Window) -> None:
        self.chip, self.text, self.ranks, self.window = chip, text, ranks, window
        self.units, self.instructions = unit_names(chip, timing), Instructions()
        parameters, tensors = addressed(program, text)
        add_instructions(self.instructions, text, parameters)
        self.launches = launches_of(text, tensors)
        self.parts: list[dict[str, np.ndarray]] = []

    def of_launch(self, number: int) -> Window | None:
        """What to record of a launch; None for nothing."""
        wanted = self.window.launches
        return self.window if wanted is None or number in wanted else None

    def add(self, number: int, run: KernelRun, start: int, times: int) -> None:
        """A launch has run. start: cycle of the step's beginning; times: how often it counts."""
        table = self.launches
        table.start[number], table.end[number], table.times[number] = run.start - start, run.end - start, times
        if run.events is None:
            return
        notes = Notes(self.window, start)
        if run.end > run.start:
            notes.record(KERNEL, self.units.name.index("GPU"), run.start, run.end)
        self.parts += [*run.events, event_columns(notes.take_out(), origin=start, launch=number)]

    def trace(self, cycles: int, host: int) -> Trace:
        """The step's trace. cycles: those that ran; host: bytes that the host wrote first. Raises TraceError."""
        span = recorded_cycles(self.window, cycles)
        if host:
            notes = Notes(self.window)
            notes.record(KIND_INDEX["host"], self.units.name.index("host"), 0, 1, size=host)
            self.parts.append(event_columns(notes.take_out()))
        wanted = self.window.launches
        return make(joined(self.parts), dialect="gpu", chip=self.chip.name, cycles=cycles, window=span,
                    units=self.units, instructions=self.instructions, launches=self.launches,
                    chips=[TracedChip(0, list(range(self.ranks)), [0] * self.ranks, 0, cycles)],
                    kinds=recorded(self.window, "gpu"), launches_recorded=None if wanted is None else sorted(wanted))


def unit_names(chip: Chip, timing: Timing) -> Units:
    """Every unit of a GPU in the order of their numbers in records."""
    dram, n = read_numbers(chip)
    units, sms = Units(), range(timing.sms)
    units.add([f"SM{sm}.{sub}" for sm in sms for sub in range(SUB_CORES)], 0, "sub_core")
    for form, unit_class in (("SM{}", "sm"), ("SM{} LSU", "lsu"), ("SM{} bulk", "bulk_engine")):
        units.add([form.format(sm) for sm in sms], 0, unit_class)
    units.add([f"L2.{slice_}" for slice_ in range(n["slices"])], 0, "l2_slice")
    channels = [divmod(pc, dram.pseudo_channels) for pc in range(dram.total_pseudo_channels)]
    banks = [f"ch{channel}.{pc} bank {bank}" for channel, pc in channels for bank in range(dram.banks)]
    units.add(banks, 0, "dram_bank")
    units.add(["NVLink"], 0, "nvlink")
    units.add(["GPU"], 0, "gpu")
    units.add(["host"], 0, "host")
    return units
