"""Programs for several LPUs: shares, splits, the exchanges, and whole steps against the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.lpu.geometry import geometry
from emulator.lpu.system import load_system
from emulator.run import load
from programs.decode.reference import Reference, logit_bound
from programs.decode.stored import SCHEMES, StoredModel, store
from programs.errors import CapacityError
from programs.lpu.kernels.network import address_maps
from programs.lpu.partition import dealt
from programs.lpu.split import EVEN, Fitter, balanced, choose_split, cut_levels
from programs.lpu.stage import Stage, Units
from programs.lpu.system import SYSTEM, chip_groups, compile_lpu
from programs.models.checkpoint import load_model
from programs.shard import head_numbers, share, share_config, share_shapes, with_parts
from tests.models import AWKWARD, random_llama

CHIP = load_chip("groq_tsp_v1")
G = geometry(CHIP)
# 5 query heads a KV head over 2 KV heads: no number of ranks but 2 divides both; FFN and vocabulary are odd.
ODD: dict[str, Any] = {
    "hidden_size": 330, "num_attention_heads": 10, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 333, "vocab_size": 1003, "num_hidden_layers": 3,
}  # fmt: skip


def stored_model(folder: Path, scheme: str = "fp16", **shape: Any) -> StoredModel:
    return store(load_model(str(random_llama(folder, **shape))), SCHEMES[scheme])


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_head_is_on_one_rank_and_beside_its_kv_head(tmp_path: Path, ranks: int) -> None:
    for shape in (AWKWARD, ODD, {}):
        c = stored_model(tmp_path / f"{len(shape)}", **shape).config
        seen = []
        for rank in range(ranks):
            query, key = head_numbers(c, rank, ranks)
            mine = share_config(c, ranks, 320)
            assert len(query) == mine.heads and len(key) == mine.kv_heads
            for slot, head in enumerate(query):
                if head >= 0:
                    assert key[slot // mine.group] == head // c.group
            seen += [h for h in query if h >= 0]
        assert sorted(seen) == list(range(c.heads))


def test_shares_add_up_to_the_whole_model(tmp_path: Path) -> None:
    """W x of o, and of down after gate and up, over all shares; lm_head row by row."""
    stored = stored_model(tmp_path, **ODD)
    c, ranks = stored.config, 4
    shares = [share(stored, r, ranks, 320) for r in range(ranks)]
    random = np.random.default_rng(1)
    whole, x = stored.linears["layers.1.o"].decoded(), random.normal(size=c.q_size)
    total = 0
    for r, one in enumerate(shares):
        heads = head_numbers(c, r, ranks)[0]
        mine = np.array([x[h * c.head_dim : (h + 1) * c.head_dim] if h >= 0 else np.zeros(c.head_dim) for h in heads])
        total = total + one.linears["layers.1.o"].decoded() @ mine.ravel()
    assert np.allclose(total, whole @ x, rtol=1e-12)
    y = random.normal(size=c.hidden)
    gate, up = np.split(stored.linears["layers.0.gate_up"].decoded() @ y, 2)
    want, total = stored.linears["layers.0.down"].decoded() @ (gate * up), 0
    for one in shares:
        gate, up = np.split(one.linears["layers.0.gate_up"].decoded() @ y, 2)
        total = total + one.linears["layers.0.down"].decoded() @ (gate * up)
    assert np.allclose(total, want, rtol=1e-12)
    logits = np.concatenate([one.linears["lm_head"].decoded() @ y for one in shares])
    assert np.allclose(logits[: c.vocab], stored.linears["lm_head"].decoded() @ y, rtol=1e-12)
    assert not logits[c.vocab :].any()


def test_finished_vectors_come_in_turn_from_every_unit() -> None:
    """7 row tiles on 4 units in runs of 2, 2, 2, 1: first those that start a run, then the second ones."""
    assert dealt(7, 4) == [0, 4, 1, 5, 2, 6, 3]
    for count in range(1, 40):
        assert sorted(dealt(count, 4)) == list(range(count))


def test_an_address_map_is_16_bits_in_the_first_two_lanes_of_each_superlane() -> None:
    out = address_maps(np.array([0x1234]), 48)
    assert out.shape == (1, 1, 48)
    assert out[0, 0, :3].tolist() == [0x34, 0x12, 0] and out[0, 0, 16:18].tolist() == [0x34, 0x12]


@pytest.mark.parametrize(("stages", "ranks"), [
    (2, 1), (8, 1), (72, 1), (9, 1), (2, 2), (10, 2), (6, 4), (5, 8), (72, 8),
])  # fmt: skip
def test_consecutive_stages_have_links_and_the_last_leads_to_the_first(stages: int, ranks: int) -> None:
    groups = chip_groups(stages, ranks)
    chips = [c for group in groups for c in group]
    assert len(groups) == stages and len(set(chips)) == len(chips)
    for group in groups:  # port i leads to rank r XOR i: a group is aligned in its node
        assert group == list(range(group[0], group[0] + ranks)) and group[0] % ranks == 0
    system = load_system(SYSTEM)
    for here, there in zip(groups, [*groups[1:], groups[0]], strict=True):
        assert system.links(here, there, max(chips) + 1)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("scheme", ["fp16", "int8", "cast8"])
def test_ranks_give_the_oracles_logits(tmp_path: Path, scheme: str, ranks: int) -> None:
    check_steps(stored_model(tmp_path, scheme, **ODD), ranks, 1, 1, 3)


@pytest.mark.parametrize(("ranks", "stages", "batch"), [
    (1, 2, 1), (2, 2, 2), (8, 3, 1), (4, 1, 3), (1, 7, 2), (1, 13, 1), (2, 5, 1),
])  # fmt: skip
def test_stages_hand_over_and_the_token_comes_back(tmp_path: Path, ranks: int, stages: int, batch: int) -> None:
    check_steps(stored_model(tmp_path, **ODD), ranks, stages, batch, 3)


def test_awkward_shapes_are_padded_on_every_rank(tmp_path: Path) -> None:
    check_steps(stored_model(tmp_path, **AWKWARD), 8, 1, 1, 2)


def test_every_unit_on_a_chip_of_its_own(tmp_path: Path) -> None:
    """A hidden state of three vectors: a stage may begin and end between rows of down, and passes everything on."""
    shape = ODD | {"hidden_size": 650, "num_hidden_layers": 1}
    stored = stored_model(tmp_path, **shape)
    units = Units(stored, G, 1, 64)
    assert (units.pairs, units.rows) == (2, 3)
    check_steps(stored, 1, len(cut_levels(units, 1, True)[-1]) - 1, 1, 2)


def check_steps(stored: StoredModel, ranks: int, stages: int, batch: int, steps: int) -> None:
    """Random tokens, then the program's own: logits inside the bound, emulated = predicted cycles."""
    program = compile_lpu(stored, CHIP, batch, 64, tensor_parallel=ranks, pipeline_parallel=stages)
    machine = load(program)
    known = with_parts(stored, ranks)
    exact, rounded = Reference(known, batch), Reference(known, batch, machine_like=True)
    tokens: list[int] = np.random.default_rng(5).integers(0, stored.config.vocab, batch).tolist()
    found, want, like = [], [], []
    for at in range(steps):
        step = machine.step(tokens if at == 0 else None)
        assert step.cycles == program.meta["predicted_cycles"]
        assert step.tokens == step.logits.argmax(axis=1).tolist()
        assert step.traffic["c2c_sent"] == step.traffic["c2c_received"] > 0
        found.append(step.logits)
        want.append(exact.step(tokens, [at] * batch))
        like.append(rounded.step(tokens, [at] * batch))
        tokens = step.tokens
    error = max(float(np.abs(a - b).max()) for a, b in zip(found, want, strict=True))
    assert error <= logit_bound(want, like)


def test_every_stage_of_a_timing_run_takes_the_cycles_of_a_run_with_values(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, **ODD)
    cycles, counters = [], []
    for timing_only in (False, True):
        machine = load(compile_lpu(stored, CHIP, 1, 64, timing_only, tensor_parallel=8, pipeline_parallel=2))
        step = machine.step([7])
        cycles.append(step.cycles)
        counters.append((step.counters, step.traffic, step.accounting))
    assert cycles[0] == cycles[1] and counters[0] == counters[1]


def test_a_cut_embedding_takes_its_addresses_from_a_token_that_nobody_knows(tmp_path: Path) -> None:
    """Tables of the embedding on two chips, timing only: the second one gets the token over a link."""
    stored = store(load_model(str(random_llama(tmp_path, **ODD | {"vocab_size": 3000, "num_hidden_layers": 1}))),
                   SCHEMES["fp16"], timing_only=True)
    stages = len(cut_levels(Units(stored, G, 1, 64), 1, True)[-1]) - 1
    split = choose_split(stored, G, 1, 64, None, ranks=1, stages=stages)
    assert [stage.tables for stage in split.stages[:2]] == [(0, 1), (1, 2)]
    program = compile_lpu(stored, CHIP, 1, 64, True, tensor_parallel=1, pipeline_parallel=stages)
    assert load(program).step([2500]).cycles == program.meta["predicted_cycles"]


def units_in_order(stages: tuple[Stage, ...], units: Units) -> list[tuple[str, int]]:
    found = []
    for stage in stages:
        found += [("table", n) for n in range(*stage.tables)]
        found += [(f"layer {p.layer}", n) for p in stage.pieces for n in range(p.start, p.end)]
        found += [("head", n) for n in range(*stage.heads)]
    return found


@pytest.mark.parametrize(("stages", "level"), [(1, 0), (4, 0), (8, 1), (11, 2), (18, 2)])
def test_stages_are_runs_of_all_units_and_none_is_fuller_than_it_must_be(stages: int, level: int) -> None:
    """Brute force over all ways to cut one unit earlier or later: none has an emptier fullest stage."""
    stored = store(load_model("tiny_kjv"), SCHEMES["fp16"])
    units = Units(stored, G, 1, 64)
    cuts = cut_levels(units, 1, False)[level]
    found = balanced(cuts, stages, units)
    assert found is not None and len(found) == stages
    every = units_in_order((units.whole(),), units)
    assert units_in_order(tuple(found), units) == every
    words = [*units.table, *(units.unit * units.layers), *units.head]
    bounds, total = [0], 0
    for stage in found:
        total += len(units_in_order((stage,), units))
        bounds.append(total)
    assert all(b in cuts for b in bounds)
    assert [sum(words[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)] == [units.of(s) for s in found]
    assert max(units.of(s) for s in found) == least_fullest([c for c in cuts], words, stages)


def least_fullest(cuts: list[int], words: list[int], stages: int) -> int:
    """The smallest possible words of the fullest of `stages` runs, by dynamic programming over all cuts."""
    best = {0: 0}  # cut -> fullest run so far
    for _ in range(stages):
        best = {c: min(max(full, sum(words[a:c])) for a, full in best.items() if a < c)
                for c in cuts if any(a < c for a in best)}
    return best[cuts[-1]]


def test_80_layers_on_72_stages_are_cut_between_attention_and_feed_forward() -> None:
    """With 8 ranks there are half as many links as ranks to the next stage, so the products of gate and up, of which
    every rank has its own, cannot leave: 8 stages have two feed-forward blocks, and fewer other things."""
    stored = store(load_model("llama-2-70b"), SCHEMES["int8"], timing_only=True)
    split = choose_split(stored, G, 1, 1024, None, ranks=8, stages=72)
    units = Units(share_shapes(stored, 8, G.lanes), G, 1, 1024)
    assert units_in_order(split.stages, units) == units_in_order((units.whole(),), units)
    assert all(p.start in (0, 1) and p.end in (1, units.per_layer) for s in split.stages for p in s.pieces)
    feed_forward = sum(units.unit[1:])
    assert max(units.of(stage) for stage in split.stages) == 2 * feed_forward + units.unit[0]


def test_32_layers_on_72_chips_are_cut_inside_matrices_and_even() -> None:
    stored = store(load_model("llama-2-7b"), SCHEMES["fp16"], timing_only=True)
    split = choose_split(stored, G, 1, 1024, None, ranks=1, stages=72)
    words = [Units(stored, G, 1, 1024).of(stage) for stage in split.stages]
    assert max(words[2:]) <= EVEN * sum(words) / 72  # but for the embedding's last tables, before the first layer
    assert any(1 < p.start for s in split.stages for p in s.pieces)


def test_with_values_embedding_and_head_are_not_cut() -> None:
    stored = store(load_model("tiny_kjv"), SCHEMES["fp16"])
    for stages in (2, 7, 11):
        split = Fitter(stored, G, 1, 64, True).stages(1, stages)
        assert split[0].tables[0] == 0 and split[-1].heads[0] == 0
        assert sum(s.heads != (0, 0) for s in split) == sum(s.tables != (0, 0) for s in split) == 1


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-2-7b", "smollm2-135m", "qwen2.5-7b"])
def test_the_smallest_system_is_chosen_and_of_equal_ones_that_with_most_ranks(model: str) -> None:
    """Matrices are not cut unless asked for: one rank a stage would hold these models on fewer chips, but slower."""
    stored = store(load_model(model), SCHEMES["int8"], timing_only=True)
    counts = {}
    for ranks in (1, 2, 4, 8):
        try:
            counts[ranks] = ranks * len(Fitter(stored, G, 1, 1024, False).stages(ranks, None, True))
        except CapacityError:
            continue
    chosen = choose_split(stored, G, 1, 1024, None)
    assert chosen.chips == min(counts.values())
    assert chosen.ranks == max(ranks for ranks, chips in counts.items() if chips == chosen.chips)


@pytest.mark.parametrize(("options", "words"), [
    ({"tensor_parallel": 3}, "--tensor-parallel 3: a group is 1, 2, 4 or 8 chips of one node; the nearest .* is 2"),
    ({"pipeline_parallel": 99}, "--pipeline-parallel 99: .* can be cut into at most 17 stages"),
    ({"chips": 5, "tensor_parallel": 2, "pipeline_parallel": 2}, "--chips 5: .* are 4 chips"),
    ({"chips": 9, "tensor_parallel": 2}, "--chips 9 cannot be split into groups of 2 chips"),
])  # fmt: skip
def test_impossible_splits_name_the_nearest_one(tmp_path: Path, options: dict[str, int], words: str) -> None:
    with pytest.raises(CapacityError, match=words):
        compile_lpu(stored_model(tmp_path, **ODD), CHIP, **options)


def test_a_context_too_long_for_the_cache_is_refused_with_the_longest_that_fits() -> None:
    """One layer of llama-3.1-8b takes 690,736 of 713,687 usable words; 22,951 are left for the cache, which takes
    18,048 at 1,024 positions."""
    stored = store(load_model("llama-3.1-8b"), SCHEMES["int8"], timing_only=True)
    with pytest.raises(CapacityError, match=r"1 x 8192 positions.*a context of ([\d,]+) fits") as caught:
        choose_split(stored, G, 1, 8192, (0, 1), chips=1)
    assert caught.value.chips_needed == 2
    longest = int(str(caught.value).rpartition("a context of ")[2].split(" ")[0].replace(",", ""))
    assert 1024 <= longest < 2048 and longest % 64 == 0
    choose_split(stored, G, 1, longest, (0, 1), chips=1)
    with pytest.raises(CapacityError):
        choose_split(stored, G, 1, longest + 64, (0, 1), chips=1)


def test_a_model_that_no_number_of_chips_holds_is_refused_with_what_would() -> None:
    """llama-3.1-70b: the attention of a layer has 151 M weights, 302 MB in fp16, embedding and head 4.2 GB."""
    model = load_model("llama-3.1-70b")
    with pytest.raises(CapacityError, match="fits no number of chips .*--arithmetic int8") as caught:
        choose_split(store(model, SCHEMES["fp16"], timing_only=True), G, 1, 1024, None)
    assert caught.value.chips_needed is None


def test_some_layers_run_on_the_smallest_group_that_holds_them() -> None:
    """One layer of llama-3.1-8b in fp16 has 218 M weights, 436 MB, where a chip has 231 MB."""
    model = load_model("llama-3.1-8b")
    for scheme, layers, chips in (("int8", (0, 1), 1), ("fp16", (0, 1), 2), ("fp16", (0, 3), 8)):
        assert choose_split(store(model, SCHEMES[scheme], timing_only=True), G, 1, 64, layers).chips == chips
    wide = store(model, SCHEMES["fp16"], timing_only=True)
    with pytest.raises(CapacityError, match="of 1 layer the fullest chip .*; 2 chips could hold it"):
        choose_split(wide, G, 1, 64, (0, 1), chips=1)
    with pytest.raises(CapacityError, match="does not fit 8 x 1 chips .*of 5 layers"):
        choose_split(wide, G, 1, 64, (0, 5))


def test_one_chip_is_refused_where_more_are_needed() -> None:
    stored = store(load_model("llama-3.1-8b"), SCHEMES["int8"], timing_only=True)
    with pytest.raises(CapacityError, match="does not fit one chip of groq_tsp_v1") as caught:
        compile_lpu(stored, CHIP, 1, 1024, True, chips=1)
    assert caught.value.chips_needed == choose_split(stored, G, 1, 1024, None).chips
