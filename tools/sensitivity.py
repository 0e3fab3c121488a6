"""How far a token's time moves with each number of a chip that is not public.

Every assumed number with a range is set to both ends of it, the program is compiled for that chip and run
timing only. The split of the model over chips stays that of the default, so that like is compared with like.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tools.jobs import JobFailed, announce_compilation, run_jobs
from tools.measure import Job
from tools.options import load_chip_with
from tools.report import seconds, table

if TYPE_CHECKING:
    from emulator.chip import Chip

LINKS = "c2c."  # numbers that one chip alone has no use for
# A number that cannot go this way alone: the other one goes along as far as it must.
FOLLOWS = {"mxm.column": "stream.edge_column"}  # values fall off behind the MXM, not before it

SMALL = 0.0005  # of the default: a change below it is told in cycles


@dataclass
class End:
    """One end of a number's range, or several numbers set together: cycles of the step, or why it is refused."""

    values: dict[str, int]
    cycles: int | None = None
    error: str | None = None

    def change(self, default: int) -> float | None:
        """How much longer the step is than the default one, as a share."""
        return None if self.cycles is None else (self.cycles - default) / default


@dataclass
class Swept:
    """A number of the chip file and what its two ends do."""

    key: str
    unit: str
    value: int
    low: End
    high: End

    def effect(self, default: int) -> float:
        """The larger change of the two."""
        return max((abs(c) for end in (self.low, self.high) if (c := end.change(default)) is not None), default=0.0)


@dataclass
class Sensitivity:
    """All of it. default: cycles; together: name -> several numbers at once; unused: keys that one chip alone has
    no use for; head: what was measured."""

    head: dict[str, Any]
    clock_hz: int
    default: int
    numbers: list[Swept]
    together: dict[str, End] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def swept_numbers(chip: Chip, only: Iterable[str] = ()) -> list[Swept]:
    """Assumed numbers with a range, or those named. Raises ValueError for one that has none, ChipError for an
    unknown one."""
    for key in only:
        chip[key]
        number = chip.numbers[key]
        if number.status != "assumed" or number.range is None:
            why = "was set with --set" if number.source == "user" else f"is {number.status}, without a range"
            raise ValueError(f"--number {key}: it {why}; decodelab chips {chip.name} shows which are assumed with one")
    found = []
    for key, number in chip.numbers.items():
        if number.status == "assumed" and number.range is not None and (not only or key in only):
            low, high = (int(end) for end in number.range)
            found.append(Swept(key, number.unit, int(number.value), End({key: low}), End({key: high})))
    return found


def settings_of(chip: Chip, values: dict[str, int]) -> tuple[str, ...]:
    """--set values for these numbers, and for those that must go along."""
    wanted = dict(values)
    for key, other in FOLLOWS.items():
        if key in values:
            wanted[other] = max(values[key], wanted.get(other, int(chip[other])))
    return tuple(f"{chip.name}.{key}={value}" for key, value in wanted.items())


def measure_sensitivity(job: Job, only: Sequence[str] = ()) -> Sensitivity:
    """The token time of a timing-only job at every end. Raises ValueError where the job itself is impossible."""
    chip = load_chip_with(job.chip, job.settings)
    if chip.kind != "lpu":
        raise ValueError(f"--chip {chip.name} is a GPU: its assumed numbers have no ranges to sweep yet; give an LPU")
    numbers = swept_numbers(chip, only)
    if not numbers:
        raise ValueError(f"{chip.name} has no assumed number with a range: nothing to sweep")
    cold = announce_compilation({chip.kind})
    base = run_jobs([job], f"{job.model} on {chip.name}", cold)[0]
    if "error" in base:
        raise ValueError(base["error"])
    fixed = replace(job, system_chips=None, tensor_parallel=base["tensor_parallel"],
                    pipeline_parallel=base["pipeline_parallel"])
    default = base["cycles_per_token"]
    unused = [n.key for n in numbers if base["chips_used"] == 1 and n.key.startswith(LINKS)]
    numbers = [n for n in numbers if n.key not in unused]
    head = {key: base[key] for key in ("model", "chip", "chip_hash", "arithmetic", "batch", "context", "layers",
                                       "chips_used", "tensor_parallel", "pipeline_parallel", "system")}
    found = Sensitivity(head, chip.clock_hz, default, numbers, unused=unused)
    _run(chip, fixed, default, [end for n in numbers for end in (n.low, n.high)])
    found.together = _together(numbers, default)
    _run(chip, fixed, default, found.together.values())
    found.numbers.sort(key=lambda n: (-n.effect(default), n.key))
    return found


def _run(chip: Chip, job: Job, default: int, ends: Iterable[End]) -> None:
    """Fill in what every end does; one that changes no value needs no run."""
    waiting = []
    for end in ends:
        if all(int(chip[key]) == value for key, value in end.values.items()):
            end.cycles = default
        else:
            waiting.append(end)
    jobs = [replace(job, settings=(*job.settings, *settings_of(chip, end.values))) for end in waiting]
    for end, outcome in zip(waiting, _outcomes(jobs, f"{len(jobs)} variants of {chip.name}") if jobs else ()):
        end.cycles, end.error = outcome.get("cycles_per_token"), outcome.get("error")


def _outcomes(jobs: Sequence[Job], title: str) -> list[dict[str, Any]]:
    """`run_jobs`, with what the machine refuses as an entry too: then one after the other, to know which it is."""
    try:
        return run_jobs(jobs, title)
    except JobFailed as error:
        if len(jobs) == 1:
            return [{"error": str(error)}]
        return [outcome for n, job in enumerate(jobs) for outcome in _outcomes([job], f"{title}, {n + 1}")]


def _together(numbers: Sequence[Swept], default: int) -> dict[str, End]:
    """All numbers at once, each as far as it was not refused alone."""
    low: dict[str, int] = {}
    high: dict[str, int] = {}
    fast: dict[str, int] = {}
    slow: dict[str, int] = {}
    for n in numbers:
        ends = [(end.cycles, end.values[n.key]) for end in (n.low, n.high) if end.cycles is not None]
        for values, end in ((low, n.low), (high, n.high)):
            if end.cycles is not None:
                values[n.key] = end.values[n.key]
        fast[n.key] = min([(default, n.value), *ends], key=lambda one: one[0])[1]
        slow[n.key] = max([(default, n.value), *ends], key=lambda one: one[0])[1]
    return {"all low": End(low), "all high": End(high), "all at the faster end": End(fast),
            "all at the slower end": End(slow)}


# -- shown ----------------------------------------------------------------------------------------------
def as_json(found: Sensitivity) -> dict[str, Any]:
    """Plain data; change is a share of the default."""
    def told(end: End) -> dict[str, Any]:
        if end.cycles is None:
            return {"values": end.values, "error": end.error}
        return {"values": end.values, "cycles": end.cycles, "seconds": end.cycles / found.clock_hz,
                "change": end.change(found.default)}

    numbers = [{"number": n.key, "unit": n.unit, "default": n.value, "low": told(n.low), "high": told(n.high)}
               for n in found.numbers]
    return {"schema": "decodelab.sensitivity/1", **found.head, "clock_hz": found.clock_hz,
            "default_cycles": found.default, "default_seconds": found.default / found.clock_hz, "numbers": numbers,
            "together": {name: told(end) for name, end in found.together.items()}, "unused": found.unused}


def as_text(found: Sensitivity) -> str:
    """The screen: numbers by effect, then all together, then what was refused."""
    h = found.head
    what = [f"{h['model']} on {h['chip']}", h["arithmetic"], f"batch {h['batch']}", f"context {h['context']}"]
    if h["layers"]:
        what.append(f"layers {h['layers'][0]}:{h['layers'][1]}")
    if h["chips_used"] > 1:
        what.append(f"{h['chips_used']} chips (TP {h['tensor_parallel']} x PP {h['pipeline_parallel']})")
    lines = [f"{', '.join(what)}: {_time(found, found.default)} ({found.default:,} cycles) by default", ""]
    moving = [n for n in found.numbers if n.effect(found.default) or n.low.error or n.high.error]
    rows = [[n.key, n.value, n.low.values[n.key], n.high.values[n.key], *_cells(found, n.low), *_cells(found, n.high),
             n.unit] for n in moving]
    header = ["assumed number", "default", "low", "high", "at low", "", "at high", "", "unit"]
    if rows:
        lines.append(table(rows, header))
    still = [n.key for n in found.numbers if n not in moving]
    if still:
        lines.append(f"no effect on this program: {', '.join(still)}")
    if found.unused:
        lines.append(f"not used by one chip: {', '.join(found.unused)}")
    lines += ["", table([[name, *_cells(found, end)] for name, end in found.together.items()])]
    named = [(f"{n.key} = {end.values[n.key]}", end) for n in found.numbers for end in (n.low, n.high)]
    refused = [f"refused: {name}: {end.error}" for name, end in [*named, *found.together.items()] if end.error]
    return "\n".join(lines + ([""] + refused if refused else []))


def _time(found: Sensitivity, cycles: int) -> str:
    return seconds(cycles / found.clock_hz)


def _cells(found: Sensitivity, end: End) -> list[str]:
    change = end.change(found.default)
    if end.cycles is None or change is None:
        return ["refused", ""]
    if end.cycles == found.default:
        return [_time(found, end.cycles), "same"]
    small = abs(change) < SMALL
    return [_time(found, end.cycles), f"{end.cycles - found.default:+,} cyc" if small else f"{100 * change:+.1f} %"]
