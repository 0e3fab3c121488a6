"""The LPU examples for students: each runs on both engines and gives what it says it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emulator.assemble import assemble
from emulator.run import load, run
from isa.expressions import failure

FOLDER = Path(__file__).resolve().parents[2] / "programs" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.lpu.s"))


def statements(path: Path) -> int:
    lines = (line.split(";")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return sum(bool(line) for line in lines)


def test_the_four_examples_are_there() -> None:
    assert {path.name for path in EXAMPLES} >= {"dot.lpu.s", "gemv.lpu.s", "rmsnorm.lpu.s", "softmax.lpu.s"}


def test_the_gemv_has_at_most_12_statements() -> None:
    assert statements(FOLDER / "gemv.lpu.s") <= 12


@pytest.mark.parametrize("engine", ["fast", "naive"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_gives_what_it_expects(path: Path, engine: str) -> None:
    program = assemble(path)
    machine = load(program, engine=engine)
    before = {name: machine.read(name) for name in program.tensors}
    step = machine.step()
    after = {name: machine.read(name) for name in program.tensors}
    assert program.expectations
    for expectation in program.expectations:
        assert failure(expectation, before, after, step.cycles) is None
    assert step.counters["unconsumed_values"] == 0


def test_the_gemv_takes_other_weights() -> None:
    """Bound arrays replace the file's data; the schedule and its cycles stay."""
    rng = np.random.default_rng(7)
    weights, x = rng.integers(-128, 128, (320, 320)), rng.integers(-128, 128, 320)
    result = run(assemble(FOLDER / "gemv.lpu.s"), inputs={"W": weights, "x": x})
    assert np.array_equal(result.outputs["y"][0], weights @ x)
    assert result.steps[0].cycles == 111
