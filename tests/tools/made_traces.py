"""Traces made up for the tests of what reads them, with every kind of event and awkward texts."""

from __future__ import annotations

import numpy as np

from emulator.accounting import GPU_REASONS, LPU_REASONS
from emulator.trace import (
    COLUMNS,
    KIND_INDEX,
    LEVEL_OF_OPCODE,
    Instructions,
    Launches,
    Trace,
    TracedChip,
    Units,
    in_order,
    kinds_of,
)

AWKWARD = "<script>alert('x')</script> & \"quotes\"\t\\ \u00e9"


def gpu_trace(events: int, seed: int = 1, warps: int = 8, cycles: int | None = None) -> Trace:
    """A GPU of 4 sub-cores and a DRAM bank, random events: issues that never share a cycle of a sub-core, results
    that overlap, stalls between the issues, rows of the bank one after another, two launches one after another."""
    rng = np.random.default_rng(seed)
    cycles = cycles or max(64, 2 * events)
    units = Units()
    units.add([f"SM{i // 4}.{i % 4}" for i in range(4)], 0, "sub_core")
    units.add(["ch0.0 bank 0"], 0, "dram_bank")
    units.add(["GPU 0"], 0, "gpu")
    table = Instructions()
    text = (("LDG", "LDG.128 R8, [R1]"), ("FMA", "FMA.f32 R4, R8, R9, R4"), ("MMA", "MMA.f16 R0, R8, R12, R0"),
            ("STG", AWKWARD))
    for i, (name, asm) in enumerate(text):
        table.opcode.append(name)
        table.asm.append(asm)
        table.line.append(i + 1 if i != 2 else 0)
        table.source.append(f"{asm}  ; {AWKWARD}" if i != 2 else "")
        table.node.append("")
        table.kernel.append("gemv")
        table.level.append("")
        table.tensor.append("")
    half = cycles // 2
    launches = Launches(["layers.0.qkv", "layers.1." + AWKWARD], ["gemv", "attention"], [0, half], [half, cycles],
                        [2, 2], [128, 128], [1, 1], ["", ""])
    n = max(1, events // 2)
    unit = rng.integers(0, 4, n)
    start = rng.integers(0, cycles - 40, n)
    _, first = np.unique(unit * cycles + start, return_index=True)
    unit, start = unit[first], start[first]
    n = len(unit)
    wait = np.minimum(rng.integers(0, 30, n), start)
    issue = {
        "start": start, "end": start + rng.integers(1, 40, n), "unit": unit, "kind": np.full(n, KIND_INDEX["issue"]),
        "reason": np.where(wait > 0, rng.integers(0, len(GPU_REASONS) - 3, n), 0),
        "launch": (start >= half).astype(int), "instruction": rng.integers(0, 4, n),
        "actor": rng.integers(0, warps, n), "wait": wait, "bytes": np.zeros(n, dtype=int)}
    parts = [issue]
    order = np.lexsort([start, unit])
    gap = (unit[order][1:] == unit[order][:-1]) & (start[order][1:] > start[order][:-1] + 1)
    before, after = order[:-1][gap], order[1:][gap]
    m = len(before)
    parts.append({
        "start": start[before] + 1, "end": start[after], "unit": unit[before], "kind": np.full(m, KIND_INDEX["stall"]),
        "reason": 1 + rng.integers(0, len(GPU_REASONS) - 2, m), "launch": issue["launch"][after],
        "instruction": issue["instruction"][after], "actor": issue["actor"][after], "wait": np.zeros(m, dtype=int),
        "bytes": np.zeros(m, dtype=int)})
    rows = max(1, min(20, cycles // 64))
    at = np.arange(rows) * (cycles // rows)
    zero = np.zeros(rows, dtype=int)
    parts.append({
        "start": at, "end": at + cycles // rows, "unit": zero + 4, "kind": zero + KIND_INDEX["hbm_read"],
        "reason": zero, "launch": zero - 1, "instruction": zero - 1, "actor": zero - 1, "wait": zero,
        "bytes": zero + 1024})
    two = np.zeros(2, dtype=int)
    parts.append({
        "start": np.array([0, half]), "end": np.array([half, cycles]), "unit": two + 5,
        "kind": two + KIND_INDEX["kernel"], "reason": two, "launch": np.arange(2), "instruction": two - 1,
        "actor": two - 1, "wait": two, "bytes": two})
    columns = in_order({name: np.concatenate([part[name] for part in parts]) for name in COLUMNS})
    return Trace("gpu", "h100_sxm", cycles, (0, cycles), units=units, instructions=table, launches=launches,
                 chips=[TracedChip(0, [0], [0], 0, cycles)], kinds=kinds_of("gpu"), **columns)


def lpu_trace(events: int, seed: int = 1) -> Trace:
    """Two LPUs that were run (the second stands for three), two queues each: issues with and without bytes, NOPs."""
    rng = np.random.default_rng(seed)
    units = Units()
    for chip in (0, 1):
        units.add(["MEM.E4", "MXM0.LW"], chip, "queue")
    table = Instructions()
    for name, asm, node in (("READ", "READ 5, S0.E", "layers.0.qkv"), ("LW", "LW.s8 S0.E, 16, 0", "layers.0.qkv"),
                            ("NOP", "NOP 7", "layers.0.qkv")):
        table.opcode.append(name)
        table.asm.append(asm)
        table.line.append(0)
        table.source.append("")
        table.node.append(node)
        table.kernel.append("MEM.E4")
        table.level.append(LEVEL_OF_OPCODE.get(name, ""))
        table.tensor.append("x" if name == "READ" else "")
    n = max(1, events)
    kind = np.where(np.arange(n) % 3 == 2, KIND_INDEX["stall"], KIND_INDEX["issue"])
    start = 8 * (np.arange(n) // 4)
    length = np.where(kind == KIND_INDEX["stall"], 7, rng.integers(1, 30, n))
    stalled = kind == KIND_INDEX["stall"]
    columns = in_order({
        "start": start, "end": start + length, "unit": np.arange(n) % 4, "kind": kind,
        "reason": np.where(stalled, 2 + np.arange(n) % (len(LPU_REASONS) - 3), 0), "launch": np.full(n, -1),
        "instruction": np.where(stalled, 2, np.arange(n) % 2), "actor": np.zeros(n, dtype=int),
        "wait": np.zeros(n, dtype=int), "bytes": np.where(stalled, 0, 320)})
    cycles = int(columns["end"].max())
    return Trace("lpu", "groq_tsp_v1", cycles, (0, cycles), units=units, instructions=table, launches=Launches(),
                 chips=[TracedChip(0, [0], [0], 0, cycles), TracedChip(1, [1, 2, 3], [0, 0, 0], 0, cycles)],
                 kinds=kinds_of("lpu"), **columns)
