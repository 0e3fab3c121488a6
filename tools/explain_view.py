"""What `explain` shows: sentences, tables and a chart in the terminal, from its plain data."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from typing import Any

from tools.report import percentages, seconds, table

BAR = 44  # characters of a token's whole time
WIDTH = 132  # characters of a line of words
PARTS = (  # part of a token -> what belongs to it: GPU kernels and LPU graph nodes
    ("norm, QKV, RoPE, KV append", ("attn_norm", "norm_qkv", "qkv", "rope", "kv_append")),
    ("attention", ("attention", "attention combine")),
    ("o", ("o",)),
    ("norm, gate and up", ("mlp_norm", "norm_gate_up", "gate_up")),
    ("down", ("down",)),
    ("sums over chips, residuals", ("attn_add", "mlp_add")),
    ("from stage to stage", ("enter", "leave", "token")),
    ("head and argmax", ("final_norm", "norm_lm_head", "lm_head", "argmax")),
)
OTHER = "embedding, start and state"


def part_of(kernel: str) -> str:
    """Which of PARTS a kernel or graph node belongs to."""
    if kernel.endswith("all_reduce"):  # a GPU's, with the node before it
        kernel = "mlp_add"
    return next((part for part, names in PARTS if kernel in names), OTHER)


def by_part(entry: dict[str, Any]) -> dict[str, int]:
    """Cycles of each part of a token, all layers together."""
    found = {part: 0 for part, _ in PARTS} | {OTHER: 0}
    for leaf in entry["time_tree"]:
        found[part_of(leaf["path"][2])] += leaf["cycles"]
    return found


def bar(start: int, length: int, scale: int, blocks: bool) -> str:
    """A bar of `length` cycles from cycle `start` on, of `scale` cycles in BAR characters; a negative one is light."""
    full, light = ("█", "░") if blocks else ("#", "-")
    first, end = sorted((round(BAR * start / scale), round(BAR * (start + length) / scale)))
    mark = light if length < 0 else full
    if first == end and length:
        return " " * min(first, BAR - 1) + ("▏" if blocks else "|")
    return " " * first + mark * (end - first)


def waterfall_table(entry: dict[str, Any], blocks: bool) -> str:
    """A line a step: cycles, time, share of the token, and its place on the way from nothing to the whole."""
    total, hz = entry["cycles_per_token"], entry["clock_hz"]
    highest, at = 0, 0
    for step in entry["waterfall"]:
        at += step["cycles"]
        highest = max(highest, at)
    rows, at = [], 0
    for step in entry["waterfall"]:
        sign = "" if at == 0 else "+" if step["cycles"] >= 0 else "-"
        rows.append([step["name"], f"{sign}{abs(step['cycles']):,}".rjust(12), _time(step["cycles"] / hz).rjust(8),
                     f"{100 * step['cycles'] / total:.1f} %".rjust(7), bar(at, step["cycles"], highest, blocks)])
        at += step["cycles"]
    rows.append([entry["chip"], f"{total:,}".rjust(12), _time(total / hz).rjust(8), "100.0 %",
                 bar(0, total, highest, blocks)])
    return table(rows, ["step", "cycles".rjust(12), "time".rjust(8), "share".rjust(7), ""], indent=4)


def _time(value: float) -> str:
    return f"-{seconds(-value)}" if value < 0 else "0 s" if value == 0 else seconds(value)


def sentence(words: str) -> str:
    """Words as lines, the later ones further in."""
    return textwrap.fill(words, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_long_words=False,
                         break_on_hyphens=False)


def chip_block(entry: dict[str, Any], blocks: bool) -> str:
    """One chip: words, advice, waterfall, reasons."""
    told = entry["advice"]
    lines = [f"{entry['chip'].upper()}   {entry['arithmetic']}, KV {entry['kv_format']}{_system(entry)}"]
    lines += [sentence(words) for words in entry["words"]]
    lines.append(sentence(f"Biggest step above the floor: {told['step']}. What to try: {told['try']}."))
    share = 100 * told["cause_cycles"] / entry["cycles_per_token"]
    lines.append(sentence(f"Most cycles are '{told['cause']}' ({share:.1f} %): {told['meaning']}. "
                          f"What to try: {told['cause_try']}."))
    lines.append(waterfall_table(entry, blocks))
    lines += [sentence(f"{step['name']}: {step['why']}") for step in entry["waterfall"]]
    if entry.get("sampled_layers"):
        lines.append(f"    sampled: {entry['sampled_layers']} layers ran, the last of them stands for the others "
                     "(--full runs all)")
    return "\n".join(lines)


def _system(entry: dict[str, Any]) -> str:
    if entry["chips_used"] == 1:
        return ""
    stages = f" x {entry['pipeline_parallel']} stages" if entry["pipeline_parallel"] > 1 else ""
    return f"; {entry['chips_used']} chips: {entry['tensor_parallel']} share a layer{stages}"


def side_by_side(entries: Sequence[dict[str, Any]], blocks: bool) -> str:
    """The same token on all chips: the parts of a token in rows, a column and a bar a chip on one scale."""
    longest = max(e["seconds_per_token"] for e in entries)
    parts = [by_part(e) for e in entries]
    rows = []
    for name in parts[0]:
        if any(part[name] for part in parts):
            rows.append([name, *(f"{_time(part[name] / e['clock_hz'])}".rjust(8)
                                 + f"{100 * part[name] / e['cycles_per_token']:.1f} %".rjust(9)
                                 for e, part in zip(entries, parts))])
    rows.append(["token", *(f"{seconds(e['seconds_per_token'])}".rjust(8) + "  100.0 %" for e in entries)])
    lines = [table(rows, ["", *(e["chip"].rjust(17) for e in entries)], indent=4, gap=3)]
    scale = max(1, round(1e12 * longest))
    lines.append(table([[e["chip"], seconds(e["seconds_per_token"]).rjust(8),
                         bar(0, round(1e12 * e["seconds_per_token"]), scale, blocks)] for e in entries], indent=4))
    return "\n".join(lines)


def causes_line(entry: dict[str, Any]) -> str:
    """Shares of the causes, largest first, adding up to 100 %."""
    parts = dict(sorted(entry["cycles_by_cause"].items(), key=lambda item: (-item[1], item[0])))
    return "  ".join(f"{name} {share}" for name, share in percentages(parts, least=3.0).items()) + "  = 100.0 %"


def text(found: dict[str, Any], blocks: bool, timing_only: bool) -> str:
    """The whole screen. blocks: the stream takes block characters."""
    good = [e for e in found["chips"] if "error" not in e]
    bad = [f"    {e['chip']}: {e['error']}" for e in found["chips"] if "error" in e]
    if not good:
        return "\n".join(bad)
    first = good[0]
    layers = f", layers {first['layers'][0]}:{first['layers'][1]} only" if first["layers"] else ""
    head = (f"{found['model']}, batch {found['batch']}, context {found['context']}{layers}, "
            f"{'timing only' if timing_only else 'the last generated token'}")
    lines = [head, *(chip_block(e, blocks) for e in good)]
    if len(good) > 1:
        slow, quick = sorted(good, key=lambda e: -e["seconds_per_token"])[:: len(good) - 1]
        ratio = slow["seconds_per_token"] / quick["seconds_per_token"]
        floors = slow["floor_seconds"] / quick["floor_seconds"]
        lines.append(f"SIDE BY SIDE   {quick['chip']} is {ratio:.1f}x faster (floors: {floors:.1f}x), with "
                     f"{_chips(quick)} against {_chips(slow)}")
    else:
        lines.append("WHERE IN THE TOKEN")
    lines.append(side_by_side(good, blocks))
    lines.append(table([[f"where it went, {e['chip']}", causes_line(e)] for e in good], indent=4, gap=3))
    return "\n".join([*lines, *bad])


def _chips(entry: dict[str, Any]) -> str:
    return f"{entry['chips_used']} chip{'s' if entry['chips_used'] > 1 else ''}"


def csv_text(found: dict[str, Any]) -> str:
    """One row a chip and step of its waterfall."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["model", "batch", "context", "chip", "name", "cycles", "why"], lineterminator="\n")
    writer.writeheader()
    common = {name: found[name] for name in ("model", "batch", "context")}
    writer.writerows(common | {"chip": e["chip"]} | step for e in found["chips"] for step in e.get("waterfall", ()))
    return stream.getvalue()
