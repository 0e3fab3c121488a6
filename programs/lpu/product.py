"""Matrix products on one LPU: the schedule for many rows or the one for few, whichever is shorter."""

from __future__ import annotations

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import geometry
from emulator.run import Machine
from isa.opcodes import F16, TYPE_BYTES
from isa.program import Program
from programs.errors import CapacityError
from programs.lpu.gemm import TYPES, fitting_schedule
from programs.lpu.skinny import skinny_program

SKINNY = 24  # up to so many rows the linear layer may be the shorter schedule


def product_program(chip: Chip, m: int, n: int, k: int, dtype: str, a: np.ndarray | None = None,
                    b: np.ndarray | None = None) -> Program:
    """C = A B with A [m, k] and B [k, n], float16 or int8; C is float16, or float32 for int8.

    Timing only without values; `read_product` gives C after a step. Raises ValueError for another dtype,
    CapacityError when operands and result do not fit.
    """
    if dtype not in TYPES:
        raise ValueError(f"dtype {dtype} is not multiplied by {chip.name}; it takes {', '.join(sorted(TYPES))}")
    g, kind = geometry(chip), TYPES[dtype]
    size = TYPE_BYTES[kind]
    need = (m * k + k * n) * size + m * n * (2 if kind == F16 else 4)
    if need > g.sram_bytes:
        raise CapacityError(
            f"operands and result of {m} x {n} x {k} in {dtype} take {need / 1e6:,.0f} MB and {chip.name} has "
            f"{g.sram_bytes / 1e6:,.1f} MB; {-(-need // g.sram_bytes)} chips could hold them",
            -(-need // g.sram_bytes))
    made: list[Program] = []
    failed: CapacityError | None = None
    if min(m, n) <= SKINNY:
        transposed = n < m
        outputs, rows = (m, n) if transposed else (n, m)
        weights = x = None
        if a is not None and b is not None:
            weights, x = (a, b.T) if transposed else (b.T, a)
            weights, x = np.ascontiguousarray(weights), np.ascontiguousarray(x)
        try:
            made.append(skinny_program(chip, kind, outputs, k, rows, weights, x))
            made[-1].meta |= {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype, "transposed": transposed}
        except CapacityError as error:
            failed = error
    try:
        made.append(fitting_schedule(chip, m, n, k, dtype, a, b))
    except CapacityError as error:
        failed = failed or error
    if not made:
        assert failed is not None
        raise failed
    return min(made, key=lambda program: int(program.meta["predicted_cycles"]))


def read_product(machine: Machine) -> np.ndarray:
    """C [m, n] of a machine that has run a product's program with values."""
    meta = machine.program.meta
    rows, columns = (meta["n"], meta["m"]) if meta["transposed"] else (meta["m"], meta["n"])
    found = machine.read("c").reshape(rows, -1)[:, :columns]
    return found.T if meta["transposed"] else found


__all__ = ["TYPES", "product_program", "read_product"]
