"""A GPU, or several that do the same, with a program in its memory: tensors in and out, decode steps, results.

See emulator.run for the protocol that both machines share.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.accounting import GPU_REASONS, check_accounting
from emulator.chip import Chip
from emulator.gpu.decode import decode_text
from emulator.gpu.errors import LaunchError
from emulator.gpu.launch import KernelRun, shape_of
from emulator.gpu.ranks import check_ranks, make_engines, run_launch
from emulator.gpu.sample import repeats
from emulator.gpu.step_trace import StepTrace
from emulator.gpu.timing import SECTOR_BYTES, SUB_CORES, read_timing
from emulator.result import StepResult
from emulator.step_state import check_room, fed_ids
from emulator.time_tree import check_tree, gpu_tree
from emulator.trace import Window
from isa import formats
from isa.program import GpuText, Program, Tensor

LAUNCH_MODES = ("graph", "stream", "persistent")
LEVELS = ("shared_read", "shared_write", "l1_read", "l2_read", "l2_write", "l2_fill", "hbm_read", "hbm_write",
          "nvlink", "host")


class GpuMachine:
    """A GPU that runs the launches of one program, step after step.

    Caches and DRAM keep their state from step to step. engine: "fast" (compiled) or "naive" (the
    twin). launch: "graph" or "stream", what lies between two kernels; "persistent" for programs whose
    step is one kernel, launched on a stream. Raises LaunchError for a
    program that this chip cannot run. A program for several GPUs: see emulator/gpu/ranks.py.
    """

    def __init__(self, program: Program, chip: Chip, engine: str = "fast", launch: str = "graph") -> None:
        if program.dialect != "gpu":
            raise LaunchError(f"{chip.name} is a GPU; the program is for an {program.dialect}")
        if launch not in LAUNCH_MODES:
            raise LaunchError(f"launch {launch} is unknown; known: {', '.join(LAUNCH_MODES)}")
        if launch == "persistent" and program.meta.get("launch") != launch:
            raise LaunchError("launch persistent: the program's step is not one kernel; compile it for that")
        images = check_ranks(program, chip)
        self.program, self.chip, self.launch_mode = program, chip, launch
        self.timing = read_timing(chip)
        text, image = program.texts[program.chips[0][0]], images[0]
        assert isinstance(text, GpuText)
        self.text = text
        self.kernels = decode_text(text, self.timing)
        self.shapes = []
        for at, one in enumerate(text.launches):
            if not 0 <= one.kernel < len(text.kernels):
                raise LaunchError(f"launch {at}: kernel {one.kernel} does not exist")
            if any(not 0 <= before < at for before in one.after):
                raise LaunchError(f"launch {at}: it waits for a launch that does not come before it")
            self.shapes.append(shape_of(text.kernels[one.kernel], one, self.kernels[one.kernel], self.timing))
        if image.phantom_bytes and image.phantom_base < len(image.data):
            raise LaunchError(f"phantom memory at {image.phantom_base} overlaps the {len(image.data)} real bytes")
        if engine not in ("fast", "naive"):
            raise LaunchError(f"engine {engine} is unknown; known: fast, naive")
        together = not program.meta.get("timing_only")
        self.engines = make_engines(engine, chip, self.timing, text, self.kernels, images, together)
        self.engine = self.engines[0]

    # -- tensors ----------------------------------------------------------------------------------
    def _tensor(self, name: str) -> Tensor:
        if name not in self.program.tensors:
            raise KeyError(f"the program has no tensor {name}")
        tensor = self.program.tensors[name]
        if tensor.phantom:
            raise ValueError(f"tensor {name} is phantom: a timing-only program keeps no values for it")
        return tensor

    def _rows(self, tensor: Tensor, rank: int) -> np.ndarray:
        """The tensor's bytes in a rank's global memory: uint8 view [rows, columns * itemsize]."""
        memory = self.engines[rank].bytes
        rows, columns = tensor.shape
        if tensor.sharded:
            columns = -(-columns // len(tensor.chips))
        width = columns * tensor.itemsize
        pitch = tensor.pitch or width
        end = tensor.address + (rows - 1) * pitch + width
        if end > len(memory) or tensor.address < 0:
            raise ValueError(f"tensor {tensor.name} lies outside the program's memory")
        return np.lib.stride_tricks.as_strided(
            memory[tensor.address :], shape=(rows, width), strides=(pitch, 1))

    def write(self, name: str, array: np.ndarray, rank: int | None = None) -> None:
        """Set a tensor's values (real numbers or integers, in its shape), of one rank or of all. ValueError for
        another shape, or a sharded tensor."""
        tensor = self._tensor(name)
        if tensor.sharded:
            raise ValueError(f"tensor {name} is spread over {len(tensor.chips)} GPUs: it can only be read")
        values = np.asarray(array)
        if values.size != tensor.shape[0] * tensor.shape[1]:
            raise ValueError(f"tensor {name} has shape {list(tensor.shape)}, the array {list(values.shape)}")
        raw = formats.encode(values.reshape(tensor.shape), tensor.dtype)
        for number in range(len(self.engines)) if rank is None else (rank,):
            self._rows(tensor, number)[...] = formats.to_bytes(raw, tensor.dtype).reshape(tensor.shape[0], -1)

    def read(self, name: str, rank: int = 0) -> np.ndarray:
        """A tensor's values in its shape, float32 or int32, as a rank has them; a sharded one's of all ranks."""
        tensor = self._tensor(name)
        shards = [self._rows(tensor, number) for number in (tensor.chips if tensor.sharded else (rank,))]
        data = np.concatenate(shards, axis=1).reshape(tensor.shape[0], -1, tensor.itemsize)
        values: np.ndarray = formats.decode(formats.from_bytes(data, tensor.dtype), tensor.dtype)
        return values[:, :tensor.shape[1]].copy()

    # -- steps ------------------------------------------------------------------------------------
    def step(self, token: int | list[int] | None = None, sample_layers: int | None = None,
             trace: Window | None = None) -> StepResult:
        """Run every launch once. `token`: ids that the host writes first, one a sequence.

        sample_layers: run only so many layers (see emulator.gpu.sample); cycles and all counts are those of the
        whole step, with the last of them in the place of the layers that follow. Values are of no use then.
        trace: what to record, of rank 0.
        Raises RunError for a token or position that the program does not have, MachineError, and TraceError for a
        trace that cannot be.
        """
        host = 0
        if token is not None:
            ids = fed_ids(self.program, token)
            self.write("token", np.array(ids, dtype=np.int64).reshape(-1, 1))
            host = 4 * len(ids)
        check_room(self)
        start, ranks = self.engine.now, len(self.program.chips)
        whole = not self.program.meta.get("part_of_step")  # some layers alone: the graph's start is elsewhere
        cycles, reasons, bulk = 0, np.zeros_like(self.engine.reasons()), dict.fromkeys(self.engine.bulk_cycles(), 0)
        records, counted, memory = [], [], []
        tracer = None if trace is None else StepTrace(self.chip, self.timing, self.program, self.text, ranks, trace)
        for at, times in enumerate(repeats([one.node for one in self.text.launches], sample_layers)):
            if times == 0:
                continue
            now, reasons_before, bulk_before = self.engine.now, self.engine.reasons(), self.engine.bulk_cycles()
            gap = self.timing.gap(self.launch_mode, self.text.launches[at].shared_bytes, at == 0 and whole)
            if tracer is not None:
                self.engine.record(tracer.of_launch(at), start)
            run = run_launch(self.engines, at, self.text.launches[at], self.shapes[at], gap)
            _check_conservation(run)
            stalls = self.engine.reasons() - reasons_before
            records.append(self._record(at, run, start, times, run.start - now, stalls))
            counted.append((run.counters, times * ranks))
            if tracer is not None:
                tracer.add(at, run, start, times)
            memory.append((run.memory, times * ranks))
            cycles += times * (self.engine.now - now)
            reasons += times * stalls
            for name, after in self.engine.bulk_cycles().items():
                bulk[name] += times * (after - bulk_before[name])
        accounting, sms = self._accounting(reasons, cycles), self.timing.sms
        if self.timing.bulk_engines:
            bulk["idle"] = sms * cycles - sum(bulk.values())
            accounting["bulk_engine"] = {name: ranks * count for name, count in bulk.items()}
        check_accounting(accounting, {"sub_core": ranks * sms * SUB_CORES, "bulk_engine": ranks * sms}, cycles)
        counters, below = _total(counted), _total(memory)
        traffic = _traffic(below, counters)
        traffic["host"] = ranks * host
        if tracer is not None:
            self.engine.record(None, 0)
        return StepResult(
            cycles=cycles, traffic=traffic, accounting=accounting,
            counters=counters | below, kernels=records, logits=self._logits(), tokens=self._tokens(),
            time_tree=check_tree(gpu_tree(records), cycles),
            trace=None if tracer is None else tracer.trace(self.engine.now - start, host))

    def _accounting(self, reasons: np.ndarray, cycles: int) -> dict[str, dict[str, int]]:
        """Cycles of all sub-cores of all ranks by reason; every single one must add up to the step's cycles."""
        sums = reasons.sum(axis=2)
        if (sums != cycles).any() or (reasons < 0).any():
            sm, sub = np.argwhere(sums != cycles)[0]
            raise AssertionError(f"sub-core {sub} of SM {sm} accounts for {sums[sm, sub]} of {cycles} cycles")
        totals = len(self.program.chips) * reasons.sum(axis=(0, 1))
        return {"sub_core": {r.name: int(n) for r, n in zip(GPU_REASONS, totals, strict=True)}}

    def _record(self, at: int, run: KernelRun, start: int, times: int, gap: int, stalls: np.ndarray) -> dict[str, Any]:
        launch, ranks = self.text.launches[at], len(self.program.chips)
        return {
            "node": launch.node, "kernel": self.text.kernels[launch.kernel].name,
            "start": run.start - start - self.timing.head(self.launch_mode, launch.shared_bytes),
            "first_cta": run.start - start, "end": run.end - start, "times": times, "gap": gap,
            "reasons": {r.name: int(n) for r, n in zip(GPU_REASONS, stalls.sum(axis=(0, 1)), strict=True)},
            "grid": launch.grid, "block": launch.block,
            "sm_cycles": self.timing.sms * (run.end - run.start), "active_sm_cycles": run.counters["sm_active_cycles"],
            "instructions": ranks * run.counters["warp_instructions"],
            "traffic": {level: ranks * count for level, count in _traffic(run.memory, run.counters).items()},
        }

    def _logits(self) -> np.ndarray | None:
        tensor = self.program.tensors.get("logits")
        if tensor is None or tensor.phantom or self.program.meta.get("timing_only"):
            return None
        return self.read("logits")

    def _tokens(self) -> list[int] | None:
        if "token" not in self.program.tensors or self.program.meta.get("timing_only"):
            return None
        return [int(v) for v in self.read("token")[:, 0]]


def _total(parts: list[tuple[dict[str, int], int]]) -> dict[str, int]:
    """Sums of what each part counts, each as often as it says."""
    total: dict[str, int] = {}
    for part, times in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + times * value
    return total


def _traffic(memory: dict[str, int], counters: dict[str, int]) -> dict[str, int]:
    """Bytes by level, from the counters of the SMs and of the memory below L1."""
    traffic = {
        "shared_read": counters.get("shared_read_bytes", 0),
        "shared_write": counters.get("shared_write_bytes", 0),
        "l1_read": SECTOR_BYTES * counters.get("l1_read_sectors", 0),
    }
    for level in ("l2_read", "l2_write", "l2_fill"):
        traffic[level] = SECTOR_BYTES * memory[f"{level}_sectors"]
    traffic["hbm_read"] = SECTOR_BYTES * memory["dram_reads"]  # a burst is a sector
    traffic["hbm_write"] = SECTOR_BYTES * memory["dram_writes"]
    traffic["nvlink"] = memory["nvlink_bytes_out"]  # counted where they are sent
    return traffic


def _check_conservation(run: KernelRun) -> None:
    """What the SMs asked for is what the memory system served. Raises AssertionError."""
    c, m = run.counters, run.memory
    sector = SECTOR_BYTES
    pairs = (
        ("L1 sectors read = hits + merged + misses", c["l1_read_sectors"],
         c["l1_hit_sectors"] + c["l1_merged_sectors"] + c["l1_miss_sectors"]),
        ("L2 bytes read = (L1 misses + loads past L1 + copies) x 32", sector * m["l2_read_sectors"],
         sector * (c["l1_miss_sectors"] + c["bypass_sectors"] + c["copy_sectors"] + c["bulk_sectors"])),
        ("L2 bytes written = sectors stored or added to x 32", sector * m["l2_write_sectors"],
         sector * (c["store_sectors"] + c["atomic_sectors"])),
        ("requests to peers = requests of peers served", m["nvlink_requests"], m["nvlink_served"]),
        ("HBM bytes read = L2 sectors filled x 32", sector * m["dram_reads"], sector * m["l2_fill_sectors"]),
    )
    for what, left, right in pairs:
        if left != right:
            raise AssertionError(f"conservation broken: {what}: {left} and {right}")
