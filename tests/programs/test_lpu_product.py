"""Matrix products on one LPU: values against NumPy, rates against published figures and plain arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.chip import load_chip
from emulator.lpu.engine import FastEngine
from emulator.lpu.errors import ScheduleError
from emulator.lpu.geometry import geometry
from emulator.lpu.replay import issues
from emulator.lpu.sram import Sram
from emulator.run import load
from isa.opcodes import F16, S8, code
from isa.program import LpuText, Program
from programs.errors import CapacityError
from programs.lpu.gemm import fitting_schedule
from programs.lpu.gemm_plan import Plan, Shape, Sums, pass_slots
from programs.lpu.product import product_program, read_product
from programs.lpu.skinny import skinny_program
from tools.options import load_chip_with

CHIP = load_chip("groq_tsp_v1")
G = geometry(CHIP)


def operands(m: int, n: int, k: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.default_rng([m, n, k])
    if dtype == "int8":
        return r.integers(-128, 128, (m, k)).astype(np.int8), r.integers(-128, 128, (k, n)).astype(np.int8)
    return r.standard_normal((m, k)).astype(np.float16), r.standard_normal((k, n)).astype(np.float16)


def check(program: Program, a: np.ndarray, b: np.ndarray) -> None:
    """int8: exact, sums stay below 2^24. float16: sums in fp32, tile by tile, and one rounding to fp16."""
    machine = load(program, CHIP)
    assert machine.step().cycles == program.meta["predicted_cycles"]
    found = read_product(machine)
    want = a.astype(np.float64) @ b.astype(np.float64)
    if a.dtype == np.int8:
        assert np.abs(want).max() < 2**24
        assert np.array_equal(found, want)
    else:
        tiles = -(-a.shape[1] // G.lanes)
        bound = (np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))) * tiles * 2.0**-23
        assert (np.abs(found - want) <= bound + np.maximum(np.abs(want), 2.0**-14) * 2.0**-10.99).all()


SHAPES = [
    (1, 1, 1), (1, 700, 330), (3, 17, 700), (14, 640, 1300), (20, 700, 14),  # the linear layer
    (30, 330, 700), (40, 1300, 970),  # few rows: passes wait for weights, sums take the banks in turn
    (60, 700, 1300), (333, 641, 700), (1000, 340, 650),  # gapless passes, rows dealt to several units
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_numpy(shape: tuple[int, int, int], dtype: str) -> None:
    a, b = operands(*shape, dtype)
    check(product_program(CHIP, *shape, dtype, a, b), a, b)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_more_rows_than_a_bank_holds_sums_of(dtype: str) -> None:
    """4,096 words a bank: 4,500 rows go in two runs with the same weights."""
    a, b = operands(4500, 20, 650, dtype)
    check(fitting_schedule(CHIP, 4500, 20, 650, dtype, a, b), a, b)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 400), st.integers(1, 700), st.integers(1, 1000), st.sampled_from(["int8", "float16"]))
def test_schedules_of_any_shape_run_in_the_predicted_cycles(m: int, n: int, k: int, dtype: str) -> None:
    program = product_program(CHIP, m, n, k, dtype)
    assert load(program, CHIP).step().cycles == program.meta["predicted_cycles"]


def test_values_and_timing_only_take_the_same_cycles() -> None:
    for dtype in ("int8", "float16"):
        a, b = operands(60, 400, 700, dtype)
        timed, real = product_program(CHIP, 60, 400, 700, dtype), product_program(CHIP, 60, 400, 700, dtype, a, b)
        first, second = (load(p, CHIP).step() for p in (timed, real))
        assert (first.cycles, first.traffic) == (second.cycles, second.traffic)
        assert timed.meta["timing_only"] and not real.meta["timing_only"]


@pytest.mark.parametrize("n", [1376, 1920, 2048, 2560, 3000, 3500])
def test_fp16_gemm_reaches_80_percent_of_peak(n: int) -> None:
    """[2304 x 4096] x [4096 x n], ISCA 2022 figure 13. Peak: two pairs x 320 x 320 products every 2 cycles."""
    program = product_program(CHIP, 2304, n, 4096, "float16")
    step = load(program, CHIP).step()
    least = 2304 * n * 4096 / (2 * 320 * 320 / 2)
    assert 0.8 <= least / step.cycles <= 1
    passes = 13 * min(-(-n // 320) * 2304, 8 * n)  # 13 inner tiles; either operand's tiles stay, the other streams
    assert step.cycles < passes + 400  # two pairs, two cycles a row: one cycle a row in all, and nothing but the ends
    # every weight vector once, and once more where both pairs work on the rows of one output tile
    stationary = 2304 if program.meta["transposed"] else n
    assert 2 * stationary * 4160 <= step.traffic["mxm_ingest"] <= 2 * 320 * (-(-stationary // 320) + 1) * 4160


def test_a_gapless_pass_takes_a_cycle_a_row_for_int8() -> None:
    """2,304 rows, 7 x 320 outputs, 13 inner tiles on four planes: 7 x 13 x 2304 / 4 = 52,416 row cycles."""
    step = load(product_program(CHIP, 2304, 2240, 4096, "int8"), CHIP).step()
    assert 52416 < step.cycles < 52416 + 300


def test_a_pass_of_few_rows_waits_for_its_weights() -> None:
    """13 tiles of 316 rows, 15 rows an LW: 22 LW and one IW a tile. Sums come back to their slice 8 cycles after
    they are read in column 1 (column 2: 10), and blocks are at least 8 rows."""
    plan = Plan(G, Shape(4096, 2, 4096, S8), 15, 13)
    assert (plan.lag(1), plan.lag(2)) == (8, 10)
    assert set(np.diff([p.start for p in plan.passes[0]])) == {23}
    assert set(np.diff([p.start for p in Plan(G, Shape(4096, 20, 4096, S8), 15, 13).passes[0]])) == {23}
    assert set(np.diff([p.start for p in Plan(G, Shape(4096, 2, 4096, S8), 15, 16).passes[0]])) == {18 + 1}  # 256 rows
    assert set(np.diff([p.start for p in Plan(G, Shape(4096, 70, 4096, S8), 15, 16).passes[0]])) == {70}


def test_rows_of_a_tile_are_divided_where_a_plane_would_work_alone() -> None:
    """13 tiles of 70 rows on four planes: 3 1/4 tiles each, 227.5 rows for each of 13 inner tiles, not 4 x 70."""
    plan = Plan(G, Shape(4096, 70, 4096, S8), 15, 13)
    assert [sum(s.rows for s in own) for own in plan.segments] == [227, 228, 227, 228]
    assert plan.cycles < 13 * 240 + 100


def test_tiles_that_planes_share_evenly_beat_the_fewest() -> None:
    """4,096 outputs: 13 tiles leave one plane 4 of them; 16 of 256 rows are 4 each, and load in 18 cycles, not 22."""
    program = fitting_schedule(CHIP, 16, 4096, 4096, "int8")
    assert program.tensors["c"].shape == (16 * 16, 256)


@settings(max_examples=80)
@given(st.integers(1, 300), st.integers(0, 60), st.integers(1, 40), st.integers(1, 9))
def test_sums_are_never_read_and_written_in_one_bank(rows: int, more: int, lag: int, passes: int) -> None:
    """In slot t row element t - slots is read and t - lag written: in different banks, by instructions issued in
    different slots; and no word is overwritten before it has been read."""
    slots, turns = pass_slots(4096, rows, rows + more, (lag,), passes)
    assert slots >= rows + more
    sums = Sums(4096, rows, slots, lag, turns)
    at: dict[int, int] = {}
    for p, row, address, n in sums.runs(passes):
        at.update({p * slots + row + i: address + i for i in range(n)})
    assert sorted(at) == [p * slots + row for p in range(passes) for row in range(rows)]
    held: dict[int, int] = {}
    for t in range(slots * (passes + 1) + lag):
        read, write = t - slots, t - lag
        if read in at:
            assert held[at[read]] == read
        if write in at:
            if read in at:
                assert (at[read] < 4096) != (at[write] < 4096)
            held[at[write]] = write
    assert not sums.issues_meet(passes)


def test_an_instruction_one_cycle_off_is_an_error() -> None:
    """Nothing about the schedule is taken on trust: the engine finds a READ that comes a cycle late."""
    program = product_program(CHIP, 60, 330, 700, "int8")
    text, image = program.texts[0], program.images[0]
    assert isinstance(text, LpuText)
    words = text.words.copy()
    queue = next(q for q in range(G.slices) if any(words[i] & 0xFF == code("READ")
                                                   for i in range(text.starts[q], text.starts[q + 1])))
    nop = next(i for i in range(text.starts[queue], text.starts[queue + 1]) if words[i] & 0xFF == code("NOP"))
    words[nop] += np.uint64(1 << 8)
    sram = Sram(G)
    sram.load(image)  # type: ignore[arg-type]
    with pytest.raises(ScheduleError):
        FastEngine(G, LpuText(words, text.starts, text.maps, text.source), sram).run()


@pytest.mark.parametrize(("inputs", "outputs", "share"), [
    (4096, 4096, Fraction(83, 100)), (4096, 14336, Fraction(9, 10)), (14336, 4096, Fraction(9, 10)),
])  # fmt: skip
def test_an_int8_linear_layer_keeps_the_weight_ingest_busy(inputs: int, outputs: int, share: Fraction) -> None:
    """Floor: K x N / 20,480 cycles. LW slots of four planes at least 90 % busy from the first to the last LW."""
    program = skinny_program(CHIP, S8, outputs, inputs)
    found = issues(program.texts[0], CHIP)  # type: ignore[arg-type]
    reads, writes, loads = (found.cycle[found.opcode == code(name)] for name in ("READ", "WRITE", "LW"))
    floor = Fraction(inputs * outputs, 20480)
    assert writes.max() - reads.min() + 1 <= floor / share
    assert len(loads) / (4 * (loads.max() - loads.min() + 1)) >= 0.9
    padded = -(-inputs // 320) * -(-outputs // 16)  # blocks of 16 rows, one LW each
    assert len(loads) == padded
    assert load(program, CHIP).step().cycles == program.meta["predicted_cycles"]


@pytest.mark.parametrize(("batch", "kind"), [(2, S8), (8, S8), (32, S8), (4, F16), (16, F16)])
def test_rows_of_a_batch_pause_the_weights_and_nothing_else_does(batch: int, kind: int) -> None:
    """A tile: 20 LW, then a cycle a row (fp16: two, of which the IW and LW may use the second one): 20 / (20 + d B)
    of the LW slots, less 3 % for uneven shares of the planes."""
    program = skinny_program(CHIP, kind, 4096, 4096, batch)
    found = issues(program.texts[0], CHIP)  # type: ignore[arg-type]
    loads = found.cycle[found.opcode == code("LW")]
    planes, d = (4, 1) if kind == S8 else (2, 2)
    assert len(loads) / (planes * (loads.max() - loads.min() + 1)) >= 0.97 * 20 / (20 + d * batch)
    sums = 13 * 13 * batch * 4  # a vector of four bytes for each tile and row; results and shared sums on top
    assert (found.opcode == code("WRITE")).sum() < 1.1 * sums
    assert load(program, CHIP).step().cycles == program.meta["predicted_cycles"]


def test_what_cannot_be_is_refused_with_numbers() -> None:
    with pytest.raises(CapacityError, match="take 604 MB and groq_tsp_v1 has 230.7 MB; 3 chips could hold them"):
        product_program(CHIP, 8192, 14336, 8192, "float16")
    with pytest.raises(CapacityError, match="does not fit one groq_tsp_v1: .* memory slices"):
        product_program(CHIP, 6000, 6000, 6000, "float16")
    with pytest.raises(ValueError, match="dtype bfloat16 is not multiplied by groq_tsp_v1; it takes float16, int8"):
        product_program(CHIP, 1, 1, 1, "bfloat16")


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_both_engines_run_a_product_alike(dtype: str) -> None:
    a, b = operands(40, 20, 650, dtype)
    program = product_program(CHIP, 40, 20, 650, dtype, a, b)
    fast, naive = load(program, CHIP), load(program, CHIP, engine="naive")
    one, two = fast.step(), naive.step()
    assert (one.cycles, one.traffic, one.counters) == (two.cycles, two.traffic, two.counters)
    assert np.array_equal(fast.read("c"), naive.read("c"))


def test_results_do_not_meet_what_comes_in_where_the_vxm_has_no_register_of_its_own() -> None:
    """vxm.result_column = 0: results appear where operands are taken, in the same cycle and direction."""
    chip = load_chip_with("groq_tsp_v1", ("groq_tsp_v1.vxm.result_column=0",))
    a, b = operands(300, 650, 700, "int8")
    machine = load(fitting_schedule(chip, 300, 650, 700, "int8", a, b), chip)
    machine.step()
    assert np.array_equal(read_product(machine), a.astype(np.float64) @ b.astype(np.float64))
