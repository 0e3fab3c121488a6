"""`decodelab predict`: a CSV of cases through the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.tools.test_cli import refused, run
from tools import predict as predicting
from tools.cases import Case, Column, parse_case

CASES = """\
op,m,n,k,dtype,hidden,batch,note
gemm,1,320,320,int8,,,"first, of two"
lstm_cell_published,,,,,512,1,
gemm,1,320,,int8,,,no k
gemm,1,320,320,int8
lstm_cell,,,,,64,2,x
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("DECODELAB_JOBS", "1")
    cases = tmp_path / "in.csv"
    cases.write_text(CASES)
    return cases, tmp_path / "out.csv"


def predict(capsys: pytest.CaptureFixture[str], files: tuple[Path, Path], *more: str) -> tuple[int, str]:
    """(exit code, standard error); nothing goes to standard output."""
    code, out, err = run(capsys, "predict", "--chip", "groq_tsp_v1", "--cases", str(files[0]), "--out", str(files[1]),
                         *more)
    assert out == ""
    return code, err


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """Cases that are measured from here on."""
    found: list[Case] = []
    original = predicting.attempt

    def attempt(chip: str, settings: tuple[str, ...], case: Case) -> dict[str, Any]:
        found.append(case)
        return original(chip, settings, case)

    monkeypatch.setattr(predicting, "attempt", attempt)
    return found


def test_columns_and_rows_keep_their_order_and_bad_rows_are_told_by_line(capsys, files) -> None:
    code, err = predict(capsys, files)
    assert code == 2
    assert f"error: {files[0]} line 4: gemm: k is missing" in err
    rows = rows_of(files[1])
    header = files[1].read_text().splitlines()[0].split(",")
    assert header[:12] == [*CASES.splitlines()[0].split(","), "cycles", "time_us", "utilisation", "bound_by"]
    assert all(name.endswith("_bytes") for name in header[12:])
    assert {"sram_read_bytes", "sram_write_bytes", "mxm_ingest_bytes"} <= set(header[12:])
    assert [row["note"] for row in rows] == ["first, of two", "", "no k", "", "x"]
    assert [row["cycles"] != "" for row in rows] == [True, True, False, True, True]
    assert rows[2]["sram_read_bytes"] == "" and rows[4]["m"] == ""


def test_figures_are_those_of_the_machine(capsys, files) -> None:
    """670 cycles at 900 MHz are 0.7444 us; 4 x 512 x 1,024 weights / 20,480 = 102.4 cycles are 15.28 % of them."""
    predict(capsys, files)
    published, cell = rows_of(files[1])[1], rows_of(files[1])[4]
    assert published["cycles"] == "670"
    assert published["time_us"] == "0.744444"
    assert published["utilisation"] == "0.1528"
    assert "calibrated on hidden 512, batch 1" in published["bound_by"]
    assert cell["bound_by"] == "latency"
    assert int(cell["mxm_ingest_bytes"]) == 4 * 64 * 2 * 320  # two input vectors a gate: x and h
    assert json.loads((files[1].parent / "out.csv.run.json").read_text())["chip"] == "groq_tsp_v1"


def test_equal_rows_are_measured_once_and_rows_that_are_there_are_kept(capsys, files, counted) -> None:
    predict(capsys, files)
    assert len(counted) == 3  # the two rows of the product are one case
    first = files[1].read_bytes()
    code, err = predict(capsys, files)
    assert code == 2 and "4 of 5 rows are in" in err  # the bad row is looked at again
    assert len(counted) == 3
    assert files[1].read_bytes() == first


def test_only_rows_with_the_same_cells_are_kept(capsys, files, counted) -> None:
    predict(capsys, files)
    files[0].write_text(CASES.replace("64,2,x", "64,3,x").replace("no k", "k?"))
    counted.clear()
    predict(capsys, files)
    assert [case.values for case in counted] == [(("hidden", 64), ("batch", 3))]
    assert [row["note"] for row in rows_of(files[1])] == ["first, of two", "", "k?", "", "x"]


def test_a_file_without_its_note_is_trusted_and_one_of_another_chip_is_not(capsys, files, counted) -> None:
    files[0].write_text("op,hidden,batch\nlstm_cell,64,1\n")
    files[1].write_text("op,hidden,batch,cycles,time_us,utilisation,bound_by,x_bytes\nlstm_cell,64,1,7,1,0.5,me,3\n")
    assert predict(capsys, files)[0] == 0
    assert rows_of(files[1])[0]["cycles"] == "7" and not counted
    assert predict(capsys, files, "--set", "groq_tsp_v1.mxm.latency_cycles=50")[0] == 0
    slow = int(rows_of(files[1])[0]["cycles"])
    assert len(counted) == 1 and slow > 7
    assert predict(capsys, files)[0] == 0
    fast = int(rows_of(files[1])[0]["cycles"])
    assert len(counted) == 2 and fast < slow <= fast + 2 * 10 + 2  # products are at least one pass, at most two, deep


def test_an_interrupt_keeps_what_is_done(capsys, files, monkeypatch) -> None:
    original, calls = predicting.attempt, []

    def attempt(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(predicting, "attempt", attempt)
    code, err = predict(capsys, files)
    assert code == 130 and "interrupted; rows that are done are in" in err
    assert [row["note"] for row in rows_of(files[1])] == ["first, of two", ""]  # both rows of the first case
    predict(capsys, files)
    assert len(calls) == 4  # three cases, one of them twice
    assert len(rows_of(files[1])) == 5


def test_processes_give_the_same_file(capsys, files, monkeypatch) -> None:
    predict(capsys, files)
    alone = files[1].read_bytes()
    files[1].unlink()
    monkeypatch.setenv("DECODELAB_JOBS", "2")
    predict(capsys, files)
    assert files[1].read_bytes() == alone


def test_what_does_not_fit_does_not_end_the_others(capsys, files) -> None:
    files[0].write_text("op,m,n,k,dtype,chips\ngemm,9000,9000,9000,float16,\ngemm,4,4,4,int8,3\ngemm,4,4,4,int8,1\n")
    code, err = predict(capsys, files)
    assert code == 2
    assert "line 2: gemm: operands and result of 9000 x 9000 x 9000 in float16 take 486 MB" in err
    assert "line 3: gemm: chips 3 is not one of 1, 2, 4, 8" in err
    assert [row["cycles"] == "" for row in rows_of(files[1])] == [True, True, False]


def test_comment_lines_and_long_rows(capsys, files) -> None:
    files[0].write_text("# where it comes from\nop,hidden,batch\nlstm_cell,64,1,5\n")
    code, err = predict(capsys, files)
    assert code == 2 and "line 3: has 4 cells for 3 columns" in err


@pytest.mark.parametrize(("text", "message"), [
    ("hidden,batch\n1,1\n", "there is no column op"),
    ("op,op\n", "column op stands twice"),
    ("op,cycles\n", "column cycles is one that predict adds"),
    ("", "empty; its first line names the columns"),
    ('op,a\n"x', "line 2: not CSV"),
])  # fmt: skip
def test_files_that_cannot_be_used_are_refused_in_one_sentence(capsys, files, text: str, message: str) -> None:
    files[0].write_text(text)
    err = refused(capsys, "predict", "--chip", "groq_tsp_v1", "--cases", str(files[0]), "--out", str(files[1]))
    assert message in err
    assert not files[1].exists()


def test_the_output_is_never_the_input_or_a_table_of_something_else(capsys, files) -> None:
    arguments = ("predict", "--chip", "groq_tsp_v1", "--cases", str(files[0]), "--out")
    assert "is the file of the cases" in refused(capsys, *arguments, str(files[0]))
    files[1].write_text("a,b\n1,2\n")
    assert "holds other columns than" in refused(capsys, *arguments, str(files[1]))
    assert files[1].read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(("cells", "message"), [
    ({}, "op is missing; known: gemm, allreduce, decode_attention, lstm_cell, lstm_cell_published"),
    ({"op": "gem"}, "op gem is unknown on groq_tsp_v1; did you mean gemm"),
    ({"op": "lstm_cell", "hidden": "0", "batch": "1"}, "hidden '0' is not a whole number from 1"),
    ({"op": "lstm_cell", "hidden": "-1", "batch": "1"}, "hidden '-1' is not a whole number"),
    ({"op": "lstm_cell", "hidden": "1.5", "batch": "1"}, "hidden '1.5' is not a whole number"),
    ({"op": "gemm", "m": "1", "n": "1", "k": "1", "dtype": "fp8"}, "dtype fp8 is not one of float16, int8"),
    ({"op": "allreduce", "message_bytes": "8"}, "allreduce: chips is missing"),
    ({"op": "allreduce", "num_gpus": "3", "message_bytes": "8"}, "chips 3 is not one of 2, 4, 8"),
    ({"op": "allreduce", "num_gpus": "4", "chips": "8", "message_bytes": "8"}, "chips 8 and num_gpus 4 say two things"),
])  # fmt: skip
def test_cells_are_checked(cells: dict[str, str], message: str) -> None:
    from emulator.chip import load_chip

    with pytest.raises(ValueError, match=message.replace("'", ".")):
        parse_case(cells, load_chip("groq_tsp_v1"))


def test_absent_cells_take_their_default() -> None:
    assert Column("chips", default=1).parse(" ") == 1
    assert Column("kind", ("a", "b")).parse(" b ") == "b"


def test_a_chip_that_no_program_can_be_compiled_for_is_refused_by_its_key(capsys, files) -> None:
    err = refused(capsys, "predict", "--chip", "toy_lpu", "--cases", str(files[0]), "--out", str(files[1]))
    assert "toy_lpu.mem.slices_per_hemisphere = 8: compiled programs need at least 36" in err


@pytest.mark.parametrize("setting", ["vxm.special_cycles=8", "vxm.op_cycles=5", "mxm.latency_cycles=64",
                                     "mxm.install_cycles=4", "vxm.result_column=0", "mxm.f16_feed_cycles=1"])
def test_assumed_numbers_can_be_swept(capsys, files, setting: str) -> None:
    """Schedules follow the chip's numbers: an ALU that ends one operation a cycle, wherever operations differ."""
    files[0].write_text("op,m,n,k,dtype,hidden,batch,kv_len,q_heads,kv_heads,head_dim\n"
                        "gemm,2,700,700,int8\ngemm,50,700,700,float16\nlstm_cell,,,,,512,16\n"
                        "lstm_cell_published,,,,,512,2\ndecode_attention,,,,,,1,40,4,2,16\n")
    code, err = predict(capsys, files, "--set", f"groq_tsp_v1.{setting}")
    assert code == 0, err
    assert all(int(row["cycles"]) > 100 for row in rows_of(files[1]))


def test_operations_over_several_chips(capsys, files) -> None:
    """32 KiB on 8 chips: 2 x 7/8 of it over 7 links of 320 B in 24 cycles are 614.4 cycles. Each chip sends 7 others
    four vectors of four words, twice. An int8 product's arithmetic, 40 x 1300 x 640 /
    (4 x 320 x 320) = 81.25 cycles, is shared by two chips, and more than ingesting 1300 x 640 weights, 40.6."""
    files[0].write_text("op,num_gpus,chips,message_bytes,m,n,k,dtype\nallreduce,8,,32768\nallreduce,,8,32768\n"
                        "gemm,,2,,40,1300,640,int8\nallreduce,2,,20000000\n")
    code, err = predict(capsys, files)
    assert code == 2 and "line 5: allreduce: a message of 15,625 vectors is longer than a memory slice" in err
    first, second, product, _ = rows_of(files[1])
    assert first["cycles"] == second["cycles"]
    assert float(first["utilisation"]) == pytest.approx(614.4 / int(first["cycles"]), abs=1e-4)
    assert first["bound_by"] == "links" and first["c2c_sent_bytes"] == str(8 * 2 * 7 * 4 * 4 * 320)
    assert float(product["utilisation"]) == pytest.approx(81.25 / 2 / int(product["cycles"]), abs=1e-4)


def test_the_numbers_of_chips_are_those_that_programs_take() -> None:
    from programs.lpu.node import CHIPS
    from tools.cases import NODE_CHIPS

    assert NODE_CHIPS == CHIPS
