"""decodelab: one decode step of a transformer, cycle by cycle, on two opposite machines.

The public face; notebooks and scripts import nothing else.

    from decodelab import load_model, load_chip, compile_decode, load, run
    program = compile_decode(load_model("tiny_kjv"), load_chip("h100_sxm"), batch=1, context=256)
    machine = load(program)                             # memory image placed, caches empty
    step = machine.step(token=17)                       # one decode step -> StepResult
    result = run(program, prompt_ids=[[41, 78, 259]], tokens=16)   # the loop -> Result

    result = run(assemble("f.s"), inputs={"W": W})      # a hand-written program
"""

from __future__ import annotations

from emulator.assemble import assemble
from emulator.chip import Chip, load_chip
from emulator.result import Result, StepResult
from emulator.run import load, run
from isa.program import Program
from programs.compile import compile_decode
from programs.models.checkpoint import load_model

__all__ = [
    "Chip", "Program", "Result", "StepResult",
    "assemble", "compile_decode", "load", "load_chip", "load_model", "run",
]  # fmt: skip
