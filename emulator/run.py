"""Programs onto machines: `load` places a program's memory image, `run` is the loop around its steps.

Both machines answer to one protocol, so everything above this file is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from emulator.chip import Chip, ChipError, load_chip
from emulator.result import Result, StepResult
from emulator.step_state import RunError, batch_of, check_ids
from emulator.trace import Window
from isa.formats import check_range
from isa.program import Program, Tensor

StepCallback = Callable[[int, int], None]  # (steps done, steps in all)


class Machine(Protocol):
    """One emulated chip with a program in its memory.

    `step` runs the whole program once. `token`, where given, is what the host writes to the tensor
    "token" first, one id a sequence (host traffic), a single id to all; without it the program uses its
    own last argmax. Raises RunError for a foreign id, or when the program's context is full.
    `trace` says what to record; the result then has a Trace.
    `write` and `read` take and give a tensor's values in its shape, as f32 or integers (replicated
    tensors: one value a row).
    """

    program: Program
    chip: Chip

    def step(self, token: int | list[int] | None = None, *, trace: Window | None = None) -> StepResult: ...

    def write(self, name: str, array: np.ndarray) -> object: ...

    def read(self, name: str) -> np.ndarray: ...


def check_chip(program: Program, chip: Chip) -> None:
    """Raise ChipError unless `program` was compiled for exactly these numbers of this chip."""
    if program.chip != chip.name:
        raise ChipError(f"the program was compiled for {program.chip}, not for {chip.name}; compile it again")
    if program.chip_hash != chip.hash:
        raise ChipError(
            f"the program was compiled for {program.chip} with other numbers (chip hash {program.chip_hash}, "
            f"here {chip.hash}); compile it again, or give the same --set values"
        )


def load(
    program: Program, chip: Chip | None = None, *, engine: str = "fast", launch: str | None = None, **options: Any
) -> Machine:
    """A machine with the program's image placed and its caches empty.

    chip: default the bundled chip that the program names. engine: "fast" or "naive". launch (GPU):
    "graph", "stream", or "persistent" for a program whose step is one kernel; default: what it was compiled for,
    else "graph". Raises ChipError when the chip is another one than the program
    was compiled for.
    """
    if engine not in ("fast", "naive"):
        raise RunError(f"engine {engine} is unknown; known: fast, naive")
    chip = chip or load_chip(program.chip)
    check_chip(program, chip)
    if program.dialect == "lpu":
        if launch is not None:
            raise RunError(f"launch {launch}: {chip.name} is an LPU and launches no kernels")
        from emulator.lpu.machine import LpuMachine

        return LpuMachine(program, chip, engine=engine, **options)
    from emulator.gpu.machine import GpuMachine

    return GpuMachine(program, chip, engine=engine, launch=launch or program.meta.get("launch", "graph"), **options)


def run(
    program: Program,
    prompt_ids: Sequence[Sequence[int]] | Sequence[int] | None = None,
    tokens: int = 16,
    *,
    inputs: dict[str, np.ndarray] | None = None,
    chip: Chip | None = None,
    engine: str = "fast",
    launch: str | None = None,
    stop: Sequence[int] = (),
    on_step: StepCallback | None = None,
) -> Result:
    """Run a program from its start.

    A decode program needs `prompt_ids`, one list a sequence (one flat list for batch 1): prompt
    tokens are fed one a step, then `tokens` tokens are generated; it ends early when every sequence
    has met a token of `stop`. With a timing-only program the ids are fed and nothing is generated.
    Any other program (a hand-written .s file) runs once, after `inputs` are written to its tensors;
    the result's `outputs` hold its tensors afterwards.
    """
    machine = load(program, chip, engine=engine, launch=launch)
    for name, array in (inputs or {}).items():
        tensor = tensor_of(program, name)
        try:
            check_range(array, tensor.dtype)
        except ValueError as error:
            raise RunError(f"inputs[{name!r}] {error}") from None
        machine.write(name, array)
    if prompt_ids is None:
        if "token" in program.tensors and not inputs:
            raise RunError("a decode program needs prompt_ids: token ids to feed, one list a sequence")
        step = machine.step()
        result = Result([step], ["run"], [], machine.chip.clock_hz)
        result.outputs = {name: machine.read(name) for name, t in program.tensors.items() if not t.phantom}
        return result
    return generate(machine, prompt_ids, tokens, stop=stop, on_step=on_step)


def generate(
    machine: Machine,
    prompt_ids: Sequence[Sequence[int]] | Sequence[int],
    tokens: int,
    *,
    stop: Sequence[int] = (),
    on_step: StepCallback | None = None,
    keep_logits: bool = True,
    trace: tuple[int, Window] | None = None,
) -> Result:
    """The loop: feed the prompts, then let the machine continue. All sequences go in lock step. trace: a step's number
    and what to record of it; it is the last one.

    A sequence with a shorter prompt starts generating earlier; it ends when each has `tokens`
    tokens. A step's phase is "generate" when it gave some sequence a token, else "prompt". Raises
    RunError for ids outside the vocabulary or more positions than the program's context.
    """
    program = machine.program
    prompts = check_prompts(program, prompt_ids)
    if not isinstance(tokens, (int, np.integer)) or tokens < 1:
        raise RunError(f"tokens = {tokens}: give a whole number of tokens to generate, at least 1")
    timing_only = bool(program.meta.get("timing_only"))
    longest = max(len(p) for p in prompts)
    steps = longest if timing_only else longest + tokens - 1
    context = int(program.meta.get("context", 0))
    if context and steps > context:
        raise RunError(
            f"{longest} prompt tokens and {tokens} new ones need {steps} positions, over the context of {context}"
        )
    result = Result([], [], [[] for _ in prompts], machine.chip.clock_hz, [list(p) for p in prompts])
    stopped = [False] * len(prompts)
    for at in range(steps):
        fed: list[int] | None = None
        if any(at < len(p) for p in prompts):  # the host writes all, generating sequences their own token
            fed = [p[at] if at < len(p) else g[at - len(p)] for p, g in zip(prompts, result.token_ids)]
        tracing = trace is not None and at == trace[0]
        step = machine.step(fed, trace=trace[1]) if trace is not None and tracing else machine.step(fed)
        result.steps.append(step)
        phase = "prompt"
        for b, prompt in enumerate(prompts):
            if not timing_only and at >= len(prompt) - 1 and step.tokens is not None:
                phase = "generate"
                result.token_ids[b].append(int(step.tokens[b]))
                done = len(result.token_ids[b]) <= tokens and step.tokens[b] in stop
                stopped[b] = stopped[b] or done
        result.phases.append(phase)
        if on_step is not None:
            on_step(at + 1, steps)
        if not keep_logits:
            step.logits = None
        if all(stopped) or tracing:
            break
    result.token_ids = [ids[:tokens] for ids in result.token_ids]
    return result


def check_prompts(program: Program, prompt_ids: Sequence[Sequence[int]] | Sequence[int]) -> list[list[int]]:
    """Prompts as one list a sequence. Raises RunError for a wrong count, an empty prompt or a foreign id."""
    batch = batch_of(program)
    flat = len(prompt_ids) > 0 and isinstance(prompt_ids[0], (int, np.integer))
    rows: list[Any] = [prompt_ids] if flat else list(prompt_ids)
    prompts = [check_ids(program, row) for row in rows]
    if len(prompts) != batch:
        raise RunError(f"the program serves {batch} sequences, {len(prompts)} prompts were given")
    if not all(prompts):
        raise RunError("a prompt holds no token; give at least one id")
    return prompts


def tensor_of(program: Program, name: str) -> Tensor:
    """A program's tensor by name. Raises RunError with the nearest name."""
    import difflib

    if name not in program.tensors:
        known = sorted(program.tensors)
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise RunError(f"the program has no tensor {name}; {hint}tensors: {', '.join(known[:12])}")
    return program.tensors[name]


def measured_step(machine: Machine, context: int, warm: bool, sample_layers: int | None = None,
                  trace: Window | None = None) -> StepResult:
    """The one step of a timing-only program whose attention reads `context` positions, its own included.

    warm: run one step of the same shape before it, so that caches hold what they would hold. sample_layers (GPU):
    layers that run and stand for all. trace: what to record of the measured step.
    """
    options: dict[str, Any] = {} if sample_layers is None else {"sample_layers": sample_layers}
    position = np.full((batch_of(machine.program), 1), context - 1, dtype=np.int32)
    if warm:
        machine.write("position", position)
        machine.step(**options)
    machine.write("position", position)
    return machine.step(**options | ({} if trace is None else {"trace": trace}))
