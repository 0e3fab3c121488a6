"""What the compilers make survives a file and a listing: the same words, data, tensors and launches."""

import pytest

from decodelab import compile_decode, load_chip, load_model
from emulator.assemble import target_of
from isa.assembler import assemble
from isa.disassembler import disassemble
from isa.program import difference
from isa.programfile import load_program, save_program


@pytest.mark.parametrize("chip_name", ["groq_tsp_v1", "h100_sxm"])
@pytest.mark.parametrize("timing_only", [False, True])
def test_a_compiled_layer_survives_file_and_listing(tmp_path, chip_name, timing_only):
    chip = load_chip(chip_name)
    target = target_of(chip)
    program = compile_decode(load_model("tiny_kjv"), chip, context=64, layers=(0, 1), timing_only=timing_only)
    save_program(program, tmp_path / "p.npz")
    loaded = load_program(tmp_path / "p.npz")
    assert difference(loaded, program) is None
    text, arrays = disassemble(loaded, target.geometry.queue_names if target.geometry else None)
    assert difference(assemble(text, lambda name: target, blobs=arrays), program) is None
