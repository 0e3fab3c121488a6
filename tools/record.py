"""What `decodelab trace` does: run one step with recording on, and keep it as a folder."""

from __future__ import annotations

import fnmatch
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.trace import Trace, TraceError, Window, kinds_of, layer_of
from tools.jobs import announce_compilation

if TYPE_CHECKING:
    from emulator.result import StepResult
    from emulator.run import Machine
    from isa.program import Program
    from tools.measure import Job


@dataclass(frozen=True)
class Wanted:
    """What to record. token: number of the step, 0 the first, None the last one (a measured step has one)."""

    window: tuple[int, int] | None = None
    token: int | None = None
    layer: int | None = None
    kernel: str | None = None
    kinds: frozenset[str] | None = None

    def window_of(self, machine: Machine) -> Window:
        """For a machine and its program. Raises TraceError for a layer or kernel that it does not have."""
        first, end = self.window or (0, None)
        window = Window(first, end, self.kinds)
        window.mask()
        if self.kinds is not None and not self.kinds & set(known := kinds_of(machine.program.dialect)):
            raise TraceError(f"--kinds {','.join(sorted(self.kinds))}: {machine.chip.name} has none of them; its "
                             f"kinds: {', '.join(known)}")
        if machine.program.dialect == "gpu":
            return self._of_launches(machine.program, window)
        if self.kernel is not None:
            raise TraceError(f"--kernel {self.kernel}: {machine.chip.name} is an LPU and has no kernels; use --layer")
        return window if self.layer is None else self._of_layer(machine, window)

    def _of_launches(self, program: Program, window: Window) -> Window:
        from isa.program import GpuText

        if self.layer is None and self.kernel is None:
            return window
        text = program.texts[program.chips[0][0]]
        assert isinstance(text, GpuText)
        names = [(launch.node, text.kernels[launch.kernel].name) for launch in text.launches]
        chosen = frozenset(
            number for number, pair in enumerate(names)
            if (self.layer is None or layer_of(pair[0]) == self.layer)
            and (self.kernel is None or any(fnmatch.fnmatchcase(name, self.kernel) for name in pair)))
        if not chosen:
            what = f"--layer {self.layer}" if self.layer is not None else f"--kernel {self.kernel}"
            layers = {str(layer_of(node)) for node, _ in names if layer_of(node) >= 0}
            known = sorted(layers if self.layer is not None else {name for _, name in names})[:12]
            raise TraceError(f"{what}: no launch of the program belongs to it; known: {', '.join(known) or 'none'}")
        return replace(window, launches=chosen)

    def _of_layer(self, machine: Any, window: Window) -> Window:
        from emulator.lpu.issue_times import layer_window

        program = machine.program
        texts = [program.texts[number] for number, _, _ in program.chips]
        masks = {id(text): np.isin(text.source.node, [n for n, node in enumerate(text.source.nodes)
                                                      if layer_of(node) == self.layer]) for text in texts}
        span = layer_window(machine.geometry, texts, machine.wiring.starts, [masks[id(text)] for text in texts])
        if span is None:
            known = sorted({layer_of(node) for text in texts for node in text.source.nodes} - {-1})
            raise TraceError(f"--layer {self.layer}: no instruction of the program belongs to it; layers: "
                             f"{', '.join(map(str, known[:12])) or 'none'}")
        end = span[1] if window.end is None else min(span[1], window.end)
        first = max(span[0], window.first)
        if first >= end:
            raise TraceError(f"--layer {self.layer} is issued in cycles {span[0]:,} to {span[1]:,}, outside --window")
        return replace(window, first=first, end=end)


def trace_job(job: Job, wanted: Wanted, folder: Path, options: dict[str, Any]) -> Trace:
    """Measure a job, record one step of it, write the folder. Raises ValueError with one sentence."""
    from emulator.run import generate, load, measured_step
    from tools.measure import entry, may_stay_cached, prepare, sampled

    ready = prepare(job)
    announce_compilation({ready.chip.kind} if job.engine == "fast" else set())
    machine = load(ready.program, ready.chip, engine=job.engine, launch=job.launch)
    window = wanted.window_of(machine)
    if job.timing_only:
        if wanted.token is not None:
            raise TraceError(f"--token {wanted.token} makes no sense with --timing-only: one step is measured")
        step = measured_step(machine, ready.job.context or 1, warm=may_stay_cached(ready),
                             sample_layers=sampled(ready), trace=window)
        positions = ready.job.context or 1
    else:
        longest = max(len(prompt) for prompt in ready.prompts)
        steps = longest + ready.tokens - 1
        at = steps - 1 if wanted.token is None else wanted.token
        if not 0 <= at < steps:
            raise TraceError(f"--token {at}: the run has steps 0 to {steps - 1} ({longest} prompt tokens, "
                             f"{ready.tokens} generated)")
        result = generate(machine, ready.prompts, ready.tokens, trace=(at, window))
        step, positions = result.steps[at], at + 1
    facts = entry(ready, step, positions)
    extra = {name: facts[name] for name in ("model", "arithmetic", "weights", "batch", "context", "layers",
                                            "floor_seconds", "floor_parts", "bound_by", "chips_used", "system")}
    return keep(step, machine, wanted, folder, extra | {"options": options})


def trace_program(path: Path, settings: tuple[str, ...], engine: str, launch: str | None, wanted: Wanted, folder: Path,
                  options: dict[str, Any]) -> Trace:
    """Run a .s file or a program file once, recorded. Raises ValueError with one sentence."""
    from emulator.run import load
    from tools.options import load_chip_with
    from tools.programs import open_program

    if wanted.token is not None:
        raise TraceError(f"--token {wanted.token}: a program is run once; name a model instead")
    program = open_program(path, settings)
    chip = load_chip_with(program.chip, settings)
    announce_compilation({chip.kind} if engine == "fast" else set())
    try:
        machine = load(program, chip, engine=engine, launch=launch)
    except ValueError as error:  # machines do not know the file
        raise ValueError(f"{path}: {error}") from None
    step = machine.step(trace=wanted.window_of(machine))
    return keep(step, machine, wanted, folder / chip.name, {"options": options, "program": path.name})


def keep(step: StepResult, machine: Machine, wanted: Wanted, folder: Path, extra: dict[str, Any]) -> Trace:
    """Write a recorded step as a folder with all that its run reports."""
    from importlib.metadata import PackageNotFoundError, version

    from emulator.trace_file import write_trace

    assert step.trace is not None
    try:
        package = version("decodelab")
    except PackageNotFoundError:
        package = "unknown"
    program, chip = machine.program, machine.chip
    facts = {
        "chip_hash": program.chip_hash, "program_hash": program_hash(program), "version": package,
        "clock_hz": chip.clock_hz,
        "trigger": {"token": wanted.token, "layer": wanted.layer, "kernel": wanted.kernel,
                    "window": list(wanted.window) if wanted.window else None},
        "traffic_bytes": dict(step.traffic), "counters": dict(step.counters),
        "unit_accounting": {unit: dict(buckets) for unit, buckets in step.accounting.items()},
        "time_tree": [leaf.to_json() for leaf in step.time_tree],
    }
    write_trace(step.trace, folder, facts | extra)
    return step.trace


def program_hash(program: Program) -> str:
    """Hash of what runs: instructions and launches; not of memory."""
    digest = hashlib.sha256()
    for text in program.texts:
        digest.update(np.asarray(text.words).tobytes() + repr(getattr(text, "launches", "")).encode())
    return digest.hexdigest()[:16]


def told(trace: Trace, folder: Path) -> str:
    """One line about what was written."""
    from tools.report import size as words

    size = sum(file.stat().st_size for file in folder.iterdir())
    line = f"wrote {folder}: {len(trace):,} events of {len(trace.units):,} units in {trace.cycles:,} cycles"
    if not trace.whole():
        line += f" (recorded: cycles {trace.window[0]:,} to {trace.window[1]:,}"
        if trace.launches_recorded is not None:
            line += f", {len(trace.launches_recorded)} of {len(trace.launches)} launches"
        line += ")"
    return f"{line}, {words(size)}"
