"""`decodelab trace`, `query` and `heat`: what they write and answer, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulator.trace_file import EVENTS, read_trace, trace_folders, write_trace
from tests.traces import small_gpu, small_lpu
from tools import cli

BYTES = "SELECT level, sum(bytes * weight) AS bytes FROM events WHERE level IS NOT NULL GROUP BY level ORDER BY level"
PRESET = "smollm2-135m"
EXAMPLES = sorted(path.name for path in (Path(__file__).parents[2] / "programs" / "examples").glob("*.s"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a refusal."""
    code, out, err = run(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and out == "" and len(lines) == 1, (code, out, err)
    return lines[0]


def answer(capsys: pytest.CaptureFixture[str], folder: Path, sql: str) -> list[list]:
    code, out, _ = run(capsys, "query", folder, sql, "--json")
    assert code == 0
    rows: list[list] = json.loads(out)["rows"]
    return rows


def check_folder(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """Traffic by level as `query` counts it, and cycles of units, are those that the run reports."""
    trace, facts = read_trace(folder)
    assert trace.whole()
    counted = dict(answer(capsys, folder, BYTES))
    assert counted == {level: count for level, count in facts["traffic_bytes"].items() if count}
    spent = answer(capsys, folder, """
        SELECT unit_class, reason, sum(cycles)::BIGINT FROM (
            SELECT unit_class, reason, ("end" - start) * weight AS cycles FROM events WHERE kind = 'stall'
            UNION ALL
            SELECT unit_class, 'busy', weight FROM (SELECT DISTINCT unit_class, chip, unit, start, weight FROM events
                                                    WHERE kind = 'issue')
            UNION ALL
            SELECT unit_class, kind[6:], ("end" - start) * weight FROM events WHERE kind LIKE 'bulk\\_%' ESCAPE '\\')
        GROUP BY ALL""")
    found: dict[str, dict[str, int]] = {}
    for unit, reason, cycles in spent:
        found.setdefault(unit, {})[reason] = cycles
    expected = {unit: {reason: cycles for reason, cycles in buckets.items() if cycles and reason != "idle"}
                for unit, buckets in facts["unit_accounting"].items()}
    assert found == {unit: buckets for unit, buckets in expected.items() if buckets}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_examples_trace_agrees_with_what_its_run_reports(name: str, capsys, tmp_path: Path) -> None:
    code, out, _ = run(capsys, "trace", name, "-o", tmp_path / "t")
    assert code == 0 and out.startswith("wrote ")
    (folder,) = trace_folders(tmp_path / "t")
    check_folder(capsys, folder)
    assert run(capsys, "heat", tmp_path / "t")[0] == 0


@pytest.mark.parametrize("chip", ["groq_tsp_v1", "h100_sxm"])
def test_a_models_token_agrees_with_what_its_run_reports(chip: str, capsys, tmp_path: Path) -> None:
    """The bundled model in full, every number computed: the step that feeds its third token."""
    code, _, _ = run(capsys, "trace", "--model", "tiny_kjv", "--chip", chip, "--prompt-ids", "41,78,259", "--tokens",
                     "1", "--token", "2", "-o", tmp_path / "t")
    assert code == 0
    check_folder(capsys, tmp_path / "t" / chip)
    run_json = read_trace(tmp_path / "t" / chip)[1]
    assert run_json["trigger"]["token"] == 2 and run_json["model"] == "tiny_kjv"
    assert sum(leaf["cycles"] for leaf in run_json["time_tree"]) == run_json["cycles"]


@pytest.mark.parametrize("chip", ["groq_tsp_v1", "h100_sxm"])
def test_a_presets_layer_agrees_with_what_its_run_reports(chip: str, capsys, tmp_path: Path) -> None:
    """A layer of a real model, every event, in less than ten bytes each."""
    options = ("--model", PRESET, "--chip", chip, "--timing-only", "--context", "256", "--layers", "0:1")
    assert run(capsys, "trace", *options, "-o", tmp_path / "t")[0] == 0
    check_folder(capsys, tmp_path / "t" / chip)
    trace, facts = read_trace(tmp_path / "t" / chip)
    (plain,) = json.loads(run(capsys, "compare", *options, "--json")[1])["chips"]  # recording has changed nothing
    assert plain["cycles_per_token"] == trace.cycles
    assert plain["traffic_bytes"] == facts["traffic_bytes"] and plain["unit_accounting"] == facts["unit_accounting"]
    assert len(trace) > 50_000
    assert sum(file.stat().st_size for file in (tmp_path / "t" / chip).iterdir()) < 10 * len(trace)


@pytest.mark.parametrize("chip", ["groq_tsp_v1", "h100_sxm"])
def test_a_layer_alone_is_told_as_a_part(chip: str, capsys, tmp_path: Path) -> None:
    code, _, _ = run(capsys, "trace", "--model", "tiny_kjv", "--chip", chip, "--timing-only", "--context", "64",
                     "--layer", "1", "--kinds", "issue,stall", "-o", tmp_path / "t")
    assert code == 0
    trace, _ = read_trace(tmp_path / "t" / chip)
    assert not trace.whole() and len(trace) and trace.kinds == ["issue", "stall"]
    assert (trace.launches_recorded is None) == (chip == "groq_tsp_v1")
    rows = answer(capsys, tmp_path / "t", "SELECT DISTINCT layer FROM events WHERE kind = 'issue'")
    layers = {row[0] for row in rows}
    assert 1 in layers and (chip == "groq_tsp_v1" or layers == {1})


def test_queries_that_cannot_be_are_refused(capsys, tmp_path: Path) -> None:
    write_trace(small_gpu(), tmp_path / "t")
    other = tmp_path / "other.csv"
    for sql, sentence in (
            ("SELEC 1", "syntax error"), ("SELECT nope FROM events", "nope"), ("", "0 statements"),
            ("SELECT 1; SELECT 2", "2 statements"), ("CREATE TABLE x AS SELECT 1", "can only read"),
            (f"COPY events TO '{other}'", "can only read"),
            (f"SELECT * FROM read_parquet('{tmp_path}/t/{EVENTS}')", "disabled"),
            ("SET enable_external_access = true", "can only read")):
        assert sentence in refused(capsys, "query", tmp_path / "t", sql), sql
    assert not other.exists()


def test_traces_that_are_none_are_refused(capsys, tmp_path: Path) -> None:
    write_trace(small_gpu(), tmp_path / "t")
    events = tmp_path / "t" / EVENTS
    events.write_bytes(events.read_bytes()[:-20])
    for command in (("query", "SELECT 1"), ("heat",)):
        assert "truncated" in refused(capsys, command[0], tmp_path / "t", *command[1:])
        assert "no such folder" in refused(capsys, command[0], tmp_path / "none", *command[1:])
    text = (tmp_path / "t" / "run.json").read_text().replace("decodelab.trace/2", "decodelab.trace/7")
    (tmp_path / "t" / "run.json").write_text(text)
    assert "version decodelab.trace/7" in refused(capsys, "heat", tmp_path / "t")


def test_traces_that_cannot_be_made_are_refused(capsys, tmp_path: Path) -> None:
    gemv, folder = "gemv.lpu.s", tmp_path / "t"
    assert "ends after 111 cycles" in refused(capsys, "trace", gemv, "-o", folder, "--window", "5000:6000")
    assert "event kind isue is unknown" in refused(capsys, "trace", gemv, "-o", folder, "--kinds", "isue")
    assert "--chip is for models" in refused(capsys, "trace", gemv, "--chip", "h100_sxm", "-o", folder)
    assert "has no kernels" in refused(capsys, "trace", gemv, "--kernel", "x", "-o", folder)
    assert "no instruction of the program" in refused(capsys, "trace", gemv, "--layer", "9", "-o", folder)
    assert "a program is run once" in refused(capsys, "trace", gemv, "--token", "1", "-o", folder)
    (tmp_path / "file").write_text("mine")
    assert "it is a file" in refused(capsys, "trace", gemv, "-o", tmp_path / "file")
    assert "is a file" in refused(capsys, "trace", gemv, "-o", tmp_path / "file" / "t")
    assert not folder.exists() and (tmp_path / "file").read_text() == "mine"
    assert "takes no new file" in refused(capsys, "trace", gemv, "-o", "/proc/t")
    tokens = ("--model", "tiny_kjv", "--prompt-ids", "5", "--tokens", "1", "--chip", "groq_tsp_v1")
    assert "the run has steps 0 to 0" in refused(capsys, "trace", *tokens, "--token", "4", "-o", folder)


def test_heat_of_a_small_trace(capsys, tmp_path: Path) -> None:
    """ADD: issued on both sub-cores, and ten cycles waited for; two chips of which one was run count double."""
    write_trace(small_gpu(), tmp_path / "g")
    write_trace(small_lpu(), tmp_path / "l")
    code, out, _ = run(capsys, "heat", tmp_path / "g", "--json")
    assert code == 0
    (chip,) = json.loads(out)["chips"]
    add = next(line for line in chip["lines"] if line["asm"].startswith("ADD"))
    assert add == {"kernel": "add", "node": "layers.0.add", "line": 4, "asm": "ADD.F32 R2, R1, R1", "cycles": 12,
                   "issued": 2, "stalled": 10, "reasons": {"global_memory": 10}}
    # Launch 2 x 4, memory 10, no warp 2 and 14, six issues: 40 cycles, 20 of each sub-core.
    assert [(node["node"], node["cycles"]) for node in chip["nodes"]] == [("layers.0.add", 40)]
    code, out, _ = run(capsys, "heat", tmp_path / "l", "--json")
    read = next(line for line in json.loads(out)["chips"][0]["lines"] if "READ" in line["asm"])
    assert (read["issued"], read["stalled"], read["line"]) == (4, 0, 2)
    code, out, _ = run(capsys, "heat", tmp_path / "l", "--json", "--kernel", "MEM.E4")
    assert code == 0 and {line["kernel"] for line in json.loads(out)["chips"][0]["lines"]} == {"MEM.E4"}
    for form in ((), ("--json",)):
        assert "nothing of it was recorded" in refused(capsys, "heat", tmp_path / "g", "--kernel", "gemm*", *form)


def test_kinds_that_a_machine_does_not_write_are_refused(capsys, tmp_path: Path) -> None:
    for kinds in ("stream_byte_hops", ""):
        words = refused(capsys, "trace", "gemv.gpu.s", "--kinds", kinds, "-o", tmp_path / "t")
        assert "toy_gpu has none of them; its kinds: issue, stall" in words
    assert not (tmp_path / "t").exists()


def test_what_is_no_number_is_null_in_json(capsys, tmp_path: Path) -> None:
    write_trace(small_gpu(), tmp_path / "t")
    assert answer(capsys, tmp_path / "t", "SELECT 1/0, 0/0, 'nan'::FLOAT, 1/2") == [[None, None, None, 0.5]]


@pytest.mark.parametrize(("cycles", "window"), [
    (20, [0, 1 << 63]), (20, [15, 10]), (20, [0, 21]), (20, [-1, 20]), (-5, [0, 0]), (1 << 60, [0, 1 << 60]),
])  # fmt: skip
def test_a_window_outside_its_step_is_no_trace(cycles: int, window: list[int], capsys, tmp_path: Path) -> None:
    write_trace(small_gpu(), tmp_path / "t")
    place = tmp_path / "t" / "run.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"cycles": cycles, "window": window}))
    for command in (("export", tmp_path / "t", "--format", "perfetto", "-o", tmp_path / "p"), ("heat", tmp_path / "t")):
        assert "not a trace of this version" in refused(capsys, *command)
