"""Traces on disk: what comes back, the same bytes twice, and one sentence for everything that is no trace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emulator.trace import KIND_INDEX, Trace, TraceError, Window, in_order
from emulator.trace_file import EVENTS, read_run, read_trace, trace_folders, write_trace
from emulator.trace_sql import connect
from tests.traces import small_gpu, small_lpu

BOTH = pytest.mark.parametrize("make", [small_gpu, small_lpu])


def same(one: Trace, other: Trace) -> bool:
    columns = all(np.array_equal(a, b) for a, b in zip(one.columns().values(), other.columns().values(), strict=True))
    return columns and all(getattr(one, name) == getattr(other, name) for name in (
        "dialect", "chip", "cycles", "window", "units", "instructions", "launches", "chips", "kinds",
        "launches_recorded"))


@BOTH
def test_what_is_written_comes_back(make, tmp_path: Path) -> None:
    trace = make('<script>alert("1")</script>')
    write_trace(trace, tmp_path / "t", {"options": {"layer": 0}})
    found, run = read_trace(tmp_path / "t")
    assert same(trace, found)
    assert run["options"] == {"layer": 0} and run["schema"] == "decodelab.trace/2"
    assert [file.name for file in tmp_path.iterdir()] == ["t"]


@BOTH
def test_the_same_trace_gives_the_same_bytes(make, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_trace(make(), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_rows_in_any_order_become_the_same_trace() -> None:
    columns = {name: np.concatenate([c, c]) for name, c in small_gpu().columns().items()}
    rng = np.random.default_rng(1)
    for _ in range(5):
        order = rng.permutation(len(columns["start"]))
        mixed = in_order({name: c[order] for name, c in columns.items()})
        assert all(np.array_equal(mixed[name], in_order(columns)[name]) for name in columns)


def test_traffic_counts_chips_that_were_not_run() -> None:
    # 3 accesses of 320 bytes, two chips; 4 + 8 + 4 + 4 bytes of instructions; 17 hops of two values.
    found = {k: v for k, v in small_lpu().traffic().items() if v}
    assert found == {"sram_read": 2 * 640, "sram_write": 2 * 320, "instruction_fetch": 2 * 20,
                     "stream_byte_hops": 2 * 2 * 17 * 320}
    assert small_gpu().traffic()["l2_read"] == 128


def test_an_older_trace_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    write_trace(small_gpu(), tmp_path / "t")
    write_trace(small_lpu(), tmp_path / "t")
    assert read_trace(tmp_path / "t")[0].dialect == "lpu"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(TraceError, match="holds something other than a trace"):
        write_trace(small_gpu(), tmp_path / "mine")
    with pytest.raises(TraceError, match="it is a file"):
        write_trace(small_gpu(), tmp_path / "mine" / "thesis.tex")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "t"]


def broken(folder: Path, what: str) -> None:
    run = json.loads((folder / "run.json").read_text())
    if what == "version":
        run["schema"] = "decodelab.trace/99"
    elif what == "schema":
        run = {"schema": "decodelab.run/1"}
    elif what == "key":
        del run["cycles"]
    elif what == "type":
        run["window"] = ["a", 3]
    elif what == "kinds":
        run["kinds"][0] = "issued"
    elif what == "dialect":
        run["dialect"] = "tpu"
    elif what == "truncated":
        data = (folder / EVENTS).read_bytes()
        (folder / EVENTS).write_bytes(data[: len(data) // 2])
    elif what == "missing":
        (folder / EVENTS).unlink()
    elif what == "column":
        (folder / EVENTS).write_bytes((folder / "units.parquet").read_bytes())
    elif what == "pointer":
        trace = read_trace(folder)[0]
        trace.unit[0] = 1000
        write_trace(trace, folder)
        return
    (folder / "run.json").write_text("{" if what == "json" else json.dumps(run))


@pytest.mark.parametrize("what, sentence", [
    ("version", "of version decodelab.trace/99, this program reads decodelab.trace/2"),
    ("schema", "does not say schema"),
    ("key", "missing required field `cycles`"), ("type", "expected `int`"), ("kinds", "other names"),
    ("dialect", "dialect tpu"), ("truncated", "truncated"), ("missing", "the file is missing"),
    ("column", "column .* not as expected"), ("json", "no JSON"), ("pointer", "a unit points outside its table"),
])
def test_what_is_no_whole_trace_is_refused_in_a_sentence(what: str, sentence: str, tmp_path: Path) -> None:
    write_trace(small_gpu(), tmp_path / "t")
    broken(tmp_path / "t", what)
    with pytest.raises(TraceError, match=sentence) as caught:
        read_trace(tmp_path / "t")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="there is no such folder"):
        read_run(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="this is a file"):
        read_run(tmp_path / "file")


def test_a_folder_may_hold_one_trace_or_one_a_chip(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_trace(small_gpu(), tmp_path / "all" / name)
    assert [p.name for p in trace_folders(tmp_path / "all")] == ["a", "b"]
    assert trace_folders(tmp_path / "all" / "b") == [tmp_path / "all" / "b"]
    with pytest.raises(TraceError, match="holds no run.json"):
        trace_folders(tmp_path)


def test_a_window_names_kinds_that_exist() -> None:
    assert Window(kinds=frozenset({"issue", "cta"})).mask() == 1 | 1 << KIND_INDEX["cta"]
    with pytest.raises(TraceError, match="event kind isue is unknown"):
        Window(kinds=frozenset({"isue"})).mask()


@pytest.mark.parametrize("text", ["no JSON", "[1]", '{"x": 1}'])
def test_a_launch_whose_tensors_cannot_be_read_is_refused(text: str) -> None:
    trace = small_gpu()
    trace.launches.tensors[0] = text
    with pytest.raises(TraceError, match="a launch's tensors are no JSON object of texts"):
        trace.check()


def test_events_have_the_tensor_of_their_launch_or_of_their_instruction() -> None:
    """GPU: LDG says x and STG y, the launch says layers.0.x and layers.0.y; LPU: READ and WRITE say so themselves."""
    sql = "SELECT DISTINCT opcode, tensor FROM events WHERE kind = 'issue' AND tensor IS NOT NULL ORDER BY opcode"
    assert small_gpu().query(sql).fetchall() == [("LDG", "layers.0.x"), ("STG", "layers.0.y")]
    assert small_lpu().query(sql).fetchall() == [("READ", "layers.0.x"), ("WRITE", "layers.0.y")]
    assert connect(small_lpu(), small_gpu()).sql(sql).fetchall() == [
        ("LDG", "layers.0.x"), ("READ", "layers.0.x"), ("STG", "layers.0.y"), ("WRITE", "layers.0.y")]  # fmt: skip
