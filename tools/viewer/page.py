"""The page itself: a skeleton, its style and scripts, and the packed data, in one file without a network."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from emulator.trace import KINDS
from tools.viewer.nodes import nodes, roofs
from tools.viewer.pack import in_base64, packed_events, packed_json, script_json
from tools.viewer.recording import Recording
from tools.viewer.streams import flows
from tools.viewer.summary import summary

# One scope: each file may use what the files before it define.
SCRIPTS = ("codec.js", "theme.js", "model.js", "lod.js", "raster.js", "paint.js", "timeline.js", "tooltip.js",
           "input.js", "search.js", "details.js", "listing.js", "state.js", "streams.js", "panes.js", "summary.js",
           "roofline.js", "compare.js", "keys.js", "main.js")  # fmt: skip


def asset(name: str) -> str:
    """Text of a file that ships with the viewer."""
    return (resources.files("tools.viewer") / "assets" / name).read_text(encoding="utf-8")


def page(recordings: Sequence[Recording], title: str = "decodelab") -> str:
    """One HTML document that shows `recordings`. The same input gives the same text."""
    scripts = "\n".join(asset(name) for name in SCRIPTS)
    blobs = []
    for number, recording in enumerate(recordings):
        for part, data in (("tables", packed_json(tables(recording))), ("events", packed_events(recording))):
            blobs.append(f'<script type="application/octet-stream" id="{part}{number}">{in_base64(data)}</script>')
    meta = {"title": title, "traces": [description(recording) for recording in recordings]}
    parts = {
        "STYLE": asset("view.css"),
        "META": script_json(meta),
        "DATA": "\n".join(blobs),
        "SCRIPT": f"(() => {{\n'use strict';\n{scripts}\n}})();",
    }
    text = asset("view.html")
    for name, value in parts.items():
        before, mark, after = text.partition(f"<!--{name}-->")
        assert mark, f"view.html has no place for {name}"
        text = before + value + after
    return text


def description(recording: Recording) -> dict[str, Any]:
    """What the page must know of a recording before its events are unpacked."""
    trace = recording.trace
    return {
        "label": recording.label,
        "chip": trace.chip,
        "dialect": trace.dialect,
        "clockHz": recording.clock_hz,
        "cycles": trace.cycles,
        "window": list(trace.window),
        "count": len(trace),
        "kinds": [kind.name for kind in KINDS],
        "kindClasses": [kind.unit_class.split(", ") for kind in KINDS],
        "meanings": [kind.meaning for kind in KINDS],
        "recordedKinds": trace.kinds,
        "recordedLaunches": trace.launches_recorded,
        "chips": [{"row": chip.row, "rows": chip.rows, "start": chip.start, "end": chip.end} for chip in trace.chips],
        "nodes": [node.json() for node in nodes(trace, recording.chip)],
        "roofs": roofs(recording.chip) if recording.chip is not None else None,
        "summary": summary(recording),
        "reasons": [{"name": r.name, "cause": r.cause, "advice": r.advice} for r in trace.reasons],
    }


def tables(recording: Recording) -> dict[str, Any]:
    """The tables that events point into."""
    chip = recording.chip
    units, instructions, launches = recording.trace.units, recording.trace.instructions, recording.trace.launches
    return {
        "units": [list(unit) for unit in zip(units.name, units.chip, units.unit_class, strict=True)],
        "instructions": vars(instructions),
        "launches": vars(launches),
        "streams": flows(recording.trace, chip) if chip is not None and chip.kind == "lpu" else None,
    }
