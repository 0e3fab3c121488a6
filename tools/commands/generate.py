"""`decodelab generate`: text from a model, every number computed by the emulated chip."""

from __future__ import annotations

from typing import Any

import click

from tools import console
from tools.options import (
    DEFAULT_CHIPS,
    Count,
    arithmetic_options,
    engine_option,
    ideal_option,
    json_option,
    launch_option,
    model_option,
    prompt_options,
    set_option,
    system_options,
    with_ideal,
)


@click.command("generate", short_help="Generate text on one chip, token by token.")
@model_option
@click.option("--chip", default=DEFAULT_CHIPS[0], show_default=True, help="Chip to run on.")
@prompt_options
@click.option("--batch", type=Count(), default=None, help="Sequences [default: one a prompt].")
@click.option("--context", type=Count(), default=None,
              help="Capacity [default: prompt + tokens, in 64s; with --timing-only 1024, or all it takes].")
@arithmetic_options
@launch_option
@system_options
@click.option("--stop-at-eos", is_flag=True, help="Stop when every sequence has met the end-of-text token.")
@click.option("--timing-only", is_flag=True, help="No values: feed the given ids and count cycles.")
@set_option
@ideal_option
@engine_option
@json_option
def command(as_json: bool, ideal: str | None, **options: Any) -> None:
    """Generate text on one chip, token by token, and check it against the float64 reference.

    Exit code 1 when a token or a logit is further from the reference than the error bound.

    With a batch above 1, token_ids, text, prompt_token_ids and margins of --json are lists, one entry a sequence.
    """
    from tools.jobs import announce_compilation
    from tools.measure import chosen_job, disagreement, generated, prepare

    options["settings"] = with_ideal(ideal, (options["chip"],), options["settings"])
    job = chosen_job(options | {"feeds": options["timing_only"]})
    with console.Progress(f"{job.model} on {job.chip}") as progress:
        ready = prepare(job)
        announce_compilation({ready.chip.kind} if job.engine == "fast" else set())
        result = generated(ready, progress.step)
        report = _report(ready, result)
    if as_json:
        console.data(console.to_json(report))
    else:
        _print(ready, report)
    wrong = disagreement(report)
    if wrong is not None:
        console.message(f"comparison failed: {wrong}")
        raise click.exceptions.Exit(1)


def _report(ready: Any, result: Any) -> dict[str, Any]:
    from tools.measure import checked_values, entry

    job = ready.job
    head = {"schema": "decodelab.generate/1", "model": ready.model.name, "chip": job.chip, "batch": job.batch}
    if job.timing_only:
        single = job.batch == 1
        values: dict[str, Any] = {
            "prompt_token_ids": ready.prompts[0] if single else ready.prompts,
            "token_ids": [] if single else [[] for _ in ready.prompts],
            "text": None,
            "tokens_match_reference": None,
            "logits_max_abs_error": None,
            "margins": None,
        }
    else:
        values = checked_values(ready, result)
    measured = entry(ready, result.steps[-1], len(result.steps))
    rest = {key: value for key, value in measured.items() if key not in head}
    return head | values | {"per_token": result.per_token} | rest


def _print(ready: Any, report: dict[str, Any]) -> None:
    from tools.report import agreement, logit_error, seconds, traffic

    job = ready.job
    texts = report["text"] if job.batch > 1 else [report["text"]]
    ids = report["token_ids"] if job.batch > 1 else [report["token_ids"]]
    for prompt, text, tokens in zip(ready.prompts, texts or [None] * job.batch, ids):
        if text is not None and ready.model.tokenizer is not None:
            console.data(ready.model.tokenizer.decode(prompt) + text)
        elif tokens:
            console.data(",".join(str(t) for t in tokens))
    steps = report["per_token"]
    console.data("")
    last = f"{seconds(report['seconds_per_token'])} ({report['cycles_per_token']:,} cycles)"
    bound = f"bound by {report['bound_by']}"
    console.data(f"{ready.chip.name}, {report['arithmetic']}: {len(steps)} steps; last token {last}, {bound}")
    console.data(f"traffic of the last token: {traffic(report['traffic_bytes'])}")
    if report["tokens_match_reference"] is not None:
        console.data(f"{agreement(report)}; worst logit error {logit_error(report)}")
