"""The screens of `compare`: blocks of text made from its entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tools.report import (
    agreement,
    logit_error,
    percentages,
    seconds,
    significant,
    size,
    smallest_lead,
    table,
    traffic,
    where_line,
)

if TYPE_CHECKING:
    from tools.measure import Job

LEFT_OUT = {
    "lpu": ["prefill", "mixture of experts", "instruction-fetch port conflicts"],
    "gpu": ["prefill", "mixture of experts", "WGMMA", "power capping"],
}


def columns(entries: Sequence[dict[str, Any]], rows: Sequence[tuple[str, Any]]) -> str:
    """One line a row and one column a chip; a row's second part makes a cell from an entry."""
    good = [e for e in entries if "error" not in e]
    if not good:
        return ""
    lines = [["", *(e["chip"] for e in good)]]
    for label, cell in rows:
        cells = [cell(e) for e in good]
        if any(cells):
            lines.append([label, *cells])
    return table(lines, indent=4, gap=3)


def failures(entries: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each chip that could not run, with the reason."""
    return [f"    {e['chip']}: {e['error']}" for e in entries if "error" in e]


def time_cell(e: dict[str, Any]) -> str:
    """Time and cycles of a token."""
    return f"{seconds(e['seconds_per_token'])} ({e['cycles_per_token']:,} cyc)"


def floor_cell(e: dict[str, Any]) -> str:
    """The floor and the resource that sets it."""
    name = next(iter(e["floor_parts"]))
    links = " + links" if e["floor_parts"].get("links") else ""
    return f"{seconds(e['floor_seconds'])} {name}{links}"


def bound_sentence(e: dict[str, Any]) -> str:
    """In words what bounds a step."""
    share = e["floor_seconds"] / e["seconds_per_token"]
    parts = percentages(dict(sorted(e["cycles_by_cause"].items(), key=lambda item: -item[1])))
    name, most = next(iter(parts.items()))
    work = size(e["working_set_bytes"])
    if e["bound_by"] != "latency":
        return f"{e['bound_by']}: the floor is {100 * share:.0f} % of the time"
    capacity, gpus = e.get("l2_capacity_bytes"), e["tensor_parallel"]
    if capacity is not None and e["working_set_bytes"] <= gpus * capacity:
        hbm = e["traffic_bytes"].get("hbm_read", 0)
        caches = f"the {size(capacity)} L2" if gpus == 1 else f"{gpus} L2 of {size(capacity)}"
        return (
            f"latency, not bandwidth: all {work} of weights and KV sit in {caches}, "
            f"HBM reads {size(hbm)}; {most} % {name}"
        )
    return f"latency, not bandwidth: moving {work} once explains {100 * share:.0f} % of the time; {most} % {name}"


def measured_rows(entries: Sequence[dict[str, Any]]) -> list[tuple[str, Any]]:
    """(label, cell of an entry) of what every run reports."""
    return [
        ("arithmetic", lambda e: f"{e['arithmetic']}, KV {e['kv_format']}"),
        ("time per token", time_cell),
        ("floor, set by", floor_cell),
        ("moved", lambda e: traffic(e["traffic_bytes"])),
    ]


def agreement_rows() -> list[tuple[str, Any]]:
    """(label, cell of an entry) of the comparison with the oracle."""
    return [("tokens", agreement), ("worst logit error", logit_error), ("closest choice led by", smallest_lead)]


def same_arithmetic(entries: Sequence[dict[str, Any]]) -> list[str]:
    """A line that says so when chips run different arithmetic side by side."""
    good = [e for e in entries if "error" not in e]
    words = {(e["arithmetic"], e["kv_format"]) for e in good}
    if len(words) < 2:
        return []
    told = "; ".join(f"{e['chip']} {e['arithmetic']}, KV {e['kv_format']}" for e in good)
    return [f"    different arithmetic: {told}"]


def same_tokens(entries: Sequence[dict[str, Any]], job: Job) -> str:
    """Block 1: a small real model with every number computed."""
    good = [e for e in entries if "error" not in e]
    head = "[1] THE SAME TOKENS"
    if good:
        e = good[0]
        head += (
            f"        {e['model']}, {e['parameters'] / 1e6:.2f} M weights, every number computed; "
            f"{prompt_words(e)}"
        )
    lines = [head, *texts(good), columns(entries, [*agreement_rows(), *measured_rows(entries)])]
    lines += [f"    {e['chip']}: {bound_sentence(e)}" for e in good]
    return "\n".join([*lines, *same_arithmetic(entries), *failures(entries)])


def prompt_words(e: dict[str, Any]) -> str:
    """The prompts and how many tokens follow: "In the beginning" + 16 tokens."""
    single = e["batch"] == 1
    ids = e["token_ids"] if single else e["token_ids"][0]
    given = e["prompt_token_ids"] if single else e["prompt_token_ids"][0]
    prompt = e["prompt"] if single or e["prompt"] is None else e["prompt"][0]
    words = f'"{prompt}"' if prompt else f"{len(given)} prompt tokens"
    others = "" if single else f" (first of {e['batch']})"
    return f"{words}{others} + {len(ids)} tokens"


def texts(entries: Sequence[dict[str, Any]]) -> list[str]:
    """The continuation, once when all chips agree."""
    found = {e["chip"]: e["text"] if e["text"] is not None else e["token_ids"] for e in entries}
    if not found:
        return []
    shown = {
        chip: " | ".join(map(repr, text)) if isinstance(text, list) and isinstance(text[0], str) else repr(text)
        for chip, text in found.items()
    }
    if len(set(shown.values())) == 1:
        both = "" if len(shown) == 1 else f"   the same on {'both' if len(shown) == 2 else 'all'}"
        return [f"    {next(iter(shown.values()))}{both}"]
    return [f"    {chip}: {text}" for chip, text in shown.items()]


def real_size(model: str, entries: Sequence[dict[str, Any]]) -> str:
    """Block 2: one layer of a large model, where memory decides."""
    good = [e for e in entries if "error" not in e]
    lines = ["[2] WHERE MEMORY DECIDES   " + real_size_head(model, good)]
    rows: list[tuple[str, Any]] = [
        ("time per layer", time_cell),
        ("floor, set by", floor_cell),
        ("moved", lambda e: traffic(e["traffic_bytes"])),
        ("chips to hold it all", lambda e: str(e["chips_needed"])),
        ("chip-ms per token", chip_milliseconds),
    ]
    lines.append(columns(entries, rows))
    lines.append(where_table(good))
    if len(good) == 2:
        slow, quick = sorted(good, key=lambda e: -e["seconds_per_token"])
        ratio = slow["seconds_per_token"] / quick["seconds_per_token"]
        floors = slow["floor_seconds"] / quick["floor_seconds"]
        lines.append(f"    {quick['chip']} is {ratio:.1f}x faster on this layer (floors: {floors:.1f}x)")
    if good:
        lines.append(
            "    chip-ms: layers x time of this layer x chips; embedding, head and links between chips are left out"
        )
    return "\n".join([line for line in lines if line] + same_arithmetic(entries) + failures(entries))


def where_table(entries: Sequence[dict[str, Any]]) -> str:
    """One line a chip: its causes in per cent of its cycles."""
    return table([[f"where it went, {e['chip']}", where_line(e["cycles_by_cause"])] for e in entries], indent=4, gap=3)


def real_size_head(model: str, good: Sequence[dict[str, Any]]) -> str:
    """What the block of a real size ran."""
    if not good:
        return f"one layer of {model}"
    e = good[0]
    formats = f"{e['arithmetic']}, {e['kv_format']} KV"
    return f"one layer of {model}, {formats}, batch {e['batch']}, context {e['context']}, timing only"


def chip_milliseconds(e: dict[str, Any]) -> str:
    """Chips x milliseconds that one token occupies: alone on the chips, and with a full pipeline."""
    found = e.get("chip_ms_per_token")
    if found is None:
        return ""
    if e["chips_needed"] == 1:
        return f"{significant(found['alone'])} alone"
    return f"{significant(found['alone'])} alone, {significant(found['full_pipeline'])} in a full pipeline"


def trust(found: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> str:
    """Block 3: where the numbers come from and what is not modelled."""
    lines = ["[3] HOW FAR TO TRUST IT"]
    rows = []
    for entry in found:
        counts = ", ".join(f"{n} {status}" for status, n in entry["numbers"].items() if n)
        if entry["set_by_user"]:
            counts += f" ({len(entry['set_by_user'])} of them by --set)"
        words = "a reconstruction from papers, not checked on silicon"
        if not entry["reconstruction"]:
            words = "its kernels beside measured ones: docs/gpu.md"
        rows.append([entry["chip"], f"{counts}: {words}"])
    lines.append(table(rows, indent=4, gap=3))
    left = list(dict.fromkeys(item for entry in found for item in entry["left_out"]))
    lines.append(f"    left out: {', '.join(left)} (docs/left_out.md)")
    return "\n".join(lines)


def next_command(chips: Sequence[str]) -> str:
    """Commands that go on from here."""
    return (
        "Next: decodelab run gemv.lpu.s --grid 0:100  |  "
        f"decodelab chips {chips[0]}  |  decodelab compare --batch 1,8"
    )


def one_point(model: str, entries: Sequence[dict[str, Any]], job: Job) -> str:
    """One table for one model, batch and context."""
    good = [e for e in entries if "error" not in e]
    lines = []
    if good:
        e = good[0]
        what = "timing only" if job.timing_only else prompt_words(e)
        layers = f", layers {e['layers'][0]}:{e['layers'][1]} only" if e["layers"] else ""
        lines.append(f"{model}, batch {e['batch']}, context {e['context']}{layers}, {what}")
        if not job.timing_only:
            lines += texts(good)
        extra: list[tuple[str, Any]] = [
            ("system", system_cell),
            ("time per layer", layer_cell),
            ("tokens per second", rate_cell),
        ]
        lines.append(columns(entries, [*agreement_rows(), *measured_rows(entries), *extra]))
        lines += [f"    {e['chip']}: {bound_sentence(e)}" for e in good]
        lines += [sampled_line(e) for e in good if e.get("sampled_layers")]
        lines.append(where_table(good))
        lines += [published_line(e) for e in good if e.get("published")]
    return "\n".join([*lines, *same_arithmetic(entries), *failures(entries)])


def sampled_line(e: dict[str, Any]) -> str:
    """That layers were left out, and which stand for them."""
    count = e["sampled_layers"]
    ran = "layer 0 ran and stands" if count == 1 else f"layers 0 to {count - 1} ran, the last of them stands"
    return f"    {e['chip']}: sampled: {ran} for the layers after it"


def system_cell(e: dict[str, Any]) -> str:
    """Chips and how they share the model; empty for one chip."""
    if e["chips_used"] == 1:
        return ""
    stages = f" x {e['pipeline_parallel']} stages" if e["pipeline_parallel"] > 1 else ""
    split = f"{e['tensor_parallel']} share a layer{stages}"
    return f"{e['chips_used']} chips: {split} ({e['system']})"


def layer_cell(e: dict[str, Any]) -> str:
    """Time and cycles of a layer, empty where the step has none of its own."""
    cycles = e.get("cycles_per_layer")
    return f"{seconds(cycles / e['clock_hz'])} ({cycles:,} cyc)" if cycles else ""


def rate_cell(e: dict[str, Any]) -> str:
    """Tokens a second for one user, and with all stages at work on tokens of other users."""
    alone = significant(e["tokens_per_second"])
    if e["pipeline_parallel"] == 1:
        return alone
    return f"{alone} one user, {significant(e['pipeline_tokens_per_second'])} full pipeline"


def published_line(e: dict[str, Any]) -> str:
    """A published rate beside ours, and why they differ."""
    found = e["published"]
    return (f"    {e['chip']}: {found['ratio']:.1f}x the published {found['tokens_per_second']:.0f} tokens/s a user "
            f"({found['source']}): {found['differs']}")


def sweep(rows: Sequence[tuple[int, int | None, dict[str, Any]]], model: str) -> str:
    """One row a chip and sweep point."""
    header = ["chip", "batch", "context", "arithmetic", "time per token", "cycles", "tokens/s", "floor", "bound by"]
    lines = []
    for batch, _, e in rows:
        if "error" in e:
            continue
        lines.append(
            [e["chip"], batch, e["context"], e["arithmetic"], seconds(e["seconds_per_token"]), e["cycles_per_token"],
             significant(e["tokens_per_second"]), seconds(e["floor_seconds"]), e["bound_by"], agreement(e)]
        )  # fmt: skip
    if any(line[-1] for line in lines):
        header.append("tokens")
    else:
        lines = [line[:-1] for line in lines]
    refused = [f"batch {b}, context {c}: {e['chip']}: {e['error']}" for b, c, e in rows if "error" in e]
    return "\n".join([model, table(lines, header), *refused])
