"""Matrix products over several LPUs: values against NumPy, times against a published figure and plain arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.chip import Chip, load_chip
from emulator.lpu.errors import ScheduleError
from emulator.lpu.geometry import geometry
from emulator.lpu.replay import issues
from emulator.run import load
from isa.opcodes import code
from isa.program import LpuText, Program
from programs.errors import CapacityError
from programs.lpu.shared_product import part, read_shared_product, shared_product
from tests.programs.test_lpu_product import operands
from tools.options import load_chip_with

CHIP = load_chip("groq_tsp_v1")
G = geometry(CHIP)


def check(program: Program, a: np.ndarray, b: np.ndarray, chip: Chip = CHIP) -> None:
    """int8: exact, sums stay below 2^24. float16: fp32 sums of tiles and of chips, and one rounding to fp16."""
    machine = load(program, chip)
    assert machine.step().cycles == program.meta["predicted_cycles"]
    found, want = read_shared_product(machine), a.astype(np.float64) @ b.astype(np.float64)
    if a.dtype == np.int8:
        assert np.abs(want).max() < 2**24
        assert np.array_equal(found, want)
    else:
        sums = -(-a.shape[1] // G.lanes) + 2 * program.meta["width"]  # each share ends in a tile of its own
        bound = (np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))) * sums * 2.0**-23
        assert (np.abs(found - want) <= bound + np.maximum(np.abs(want), 2.0**-14) * 2.0**-10.99).all()


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize(("chips", "width", "shape"), [
    (2, 2, (61, 340, 650)), (4, 2, (60, 700, 1300)), (4, 4, (61, 700, 1300)), (8, 4, (200, 650, 1400)),
    (4, 1, (50, 700, 330)), (2, 2, (3, 5, 7)), (4, 4, (9, 30, 50)), (8, 1, (2, 30, 700)), (8, 2, (10, 2, 330)),
])  # fmt: skip
def test_products_are_those_of_numpy(chips: int, width: int, shape: tuple[int, int, int], dtype: str) -> None:
    a, b = operands(*shape, dtype)
    check(shared_product(CHIP, *shape, dtype, chips, a, b, (width,)), a, b)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 400), st.integers(1, 700), st.integers(1, 2000), st.sampled_from(["int8", "float16"]),
       st.sampled_from([(2, 2), (4, 2), (4, 4)]))
def test_schedules_of_any_shape_run_in_the_predicted_cycles(m: int, n: int, k: int, dtype: str,
                                                            split: tuple[int, int]) -> None:
    program = shared_product(CHIP, m, n, k, dtype, split[0], widths=split[1:])
    assert load(program, CHIP).step().cycles == program.meta["predicted_cycles"]


@pytest.mark.parametrize("setting", ["c2c.slot_cycles=23", "c2c.slot_cycles=25", "c2c.overhead_cycles=0",
                                     "vxm.op_cycles=5", "mxm.latency_cycles=64", "mxm.f16_feed_cycles=1",
                                     "vxm.result_column=0"])
def test_schedules_follow_the_chips_numbers(setting: str) -> None:
    chip = load_chip_with("groq_tsp_v1", (f"groq_tsp_v1.{setting}",))
    a, b = operands(61, 700, 1300, "float16")
    check(shared_product(chip, 61, 700, 1300, "float16", 4, a, b, (4,)), a, b, chip)


def test_values_and_timing_only_take_the_same_cycles() -> None:
    """Timing only, the four equal chips are run once."""
    a, b = operands(60, 400, 700, "float16")
    timed = shared_product(CHIP, 60, 400, 700, "float16", 4, widths=(4,))
    real = shared_product(CHIP, 60, 400, 700, "float16", 4, a, b, (4,))
    first, second = load(timed, CHIP).step(), load(real, CHIP).step()
    assert (first.cycles, first.traffic) == (second.cycles, second.traffic)
    assert len(timed.images) == 1 and len(real.images) == 4


def test_the_published_distributed_gemm() -> None:
    """[800 x 32576] x [32576 x 8192] fp16 on 8 chips: 330 us, ISCA 2022 figure 14 (graph reading), within 15 %.

    Groups of four chips divide K: 26 inner tiles and 13 output tiles a chip, 800 rows at a row and cycle (two pairs
    of planes, two cycles a row) are 270,400 cycles. The links carry 3/4 of 800 x 13 sums of four byte planes, a
    third over each of three: 10,400 x 24 = 249,600 cycles, so they hide behind the planes; at the end stays what
    crosses after the last pass: the two last segments' sums, a fraction of one tile's.
    """
    program = shared_product(CHIP, 800, 8192, 32576, "float16", 8)
    step = load(program, CHIP).step()
    assert program.meta["width"] == 4
    assert 0.85 * 330e-6 <= step.cycles / CHIP.clock_hz <= 1.15 * 330e-6
    assert 270_400 < step.cycles < 270_400 + 249_600 / 13
    assert step.traffic["c2c_sent"] == 8 * 3 * 10_400 * 320


def test_sums_leave_while_the_next_tiles_compute() -> None:
    """Between the first and the last SEND of the published product, planes are fed without a pause."""
    program = shared_product(CHIP, 800, 8192, 32576, "float16", 8)
    text = program.texts[0]
    assert isinstance(text, LpuText)
    found = issues(text, CHIP)
    sends, feeds = (found.cycle[found.opcode == code(name)] for name in ("SEND", "ABC"))
    during = ((feeds >= sends.min()) & (feeds < feeds.max() - 2)).sum()
    assert during / (feeds.max() - 2 - sends.min()) > 0.99  # two pairs, each every second cycle
    assert ((sends > feeds.min()) & (sends < feeds.max())).mean() > 0.97


def test_a_slow_link_makes_the_planes_wait() -> None:
    """2 chips, 320 inner lanes each: a pass of a segment's rows is over long before its sums have crossed.
    Half of 400 x 10 vectors of four byte planes over one link: 8,000 slots."""
    program = shared_product(CHIP, 400, 3200, 640, "float16", 2, widths=(2,))
    assert 8_000 * G.slot < load(program, CHIP).step().cycles < 8_000 * G.slot * 1.1


@pytest.mark.parametrize(("shape", "best"), [((400, 320, 6400), 1), ((700, 1320, 40000), 4)])
def test_the_shortest_width_is_taken(shape: tuple[int, int, int], best: int) -> None:
    """80 columns a chip are fewer than its planes have rows, and nothing has to cross. 700 rows are three tiles of
    320 and 330 columns two, 3 x 125 inner tiles x 330 cycles; 1,320 columns are five, 5 x 32 x 700 are fewer."""
    cycles = {width: shared_product(CHIP, *shape, "float16", 4, widths=(width,)).meta["predicted_cycles"]
              for width in (1, 2, 4)}
    found = shared_product(CHIP, *shape, "float16", 4).meta
    assert found["width"] == best == min(cycles, key=lambda width: cycles[width])
    assert found["predicted_cycles"] == cycles[best]


def test_a_send_one_cycle_later_is_refused() -> None:
    """The schedule is exact: delay one queue of links by a cycle and the machine says so."""
    program = shared_product(CHIP, 61, 340, 650, "float16", 2, widths=(2,))
    text = program.texts[0]
    assert isinstance(text, LpuText)
    words = text.words.copy()
    sends = [i for i in range(len(words)) if words[i] & 0xFF == code("SEND")]
    nop = next(i for i in range(sends[0], 0, -1) if words[i] & 0xFF == code("NOP"))
    words[nop] += np.uint64(1 << 8)
    program.texts = [LpuText(words, text.starts, text.maps, text.source)]
    with pytest.raises(ScheduleError):
        load(program, CHIP).step()


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_both_engines_run_a_shared_product_alike(dtype: str) -> None:
    a, b = operands(10, 20, 650, dtype)
    program = shared_product(CHIP, 10, 20, 650, dtype, 2, a, b, (2,))
    fast, naive = load(program, CHIP), load(program, CHIP, engine="naive")
    one, two = fast.step(), naive.step()
    assert (one.cycles, one.traffic, one.counters) == (two.cycles, two.traffic, two.counters)
    assert np.array_equal(read_shared_product(fast), read_shared_product(naive))


def test_parts_cover_a_matrix_and_end_in_zeros() -> None:
    values = np.arange(1, 11, dtype=np.int8).reshape(2, 5)
    assert part(values, (0, 1), (0, 2)).tolist() == [[1, 2, 3], [6, 7, 8]]
    assert part(values, (0, 1), (1, 2)).tolist() == [[4, 5, 0], [9, 10, 0]]
    assert part(values, (2, 4), (0, 1)).tolist() == [[0] * 5]


def test_what_cannot_be_is_refused_with_numbers() -> None:
    with pytest.raises(ValueError, match="chips 3: a product is shared by 2, 4, 8 chips of one node"):
        shared_product(CHIP, 4, 4, 4, "int8", 3)
    with pytest.raises(ValueError, match="dtype fp8 is not multiplied by groq_tsp_v1; it takes float16, int8"):
        shared_product(CHIP, 4, 4, 4, "fp8", 2)
    with pytest.raises(CapacityError, match="800 x 8192 activations and 8192 x 16384 weights, 282 MB, .* has 230.7 MB"):
        shared_product(CHIP, 800, 32768, 32768, "float16", 8)
    with pytest.raises(CapacityError, match="a share of a product, does not fit one groq_tsp_v1: .* memory slices"):
        shared_product(CHIP, 800, 12800, 20480, "float16", 4, widths=(4,))
    few = load_chip_with("groq_tsp_v1", ("groq_tsp_v1.c2c.queues=3",))
    assert shared_product(few, 60, 340, 1300, "float16", 4, widths=(1, 2, 4)).meta["width"] <= 2
    with pytest.raises(CapacityError, match="sums of 4 chips need 3 links to others and 5 queues .* has 7 and 3"):
        shared_product(few, 60, 340, 1300, "float16", 4, widths=(4,))
