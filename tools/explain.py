"""Why a token takes as long as it does: from the floor to the emulated time, one real limit after another.

The chip is run without any of its limits, then with the first of them, then with two, until it is the chip itself.
The difference from run to run is a limit's step of the waterfall, so that the steps add up to the total exactly; a
step may be negative. A GPU runs the same program each time, an LPU's schedule is compiled again. Plain data; what
people read is made in tools/explain_view.py, the sentences in tools/explain_why.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tools.jobs import announce_compilation, kinds_of, run_jobs
from tools.measure import Job, check, chosen_job
from tools.options import load_chips

if TYPE_CHECKING:
    from emulator.chip import Chip
    from emulator.time_tree import Leaf

SCHEMA = "decodelab.explain/1"
SAMPLED_ABOVE, SAMPLED = 8, 2  # models of more layers run two of them, unless all are asked for


@dataclass(frozen=True)
class Limit:
    """A real limit: the words of emulator/ideal.py that take it away, and the cause whose advice it calls for."""

    name: str
    words: tuple[str, ...]
    reason: str


FIRST = {  # what is left when every limit is taken away, and the cause whose advice it calls for
    "gpu": Limit("kernels in their order", (), "barrier"),
    "lpu": Limit("weights in their order", (), "matrix"),
}
LIMITS: dict[str, tuple[Limit, ...]] = {
    "gpu": (
        Limit("DRAM timing and refresh", ("dram",), "global_memory"),
        Limit("caches, TLB, crossbar", ("noc", "l2", "tlb"), "global_memory"),
        Limit("NVLink", ("nvlink",), "global_memory"),
        Limit("L1, load-store unit, copies", ("l1", "bulk"), "memory_queue"),
        Limit("instruction latencies", ("issue",), "fixed_latency"),
        Limit("waves and tails", ("waves",), "no_warp"),
        Limit("launches", ("launch",), "launch"),
    ),
    "lpu": (
        Limit("activation transit", ("transit",), "memory"),
        Limit("vector work", ("vxm",), "vector"),
        Limit("network", ("links",), "network"),
        Limit("pipeline fill", ("units",), "fill"),
    ),
}
BETWEEN = {"nvlink", "links"}  # words of what lies between chips


@dataclass
class Stage:
    """One run of the waterfall: cycles, time tree and bytes by level. `limit` is the one that came on top of the run
    before it. cycles: without links, the latency of theirs that the floor counts is added."""

    limit: Limit
    cycles: int
    tree: list[Leaf]
    traffic: dict[str, int] = field(default_factory=dict)
    kernels: int = 0


def limits_of(kind: str, several: bool) -> tuple[Limit, ...]:
    """The limits of a kind of chip in their order; those between chips only where there are several."""
    return tuple(limit for limit in LIMITS[kind] if several or not BETWEEN & set(limit.words))


def stage_jobs(job: Job, limits: Sequence[Limit]) -> list[Job]:
    """The jobs of a chip's waterfall: without any limit, then with one more each time, at last the chip itself."""
    return [replace(job, ideal=tuple(word for limit in limits[n:] for word in limit.words))
            for n in range(len(limits) + 1)]


def outcome(job: Job, on_step: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """What a run of the waterfall gives: the entry of `compare` for the chip itself, always `cycles`, `tree`,
    `traffic` and `split`. An LPU without limits is compiled and not run: its cycles are those of its schedule."""
    from emulator.lpu.time_tree import lpu_tree
    from emulator.time_tree import check_tree
    from tools.measure import measured, prepare

    try:
        ready = prepare(job)
    except AssertionError as error:  # the scheduler finds no place on a chip that nobody could build
        if not job.ideal:
            raise
        raise ValueError(f"no schedule is found for a chip without {', '.join(job.ideal)} ({error})") from None
    split = (len(ready.program.chips), ready.program.meta.get("tensor_parallel", 1),
             ready.program.meta.get("pipeline_parallel", 1))
    if job.ideal and ready.chip.kind == "lpu":
        cycles = ready.program.meta["predicted_cycles"]
        tree = check_tree(lpu_tree(ready.program, ready.chip, cycles), cycles)
        return {"cycles": cycles, "tree": tree, "traffic": {}, "split": split, "kernels": 0}
    entry, step = measured(ready, on_step)
    found = {"cycles": step.cycles, "tree": step.time_tree, "traffic": dict(step.traffic), "split": split,
             "kernels": sum(kernel["times"] for kernel in step.kernels)}
    return found if job.ideal else found | {"entry": entry}


def explained_job(options: dict[str, Any], full: bool) -> Job:
    """The job of one chip from the options of a command. Models of more than eight layers run two of them, unless
    `full`. Raises ValueError."""
    job = chosen_job(options)
    if full and job.sample_layers is not None:
        raise ValueError("--full runs every layer, --sample-layers only some: give one of them")
    checked = check(job)
    first, end = checked.job.layers or (0, checked.model.config.layers)
    sampled = (job.timing_only and not full and job.sample_layers is None and end - first > SAMPLED_ABOVE
               and checked.chip.kind == "gpu" and job.launch != "persistent")
    return replace(checked.job, sample_layers=SAMPLED) if sampled else checked.job


def explain(options: dict[str, Any], full: bool = False) -> dict[str, Any]:
    """`decodelab explain` as plain data: `model`, `context`, `batch`, and of every chip the entry of `compare` with
    `waterfall` [{name, cycles, why}], `time_tree` [{path, cycles}] (both add up to `cycles_per_token`), `words`
    (sentences) and `advice`.

    options: those of the command, with one batch and one context. Raises ValueError with one sentence.
    """
    from tools.compare import check_kinds, for_kind

    options = dict(options)
    chips = load_chips(tuple(options.pop("chips")), options["settings"])
    check_kinds(options, kinds_of(chips))
    jobs = [explained_job(for_kind(options, chip.kind) | {"chip": chip.name}, full) for chip in chips]
    plans = []
    for chip, job in zip(chips, jobs):
        alone = chip.kind == "gpu" and (job.tensor_parallel or job.system_chips or 1) == 1
        plans.append((job, limits_of(chip.kind, not alone)))
    stages = [stage for job, limits in plans for stage in stage_jobs(job, limits)]
    kinds = [chip.kind for chip, (_, limits) in zip(chips, plans) for _ in range(len(limits) + 1)]
    # the slow ones first, so that no core waits at the end
    order = sorted(range(len(stages)), key=lambda n: (kinds[n] == "lpu", n))
    cold = announce_compilation(kinds_of(chips) if options["engine"] == "fast" else set())
    ran = run_jobs([stages[n] for n in order], f"explain {jobs[0].model}", cold, outcome)
    found = [ran[order.index(n)] for n in range(len(stages))]
    entries = []
    for chip, (job, limits) in zip(chips, plans):
        own, found = found[: len(limits) + 1], found[len(limits) + 1 :]
        entries.append(_chip(chip, job, limits, own))
    model = next((e["model"] for e in entries if "model" in e), jobs[0].model)
    return {"schema": SCHEMA, "model": model, "context": jobs[0].context, "batch": jobs[0].batch, "chips": entries}


def _chip(chip: Chip, job: Job, limits: Sequence[Limit], found: list[dict[str, Any]]) -> dict[str, Any]:
    """One chip's part of `explain`, from what its stages gave: `found`, the chip itself last. Where one of them failed,
    its error."""
    from tools.explain_why import advice, reasons, words

    failed = next((one for one in reversed(found) if "error" in one), None)
    if failed is not None:
        return failed
    real = found[-1]
    if any(one["split"] != real["split"] for one in found):  # scratch may fit without a limit where it does not with it
        count, ranks, groups = real["split"]
        fixed = replace(job, system_chips=count, tensor_parallel=ranks, pipeline_parallel=groups)
        again = run_jobs(stage_jobs(fixed, limits)[:-1], f"explain {job.model}", work=outcome)
        found = [*again, real]
    entry = real["entry"]
    if real["split"][0] == 1:  # nothing crosses a link
        kept = [n for n, limit in enumerate(limits) if "links" not in limit.words]
        limits, found = [limits[n] for n in kept], [found[0], *(found[n + 1] for n in kept)]
    every = (FIRST[chip.kind], *limits)
    latency = link_cycles(entry)  # part of the floor: what links cost above it is their step
    back = next((n for n, limit in enumerate(every) if BETWEEN & set(limit.words)), 0)
    stages = [Stage(limit, one["cycles"] + (latency if n < back else 0), one["tree"], one["traffic"], one["kernels"])
              for n, (limit, one) in enumerate(zip(every, found))]
    waterfall = steps(entry, stages, reasons(chip, entry, stages))
    tree = [leaf.to_json() for leaf in stages[-1].tree]
    assert sum(leaf["cycles"] for leaf in tree) == entry["cycles_per_token"], "every cycle has one leaf"
    return entry | {"floor_cycles": waterfall[0]["cycles"], "waterfall": waterfall, "time_tree": tree,
                    "words": words(entry, waterfall), "advice": advice(chip, entry, waterfall, stages)}


def floor_cycles(entry: dict[str, Any]) -> int:
    """The floor in whole cycles, rounded up."""
    return math.ceil(round(entry["floor_seconds"] * entry["clock_hz"], 3))


def link_cycles(entry: dict[str, Any]) -> int:
    """Latency between chips that nothing hides, the floor's part of it, in whole cycles."""
    return math.ceil(round(entry["floor_parts"].get("links", 0.0) * entry["clock_hz"], 3))


def steps(entry: dict[str, Any], stages: Sequence[Stage], why: Sequence[str]) -> list[dict[str, Any]]:
    """The waterfall: the floor and what each run took more than the one before it, adding up to the total."""
    names = ["floor", *(stage.limit.name for stage in stages)]
    totals = [0, floor_cycles(entry), *(stage.cycles for stage in stages)]
    found: list[dict[str, Any]] = [{"name": name, "cycles": totals[n + 1] - totals[n], "why": why[n]}
                                   for n, name in enumerate(names)]
    if sum(step["cycles"] for step in found) != entry["cycles_per_token"]:
        raise AssertionError(f"the waterfall's steps add up to {totals[-1]} of {entry['cycles_per_token']} cycles")
    return found
