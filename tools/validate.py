"""`decodelab validate`: emulated kernels beside measured ones, with the error of models that emulate nothing.

The error of a row is |log(emulated / measured)|. Three models stand side by side: the emulated machine,
the trivial model (bytes over 0.8 of peak bandwidth, plus 3 us), and a line a + bytes / B fitted on the
very rows it is judged by, one for the scored rows and one for the smaller ones.
"""

from __future__ import annotations

import csv
import io
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.floor import hbm_bytes_per_second
from tools.options import load_chip_with
from tools.predict import predict, read_table
from tools.validate_rows import COLUMNS, Measured, class_name, fit_line, read_measured, sample, trivial_us

MODELS = ("emulated", "trivial", "line")


@dataclass
class Errors:
    """|log ratio| of each model over some rows: median and 90th percentile."""

    rows: int
    median: dict[str, float]
    p90: dict[str, float]
    bias: float  # median of log(emulated / measured)


@dataclass
class Group:
    """What is told about one group of rows (a file's rows of one data type)."""

    name: str
    op: str
    rows: list[Measured]
    emulated: list[float]  # us, as rows
    classes: dict[str, Errors]  # size class, and the scored rows together
    lines: dict[str, tuple[float, float]]


@dataclass
class Validation:
    """Everything that a run of `validate` found."""

    chip: str
    chip_hash: str
    groups: list[Group]
    left_out: dict[str, dict[str, int]]  # file -> why -> rows
    failed: list[str]  # sentences of rows that could not be emulated


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile, between the two nearest values in proportion."""
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def gather(files: Sequence[Path], count: int | None, seed: int, dtypes: Sequence[str]
           ) -> tuple[list[Measured], dict[str, dict[str, int]]]:
    """Rows to emulate (all where count is None) and what was left out, by file. Raises ValueError, OSError."""
    rows: list[Measured] = []
    left: dict[str, dict[str, int]] = {}
    for file in files:
        found, others = read_measured(file)
        if dtypes:
            kept = [row for row in found if row.dtype in dtypes]
            others["another --dtype"] += len(found) - len(kept)
            found = kept
        left[file.name] = dict(+Counter(others))
        rows += found if count is None else sample(found, count, seed)
    if not rows:
        raise ValueError("no row is left to emulate: each needs the times of at least two frameworks and m up to 64")
    return rows, left


def emulate(rows: Sequence[Measured], chip: str, settings: tuple[str, ...], results: Path | None
            ) -> tuple[list[float | None], list[str]]:
    """Emulated us of every row, None where the machine refused it, and what it said. results: kept, to go on from."""
    with tempfile.TemporaryDirectory() as folder:
        cases = Path(folder) / "cases.csv"
        out = results or Path(folder) / "results.csv"
        names = list(dict.fromkeys(name for row in rows for name in COLUMNS[row.op]))
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["op", *names, "file", "line", "measured_us"])
        for row in rows:
            cells = dict(zip(COLUMNS[row.op], row.cells))
            writer.writerow([row.op, *(cells.get(name, "") for name in names), row.file, row.line, f"{row.us:g}"])
        cases.write_text(text.getvalue(), encoding="utf-8")
        failed = [sentence.replace(str(cases), "row") for sentence in predict(cases, out, chip, settings)]
        table = read_table(out)
        at = table.columns.index("time_us")
        return [float(row.cells[at]) if row.cells[at] else None for row in table.rows], failed


def errors_of(rows: Sequence[Measured], emulated: Sequence[float], models: Sequence[Callable[[Measured], float]]
              ) -> Errors:
    """Errors of the emulated times and of the two models."""
    logs = {"emulated": [math.log(e / row.us) for e, row in zip(emulated, rows)]}
    for name, model in zip(MODELS[1:], models):
        logs[name] = [math.log(max(model(row), 1e-9) / row.us) for row in rows]
    sizes = {name: [abs(value) for value in values] for name, values in logs.items()}
    return Errors(len(rows), {name: quantile(v, 0.5) for name, v in sizes.items()},
                  {name: quantile(v, 0.9) for name, v in sizes.items()}, quantile(logs["emulated"], 0.5))


def judge(name: str, rows: Sequence[Measured], emulated: Sequence[float], peak: float) -> Group:
    """Errors of one group by size class, and of its scored rows together."""
    group = Group(name, rows[0].op, list(rows), list(emulated), {}, {})

    def add(title: str, chosen: list[int], line: tuple[float, float]) -> None:
        a, b = line
        models = (lambda row: trivial_us(row.bytes, peak), lambda row: a + row.bytes / b)
        group.classes[title] = errors_of([rows[i] for i in chosen], [emulated[i] for i in chosen], models)

    scored = [i for i, row in enumerate(rows) if row.scored]
    for side, chosen in (("below", [i for i, row in enumerate(rows) if not row.scored]), ("scored", scored)):
        if not chosen:
            continue
        line = group.lines[side] = fit_line([rows[i] for i in chosen])
        for number in sorted({rows[i].size_class for i in chosen}):
            add(class_name(group.op, number), [i for i in chosen if rows[i].size_class == number], line)
        if side == "scored":
            add("scored", chosen, line)
    return group


def validate(rows: Sequence[Measured], left: dict[str, dict[str, int]], chip_name: str, settings: tuple[str, ...],
             results: Path | None = None) -> Validation:
    """Emulate measured rows and judge. Raises ValueError when none can be emulated."""
    chip = load_chip_with(chip_name, settings)
    if chip.kind != "gpu":
        raise ValueError(f"{chip.name} is no GPU: measured kernels are those of GPUs")
    peaks = {"allreduce": float(chip["nvlink.bytes"]) * chip.clock_hz}
    peak = float(hbm_bytes_per_second(chip))
    emulated, failed = emulate(rows, chip_name, settings, results)
    groups: dict[str, list[tuple[Measured, float]]] = {}
    for row, us in zip(rows, emulated, strict=True):
        if us is not None:
            groups.setdefault(row.group, []).append((row, us))
    if not groups:
        raise ValueError(f"{chip.name} could emulate none of {len(rows)} rows; first: {failed[0] if failed else ''}")
    judged = [judge(name, [r for r, _ in pairs], [us for _, us in pairs], peaks.get(pairs[0][0].op, peak))
              for name, pairs in groups.items()]
    return Validation(chip.name, chip.hash, judged, left, failed)


def exceeded(found: Validation, limit: float) -> list[str]:
    """A sentence for every group whose scored rows have a larger median error than `limit`."""
    sentences = []
    for group in found.groups:
        errors = group.classes.get("scored")
        if errors is not None and errors.median["emulated"] > limit:
            sentences.append(f"{group.name}: median error {100 * errors.median['emulated']:.1f} % is over "
                             f"{100 * limit:g} %")
    return sentences


def as_text(found: Validation, rows_too: bool = False) -> str:
    """Tables of errors in per cent, a group each."""
    lines = [f"{found.chip}: |log(emulated / measured)| in per cent, median and 90th percentile"]
    for group in found.groups:
        lines += ["", f"{group.name} ({group.op})",
                  f"  {'measured time':<16}{'rows':>6}{'emulated':>16}{'trivial':>16}{'fitted line':>16}{'bias':>8}"]
        for title, e in group.classes.items():
            cells = "".join(f"{100 * e.median[m]:>9.1f}{100 * e.p90[m]:>7.1f}" for m in MODELS)
            lines.append(f"  {title:<16}{e.rows:>6}{cells}{100 * e.bias:>8.1f}")
        for side, (a, b) in group.lines.items():
            lines.append(f"  line of {side} rows: {a:.2f} us + bytes / {b * 1e-6:.2f} TB/s")
        if rows_too:
            for row, us in sorted(zip(group.rows, group.emulated), key=lambda p: p[0].us):
                off = 100 * math.log(us / row.us)
                lines.append(f"    {' '.join(row.cells):<36}{row.us:>10.2f}{us:>10.2f}{off:>8.1f} %")
    for file, why in found.left_out.items():
        if why:
            lines.append(f"{file}: left out " + ", ".join(f"{n} ({reason})" for reason, n in sorted(why.items())))
    lines += [f"not emulated: {sentence}" for sentence in found.failed]
    return "\n".join(lines)


def as_json(found: Validation) -> dict[str, Any]:
    """The same content as `as_text`, with every row."""
    return {
        "schema": "decodelab.validate/1", "chip": found.chip, "chip_hash": found.chip_hash,
        "left_out": found.left_out, "not_emulated": found.failed,
        "groups": [{
            "name": group.name, "op": group.op,
            "classes": {title: {"rows": e.rows, "bias": e.bias, "median": e.median, "p90": e.p90}
                        for title, e in group.classes.items()},
            "lines": {side: {"a_us": a, "bytes_per_us": b if math.isfinite(b) else None}
                      for side, (a, b) in group.lines.items()},
            "rows": [{"line": row.line, **dict(zip(COLUMNS[row.op], row.cells)), "measured_us": row.us,
                      "emulated_us": us, "source": row.source} for row, us in zip(group.rows, group.emulated)],
        } for group in found.groups],
    }
