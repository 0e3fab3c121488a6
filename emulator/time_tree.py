"""The time tree of a step: token, layer, kernel (LPU: graph node), cause. Leaves exclude each other and add up to the
step's cycles, exactly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emulator.accounting import GPU_REASONS, reason_index, shares

ROOT = "token"
LAUNCH, NO_WARP = (GPU_REASONS[reason_index(GPU_REASONS, name)].name for name in ("launch", "no_warp"))
WORDS = {reason.name: reason.words for reason in GPU_REASONS}


@dataclass(frozen=True)
class Leaf:
    """Cycles of one cause in one kernel of one layer. path: token, layer, kernel, cause; what belongs to no layer has
    its own name in the layer's place. sampled: not run itself, a layer of equal shape stands for it."""

    path: tuple[str, ...]
    cycles: int
    sampled: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        found: dict[str, Any] = {"path": list(self.path), "cycles": self.cycles}
        return found | {"sampled": True} if self.sampled else found


def place_of_node(node: str) -> tuple[str, str]:
    """(layer, node within it) of a graph node: "layers.3.qkv" -> ("layer 3", "qkv"); what is in no layer twice."""
    found = re.fullmatch(r"layers\.(\d+)\.(.+)", node)
    return (f"layer {found[1]}", found[2]) if found else (node or "program", node or "program")


def gpu_tree(kernels: Sequence[Mapping[str, Any]]) -> list[Leaf]:
    """Leaves of a GPU's launches in their order.

    A kernel's cycles are divided by largest remainder in proportion: first between SMs with a CTA and those without
    (waves and tails), then the former among the reasons of their sub-cores. A sub-core that no warp was given has no
    say: it keeps nobody waiting. The gap before a kernel is a leaf of its own. A kernel that stands for several layers
    gives each of them the same leaves, the first of them its own and the others sampled ones.
    """
    leaves: list[Leaf] = []
    for record in kernels:
        duration = record["end"] - record["first_cta"]
        parts = {LAUNCH: record["gap"]} if record["gap"] else {}
        active = record["active_sm_cycles"]
        split = shares(duration, {NO_WARP: record["sm_cycles"] - active, "active": active})
        # what the table calls launch lies before the kernel: it is the gap, and no part of its duration
        parts |= shares(split.pop("active", 0), {name: count for name, count in record["reasons"].items()
                                                 if count and name not in (LAUNCH, NO_WARP)})
        parts |= split
        if sum(parts.values()) != record["gap"] + duration:
            raise AssertionError(f"kernel {record['kernel']} ran {duration} cycles, and no sub-core accounts for them")
        layer, _ = place_of_node(record["node"] or record["kernel"])
        for n in range(record["times"]):
            leaves += [Leaf((ROOT, _later(layer, n), _kernel_name(record), WORDS[name]), cycles, n > 0)
                       for name, cycles in parts.items() if cycles]
    return merged(leaves)


def _kernel_name(record: Mapping[str, Any]) -> str:
    """A kernel with its graph node where the name does not tell it: an all-reduce comes after o and after down."""
    node, kernel = place_of_node(record["node"] or record["kernel"])[1], str(record["kernel"])
    return kernel if node in kernel else f"{node} {kernel}"


def _later(layer: str, n: int) -> str:
    """The n-th layer after one; what is in no layer runs once."""
    found = re.fullmatch(r"layer (\d+)", layer)
    return f"layer {int(found[1]) + n}" if found else layer


def merged(leaves: Iterable[Leaf]) -> list[Leaf]:
    """Leaves with one of a path, in the order of their first; layers in their order among each other."""
    cycles: dict[tuple[tuple[str, ...], bool], int] = {}
    for leaf in leaves:
        key = (leaf.path, leaf.sampled)
        cycles[key] = cycles.get(key, 0) + leaf.cycles
    return in_order([Leaf(path, count, sampled) for (path, sampled), count in cycles.items()])


def in_order(leaves: Sequence[Leaf]) -> list[Leaf]:
    """Leaves with the layers sorted, in the place where the first layer stands; the rest stays as it is."""
    def number(leaf: Leaf) -> int | None:
        found = re.fullmatch(r"layer (\d+)", leaf.path[1])
        return int(found[1]) if found else None

    numbers = [number(leaf) for leaf in leaves]
    layered = [at for at, n in enumerate(numbers) if n is not None]
    if not layered:
        return list(leaves)
    inside = sorted((leaves[at] for at in layered), key=lambda leaf: number(leaf) or 0)
    first = layered[0]
    outside = [(at, leaf) for at, leaf in enumerate(leaves) if numbers[at] is None]
    return [leaf for at, leaf in outside if at < first] + inside + [leaf for at, leaf in outside if at > first]


def check_tree(leaves: Sequence[Leaf], cycles: int) -> list[Leaf]:
    """The leaves, when they add up to the step's cycles and none is negative; else AssertionError."""
    total = sum(leaf.cycles for leaf in leaves)
    if total != cycles or min((leaf.cycles for leaf in leaves), default=0) < 0:
        raise AssertionError(f"the time tree's leaves add up to {total} of {cycles} cycles")
    return list(leaves)


def cycles_by(leaves: Iterable[Leaf], key: Callable[[Leaf], str]) -> dict[str, int]:
    """Cycles summed by what `key` says of a leaf, in the order of the first of each."""
    found: dict[str, int] = {}
    for leaf in leaves:
        found[key(leaf)] = found.get(key(leaf), 0) + leaf.cycles
    return found
