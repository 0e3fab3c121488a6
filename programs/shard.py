"""One rank's share of a model under tensor parallelism.

Query heads, their KV heads, feed-forward rows and the vocabulary are split; the hidden state, norms and
positions are whole on every rank. o and down then give partial sums, which the ranks add up. All shares
have the same shape (short ones end in zeros), so that one schedule or one set of kernels serves every rank.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from programs.decode.stored import StoredLinear, StoredModel, linear_shapes
from programs.errors import CapacityError
from programs.models.config import ModelConfig

RANKS = (1, 2, 4, 8)  # chips of a node that may share a layer: what is i away from rank r is rank r XOR i


def check_ranks(ranks: int, option: str = "--tensor-parallel") -> None:
    """Raises CapacityError that names the option, with the nearest number of ranks that works."""
    if ranks not in RANKS:
        nearest = min(RANKS, key=lambda r: (abs(r - ranks), r))
        raise CapacityError(f"{option} {ranks}: a group is {', '.join(map(str, RANKS[:-1]))} or {RANKS[-1]} "
                            f"chips of one node; the nearest that works is {nearest}", None)


def share_config(c: ModelConfig, ranks: int, lanes: int = 1) -> ModelConfig:
    """Config of one rank's share; its vocabulary is whole vectors of `lanes`."""
    if ranks == 1:
        return c
    keys, per_key, queries = _heads(c, ranks)
    return replace(c, heads=keys * queries, kv_heads=keys, ffn=-(-c.ffn // ranks),
                   vocab=-(-c.vocab // (ranks * lanes)) * lanes)


def _heads(c: ModelConfig, ranks: int) -> tuple[int, int, int]:
    """(KV heads a rank, ranks that share a KV head, query heads a rank has of each of its KV heads)."""
    if ranks <= c.kv_heads:
        return -(-c.kv_heads // ranks), 1, c.group
    per_key = ranks // c.kv_heads
    return 1, per_key, -(-c.group // per_key)


def head_numbers(c: ModelConfig, rank: int, ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """(query heads, KV heads) of a rank's share, -1 where a share has more room than the model has heads."""
    keys, per_key, queries = _heads(c, ranks)
    key = rank // per_key * keys + np.arange(keys)
    group = rank % per_key * queries + np.arange(queries)
    query = np.where(group < c.group, key[:, None] * c.group + group, -1)
    query[key >= c.kv_heads] = -1
    return query.ravel(), np.where(key < c.kv_heads, key, -1)


def share_shapes(stored: StoredModel, ranks: int, lanes: int = 1) -> StoredModel:
    """A rank's share without values."""
    config = share_config(stored.config, ranks, lanes)
    shapes = linear_shapes(config)
    linears = {}
    for name, one in stored.linears.items():
        out, inputs = shapes[name.rpartition(".")[2]]
        linears[name] = replace(one, out=out, inputs=inputs, values=None, scale=None, bias=None)
    return replace(stored, config=config, linears=linears, embed=None)


def share(stored: StoredModel, rank: int, ranks: int, lanes: int = 1, whole_embedding: bool = False) -> StoredModel:
    """A rank's share with its values. The embedding keeps the rank's rows of the vocabulary, or all of them."""
    if ranks == 1:
        return stored
    whole, config = stored.config, share_config(stored.config, ranks, lanes)
    heads, keys = head_numbers(whole, rank, ranks)
    ffn, words = _run(rank, config.ffn, whole.ffn), _run(rank, config.vocab, whole.vocab)
    q, k = _channels(heads, whole.head_dim), _channels(keys, whole.head_dim)
    rows = {"qkv": np.concatenate([q, _after(k, whole.q_size), _after(k, whole.q_size + whole.kv_size)]), "o": None,
            "gate_up": np.concatenate([ffn, _after(ffn, whole.ffn)]), "down": None, "lm_head": words}
    columns = {"o": q, "down": ffn}
    linears = {}
    for name, one in stored.linears.items():
        short = name.rpartition(".")[2]
        linears[name] = _part(one, rows[short], columns.get(short))
    assert stored.embed is not None
    embed = stored.embed if whole_embedding else _take(stored.embed, words)
    return replace(stored, config=config, linears=linears, embed=embed)


def with_parts(stored: StoredModel, ranks: int) -> StoredModel:
    """The whole model with `parts` as the ranks have them, for the oracle."""
    if ranks == 1:
        return stored
    c = stored.config
    heads = [_channels(head_numbers(c, rank, ranks)[0], c.head_dim) for rank in range(ranks)]
    ffn = [_run(rank, -(-c.ffn // ranks), c.ffn) for rank in range(ranks)]
    return replace(stored, parts={"o": heads, "down": ffn})


def _run(rank: int, size: int, count: int) -> np.ndarray:
    """Elements rank * size .. of `count`, -1 beyond."""
    found = np.arange(rank * size, (rank + 1) * size)
    return np.where(found < count, found, -1)


def _channels(heads: np.ndarray, head_dim: int) -> np.ndarray:
    return np.where(heads[:, None] >= 0, heads[:, None] * head_dim + np.arange(head_dim), -1).ravel()


def _after(rows: np.ndarray, first: int) -> np.ndarray:
    return np.where(rows >= 0, rows + first, -1)


def _take(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows by index, zeros where it is -1."""
    found = values[np.maximum(rows, 0)]
    found[rows < 0] = 0
    return found


def _part(one: StoredLinear, rows: np.ndarray | None, columns: np.ndarray | None) -> StoredLinear:
    values, scale, bias = one.values, one.scale, one.bias
    assert values is not None
    if rows is not None:
        values = _take(values, rows)
        scale = None if scale is None else np.where(rows >= 0, scale[np.maximum(rows, 0)], np.float32(1))
        bias = None if bias is None else _take(bias, rows)
    if columns is not None:
        values = np.ascontiguousarray(_take(np.ascontiguousarray(values.T), columns).T)
    return replace(one, out=values.shape[0], inputs=values.shape[1], values=values, scale=scale, bias=bias)
