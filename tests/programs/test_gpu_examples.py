"""The GPU examples for students: each runs on both engines and gives what it says it gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emulator.assemble import assemble
from emulator.run import load, run
from isa.expressions import failure

FOLDER = Path(__file__).resolve().parents[2] / "programs" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.gpu.s"))


def test_the_examples_are_there() -> None:
    names = {"dot.gpu.s", "gemv.gpu.s", "gemv_warps.gpu.s", "rmsnorm.gpu.s", "softmax.gpu.s", "bulk_gemv.gpu.s"}
    assert {path.name for path in EXAMPLES} >= names


def test_the_gemv_kernel_has_at_most_12_lines() -> None:
    lines = [line.split(";")[0].strip() for line in (FOLDER / "gemv.gpu.s").read_text(encoding="utf-8").splitlines()]
    code = [line for line in lines if line]
    first = next(i for i, line in enumerate(code) if line.startswith(".kernel"))
    end = next(i for i, line in enumerate(code) if line.startswith(".launch"))
    assert end - first <= 12


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


def test_both_engines_take_the_same_cycles() -> None:
    for path in EXAMPLES:
        fast, naive = (load(assemble(path), engine=engine).step() for engine in ("fast", "naive"))
        assert (fast.cycles, fast.traffic, fast.accounting) == (naive.cycles, naive.traffic, naive.accounting)


def test_the_gemv_takes_other_weights() -> None:
    rng = np.random.default_rng(7)
    weights, x = rng.standard_normal((64, 32)), rng.standard_normal(64)
    result = run(assemble(FOLDER / "gemv.gpu.s"), inputs={"W": weights, "x": x})
    assert np.allclose(result.outputs["y"][0], x @ weights, atol=1e-4)
