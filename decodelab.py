"""decodelab: one decode step of a transformer, cycle by cycle, on two opposite machines.

The public face; notebooks and scripts import nothing else.

    from decodelab import load_model, load_chip, compile_decode, load, run
    program = compile_decode(load_model("tiny_kjv"), load_chip("h100_sxm"), batch=1, context=256)
    machine = load(program)                             # memory image placed, caches empty
    step = machine.step(token=17)                       # one decode step -> StepResult
    result = run(program, prompt_ids=[[41, 78, 259]], tokens=16)   # the loop -> Result

    result = run(assemble("f.s"), inputs={"W": W})      # a hand-written program

    step = machine.step(token=17, trace=Window())       # every event of the step
    step.trace.query("SELECT reason, sum(\"end\" - start) FROM events WHERE kind = 'stall' GROUP BY ALL")
    write_trace(step.trace, "folder"); trace, facts = read_trace("folder")

In Jupyter programs, results and traces show themselves; `arrays()`, `columns()` give NumPy arrays, `relation()`
gives DuckDB relations.
"""

from __future__ import annotations

from emulator.assemble import assemble
from emulator.chip import Chip, load_chip
from emulator.result import Result, StepResult
from emulator.run import load, run
from emulator.trace import Trace, Window
from emulator.trace_file import read_trace, write_trace
from isa.program import Program
from programs.compile import compile_decode
from programs.models.checkpoint import load_model

__all__ = [
    "Chip", "Program", "Result", "StepResult", "Trace", "Window",
    "assemble", "compile_decode", "load", "load_chip", "load_model", "read_trace", "run", "write_trace",
]  # fmt: skip
