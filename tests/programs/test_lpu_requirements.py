"""Chip numbers that the LPU compiler cannot take are refused by their key; those at the edge still compile."""

from __future__ import annotations

import pytest

from emulator.chip import ChipError, load_chip
from emulator.run import load, measured_step
from programs.compile import compile_decode
from programs.models.checkpoint import load_model

REFUSED = [
    ("mem.slices_per_hemisphere", "35", "at least 36"),
    ("mem.slices_per_column", "9", "a multiple of 4"),
    ("vxm.result_column", "2", "0 or 1"),
    ("mxm.rows", "1", "square planes: 320 rows"),
    ("core.superlanes", "21", "square planes: 336 rows"),
    ("mxm.load_streams_per_plane", "8", "need 16"),
    ("mxm.latency_cycles", "401", "at most 400"),
    ("mxm.f16_feed_cycles", "41", "at most the latency of 40"),
    ("vxm.large_alus", "0,2", "vxm.large_alus = 0,2: too few for the chain"),
    ("core.superlanes", "32", "from 1 to 31"),  # the marks of 32 would need a 64th bit
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED])
def test_numbers_that_no_compiled_program_can_have_are_refused(key: str, value: str, message: str) -> None:
    chip = load_chip("groq_tsp_v1").with_override(key, value)
    with pytest.raises(ChipError, match=message):
        compile_decode(load_model("tiny_kjv"), chip, context=64, timing_only=True)


def test_numbers_at_the_edge_compile_to_a_schedule_that_holds() -> None:
    chip = load_chip("groq_tsp_v1")
    for key, value in (("mem.slices_per_hemisphere", "36"), ("vxm.result_column", "0"), ("mxm.latency_cycles", "400")):
        chip = chip.with_override(key, value)
    program = compile_decode(load_model("tiny_kjv"), chip, context=64, timing_only=True)
    step = measured_step(load(program, chip), 64, warm=False)
    assert step.cycles == program.meta["predicted_cycles"]
