"""How many chips a model takes, and how it is split: ranks share every layer, stages follow each other.

A tensor-parallel group of 1, 2, 4 or 8 chips of one node holds a pipeline stage: a run of the model's units
(see stage.py). Stages are cut between layers where that fills them evenly, else between attention and
feed-forward blocks, else, with one chip a stage, anywhere: inside a matrix by output rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from emulator.lpu.geometry import Geometry
from emulator.lpu.system import NODE
from programs.decode.stored import StoredModel
from programs.errors import CapacityError
from programs.lpu.stage import Piece, Stage, Units, weight_format
from programs.shard import RANKS, check_ranks, share_shapes

HEADROOM = 0.01  # share of a chip that tables, scratch and instructions need at least
EVEN = 1.25  # stages are even enough when the fullest one is at most so many times the mean


@dataclass(frozen=True)
class Split:
    """ranks: chips that share a stage; stages in the order in which a token meets them."""

    ranks: int
    stages: tuple[Stage, ...]

    @property
    def chips(self) -> int:
        return self.ranks * len(self.stages)


def choose_split(stored: StoredModel, g: Geometry, batch: int, context: int, layers: tuple[int, int] | None,
                 chips: int | None = None, ranks: int | None = None, stages: int | None = None,
                 whole_head: bool = False, more: int = 0) -> Split:
    """The split that was asked for, or else the fewest chips that hold the model, of those the one with most ranks.

    Cuts inside matrices cost links; they are made only for a number of chips or stages that is asked for, or where
    nothing else fits. whole_head: embedding and head are not cut, so that a host can read all logits. more: stages
    beyond the fewest that should do, where those turned out too tight.
    Raises CapacityError with the numbers and the nearest choice that works.
    """
    if ranks is not None:
        check_ranks(ranks)
    if chips is not None and ranks is not None and stages is not None and chips != ranks * stages:
        raise CapacityError(f"--chips {chips}: --tensor-parallel {ranks} x --pipeline-parallel {stages} are "
                            f"{ranks * stages} chips", None)
    fitter = Fitter(stored, g, batch, context, whole_head, more)
    if layers is not None:
        return fitter.one_group(layers, chips, ranks, stages)
    able = [ranks] if ranks is not None else list(RANKS)
    if chips is not None:
        able = [r for r in able if chips % r == 0 and (stages is None or chips == r * stages)]
    found: list[Split] = []
    refused: list[CapacityError] = []
    for coarse in (True, False) if chips is None and stages is None else (False,):
        for r in able if not found else ():
            wanted = stages or (chips // r if chips is not None else None)
            try:
                found.append(Split(r, tuple(fitter.stages(r, wanted, coarse))))
            except CapacityError as error:
                refused.append(error)
    if not found:
        if chips is None and ranks is None and stages is None:
            narrower = "; 8-bit weights (--arithmetic int8) take half" if weight_format(stored) == "f16" else ""
            raise CapacityError(f"{stored.name} fits no number of chips of {g.chip}: a layer's attention is never cut "
                                "but over 2, 4 or 8 chips that share a layer, and for those nothing inside a matrix, "
                                f"embedding and head included{narrower}", None)
        if refused:
            raise min(refused, key=lambda e: e.chips_needed or 1 << 30)
        raise CapacityError(f"--chips {chips} cannot be split into groups of {ranks or '1, 2, 4 or 8'} chips", None)
    return min(found, key=lambda s: (s.chips, -s.ranks))


class Fitter:
    """Looks for stages that hold a model."""

    def __init__(self, stored: StoredModel, g: Geometry, batch: int, context: int, whole_head: bool,
                 more: int = 0) -> None:
        self.more = more
        self.stored, self.g, self.batch, self.context, self.whole_head = stored, g, batch, context, whole_head
        self.usable = int(g.words * (1 - HEADROOM))
        self.known: dict[int, Units] = {}

    def units(self, ranks: int) -> Units:
        if ranks not in self.known:
            self.known[ranks] = Units(share_shapes(self.stored, ranks, self.g.lanes), self.g, self.batch, self.context)
        return self.known[ranks]

    def one_group(self, layers: tuple[int, int], chips: int | None, ranks: int | None, stages: int | None) -> Split:
        """A run of layers on one group of chips, of those that hold it the smallest one, or a larger one where `more`
        says so."""
        if stages not in (None, 1):
            raise CapacityError(f"--layers {layers[0]}:{layers[1]} runs on one group of chips, not on {stages} stages",
                                None)
        asked = ranks or chips
        if asked is not None:
            check_ranks(asked)
        able = self.groups(layers)
        if asked is None and able:
            return able[min(self.more, len(able) - 1)]
        found = next((split for split in able if split.ranks == asked), None)
        if found is None:
            share = self.units(asked or RANKS[-1])
            raise self.refusal(asked or RANKS[-1], [share.whole(layers)], able[0].ranks if able else None)
        return found

    def groups(self, layers: tuple[int, int]) -> list[Split]:
        """Every group of chips that holds a run of layers, the smallest first."""
        found = []
        for ranks in RANKS:
            try:
                stage = self.units(ranks).whole(layers)
            except CapacityError:
                continue
            if self.units(ranks).of(stage) <= self.usable:
                found.append(Split(ranks, (stage,)))
        return found

    def stages(self, ranks: int, wanted: int | None, coarse: bool = False) -> list[Stage]:
        """`wanted` stages, or the fewest that hold the model; coarse: matrices are not cut. Raises CapacityError."""
        units = self.units(ranks)
        if wanted is not None and not wired(wanted, ranks):
            raise CapacityError(f"--pipeline-parallel {wanted} with --tensor-parallel {ranks}: the last node would "
                                "hold one stage, which has no link to the first; the nearest that works is "
                                f"{wanted + 1}", None)
        total = units.of(units.whole())
        first = -(-total // self.usable)
        skip = self.more
        levels = cut_levels(units, ranks, self.whole_head)[: 2 if coarse else None]
        if max(units.of(_stage(units, a, b)) for a, b in pairwise(levels[-1])) > self.usable:  # however many stages
            raise self.refusal(ranks, [], self.fewest() if wanted is not None else None)
        found: list[Stage] = []
        for number in [wanted] if wanted is not None else range(first, 2 * first + 16):
            if not wired(number, ranks):
                continue
            for cuts in levels:
                found = balanced(cuts, number, units) or found
                worst = max((units.of(stage) for stage in found), default=0)
                even = worst * number <= EVEN * total or cuts is levels[-1]
                if len(found) == number and worst <= self.usable and even:
                    if wanted is not None or not skip:
                        return found
                    skip -= 1
                    break
        if wanted is not None and len(found) != wanted:
            raise CapacityError(f"--pipeline-parallel {wanted}: {self.stored.name} can be cut into at most "
                                f"{len(levels[-1]) - 1} stages", None)
        raise self.refusal(ranks, found, self.fewest() if wanted is not None else None)

    def fewest(self) -> int | None:
        """Chips of the smallest system that holds the whole model, None when no split does."""
        counts = []
        for ranks in RANKS:
            try:
                counts.append(ranks * len(self.stages(ranks, None, True)))
            except CapacityError:
                continue
        return min(counts, default=None)

    def longest_context(self, ranks: int, stages: list[Stage]) -> int:
        """The longest context, in 64s, with which these stages hold the model; 0: not even one of 64."""
        share = share_shapes(self.stored, ranks, self.g.lanes)

        def fits(context: int) -> bool:
            units = Units(share, self.g, self.batch, context)
            return max(map(units.of, stages)) <= self.usable

        low, high = 0, -(-self.context // 64)
        while low + 1 < high:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(64 * middle) else (low, middle)
        return 64 * low

    def refusal(self, ranks: int, found: list[Stage], needed: int | None) -> CapacityError:
        """Why these stages do not do. needed: chips that would."""
        g, units = self.g, self.units(ranks)
        count = len({piece.layer for stage in found for piece in stage.pieces}) or self.stored.config.layers
        layers = "1 layer" if count == 1 else f"{count} layers"
        number = len(found) or 1
        where = "one chip" if ranks * number == 1 else f"{ranks} x {number} chips"
        worst = max((units.of(stage) for stage in found), default=units.of(units.whole()))
        hints = [f"{needed} chip{'s' * (needed > 1)} could hold it"] if needed else []
        shorter = self.longest_context(ranks, found) if found else 0
        hints += [f"a context of {shorter:,} fits"] if shorter else []
        hint = f"; {', '.join(hints)}" if hints else ""
        return CapacityError(
            f"{self.stored.name} does not fit {where} of {g.chip}: a layer needs {units.layer:,} words a chip "
            f"({units.layer - units.cache:,} weights, {units.cache:,} KV cache for {self.batch} x {self.context} "
            f"positions), embedding and head {sum(units.table) + sum(units.head):,}; of {layers} the fullest chip "
            f"would hold {worst:,} words of {g.lanes} B = {worst * g.lanes / 1e6:,.0f} MB, and has "
            f"{g.words:,} = {g.sram_bytes / 1e6:,.1f} MB{hint}", needed)


def wired(stages: int, ranks: int) -> bool:
    """Whether consecutive stages, and the last and the first, are joined in a ring of nodes: a node that holds one
    of several stages has links on the wrong half of its chips."""
    per_node = NODE // ranks
    return ranks == NODE or stages <= per_node or stages // -(-stages // per_node) >= 2


def cut_levels(units: Units, ranks: int, whole_head: bool) -> list[list[int]]:
    """Where stages may begin and end, coarse cuts first: places in the row of all units, the ends included."""
    first, per = units.tables, units.per_layer
    end = first + units.layers * per
    last = end + units.heads
    layers = [first + per * k for k in range(1, units.layers)]
    halves = sorted(layers + [first + per * k + 1 for k in range(units.layers)])
    levels = [[0, *layers, last], [0, *halves, last]]
    if ranks == 1:
        levels.append([0, *range(first, end + 1), last] if whole_head else list(range(last + 1)))
    return levels


def balanced(cuts: list[int], stages: int, units: Units) -> list[Stage] | None:
    """`stages` runs of units between cuts, the fullest as empty as can be; None when there are too few cuts."""
    if len(cuts) - 1 < stages:
        return None
    words = [*units.table, *(units.unit * units.layers), *units.head]
    sums = [0]
    for w in words:
        sums.append(sums[-1] + w)
    at = [sums[c] for c in cuts]

    def ends(limit: int) -> list[int] | None:
        """Places in `cuts` at which stages end, each as full as it may be while later ones still get something."""
        found, here = [], 0
        for k in range(stages):
            there = here + 1
            while there < len(cuts) - (stages - k) and at[there + 1] - at[here] <= limit:
                there += 1
            if at[there] - at[here] > limit:
                return None
            found.append(there)
            here = there
        return found if here == len(cuts) - 1 else None

    low, high = 0, sums[-1]
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ends(middle) is not None else (middle, high)
    places = ends(high)
    if places is None:
        return None
    bounds = [0, *(cuts[p] for p in places)]
    return [_stage(units, a, b) for a, b in pairwise(bounds)]


def _stage(units: Units, begin: int, end: int) -> Stage:
    """The stage of units begin .. end - 1."""
    first, per = units.tables, units.per_layer
    last = first + units.layers * per
    pieces = []
    for layer in range(units.layers):
        a, b = max(begin, first + layer * per), min(end, first + (layer + 1) * per)
        if a < b:
            pieces.append(Piece(layer, a - first - layer * per, b - first - layer * per))
    tables = (min(begin, first), min(end, first))
    heads = (max(begin, last) - last, max(end, last) - last)
    return Stage(tables if tables[1] > tables[0] else (0, 0), tuple(pieces), heads if heads[1] > heads[0] else (0, 0))


__all__ = ["Split", "balanced", "choose_split", "cut_levels", "wired"]
