"""`decodelab microbench`: what small kernels measure on an emulated GPU, beside what was measured on real ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tools import console
from tools.jobs import announce_compilation
from tools.microbench_published import PUBLISHED, REASONS, TOLERANCE, Figure

if TYPE_CHECKING:
    from emulator.chip import Chip
    from isa.builder import Kernel

Values = dict[str, float]  # row -> value in the row's unit
KNEE_SHARES = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7)  # of the L2: footprints between the two plateaus
WIDTHS = (32, 64, 128)  # bits of a load
TOUCHED = {"edge": 0, "1 MB": 1 << 20, "4 MB": 4 << 20}  # bytes that a small kernel reads and writes
TILES = {f"{ctas} x {kb} KB": (ctas, kb << 10)
         for ctas, sizes in ((1, (1, 2, 4, 8, 12, 16)), (2, (8, 12, 16))) for kb in sizes}  # CTAs an SM, bytes
STREAM_SHARE = 0.8  # of the L2: each array of the shorter of two streams
LOADED = {"1": (1, 1), "8": (1, 8), "32": (1, 32), "64": (2, 32), "32 warps": (32, 1)}  # chains an SM: warps, lanes


@dataclass(frozen=True)
class Bench:
    """A mechanism: its rows, the function that measures them, and the kernels it does that with."""

    what: str
    rows: tuple[str, ...]
    measure: Callable[[Chip], Values]
    kernels: Callable[[], list[Kernel]]


def _l1(chip: Chip) -> Values:
    from programs.microbench.latency import l1_latency

    return {f"l1 {width} bit": l1_latency(chip, width) for width in WIDTHS}


def _shared(chip: Chip) -> Values:
    from programs.microbench.latency import shared_latency

    return {"shared 32 bit": shared_latency(chip)}


def _l2(chip: Chip) -> Values:
    """Plateaus at an eighth and at three quarters of the L2; the knee is where the curve has left the near one by a
    tenth of the step between them."""
    from programs.microbench.latency import l2_bytes, l2_latency

    def at(share: float) -> float:
        return l2_latency(chip, int(share * l2_bytes(chip)) // 8192 * 8192)

    near, far = at(0.125), at(0.75)
    found = {"l2 near": near, "l2 far": far}
    threshold, before = near + (far - near) / 10, (0.125, near)
    if far < 1.1 * near:
        return found  # no second plateau, no knee
    for share, latency in [(share, at(share)) for share in KNEE_SHARES] + [(0.75, far)]:
        if latency >= threshold:
            found["l2 knee"] = before[0] + (share - before[0]) * (threshold - before[1]) / (latency - before[1])
            break
        before = share, latency
    return found


def _dram(chip: Chip) -> Values:
    from programs.microbench.latency import dram_distribution

    spread = dram_distribution(chip)
    return {"dram mean": spread.mean, "dram p10": spread.p10, "dram p50": spread.p50, "dram p90": spread.p90,
            "dram p99": spread.p99}


def as_pcie(chip: Chip) -> Chip:
    """The H100 PCIe, on which some figures were measured: 114 SMs at 1.755 GHz with the HBM2E of an A100, refreshed as
    on H100: its streams reach 95 % of the peak too (Azure)."""
    from emulator.chip import load_chip

    if chip.name != "h100_sxm":
        return chip
    other = load_chip("a100_sxm")
    changes = {key: other[key] for key in other.numbers if key.startswith("dram.") and key != "dram.refresh"}
    for key, value in (changes | {"core.sms": 114, "core.clock_hz": 1_755_000_000}).items():
        if chip.numbers[key].source != "user" and chip[key] != value:
            chip = chip.with_override(key, str(value))
    return chip


def _loaded(chip: Chip) -> Values:
    from programs.microbench.latency import loaded_latency

    chip = as_pcie(chip)
    return {f"loaded {name} an SM": loaded_latency(chip, warps, lanes) for name, (warps, lanes) in LOADED.items()}


def _bandwidth(chip: Chip) -> Values:
    from programs.microbench.latency import l2_bytes
    from programs.microbench.stream import ARRAYS, CHUNK_BYTES, dram_rate
    from tools.floor import hbm_bytes_per_second

    peak = float(hbm_bytes_per_second(chip))
    size = int(STREAM_SHARE * l2_bytes(chip)) // CHUNK_BYTES * CHUNK_BYTES
    return {f"bandwidth {what}": 100 * dram_rate(chip, what, size).per_second(chip) / peak for what in ARRAYS}


def _l2_bandwidth(chip: Chip) -> Values:
    """A quarter of the L2, so that every line has room in both halves."""
    from programs.microbench.latency import l2_bytes
    from programs.microbench.stream import CHUNK_BYTES, l2_rate

    rate = l2_rate(chip, l2_bytes(chip) // 4 // CHUNK_BYTES * CHUNK_BYTES)
    return {"l2 bandwidth": rate.bytes / rate.cycles / chip["core.sms"]}


def _bulk(chip: Chip) -> Values:
    """None on a chip without bulk copies. Rates by tile on the machine that the published ones come from."""
    from programs.microbench.bulk import bulk_latency, bulk_rate

    if not chip["sm.bulk.engines"]:
        return {}
    found = {"bulk latency L2": bulk_latency(chip, False), "bulk latency DRAM": bulk_latency(chip, True)}
    there = as_pcie(chip)
    return found | {f"bulk {name}": bulk_rate(there, tile, ctas) / 1e9 for name, (ctas, tile) in TILES.items()}


def _launch(chip: Chip) -> Values:
    from programs.microbench.launches import barrier_period, period

    found = {f"graph {name}": 1e6 * period(chip, "graph", touched) for name, touched in TOUCHED.items()}
    return found | {"stream": 1e6 * period(chip, "stream"), "grid barrier": 1e6 * barrier_period(chip)}


def _kernels(module: str, *calls: tuple[str, tuple[Any, ...]]) -> Callable[[], list[Kernel]]:
    """Kernels that functions of programs.microbench.MODULE build: (function, arguments)."""
    def build() -> list[Kernel]:
        import importlib

        found = importlib.import_module(f"programs.microbench.{module}")
        return [getattr(found, function)(*arguments) for function, arguments in calls]

    return build


BENCHES: dict[str, Bench] = {
    "l1": Bench(
        "latency of a load that hits L1, by width", tuple(f"l1 {width} bit" for width in WIDTHS), _l1,
        _kernels("chase", *(("chase_kernel", (width,)) for width in WIDTHS))),
    "shared": Bench(
        "latency of a load from shared memory", ("shared 32 bit",), _shared,
        _kernels("chase", ("shared_chase_kernel", ()))),
    "l2": Bench(
        "latency of L2 by footprint", ("l2 near", "l2 far", "l2 knee"), _l2,
        _kernels("chase", ("chase_kernel", (32, 1)))),
    "dram": Bench(
        "latency of single loads from DRAM", ("dram mean", "dram p10", "dram p50", "dram p90", "dram p99"), _dram,
        _kernels("chase", ("read_kernel", ()), ("chase_kernel", (32, 1)))),
    "loaded": Bench(
        "latency of random DRAM chases, by chains an SM", tuple(f"loaded {name} an SM" for name in LOADED), _loaded,
        _kernels("chase", ("read_kernel", ()), *(("chase_kernel", (32, n)) for n in (1, 8, 32)))),
    "bandwidth": Bench(
        "DRAM streams", ("bandwidth read", "bandwidth copy", "bandwidth triad"), _bandwidth,
        _kernels("stream", ("dot_kernel", ()), ("copy_kernel", ()), ("triad_kernel", ()))),
    "l2_bandwidth": Bench(
        "reads of all SMs from L2", ("l2 bandwidth",), _l2_bandwidth,
        _kernels("stream", ("shared_read_kernel", (331,)))),
    "bulk": Bench(
        "bulk copies: latency, and rate by CTAs an SM and tile, one tile at a time each",
        ("bulk latency L2", "bulk latency DRAM", *(f"bulk {name}" for name in TILES)), _bulk,
        _kernels("bulk", ("bulk_kernel", ()))),
    "launch": Bench(
        "period of small kernels, and of passes over 64 KB with a barrier of the grid",
        (*(f"graph {name}" for name in TOUCHED), "stream", "grid barrier"), _launch,
        _kernels("launches", ("scale_kernel", ()), ("scale_kernel", (128,)), ("meeting_kernel", ()))),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """An emulated figure and what was published for it, if anything was."""

    bench: str
    name: str
    value: float
    figure: Figure | None
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """Emulated over published; a published range counts as its nearest end, 1 inside it."""
        if self.figure is None:
            return None
        low, high = self.figure.low, self.figure.high
        return self.value / min(max(self.value, low), high)

    @property
    def within(self) -> bool | None:
        """Whether it agrees with what was published, None where nothing was."""
        return None if self.ratio is None else abs(self.ratio - 1) <= TOLERANCE

    @property
    def verdict(self) -> str:
        """In words whether it agrees, or why not."""
        if self.within is None:
            return "nothing published"
        return "within 10 %" if self.within else self.reason or "outside, not explained"


def chosen(only: Sequence[str]) -> list[str]:
    """Names of the benches to run. Raises ValueError for an unknown one."""
    for name in only:
        if name not in BENCHES:
            near = difflib.get_close_matches(name, BENCHES, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"--only {name}: no such microbenchmark; {hint}known: {', '.join(BENCHES)}")
    return [name for name in BENCHES if name in only] if only else list(BENCHES)


def microbench(chip: Chip, only: Sequence[str] = ()) -> list[Row]:
    """Run the benches on a chip, in order. Raises ValueError for a chip that is no GPU, or an unknown bench."""
    names = chosen(only)
    if chip.kind != "gpu":
        raise ValueError(f"--chip {chip.name} is an LPU: its schedules have no latencies to be found out; give a GPU")
    announce_compilation({"gpu"})
    rows = []
    with console.Progress(f"microbenchmarks of {chip.name}") as progress:
        for done, name in enumerate(names):
            progress.step(done, len(names), f"{name} on {chip.name}")
            for row, value in BENCHES[name].measure(chip).items():
                figure = PUBLISHED.get(row, {}).get(chip.name)
                rows.append(Row(name, row, value, figure, REASONS.get(row, {}).get(chip.name, "")))
    return rows


def as_json(chip: Chip, rows: Sequence[Row]) -> dict[str, Any]:
    """Plain data; published is [low, high]."""
    entries = []
    for row in rows:
        entry: dict[str, Any] = {"bench": row.bench, "name": row.name, "value": row.value, "unit": unit(row.name)}
        if row.figure is not None:
            entry |= {"published": [row.figure.low, row.figure.high], "source": row.figure.source}
        entries.append(entry | {"ratio": row.ratio, "within": row.within, "verdict": row.verdict})
    return {"schema": "decodelab.microbench/1", "chip": chip.name, "chip_hash": chip.hash, "tolerance": TOLERANCE,
            "rows": entries}


def unit(name: str) -> str:
    """The unit of a row."""
    return next(unit for start, unit in UNITS.items() if name.startswith(start))


UNITS = {"l2 knee": "of the L2", "l2 bandwidth": "B/cycle/SM", "bandwidth": "% of peak", "graph": "us", "stream": "us",
         "grid": "us", "bulk latency": "cycles", "bulk": "GB/s", "": "cycles"}


def as_text(chip: Chip, rows: Sequence[Row]) -> str:
    """The screen: one line a figure."""
    from tools.report import table

    cells = []
    for row in rows:
        figure = row.figure
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        cells.append([row.name, f"{row.value:.4g}", "" if figure is None else figure.told, unit(row.name), ratio,
                      row.verdict, "" if figure is None else figure.source])
    known = [row for row in rows if row.within is not None]
    good = sum(bool(row.within) for row in known)
    head = f"{chip.name}: {good} of {len(known)} published figures within {TOLERANCE:.0%}"
    return f"{head}\n\n" + table(cells, ["what", "emulated", "published", "unit", "ratio", "verdict", "source"])


def listings(only: Sequence[str]) -> str:
    """The kernels of the benches as assembly, each once."""
    users: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for name in chosen(only):
        for kernel in BENCHES[name].kernels():
            users.setdefault(kernel.name, []).append(name)
            texts[kernel.name] = kernel.listing()[0]
    return "\n\n".join("\n".join([f"; used by {', '.join(users[name])}", *text]) for name, text in texts.items())
