"""What the chips of an LPU system recorded in a step, as one trace."""

from __future__ import annotations

import numpy as np

from emulator.accounting import LPU_REASONS, reason_index
from emulator.lpu.geometry import KIND_CLASS, Geometry
from emulator.lpu.outcome import Outcome
from emulator.trace import KIND_INDEX, STALL, Instructions, Launches, Trace, TracedChip, Units, Window
from emulator.trace_build import Notes, event_columns, joined, make, recorded, recorded_cycles
from emulator.trace_tables import add_instructions
from emulator.trace_tensors import accessed
from isa.opcodes import WEST
from isa.program import LpuText, Program

PIPELINE = reason_index(LPU_REASONS, "pipeline")
STREAMS = [f"S{s % WEST}.{'W' if s >= WEST else 'E'}" for s in range(2 * WEST)]  # in the order of a STREAM field


def step_trace(g: Geometry, program: Program, outcomes: list[Outcome], starts: list[int], cycles: int, host: int,
               window: Window) -> Trace:
    """The trace of a step whose rows gave these outcomes; rows that share one were run once."""
    span = recorded_cycles(window, cycles)
    units, instructions, parts = Units(), Instructions(), []
    first_of_text: dict[int, int] = {}
    chips: dict[int, TracedChip] = {}
    for row, (outcome, start) in enumerate(zip(outcomes, starts, strict=True)):
        if id(outcome) in chips:
            chips[id(outcome)].rows.append(row)
            chips[id(outcome)].starts.append(start)
            continue
        chips[id(outcome)] = TracedChip(row, [row], [start], start, start + outcome.cycles)
        number = program.chips[row][0]
        text = program.texts[number]
        assert isinstance(text, LpuText) and outcome.events is not None
        if number not in first_of_text:
            first_of_text[number] = add_instructions(
                instructions, text, accessed(program, number, g.words_per_slice), g.queue_names)
        first_unit = len(units)
        for queue, kind in enumerate(g.queue_kind):
            units.add([g.queue_names[queue]], row, KIND_CLASS[kind])
        units.add(STREAMS, row, "stream")
        own = window.later(-start)
        outside = Notes(own)  # other stages of the pipeline work before the chip's start and after its end
        for queue in range(g.queues):
            for first, end in ((-start, 0), (outcome.cycles, cycles - start)):
                if end > first:
                    outside.record(STALL, queue, first, end, reason=PIPELINE)
        records = np.concatenate([outcome.events, outside.take_out()])
        parts.append(event_columns(records, origin=-start, units=first_unit, instructions=first_of_text[number]))
    if host:
        notes = Notes(window)
        notes.record(KIND_INDEX["host"], units.add(["host"], -1, "host"), 0, 1, size=host)
        parts.append(event_columns(notes.take_out()))
    return make(joined(parts), dialect="lpu", chip=g.chip, cycles=cycles, window=span, units=units,
                instructions=instructions, launches=Launches(), chips=list(chips.values()),
                kinds=recorded(window, "lpu"))
