"""GPUs that share the layers of a model: the oracle's tokens, equal ranks, shares of awkward shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.run import load
from isa.programfile import load_program, save_program
from programs.compile import OptionError, compile_decode
from programs.decode.stored import SCHEMES, store
from programs.errors import CapacityError
from programs.gpu.compile import compile_gpu
from programs.models.checkpoint import load_model
from programs.shard import with_parts
from tests.models import AWKWARD, AWKWARD_GROUPS
from tests.programs.test_gpu_compile import QWEN, check_steps, stored_model
from tools.grid import record


@pytest.mark.parametrize(("changes", "scheme", "chip", "batch", "ranks"), [
    (AWKWARD, "fp16", "toy_gpu", 1, 2),
    (AWKWARD_GROUPS, "fp16", "h100_sxm", 9, 2),
    (AWKWARD_GROUPS, "fp8", "toy_gpu", 1, 4),
    (QWEN, "int8", "h100_sxm", 2, 8),
])
def test_logits_of_all_ranks_agree_with_the_oracle(
    tmp_path: Path, changes: dict[str, Any], scheme: str, chip: str, batch: int, ranks: int
) -> None:
    stored = stored_model(tmp_path, scheme, **changes)
    program = compile_gpu(stored, load_chip(chip), batch=batch, context=40, ranks=ranks)
    assert len(program.chips) == ranks
    check_steps(with_parts(stored, ranks), program, chip, batch, steps=3)


def test_every_rank_chooses_the_same_token_and_has_the_same_hidden_state(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16", **AWKWARD)
    machine = load(compile_gpu(stored, load_chip("toy_gpu"), context=20, ranks=4))
    for step in range(3):
        machine.step(None if step else 5)
        for name in ("hidden", "token", "position"):
            assert all((machine.read(name, rank=r) == machine.read(name)).all() for r in range(4)), name


def test_timing_takes_one_rank_for_all_and_the_same_cycles(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "bf16", **AWKWARD)
    shapes = stored_model(tmp_path / "shapes", "bf16", timing_only=True, **AWKWARD)
    chip, steps = load_chip("toy_gpu"), []
    for model, timing_only in ((stored, False), (shapes, True)):
        machine = load(compile_gpu(model, chip, context=20, ranks=2, timing_only=timing_only))
        assert len(machine.engines) == (1 if timing_only else 2)
        machine.step([3])
        steps.append(machine.step([4]))
    values, timing = steps
    assert (timing.cycles, timing.traffic, timing.accounting) == (values.cycles, values.traffic, values.accounting)
    assert timing.traffic["nvlink"] > 0


def test_a_rank_reads_its_share_of_the_weights_once() -> None:
    """llama-3.1-8b on two: half of a layer's weights each, from HBM (a layer has no cache to stay in)."""
    model, chip = load_model("llama-3.1-8b"), load_chip("h100_sxm")
    stored = store(model, SCHEMES["bf16"], timing_only=True)
    machine = load(compile_gpu(stored, chip, layers=(0, 1), timing_only=True, ranks=2))
    machine.write("position", np.array([[1023]]))
    read = machine.step().traffic["hbm_read"]
    weights = sum(one.bytes for name, one in stored.linears.items() if name.startswith("layers.0."))
    assert weights <= read <= 1.03 * weights


def test_impossible_groups_are_refused() -> None:
    model, chip = load_model("tiny_kjv"), load_chip("h100_sxm")
    with pytest.raises(CapacityError, match="nearest that works is 2"):
        compile_decode(model, chip, tensor_parallel=3)
    with pytest.raises(OptionError, match="pipeline-parallel 2 is for LPUs"):
        compile_decode(model, chip, pipeline_parallel=2)
    with pytest.raises(OptionError, match="both are the same number"):
        compile_decode(model, chip, chips=4, tensor_parallel=2)


def test_a_model_too_large_for_one_takes_the_fewest_that_hold_it() -> None:
    """Llama-2-70B in 16 bits is 138 GB: two GPUs of 80 GiB."""
    program = compile_decode(load_model("llama-2-70b"), load_chip("h100_sxm"), timing_only=True)
    assert len(program.chips) == 2 and program.meta["tensor_parallel"] == 2


def test_a_program_file_of_two_gpus_runs_as_it_was_compiled(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16", **AWKWARD)
    program = compile_gpu(stored, load_chip("toy_gpu"), context=20, ranks=2)
    save_program(program, tmp_path / "two.npz")
    steps = [load(one).step([5]) for one in (program, load_program(tmp_path / "two.npz"))]
    assert steps[0].cycles == steps[1].cycles and steps[0].traffic == steps[1].traffic
    assert steps[0].logits is not None and steps[1].logits is not None
    assert (steps[0].logits == steps[1].logits).all()


def test_watching_one_gpu_of_a_group_changes_no_cycle(tmp_path: Path) -> None:
    program = compile_gpu(stored_model(tmp_path, "fp16", **AWKWARD), load_chip("toy_gpu"), context=20, ranks=2)
    alone, watched = load(program), load(program)
    events = record(watched, (0, 2000))
    assert watched.step([5]).cycles == alone.step([5]).cycles
    assert len(events().cycle)
    assert watched.step([6]).cycles == alone.step([6]).cycles


@pytest.mark.parametrize("gpus", [0, 1, 3])
def test_a_node_of_any_size_refuses_what_it_cannot_hold_in_a_sentence(tmp_path: Path, gpus: int) -> None:
    stored = stored_model(tmp_path, "fp16", timing_only=True, **AWKWARD)
    chip = load_chip("toy_gpu").with_override("nvlink.gpus", str(gpus)).with_override("dram.capacity_bytes", "4096")
    with pytest.raises(CapacityError, match="would hold it"):
        compile_gpu(stored, chip, context=20, timing_only=True)
