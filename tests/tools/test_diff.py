"""`decodelab diff`: what is compared, in which order it is told, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emulator.trace_file import write_trace
from tests.tools.test_cli import refused, run
from tests.traces import small_gpu, small_lpu


def entry(chip: str = "h100_sxm", cycles: int = 1000, **more: Any) -> dict[str, Any]:
    return {"chip": chip, "chip_hash": "aa", "cycles_per_token": cycles,
            "traffic_bytes": {"hbm_read": 4096, "l2_read": 8192},
            "unit_accounting": {"sub_core": {"busy": 100, "global_memory": 900}}, **more}


def compare_file(path: Path, *entries: dict[str, Any], **more: Any) -> Path:
    head = {"schema": "decodelab.compare/1", "model": "m", "context": 64, "batch": 1, "chips": list(entries)}
    path.write_text(json.dumps(head | more))
    return path


def changes(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(capsys, "diff", *arguments, "--json")
    return code, json.loads(out)


def test_equal_results_do_not_differ(capsys, tmp_path) -> None:
    a = compare_file(tmp_path / "a.json", entry(), entry("groq_tsp_v1"))
    code, out, err = run(capsys, "diff", str(a), str(a))
    assert (code, err) == (0, "")
    assert out == "".join(f"{chip}, m, context 64, batch 1: 1,000 -> 1,000 cycles, unchanged\n"
                          "  no other counter differs\n" for chip in ("h100_sxm", "groq_tsp_v1"))


def test_what_changed_is_named_by_section_biggest_first(capsys, tmp_path) -> None:
    tree = [{"path": ["token", f"layer {i}", "qkv gemv", cause], "cycles": c}
            for i in (0, 1) for cause, c in (("waiting for loads", 300), ("issuing", 200))]
    slower = [dict(leaf) for leaf in tree]
    slower[0]["cycles"], slower[3]["cycles"] = 390, 190
    a = compare_file(tmp_path / "a.json", entry(time_tree=tree))
    b = entry(cycles=1080, time_tree=slower, chip_hash="bb")
    b["traffic_bytes"] = {"hbm_read": 6144, "l2_read": 8192}
    compare_file(tmp_path / "b.json", b)
    code, out, err = run(capsys, "diff", str(a), str(tmp_path / "b.json"))
    assert code == 1
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "h100_sxm, m, context 64, batch 1: 1,000 -> 1,080 cycles, +80 (+8.00 %)",
        "the chip's numbers differ",
        "cycles by kernel", "qkv gemv 1,000 -> 1,080 +80 +8.00 %",
        "cycles by cause", "waiting for loads 600 -> 690 +90 +15.00 %", "issuing 400 -> 390 -10 -2.50 %",
        "cycles by layer, kernel and cause", "layer 0/qkv gemv/waiting for loads 300 -> 390 +90 +30.00 %",
        "layer 1/qkv gemv/issuing 200 -> 190 -10 -5.00 %",
        "bytes moved, by level", "hbm_read 4,096 -> 6,144 +2,048 +50.00 % 2.05 kB"]
    assert err == ("rose: h100_sxm, m, context 64, batch 1: cycles 1,000 -> 1,080 (+8.00 %, tolerance 0 %)\n")


@pytest.mark.parametrize(("cycles", "tolerance", "code"), [
    (1000, "0", 0), (999, "0", 0), (1001, "0", 1), (1050, "5", 0), (1051, "5", 1), (1051, "5.1", 0), (1, "0", 0)])
def test_the_gate_closes_when_cycles_rise_by_more_than_the_tolerance(capsys, tmp_path, cycles, tolerance, code) -> None:
    a = compare_file(tmp_path / "a.json", entry())
    b = compare_file(tmp_path / "b.json", entry(cycles=cycles))
    assert run(capsys, "diff", str(a), str(b), "--tolerance", tolerance)[0] == code


def test_other_counters_are_watched_by_name_or_pattern(capsys, tmp_path) -> None:
    """hbm_read doubles, cycles fall: only a gate on traffic closes; a counter that is new rises by any tolerance."""
    a = compare_file(tmp_path / "a.json", entry())
    b = entry(cycles=900)
    b["traffic_bytes"] = {"hbm_read": 8192, "l2_read": 8192, "nvlink": 1}
    compare_file(tmp_path / "b.json", b)
    files = [str(a), str(tmp_path / "b.json")]
    assert changes(capsys, *files)[0] == 0
    code, found = changes(capsys, *files, "--watch", "cycles,traffic.*", "--tolerance", "200")
    assert code == 1 and not found["passed"]
    (chip,) = found["chips"]
    assert [(w["counter"], w["change"], w["percent"], w["rose"]) for w in chip["watched"]] == [
        ("cycles", -100, -10.0, False), ("traffic.hbm_read", 4096, 100.0, False), ("traffic.l2_read", 0, 0.0, False),
        ("traffic.nvlink", 1, None, True)]
    assert changes(capsys, *files, "--watch", "traffic.hbm_read", "--tolerance", "100")[0] == 0


def test_results_of_a_sweep_are_paired_by_their_point(capsys, tmp_path) -> None:
    def sweep(name: str, slow: int) -> str:
        points = [{"model": "m", "context": context, "batch": 1, "chips": [entry(cycles=context + slow * (i == 1))]}
                  for i, context in enumerate((1024, 8192))]
        (tmp_path / name).write_text(json.dumps({"schema": "decodelab.compare/1", "points": points}))
        return str(tmp_path / name)

    code, found = changes(capsys, sweep("a", 0), sweep("b", 5))
    assert code == 1
    assert [(chip["name"], len(chip["changes"])) for chip in found["chips"]] == [
        ("h100_sxm, m, context 1024, batch 1", 0), ("h100_sxm, m, context 8192, batch 1", 1)]


def test_two_single_results_of_different_chips_are_compared(capsys, tmp_path) -> None:
    a = compare_file(tmp_path / "a.json", entry())
    b = compare_file(tmp_path / "b.json", entry("a100_sxm", 1500))
    code, out, _ = run(capsys, "diff", str(a), str(b))
    assert code == 1 and out.startswith(
        "h100_sxm, m, context 64, batch 1 -> a100_sxm, m, context 64, batch 1: 1,000 -> 1,500 cycles")


def test_run_and_explain_are_read(capsys, tmp_path) -> None:
    run_file = {"schema": "decodelab.run/1", "chip": "toy_gpu", "cycles": 10, "counters": {"ctas": 1}}
    explain = {"schema": "decodelab.explain/1", "chips": [
        {"chip": "toy_gpu", "cycles_per_token": 12, "waterfall": [{"name": "floor", "cycles": 12, "why": ""}]}]}
    (tmp_path / "a").write_text(json.dumps(run_file))
    (tmp_path / "b").write_text(json.dumps(explain))
    code, found = changes(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 1
    assert [c["counter"] for c in found["chips"][0]["changes"]] == ["cycles"], "not what one side only counts"


def facts(trace: Any, **more: Any) -> dict[str, Any]:
    return {"traffic_bytes": trace.traffic(), "unit_accounting": {}, "counters": {}, **more}


def test_run_json_of_a_trace_is_read_without_its_events(capsys, tmp_path) -> None:
    trace = small_gpu()
    for name, count in (("a", 5), ("b", 7)):
        write_trace(trace, tmp_path / name, facts(trace) | {"counters": {"ctas": count}})
    code, found = changes(capsys, *(str(tmp_path / name / "run.json") for name in ("a", "b")))
    assert code == 0
    assert [(c["counter"], c["a"], c["b"]) for c in found["chips"][0]["changes"]] == [("counters.ctas", 5, 7)]


def test_traces_tell_the_stalls_of_each_kernel(capsys, tmp_path) -> None:
    """In small_gpu SM0.0 waits 10 cycles for memory; in the other trace 4 of them for a barrier instead. The LPU's two
    chips wait 2 cycles for order and 12 for data each."""
    from emulator.accounting import GPU_REASONS, reason_index

    one, other = small_gpu(), small_gpu()
    waited = reason_index(GPU_REASONS, "global_memory")
    at = int(((other.kind == 1) & (other.reason == waited)).argmax())
    other.end[at] -= 4
    for name, trace in (("a", one), ("b", other)):
        write_trace(trace, tmp_path / name / "made_up", facts(trace))
    _, found = changes(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert [(c["counter"], c["a"], c["b"]) for c in found["chips"][0]["changes"]] == [
        ("stalls.add.global_memory", 10, 6)]
    from tools.diff_read import stalls_by_kernel

    assert stalls_by_kernel(small_lpu()) == {"stalls.copy.order": 4, "stalls.copy.data": 24}
    assert stalls_by_kernel(one) == {
        "stalls.add.launch": 8, "stalls.add.global_memory": 10, "stalls.add.no_warp": 2 + 14}


def test_bad_input_is_told_in_one_sentence(capsys, tmp_path) -> None:
    good = str(compare_file(tmp_path / "a.json", entry()))

    def no(content: str, *more: str) -> str:
        (tmp_path / "b").write_text(content)
        return refused(capsys, "diff", good, str(tmp_path / "b"), *more)

    assert "neither a trace folder nor JSON" in no("{")
    assert "neither a trace folder nor JSON" in no("[" * 100_000)
    assert "schema None cannot be compared" in no("[]")
    assert "'decodelab.compare/2' cannot be compared" in no('{"schema": "decodelab.compare/2"}')
    assert "no chip has a result" in no('{"schema": "decodelab.compare/1", "chips": [{"chip": "x", "error": "no"}]}')
    assert "not a whole decodelab.run/1" in no('{"schema": "decodelab.run/1", "chip": "x"}')
    assert "not a whole decodelab.run/1" in no('{"schema": "decodelab.run/1", "chip": "x", "cycles": "12"}')
    assert "not a whole decodelab.compare/1" in no('{"schema": "decodelab.compare/1", "chips": 3}')
    text = Path(good).read_text()
    assert "did you mean traffic.hbm_read?" in no(text, "--watch", "trafic.hbm_read")
    assert "names no counter" in no(text, "--watch", ",")
    assert "-1" in no(text, "--tolerance", "-1")
    two = str(compare_file(tmp_path / "two.json", entry(), entry("a100_sxm")))
    assert "B has no result for a100_sxm" in refused(capsys, "diff", two, good)
    assert "there is no such file" in refused(capsys, "diff", good, str(tmp_path / "nowhere"))
    assert "holds no run.json" in refused(capsys, "diff", good, str(tmp_path))
