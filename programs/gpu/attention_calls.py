"""How serving frameworks cut a decode attention call: the candidates of `predict`.

Kernels of the two FlashAttention generations decide. Both give a CTA all query heads of a KV head, in 64 rows
whatever the group, and tiles of 128 keys; K and V lie in pages.

                        FlashAttention 2 (arXiv 2307.08691)      FlashAttention 3 (arXiv 2407.08608)
    chips               without a bulk-copy engine               with one (Hopper)
    tiles under way     one: K and V in turn                     two
    CTAs an SM          two                                      one
    combine             a warp a head, split after split         the splits shared by four warps, four under way each
    around it           groups and sequences are swapped: q      nothing
                        is copied before, q and output after

K and V of 8 bits have TensorRT-LLM's kernel for groups (XQA) on Hopper: as many rows as heads ask for, and warps that
share the keys of a tile. Calls without groups have other kernels too: FlashAttention 2's interface splits only calls
with groups, other frameworks split all; TensorRT-LLM's masked attention shares the keys of a tile among its warps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from emulator.chip import Chip
from programs.gpu.attention_plan import ROW_WARPS_MAX, ROWS, AttentionPlan, plan_attention
from programs.gpu.plan import Limits, ceil_div

TILE_KEYS = 128
ROW_WARPS = 4  # 64 rows
SPLITS_MAX = 128
GOOD = 0.85  # of the best use of the SMs: the fewest splits that reach it are taken (FlashAttention's heuristic)
BUSY = 0.8  # of the CTAs that run at once: calls with as many are not split


@dataclass(frozen=True)
class _Generation:
    slots: int
    ctas_per_sm: int
    combine_warps: int
    combine_ahead: int
    swaps: bool  # groups and sequences, by copies


_WITHOUT_BULK = _Generation(1, 2, 1, 1, True)
_WITH_BULK = _Generation(2, 1, 4, 4, False)


def call_candidates(chip: Chip, batch: int, kv_heads: int, group: int, head_dim: int, context: int,
                    kv_bytes: int = 2) -> list[AttentionPlan]:
    """Cuts that may be fastest, the likeliest first. group: query heads of a KV head. Raises PlanError."""
    limits = Limits.of(chip)
    generation = _WITH_BULK if chip["sm.bulk.engines"] else _WITHOUT_BULK
    first = _library_plan(limits, generation, batch, kv_heads, group, head_dim, context, kv_bytes)
    if first is None:
        return [plan_attention(batch, kv_heads, group, head_dim, context, limits, kv_bytes=kv_bytes)]
    units, blocks = batch * first.units, ceil_div(context, first.tile)
    at_once = limits.sms * generation.ctas_per_sm * 2 // kv_bytes
    usual = heuristic_splits(units, blocks, at_once)
    counts = [usual]
    if generation.swaps:
        counts += [1] if group == 1 else []
    else:
        counts += [max(1, min(blocks, waves * at_once // units)) for waves in (1, 2)]
    sizes = dict.fromkeys(first.tile * ceil_div(blocks, count) for count in counts)
    found = [replace(first, split=size) for size in sizes]
    if group == 1 and first.key_warps == 1 and not generation.swaps:
        keys = replace(first, row_warps=1, key_warps=ROW_WARPS, keys=first.keys // ROW_WARPS)
        found.append(replace(keys, split=keys.tile * ceil_div(blocks, usual)))
    return found


def _library_plan(limits: Limits, generation: _Generation, batch: int, kv_heads: int, group: int, head_dim: int,
                  context: int, kv_bytes: int) -> AttentionPlan | None:
    """The plan that is not split, with the largest tile that fits; None: no such CTA fits an SM."""
    parts = next(p for p in range(1, group + 1) if group % p == 0 and group // p <= ROWS * ROW_WARPS_MAX)
    rows = rows_of(group // parts)
    copies = 0
    if generation.swaps and group > 1:
        copies = 1 if batch == 1 or kv_heads == 1 else 4
    rows, key_warps = max(rows, ROW_WARPS), 1
    if kv_bytes == 1 and not generation.swaps:
        rows, key_warps = rows_of(group // parts), max(1, ROW_WARPS // rows_of(group // parts))
    tile = TILE_KEYS
    while tile >= ROWS * key_warps:
        plan = AttentionPlan(batch, kv_heads, group // parts, head_dim, context, rows, key_warps, tile // key_warps,
                             generation.slots, tile * ceil_div(context, tile), parts, True, kv_bytes, copies,
                             generation.combine_warps, generation.combine_ahead)
        if plan.fits(limits):
            return plan
        tile //= 2
    return None


def rows_of(group: int) -> int:
    """Warps of 16 rows for the query heads of a CTA: a power of two."""
    return 1 << (ceil_div(group, ROWS) - 1).bit_length()


def heuristic_splits(units: int, blocks: int, at_once: int) -> int:
    """Parts of the context: the fewest that use the SMs nearly as well as the best number (FlashAttention's rule).

    units: CTAs without a split; blocks: tiles of the context; at_once: CTAs that run side by side.
    """
    if units >= BUSY * at_once:
        return 1
    use = {}
    for splits in range(1, min(SPLITS_MAX, at_once, blocks) + 1):
        if splits == 1 or ceil_div(blocks, splits) != ceil_div(blocks, splits - 1):  # else a CTA has as much to do
            waves = units * splits / at_once
            use[splits] = waves / ceil_div(units * splits, at_once)
    best = max(use.values())
    return next(splits for splits, share in use.items() if share >= GOOD * best)
