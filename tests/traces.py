"""Small made-up traces, for tests of files, exports and views."""

from __future__ import annotations

import json

import numpy as np

from emulator.accounting import GPU_REASONS, LPU_REASONS, reason_index
from emulator.trace import COLUMNS, KIND_INDEX, Instructions, Launches, Trace, TracedChip, Units, in_order, kinds_of

Row = tuple[int, int, int, str, str, int, int, int, int, int]


def made_up(dialect: str, rows: list[Row], units: Units, instructions: Instructions, launches: Launches,
            cycles: int, chip: str = "made_up", chips: list[TracedChip] | None = None) -> Trace:
    """A whole trace of rows (start, end, unit, kind, reason, launch, instruction, actor, wait, bytes), in words."""
    table = GPU_REASONS if dialect == "gpu" else LPU_REASONS
    columns = {name: np.zeros(len(rows), dtype=np.int64) for name in COLUMNS}
    for at, (start, end, unit, kind, reason, *rest) in enumerate(rows):
        values = (start, end, unit, KIND_INDEX[kind], reason_index(table, reason or "busy"), *rest)
        for name, value in zip(COLUMNS, values, strict=True):
            columns[name][at] = value
    trace = Trace(dialect, chip, cycles, (0, cycles), **in_order(columns), units=units, instructions=instructions,
                  launches=launches, chips=chips or [TracedChip(0, [0], [0], 0, cycles)], kinds=kinds_of(dialect))
    trace.check()
    return trace


def small_gpu(evil: str = "") -> Trace:
    """Two sub-cores of one SM, two warps, one launch of 20 cycles: a load, what waits for it, a store to DRAM.

    SM0.0 (warp 0): launch 0..4, LDG at 4, waits for memory 5..15, ADD at 15, STG at 16, EXIT at 17, then no warp.
    SM0.1 (warp 1): launch 0..4, ADD at 4, EXIT at 5, then no warp. evil: text to put into every name.
    """
    units = Units()
    subs = units.add(["SM0.0", "SM0.1"], 0, "sub_core")
    sm, lsu = units.add(["SM0"], 0, "sm"), units.add(["SM0 LSU"], 0, "lsu")
    slice_, bank = units.add(["L2.0"], 0, "l2_slice"), units.add(["ch0.0 bank 3"], 0, "dram_bank")
    gpu = units.add(["GPU"], 0, "gpu")
    node, kernel = f"layers.0.add{evil}", f"add{evil}"
    text = (("LDG", "LDG.32 R1, [UR1 + R0]"), ("ADD", "ADD.F32 R2, R1, R1"), ("STG", "STG.32 [UR1 + R0], R2"),
            ("EXIT", "EXIT"))
    table = Instructions([o for o, _ in text], [a for _, a in text], [3, 4, 5, 6], [f"{a} {evil}" for _, a in text],
                         [node] * 4, [kernel] * 4, [""] * 4, ["x", "", "y", ""])
    launches = Launches([node], [kernel], [4], [20], [1], [64], [1],
                        [json.dumps({"x": f"layers.0.x{evil}", "y": f"layers.0.y{evil}"})])
    rows: list[Row] = [
        (4, 20, gpu, "kernel", "", 0, -1, -1, 0, 0), (4, 18, sm, "cta", "", 0, -1, 0, 0, 0),
        (0, 4, subs, "stall", "launch", 0, -1, -1, 0, 0), (0, 4, subs + 1, "stall", "launch", 0, -1, -1, 0, 0),
        (4, 5, subs, "issue", "", 0, 0, 0, 0, 0), (5, 15, subs, "stall", "global_memory", 0, 1, 0, 0, 0),
        (15, 19, subs, "issue", "global_memory", 0, 1, 0, 10, 0), (16, 17, subs, "issue", "", 0, 2, 0, 0, 0),
        (17, 18, subs, "issue", "", 0, 3, 0, 0, 0), (18, 20, subs, "stall", "no_warp", 0, -1, -1, 0, 0),
        (4, 8, subs + 1, "issue", "", 0, 1, 1, 0, 0), (5, 6, subs + 1, "issue", "", 0, 3, 1, 0, 0),
        (6, 20, subs + 1, "stall", "no_warp", 0, -1, -1, 0, 0),
        (5, 6, lsu, "l1_read", "", 0, 0, 0, 0, 128), (8, 10, slice_, "l2_read", "", 0, -1, -1, 0, 128),
        (9, 13, bank, "hbm_read", "", 0, -1, -1, 0, 128), (13, 14, slice_, "l2_fill", "", 0, -1, -1, 0, 128),
        (18, 19, slice_, "l2_write", "", 0, -1, -1, 0, 128),
    ]  # fmt: skip
    return made_up("gpu", rows, units, table, launches, 20)


def small_lpu(evil: str = "") -> Trace:
    """Two queues and a stream for 30 cycles: a READ repeated once, a NOP, a WRITE; chip 0 stands for chip 1 too.

    MEM.E0: READ at 2 and 4 after waiting for order, MEM.E4: NOP 0..12 ("data"), WRITE at 12; idle afterwards.
    """
    units = Units()
    queues = units.add(["MEM.E0", "MEM.E4"], 0, "mem")
    stream = units.add(["S1.E"], 0, "stream")
    text = (("NOP", "NOP 2"), ("READ", "READ 5, S1.E"), ("REPEAT", "REPEAT 1, 2, 1"), ("NOP", "NOP 12"),
            ("WRITE", "WRITE 7, S1.E"))
    node = f"layers.0.copy{evil}"
    table = Instructions([o for o, _ in text], [a for _, a in text], [1, 2, 3, 0, 5], [a + evil for _, a in text],
                         [node] * 5, ["MEM.E0"] * 3 + ["MEM.E4"] * 2, ["", "sram_read", "", "", "sram_write"],
                         ["", f"layers.0.x{evil}", "", "", f"layers.0.y{evil}"])
    rows: list[Row] = [
        (0, 2, queues, "stall", "order", -1, 0, -1, 0, 0), (2, 3, queues, "issue", "", -1, 1, 0, 0, 320),
        (4, 5, queues, "issue", "", -1, 1, 1, 0, 320), (0, 12, queues + 1, "stall", "data", -1, 3, -1, 0, 0),
        (12, 13, queues + 1, "issue", "", -1, 4, 0, 0, 320),
        (0, 1, queues, "instruction_fetch", "", -1, 0, -1, 0, 4),
        (2, 3, queues, "instruction_fetch", "", -1, 1, -1, 0, 8),
        (0, 1, queues + 1, "instruction_fetch", "", -1, 3, -1, 0, 4),
        (12, 13, queues + 1, "instruction_fetch", "", -1, 4, -1, 0, 4),
        (2, 20, stream, "stream_byte_hops", "", -1, 1, 0, 0, 17 * 320),
        (4, 22, stream, "stream_byte_hops", "", -1, 1, 1, 0, 17 * 320),
    ]
    return made_up("lpu", rows, units, table, Launches(), 30, chips=[TracedChip(0, [0, 1], [0, 0], 0, 30)])
