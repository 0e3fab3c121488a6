"""Where the cycles of a step went: one owner for every cycle, so that the causes add up to the total."""

from __future__ import annotations

from emulator.accounting import GPU_REASONS, LPU_CAUSES
from emulator.result import StepResult
from emulator.time_tree import cycles_by
from tools.floor import Floor

# Causes in the order of their tables, as a table of a step has them.
ORDER = [reason.words for reason in (*LPU_CAUSES, *GPU_REASONS)]


def cycles_by_cause(step: StepResult) -> dict[str, int]:
    """Cause -> cycles of the step, adding up to its total: the leaves of its time tree. Causes without cycles are
    left out."""
    found = cycles_by(step.time_tree, lambda leaf: leaf.path[-1])
    assert sum(found.values()) == step.cycles, "every cycle has one owner"
    return {name: found[name] for name in ORDER if name in found}


def told_bound(floor: Floor, seconds: float) -> str:
    """What bounds a step: the floor's resource when it explains at least half of the time, else latency."""
    return floor.bound_by if floor.seconds >= 0.5 * seconds else "latency"
