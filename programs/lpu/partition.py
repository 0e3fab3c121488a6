"""How a decoder layer is cut for 320-lane vectors: which lane holds what, and which tiles there are.

A linear layer becomes row tiles (output vectors) x column tiles (input vectors). A layout is an index
array per vector: the row (or column) of the matrix that each lane holds, -1 for a padding lane.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from programs.decode.stored import StoredModel
from programs.models.config import ModelConfig

BLOCK = 16  # rows that one LW loads


def natural(size: int, lanes: int, first: int = 0) -> list[np.ndarray]:
    """Consecutive elements first .. first + size - 1, `lanes` a vector."""
    return [np.arange(first + a, first + min(a + lanes, size)) for a in range(0, size, lanes)]


def blocks(count: int) -> int:
    """16-row blocks that hold `count` rows."""
    return -(-count // BLOCK)


@dataclass(frozen=True)
class HeadPiece:
    """Part of an attention output vector: query heads first, first + step, ... (count of them)."""

    first: int
    step: int
    count: int


@dataclass(frozen=True)
class OutVector:
    """One input vector of the o projection, made by one set of V rows.

    tile: V tile; loads: (first block, blocks, row) of its channels; pieces: query heads whose
    probabilities give lanes of it; masks: one lane mask a head, in the pieces' order.
    """

    tile: int
    loads: tuple[tuple[int, int, int], ...]
    pieces: tuple[HeadPiece, ...]
    masks: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class AttentionLayout:
    """Lanes of q, K, V and of the attention's output.

    A K vector holds `slots` whole KV heads; q vector (v, j) holds query head j of each KV head of K
    vector v in the same lanes. V channels are packed without gaps.
    """

    slots: int
    key_vectors: int
    group: int
    q: list[np.ndarray]  # rows of qkv, index v * group + j
    k: list[np.ndarray]
    v: list[np.ndarray]
    out: list[OutVector]
    head_dim: int
    kv_heads: int

    def slots_of(self, vector: int) -> int:
        """KV heads in a K vector (the last one may have fewer)."""
        return min(self.slots, self.kv_heads - vector * self.slots)


def attention_layout(c: ModelConfig, lanes: int) -> AttentionLayout:
    """Layout of a config's attention. Raises ValueError when a head is wider than a vector."""
    hd, r, channels = c.head_dim, c.group, c.kv_size
    if hd > lanes:
        raise ValueError(f"heads of {hd} do not fit a vector of {lanes} lanes")
    slots = min(lanes // hd, c.kv_heads)
    vectors = -(-c.kv_heads // slots)
    q, k = [], []
    d = np.arange(hd)
    for v in range(vectors):
        heads = range(v * slots, min((v + 1) * slots, c.kv_heads))
        k.append(np.concatenate([c.q_size + g * hd + d for g in heads]))
        for j in range(r):
            q.append(np.concatenate([(g * r + j) * hd + d for g in heads]))
    value = natural(channels, lanes, c.q_size + c.kv_size)
    return AttentionLayout(slots, vectors, r, q, k, value, _out_vectors(c, lanes), hd, c.kv_heads)


def _out_vectors(c: ModelConfig, lanes: int) -> list[OutVector]:
    """Full V tiles serve one output vector a query head j; what is left is packed block by block."""
    r, channels = c.group, c.kv_size
    full = channels // lanes
    found = []
    for tile in range(full):
        for j in range(r):
            every = lanes * tile + np.arange(lanes)
            found.append(_out_vector(c, tile, ((0, lanes // BLOCK, 0),), every, np.full(lanes, j)))
    rest = blocks(channels - full * lanes)
    per_vector = lanes // BLOCK
    for first in range(0, r * rest, per_vector):
        loads: list[tuple[int, int, int]] = []
        channel: list[np.ndarray] = []
        which: list[np.ndarray] = []
        at = first
        while at < min(first + per_vector, r * rest):
            j, block = divmod(at, rest)
            count = min(rest - block, first + per_vector - at)
            loads.append((block, count, BLOCK * (at - first)))
            lane = np.arange(BLOCK * count)
            c_ = full * lanes + BLOCK * block + lane
            channel.append(np.where(c_ < channels, c_, -1))
            which.append(np.full(len(lane), j))
            at += count
        found.append(_out_vector(c, full, tuple(loads), np.concatenate(channel), np.concatenate(which)))
    return found


def _out_vector(c: ModelConfig, tile: int, loads: tuple[tuple[int, int, int], ...], channel: np.ndarray,
                which: np.ndarray) -> OutVector:
    hd, r = c.head_dim, c.group
    head = np.where(channel >= 0, channel // hd * r + which, -1)
    pieces, masks = [], []
    for j in sorted(set(which.tolist())):
        heads = sorted({int(h) for h in head[which == j] if h >= 0})
        if heads:
            pieces.append(HeadPiece(heads[0], r, len(heads)))
            masks += [head == h for h in heads]
    columns = np.where(channel >= 0, head * hd + channel % hd, -1)
    return OutVector(tile, loads, tuple(pieces), np.array(masks), columns)


@dataclass(frozen=True)
class LinearPlan:
    """A linear layer in tiles. rows[n], columns[k]: indices into the matrix a lane, -1 = padding.

    order[n]: which vector of the result row tile n is, where that is not n.
    """

    name: str  # short name, e.g. "qkv"
    rows: list[np.ndarray]
    columns: list[np.ndarray]
    order: list[int] = field(default_factory=list)

    @property
    def words(self) -> int:
        """Vectors of the padded matrix (times bytes of a weight gives SRAM words)."""
        return len(self.columns) * sum(BLOCK * blocks(len(r)) for r in self.rows)


def dealt(count: int, units: int) -> list[int]:
    """Order of row tiles for units that take equal runs of them, so that results are finished in the order of the
    vectors: each unit's first tile, then each unit's second one, and so on."""
    turns = [(n - first, first) for u in range(units)
             for first, end in [(-(-count * u // units), -(-count * (u + 1) // units))] for n in range(first, end)]
    ranks = {turn: rank for rank, turn in enumerate(sorted(turns))}
    return [ranks[turn] for turn in turns]


def linear_plans(stored: StoredModel, layout: AttentionLayout, lanes: int, units: int = 0) -> dict[str, LinearPlan]:
    """Tiles of the layers' linears, and of lm_head. k and v come first: their appends take longest.

    units: matrix units whose results of o and down are sent on as soon as they are there; 0: nobody waits.
    """
    c = stored.config
    hidden = natural(c.hidden, lanes)
    gate = natural(c.ffn, lanes)
    up = natural(c.ffn, lanes, c.ffn)
    both = [tile for pair in zip(gate, up, strict=True) for tile in pair]
    order = dealt(len(hidden), units) if units else list(range(len(hidden)))
    rows = [hidden[n] for n in order]
    return {
        "qkv": LinearPlan("qkv", [*layout.k, *layout.v, *layout.q], hidden),
        "o": LinearPlan("o", rows, [o.columns for o in layout.out], order),
        "gate_up": LinearPlan("gate_up", both, hidden),
        "down": LinearPlan("down", rows, gate, order),
        "lm_head": LinearPlan("lm_head", natural(c.vocab, lanes), hidden),
    }


@dataclass(frozen=True)
class Tile:
    """Row tile n, column tile k, and its 16-row blocks."""

    n: int
    k: int
    blocks: int


def split_tiles(plan: LinearPlan, units: int) -> list[list[Tile]]:
    """Tiles of each matrix unit: runs of the row-major tile list with equal numbers of blocks."""
    tiles = [Tile(n, k, blocks(len(rows))) for n, rows in enumerate(plan.rows) for k in range(len(plan.columns))]
    total = sum(t.blocks + 1 for t in tiles)
    parts: list[list[Tile]] = [[] for _ in range(units)]
    done = 0
    for t in tiles:
        cost = t.blocks + 1
        parts[min(units - 1, (2 * done + cost) * units // (2 * total))].append(t)
        done += cost
    return parts
