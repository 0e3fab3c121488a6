"""Pictures: what is drawn, the same bytes for the same input, and how bad input is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulator.chip import load_chip
from emulator.trace_file import write_trace
from tests.tools.made_traces import gpu_trace
from tests.tools.test_cli import refused, run

pytest.importorskip("matplotlib", reason="pip install 'decodelab[plot]'")


def explain_file(path: Path, steps: list[tuple[str, int]], cycles: int = 110) -> str:
    waterfall = [{"name": name, "cycles": count, "why": ""} for name, count in steps]
    chip = {"chip": "h100_sxm", "cycles_per_token": cycles, "clock_hz": 10**9, "waterfall": waterfall}
    path.write_text(json.dumps({"schema": "decodelab.explain/1", "chips": [chip, {"chip": "x", "error": "no"}]}))
    return str(path)


def sweep_file(path: Path, batches: tuple[int, ...] = (1, 8), contexts: tuple[int, ...] = (1024,)) -> str:
    points = [{"model": "m $x$", "batch": b, "context": c, "chips": [
        {"chip": chip, "batch": b, "context": c, "cycles_per_token": 1000 * b + c,
         "traffic_bytes": {level: 800 * b, "l2_read": 5}}
        for chip, level in (("groq_tsp_v1", "sram_read"), ("h100_sxm", "hbm_read"))]}
        for b in batches for c in contexts]
    path.write_text(json.dumps({"schema": "decodelab.compare/1", "points": points, "trust": []}))
    return str(path)


STEPS = [("floor", 60), ("DRAM <&> $", 70), ("caches", -20)]


def sources(tmp_path: Path) -> dict[str, str]:
    trace = gpu_trace(2000)
    trace.launch[trace.launch < 0] = 1  # points are kernels: bytes that belong to none are in no point
    write_trace(trace, tmp_path / "t", {"chip_hash": load_chip("h100_sxm").hash})
    return {"waterfall": explain_file(tmp_path / "e.json", STEPS), "sweep": sweep_file(tmp_path / "s.json"),
            "roofline": str(tmp_path / "t")}


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_same_input_gives_the_same_bytes(capsys, tmp_path, form) -> None:
    for name, source in sources(tmp_path).items():
        files = [tmp_path / f"{at}.{form}" for at in (1, 2)]
        for file in files:
            code, out, err = run(capsys, "plot", name, source, "-o", str(file))
            assert (code, out) == (0, ""), err
        one, other = (file.read_bytes() for file in files)
        assert one == other and len(one) > 5000
        assert one.startswith(b"\x89PNG" if form == "png" else b"<?xml")


def test_each_bar_begins_where_the_one_before_ended() -> None:
    from tools.plot.waterfall import spans

    assert spans(STEPS) == [("floor", 0, 60), ("DRAM <&> $", 60, 130), ("caches", 130, 110)]


def test_bytes_are_those_of_the_memory_a_token(tmp_path) -> None:
    """800 bytes a sequence from HBM or SRAM; L2 is no main memory."""
    from tools.plot.sweep import axis_of, measured

    path = Path(sweep_file(tmp_path / "s.json", contexts=(1024, 2048)))
    _, rows = measured(path)
    assert {row.bytes for row in rows} == {800.0} and len(rows) == 8
    assert (axis_of(path, rows, None), axis_of(path, rows, "batch")) == ("context", "batch")


def test_points_of_a_roofline_are_kernels_over_all_layers(tmp_path) -> None:
    """MMA.f16 is 16 x 8 x 16 multiply-accumulates, FMA 32; 20 rows of 1,024 bytes, all of the launch that is
    "layers.1..." now; seconds from the launch's cycles at the clock of the chip."""
    from tools.plot.roofline import rooflines

    folder = Path(sources(tmp_path)["roofline"])
    (one,) = rooflines(folder)
    chip = load_chip("h100_sxm")
    trace = gpu_trace(2000)
    issues = (trace.kind == 0) & (trace.launch == 1)
    macs = 2048 * int((issues & (trace.instruction == 2)).sum()) + 32 * int((issues & (trace.instruction == 1)).sum())
    (point,) = one.points
    assert (one.level, point.moved("hbm_read")) == ("hbm_read", 20 * 1024)
    assert point.operations == 2 * macs
    assert point.seconds == 2000 / chip.clock_hz
    assert not point.name.startswith("layers")


def test_bad_input_is_told_in_one_sentence(capsys, tmp_path) -> None:
    made = sources(tmp_path)
    out = tmp_path / "o.png"

    def no(name: str, source: str, *more: str, to: Path = out) -> str:
        return refused(capsys, "plot", name, source, "-o", str(to), *more)

    assert "written as .png or .svg" in no("sweep", made["sweep"], to=tmp_path / "o.pdf")
    assert "make it with decodelab explain" in no("waterfall", made["sweep"])
    assert "make it with decodelab compare" in no("sweep", made["waterfall"])
    assert "do not add up to its 111 cycles" in no("waterfall", explain_file(tmp_path / "b.json", STEPS, 111))
    assert "one point only" in no("sweep", sweep_file(tmp_path / "b.json", batches=(1,)))
    assert "has one context only" in no("sweep", made["sweep"], "--against", "context")
    (tmp_path / "b.json").write_text("[")
    assert "not JSON that can be read" in no("sweep", str(tmp_path / "b.json"))
    assert "there is no such folder" in no("roofline", str(tmp_path / "nowhere"))
    assert "does not exist" in no("sweep", str(tmp_path / "nowhere"))
    assert not out.exists()
