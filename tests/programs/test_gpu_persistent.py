"""A decode step as one kernel: values against the oracle and the graph plan, both engines, what it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulator.assemble import assemble
from emulator.chip import Chip, load_chip
from emulator.gpu.errors import LaunchError
from emulator.run import load, run
from isa.program import GpuText
from isa.programfile import load_program, save_program
from programs.compile import compile_decode
from programs.gpu.compile import compile_gpu
from programs.gpu.plan import PlanError
from programs.models.checkpoint import load_model
from tests.models import AWKWARD, AWKWARD_GROUPS
from tests.programs.test_gpu_compile import QWEN, check_steps, stored_model

H100 = load_chip("h100_sxm")


def roomy_toy() -> Chip:
    """The toy with shared memory that four warps' rings fit."""
    chip = load_chip("toy_gpu")
    for key, value in {"sm.l1.bytes": 65536, "sm.shared.bytes": 49152, "sm.shared.max_per_cta": 48896,
                       "sm.registers": 65536}.items():
        chip = chip.with_override(key, str(value))
    return chip


@pytest.mark.parametrize(("shape", "scheme", "chip", "batch", "steps"), [
    (AWKWARD, "fp16", "h100_sxm", 1, 3),
    (AWKWARD_GROUPS, "int8", "a100_sxm", 2, 3),
    (QWEN, "bf16", "h200_sxm", 3, 3),
    (AWKWARD_GROUPS, "fp8", "h100_sxm", 1, 18),  # the second key block
])
def test_logits_agree_with_the_oracle(shape: dict[str, Any], scheme: str, chip: str, batch: int, steps: int,
                                      tmp_path: Path) -> None:
    stored = stored_model(tmp_path, scheme, **shape)
    program = compile_gpu(stored, load_chip(chip), batch=batch, context=64, persistent=True)
    assert len(program.texts[0].launches) == 1
    check_steps(stored, program, chip, batch, steps)


def test_ctas_take_several_units_of_attention_where_there_are_more_than_sms(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16", **AWKWARD_GROUPS)
    program = compile_gpu(stored, H100, batch=70, context=64, split=64, persistent=True)
    graph = compile_gpu(stored, H100, batch=70, context=64, split=64)
    attention = next(one for one in graph.texts[0].launches if one.node.endswith("attention"))
    assert attention.grid > H100["core.sms"]
    check_steps(stored, program, "h100_sxm", 70, 2)


def test_tokens_are_those_of_the_graph() -> None:
    model = load_model("tiny_kjv")
    programs = [compile_decode(model, H100, context=64, launch=launch) for launch in ("graph", "persistent")]
    graph, persistent = (run(program, [5, 77], 6, chip=H100) for program in programs)
    assert graph.token_ids == persistent.token_ids
    assert persistent.steps[-1].cycles < graph.steps[-1].cycles


def test_both_engines_run_a_step_alike(tmp_path: Path) -> None:
    chip = roomy_toy()
    stored = stored_model(tmp_path, "fp16")
    program = compile_gpu(stored, chip, context=32, persistent=True)
    results = []
    for engine in ("fast", "naive"):
        machine = load(program, chip, engine=engine)
        steps = [machine.step(3), machine.step()]  # the second one's barriers go on from the first one's count
        results.append([(s.cycles, s.counters, s.accounting, s.tokens) for s in steps])
    assert results[0] == results[1]


def test_timing_only_takes_the_same_cycles(tmp_path: Path) -> None:
    cycles = []
    for timing_only in (False, True):
        stored = stored_model(tmp_path / str(timing_only), "fp16", timing_only)
        machine = load(compile_gpu(stored, H100, context=32, timing_only=timing_only, persistent=True), H100)
        cycles.append([machine.step([5]).cycles for _ in range(2)])
    assert cycles[0] == cycles[1]


def test_a_layer_of_llama_3_1_8b_takes_3_to_12_percent_less_than_in_a_graph() -> None:
    model, cycles = load_model("llama-3.1-8b"), []
    for launch in ("graph", "persistent"):
        program = compile_decode(model, H100, context=1024, layers=(0, 1), timing_only=True, launch=launch)
        machine = load(program, H100)
        machine.write("position", np.array([[1023]]))
        cycles.append(machine.step().cycles)
    assert 0.88 <= cycles[1] / cycles[0] <= 0.97


def test_the_listing_is_assembly_that_gives_the_same_words(tmp_path: Path) -> None:
    text = compile_gpu(stored_model(tmp_path, "int8"), H100, context=128, split=64, persistent=True).texts[0]
    assert isinstance(text, GpuText)
    again = assemble(".chip h100_sxm\n" + "\n".join(text.source.lines) + "\n").texts[0]
    assert np.array_equal(again.words, text.words)


def test_a_program_file_runs_as_it_was_compiled(tmp_path: Path) -> None:
    save_program(compile_decode(load_model("tiny_kjv"), H100, context=64, launch="persistent"), tmp_path / "step.npz")
    machine = load(load_program(tmp_path / "step.npz"), H100)
    assert [kernel["kernel"] for kernel in machine.step(5).kernels] == ["step"]


def test_what_is_not_built_is_refused(tmp_path: Path) -> None:
    stored = stored_model(tmp_path, "fp16", **AWKWARD_GROUPS)
    with pytest.raises(PlanError, match="leave it out"):
        compile_gpu(stored, H100, batch=100, context=64, persistent=True)
    with pytest.raises(PlanError, match="3,?840 bytes of shared memory"):
        compile_gpu(stored, load_chip("toy_gpu"), context=64, persistent=True)
    with pytest.raises(LaunchError, match="compile it for that"):
        load(compile_gpu(stored, H100, context=64), H100, launch="persistent")
