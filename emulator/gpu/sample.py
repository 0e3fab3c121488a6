"""Which launches of a step stand for how many: layers of equal shape take equal time, so a few can stand for all."""

from __future__ import annotations

import re
from collections.abc import Sequence


def repeats(nodes: Sequence[str], sample_layers: int | None) -> list[int]:
    """How often each launch counts, by the graph node it belongs to.

    sample_layers: how many layers run, the first ones; the last of them stands for all that follow, whose
    launches count 0 times and are not run. None: everything runs. Launches of no layer always count once.
    """
    found = [re.match(r"layers\.(\d+)\.", node) for node in nodes]
    layers = [int(match[1]) if match else None for match in found]
    order = sorted({layer for layer in layers if layer is not None})
    if sample_layers is None or sample_layers >= len(order):
        return [1] * len(nodes)
    last = order[sample_layers - 1]
    stands_for = len(order) - sample_layers + 1
    return [1 if layer is None or layer < last else stands_for if layer == last else 0 for layer in layers]
