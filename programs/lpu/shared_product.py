"""Matrix products over several LPUs of one node: weights divided over the inner dimension and the outputs.

C = A B: the activations A are on every chip (each has in memory what its weights meet). B's columns are divided
over groups of chips, and inside a group of `width` chips B's rows; the chips of a group add up their partial
sums over the links, in the product's own time, and the result stays distributed.

The best width follows from the chip: a wider group has fewer lanes left empty at the edges of tiles and inner
dimensions, but partial sums to send, 4 bytes for each of C's elements and chip of the group. The schedules of all
widths are made, and the shortest is taken.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from emulator.chip import Chip
from emulator.lpu.geometry import geometry
from emulator.run import Machine
from isa.opcodes import F16, F32
from isa.program import LpuImage, Program
from programs.errors import CapacityError
from programs.lpu.gemm import TYPES
from programs.lpu.gemm_plan import Shape
from programs.lpu.node import CHIPS, on_node
from programs.lpu.product import product_program
from programs.lpu.shared_gemm import SharedGemm
from programs.lpu.shared_plan import WIDTHS


def part(values: np.ndarray, row: tuple[int, int], column: tuple[int, int]) -> np.ndarray:
    """Part number i of n equal ones in each direction, given as (i, n); zeros beyond the edges."""
    sizes = [-(-extent // n) for extent, (_, n) in zip(values.shape, (row, column))]
    found = values[row[0] * sizes[0] : (row[0] + 1) * sizes[0], column[0] * sizes[1] : (column[0] + 1) * sizes[1]]
    out = np.zeros(sizes, dtype=values.dtype)
    out[: found.shape[0], : found.shape[1]] = found
    return out


def shared_product(chip: Chip, m: int, n: int, k: int, dtype: str, chips: int, a: np.ndarray | None = None,
                   b: np.ndarray | None = None, widths: tuple[int, ...] = (1, *WIDTHS)) -> Program:
    """C = A B on 2, 4 or 8 chips of a node, A [m, k] and B [k, n], float16 or int8; see the module's head.

    C is float16, or float32 for int8. Timing only without values; `read_shared_product` gives C after a step.
    widths: those to choose from. Raises ValueError for another number of chips or dtype, CapacityError when a share
    does not fit a chip.
    """
    if chips not in CHIPS:
        raise ValueError(f"chips {chips}: a product is shared by {', '.join(map(str, CHIPS))} chips of one node")
    if dtype not in TYPES:
        raise ValueError(f"dtype {dtype} is not multiplied by {chip.name}; it takes {', '.join(sorted(TYPES))}")
    made: list[tuple[int, int, Program | SharedGemm]] = []
    failed: CapacityError | None = None
    for width in (w for w in widths if w <= chips):
        outputs = -(-n // (chips // width))
        try:
            if width == 1:
                alone = product_program(chip, m, outputs, k, dtype)
                made.append((int(alone.meta["predicted_cycles"]), width, alone))
            else:
                shape = Shape(outputs, m, -(-k // width), TYPES[dtype])
                _check_room(chip, shape, chips)
                gemm = SharedGemm(chip, shape, width, F16 if TYPES[dtype] == F16 else F32)
                made.append((gemm.cycles, width, gemm))
        except CapacityError as error:
            failed = error
    if not made:
        assert failed is not None
        raise failed
    _, width, best = min(made, key=lambda x: x[:2])
    meta = {"op": "gemm", "m": m, "n": n, "k": k, "dtype": dtype, "width": width}
    if isinstance(best, Program):
        return _side_by_side(chip, best, chips, meta, a, b)
    return _together(best, chips, meta, a, b)


def _check_room(chip: Chip, shape: Shape, chips: int) -> None:
    """Raise CapacityError for a share whose operands are larger than a chip's memory."""
    have = geometry(chip).sram_bytes
    need = (shape.rows + shape.stationary) * shape.inner * shape.size
    if need > have:
        raise CapacityError(f"one of {chips} shares has {shape.rows} x {shape.inner} activations and {shape.inner} x "
                            f"{shape.stationary} weights, {need / 1e6:,.0f} MB, and {chip.name} has {have / 1e6:,.1f} "
                            "MB", None)


def _side_by_side(chip: Chip, alone: Program, chips: int, meta: dict[str, Any], a: np.ndarray | None,
                  b: np.ndarray | None) -> Program:
    """Every chip has all inner lanes and a share of B's columns: nothing crosses the links."""
    images: list[LpuImage] = list(alone.images)  # type: ignore[arg-type]
    if a is not None and b is not None:
        images = []
        for number in range(chips):
            share = part(b, (0, 1), (number, chips))
            alone = product_program(chip, meta["m"], share.shape[1], meta["k"], meta["dtype"], a, share)
            images += alone.images  # type: ignore[arg-type]
    tensors = {f"c{i}": replace(alone.tensors["c"], name=f"c{i}", chips=(i,)) for i in range(chips)}
    return on_node(alone, chips, images, tensors, meta)


def _together(gemm: SharedGemm, chips: int, meta: dict[str, Any], a: np.ndarray | None, b: np.ndarray | None
              ) -> Program:
    """Groups of gemm.width chips that add up their partial sums."""
    width = gemm.width
    if a is None or b is None:
        images = [gemm.contents(0, None, None)]
    else:
        groups = chips // width
        images = [gemm.contents(i % width, part(a, (0, 1), (i % width, width)),
                                part(b, (i % width, width), (i // width, groups)).T) for i in range(chips)]
    program = gemm.program({"transposed": False})
    tensors = {f"c{i}": gemm.result(f"c{i}", i, len(images) == 1) for i in range(chips)}
    return on_node(program, chips, images, tensors, meta)


def read_shared_product(machine: Machine) -> np.ndarray:
    """C [m, n] of a machine that has run a shared product's program with values."""
    meta = machine.program.meta
    m, n, chips, width = meta["m"], meta["n"], meta["chips"], meta["width"]
    groups = chips // width
    rows, columns = -(-m // width), -(-n // groups)
    found = np.zeros((rows * width, columns * groups), dtype=np.float32)
    for i in range(chips):
        height, length = (columns, rows) if meta["transposed"] else (rows, columns)
        values = machine.read(f"c{i}").reshape(height, -1)[:, :length]
        group, rank = divmod(i, width)
        found[rank * rows : (rank + 1) * rows, group * columns : (group + 1) * columns] = (
            values.T if meta["transposed"] else values)
    return found[:m, :n]


__all__ = ["part", "read_shared_product", "shared_product"]
