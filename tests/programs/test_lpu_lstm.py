"""LSTM cells on the LPU: values against NumPy, cycles against published counts and the rules they follow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.run import load
from programs.errors import CapacityError
from programs.lpu.lstm import CellValues, lstm_program
from programs.lpu.lstm_published import GRID, PHASE_SLACK, PublishedCell, equal_tiles, published_program

CHIP = load_chip("groq_tsp_v1")
PUBLISHED = {1: 670, 3: 718, 6: 790, 8: 838, 32: 1413}  # hidden 512: Groq API 0.9.0, notebooks/lstm.ipynb


def cell_values(hidden: int, one_scale: bool = False) -> CellValues:
    r = np.random.default_rng(hidden)
    weights = r.integers(-127, 128, (4, hidden, 2 * hidden)).astype(np.int8)
    scale = (1 + r.random((4, 1 if one_scale else hidden))) * 2 / (127 * 73 * np.sqrt(2 * hidden))
    scale = np.broadcast_to(scale, (4, hidden)).astype(np.float32)
    return CellValues(weights, scale, r.standard_normal((4, hidden)).astype(np.float32))


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def lstm(v: CellValues, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, c) after a step, in float64; x and h int8 [batch, hidden]."""
    joined = np.concatenate([x, h], axis=1).astype(np.float64)
    i, f, candidate, o = (v.scale[g] * (joined @ v.weights[g].T.astype(np.float64)) + v.bias[g] for g in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
    return sigmoid(o) * np.tanh(c), c


@pytest.mark.parametrize(("hidden", "batch"), [(100, 2), (330, 1), (512, 3)])
def test_steps_of_the_cell_follow_numpy(hidden: int, batch: int) -> None:
    """Three steps: the state stays on the chip. fp32 rounds to 2^-24 an operation, about ten a step."""
    values = cell_values(hidden)
    machine = load(lstm_program(CHIP, hidden, batch, values), CHIP)
    h8, c = np.zeros((batch, hidden)), np.zeros((batch, hidden))
    for step in range(3):
        x = np.random.default_rng(step).integers(-127, 128, (batch, hidden)).astype(np.int8)
        machine.write("x", x)
        cycles = machine.step().cycles
        h, c = lstm(values, x, h8, c)
        assert np.abs(machine.read("c") - c).max() < 1e-6
        assert np.abs(machine.read("h") - h).max() < 1e-6
        h8 = machine.read("h8").astype(np.float64)
        assert np.array_equal(h8, np.rint(machine.read("h").astype(np.float64) * np.float32(127)))
        assert cycles == machine.program.meta["predicted_cycles"]


def test_values_and_timing_only_take_the_same_cycles() -> None:
    timed = load(lstm_program(CHIP, 100, 2), CHIP).step()
    assert timed.cycles == lstm_program(CHIP, 100, 2, cell_values(100)).meta["predicted_cycles"]


def test_the_compilers_cell_of_512_takes_at_most_450_cycles() -> None:
    """Floor: 4 x 512 x 1024 weights / 20,480 a cycle = 102.4; barrier 35, transit, MXM 40 and the gates on top."""
    step = load(lstm_program(CHIP, 512, 1), CHIP).step()
    assert 102 < step.cycles <= 450
    assert step.traffic["mxm_ingest"] == 4 * 512 * 4 * 320  # 1,024 inputs are four vectors of 320 lanes


@pytest.mark.parametrize("batch", PUBLISHED)
def test_published_counts_within_two_percent(batch: int) -> None:
    cycles = load(published_program(CHIP, 512, batch), CHIP).step().cycles
    assert abs(cycles - PUBLISHED[batch]) <= 0.02 * PUBLISHED[batch]


def test_the_phase_slack_is_what_batch_1_lacks_and_nothing_else_is_fitted() -> None:
    """Calibrated on one count: 670 of hidden 512 at batch 1; the slack adds its cycles and changes nothing else."""
    for hidden, batch in ((512, 1), (640, 5)):
        bare = PublishedCell(CHIP, hidden, batch, slack=0).finish({})
        program = published_program(CHIP, hidden, batch)
        assert program.meta["predicted_cycles"] == bare.meta["predicted_cycles"] + PHASE_SLACK
        assert program.meta["calibrated"] == f"phase slack of {PHASE_SLACK} cycles calibrated on hidden 512, batch 1"
    assert published_program(CHIP, 512, 1).meta["predicted_cycles"] == PUBLISHED[1]


@pytest.mark.parametrize(("hidden", "inner", "outer"), [(512, 4, 2), (320, 2, 1), (1024, 8, 4), (640, 4, 2)])
def test_a_batch_row_adds_its_copies_passes_and_vectors(hidden: int, inner: int, outer: int) -> None:
    """2 Kt + Kt Nt + 4 Nt cycles a row: 8 + 8 + 8 = 24 for hidden 512."""
    cycles = [load(published_program(CHIP, hidden, batch), CHIP).step().cycles for batch in (1, 2, 12)]
    row = 2 * inner + inner * outer + 4 * outer
    assert cycles[1] - cycles[0] == row
    assert cycles[2] - cycles[0] == 11 * row


def test_a_pass_adds_52_cycles_and_a_tile_4_at_batch_1() -> None:
    """Hidden 256 to 512 at batch 1: Kt 2 to 4, Nt 1 to 2, passes 2 to 8: 6 x 53 + 2 x 2 + 4 x 1 cycles more."""
    small, large = (load(published_program(CHIP, hidden, 1), CHIP).step().cycles for hidden in (256, 512))
    assert large - small == 6 * 53 + 2 * 2 + 4


@pytest.mark.parametrize(("size", "tiles"), [(512, 2), (1024, 4), (320, 1), (640, 2), (330, 2), (1290, 5), (7, 1)])
def test_the_fewest_equal_tiles(size: int, tiles: int) -> None:
    assert equal_tiles(size, 320) == tiles


def test_a_size_without_divisors_is_refused() -> None:
    with pytest.raises(CapacityError, match="hidden 997 cuts into 997 x 997 equal tiles"):
        published_program(CHIP, 997, 1)


@pytest.mark.parametrize(("hidden", "batch"), [(64, 2), (400, 12)])
def test_the_published_structure_computes_the_cell(hidden: int, batch: int) -> None:
    """tanh's operand is rounded to 1 / 4096: at most 2^-13 each, times a slope of at most 1 (a half for sigmoids)."""
    values = cell_values(hidden, one_scale=True)
    r = np.random.default_rng(1)
    x, h = (r.integers(-127, 128, (batch, hidden)).astype(np.int8) for _ in range(2))
    c = r.standard_normal((batch, hidden)).astype(np.float32)
    machine = load(PublishedCell(CHIP, hidden, batch, values, x, h, c).finish({}), CHIP)
    machine.step()
    tiles = equal_tiles(hidden, 320)

    def read(name: str) -> np.ndarray:
        return machine.read(name).reshape(tiles, batch, -1).transpose(1, 0, 2).reshape(batch, hidden)

    want_h, want_c = lstm(values, x, h, c)
    assert np.abs(read("c") - want_c).max() < 4 / GRID
    assert np.abs(read("h") - want_h).max() < 4 / GRID
    assert np.abs(read("h")).max() > 0.1


@pytest.mark.parametrize("program", [lstm_program, published_program])
def test_a_cell_that_does_not_fit_is_refused_before_it_is_laid_out(program: Callable[..., object]) -> None:
    """8 x 8192 x 8192 B of weights are 537 MB, in 26 vectors an output: 8192 x 4 x 2 x 26 words and some more."""
    with pytest.raises(CapacityError, match="hidden 8192 and batch 1 needs 1,704,8.. SRAM words .* 720,896") as error:
        program(CHIP, 8192, 1)
    assert error.value.chips_needed == 3
    for hidden, batch in ((1 << 31, 1), (512, 1 << 31)):
        with pytest.raises(CapacityError):
            program(CHIP, hidden, batch)
