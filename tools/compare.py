"""What `decodelab compare` does: which jobs it runs, and its JSON, CSV and screen."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools import screen
from tools.jobs import announce_compilation, kinds_of, run_jobs
from tools.measure import Job, check, chosen_job, disagreement
from tools.options import load_chips, option_name

SCHEMA = "decodelab.compare/1"
SHOWN_MODEL = "llama-3.1-8b"  # of the second block, and what to try where a layer of it does not fit one chip
SMALLER_MODELS = ("mistral-7b", "qwen2.5-7b", "llama-2-7b", "smollm2-135m")


@dataclass
class Point:
    """One point of a sweep: its entries, one a chip."""

    model: str
    context: int | None
    batch: int
    chips: list[dict[str, Any]]

    def head(self) -> dict[str, Any]:
        """The point in `compare`'s JSON."""
        return {"model": self.model, "context": self.context, "batch": self.batch, "chips": self.chips}

    @property
    def failed(self) -> bool:
        """Whether no chip could run."""
        return all("error" in entry for entry in self.chips)


@dataclass
class Outcome:
    """Everything that one `compare` found."""

    points: list[Point]
    trust: list[dict[str, Any]]
    job: Job
    real_size: Point | None = None

    @property
    def failed(self) -> bool:
        """Whether no chip could run anything that was asked for."""
        return all(point.failed for point in self.points)

    def errors(self) -> list[str]:
        """Why chips could not run, each reason once; one that all share is told without a chip."""
        found = {(e["chip"], e["error"]) for point in self.points for e in point.chips if "error" in e}
        reasons = list(dict.fromkeys(e["error"] for point in self.points for e in point.chips if "error" in e))
        return [
            reason if sum(r == reason for _, r in found) > 1 or reason.find(chip) >= 0 else f"{chip}: {reason}"
            for reason in reasons
            for chip in [next(c for c, r in sorted(found) if r == reason)]
        ]

    def disagreements(self) -> list[str]:
        """What does not agree with the reference, one sentence an entry."""
        return [told for point in self.points for told in map(disagreement, point.chips) if told is not None]

    def json(self) -> dict[str, Any]:
        """One point: its keys at the top. A sweep: `points`, a list of the same."""
        first: dict[str, Any] = {"schema": SCHEMA}
        if len(self.points) == 1:
            first |= self.points[0].head()
        else:
            first["points"] = [point.head() for point in self.points]
        if self.real_size is not None:
            first["real_size"] = self.real_size.chips
        return first | {"trust": self.trust}

    def csv(self) -> str:
        """One row a chip and point; nested values become one column each (traffic_bytes.sram_read)."""
        points = [*self.points, *([self.real_size] if self.real_size else [])]
        rows = [{"model": p.model, "batch": p.batch, "context": p.context} | flat(e) for p in points for e in p.chips]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue()

    def text(self) -> str:
        """The screen."""
        if self.real_size is not None:
            return "\n".join(
                [
                    screen.same_tokens(self.points[0].chips, self.job),
                    screen.real_size(self.real_size.model, self.real_size.chips),
                    screen.trust(self.trust, self.real_size.chips),
                    screen.next_command([e["chip"] for e in self.points[0].chips]),
                ]
            )
        if len(self.points) == 1:
            return screen.one_point(self.points[0].model, self.points[0].chips, self.job)
        return screen.sweep([(p.batch, p.context, e) for p in self.points for e in p.chips], self.points[0].model)


def flat(entry: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as dotted keys, lists as text with spaces (their own lists between semicolons), None as an
    empty cell."""
    found: dict[str, Any] = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            nested = any(isinstance(v, list) for v in value) or key in ("text", "prompt")  # one a sequence
            found[prefix + key] = ";".join(_cell(v) for v in value) if nested else _cell(value)
        else:
            found[prefix + key] = "" if value is None else value
    return found


def _cell(value: Any) -> str:
    return " ".join(str(v) for v in value) if isinstance(value, list) else str(value)


def trust_of(chips: Sequence[Any]) -> list[dict[str, Any]]:
    """How many numbers of each chip have which status, and what is not modelled."""
    return [
        {
            "chip": chip.name,
            "chip_hash": chip.hash,
            "numbers": chip.status_counts(),
            "set_by_user": sorted(key for key, n in chip.numbers.items() if n.source == "user"),
            "reconstruction": chip.kind == "lpu",
            "left_out": screen.LEFT_OUT[chip.kind],
        }
        for chip in chips
    ]


def sweep(options: dict[str, Any]) -> Outcome:
    """`compare` with options: every batch x context x chip."""
    batches = options.pop("batch") or (max(1, len(options["prompts"]) or len(options["prompt_ids"])),)
    contexts = options.pop("context") or (None,)
    chips = load_chips(options.pop("chips"), options["settings"])
    check_kinds(options, kinds_of(chips))
    jobs = [
        chosen_job(for_kind(options, chip.kind) | {"chip": chip.name, "batch": batch, "context": context})
        for batch in batches
        for context in contexts
        for chip in chips
    ]
    jobs = [check(job).job for job in jobs]  # with defaults filled in
    entries = run_jobs(jobs, f"compare {jobs[0].model}", announce_compilation(compiled(chips, options)))
    points = []
    for first in range(0, len(jobs), len(chips)):
        found = entries[first : first + len(chips)]
        model = next((e["model"] for e in found if "model" in e), jobs[first].model)
        points.append(Point(model, jobs[first].context, jobs[first].batch, found))
    return Outcome(points, trust_of(chips), jobs[0])


def compiled(chips: Sequence[Any], options: dict[str, Any]) -> set[str]:
    """The kinds of chip whose compiled engine is going to run."""
    return kinds_of(chips) if options["engine"] == "fast" else set()


def default_comparison(options: dict[str, Any]) -> Outcome:
    """`compare` without options: the three blocks."""
    chips = load_chips(options["chips"], options["settings"])
    common = {"settings": options["settings"], "engine": options["engine"]}
    check_kinds(options, kinds_of(chips))
    tokens = [Job("tiny_kjv", chip.name, launch=for_kind(options, chip.kind)["launch"], **common) for chip in chips]
    layer = [real_size_job(SHOWN_MODEL, chip, options, common) for chip in chips]
    # longest first, so that no core waits at the end
    entries = run_jobs([*layer, *tokens], "compare", announce_compilation(compiled(chips, options)))
    shown, small = entries[: len(chips)], entries[len(chips) :]
    model = SHOWN_MODEL
    for model in (SHOWN_MODEL, *SMALLER_MODELS):
        if model != SHOWN_MODEL:
            shown = run_jobs([real_size_job(model, chip, options, common) for chip in chips], f"compare {model}")
        if not any("error" in entry for entry in shown):
            break
    first = next((e for e in small if "context" in e), {})
    return Outcome(
        [Point("tiny_kjv", first.get("context"), 1, small)],
        trust_of(chips),
        tokens[0],
        Point(model, 1024, 1, shown),
    )


def real_size_job(model: str, chip: Any, options: dict[str, Any], common: dict[str, Any]) -> Job:
    """One layer of a large model in the same 8-bit arithmetic on every chip, fp16 KV, timing only."""
    own = {"arithmetic": "int8"} if chip.kind == "lpu" else {"weights": "int8", "launch": options["launch"]}
    return Job(
        model, chip.name, context=1024, timing_only=True, kv_format="fp16", layers=(0, 1), whole_model=True,
        **own, **common,
    )  # fmt: skip


ONLY_FOR = {  # option -> the kind of chip that takes it
    "arithmetic": "lpu", "weights": "gpu", "launch": "gpu", "pipeline_parallel": "lpu",
    "sample_layers": "gpu",
}  # fmt: skip


def check_kinds(options: dict[str, Any], kinds: set[str]) -> None:
    """Refuse an option that no chip of this comparison takes. Raises ValueError that names it."""
    for name, kind in ONLY_FOR.items():
        if options.get(name) is not None and kind not in kinds:
            word = "LPUs" if kind == "lpu" else "GPUs"
            raise ValueError(f"{option_name(name)} {options[name]} is for {word}, and no {kind.upper()} takes part")


def for_kind(options: dict[str, Any], kind: str) -> dict[str, Any]:
    """The options without those that only the other kind of chip takes."""
    return {name: None if ONLY_FOR.get(name, kind) != kind else value for name, value in options.items()}
