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
    """One input vector of the o projection.

    blocks: (V vector, its block) of every 16 lanes; pieces: query heads whose probabilities give lanes of
    it; masks: one lane mask a head, in the pieces' order.
    """

    blocks: tuple[tuple[int, int], ...]
    pieces: tuple[HeadPiece, ...]
    masks: np.ndarray
    columns: np.ndarray

    @property
    def heads(self) -> list[int]:
        """Query heads in the masks' order."""
        return [p.first + p.step * k for p in self.pieces for k in range(p.count)]


@dataclass(frozen=True)
class ValueTile:
    """Blocks of one V vector that lie on a plane together.

    rows: 16-row block of the plane -> block of the vector; products: query head -> where its product is
    wanted: (output vector, number of its mask there).
    """

    vector: int
    rows: dict[int, int]
    products: dict[int, list[tuple[int, int]]]

    def loads(self) -> list[tuple[int, int, int]]:
        """(first block of the vector, blocks, first row) of its runs."""
        runs: list[tuple[int, int, int]] = []
        for row, block in sorted(self.rows.items()):
            if runs and (row, block) == (runs[-1][2] // BLOCK + runs[-1][1], runs[-1][0] + runs[-1][1]):
                runs[-1] = (runs[-1][0], runs[-1][1] + 1, runs[-1][2])
            else:
                runs.append((block, 1, BLOCK * row))
        return runs

    def pieces(self) -> list[tuple[HeadPiece, list[tuple[int, int]]]]:
        """Heads that are fed one after the other, and where the first one's product is wanted: the others' follow."""
        found: list[tuple[HeadPiece, list[tuple[int, int]]]] = []
        for head, wanted in self.products.items():
            if found:
                piece, first = found[-1]
                step = piece.step if piece.count > 1 else head - piece.first
                if head == piece.first + step * piece.count and wanted == [(o, at + piece.count) for o, at in first]:
                    found[-1] = (HeadPiece(piece.first, step, piece.count + 1), first)
                    continue
            found.append((HeadPiece(head, 1, 1), wanted))
        return found


@dataclass(frozen=True)
class AttentionLayout:
    """Lanes of q, K, V and of the attention's output.

    A K or V vector holds `slots` whole KV heads; q vector (v, j) holds query head j of each KV head of K
    vector v in the same lanes. The output's vectors are packed block by block.
    """

    slots: int
    key_vectors: int
    group: int
    q: list[np.ndarray]  # rows of qkv, index v * group + j
    k: list[np.ndarray]
    v: list[np.ndarray]
    out: list[OutVector]
    tiles: list[ValueTile]
    head_dim: int
    kv_heads: int

    def slots_of(self, vector: int) -> int:
        """KV heads in a K vector (the last one may have fewer)."""
        return min(self.slots, self.kv_heads - vector * self.slots)


def attention_layout(c: ModelConfig, lanes: int) -> AttentionLayout:
    """Layout of a config's attention. Raises ValueError when a head is wider than a vector."""
    hd, r = c.head_dim, c.group
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
    out = _out_vectors(c, [one - c.q_size for one in k], lanes)
    tiles = _value_tiles(out, r * slots)
    return AttentionLayout(slots, vectors, r, q, k, [one + c.kv_size for one in k], out, tiles, hd, c.kv_heads)


def _out_vectors(c: ModelConfig, channels: list[np.ndarray], lanes: int) -> list[OutVector]:
    """Each full vector of V blocks serves one output vector a query head j; what is left is packed block by block.

    channels[v]: KV channels of V vector v.
    """
    every = [(v, q) for v, one in enumerate(channels) for q in range(blocks(len(one)))]
    width = lanes // BLOCK
    full = len(every) // width * width
    rows = [[(j, *block) for block in every[first : first + width]]
            for first in range(0, full, width) for j in range(c.group)]
    rest = [(j, *block) for j in range(c.group) for block in every[full:]]
    rows += [rest[first : first + width] for first in range(0, len(rest), width)]
    padded = [np.concatenate([one, np.full(-len(one) % BLOCK, -1)]) for one in channels]
    return [_out_vector(c, row, padded) for row in rows]


def _out_vector(c: ModelConfig, row: list[tuple[int, int, int]], channels: list[np.ndarray]) -> OutVector:
    """The output vector of blocks (j, V vector, block)."""
    hd, r = c.head_dim, c.group
    channel = np.concatenate([channels[v][BLOCK * q : BLOCK * (q + 1)] for _, v, q in row])
    which = np.repeat([j for j, _, _ in row], BLOCK)
    head = np.where(channel >= 0, channel // hd * r + which, -1)
    pieces, masks = [], []
    for j in sorted(set(which.tolist())):
        heads = sorted({int(h) for h in head[which == j] if h >= 0})
        if heads:
            pieces.append(HeadPiece(heads[0], r, len(heads)))
            masks += [head == h for h in heads]
    columns = np.where(channel >= 0, head * hd + channel % hd, -1)
    return OutVector(tuple((v, q) for _, v, q in row), tuple(pieces), np.array(masks), columns)


def _value_tiles(out: list[OutVector], heads: int) -> list[ValueTile]:
    """The fewest tiles that hold every output vector's blocks in their rows: vectors that want other rows, or the
    same blocks in the same rows, share one. heads: query heads of a V vector."""
    found: list[ValueTile] = []
    for o, vector in enumerate(out):
        for v in sorted({v for v, _ in vector.blocks}):
            rows = {row: q for row, (one, q) in enumerate(vector.blocks) if one == v}
            mine = [t for t in found if t.vector == v]
            tile = next((t for t in mine if all(t.rows.get(r, q) == q for r, q in rows.items())), None)
            if tile is None:
                found.append(tile := ValueTile(v, {}, {}))
            tile.rows.update(rows)
            for at, head in enumerate(vector.heads):
                if head // heads == v:
                    tile.products.setdefault(head, []).append((o, at))
    return found


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
