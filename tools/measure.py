"""One measured decode step of one model on one chip: what `compare` puts into a column.

A Job is plain data, so that jobs can run side by side in processes; its outcome is the JSON entry
of CONTRACT.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.result import StepResult
from tools.options import DEFAULT_MODEL, DEFAULT_PROMPT, load_chip_with

if TYPE_CHECKING:
    from emulator.chip import Chip
    from emulator.result import Result
    from isa.program import Program
    from programs.decode.stored import Scheme, StoredModel
    from programs.models.checkpoint import Model

DEFAULT_TOKENS = 16


@dataclass(frozen=True)
class Job:
    """What to measure: one model on one chip. Fields are the options of the same name."""

    model: str
    chip: str
    settings: tuple[str, ...] = ()
    batch: int = 1
    context: int | None = None
    timing_only: bool = False
    arithmetic: str | None = None
    weights: str | None = None
    kv_format: str | None = None
    launch: str | None = None
    layers: tuple[int, int] | None = None
    sample_layers: int | None = None
    system_chips: int | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    prompts: tuple[str, ...] = ()
    prompt_ids: tuple[tuple[int, ...], ...] = ()
    tokens: int | None = None
    stop_at_eos: bool = False
    engine: str = "fast"
    feeds: bool = False  # timing only: feed the prompt, one step an id, instead of one measured step
    whole_model: bool = False  # also tell how many chips the whole model needs
    ideal: tuple[str, ...] = ()  # limits taken from the chip: a GPU runs the same program, an LPU's is compiled again


def chosen_job(options: dict[str, Any]) -> Job:
    """A Job from the options of a command; `batch` None means one sequence a prompt. Raises ValueError."""
    given = max(len(options.get("prompts", ())), len(options.get("prompt_ids", ())))
    chosen = {name: value for name, value in options.items() if name in Job.__dataclass_fields__}
    chosen["model"] = DEFAULT_MODEL if options.get("model") is None else options["model"]
    if not chosen["model"]:
        raise ValueError("--model is empty: give a name, a Hugging Face folder or a .gguf file")
    chosen["batch"] = options.get("batch") or max(1, given)
    if given > chosen["batch"]:
        raise ValueError(f"--batch {chosen['batch']} is fewer than the {given} prompts given")
    return Job(**chosen)


OnStep = Callable[[int, int], None]


@dataclass
class Checked:
    """A job whose model is open and whose options were found possible; `job` has its defaults filled in."""

    job: Job
    model: Model
    chip: Chip
    scheme: Scheme
    prompts: list[list[int]]
    tokens: int


@dataclass
class Prepared(Checked):
    """A checked job with its program."""

    stored: StoredModel
    program: Program


@lru_cache(maxsize=2)
def open_model(name: str) -> Model:
    """`load_model`, once a process: opening a large tokenizer takes seconds."""
    from programs.models.checkpoint import load_model

    return load_model(name)


def prompts_of(job: Job, model: Model) -> list[list[int]]:
    """Token ids of every sequence of the batch, prompts cycled. Raises ValueError."""
    if job.prompts and job.prompt_ids:
        raise ValueError("--prompt and --prompt-ids cannot be given together")
    if job.prompt_ids:
        given = [list(ids) for ids in job.prompt_ids]
        for token in (t for ids in given for t in ids):
            if token >= model.config.vocab:
                raise ValueError(
                    f"--prompt-ids: token {token} is not in the vocabulary of {model.config.vocab} tokens "
                    f"(0 to {model.config.vocab - 1})"
                )
    elif model.tokenizer is None:
        if job.prompts:
            raise ValueError(f"model {model.name} has no tokenizer: give --prompt-ids instead of --prompt")
        given = [[model.config.bos if model.config.bos is not None else 0]]
    else:
        given = [model.tokenizer.encode(text) for text in job.prompts or (DEFAULT_PROMPT,)]
        for text, ids in zip(job.prompts, given):
            if not ids:
                raise ValueError(f"--prompt {text!r} holds no token")
    return [given[i % len(given)] for i in range(job.batch)]


def check_used(job: Job) -> None:
    """Refuse options that would be ignored without a word. Raises ValueError that names the option."""
    if not job.timing_only:
        return
    why = "makes no sense with --timing-only: "
    if job.stop_at_eos:
        raise ValueError(f"--stop-at-eos {why}no token is generated")
    if job.feeds:
        if job.tokens not in (None, 1):
            raise ValueError(f"--tokens {job.tokens} {why}the prompt's ids are fed and no token is generated")
        return
    for option, value in (("--prompt", job.prompts), ("--prompt-ids", job.prompt_ids)):
        if value:
            raise ValueError(f"{option} {why}one step is measured, whatever its token; generate feeds a prompt's ids")
    if job.tokens not in (None, 1):
        raise ValueError(f"--tokens {job.tokens} {why}one step is measured, its attention reads --context positions")


def check(job: Job) -> Checked:
    """Load model and chip and check every option, without compiling. Raises ValueError with one sentence."""
    from programs.compile import check_layers, check_options, default_context

    chip = load_chip_with(job.chip, job.settings)
    model = open_model(job.model)
    limit = model.config.positions_max
    check_used(job)
    if job.launch is not None and chip.kind == "lpu":
        raise ValueError(f"--launch {job.launch} is for GPUs; {chip.name} is an LPU and launches no kernels")
    layers = check_layers(job.layers, model.config.layers)
    if layers is not None and not job.timing_only:
        raise ValueError("--layers leaves out embedding and head, so it needs --timing-only")
    if job.sample_layers is not None and not job.timing_only:
        raise ValueError("--sample-layers leaves out layers, so it needs --timing-only")
    if job.sample_layers is not None and job.launch == "persistent":
        raise ValueError("--sample-layers leaves out kernels, and with --launch persistent there is one: drop either")
    scheme = check_options(model, chip, job.batch, job.arithmetic, job.weights, job.kv_format, job.timing_only)
    prompts: list[list[int]] = []
    tokens = job.tokens or (1 if job.timing_only else DEFAULT_TOKENS)
    context = job.context or (default_context(None, limit) if job.timing_only else None)
    if not job.timing_only or job.feeds:
        prompts = prompts_of(job, model)
        longest = max(len(p) for p in prompts)
        positions = longest if job.timing_only else longest + tokens - 1  # the last token is not fed
        if context is not None and positions > context:
            new = "" if job.timing_only else f" and {tokens} new ones"
            raise ValueError(f"{longest} prompt tokens{new} need {positions} positions, over --context {context}")
        context = context or default_context(longest + tokens, limit)
    assert context is not None
    model.config.check_context(context, model.name)
    return Checked(replace(job, context=context, layers=layers), model, chip, scheme, prompts, tokens)


def prepare(job: Job) -> Prepared:
    """Load, check and compile. Raises ValueError with one sentence for anything impossible."""
    from emulator.ideal import ideal_chip
    from programs.compile import compile_stored
    from programs.decode.stored import store

    c = check(job)
    target = ideal_chip(c.chip, *job.ideal)
    made_for = target if c.chip.kind == "lpu" else c.chip
    stored = store(c.model, c.scheme, timing_only=job.timing_only)
    program = compile_stored(
        stored, made_for, batch=job.batch, context=c.job.context, layers=c.job.layers, timing_only=job.timing_only,
        name=c.model.name, chips=c.job.system_chips, tensor_parallel=c.job.tensor_parallel,
        pipeline_parallel=c.job.pipeline_parallel, launch=c.job.launch,
    )  # fmt: skip
    if c.chip.kind == "gpu":
        program = replace(program, chip_hash=target.hash)  # the cut of its kernels is part of the program
    return Prepared(c.job, c.model, target, c.scheme, c.prompts, c.tokens, stored, program)


def measure(job: Job, on_step: OnStep | None = None) -> dict[str, Any]:
    """The entry of one chip in `compare`. Raises ValueError, or a capacity error with `chips_needed`."""
    return measured(prepare(job), on_step)[0]


def measured(ready: Prepared, on_step: OnStep | None = None) -> tuple[dict[str, Any], StepResult]:
    """The entry of a prepared job, and its measured step."""
    if ready.job.timing_only:
        step, values = measured_once(ready), no_values()
        positions = ready.job.context or 1
    else:
        result = generated(ready, on_step)
        step, values = result.steps[-1], checked_values(ready, result)
        positions = len(result.steps)
    return entry(ready, step, positions) | values, step


def measured_once(ready: Prepared) -> StepResult:
    """The measured step of a timing-only job."""
    from emulator.run import load, measured_step

    machine = load(ready.program, ready.chip, engine=ready.job.engine, launch=ready.job.launch)
    return measured_step(machine, ready.job.context or 1, warm=may_stay_cached(ready), sample_layers=sampled(ready))


def sampled(ready: Prepared) -> int | None:
    """How many layers stand for all; None where all run: without --sample-layers; on the LPU, which schedules layers
    of equal shape once anyway; and where a few layers would stay in a cache that all of them overflow."""
    first, end = ready.job.layers or (0, ready.model.config.layers)
    wanted = ready.job.sample_layers
    if wanted is None or wanted >= end - first or ready.chip.kind == "lpu" or may_stay_cached(ready):
        return None
    return wanted


def generated(ready: Prepared, on_step: OnStep | None = None) -> Result:
    """The whole run of a job with values."""
    from emulator.run import generate, load

    machine = load(ready.program, ready.chip, engine=ready.job.engine, launch=ready.job.launch)
    stop = ready.model.config.eos if ready.job.stop_at_eos else ()
    return generate(machine, ready.prompts, ready.tokens, stop=stop, on_step=on_step)


def may_stay_cached(ready: Prepared) -> bool:
    """Whether weights or KV could stay in a cache between steps: a GPU's share below twice its size."""
    from tools.floor import decode_work, l2_capacity_bytes

    if ready.chip.kind == "lpu":
        return False  # no caches
    work = decode_work(
        ready.model.config, ready.scheme, ready.job.batch, ready.job.context or 1, ready.job.layers
    )
    ranks = ready.program.meta.get("tensor_parallel", 1)
    return work.memory_bytes < 2 * ranks * l2_capacity_bytes(ready.chip)


def entry(ready: Prepared, step: StepResult, positions: int) -> dict[str, Any]:
    """The entry's part that needs no values: time, traffic, floor, accounting."""
    from programs.compile import FORMATS, arithmetic_words
    from tools.floor import decode_work, floor, l2_capacity_bytes
    from tools.published import published
    from tools.where import cycles_by_cause, told_bound

    job, chip, scheme = ready.job, ready.chip, ready.scheme
    work = decode_work(ready.model.config, scheme, job.batch, positions, job.layers)
    count = ready.model.config.layers if job.layers is None else job.layers[1] - job.layers[0]
    system = System.of(ready.program, step)
    least = floor(chip, work, scheme, count, system.ranks, system.stages)
    seconds = step.cycles / chip.clock_hz
    arithmetic, weights = arithmetic_words(scheme)
    causes = cycles_by_cause(step)
    found: dict[str, Any] = {
        "chip": chip.name,
        "model": ready.model.name,
        "parameters": ready.model.config.weight_count(),
        "chip_hash": chip.hash,
        "chips_used": len(ready.program.chips),
        "tensor_parallel": system.ranks,
        "pipeline_parallel": system.stages,
        "system": system.name,
        "arithmetic": arithmetic,
        "weights": weights,
        "kv_format": next(word for word, form in FORMATS.items() if form == scheme.kv),
        "batch": job.batch,
        "context": job.context,
        "layers": list(job.layers) if job.layers else None,
        "sampled_layers": sampled(ready),
        "cycles_per_token": step.cycles,
        "predicted_cycles": ready.program.meta.get("predicted_cycles"),
        "clock_hz": chip.clock_hz,
        "seconds_per_token": seconds,
        "tokens_per_second": job.batch / seconds,
        "pipeline_tokens_per_second": job.batch * chip.clock_hz / system.interval,
        "traffic_bytes": dict(step.traffic),
        "floor_seconds": least.seconds,
        "floor_parts": dict(least.parts) | ({"links": least.links} if least.links else {}),
        "bound_by": told_bound(least, seconds),
        "cycles_by_cause": causes,
        "unit_accounting": {unit: dict(buckets) for unit, buckets in step.accounting.items()},
        "working_set_bytes": work.memory_bytes,
    }
    if chip.kind == "gpu":
        found["l2_capacity_bytes"] = l2_capacity_bytes(chip)
    elif "layer_cycles" in ready.program.meta:
        found["cycles_per_layer"] = ready.program.meta["layer_cycles"] // count
    if job.layers is None:
        found["published"] = published(ready.model.name, chip.name, job.batch / seconds)
    if job.whole_model:
        found |= whole_model(ready, seconds)
    return found


@dataclass(frozen=True)
class System:
    """How the chips of a program share the work. interval: cycles from token to token in a full pipeline."""

    name: str | None
    ranks: int
    stages: int
    interval: int

    @classmethod
    def of(cls, program: Program, step: StepResult) -> System:
        """How a step of a program was shared."""
        meta = program.meta
        spans = meta.get("stages") or [[0, step.cycles]]
        interval = max(end - start for start, end in spans) if len(spans) > 1 else step.cycles
        return cls(meta.get("system"), meta.get("tensor_parallel", 1), len(spans), interval)


def whole_model(ready: Prepared, seconds: float) -> dict[str, Any]:
    """How many chips the whole model needs, and the chip-milliseconds a token then costs.

    Scaled from the layers that ran on one chip: embedding, head and links between chips are left out.
    Alone, one token occupies all chips for its whole latency; in a full pipeline for one stage's time,
    where the stages share the layers evenly.
    """
    from programs.compile import chips_needed

    config, layers = ready.model.config, ready.job.layers
    count = config.layers if layers is None else layers[1] - layers[0]
    chips = chips_needed(ready.stored, ready.chip, batch=ready.job.batch, context=ready.job.context or 1)
    token_ms = 1000 * seconds * config.layers / count / ready.job.batch
    return {"chips_needed": chips, "chip_ms_per_token": {"alone": chips * token_ms, "full_pipeline": token_ms}}


def no_values() -> dict[str, Any]:
    """The comparison with the oracle where no number was computed."""
    return {"tokens_match_reference": None, "logits_max_abs_error": None}


def checked_values(ready: Prepared, result: Result) -> dict[str, Any]:
    """What was generated, and how it compares with the float64 oracle of the same stored weights."""
    from programs.decode.reference import check_agreement
    from programs.shard import with_parts

    stored = with_parts(ready.stored, ready.program.meta.get("tensor_parallel", 1))
    check = check_agreement(stored, ready.prompts, result.token_ids, chosen_logits(ready.prompts, result))
    error, tokenizer = check.logits_max_abs_error, ready.model.tokenizer
    texts = None
    if tokenizer is not None:
        texts = [tokenizer.continuation(p, g) for p, g in zip(ready.prompts, result.token_ids)]
    single = ready.job.batch == 1
    return {
        "tokens_match_reference": check.tokens_match,
        "near_ties": len(check.near_ties),
        "mismatches": len(check.mismatches),
        "logits_max_abs_error": error if error is not None and error < np.inf else None,
        "logits_error_bound": check.bound,
        "logits_within_bound": check.logits_within_bound,
        "margins": _unbatched([list(m) for m in check.margins], single),
        "prompt": _unbatched([tokenizer.decode(p) for p in ready.prompts], single) if tokenizer else None,
        "prompt_token_ids": _unbatched(ready.prompts, single),
        "token_ids": _unbatched(result.token_ids, single),
        "text": texts and _unbatched(texts, single),
    }


def disagreement(entry: dict[str, Any]) -> str | None:
    """Why an entry's values are not those of the reference, in one sentence; None when they are, or without values."""
    if entry.get("tokens_match_reference") is None:
        return None
    where, bound = f"{entry['chip']}: ", f"the error bound of {entry['logits_error_bound']:.4f}"
    if entry["mismatches"]:
        return f"{where}{entry['mismatches']} generated tokens differ from the float64 reference by more than {bound}"
    if not entry["logits_within_bound"]:
        error = entry["logits_max_abs_error"]
        off = "a logit is not a number" if error is None else f"a logit is off by {error:.4f}"
        return f"{where}{off}, more than {bound}"
    return None


def _unbatched(values: list[Any], single: bool) -> Any:
    """One sequence's value itself, a list of them for more."""
    return values[0] if single else values


def chosen_logits(prompts: list[list[int]], result: Result) -> list[np.ndarray]:
    """Logits [tokens, vocab] of each sequence at the steps that gave its tokens."""
    chosen = []
    for b, (prompt, tokens) in enumerate(zip(prompts, result.token_ids)):
        steps = result.steps[len(prompt) - 1 : len(prompt) - 1 + len(tokens)]
        chosen.append(np.stack([step.logits[b] for step in steps if step.logits is not None]))
    return chosen
