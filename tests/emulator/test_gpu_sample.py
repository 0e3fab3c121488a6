"""Sampled layers: a few run and stand for all, and every count stays consistent."""

from __future__ import annotations

import pytest

from emulator.chip import load_chip
from emulator.gpu.sample import repeats
from emulator.run import load
from programs.compile import compile_decode
from programs.models.checkpoint import load_model

NODES = ["embed", "layers.0.qkv", "layers.0.down", "layers.1.qkv", "layers.1.down", "layers.2.qkv", "layers.2.down",
         "lm_head"]


@pytest.mark.parametrize("layers, expected", [
    (None, [1, 1, 1, 1, 1, 1, 1, 1]), (3, [1, 1, 1, 1, 1, 1, 1, 1]), (9, [1, 1, 1, 1, 1, 1, 1, 1]),
    (2, [1, 1, 1, 2, 2, 0, 0, 1]), (1, [1, 3, 3, 0, 0, 0, 0, 1])])
def test_the_last_layer_that_runs_stands_for_the_rest(layers, expected):
    assert repeats(NODES, layers) == expected


def test_layers_are_counted_from_the_first_that_the_program_has():
    assert repeats(["layers.10.qkv", "layers.11.qkv", "layers.12.qkv"], 2) == [1, 2, 0]


def test_a_sampled_step_is_close_to_the_whole_one():
    chip = load_chip("h100_sxm")
    program = compile_decode(load_model("tiny_kjv"), chip, context=64, timing_only=True)
    whole_machine, machine = load(program, chip), load(program, chip)
    for _ in range(2):  # the second with warm caches
        whole, step = whole_machine.step(), machine.step(sample_layers=2)
    assert step.cycles == pytest.approx(whole.cycles, rel=0.01)
    assert step.counters["warp_instructions"] == whole.counters["warp_instructions"]  # layers of equal shape
    assert step.traffic["l2_read"] == pytest.approx(whole.traffic["l2_read"], rel=0.01)
    for unit, buckets in step.accounting.items():
        assert sum(buckets.values()) == chip["core.sms"] * (4 if unit == "sub_core" else 1) * step.cycles
    ran = {kernel["node"]: kernel["times"] for kernel in step.kernels}
    layers = sum(node.endswith(".o") for node in {kernel["node"] for kernel in whole.kernels})
    assert ran["layers.0.o"] == 1 and ran["layers.1.o"] == layers - 1 and "layers.2.o" not in ran
