"""Numbers and tables as people read them, in plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emulator.accounting import shares

SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def seconds(value: float) -> str:
    """0.0000053 -> "5.30 us": three significant figures."""
    for unit, name in SECONDS:
        if value >= unit or name == "ns":
            return f"{significant(value / unit)} {name}"
    return f"{value} s"


def significant(value: float) -> str:
    """Three significant figures without an exponent: 5.3 -> "5.30", 1234 -> "1,234"."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size(value: float) -> str:
    """Bytes in decimal units: 1840000 -> "1.84 MB"."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{significant(value / unit)} {name}"
    return f"{value:.0f} B"


def percentages(parts: dict[str, int], least: float = 0.0) -> dict[str, str]:
    """Parts in per cent with one decimal, adding up to exactly 100.0; those below `least` as "other"."""
    tenths = shares(1000, parts)
    shown = {name: value for name, value in tenths.items() if value >= 10 * least and value}
    other = 1000 - sum(shown.values())
    if other:
        shown["other"] = shown.get("other", 0) + other
    return {name: f"{value / 10:.1f}" for name, value in shown.items()}


def where_line(parts: dict[str, int]) -> str:
    """"weight load 86.2  vector 6.1  ...  = 100.0 %", largest first; what is below 3 % is summed up."""
    ranked = dict(sorted(parts.items(), key=lambda item: (-item[1], item[0])))
    return "  ".join(f"{name} {share}" for name, share in percentages(ranked, least=3.0).items()) + "  = 100.0 %"


LEVELS = {  # traffic level -> its name in a table; levels not named here are in --json
    "sram_read": "SRAM read",
    "sram_write": "SRAM write",
    "mxm_ingest": "ingest",
    "hbm_read": "HBM read",
    "l2_read": "L2 read",
    "l2_write": "L2 write",
}


def traffic(levels: dict[str, int]) -> str:
    """"HBM read 220 MB, L2 read 226 MB": the levels that matter most; all are in --json."""
    told = ", ".join(f"{name} {size(levels[level])}" for level, name in LEVELS.items() if level in levels)
    return told.replace(", SRAM write", ", write").replace(", L2 write", ", write")


def agreement(entry: dict[str, Any]) -> str:
    """How the generated tokens compare with the float64 reference, in words; empty without values."""
    if entry.get("tokens_match_reference") is None:
        return ""
    ids = entry["token_ids"]
    total = sum(len(s) for s in ids) if ids and isinstance(ids[0], list) else len(ids)
    near, wrong = entry["near_ties"], entry["mismatches"]
    words = f"{total - near - wrong}/{total} = float64 reference"
    if near:
        words += f", {near} near tie{'s' if near > 1 else ''}"
    if wrong:
        words += f", {wrong} DIFFERENT"
    return words


def logit_error(entry: dict[str, Any]) -> str:
    """The worst logit error with its bound; empty without values."""
    if entry.get("logits_within_bound") is None:
        return ""
    error = entry["logits_max_abs_error"]
    return f"{'not a number' if error is None else f'{error:.4f}'} (bound {entry['logits_error_bound']:.4f})"


def smallest_lead(entry: dict[str, Any]) -> str:
    """By how much the reference's best token leads its second, at the closest step."""
    margins = entry.get("margins")
    if not margins:
        return ""
    flat = [m for row in margins for m in row] if isinstance(margins[0], list) else margins
    return f"{min(flat):.4f}"


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] | None = None, indent: int = 0, gap: int = 2) -> str:
    """Columns aligned: the first to the left, numbers to the right, other text to the left."""
    lines = [[str(cell) for cell in row] for row in ([header] if header else []) + [list(row) for row in rows]]
    if not lines:
        return ""
    columns = max(len(line) for line in lines)
    lines = [line + [""] * (columns - len(line)) for line in lines]
    widths = [max(len(line[c]) for line in lines) for c in range(columns)]
    body = [row for row in rows]
    right = [
        bool(body) and all(isinstance(row[c], (int, float)) or row[c] == "" for row in body if c < len(row))
        for c in range(columns)
    ]
    text = []
    for line in lines:
        cells = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right)]
        text.append((" " * indent + (" " * gap).join(cells)).rstrip())
    return "\n".join(text)
