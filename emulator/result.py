"""What a machine reports about one decode step, and about a run of several."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from emulator.time_tree import Leaf
    from emulator.trace import Trace

# unit class -> bucket -> cycles, summed over the units of the class; buckets of one class add up
# to units_of_class * cycles. "busy" and "idle" are buckets like the stall reasons.
Accounting = dict[str, dict[str, int]]


@dataclass
class StepResult:
    """One decode step (or one run of a hand-written program).

    cycles: SM cycles on the GPU, core cycles on the LPU. traffic: bytes by level. kernels (GPU): one
    entry a launch that ran, with how often it counts; start to end is what a profiler would call its time
    (launch.kernel_head), first_cta when its first CTA is dispatched; of its sm_cycles an SM has a CTA in
    active_sm_cycles. logits: fp32 [batch, vocabulary], None in timing
    mode or without a head. tokens: next token of each sequence as the machine wrote it, None in timing
    mode. time_tree: every cycle by layer, kernel and cause. trace: its events, where asked for.
    """

    cycles: int
    traffic: dict[str, int]
    accounting: Accounting
    counters: dict[str, int] = field(default_factory=dict)
    kernels: list[dict[str, Any]] = field(default_factory=list)
    logits: np.ndarray | None = None
    tokens: list[int] | None = None
    time_tree: list[Leaf] = field(default_factory=list)
    trace: Trace | None = None

    def to_json(self) -> dict[str, Any]:
        """Every count as plain data: cycles and bytes are integers, lists and dicts hold the rest."""
        return {"schema": "decodelab.step/1", "cycles": self.cycles, "traffic_bytes": dict(self.traffic),
                "unit_accounting": {unit: dict(buckets) for unit, buckets in self.accounting.items()},
                "counters": dict(self.counters), "kernels": [dict(kernel) for kernel in self.kernels],
                "time_tree": [leaf.to_json() for leaf in self.time_tree], "tokens": self.tokens}

    def arrays(self) -> dict[str, np.ndarray]:
        """Every count as columns of a long table: what (cycles, traffic, units, counters), of, name, value."""
        from emulator.notebook import step_table

        return step_table(self)

    def relation(self) -> Any:
        """`arrays` as a DuckDB relation."""
        from emulator.notebook import relation

        return relation(self.arrays())

    def __repr__(self) -> str:
        """One line: all counts of a step are pages."""
        return f"<StepResult {self.cycles:,} cycles, {len(self.kernels)} kernels>" if self.kernels else (
            f"<StepResult {self.cycles:,} cycles>")

    def _repr_html_(self) -> str:
        from emulator.notebook import step_html

        return step_html(self)


@dataclass
class Result:
    """A whole run: one StepResult per decode step, with the phase ("prompt" or "generate")."""

    steps: list[StepResult]
    phases: list[str]
    token_ids: list[list[int]]  # generated ids, one list a sequence
    clock_hz: int
    prompt_ids: list[list[int]] = field(default_factory=list)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)  # hand-written programs: tensors at the end

    @property
    def cycles_per_token(self) -> int:
        """Cycles of the measured step: the last one."""
        return self.steps[-1].cycles

    @property
    def seconds_per_token(self) -> float:
        """Latency of one decode step, in seconds."""
        return self.cycles_per_token / self.clock_hz

    @property
    def per_token(self) -> list[dict[str, Any]]:
        """Of every step in plain data: phase, cycles, seconds, traffic_bytes."""
        return [{"phase": phase, "cycles": step.cycles, "seconds": step.cycles / self.clock_hz,
                 "traffic_bytes": dict(step.traffic)} for phase, step in zip(self.phases, self.steps, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """The run as plain data; `step` is the measured one, whole. Outputs are arrays and left out."""
        return {"schema": "decodelab.result/1", "cycles_per_token": self.cycles_per_token, "clock_hz": self.clock_hz,
                "seconds_per_token": self.seconds_per_token, "prompt_token_ids": self.prompt_ids,
                "token_ids": self.token_ids, "per_token": self.per_token, "step": self.steps[-1].to_json()}

    def arrays(self) -> dict[str, np.ndarray]:
        """One row a step as columns: step, phase, cycles, and <level>_bytes of every level."""
        from emulator.notebook import result_table

        return result_table(self)

    def relation(self) -> Any:
        """`arrays` as a DuckDB relation."""
        from emulator.notebook import relation

        return relation(self.arrays())

    def __repr__(self) -> str:
        """One line, as of a step."""
        return f"<Result {len(self.steps)} steps, {self.cycles_per_token:,} cycles a token>"

    def _repr_html_(self) -> str:
        from emulator.notebook import result_html

        return result_html(self)
