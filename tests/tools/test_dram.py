"""`decodelab dram`: patterns, traces in and out, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emulator.chip import load_dram
from emulator.dram.alone import places, simulate
from emulator.dram.config import DramConfig
from tools.cli import run as cli
from tools.dram import PATTERNS, pattern
from tools.dram_trace import FORMATS, Trace, read_trace, trace_text

NAME = "hbm2_2g0"
CONFIG = DramConfig.from_chip(load_dram(NAME))


def told(capsys, *arguments: str) -> dict:
    """What the command says as JSON."""
    assert cli(["dram", *arguments, "--json"]) == 0
    result: dict = json.loads(capsys.readouterr().out)
    return result


def refused(capsys, *arguments: str) -> str:
    """The one sentence of a refusal."""
    assert cli(["dram", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_without_a_config_they_are_listed(capsys):
    assert cli(["dram"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("dramsim3_hbm2_8gb_x128", "hbm3_6g4_att"))


def test_a_run_tells_what_the_emulator_gives(capsys):
    report = told(capsys, "--config", NAME, "--requests", "20000", "--size", "128")
    result = simulate(CONFIG, np.arange(20_000) * 128)
    assert report["cycles"] == result.cycles and report["counters"] == result.counters
    assert report["efficiency"] == pytest.approx(20_000 * 128 / (result.cycles * 16 * 32 / 2))
    assert report["bytes_per_second"] == pytest.approx(20_000 * 128 / (result.cycles * 1e-9))
    assert report["latency"]["p50_cycles"] == np.median(result.done - result.entered)
    assert report["density_gbit_per_channel"] == 2 and report["refresh_cycles"] == [3900, 160]


def test_the_twin_runs_the_same(capsys):
    arguments = ("--config", NAME, "--requests", "300", "--pattern", "mix:1:1", "--size", "32")
    fast, naive = told(capsys, *arguments), told(capsys, *arguments, "--engine", "naive")
    assert fast["cycles"] == naive["cycles"] and fast["latency"] == naive["latency"]


@pytest.mark.parametrize("name, bound, efficiency", [
    # No refresh. A stream fills the bus; ACT + PRE take 3 of the row bus's cycles for a 64-byte read of each
    # pseudo-channel in turn, 2 bursts of 2 cycles over two pseudo-channels: 2/3; one group: 2 of every tCCD_L 4
    # cycles; one bank: 2 bursts of 2 cycles in tRC 48, or in tRCD 14 + tCCD_L 4 + tRTP 5 + tRP 14 = 37: 4 / 48.
    ("sequential", "data bus", 1), ("random", "row command bus", 2 / 3),
    ("single_bank_group", "bank group (tCCD_L)", 1 / 2), ("single_bank", "row cycle of a bank (tRC)", 4 / 48)])
def test_a_pattern_isolates_what_bounds_it(capsys, name, bound, efficiency):
    report = told(capsys, "--config", NAME, "--pattern", name, "--requests", "60000", "--refresh", "none")
    assert report["bound"] == bound and report["limits"][bound] > 0.95
    assert report["efficiency"] == pytest.approx(efficiency, rel=0.04)


def test_a_mix_is_bounded_by_no_single_limit(capsys):
    report = told(capsys, "--config", NAME, "--pattern", "mix:1:1", "--requests", "60000")
    assert "turns between reads and writes" in report["bound"]
    assert report["counters"]["dram_reads"] == report["counters"]["dram_writes"] == 60_000


def test_patterns_lie_where_they_say():
    capacity = CONFIG.row_capacity
    for scramble_bits in (0, 8):
        config = CONFIG.but(scramble_bits=scramble_bits, chunk_bytes=512, order="row_interleaved")
        pc, bank = places(config, pattern("single_bank_group", config, capacity, 40_000, 32, 1).addresses // 128)
        assert set(bank % config.groups) == {0} and set(bank) == {0, 4, 8, 12}
        assert np.bincount(pc).tolist() == [2500] * 16
        trace = pattern("single_bank", config, capacity, 160, 64, 1)
        where = [config.locate(line) for line in (trace.addresses // 128).tolist()]
        assert {(p, b) for p, b, _, _ in where} == {(p, 0) for p in range(16)}
        assert [row for p, _, row, _ in where if p == 3] == list(range(10))
    mix = pattern("mix:2:1", CONFIG, capacity, 6, 64, 1)
    assert mix.addresses.tolist() == [0, 64, capacity // 2, 128, 192, capacity // 2 + 64]
    assert mix.writes.tolist() == [False, False, True] * 2
    first, second = (pattern("random", CONFIG, capacity, 100, 64, seed).addresses for seed in (1, 2))
    assert (first % 64 == 0).all() and first.max() < capacity and (first != second).any()


def test_less_load_means_less_latency(capsys):
    arguments = ("--config", NAME, "--pattern", "random", "--requests", "30000", "--refresh", "none", "--load")
    low, high = (told(capsys, *arguments, load)["latency"] for load in ("5", "60"))
    # Another row is open: PRE, tRP 14, ACT, tRCD 14, RD, tCL 14, the second burst tCCD_L 4 later, 2 of data = 48.
    assert low["from"] == "arrival" and low["p50_cycles"] == 48
    assert low["p99_cycles"] < high["p99_cycles"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_trace_that_was_written_reads_the_same(capsys, tmp_path, form):
    file = tmp_path / "t.trace"
    arguments = ("--config", NAME, "--pattern", "mix:3:1", "--requests", "500", "--load", "40")
    first = told(capsys, *arguments, "--write-trace", str(file), "--trace-format", form)
    again = told(capsys, "--config", NAME, "--trace", str(file))
    assert again["counters"]["dram_writes"] == first["counters"]["dram_writes"] == 250
    if form == "dramsim3":  # the only one with times
        assert again["cycles"] == first["cycles"] and again["latency"] == first["latency"]


def test_the_formats_of_other_simulators_are_read(tmp_path):
    file = tmp_path / "t"
    for text in ("LD 0x80\nST 192\n", "# a remark\n0x80 R\n\n192 W\n", "0x80 READ 5\n0xC0 write 9\n"):
        file.write_text(text)
        trace = read_trace(file)
        assert trace.addresses.tolist() == [128, 192] and trace.writes.tolist() == [False, True]
    assert trace.arrivals is not None and trace.arrivals.tolist() == [5, 9]


def test_a_trace_is_written_as_other_simulators_read_it():
    trace = Trace(np.array([128, 192]), np.array([False, True]), np.array([5, 9]))
    assert [trace_text(trace, form) for form in FORMATS] == [
        "LD 0x80\nST 0xc0\n", "0x80 R\n0xc0 W\n", "0x80 READ 5\n0xc0 WRITE 9\n"]


@pytest.mark.parametrize("text, message", [
    ("LD 0x80\nXX 0x80\n", ":2: 'XX' is neither LD nor ST"),
    ("0x80 R\n0x80 READ 5\n", ":2: '0x80 READ 5' has 3 words"),
    ("0x80 READ 5\n0x80 READ 4\n", ":2: cycle 4 comes after cycle 5"),
    ("0x80 READ 5\n0x80 READ x\n", ":2: cycle 'x' is not a number"),
    ("\nLD 0xzz\n", ":2: address '0xzz' is not a number"),
    ("LD -64\n", ":1: address -64 is not between"),
    ("hello world again\n", ":1: 'hello world again' is no request"),
    ("# nothing\n", ": no request in it"),
])
def test_a_bad_line_of_a_trace_is_named(capsys, tmp_path, text, message):
    file = tmp_path / "t"
    file.write_text(text)
    assert message in refused(capsys, "--config", NAME, "--trace", str(file))


@pytest.mark.parametrize("arguments, message", [
    (["--config", NAME, "--trace-format", "rw"], "--trace-format rw is the format of --write-trace, which is not"),
    (["--load", "50"], "--config NAME is needed"),
    (["--config", "hbm4"], "unknown DRAM hbm4; did you mean hbm"),
    (["--config", "toy_lpu"], "has no DRAM"),
    (["--config", NAME, "--pattern", "spiral"], f"unknown; patterns: {', '.join(PATTERNS)}"),
    (["--config", NAME, "--pattern", "mix:0:0"], "unknown; patterns"),
    (["--config", NAME, "--size", "96"], "takes requests of 32 or 64 or 128 bytes"),
    (["--config", "dramsim3_hbm2_8gb_x128", "--size", "32"], "takes requests of 64 or 128 bytes"),
    (["--config", NAME, "--trace", "/nowhere/t"], "no such file"),
    (["--config", NAME, "--trace", "x", "--pattern", "random"], "has its own requests"),
    (["--pattern", "random"], "--config NAME is needed"),
    (["--config", NAME, "--set", "h100_sxm.dram.channels=2"], "only hbm2_2g0 is run here"),
    (["--config", NAME, "--set", f"{NAME}.dram.map.order=zigzag"], "map.order must be row_interleaved"),
    (["--config", NAME, "--write-trace", "/nowhere/t"], "there is no folder"),
])
def test_what_cannot_be_run_is_refused_in_one_sentence(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_gpu_program_writes_its_dram_trace(capsys, tmp_path):
    file = tmp_path / "t"
    assert cli(["run", "programs/examples/gemv.gpu.s", "--dram-trace", str(file), "--json"]) == 0
    traffic = json.loads(capsys.readouterr().out)["traffic_bytes"]
    trace = read_trace(file)
    assert trace.arrivals is not None and (np.diff(trace.arrivals) >= 0).all()
    assert 32 * (~trace.writes).sum() == traffic["hbm_read"] > 0
    assert len(set(trace.addresses.tolist())) == len(trace.addresses) and (trace.addresses % 32 == 0).all()
    # On the DRAM of its chip, by itself, the trace is the same reads.
    report = told(capsys, "--config", "toy_gpu", "--trace", str(file), "--size", "32")
    assert report["counters"]["dram_reads"] == traffic["hbm_read"] // 32


def test_only_a_fast_gpu_writes_a_dram_trace(capsys, tmp_path):
    for program, engine in (("gemv.lpu.s", "fast"), ("gemv.gpu.s", "naive")):
        assert cli(["run", f"programs/examples/{program}", "--engine", engine,
                    "--dram-trace", str(tmp_path / "t")]) == 2
        assert "--dram-trace needs a GPU program and --engine fast" in capsys.readouterr().err
