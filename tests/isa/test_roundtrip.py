"""assemble(disassemble(p)) == p, load(save(p)) == p, for random programs."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from isa.assembler import assemble, assemble_file
from isa.disassembler import disassemble, save_listing
from isa.program import difference
from isa.programfile import load_program, save_program
from tests.isa.programs import QUEUES, gpu_programs, lpu_programs, target

PROGRAMS = st.one_of(lpu_programs(), gpu_programs())


@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_text_and_back(program):
    text, blobs = disassemble(program, QUEUES)
    assert difference(assemble(text, target, blobs=blobs), program) is None


@settings(max_examples=30, deadline=None)
@given(PROGRAMS)
def test_file_and_back(program):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.npz"
        save_program(program, path)
        first = path.read_bytes()
        assert difference(load_program(path), program) is None
        save_program(load_program(path), path)
        assert path.read_bytes() == first
        assert [p.name for p in Path(folder).iterdir()] == ["p.npz"]


def test_a_listing_is_a_file_that_assembles(tmp_path):
    source = tmp_path / "p.s"
    source.write_text(".chip toy_lpu\n.data x f32 [3,20] random 1 @E0:E3\n.phantom w s8 [2,16] @W0\n"
                      ".map turn ((l + 1) % 16)\nMEM.E1: READ x+1, S1.E at 3 x2 every 4\n.expect x [0.5] 10\n")
    program = assemble_file(source, target)
    save_listing(program, tmp_path / "q.s", QUEUES)
    assert difference(assemble_file(tmp_path / "q.s", target), program) is None
    save_program(program, tmp_path / "p.npz")
    assert difference(load_program(tmp_path / "p.npz"), program) is None
