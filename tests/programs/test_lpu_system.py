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
from programs.lpu.compile import Stage
from programs.lpu.kernels.network import address_maps
from programs.lpu.partition import dealt
from programs.lpu.shard import head_numbers, share, share_config, with_parts
from programs.lpu.split import balanced, choose_split, needs
from programs.lpu.system import SYSTEM, chip_groups, compile_lpu
from programs.models.checkpoint import load_model
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


@pytest.mark.parametrize(("ranks", "stages", "batch"), [(1, 2, 1), (2, 2, 2), (8, 3, 1), (4, 1, 3)])
def test_stages_hand_over_and_the_token_comes_back(tmp_path: Path, ranks: int, stages: int, batch: int) -> None:
    check_steps(stored_model(tmp_path, **ODD), ranks, stages, batch, 3)


def test_awkward_shapes_are_padded_on_every_rank(tmp_path: Path) -> None:
    check_steps(stored_model(tmp_path, **AWKWARD), 8, 1, 1, 2)


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


def test_balanced_stages_hold_whole_layers_and_none_is_fuller_than_it_must_be() -> None:
    stored = store(load_model("llama-2-70b"), SCHEMES["int8"], timing_only=True)
    need = needs(stored, G, 1, 1024, 8)
    stages = balanced(80, 72, need)
    assert [s.layers[0] for s in stages[1:]] == [s.layers[1] for s in stages[:-1]]
    assert stages[0].layers[0] == 0 and stages[-1].layers[1] == 80
    assert [s.embedding for s in stages].count(True) == 1 and stages[0].embedding and stages[-1].head
    # 80 layers on 72 stages: some stage has two; two layers are more than one with embedding or head
    assert max(need.of(s) for s in stages) == need.of(Stage((0, 2), False, False))


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-2-7b", "smollm2-135m", "qwen2.5-7b"])
def test_the_smallest_system_is_chosen_and_of_equal_ones_that_with_most_ranks(model: str) -> None:
    stored = store(load_model(model), SCHEMES["int8"], timing_only=True)
    counts = {}
    for ranks in (1, 2, 4, 8):
        try:
            counts[ranks] = choose_split(stored, G, 1, 1024, None, ranks=ranks).chips
        except CapacityError:
            continue
    chosen = choose_split(stored, G, 1, 1024, None)
    assert chosen.chips == min(counts.values())
    assert chosen.ranks == max(ranks for ranks, chips in counts.items() if chips == chosen.chips)


@pytest.mark.parametrize(("options", "words"), [
    ({"tensor_parallel": 3}, "--tensor-parallel 3: a group is 1, 2, 4 or 8 chips of one node; the nearest .* is 2"),
    ({"pipeline_parallel": 99}, "--pipeline-parallel 99: a stage holds at least one of 3 layers; the nearest .* is 3"),
    ({"chips": 5, "tensor_parallel": 2, "pipeline_parallel": 2}, "--chips 5: .* are 4 chips"),
    ({"chips": 7}, "--pipeline-parallel 7"),
])  # fmt: skip
def test_impossible_splits_name_the_nearest_one(tmp_path: Path, options: dict[str, int], words: str) -> None:
    with pytest.raises(CapacityError, match=words):
        compile_lpu(stored_model(tmp_path, **ODD), CHIP, **options)


def test_one_chip_is_refused_where_more_are_needed() -> None:
    stored = store(load_model("llama-3.1-8b"), SCHEMES["int8"], timing_only=True)
    with pytest.raises(CapacityError, match="does not fit one chip of groq_tsp_v1") as caught:
        compile_lpu(stored, CHIP, 1, 1024, True, chips=1)
    assert caught.value.chips_needed == choose_split(stored, G, 1, 1024, None).chips
