"""How many chips a model takes, and how it is split: ranks share every layer, stages follow each other.

A tensor-parallel group of 1, 2, 4 or 8 chips of one node holds a pipeline stage: a run of whole layers,
the embedding before the first one and the head after the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.lpu.geometry import Geometry
from emulator.lpu.system import NODE
from programs.decode.stored import StoredModel
from programs.errors import CapacityError
from programs.lpu.compile import Stage, stage_words
from programs.lpu.shard import RANKS, check_ranks, share_shapes

HEADROOM = 0.01  # share of a chip that tables, scratch and instructions need at least


@dataclass(frozen=True)
class Split:
    """ranks: chips that share a stage; stages in the order of the layers."""

    ranks: int
    stages: tuple[Stage, ...]

    @property
    def chips(self) -> int:
        return self.ranks * len(self.stages)


@dataclass(frozen=True)
class Need:
    """SRAM words a chip of a group needs: for a layer's weights and KV cache, for embedding and head."""

    layer: int
    cache: int
    embedding: int
    head: int

    def of(self, stage: Stage) -> int:
        count = stage.layers[1] - stage.layers[0]
        return (count * (self.layer + self.cache) + self.embedding * stage.embedding + self.head * stage.head)


def choose_split(stored: StoredModel, g: Geometry, batch: int, context: int, layers: tuple[int, int] | None,
                 chips: int | None = None, ranks: int | None = None, stages: int | None = None) -> Split:
    """The split that was asked for, or else the fewest chips that hold the model, of those the one with most ranks.

    Raises CapacityError with the numbers and the nearest choice that works.
    """
    if ranks is not None:
        check_ranks(ranks)
    if chips is not None and ranks is not None and stages is not None and chips != ranks * stages:
        raise CapacityError(f"--chips {chips}: --tensor-parallel {ranks} x --pipeline-parallel {stages} are "
                            f"{ranks * stages} chips", None)
    if layers is not None:
        return _one_group(stored, g, batch, context, layers, chips, ranks, stages)
    if chips is not None and ranks is None and stages is None:
        able = [r for r in RANKS if chips % r == 0]
    else:
        able = [ranks] if ranks is not None else list(RANKS)
    found: list[Split] = []
    refused: list[CapacityError] = []
    for r in able:
        wanted = stages if stages is not None else chips // r if chips is not None else None
        if wanted is not None and chips is not None and wanted * r != chips:
            continue
        try:
            found.append(Split(r, tuple(_stages(stored, g, batch, context, r, wanted))))
        except CapacityError as error:
            refused.append(error)
    if not found:
        if refused:
            raise min(refused, key=lambda e: e.chips_needed or 1 << 30)
        raise CapacityError(f"--chips {chips} cannot be split into groups of {', '.join(map(str, able))} chips", None)
    return min(found, key=lambda s: (s.chips, -s.ranks))


def needs(stored: StoredModel, g: Geometry, batch: int, context: int, ranks: int) -> Need:
    share = share_shapes(stored, ranks, g.lanes)
    layer, cache, embedding = stage_words(share, g, batch, context, Stage((0, 1), True, False))
    head = stage_words(share, g, batch, context, Stage((0, 1), False, True))[2]
    return Need(layer, cache, embedding, head)


def _one_group(stored: StoredModel, g: Geometry, batch: int, context: int, layers: tuple[int, int],
               chips: int | None, ranks: int | None, stages: int | None) -> Split:
    """A run of layers on one group of chips."""
    if stages not in (None, 1):
        raise CapacityError(f"--layers {layers[0]}:{layers[1]} runs on one group of chips, not on {stages} stages",
                            None)
    ranks = ranks or chips or 1
    check_ranks(ranks)
    stage = Stage(layers, False, False)
    need = needs(stored, g, batch, context, ranks)
    if need.of(stage) > _usable(g):
        raise CapacityError(_refusal(stored, g, batch, context, need, ranks, 1, need.of(stage)),
                            _fewest(stored, g, batch, context))
    return Split(ranks, (stage,))


def _usable(g: Geometry) -> int:
    return int(g.words * (1 - HEADROOM))


def _stages(stored: StoredModel, g: Geometry, batch: int, context: int, ranks: int, wanted: int | None) -> list[Stage]:
    """Whole layers dealt out to stages so that the fullest is as empty as can be. Raises CapacityError."""
    count, need, usable = stored.config.layers, needs(stored, g, batch, context, ranks), _usable(g)
    if wanted is not None:
        if not 1 <= wanted <= count:
            raise CapacityError(f"--pipeline-parallel {wanted}: a stage holds at least one of {count} layers; the "
                                f"nearest that works is {min(max(wanted, 1), count)}", None)
        if not wired(wanted, ranks):
            raise CapacityError(f"--pipeline-parallel {wanted} with --tensor-parallel {ranks}: the last node would "
                                "hold one stage, which has no link to the first; the nearest that works is "
                                f"{wanted + 1}", None)
    for number in [wanted] if wanted is not None else range(1, count + 1):
        if not wired(number, ranks):
            continue
        stages = balanced(count, number, need)
        worst = max(need.of(stage) for stage in stages)
        if worst <= usable:
            return stages
    raise CapacityError(_refusal(stored, g, batch, context, need, ranks, wanted, worst),
                        _fewest(stored, g, batch, context) if wanted is not None else None)


def wired(stages: int, ranks: int) -> bool:
    """Whether consecutive stages, and the last and the first, are joined in a ring of nodes: a node that holds one
    of several stages has links on the wrong half of its chips."""
    per_node = NODE // ranks
    return ranks == NODE or stages <= per_node or stages // -(-stages // per_node) >= 2


def balanced(layers: int, stages: int, need: Need) -> list[Stage]:
    """Contiguous runs of layers, the fullest stage as empty as can be."""
    def cut(limit: int) -> list[Stage] | None:
        """Stages of at most `limit` words, each as full as it may be while later ones still get a layer."""
        found: list[Stage] = []
        at = 0
        for k in range(stages):
            first, last = k == 0, k == stages - 1
            room = limit - need.embedding * first - need.head * last
            most = min(room // (need.layer + need.cache), layers - at - (stages - 1 - k))
            if most < 1:
                return None
            end = layers if last else at + most
            if end - at > most:
                return None
            found.append(Stage((at, end), first, last))
            at = end
        return found

    low, high = 0, need.of(Stage((0, layers))) + 1
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cut(middle) is not None else (middle, high)
    stages_found = cut(high)
    assert stages_found is not None
    return stages_found


def _fewest(stored: StoredModel, g: Geometry, batch: int, context: int) -> int | None:
    """Chips of the smallest system that holds the whole model, None when no split of whole layers does."""
    counts = []
    for ranks in RANKS:
        try:
            counts.append(ranks * len(_stages(stored, g, batch, context, ranks, None)))
        except CapacityError:
            continue
    return min(counts, default=None)


def _refusal(stored: StoredModel, g: Geometry, batch: int, context: int, need: Need, ranks: int, stages: int | None,
             worst: int) -> str:
    c = stored.config
    where = "one chip" if ranks * (stages or 1) == 1 else (
        f"{ranks} x {stages} chips" if stages else f"stages of {ranks} chip{'s' * (ranks > 1)}")
    return (f"{stored.name} does not fit {where} of {g.chip}: a layer needs {need.layer + need.cache:,} words a chip "
            f"({need.layer:,} weights, {need.cache:,} KV cache for {batch} x {context} positions), embedding and head "
            f"{need.embedding + need.head:,}; of {c.layers} layers the fullest chip would hold {worst:,} words of "
            f"{g.lanes} B = {worst * g.lanes / 1e6:,.0f} MB, and has {g.words:,} = {g.sram_bytes / 1e6:,.1f} MB")


__all__ = ["Split", "balanced", "choose_split", "needs", "wired"]
