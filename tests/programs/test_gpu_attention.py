"""Decode attention on a GPU: values against float64 for every way to cut it, the twin, the planners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from emulator.chip import Chip, load_chip
from emulator.run import load
from isa import formats
from programs.gpu.attention_calls import call_candidates, heuristic_splits
from programs.gpu.attention_plan import AttentionPlan, plan_attention
from programs.gpu.lone_attention import attention_program, page_table
from programs.gpu.plan import Limits

LIBRARY = {"paged": True, "combine_warps": 1, "combine_ahead": 1, "copies": 4}

# batch, KV heads, query heads a KV head, head dimension, positions, row warps, key warps, keys, slots, keys a CTA
CUTS = [
    (1, 1, 4, 64, 64, 1, 4, 16, 2, 64),  # one tile, padded rows, every warp its own keys
    (2, 2, 4, 128, 200, 1, 4, 32, 2, 128),  # a last tile in which some warps have no key
    (1, 1, 24, 64, 300, 2, 2, 32, 2, 64),  # warps that share heads and keys
    (1, 1, 32, 128, 500, 2, 1, 128, 1, 256),  # K and V in turn in one slot
    (1, 2, 48, 128, 333, 4, 2, 64, 2, 512),  # 64 rows for 48 heads, no split
    (1, 1, 128, 128, 150, 8, 1, 64, 2, 128),
    (1, 1, 12, 96, 333, 1, 2, 32, 2, 64),  # copies of 32 x 16 bytes do not end with a key
    (3, 1, 2, 16, 70, 1, 1, 16, 2, 80),  # a split that is no power of two
    (1, 1, 3, 48, 200, 1, 2, 16, 3, 256),  # three slots, refilled
    (1, 1, 16, 128, 1000, 1, 1, 128, 1, 512),
    (1, 1, 20, 256, 100, 2, 1, 16, 2, 64),  # q is read again for every tile
    (2, 3, 1, 64, 250, 4, 1, 128, 1, 384),  # 64 rows for one head
]


def filled(plan: AttentionPlan, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(region without the last position, q, K, V); q in f16, K and V in f16 or e4m3."""
    form = "e4m3" if plan.kv_bytes == 1 else "f16"

    def values(form: str, *shape: int) -> np.ndarray:
        return formats.decode(formats.encode(rng.standard_normal(shape), form), form).astype(np.float64)

    q = values("f16", plan.batch, plan.heads, plan.head_dim)
    keys, vals = (values(form, plan.batch, plan.kv_heads, plan.context, plan.head_dim) for _ in range(2))
    region = np.zeros(plan.region_bytes, dtype=np.uint8)
    cache = (plan.batch, plan.kv_heads, plan.capacity, plan.dim)
    for at, array, shape, stored in ((0, q, (plan.batch, plan.heads, plan.dim), "f16"),
                                     (plan.k_at, keys[:, :, :-1], cache, form),
                                     (plan.v_at, vals[:, :, :-1], cache, form)):
        words = np.zeros(shape, dtype=np.uint8 if stored == "e4m3" else np.uint16)
        words[tuple(slice(0, size) for size in array.shape)] = formats.encode(array, stored)
        region[at:at + words.nbytes] = words.reshape(-1).view(np.uint8)
    return region, q, keys, vals


def error(chip: Chip, plan: AttentionPlan) -> float:
    """Largest difference from float64; the last position's K and V come from the append kernel."""
    region, q, keys, values = filled(plan, np.random.default_rng(3))
    if plan.paged:
        size = plan.batch * plan.kv_stride
        table = page_table(plan, shuffled=True)[:, :plan.capacity // 16]
        for at in (plan.k_at, plan.v_at):
            blocks = region[at:at + size].reshape(plan.batch, plan.kv_heads, -1, 16, plan.row_bytes)
            pages = np.zeros((plan.batch * plan.capacity // 16, 16, plan.kv_heads, plan.row_bytes), dtype=np.uint8)
            pages[table] = blocks.transpose(0, 2, 3, 1, 4)
            region[at:at + size] = pages.reshape(-1)
    machine = load(attention_program(chip, plan, "e4m3" if plan.kv_bytes == 1 else "f16", region, shuffled=True), chip)
    new = np.zeros((plan.batch, 2, plan.kv_heads, plan.dim))
    new[:, 0, :, :plan.head_dim], new[:, 1, :, :plan.head_dim] = keys[:, :, -1], values[:, :, -1]
    machine.write("new", new.reshape(-1, plan.dim))
    if plan.copies > 1:
        query = np.zeros((plan.batch * plan.heads, plan.dim))
        query[:, :plan.head_dim] = q.reshape(-1, plan.head_dim)
        machine.write("query", query)
    machine.step()
    shared = plan.heads // plan.kv_heads
    scores = np.einsum("bhd,bhld->bhl", q, np.repeat(keys, shared, 1)) / np.sqrt(plan.head_dim)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = np.einsum("bhl,bhld->bhd", weights / weights.sum(axis=-1, keepdims=True), np.repeat(values, shared, 1))
    return float(np.abs(machine.read("attention").reshape(expected.shape) - expected).max())


@pytest.mark.parametrize("cut", CUTS)
def test_attention_agrees_with_float64(cut: tuple) -> None:
    assert error(load_chip("h100_sxm"), AttentionPlan(*cut)) < 2e-3


@pytest.mark.parametrize("cut", CUTS)
def test_attention_on_pages_agrees_with_float64(cut: tuple) -> None:
    assert error(load_chip("h100_sxm"), AttentionPlan(*cut, **LIBRARY)) < 2e-3


def of_bytes(cut: tuple) -> AttentionPlan:
    """A cut for K and V of 8 bits, in pages."""
    return AttentionPlan(*cut, kv_bytes=1, paged=True)


@pytest.mark.parametrize("plan", [plan for plan in map(of_bytes, CUTS) if plan.piece % plan.pattern_keys == 0])
def test_attention_with_bytes_of_k_and_v_agrees_with_float64(plan: AttentionPlan) -> None:
    """e4m3 numbers, subnormal ones too, are exact as f16: the error is that of 16-bit products. Cuts whose warps
    have less than a copy of such short keys cannot be planned."""
    assert error(load_chip("h100_sxm"), plan) < 2e-3


@pytest.mark.parametrize("name", ["a100_sxm", "h100_sxm"])
@pytest.mark.parametrize("call", [(2, 2, 4, 128, 200), (3, 1, 24, 64, 70), (1, 1, 1, 128, 500), (1, 4, 1, 64, 64)])
def test_candidates_agree_with_float64(name: str, call: tuple) -> None:
    """batch, KV heads, query heads a KV head, head dimension, positions."""
    chip = load_chip(name)
    own = plan_attention(*call, Limits.of(chip))
    for plan in (*call_candidates(chip, *call), *call_candidates(chip, *call, 1), own):
        assert error(chip, plan) < 2e-3


def test_twin_and_values_take_the_same_time() -> None:
    chip = load_chip("toy_gpu")
    plan = AttentionPlan(2, 2, 3, 16, 100, 1, 2, 16, 1, 64, **LIBRARY)
    region, *_ = filled(plan, np.random.default_rng(1))
    steps = [load(attention_program(chip, plan, "f16", region), chip).step(),
             load(attention_program(chip, plan, "f16"), chip).step(),
             load(attention_program(chip, plan, "f16"), chip, engine="naive").step()]
    assert len({step.cycles for step in steps}) == 1
    assert steps[0].traffic == steps[1].traffic == steps[2].traffic


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("group", [1, 4])
def test_context_of_128k_runs(head_dim: int, group: int) -> None:
    """Each K and V is read once: their bytes, and little more."""
    chip = load_chip("h100_sxm")
    context = 131072
    for plan in (plan_attention(1, 2, group, head_dim, context, Limits.of(chip)),
                 call_candidates(chip, 1, 2, group, head_dim, context)[0]):
        step = load(attention_program(chip, plan, "bf16"), chip).step()
        assert 1.0 <= step.traffic["hbm_read"] / (4 * 2 * context * head_dim) < 1.1


def test_all_query_heads_of_a_kv_head_share_a_cta() -> None:
    """96 heads are 6 warps of 16 rows, the next power of two is 8; 256 are two CTAs of 128."""
    limits = Limits.of(load_chip("h100_sxm"))
    plan = plan_attention(1, 2, 96, 128, 64, limits)
    assert (plan.parts, plan.group, plan.row_warps, plan.heads) == (1, 96, 8, 192)
    plan = plan_attention(1, 2, 256, 128, 64, limits)
    assert (plan.parts, plan.group, plan.units) == (2, 128, 4)
    assert plan.kv_stride == 2 * 64 * 256  # the cache has two heads, however many CTAs read them


@pytest.mark.parametrize(("units", "blocks", "at_once", "splits"), [
    (110, 64, 132, 1),  # 0.8 of 132 is 105.6: busy enough
    (8, 32, 216, 16),  # 128 of 216 slots; 32 parts take two rounds of which 256 / 432 are used, the same share
    (8, 64, 216, 22),  # three tiles each: 176 of 216; 16 parts of four tiles use 128, less than 0.85 of that
    (1, 4, 132, 4),  # as many as there are tiles
])
def test_splits_by_the_flash_attention_rule(units: int, blocks: int, at_once: int, splits: int) -> None:
    assert heuristic_splits(units, blocks, at_once) == splits


def test_candidates_of_the_two_generations() -> None:
    """A100: one slot, groups swapped by copies. H100: two slots; without groups warps that share keys, too."""
    old = call_candidates(load_chip("a100_sxm"), 8, 2, 4, 128, 1024)
    assert [(p.row_warps, p.slots, p.copies, p.splits) for p in old] == [(4, 1, 4, 8)]
    assert [p.splits for p in call_candidates(load_chip("a100_sxm"), 1, 4, 1, 128, 1024)] == [8, 1]
    new = call_candidates(load_chip("h100_sxm"), 8, 2, 1, 128, 1024)
    assert {(p.slots, p.copies) for p in new} == {(2, 0)}
    assert (new[-1].row_warps, new[-1].key_warps, new[-1].tile) == (1, 4, 128)
    assert replace(new[-1], row_warps=4, key_warps=1, keys=128).tile == new[0].tile
