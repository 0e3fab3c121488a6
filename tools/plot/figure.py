"""Figures of one look, written so that the same data gives the same bytes. Needs matplotlib (the `plot` extra)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from isa.html import COLOURS
from tools import console

FORMATS = {".png": "png", ".svg": "svg"}
RISE, FALL, TOTAL = COLOURS[1], COLOURS[2], COLOURS[0]  # steps that add time, that take time away, whole bars


def pyplot() -> Any:
    """matplotlib.pyplot without a screen. Raises ValueError where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("pictures need matplotlib: pip install 'decodelab[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({
        "svg.hashsalt": "decodelab", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": 10, "axes.titleweight": "bold", "legend.frameon": False,
        "text.parse_math": False,  # a dollar in a name is a dollar
    })
    return pyplot


def check_format(path: Path) -> str:
    """The format that a file's name asks for. Raises ValueError for another one than PNG and SVG."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path}: pictures are written as .png or .svg")
    return FORMATS[path.suffix.lower()]


def save(figure: Any, path: Path) -> None:
    """Write a figure whole or not at all, without a date, and close it. Raises ValueError, OSError."""
    form = check_format(path)
    content = io.BytesIO()
    try:
        facts = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(content, format=form, dpi=150, metadata=facts)
    finally:
        pyplot().close(figure)
    console.write_file(path, content.getvalue())


def chip_colours(names: list[str]) -> dict[str, str]:
    """A colour for each chip, in the order given."""
    return {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(dict.fromkeys(names))}


def entries(path: Path, schema: str, made_by: str) -> dict[str, Any]:
    """A JSON result of the schema that a picture needs. Raises ValueError that names the command which makes one."""
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not JSON that can be read; make it with {made_by}") from None
    if not isinstance(found, dict) or found.get("schema") != schema:
        said = found.get("schema") if isinstance(found, dict) else None
        raise ValueError(f"{path}: schema {said!r}, expected {schema!r}; make it with {made_by}")
    return found
