"""`run`, `asm` and `disasm`: hand-written programs through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tools.test_cli import refused, run

LPU = """
.chip toy_lpu
.data x f32 [1,16] 1.5 @E0:E3
.data y f32 [1,16] @E4:E7
x:    READ    S0.W              arrive 20 VXM
VXM0: ADD.f32 S0.E, S0.W, S0.W  at 20
y:    WRITE   S0.E              at 28
.expect y (x + x)
"""
GPU = """
.chip toy_gpu
.data x f32 [1,32] random 1
.kernel twice(x)
.reg at, v
        S2R     at, LANEID
        SHL     at, at, 2
        LDG.32  v, [x + at]
        ADD.f32 v, v, v
        STG.32  [x + at], v
.launch twice 1 32 0 (x)
.expect x (x + x)
"""
TEXTS = {"lpu": LPU, "gpu": GPU}


@pytest.fixture(params=sorted(TEXTS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param}.s"
    path.write_text(TEXTS[request.param])
    return path


def test_a_program_runs_and_its_expectations_hold(capsys, source: Path) -> None:
    code, out, _ = run(capsys, "run", str(source))
    assert code == 0
    assert "1 of 1 expectations hold" in out


def test_both_engines_tell_the_same(capsys, source: Path) -> None:
    _, fast, _ = run(capsys, "run", str(source), "--json")
    _, naive, _ = run(capsys, "run", str(source), "--json", "--engine", "naive")
    assert json.loads(fast) == json.loads(naive)


def test_a_failed_expectation_is_exit_code_1(capsys, source: Path) -> None:
    source.write_text(source.read_text() + ".expect cycles 1\n")
    code, out, err = run(capsys, "run", str(source))
    assert code == 1
    assert "1 of 2 expectations hold" in out
    assert "expectation failed: cycles: expected 1, got" in err


def test_arrays_go_in_and_out(capsys, source: Path, tmp_path: Path) -> None:
    size = 16 if source.stem == "lpu" else 32
    given = np.arange(size, dtype=np.float32)
    np.save(tmp_path / "x.npy", given)
    result = "y" if source.stem == "lpu" else "x"
    code, _, _ = run(capsys, "run", str(source), "--in", f"x={tmp_path}/x.npy", "--out", f"{result}={tmp_path}/out.npy")
    assert code == 0
    assert np.array_equal(np.load(tmp_path / "out.npy").reshape(-1), 2 * given)


def test_assembling_and_disassembling_gives_the_same_program(capsys, source: Path, tmp_path: Path) -> None:
    assert run(capsys, "asm", str(source), "-o", str(tmp_path / "a.npz"))[0] == 0
    assert run(capsys, "disasm", str(tmp_path / "a.npz"), "-o", str(tmp_path / "b.s"))[0] == 0
    assert run(capsys, "asm", str(tmp_path / "b.s"), "-o", str(tmp_path / "b.npz"))[0] == 0
    _, first, _ = run(capsys, "run", str(tmp_path / "a.npz"), "--json")
    _, second, _ = run(capsys, "run", str(tmp_path / "b.npz"), "--json")
    assert json.loads(first) == json.loads(second)
    code, text, _ = run(capsys, "disasm", str(tmp_path / "a.npz"))
    assert code == 0 and ".dialect" in text


def test_no_output_may_replace_what_is_read(capsys, source: Path, tmp_path: Path, monkeypatch) -> None:
    """FILE.npz holds the arrays of the listing FILE, so `disasm p.npz -o p` would write into its own input."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "p.npz"
    assert run(capsys, "asm", str(source), "-o", "p.npz")[0] == 0
    before = program.read_bytes()
    told = "it is what is being read"
    assert told in refused(capsys, "disasm", "p.npz", "-o", "p")
    assert told in refused(capsys, "disasm", "p.npz", "-o", "p.npz")
    assert told in refused(capsys, "run", "p.npz", "--out", "x=./p.npz")
    assert told in refused(capsys, "asm", str(source), "-o", source.name)
    (tmp_path / "folder.s.npz").mkdir()
    assert "it is a folder" in refused(capsys, "disasm", "p.npz", "-o", "folder.s")
    assert program.read_bytes() == before and not Path("p").exists() and not Path("folder.s").exists()

    assert run(capsys, "disasm", "p.npz", "-o", "p.s")[0] == 0
    arrays = Path("p.s.npz").read_bytes()
    assert told in refused(capsys, "asm", "p.s", "-o", "p.s.npz")
    assert "name the output with -o" in refused(capsys, "asm", "p.s"), "its default output is the original"
    assert program.read_bytes() == before and Path("p.s.npz").read_bytes() == arrays
    assert run(capsys, "asm", "p.s", "-o", "p.npz")[0] == 0, "asked for by name"


def test_a_folder_that_takes_no_file_is_refused_before_the_run(capsys, source: Path) -> None:
    if not Path("/proc/self").exists():
        pytest.skip("there is no /proc here")
    assert "cannot write /proc/y.npy: folder /proc takes no new file" in refused(
        capsys, "run", str(source), "--out", "x=/proc/y.npy"
    )


def test_assembler_and_disassembler_know_the_examples(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "asm", "gemv.lpu.s")[0] == 0
    assert (tmp_path / "gemv.lpu.npz").exists(), "not beside the bundled file"
    assert run(capsys, "disasm", "gemv.lpu.s")[1] == run(capsys, "disasm", "gemv.lpu.npz")[1] != ""
    assert "did you mean the example gemv.lpu.s?" in refused(capsys, "asm", "gemw.lpu.s")


def test_the_grid_of_an_lpu_shows_units_by_cycles(capsys, tmp_path: Path) -> None:
    source = tmp_path / "lpu.s"
    source.write_text(LPU)
    _, out, _ = run(capsys, "run", str(source), "--grid", "15:35")
    lines = dict(line.rsplit("  ", 1) for line in out.splitlines()[1:4])
    # E0..E3 lie in column 1: READ in cycle 19 passes column 0 in cycle 20
    assert lines["MEM.E0..MEM.E3"] == "....R" + 15 * "."
    assert lines["VXM0          "] == ".....A" + 14 * "."
    assert lines["MEM.E4..MEM.E7"] == 13 * "." + "W" + 6 * "."


def test_the_grid_of_a_gpu_shows_each_issue_once_and_changes_no_cycle(capsys, tmp_path: Path) -> None:
    source = tmp_path / "gpu.s"
    source.write_text(GPU)
    _, plain, _ = run(capsys, "run", str(source), "--json")
    cycles = json.loads(plain)["cycles"]
    _, out, _ = run(capsys, "run", str(source), "--grid", f"0:{min(cycles, 2000)}")
    assert f"{cycles:,} cycles" in out
    row = "".join(line[5:].strip() for line in out.splitlines() if line.startswith("SM0.0"))
    # LDP, S2R, SHL, LDG, ADD, STG, EXIT
    assert len(row.replace(".", "")) == 7


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("s8", 128, "holds 128.0, and s8 goes from -128 to 127"),
        ("s8", np.nan, "holds nan, and s8"),
        ("u8", -1, "holds -1.0, and u8 goes from 0 to 255"),
        ("f16", 65520, "holds 65520.0, and f16 goes from -65504 to 65504"),
        ("e4m3", np.inf, "holds inf, and e4m3 goes from -448 to 448"),
        ("f32", 1e39, "holds 1e+39, and f32"),
    ],
)
def test_values_that_a_type_does_not_have_are_refused(
    capsys, tmp_path: Path, dtype: str, value: float, told: str
) -> None:
    (tmp_path / "a.s").write_text(f".chip toy_lpu\n.data x {dtype} [1,16] @E0:E3\nMEM.E0: READ 0, S0.E at 5\n")
    given = np.full((1, 16), 1.0)
    given[0, 3] = value
    np.save(tmp_path / "x.npy", given)
    error = refused(capsys, "run", str(tmp_path / "a.s"), "--in", f"x={tmp_path}/x.npy")
    assert f"--in x={tmp_path}/x.npy: {told}" in error


def test_infinities_and_nan_are_values_of_16_bit_floats() -> None:
    from isa.formats import check_range

    check_range(np.array([np.inf, -np.inf, np.nan, 65504, -65504]), "f16")
    check_range(np.array([-128, 127]), "s8")


def test_an_array_that_promises_too_much_names_its_option(capsys, source: Path, tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    assert f"--in x={tmp_path}/x.npy: not a NumPy array" in refused(
        capsys, "run", str(source), "--in", f"x={tmp_path}/x.npy"
    )


def test_an_output_that_stays_zero_is_shown(capsys, tmp_path: Path) -> None:
    source = tmp_path / "lpu.s"
    source.write_text(LPU.replace("f32 [1,16] 1.5", "f32 [1,16] 0"))
    _, out, _ = run(capsys, "run", str(source), "--json")
    assert json.loads(out)["results"] == {"y": [0.0] * 16}


def test_what_cannot_run_is_refused_in_one_sentence(capsys, source: Path, tmp_path: Path) -> None:
    name = str(source)
    assert "no such file" in refused(capsys, "run", str(tmp_path / "none.s"))
    assert "has no tensor X" in refused(capsys, "run", name, "--in", "X=x.npy")
    assert "no such file" in refused(capsys, "run", name, "--in", f"x={tmp_path}/none.npy")
    assert "there is no folder" in refused(capsys, "run", name, "--out", f"x={tmp_path}/none/x.npy")
    assert "at most 2000 cycles" in refused(capsys, "run", name, "--grid", "0:9999")
    assert "--tokens needs --prompt-ids" in refused(capsys, "run", name, "--tokens", "3")
    assert "is not a decode step" in refused(capsys, "run", name, "--prompt-ids", "3")
    assert "the program is for toy_" in refused(capsys, "run", name, "--set", "h100_sxm.core.sms=3")
    (tmp_path / "text.npy").write_text("hello")
    assert "not a NumPy array" in refused(capsys, "run", name, "--in", f"x={tmp_path}/text.npy")
    np.save(tmp_path / "short.npy", np.zeros(3))
    assert "shape" in refused(capsys, "run", name, "--in", f"x={tmp_path}/short.npy")
    assert not (tmp_path / "out.npy").exists()


def test_a_program_for_other_numbers_of_the_chip_is_refused(capsys, source: Path, tmp_path: Path) -> None:
    setting = {"lpu": "toy_lpu.icu.barrier_cycles=30", "gpu": "toy_gpu.launch.graph_gap=7"}[source.stem]
    program = str(tmp_path / "a.npz")
    assert run(capsys, "asm", str(source), "-o", program, "--set", setting)[0] == 0
    assert "with other numbers" in refused(capsys, "run", program)
    code, out, _ = run(capsys, "run", program, "--set", setting, "--json")
    assert code == 0 and json.loads(out)["failures"] == []


def test_a_broken_program_file_is_refused(capsys, source: Path, tmp_path: Path) -> None:
    program = tmp_path / "a.npz"
    run(capsys, "asm", str(source), "-o", str(program))
    content = program.read_bytes()
    for broken in (b"", content[: len(content) // 2], b"not a program"):
        program.write_bytes(broken)
        assert "a.npz" in refused(capsys, "run", str(program))


def test_a_tensor_beyond_the_sram_is_refused_by_file_and_name(capsys, tmp_path: Path) -> None:
    import io
    import zipfile

    (tmp_path / "lpu.s").write_text(LPU)
    program = tmp_path / "a.npz"
    run(capsys, "asm", str(tmp_path / "lpu.s"), "-o", str(program))
    with np.load(program) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["tensor_words"][0] = 8192  # toy_lpu: 16 slices x 512 words
    with zipfile.ZipFile(program, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    assert "a.npz: tensor x lies beyond the chip's 8192 SRAM words" in refused(capsys, "run", str(program))


def test_an_error_in_the_text_names_file_line_and_column(capsys, source: Path) -> None:
    source.write_text(source.read_text().replace("ADD.f32", "ADDD.f32"))
    code, out, err = run(capsys, "run", str(source))
    assert (code, out) == (2, "")
    assert f"{source}:" in err and "ADD" in err and "^" in err


def test_launch_makes_no_sense_for_an_lpu(capsys, tmp_path: Path) -> None:
    source = tmp_path / "lpu.s"
    source.write_text(LPU)
    assert "launches no kernels" in refused(capsys, "run", str(source), "--launch", "graph")


def test_examples_run_by_name_from_anywhere(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "run", "gemv.lpu.s", "--grid", "0:100")
    assert code == 0
    assert "expectations hold" in out
    assert "did you mean the example gemv.lpu.s?" in refused(capsys, "run", "gemw.lpu.s")
