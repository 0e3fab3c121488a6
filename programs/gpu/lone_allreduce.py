"""One all-reduce by itself on N GPUs, as a graph of calls on the same values.

out[values] = the sum over all ranks of values.
"""

from __future__ import annotations

import numpy as np

from emulator.chip import Chip
from isa.program import GpuImage, Program
from programs.errors import CapacityError
from programs.gpu.allreduce_plan import AllreducePlan
from programs.gpu.kernels.allreduce import allreduce_kernel
from programs.gpu.kernels.lamport import lamport_kernel
from programs.gpu.launches import Launches
from programs.gpu.layout import Arena
from programs.gpu.plan import round_up


def allreduce_program(chip: Chip, plan: AllreducePlan, calls: int = 1, timing_only: bool = True) -> Program:
    """The program of `calls` all-reduces for plan.ranks GPUs. Tensors: values [1, values], out, and residual where the
    plan has one. Raises CapacityError when a GPU's memory is too small.
    """
    arena, launches = Arena(timing_only), Launches()
    real = False if plan.way == "lamport" else None  # its control flow depends on the values
    values = arena.place("values", plan.form, (1, plan.values), "activation", phantom=real)
    out = arena.place("out", plan.form, (1, plan.values), "output")
    extra = {}
    if plan.residual:
        extra["residual"] = arena.place("residual", plan.form, (1, plan.values), "activation")
    mail = arena.place("mail", "u8", (1, plan.mail_bytes), "state", phantom=False,
                       data=np.array(plan.mail_words, dtype=np.int32))
    size, there = round_up(arena.bytes, 512), int(chip["dram.capacity_bytes"])
    if size > there:
        raise CapacityError(f"an all-reduce of {plan.bytes:,} bytes takes {size:,} on every GPU; {chip.name} has "
                            f"{there:,}", 1)
    make = lamport_kernel if plan.way == "lamport" else allreduce_kernel
    launches.add(make("allreduce", plan))
    for call in range(calls):
        launches.launch("allreduce", plan.grid, 32 * plan.warps, 0, f"call{call}", values=values, out=out, mail=mail,
                        **extra)
    meta = {"op": "allreduce", "timing_only": timing_only, "calls": calls, "tensor_parallel": plan.ranks}
    program = launches.program(chip, arena.close(), arena.tensors, meta)
    image = program.images[0]
    assert isinstance(image, GpuImage)
    program.images = [image] + [GpuImage(np.copy(image.data), image.phantom_base, image.phantom_bytes)
                                for _ in range(0 if timing_only else plan.ranks - 1)]
    program.chips = [(0, 0 if timing_only else rank, ()) for rank in range(plan.ranks)]
    return program
