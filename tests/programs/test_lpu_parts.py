"""Parts of the LPU compiler: layouts, reservation masks, ALU chains, memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.chip import load_chip
from emulator.lpu.geometry import geometry
from programs.errors import CapacityError
from programs.lpu import chain as vxm
from programs.lpu.board import BOTH, CHECK, EAST, MARK, WEST, Alternative, Board, Resources
from programs.lpu.chain import Leaf, cvt, f32, imm
from programs.lpu.kernels.linear import turns
from programs.lpu.kernels.state import Skew
from programs.lpu.memory import Memory
from programs.lpu.partition import BLOCK, LinearPlan, Tile, attention_layout, blocks, split_tiles
from programs.lpu.place import PlacedTile
from programs.models.config import ModelConfig

G = geometry(load_chip("groq_tsp_v1"))


def config(head_dim: int, kv_heads: int, group: int) -> ModelConfig:
    return ModelConfig("llama", 100, 64, 64, 1, kv_heads * group, kv_heads, head_dim, 64, 1e-5, 1e4)


@settings(max_examples=60)
@given(st.sampled_from([2, 8, 16, 24, 40, 64, 96, 128, 320]), st.integers(1, 12), st.integers(1, 9))
def test_attention_layouts_hold_every_element_once(head_dim: int, kv_heads: int, group: int) -> None:
    c = config(head_dim, kv_heads, group)
    layout = attention_layout(c, G.lanes)
    rows = np.concatenate([*layout.q, *layout.k, *layout.v])
    assert sorted(rows.tolist()) == list(range(c.q_size + 2 * c.kv_size))
    columns = np.concatenate([o.columns for o in layout.out])
    assert sorted(columns[columns >= 0].tolist()) == list(range(c.q_size))
    for o in layout.out:  # each lane that holds an element belongs to exactly one head's mask
        assert len(o.columns) <= G.lanes
        assert np.array_equal(o.masks.sum(axis=0), (o.columns >= 0).astype(int))
        assert sum(p.count for p in o.pieces) == len(o.masks)


@settings(max_examples=60)
@given(st.sampled_from([2, 8, 24, 40, 64, 96, 128, 192, 320]), st.integers(1, 24), st.integers(1, 9))
def test_value_tiles_have_every_output_lanes_channel_in_its_row(head_dim: int, kv_heads: int, group: int) -> None:
    c = config(head_dim, kv_heads, group)
    layout = attention_layout(c, G.lanes)
    made = {}  # (output vector, mask, lane) -> the channel in that row of the tile
    for tile in layout.tiles:
        loaded = {row // BLOCK + i: block + i for block, count, row in tile.loads() for i in range(count)}
        assert loaded == tile.rows and max(loaded) < G.lanes // BLOCK
        fed = [(piece.first + piece.step * k, [(o, at + k) for o, at in wanted])
               for piece, wanted in tile.pieces() for k in range(piece.count)]
        assert fed == list(tile.products.items())
        for head, wanted in fed:
            for o, at in wanted:
                assert layout.out[o].heads[at] == head
                for lane in np.flatnonzero(layout.out[o].masks[at]):
                    channel = layout.v[tile.vector][BLOCK * loaded[lane // BLOCK] + lane % BLOCK]
                    made[o, at, lane] = channel - c.q_size - c.kv_size
    for o, vector in enumerate(layout.out):
        for at, head in enumerate(vector.heads):
            for lane in np.flatnonzero(vector.masks[at]):  # column of o: channel of a query head
                want = head // group * head_dim + vector.columns[lane] - head * head_dim
                assert made.pop((o, at, lane)) == want
    assert not made


@pytest.mark.parametrize(("vectors", "context"), [(1, 64), (2, 1024), (7, 320), (16, 1024), (20, 330), (43, 700)])
def test_a_skewed_block_of_every_v_vector_has_a_superlane_and_words_of_its_own(vectors: int, context: int) -> None:
    skew = Skew(vectors, 16, 20, context)
    for parity in skew.parities:
        mine = range(parity, vectors, 2)
        words = [skew.word(t, v) + q for t in range(-(-context // 320)) for v in mine for q in range(16)]
        assert sorted(words) == list(range(16, skew.words(parity)))  # the first 16 are nobody's
        for block in range(20):
            target = {v: [] for v in mine}
            for first in skew.firsts:
                for superlane, word in enumerate(skew.channels(parity, first)[block]):
                    last = word + (-(-context // 320) - 1) * skew.stride(parity)
                    if word >= 0:
                        target[2 * ((word - 16) // 16) + parity].append((superlane, int(word)))
                    else:
                        assert last < 0
            assert target == {v: [((block + v) % 20, skew.word(0, v))] for v in mine}


def test_sums_that_rest_far_away_are_added_to_in_turn() -> None:
    """To column 11 and back, 2 x 11 cycles, and 4 + 3 in the VXM are more than the 21 cycles of a tile; to column 3
    and back they are not. In 9 cycles of a short tile neither comes back."""
    buffer = Memory(G, 1).buffer((0,), 20)
    whole, short = PlacedTile(Tile(0, 0, 20), buffer, 0, 20, 10), PlacedTile(Tile(0, 0, 8), buffer, 0, 8, 2)
    assert turns(G, whole, 1) == 2 and turns(G, replace(whole, rest=2), 1) == 1
    assert turns(G, short, 1) == 2
    assert turns(G, whole, 2) == 1


def test_a_head_wider_than_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="heads of 321 do not fit a vector of 320 lanes"):
        attention_layout(config(321, 1, 1), 320)


def test_tiles_are_dealt_in_runs_of_equal_work() -> None:
    plan = LinearPlan("x", [np.arange(320)] * 13, [np.arange(320)] * 45)
    parts = split_tiles(plan, 4)
    assert [t for part in parts for t in part] == [Tile(n, k, 20) for n in range(13) for k in range(45)]
    assert {len(part) for part in parts} <= {146, 147}  # 585 / 4
    assert blocks(16) == 1 and blocks(17) == 2


def test_a_value_in_flight_takes_one_invariant_on_its_way_only() -> None:
    r = Resources(G)
    board = Board(r)
    board.mark(r.flow(EAST, 3, 4, 18, 0, 1), 100)  # at column 4 in cycle 100: invariant 96
    nearer = r.flow(EAST, 3, 1, 3, 0, 1)
    beyond = r.flow(EAST, 3, 1, 5, 0, 1)
    assert board.find(nearer, [], 97).time == 97  # passes columns 1 to 3 before
    assert board.find(beyond, [], 97).time == 98  # would arrive at column 4 in cycle 100
    assert board.find(r.flow(WEST, 3, 5, 1, 0, 1), [], 97).time == 97
    assert board.find(r.flow(EAST, 4, 1, 5, 0, 1), [], 97).time == 97


def test_read_and_write_of_a_slice_meet_in_one_bank_only() -> None:
    r = Resources(G)
    board = Board(r)
    board.mark(r.read(7, 0, 0, 10), 50)
    assert board.find(r.write(7, 1, 0, 1), [], 52).time == 52
    assert board.find(r.write(7, 0, 0, 1), [], 52).time == 60
    assert board.find(r.write(7, -1, 0, 1), [], 52).time == 60  # bank not known
    assert board.find(r.read(7, 1, 0, 1), [], 52).time == 60  # one read port
    assert board.find(r.write(7, 1, 0, 1), [], 50).time == 51  # the queue issues the READ in cycle 50


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(1, 6), st.sampled_from([BOTH, CHECK, MARK])),
             max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 120), st.integers(1, 9)), max_size=12),
)
def test_the_search_finds_the_first_free_cycle(uses: list, taken: list) -> None:
    board = Board(Resources(G))
    busy = set()
    for resource, start, span in taken:
        board.mark([(resource, 0, span, BOTH)], start)
        busy |= {(resource, t) for t in range(start, start + span)}

    def free(t: int) -> bool:
        return not any((r, t + o + i) in busy for r, o, n, mode in uses if mode != MARK for i in range(n))

    found = board.find(uses, [], 0, checked=True)
    assert found.time == next(t for t in range(10_000) if free(t))
    choice = [Alternative([(0, 0, 3, BOTH)], (0,)), Alternative([(1, 0, 3, BOTH)], (1,))]
    both = board.find([], [choice, choice], 0)
    assert sorted(both.chosen) == [0, 1]  # the two choices must not take the same resource


class In(Leaf):
    def bytes(self) -> int:
        return 4


def test_a_value_that_is_needed_later_runs_through_copies() -> None:
    x, y = In(), In()
    a = f32("MUL", x, y)
    b = f32("ADD", a, imm("MULI", imm("ADDI", a, 1.0), 2.0))
    chain = vxm.arrange(G, [b], lambda leaf: EAST)
    # entry 4 + op 3, then three chained operations of 3
    assert max(s.result for s in chain.steps) == 7 + 3 * 3
    assert [s.op.name for s in chain.steps].count("ADDI") == 3  # the sum with 1 and two copies


@pytest.mark.parametrize("depth", [1, 2, 4, 7])
def test_alus_of_a_chain_reach_each_other_and_specials_are_large(depth: int) -> None:
    value = f32("MUL", In(), In())
    for k in range(depth):
        value = cvt("f32", "s32", value) if k % 2 else f32("EXP2", value)
    chain = vxm.arrange(G, [value], lambda leaf: EAST)
    ways = vxm.assignments(G, chain.signature)
    assert ways
    for alus in ways:
        assert len(set(alus)) == len(alus)
        for step, alu in zip(chain.steps, alus, strict=True):
            assert step.op.name == "MUL" or alu in G.large_alus
            assert all(G.can_chain(alus[n], alu) for kind, n in step.operands if kind == "A")


def test_memory_says_what_is_over_full() -> None:
    memory = Memory(G, 2)
    with pytest.raises(CapacityError, match="slice 3 would need 10,000 of 8,192 words"):
        memory.buffer((3,), 5000, layered=True)
    with pytest.raises(CapacityError, match="needs 730,000 SRAM words") as error:
        memory.check(720_000)
    assert error.value.chips_needed == 2
