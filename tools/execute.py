"""What `decodelab run` does with one program: bind, run, check expectations, tell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools import console
from tools.jobs import announce_compilation
from tools.options import load_chip_with
from tools.programs import open_program, read_array, write_array

if TYPE_CHECKING:
    import numpy as np

    from emulator.result import StepResult
    from isa.program import Program

SHOWN_VALUES = 8  # of each result, in the table


@dataclass
class Report:
    """One run of a program."""

    program: Program
    clock_hz: int
    steps: list[StepResult]
    token_ids: list[list[int]]
    results: dict[str, np.ndarray]
    failures: list[str]
    grid: str | None = None
    written: list[Path] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """The run as plain data; cycles and bytes of the last step."""
        from emulator.gpu.nsight import nsight_counters

        last = self.steps[-1]
        return {
            "schema": "decodelab.run/1",
            "chip": self.program.chip,
            "chip_hash": self.program.chip_hash,
            "cycles": last.cycles,
            "seconds": last.cycles / self.clock_hz,
            "traffic_bytes": dict(last.traffic),
            "unit_accounting": {unit: dict(buckets) for unit, buckets in last.accounting.items()},
            "counters": dict(last.counters),
            **({"nsight_counters": nsight_counters(last.counters)} if self.program.dialect == "gpu" else {}),
            "cycles_per_step": [step.cycles for step in self.steps],
            "token_ids": self.token_ids,
            "expectations": len(self.program.expectations),
            "failures": self.failures,
            "results": {
                name: [None if value != value else value for value in array.reshape(-1).tolist()]
                for name, array in self.results.items()
            },
        }

    def text(self) -> str:
        """What `run` prints."""
        from tools.report import seconds, size, table

        last = self.steps[-1]
        lines = [self.grid, ""] if self.grid is not None else []
        lines.append(f"{self.program.chip}: {last.cycles:,} cycles, {seconds(last.cycles / self.clock_hz)}")
        rows = [[level.replace("_", " "), f"{count:,}", size(count)] for level, count in last.traffic.items() if count]
        if rows:
            lines.append(table(rows, indent=2))
        for ids in self.token_ids:
            lines.append("  tokens " + ",".join(map(str, ids)))
        for name, array in self.results.items():
            flat = array.reshape(-1)
            more = " ..." if flat.size > SHOWN_VALUES else ""
            lines.append(f"  {name} {list(array.shape)}: {' '.join(f'{v:.6g}' for v in flat[:SHOWN_VALUES])}{more}")
        if self.program.expectations:
            good = len(self.program.expectations) - len(self.failures)
            lines.append(f"  {good} of {len(self.program.expectations)} expectations hold")
        lines += [f"  wrote {path}" for path in self.written]
        return "\n".join(lines)


def execute(
    path: Path,
    inputs: dict[str, Path],
    outputs: dict[str, Path],
    settings: tuple[str, ...],
    options: dict[str, Any],
) -> Report:
    """Run one program and check its expectations. Raises ValueError, or what the machine raises."""
    from emulator.run import generate, load, tensor_of
    from isa.expressions import failure
    from isa.formats import check_range
    from tools import grid as grids
    from tools.dram_trace import Recorder, trace_text

    program = open_program(path, settings)
    chip = load_chip_with(program.chip, settings)
    window = options["grid"]
    if window is not None:
        grids.check_window(window)
    for name in (*inputs, *outputs):
        tensor_of(program, name)
    arrays = {name: read_array(name, file) for name, file in inputs.items()}
    for name, array in arrays.items():
        try:
            check_range(array, program.tensors[name].dtype)
        except ValueError as error:
            raise ValueError(f"--in {name}={inputs[name]}: {error}") from None
    announce_compilation({chip.kind} if options["engine"] == "fast" else set())
    with console.Progress(f"running {path.name}") as progress:
        try:
            machine = load(program, chip, engine=options["engine"], launch=options["launch"])
        except ValueError as error:  # machines do not know the file
            raise ValueError(f"{path}: {error}") from None
        for name, array in arrays.items():
            machine.write(name, array)
        handwritten = "token" not in program.tensors
        names = [name for name, tensor in program.tensors.items() if not tensor.phantom] if handwritten else []
        before = {name: machine.read(name) for name in names}
        recorder = grids.record(machine, window) if window is not None else None
        to_dram = Recorder(machine, chip) if options["dram_trace"] is not None else None
        if options["prompt_ids"]:
            result = generate(machine, options["prompt_ids"], options["tokens"] or 1, on_step=progress.step)
            steps, tokens = result.steps, result.token_ids
        else:
            if options["tokens"] is not None:
                raise ValueError("--tokens needs --prompt-ids")
            steps, tokens = [machine.step()], []
    after = {name: machine.read(name) for name in names}
    found = [failure(e, before, after, steps[-1].cycles) for e in program.expectations]
    outputs_too = {name for name in after if program.tensors[name].role == "output"}
    shown = {
        name: array for name, array in after.items() if name in outputs_too or array.tobytes() != before[name].tobytes()
    }
    report = Report(program, chip.clock_hz, steps, tokens, shown, [f for f in found if f is not None])
    if recorder is not None and window is not None:
        report.grid = grids.render(recorder(), window)
    for name, file in outputs.items():
        write_array(machine.read(name), file)
        report.written.append(file)
    if to_dram is not None:
        console.write_file(options["dram_trace"], trace_text(to_dram.trace(), "dramsim3"))
        report.written.append(options["dram_trace"])
    return report
