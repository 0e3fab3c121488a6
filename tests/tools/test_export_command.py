"""`decodelab export` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.trace_file import write_trace
from tests.tools.kanata_reader import read
from tests.tools.made_traces import gpu_trace, lpu_trace
from tests.tools.test_cli import refused, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_trace(gpu_trace(2000), tmp_path / "t" / "h100_sxm", {"chip_hash": "abc"})
    write_trace(lpu_trace(500), tmp_path / "t" / "groq_tsp_v1")
    return tmp_path / "t"


def test_every_format_is_written(capsys, folder: Path, tmp_path: Path) -> None:
    for name, source in (("perfetto", folder), ("csv", folder), ("kanata", folder / "h100_sxm")):
        code, out, err = run(capsys, "export", str(source), "--format", name, "-o", str(tmp_path / name))
        assert (code, out) == (0, "") and "wrote" in err
        assert (tmp_path / name).stat().st_size > 1000


def test_a_window_some_units_some_kinds(capsys, folder: Path, tmp_path: Path) -> None:
    """Only rows of SM0.1 that overlap cycles 100 to 899."""
    out = tmp_path / "o"
    run(capsys, "export", str(folder / "h100_sxm"), "--format", "kanata", "-o", str(out), "--window", "100:900",
        "--units", "SM0.1")
    trace = gpu_trace(2000)
    wanted = (trace.kind == 0) & (trace.unit == 1) & (trace.start < 900) & (trace.end > 100)
    assert len(read(out)[1]) == int(wanted.sum()) > 10
    run(capsys, "export", str(folder), "--format", "csv", "-o", str(out), "--kinds", "stall")
    kinds = {line.split(",")[6] for line in out.read_text().splitlines()[1:]}
    assert kinds == {"stall"}
    run(capsys, "export", str(folder), "--format", "csv", "-o", str(out), "--units", "SM0.0,MEM.*", "--window", "0:900")
    rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
    assert {row[2] for row in rows} == {"SM0.0", "MEM.E4"} and {row[0] for row in rows} == {"h100_sxm", "groq_tsp_v1"}


def test_bad_input_is_told_in_one_sentence_and_leaves_nothing(capsys, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"

    def no(source: Path, *more: str, name: str = "csv", to: Path = out) -> str:
        return refused(capsys, "export", str(source), "--format", name, "-o", str(to), *more)

    assert "there is no such folder" in no(tmp_path / "nowhere")
    assert "holds no run.json" in no(tmp_path)
    assert "a Kanata file holds one chip" in no(folder, name="kanata")
    assert "is not inside what was recorded: 0:4000 of h100_sxm" in no(folder / "h100_sxm", "--window", "3000:5000")
    assert "no such unit in the trace" in no(folder / "h100_sxm", "--units", "MEM.*")
    assert "--kinds sram" in no(folder / "h100_sxm", "--kinds", "sram")
    assert "'pdf'" in refused(capsys, "export", str(folder), "--format", "pdf", "-o", str(out))
    assert "there is no folder" in no(folder, to=tmp_path / "no" / "o")
    assert "it is what is being read" in no(folder / "h100_sxm", to=folder / "h100_sxm" / "events.parquet")
    events = folder / "h100_sxm" / "events.parquet"
    events.write_bytes(events.read_bytes()[:-100])
    assert "truncated" in no(folder)
    assert not out.exists()
