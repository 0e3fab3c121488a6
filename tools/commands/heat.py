"""`decodelab heat`: where the cycles of a trace went, line by line."""

from __future__ import annotations

from pathlib import Path

import click

from tools import console
from tools.options import Count, json_option


@click.command("heat", short_help="A listing with the cycles and stalls of every line.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--lines", type=Count(), default=20, show_default=True, help="How many nodes and lines to show.")
@click.option("--kernel", default=None, metavar="GLOB", help="All lines of one kernel (LPU: of one queue).")
@json_option
def command(folder: Path, lines: int, kernel: str | None, as_json: bool) -> None:
    """Cycles and stalls by graph node and by assembly line of the trace in DIR (of one chip, or of several).

    A cycle is one of a sub-core (GPU) or of a queue (LPU): an issue takes one, a stall belongs to the line that was
    waited for.
    """
    from emulator.trace_file import read_trace, trace_folders
    from tools import heat

    traces = [read_trace(place)[0] for place in trace_folders(folder)]
    if as_json:
        console.data(console.to_json({"schema": "decodelab.heat/1", "chips": [
            {"chip": trace.chip, "cycles": trace.cycles, "window": list(trace.window),
             "nodes": [h.json() for h in heat.nodes(trace)], "lines": [h.json() for h in heat.listing(trace, kernel)]}
            for trace in traces]}))
        return
    console.data("\n\n".join(heat.text(trace, lines, kernel) for trace in traces))
