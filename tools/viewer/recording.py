"""What the viewer shows: one recorded step of one machine with what is known of its run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from emulator.chip import Chip, ChipError, load_chip
from emulator.trace import Trace, TraceError


@dataclass
class Recording:
    """A trace with its run.json. label: which run it is, for people."""

    label: str
    trace: Trace
    clock_hz: int
    run: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def chip(self) -> Chip | None:
        """The chip with the numbers that the run had, None where they are not at hand any more."""
        from tools.options import load_chip_with

        options = self.run.get("options")
        settings = options.get("settings") if isinstance(options, dict) else None
        try:
            chip = load_chip_with(self.trace.chip, tuple(map(str, settings or ())))
        except ValueError:
            return None
        return chip if self.run.get("chip_hash", chip.hash) == chip.hash else None


def recordings_of(folders: list[Path]) -> list[Recording]:
    """The traces of folders, each a trace or a folder with one a chip, in the order given.

    Labels are the folders' names, with a number where two are alike. Raises TraceError for what is no trace.
    """
    from emulator.trace_file import read_trace, trace_folders

    found = []
    labels: list[str] = []
    for folder in folders:
        base = folder.resolve().name
        label = base if base not in labels else f"{base} ({len(labels) + 1})"
        labels.append(label)
        for place in trace_folders(folder):
            trace, run = read_trace(place)
            found.append(Recording(label, trace, _clock(place, trace, run), run))
    return found


def _clock(place: Path, trace: Trace, run: dict[str, Any]) -> int:
    """Cycles a second, as run.json says, else as the bundled chip of that name has it."""
    known = run.get("clock_hz")
    if isinstance(known, int) and known > 0:
        return known
    try:
        return load_chip(trace.chip).clock_hz
    except ChipError:
        raise TraceError(f"{place}: run.json does not say clock_hz, so that cycles cannot be placed in time; "
                         "make the trace again with decodelab trace") from None


def add_explanation(recordings: list[Recording], path: Path) -> None:
    """Give recordings the waterfalls of a file that `decodelab explain --json` wrote, by chip.

    Raises ValueError with one sentence for a file that is none, or that explains none of the chips.
    """
    try:
        chips = json.loads(path.read_text(encoding="utf-8"))["chips"]
        known = {str(entry["chip"]): entry for entry in chips}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not what decodelab explain --json writes: it has no list of chips") from None
    names = {recording.trace.chip for recording in recordings}
    if not names & set(known):
        raise ValueError(f"{path} explains {', '.join(sorted(known)) or 'no chip'}, and the traces are of "
                         f"{', '.join(sorted(names))}")
    for recording in recordings:
        entry = known.get(recording.trace.chip, {})
        for name in ("waterfall", "time_tree"):
            if name in entry and not recording.run.get(name):
                recording.run[name] = entry[name]
