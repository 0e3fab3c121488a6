"""Every cycle of a step has one owner: token, layer, kernel, cause."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import programs
from emulator.accounting import GPU_REASONS, LPU_CAUSES
from emulator.assemble import assemble
from emulator.chip import load_chip
from emulator.lpu.geometry import KIND_CLASS, geometry
from emulator.lpu.replay import issues
from emulator.run import load
from emulator.time_tree import Leaf, check_tree, cycles_by, gpu_tree, place_of_node
from isa.opcodes import OPS
from isa.program import LpuText, place_of
from programs.compile import compile_decode
from programs.models.checkpoint import load_model

EXAMPLES = Path(programs.__file__).parent / "examples"


def record(node: str, kernel: str, duration: int, gap: int, times: int = 1, empty: int = 0, **reasons: int) -> dict:
    """A launch on one SM; in `empty` of its cycles that has no CTA."""
    every = dict.fromkeys((reason.name for reason in GPU_REASONS), 0) | {"launch": 4 * gap} | reasons
    return {"node": node, "kernel": kernel, "first_cta": gap, "end": gap + duration, "times": times, "gap": gap,
            "sm_cycles": duration, "active_sm_cycles": duration - empty, "reasons": every}


def test_a_kernels_cycles_are_divided_in_proportion_by_largest_remainder() -> None:
    """10 cycles of four sub-cores, 15 of them busy and 25 waiting: 3.75 and 6.25, so 4 and 6."""
    assert gpu_tree([record("embed", "embed", 10, 3, busy=15, global_memory=25)]) == [
        Leaf(("token", "embed", "embed", "launch gaps"), 3),
        Leaf(("token", "embed", "embed", "issuing"), 4),
        Leaf(("token", "embed", "embed", "waiting for loads"), 6)]


def test_sub_cores_without_a_warp_have_no_say_while_their_sm_has_a_cta() -> None:
    """10 cycles, 2 of them without a CTA; one of four sub-cores has a warp, and issues in 2 of the other 8."""
    assert gpu_tree([record("o", "o", 10, 0, empty=2, busy=2, global_memory=6, no_warp=32)]) == [
        Leaf(("token", "o", "o", "issuing"), 2),
        Leaf(("token", "o", "o", "waiting for loads"), 6),
        Leaf(("token", "o", "o", "waves and tails"), 2)]


def test_a_kernel_that_stands_for_layers_is_spread_over_them_and_marked() -> None:
    leaves = gpu_tree([record("layers.4.o", "o", 5, 1, busy=20), record("layers.5.o", "o", 6, 1, times=3, busy=24),
                       record("layers.5.o", "allreduce", 2, 0, times=3, busy=8),
                       record("", "head", 7, 2, empty=7, no_warp=28)])
    assert [(leaf.path[1:], leaf.cycles, leaf.sampled) for leaf in leaves if leaf.path[3] == "issuing"] == [
        (("layer 4", "o", "issuing"), 5, False),
        (("layer 5", "o", "issuing"), 6, False), (("layer 5", "o allreduce", "issuing"), 2, False),
        (("layer 6", "o", "issuing"), 6, True), (("layer 6", "o allreduce", "issuing"), 2, True),
        (("layer 7", "o", "issuing"), 6, True), (("layer 7", "o allreduce", "issuing"), 2, True)]
    assert leaves[-1] == Leaf(("token", "head", "head", "waves and tails"), 7)
    assert sum(leaf.cycles for leaf in leaves) == (5 + 1) + 3 * (6 + 1) + 3 * 2 + (7 + 2)


def test_a_kernel_that_nobody_accounts_for_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no sub-core accounts"):
        gpu_tree([record("embed", "embed", 10, 3)])
    with pytest.raises(AssertionError, match="add up to 4 of 5"):
        check_tree([Leaf(("token",), 4)], 5)


def test_nodes_have_a_layer_or_a_name_of_their_own() -> None:
    assert place_of_node("layers.12.gate_up") == ("layer 12", "gate_up")
    assert place_of_node("lm_head") == ("lm_head", "lm_head")


def test_every_reason_and_cause_has_words_and_all_but_the_good_ones_say_what_to_try() -> None:
    for table, good in ((GPU_REASONS, ("busy", "idle")), (LPU_CAUSES, ())):
        assert len({reason.words for reason in table}) == len(table)
        assert all(reason.words and reason.cause and (reason.advice or reason.name in good) for reason in table)


def test_owners_of_a_gemv_by_hand() -> None:
    """LW in 16 to 35 and IW in 36, where ABC issues too; ACC in 76. Slices read from 4 on (until 15 nothing else
    issues) and write in 91; the rest of the 111 cycles is travel."""
    program = assemble(EXAMPLES / "gemv.lpu.s")
    step = load(program).step()
    assert step.cycles == 111
    assert cycles_by(step.time_tree, lambda leaf: leaf.path[-1]) == {
        "weight load": 21, "matrix": 1, "memory": 12 + 1, "fill and drain": 111 - 35}


@pytest.mark.parametrize("chips", [1, 2])
def test_an_lpu_steps_tree_is_what_a_look_at_each_cycle_says(chips: int) -> None:
    """The same table, read one cycle and one instruction at a time."""
    chip = load_chip("groq_tsp_v1")
    program = compile_decode(load_model("tiny_kjv"), chip, context=64, timing_only=True, chips=chips,
                             layers=(1, 3))
    step = load(program, chip).step()
    place, found = geometry(chip), {}
    names = {op.code: op.name for op in OPS}
    for number, _, coordinates in reversed(program.chips):  # the first chip's word is the last
        text, start = program.texts[number], place_of(coordinates).start
        assert isinstance(text, LpuText)
        every = issues(text, chip)
        for at in reversed(range(len(every.cycle))):  # and so is the lowest queue's
            name, queue = names[every.opcode[at]], every.queue[at]
            node = text.source.nodes[text.source.node[every.index[at]]]
            unit = KIND_CLASS[place.queue_kind[queue]]
            true = []
            if name in ("LW", "IW"):
                true = ["KV load" if "attention" in node else "weight load"]
            elif name not in ("SYNC", "NOTIFY"):
                true = {"mxm": ["matrix"], "vxm": ["vector"], "sxm": ["lane switch"], "mem": ["memory"]}.get(unit, [])
            for cause in true:
                found[start + every.cycle[at], cause] = node
            if name == "SEND":  # the oldest vector's sender
                for later in range(place.hop):
                    found[start + every.cycle[at] + later, "network"] = node
    order = [cause.words for cause in LPU_CAUSES]
    expected: dict[tuple[str, ...], int] = {}
    last = "start"
    for cycle in range(step.cycles):
        cause = next((cause for cause in order if (cycle, cause) in found), "fill and drain")
        last = found.get((cycle, cause), last)
        path = ("token", *place_of_node(last), cause)
        expected[path] = expected.get(path, 0) + 1
    assert {leaf.path: leaf.cycles for leaf in step.time_tree} == expected
    layers = {leaf.path[1] for leaf in step.time_tree if re.match("layer", leaf.path[1])}
    assert layers == {"layer 1", "layer 2"}  # the model's own numbers


@pytest.mark.parametrize("chip", ["toy_gpu", "h100_sxm"])
def test_a_sampled_gpu_step_has_a_leaf_for_every_layer(chip: str) -> None:
    target = load_chip(chip)
    program = compile_decode(load_model("tiny_kjv"), target, context=64, timing_only=True)
    step = load(program, target).step(sample_layers=2)
    check_tree(step.time_tree, step.cycles)
    by_layer = cycles_by(step.time_tree, lambda leaf: leaf.path[1])
    assert [name for name in by_layer if name.startswith("layer ")] == [f"layer {n}" for n in range(4)]
    assert len({by_layer[f"layer {n}"] for n in range(1, 4)}) == 1
    assert {leaf.path[1] for leaf in step.time_tree if leaf.sampled} == {f"layer {n}" for n in range(2, 4)}
    gaps = sum(leaf.cycles for leaf in step.time_tree if leaf.path[3] == "launch gaps")
    assert gaps == sum(kernel["times"] * kernel["gap"] for kernel in step.kernels)


@pytest.mark.parametrize("file", sorted(path.name for path in EXAMPLES.glob("*.s")))
def test_every_cycle_of_an_example_has_a_leaf(file: str) -> None:
    step = load(assemble(EXAMPLES / file)).step()
    assert sum(leaf.cycles for leaf in step.time_tree) == step.cycles
    assert {leaf.path[0] for leaf in step.time_tree} == {"token"}
