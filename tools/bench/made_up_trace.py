"""Made-up recordings of any size: what the viewer is measured and tested with. No machine ran."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from emulator.accounting import GPU_REASONS, LPU_REASONS, reason_index
from emulator.trace import (
    COLUMNS,
    ISSUE,
    KIND_INDEX,
    STALL,
    Instructions,
    Launches,
    Trace,
    TracedChip,
    Units,
    in_order,
    kinds_of,
)
from tools.viewer.recording import Recording

GPU_OPCODES = ("LDG", "FMA", "ADDI", "MMA", "LDS", "STS", "BAR", "UBR")
KERNELS = ("qkv_gemv", "attention", "mlp_gemv")


class _Columns:
    """Event columns that grow by whole arrays."""

    def __init__(self) -> None:
        self.parts: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}

    def add(self, count: int, **values: int | np.ndarray) -> None:
        for name, parts in self.parts.items():
            default = -1 if name in ("launch", "instruction", "actor") else 0
            parts.append(np.broadcast_to(np.asarray(values.get(name, default), dtype=np.int64), (count,)))

    @property
    def count(self) -> int:
        return sum(len(part) for part in self.parts["start"])

    def sorted(self) -> dict[str, Any]:
        return in_order({name: np.concatenate(parts) for name, parts in self.parts.items()})


def gpu_recording(events: int = 20_000, sms: int = 8, label: str = "a", slower: float = 1.0) -> Recording:
    """About `events` events of a made-up GPU: `sms` SMs of four sub-cores, L2 slices and DRAM banks, three kernels."""
    rng = np.random.default_rng(7)
    units = Units()
    units.add([f"SM{sm}.{sub}" for sm in range(sms) for sub in range(4)], 0, "sub_core")
    slices = units.add([f"L2.{n}" for n in range(8)], 0, "l2_slice")
    banks = units.add([f"ch{c}.{p} bank {b}" for c in range(4) for p in range(2) for b in range(4)], 0, "dram_bank")
    texts = Instructions()
    for kernel in KERNELS:
        for n in range(24):
            opcode = GPU_OPCODES[n % len(GPU_OPCODES)]
            texts.opcode.append(opcode)
            texts.asm.append(f"{opcode}{'.f16' if opcode == 'MMA' else ''} R{n}, R{n + 1}, {4 * n}")
            texts.line.append(n + 1)
            texts.source.append(f"{opcode} acc{n}, w  ; {kernel}")
            texts.node.append(f"layers.0.{kernel}")
            texts.kernel.append(kernel)
            texts.level.append("")
            texts.tensor.append("weights" if opcode == "LDG" else "")
    busy = int(events * 0.8) // (sms * 4) // 2  # issues of a sub-core, each followed by a stall
    cycles = int(busy * 6 * slower) + 400
    third = cycles // 3
    columns = _Columns()
    waits = np.asarray([reason_index(GPU_REASONS, name) for name in ("global_memory", "fixed_latency", "memory_queue",
                                                                      "mbarrier")])  # fmt: skip
    for unit in range(sms * 4):
        begin = 100 + unit % 13
        issue = begin + np.cumsum(rng.integers(2, int(9 * slower) + 2, busy))
        issue = issue[issue < cycles - 40]
        n = len(issue)
        launch = np.minimum(issue // third, 2)
        instruction = launch * 24 + np.arange(n) % 24
        reason = waits[(instruction * 7 + np.arange(n) // 40) % 4]
        columns.add(n, start=issue, end=issue + 4 + instruction % 24, unit=unit, kind=ISSUE, launch=launch,
                    reason=reason, instruction=instruction, actor=np.arange(n) % 4 + 4 * (unit // 4),
                    wait=np.diff(issue, prepend=begin))  # fmt: skip
        columns.add(n, start=np.concatenate([[begin], issue[:-1] + 1]), end=issue, unit=unit, kind=STALL, reason=reason,
                    launch=launch, instruction=instruction, actor=np.arange(n) % 4 + 4 * (unit // 4))  # fmt: skip
    rest = max(0, events - columns.count) // 2
    for first, count, kind, longest in ((slices, 8, "l2_read", 60), (banks, 32, "hbm_read", 200)):
        start = np.sort(rng.integers(100, cycles - 300, rest))
        columns.add(rest, start=start, end=start + rng.integers(20, longest, rest), kind=KIND_INDEX[kind], bytes=128,
                    unit=first + rng.integers(0, count, rest), launch=np.minimum(start // third, 2))  # fmt: skip
    launches = Launches([f"layers.0.{k}" for k in KERNELS], list(KERNELS), [60 + n * third for n in range(3)],
                        [(n + 1) * third for n in range(3)], [sms] * 3, [128] * 3, [1] * 3,
                        [json.dumps({"weights": f"layers.0.{kernel}.weights"}) for kernel in KERNELS])  # fmt: skip
    trace = Trace("gpu", "h100_sxm", cycles, (0, cycles), **columns.sorted(), units=units, instructions=texts,
                  launches=launches, chips=[TracedChip(0, [0], [0], 0, cycles)], kinds=kinds_of("gpu"))  # fmt: skip
    trace.check()
    return Recording(label, trace, 1_755_000_000)


def lpu_recording(events: int = 10_000, label: str = "a") -> Recording:
    """About `events` events of a made-up LPU: slices that read, ALUs and planes that take what passes them."""
    units = Units()
    units.add([f"MEM.{h}{n}" for h in "WE" for n in range(16)], 0, "mem")
    units.add([f"VXM{n}" for n in range(16)], 0, "vxm")
    units.add([f"MXM{plane}.{kind}" for plane in range(4) for kind in ("LW", "ABC", "ACC")], 0, "mxm")
    texts = Instructions()
    for unit, (name, kind) in enumerate(zip(units.name, units.unit_class, strict=True)):
        toward = "W" if "E" in name[4:] else "E"
        asm = {"mem": f"READ {unit}, S{unit % 32}.{toward}", "vxm": f"ADD.f32 S{4 * (unit % 8)}.E, S0.W, S4.W",
               "mxm": "ACC S16.E" if name.endswith("ACC") else "ABC.s8 S16.E"}[kind]  # fmt: skip
        texts.opcode.append(asm.split()[0].split(".")[0])
        texts.asm.append(asm)
        texts.line.append(unit + 1)
        texts.source.append(f"{name}  {asm}  ; step {unit}")
        texts.node.append(f"layers.0.{kind}")
        texts.kernel.append(name)
        texts.level.append("sram_read" if kind == "mem" else "")
        texts.tensor.append(f"matrix {unit % 4}" if kind == "mem" else "")
    each = max(1, events // (2 * len(units)))
    cycles = each * 5 + 200
    data = reason_index(LPU_REASONS, "data")
    columns = _Columns()
    for unit, kind in enumerate(units.unit_class):
        issue = 40 + unit % 17 + np.arange(each, dtype=np.int64) * 5
        columns.add(each, start=issue, end=issue + (1 if kind == "mem" else 8), unit=unit, kind=ISSUE, instruction=unit,
                    actor=0, bytes=320 if kind == "mem" else 0)  # fmt: skip
        columns.add(each, start=issue + 1, end=issue + 5, unit=unit, kind=STALL, reason=data)
    trace = Trace("lpu", "groq_tsp_v1", cycles, (0, cycles), **columns.sorted(), units=units, instructions=texts,
                  launches=Launches(), chips=[TracedChip(0, [0], [0], 0, cycles)], kinds=kinds_of("lpu"))  # fmt: skip
    trace.check()
    return Recording(label, trace, 900_000_000)
