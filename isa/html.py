"""HTML for notebooks: tables and bars in the page's own colours, every text escaped."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

# Distinct on white and on black (Okabe and Ito, "Color Universal Design"); parts of a bar take them in turn.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#888888")
_CELL = "padding:1px 8px;text-align:{};border:none;background:none"


def text(value: Any) -> str:
    """A value as text that cannot be markup."""
    return html.escape(str(value), quote=True)


def count(value: int) -> str:
    """A count with thousands separated."""
    return f"{value:,}"


def head(title: str, told: str = "") -> str:
    """The first line of an object."""
    return f"<div><b>{text(title)}</b> {text(told)}</div>"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], raw: Sequence[str] = ()) -> str:
    """A table; whole numbers stand to the right, with thousands separated. raw: columns whose cells are HTML."""
    def cell(tag: str, value: Any, column: str) -> str:
        number = isinstance(value, int) and not isinstance(value, bool)
        content = value if column in raw and tag == "td" else text(count(value) if number else value)
        return f'<{tag} style="{_CELL.format("right" if number else "left")}">{content}</{tag}>'

    lines = ["".join(cell("th", column, column) for column in columns)]
    lines += ["".join(cell("td", value, column) for value, column in zip(row, columns)) for row in rows]
    return ('<table style="border-collapse:collapse;font-size:90%;margin:4px 0">'
            + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>")


def bar(parts: Mapping[str, int], width: int = 320) -> str:
    """Parts of a whole as one bar, the largest first; each tells its name and share when pointed at."""
    whole = sum(parts.values())
    ranked = sorted(((v, name) for name, v in parts.items() if v > 0), key=lambda item: (-item[0], item[1]))
    pieces = []
    for at, (value, name) in enumerate(ranked):
        share = value / whole
        told = text(f"{name}: {count(value)} ({100 * share:.1f} %)")
        pieces.append(f'<div title="{told}" style="width:{width * share:.1f}px;height:12px;'
                      f'background:{COLOURS[min(at, len(COLOURS) - 1)]}"></div>')
    return f'<div style="display:flex;width:{width}px;border:1px solid currentColor">{"".join(pieces)}</div>'


def legend(parts: Mapping[str, int], most: int = 4) -> str:
    """The largest parts in words, in the colours of `bar`."""
    whole = sum(parts.values()) or 1
    ranked = sorted(((v, name) for name, v in parts.items() if v > 0), key=lambda item: (-item[0], item[1]))[:most]
    return " ".join(
        f'<span style="color:{COLOURS[min(at, len(COLOURS) - 1)]}">&#9632;</span> {text(name)} {100 * v / whole:.1f} %'
        for at, (v, name) in enumerate(ranked))
