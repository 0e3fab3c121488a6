"""Measured kernel times from CSV files: what a row asks for, how it was sampled, what models without a machine say.

Files have the columns of one operation (gemm: m,n,k,dtype; decode_attention: batch,kv_len,q_heads,kv_heads,
head_dim,kv_dtype; allreduce: num_gpus,message_bytes) and one lat_us_<framework> column a framework; other columns are
not looked at. A comment line of the head may name the device that was measured: "# device h100_sxm; ...", "# device
8xh100_sxm".
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.predict import read_table

LATENCY = "lat_us_"
DEVICE = re.compile(r"#\s*device\s+(?:\d+x)?(\w+)")
BYTES = {"bfloat16": 2, "float16": 2, "fp8": 1, "int8": 1, "int8_wo": 1}  # of a weight, or of a value of K and V
X_BYTES = BYTES | {"int8_wo": 2}  # of a value of x
COLUMNS = {"gemm": ("m", "n", "k", "dtype"),
           "decode_attention": ("batch", "kv_len", "q_heads", "kv_heads", "head_dim", "kv_dtype"),
           "allreduce": ("num_gpus", "message_bytes")}
BUILT = {"gemm": ("bfloat16", "float16", "fp8", "int8", "int8_wo"),
         "decode_attention": ("bfloat16", "float16", "fp8"),
         "allreduce": ("16 bit",)}
M_MAX = 64  # decode: more rows than these are prefill
# Upper ends of the size classes in us of measured time; rows below the first are reported apart from the score.
CLASSES = {"gemm": (10.0, 30.0, 100.0), "decode_attention": (20.0, 100.0), "allreduce": (0.0, 10.0, 100.0)}
TRIVIAL_FRACTION, TRIVIAL_US = 0.8, 3.0  # of peak bandwidth, and on top: a vendor's estimate for memory-bound kernels


@dataclass(frozen=True)
class Measured:
    """One measured row: file and line it comes from, operation, cells by column, best time, bytes that must move."""

    file: str
    line: int
    op: str
    cells: tuple[str, ...]  # in the order of COLUMNS[op]
    us: float
    source: str = ""

    @property
    def dtype(self) -> str:
        return "16 bit" if self.op == "allreduce" else self.cells[-1]

    @property
    def group(self) -> str:
        """Rows that are scored together."""
        return f"{self.file}, {self.dtype}"

    @property
    def size_class(self) -> int:
        return sum(self.us >= end for end in CLASSES[self.op])

    @property
    def scored(self) -> bool:
        return self.size_class > 0

    @property
    def bytes(self) -> int:
        """Bytes that must move once: weights, x and y, or K and V; out of each GPU's port."""
        if self.op == "allreduce":
            gpus, message = (int(cell) for cell in self.cells)
            return 2 * (gpus - 1) * message // gpus
        size = BYTES[self.dtype]
        if self.op == "gemm":
            m, n, k = (int(cell) for cell in self.cells[:3])
            return size * n * k + X_BYTES[self.dtype] * m * k + 2 * m * n
        batch, kv_len, _, kv_heads, head_dim = (int(cell) for cell in self.cells[:5])
        return 2 * size * batch * kv_len * kv_heads * head_dim


def class_name(op: str, number: int) -> str:
    """"10 to 30 us" and so on."""
    ends = CLASSES[op]
    if number == 0:
        return f"below {ends[0]:.0f} us"
    return f"{ends[-1]:.0f} us and more" if number == len(ends) else f"{ends[number - 1]:.0f} to {ends[number]:.0f} us"


def read_measured(path: Path) -> tuple[list[Measured], Counter[str]]:
    """Rows of a file with the fastest framework's time, and why how many others are left out. Raises ValueError."""
    table = read_table(path)
    op = next((op for op, columns in COLUMNS.items() if set(columns) <= set(table.columns)), None)
    frameworks = [name for name in table.columns if name.startswith(LATENCY)]
    if op is None or not frameworks:
        wanted = " or ".join(", ".join(columns) for columns in COLUMNS.values())
        raise ValueError(f"{path}: no measured kernels; columns {wanted}, and {LATENCY}<framework>, are needed")
    found: list[Measured] = []
    left: Counter[str] = Counter()
    for row in table.rows:
        cells = dict(zip(table.columns, row.cells))
        try:
            times = [float(cells[name]) for name in frameworks if cells.get(name, "").strip()]
            one = Measured(path.name, row.line, op, tuple(cells[name].strip() for name in COLUMNS[op]),
                           min(times, default=0.0))
            large = op == "gemm" and int(one.cells[0]) > M_MAX
            if one.dtype not in BUILT[op]:
                left[f"{one.dtype} is not built"] += 1
            elif len(times) < 2:
                left["fewer than two frameworks"] += 1
            elif large:
                left[f"m over {M_MAX}"] += 1
            elif not all(0 < time < math.inf for time in times) or one.bytes <= 0:
                raise ValueError
            else:
                found.append(one)
        except (ValueError, KeyError, ZeroDivisionError):
            raise ValueError(f"{path} line {row.line}: not a measured kernel: {', '.join(row.cells)}") from None
    return found, left


def device_of(path: Path) -> str | None:
    """The device that a file of measured kernels says it was measured on, None where it does not. Raises OSError."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                return None
            if found := DEVICE.match(line):
                return found[1]
    return None


def sample(rows: Sequence[Measured], count: int, seed: int) -> list[Measured]:
    """`count` rows of each group and size class, one from each of as many equal strata of measured time."""
    strata: dict[tuple[str, int], list[Measured]] = {}
    for row in rows:
        strata.setdefault((row.group, row.size_class), []).append(row)
    chosen = []
    for (group, number), members in sorted(strata.items()):
        draw = random.Random(f"{seed} {group} {number}")
        members.sort(key=lambda row: (row.us, row.line))
        wanted = min(count, len(members))
        edges = [len(members) * i // wanted for i in range(wanted + 1)]
        chosen += [members[draw.randrange(a, b)] for a, b in zip(edges, edges[1:])]
    return chosen


def trivial_us(size: int, peak_bytes_per_second: float) -> float:
    """The model without a machine: bytes over 0.8 of peak bandwidth, plus 3 us."""
    return size / (TRIVIAL_FRACTION * peak_bytes_per_second) * 1e6 + TRIVIAL_US


def fit_line(rows: Sequence[Measured]) -> tuple[float, float]:
    """(a in us, B in bytes a us) of a + bytes / B with the least sum of squared relative errors over the rows.

    Fewer than two sizes cannot fix a slope: then B is infinite and a the harmonic mean of the times.
    """
    # sum ((a + b x - y) / y)^2 over a and b: normal equations in 1/y and x/y
    s11 = sum(1 / row.us**2 for row in rows)
    s12 = sum(row.bytes / row.us**2 for row in rows)
    s22 = sum(row.bytes**2 / row.us**2 for row in rows)
    t1, t2 = sum(1 / row.us for row in rows), sum(row.bytes / row.us for row in rows)
    determinant = s11 * s22 - s12 * s12
    if len({row.bytes for row in rows}) < 2 or determinant <= 0:
        return t1 / s11, float("inf")
    a, b = (t1 * s22 - t2 * s12) / determinant, (s11 * t2 - s12 * t1) / determinant
    return a, 1 / b if b > 0 else float("inf")
