"""Program files: damaged and hostile ones are refused with one sentence, and nothing is left half-written."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa import programfile
from isa.assembler import assemble
from isa.files import write_atomically
from isa.programfile import ProgramFileError, load_program, save_program
from tests.isa.programs import target

GPU = """.chip toy_gpu
.data x f32 [1,32] random 1
.kernel k(x)
.reg v
LDG.32 v, [x]
.launch k 1 32 0 (x)
"""
LPU = """.chip toy_lpu
.data x s8 [2,16] random 1 @E0
.map m (l)
x: READ S0.E at 0 x2
SXM.E.PERMUTE0: PERMUTE 1, S0.E, S4.W, m at 40
"""


@pytest.fixture
def files(tmp_path):
    paths = {}
    for name, text in (("gpu", GPU), ("lpu", LPU)):
        paths[name] = tmp_path / f"{name}.npz"
        save_program(assemble(text, target), paths[name])
    return paths


def parts(path):
    """(header, arrays) of a file."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return json.loads(arrays.pop("header").tobytes()), arrays


def write(path, header, arrays):
    encoded = json.dumps(header).encode() if isinstance(header, dict) else header
    programfile.save_arrays(path, {"header": np.frombuffer(encoded, dtype=np.uint8), **arrays})


def refused(path, message):
    with pytest.raises(ProgramFileError, match=message) as caught:
        load_program(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_other_files_are_not_program_files(tmp_path):
    path = tmp_path / "p.npz"
    for content in (b"", b"hello", b"PK\x03\x04" + bytes(100), pickle.dumps({"a": 1})):
        path.write_bytes(content)
        refused(path, "not a program file, or a damaged one")
    np.savez(path, a=np.zeros(3))
    refused(path, "the array header is missing")
    np.savez(path, header=np.array([object()], dtype=object))
    refused(path, "is not an array of plain numbers")
    with pytest.raises(OSError):
        load_program(tmp_path / "nowhere.npz")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_or_missing_byte_never_passes_as_something_else(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "p.npz"
    save_program(assemble(GPU if data.draw(st.booleans()) else LPU, target), path)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[:data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    try:
        load_program(path)  # a byte that nobody reads (a date, a comment) may change
    except ProgramFileError as error:
        assert "\n" not in str(error)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "p.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50,)})
        archive.writestr("header.npy", head.getvalue() + bytes(1000))
    refused(path, "shorter than its shape")
    content = path.read_bytes()
    size = (len(head.getvalue()) + 1000).to_bytes(4, "little")
    path.write_bytes(content.replace(size, (0xFFFFFF00).to_bytes(4, "little")))
    refused(path, "says it unpacks to 4294967040 bytes|damaged")


def test_odd_entry_names_are_refused(tmp_path):
    path = tmp_path / "p.npz"
    for name in ("../header.npy", "a\\b.npy", "header.txt"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, b"x")
        refused(path, "unexpected entry")


@pytest.mark.parametrize("change,message", [
    (lambda h, a: h.update(format="decodelab.program/9"), "not a program file of this version"),
    (lambda h, a: h.update(dialect="cpu"), "unknown dialect 'cpu'"),
    (lambda h, a: h.pop("chip"), "chip is missing from the header"),
    (lambda h, a: h.update(meta=3), "meta is missing from the header or of another type"),
    (lambda h, a: h.update(chips=[]), "the table of chips is empty"),
    (lambda h, a: h.update(chips=[[0, 5, []]]), "names a text or an image that is not there"),
    (lambda h, a: h.update(chips=[7]), "the table of chips is damaged"),
    (lambda h, a: h["texts"][0]["kernels"][0].update(count=99), "kernel k lies outside the text"),
    (lambda h, a: h["texts"][0]["kernels"][0].update(registers=0), "kernel k uses 1 registers, but declares 0"),
    (lambda h, a: h["texts"][0]["kernels"][0].update(registers=True), "registers is missing"),
    (lambda h, a: h["texts"][0]["kernels"][0].update(parameters=[]), "LDP of parameter 0; it has 0"),
    (lambda h, a: h["texts"][0]["launches"][0].update(kernel=1), "launch 0 names kernel 1; there are 1"),
    (lambda h, a: h["texts"][0]["launches"][0].update(block=33), "launch 0: grid 1, block 33, shared 0 are not"),
    (lambda h, a: h["texts"][0]["launches"][0].update(after=[0]), "launch 0 waits for a launch that does not come"),
    (lambda h, a: h["texts"][0]["launches"][0].update(arguments=[]), "launch 0 has 0 arguments, its kernel takes 1"),
    (lambda h, a: h["texts"][0]["launches"][0].update(arguments=[1 << 63]), "arguments holds 9223372036854775808"),
    (lambda h, a: h["images"][0].update(phantom_base=0, phantom_bytes=9), "phantom memory at 0 overlaps the real"),
    (lambda h, a: h["tensors"][0].update(address=1 << 20), "tensor x lies outside the memory image"),
    (lambda h, a: h["tensors"][0].update(dtype="f64"), "tensor x: format 'f64'"),
    (lambda h, a: h["tensors"].append(h["tensors"][0]), "tensor x is there twice"),
    (lambda h, a: a["text0.words"].__setitem__(0, 0xFF), "no gpu instruction has opcode 0xff"),
    (lambda h, a: a["text0.words"].__ior__(np.array([0, 7 << 12, 0], np.uint64)), r"1 \(LDG\): width = 7 is not"),
    (lambda h, a: a["text0.words"].__ior__(np.array([0, 0, 1 << 40], np.uint64)), "EXIT: bits above the last field"),
    (lambda h, a: a.update({"text0.words": a["text0.words"].astype(np.int64)}), "the array text0.words is missing"),
    (lambda h, a: a["text0.source_line"].__setitem__(0, 999), "the source map of text 0 is damaged"),
])
def test_damaged_gpu_programs(files, change, message):
    header, arrays = parts(files["gpu"])
    change(header, arrays)
    write(files["gpu"], header, arrays)
    refused(files["gpu"], message)


@pytest.mark.parametrize("change,message", [
    (lambda h, a: a["text0.starts"].__setitem__(0, 1), "the queues do not add up to the words"),
    (lambda h, a: a["text0.starts"].__setitem__(-1, 99), "the queues do not add up to the words"),
    (lambda h, a: a.update({"text0.maps": a["text0.maps"][:0]}), "PERMUTE names map 0; there are 0"),
    (lambda h, a: a["image0.words"].__setitem__(0, -1), "an image holds a negative word number"),
    (lambda h, a: a.update({"image0.data": a["image0.data"][:1]}), "an image has 2 words and 1 rows of bytes"),
    (lambda h, a: h["tensors"][0].update(words=[0, 2, 1, 9]), "tensor x: its word table is damaged"),
    (lambda h, a: h["tensors"][0].pop("words"), "words is missing from the header"),
    (lambda h, a: a["tensor_words"].__setitem__(0, -5), "tensor x holds a negative word number"),
    (lambda h, a: a["text0.words"].__setitem__(0, int(a["text0.words"][1])), "a queue begins with REPEAT"),
    (lambda h, a: a["text0.words"].__setitem__(0, 0x3C), r"0 \(SEND\): port = 0 is not allowed"),
    (lambda h, a: h.update(chips=[[0, 0, [3]], [0, 0, [3]]]), "chip 3 is in the table of chips twice"),
    (lambda h, a: h.update(chips=[[0, 0, [-1]]]), r"coordinates \(-1,\) hold a chip number or a start that"),
    (lambda h, a: h.update(chips=[[0, 0, [0, 1 << 62]]]), "hold a chip number or a start that is not possible"),
    (lambda h, a: h.update(chips=[[0, 0, [0, 0, 16]]]), "give a role to a port that no chip has"),
    (lambda h, a: h["tensors"][0].update(chips=[1]), r"tensor x lies on chips \[1\]; there are 1"),
    (lambda h, a: h["tensors"][0].update(chips=[]), r"tensor x lies on chips \[\]"),
    (lambda h, a: h["tensors"][0].update(chips=[0, 0]), r"tensor x lies on chips \[0, 0\]"),
    (lambda h, a: h["tensors"][0].update(sharded=1), "sharded is missing from the header or of another type"),
    (lambda h, a: h["tensors"][0].update(sharded=True, replicated=True), "tensor x cannot be sharded"),
])
def test_damaged_lpu_programs(files, change, message):
    header, arrays = parts(files["lpu"])
    change(header, arrays)
    write(files["lpu"], header, arrays)
    refused(files["lpu"], message)


def test_files_from_before_there_were_several_chips_still_load(files):
    header, arrays = parts(files["lpu"])
    del header["tensors"][0]["chips"], header["tensors"][0]["sharded"]
    write(files["lpu"], header, arrays)
    tensor = load_program(files["lpu"]).tensors["x"]
    assert tensor.chips == (0,) and not tensor.sharded


def test_a_header_that_is_not_json(files):
    _, arrays = parts(files["gpu"])
    for bad in (b"{", b"\xff", b"[" * 100_000, b"3"):
        write(files["gpu"], bad, arrays)
        refused(files["gpu"], "the header is not JSON|not a program file of this version")


def test_what_cannot_be_written_leaves_nothing(files, tmp_path):
    program = load_program(files["gpu"])
    with pytest.raises(OSError):
        save_program(program, tmp_path / "nowhere" / "p.npz")
    before = files["gpu"].read_bytes()
    program.meta["bad"] = object()
    with pytest.raises(TypeError):
        save_program(program, files["gpu"])
    assert files["gpu"].read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gpu.npz", "lpu.npz"]


def test_links_and_devices_are_written_through(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", b"abc")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"abc"
    with pytest.raises(OSError):
        write_atomically(tmp_path, b"abc")


@pytest.mark.parametrize(("name", "value"), [
    ("context", None), ("context", "x"), ("context", 0), ("context", True), ("batch", []), ("predicted_cycles", 1.5),
    ("timing_only", 1), ("system", 3), ("model", None),
])
def test_meta_that_programs_rely_on_has_its_type(files, name, value):
    header, arrays = parts(files["lpu"])
    header["meta"] = {name: value, "note": [1]}
    write(files["lpu"], header, arrays)
    refused(files["lpu"], f"meta {name} is")
    header["meta"] = {"note": [1]}
    write(files["lpu"], header, arrays)
    assert load_program(files["lpu"]).meta == {"note": [1]}


def test_a_program_is_shown_in_a_line(files):
    program = load_program(files["lpu"])
    assert repr(program) == "<Program toy_lpu: 4 instructions, 1 tensors>"  # READ, REPEAT; NOP, PERMUTE
