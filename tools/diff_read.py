"""What `decodelab diff` compares: trace folders and JSON results, as counters by name.

    cycles                         of the measured step
    traffic.LEVEL                  bytes
    cause.CAUSE                    cycles of the step by cause
    kernel.KERNEL                  cycles of the step by kernel or graph node, over all layers
    time.LAYER/KERNEL/CAUSE        leaves of the time tree
    waterfall.NAME                 steps from the floor to the total (explain)
    units.CLASS.BUCKET             unit cycles, of the whole accounting
    stalls.KERNEL.REASON           unit cycles that sub-cores or queues waited (trace folders)
    counters.NAME                  everything else that the machine counted
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emulator.trace import STALL, Trace
from emulator.trace_file import SCHEMA, read_trace, trace_folders

RESULTS = tuple(f"decodelab.{name}/1" for name in ("compare", "explain", "run", "generate"))  # and a trace's run.json
BYTES_MAX = 1 << 30  # of a JSON file


@dataclass
class Entry:
    """One chip's result. name: what tells it from the others of its file; facts: what it was made with."""

    name: tuple[str, ...]
    counters: dict[str, int]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def chip(self) -> str:
        return self.name[0]


class DiffError(ValueError):
    """Something that cannot be compared; the message is one sentence for the user."""


def read(path: Path) -> list[Entry]:
    """The results in a trace folder or a JSON file. Raises DiffError, TraceError, OSError."""
    if path.is_dir():
        return _traces(path)
    if not path.exists():
        raise DiffError(f"{path}: there is no such file or trace folder")
    if path.stat().st_size > BYTES_MAX:
        raise DiffError(f"{path}: over {BYTES_MAX >> 30} GiB, no result of decodelab is as large")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise DiffError(f"{path}: neither a trace folder nor JSON that can be read") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema not in (*RESULTS, SCHEMA):
        raise DiffError(f"{path}: schema {schema!r} cannot be compared; these can: {', '.join((*RESULTS, SCHEMA))}")
    try:
        entries = _entries(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise DiffError(f"{path}: not a whole {schema}: a result has no cycles, or counts are no numbers") from None
    if not entries:
        raise DiffError(f"{path}: no chip has a result in it")
    if len({entry.name for entry in entries}) < len(entries):
        raise DiffError(f"{path}: two of its results have the same chip, model, context and batch")
    return entries


def _entries(found: dict[str, Any]) -> list[Entry]:
    """The results of a JSON object."""
    points = found.get("points", [found])
    entries = []
    for point in points:
        for one in point.get("chips", [point]) if found["schema"] in RESULTS else [point]:  # a trace's are others
            if "error" not in one:
                words = (one.get("model", point.get("model")), *(
                    f"{key} {one.get(key, point.get(key))}" if one.get(key, point.get(key)) is not None else None
                    for key in ("context", "batch")))
                entries.append(_entry(one, words))
    for one in found.get("real_size", []):
        if "error" not in one:
            entries.append(_entry(one, (one.get("model"), "real size")))
    return entries


def _entry(one: dict[str, Any], words: tuple[Any, ...]) -> Entry:
    """One chip's counters."""
    counters = {"cycles": _count(one["cycles_per_token"] if "cycles_per_token" in one else one["cycles"])}
    for level, count in one.get("traffic_bytes", {}).items():
        counters[f"traffic.{level}"] = _count(count)
    for cause, count in one.get("cycles_by_cause", {}).items():
        counters[f"cause.{cause}"] = _count(count)
    if one.get("time_tree"):
        counters = {name: count for name, count in counters.items() if not name.startswith("cause.")}
        counters |= tree_counters([(tuple(leaf["path"]), _count(leaf["cycles"])) for leaf in one["time_tree"]])
    for step in one.get("waterfall") or []:
        counters[f"waterfall.{step['name']}"] = _count(step["cycles"])
    for unit, buckets in one.get("unit_accounting", {}).items():
        counters |= {f"units.{unit}.{bucket}": _count(count) for bucket, count in buckets.items()}
    counters |= {f"counters.{name}": _count(count) for name, count in one.get("counters", {}).items()}
    facts = {key: str(one[key]) for key in ("chip_hash", "program_hash", "arithmetic", "layers", "sampled_layers")
             if one.get(key) is not None}
    return Entry((str(one["chip"]), *(str(word) for word in words if word is not None)), counters, facts)


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no count")
    return value


def tree_counters(leaves: list[tuple[tuple[str, ...], int]]) -> dict[str, int]:
    """A time tree's leaves, and their sums by kernel and by cause over all layers. Paths: token, layer, kernel,
    cause."""
    found: dict[str, int] = {}
    for path, cycles in leaves:
        for name in (f"kernel.{path[-2]}", f"cause.{path[-1]}", f"time.{'/'.join(path[1:])}"):
            found[name] = found.get(name, 0) + cycles
    return found


def _traces(folder: Path) -> list[Entry]:
    """The results of a trace folder, or of those in it, one a chip; with the stalls of each kernel from the events."""
    entries = []
    for one in trace_folders(folder):
        trace, run = read_trace(one)
        try:
            entry = _entry(run, ())
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            raise DiffError(f"{one}: run.json does not hold whole results of the step") from None
        entry.facts["window"] = f"{trace.window[0]}:{trace.window[1]}"
        entry.counters |= stalls_by_kernel(trace)
        entries.append(entry)
    return entries


def stalls_by_kernel(trace: Trace) -> dict[str, int]:
    """`stalls.KERNEL.REASON`: cycles that units waited, over all layers, as often as events count."""
    rows = np.flatnonzero(trace.kind == STALL)
    table, launches = trace.instructions, trace.launches
    names = {(True, i): _place(node, kernel) for i, (node, kernel) in enumerate(zip(launches.node, launches.kernel))}
    names |= {(False, i): _place(node, "") for i, node in enumerate(table.node)}
    launched = trace.launch[rows] >= 0
    # one number for a launch or an instruction, and its reason
    place = np.where(launched, trace.launch[rows], len(launches) + trace.instruction[rows]).astype(np.int64)
    key = (place + 1) * len(trace.reasons) + trace.reason[rows]
    spent = (trace.end - trace.start)[rows] * trace.weights()[rows]
    found: dict[str, int] = {}
    nowhere = "program" if trace.dialect == "lpu" else "no kernel"  # a hand-written LPU program has no graph nodes
    pairs, at = np.unique(key, return_inverse=True)
    sums = np.zeros(len(pairs), dtype=np.int64)
    np.add.at(sums, at, spent)
    for pair, total in zip(pairs.tolist(), sums.tolist()):
        number, reason = pair // len(trace.reasons) - 1, trace.reasons[pair % len(trace.reasons)].name
        where = names.get((True, number) if number < len(launches) else (False, number - len(launches)), "")
        name = f"stalls.{where or nowhere}.{reason}"
        found[name] = found.get(name, 0) + total
    return found


def _place(node: str, kernel: str) -> str:
    """Name of a kernel without its layer: "layers.3.qkv", "gemv" -> "qkv gemv"."""
    node = re.sub(r"^layers\.\d+\.", "", node)
    return " ".join(part for part in (node, kernel if kernel != node else "") if part)
