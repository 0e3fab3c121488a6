"""Where the cycles of a step went: one owner for every cycle, so that the causes add up to the total."""

from __future__ import annotations

import numpy as np

from emulator.chip import Chip
from emulator.result import StepResult
from isa.opcodes import code
from isa.program import LpuText, Program, place_of
from tools.floor import Floor

# An LPU cycle belongs to the first line that is true of it.
LPU_CAUSES = (
    ("weight load", "an LW of a weight matrix issues"),
    ("KV load", "an LW of K or V issues"),
    ("matrix", "activations enter a plane, or sums leave it"),
    ("vector", "a VXM ALU issues"),
    ("lane switch", "an SXM unit issues"),
    ("network", "a vector is between two chips"),
    ("memory", "a slice issues"),
    ("fill and drain", "nothing issues: values are on their way into a unit, or out of it"),
)
GPU_CAUSES = {  # stall reason -> its name in the table; every reason of emulator.accounting has one
    "busy": "issuing",
    "fixed_latency": "arithmetic latency",
    "global_memory": "waiting for loads",
    "shared_memory": "waiting for shared memory",
    "copy_wait": "waiting for copies",
    "mbarrier": "waiting for mbarriers",
    "unit_busy": "unit busy",
    "memory_queue": "memory queue full",
    "barrier": "barriers",
    "launch": "launch gaps",
    "no_warp": "waves and tails",
    "idle": "idle",
}


def shares(total: int, parts: dict[str, int]) -> dict[str, int]:
    """`total` divided in proportion to `parts` by largest remainder: integers that add up exactly.

    Equal remainders go to the earlier part. Empty when all parts are zero.
    """
    whole = sum(parts.values())
    if whole == 0:
        return {}
    exact = {name: divmod(total * value, whole) for name, value in parts.items()}
    result = {name: quotient for name, (quotient, _) in exact.items()}
    missing = total - sum(result.values())
    for name in sorted(exact, key=lambda name: -exact[name][1])[:missing]:
        result[name] += 1
    return result


def cycles_by_cause(program: Program, chip: Chip, step: StepResult) -> dict[str, int]:
    """Cause -> cycles of the step, adding up to its total. Causes without cycles are left out."""
    if program.dialect == "lpu":
        found = lpu_causes(program, chip, step.cycles)
    else:
        buckets = step.accounting["sub_core"]
        found = shares(step.cycles, {GPU_CAUSES[name]: cycles for name, cycles in buckets.items()})
    assert sum(found.values()) == step.cycles, "every cycle has one owner"
    return {name: cycles for name, cycles in found.items() if cycles}


def lpu_causes(program: Program, chip: Chip, cycles: int) -> dict[str, int]:
    """Owner of every cycle of an LPU step by the ordered table LPU_CAUSES, from the schedules themselves.

    On several chips a line is true of a cycle when it is true on any chip.
    """
    owner = np.full(cycles, len(LPU_CAUSES) - 1, dtype=np.int8)
    known: dict[int, list[np.ndarray]] = {}
    seen: set[tuple[int, int]] = set()
    for number, _, coordinates in program.chips:
        start = place_of(coordinates).start
        if (number, start) in seen:  # ranks that do the same in the same cycles
            continue
        seen.add((number, start))
        if number not in known:
            text = program.texts[number]
            assert isinstance(text, LpuText)
            known[number] = _cycles_of_causes(text, chip)
        for cause, at in enumerate(known[number]):
            np.minimum.at(owner, at + start, np.int8(cause))
    counts = np.bincount(owner, minlength=len(LPU_CAUSES))
    return {name: int(count) for (name, _), count in zip(LPU_CAUSES, counts)}


def _cycles_of_causes(text: LpuText, chip: Chip) -> list[np.ndarray]:
    """Cycles of a text in which each of LPU_CAUSES but the last is true."""
    from emulator.lpu.geometry import KIND_CLASS, geometry
    from tools.replay import issues

    place = geometry(chip)
    found = issues(text, chip)
    unit = np.array([KIND_CLASS[kind] for kind in place.queue_kind])[found.queue]
    loads = np.isin(found.opcode, (code("LW"), code("IW")))
    node = text.source.node[found.index]
    attention = np.array(["attention" in name for name in text.source.nodes] + [False])[node]
    sent = np.unique(found.cycle[found.opcode == code("SEND")])
    crossing = np.unique((sent[:, None] + np.arange(place.hop)[None, :]).ravel())
    wanted = (loads & ~attention, loads & attention, ~loads & (unit == "mxm"), unit == "vxm", unit == "sxm")
    return [*(np.unique(found.cycle[w]) for w in wanted), crossing, np.unique(found.cycle[unit == "mem"])]


def told_bound(floor: Floor, seconds: float) -> str:
    """What bounds a step: the floor's resource when it explains at least half of the time, else latency."""
    return floor.bound_by if floor.seconds >= 0.5 * seconds else "latency"
