"""What a step is asked for: foreign tokens, a full context and programs that are no decode step are refused."""

from __future__ import annotations

import numpy as np
import pytest

from emulator.assemble import assemble
from emulator.chip import load_chip
from emulator.run import load, run
from emulator.step_state import RunError
from isa.program import Program
from programs.compile import compile_decode
from programs.models.checkpoint import load_model

CHIPS = ("groq_tsp_v1", "h100_sxm")
COPY = """.chip toy_lpu
.data x s8 [1,16] 1 @E0
.data y s8 [1,16] @E1
x: READ S0.W at 5
y: WRITE S0.W at 5
"""


@pytest.fixture(scope="module", params=CHIPS)
def program(request: pytest.FixtureRequest) -> Program:
    """Two sequences with room for two positions."""
    return compile_decode(load_model("tiny_kjv"), load_chip(request.param), batch=2, context=2, timing_only=True)


@pytest.mark.parametrize(("token", "message"), [
    (1024, "token id 1024 is not in the vocabulary of 1024 tokens"),
    (-1, "token id -1 is not in the vocabulary"),
    ([3, 5000], "token id 5000 is not in the vocabulary"),
    (3.7, "token id 3.7 is not a whole number"),
    (np.array([1.0, 2.0]), "token id .* is not a whole number"),
    ([1, 2, 3], "serves 2 sequences, 3 token ids were given"),
])  # fmt: skip
def test_a_token_that_the_model_does_not_know_is_refused(program: Program, token: object, message: str) -> None:
    machine = load(program)
    with pytest.raises(RunError, match=message):
        machine.step(token)  # type: ignore[arg-type]


def test_a_step_beyond_the_context_is_refused(program: Program) -> None:
    machine = load(program)
    machine.step([3, 1023])
    assert machine.read("token").reshape(2, -1)[:, 0].tolist() == [3, 1023]
    machine.step(np.int64(7))  # one id for all
    assert machine.read("token").reshape(2, -1)[:, 0].tolist() == [7, 7]
    with pytest.raises(RunError, match="position 2 is over the program's context of 2 positions"):
        machine.step(7)


@pytest.mark.parametrize("tokens", [0, -3, 1.5])
def test_a_run_gives_at_least_one_token(program: Program, tokens: object) -> None:
    with pytest.raises(RunError, match="at least 1"):
        run(program, [[3], [4]], tokens=tokens)  # type: ignore[arg-type]


def test_a_hand_written_program_takes_no_token() -> None:
    machine = load(assemble(COPY))
    with pytest.raises(RunError, match="is not a decode step of a model"):
        machine.step(token=3)
