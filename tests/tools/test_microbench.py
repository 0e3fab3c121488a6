"""`decodelab microbench`: figures that hand arithmetic gives, and how they are told."""

from __future__ import annotations

import json

import pytest

from emulator.assemble import assemble
from emulator.chip import load_chip
from programs.microbench.bulk import bulk_latency, bulk_rate
from programs.microbench.latency import dram_distribution, l1_latency, l2_latency, loaded_latency, shared_latency
from programs.microbench.launches import barrier_period, period
from programs.microbench.stream import dram_rate, l2_rate
from tests.tools.test_cli import refused, run
from tools import microbench
from tools.floor import hbm_bytes_per_second
from tools.microbench import BENCHES, Row, as_pcie, unit
from tools.microbench_published import PUBLISHED, REASONS, Figure

H100, TOY = load_chip("h100_sxm"), load_chip("toy_gpu")


@pytest.mark.parametrize("chip", [H100, TOY], ids=["h100_sxm", "toy_gpu"])
def test_a_chase_in_l1_and_shared_memory_lasts_the_chips_latency(chip) -> None:
    for width in (32, 64, 128):
        assert l1_latency(chip, width) == chip[f"sm.l1.hit_latency_{width}"]
    assert shared_latency(chip) == chip["sm.shared.latency"]


def test_latencies_follow_the_numbers_that_make_them() -> None:
    """Three more cycles on the crossbar are three more of every L2 hit; ten on the way to DRAM ten of every miss."""
    far = H100.with_override("noc.request_latency", str(H100["noc.request_latency"] + 3))
    assert l2_latency(far, 1 << 20) == pytest.approx(l2_latency(H100, 1 << 20) + 3)
    slow = H100.with_override("l2.to_dram_latency", str(H100["l2.to_dram_latency"] + 10))
    assert dram_distribution(slow, 40).p10 == pytest.approx(dram_distribution(H100, 40).p10 + 10, abs=1)


def test_more_chains_wait_longer_and_a_warp_waits_for_its_slowest_lane() -> None:
    one, warp = loaded_latency(H100, 1, 1), loaded_latency(H100, 1, 32)
    assert 1.15 * one < warp


def test_streams_stay_below_the_peaks() -> None:
    """Below the pins' peak, above half of it; L2 below what the SMs' ports take."""
    peak = float(hbm_bytes_per_second(H100))
    for what in ("read", "copy"):
        assert 0.5 * peak < dram_rate(H100, what, 8 << 20).per_second(H100) < peak
    found = l2_rate(H100, 8 << 20, 4)
    assert 0.4 * H100["noc.sm_in_bytes"] < found.bytes / found.cycles / H100["core.sms"] < H100["noc.sm_in_bytes"]


def test_a_launch_gap_is_part_of_the_period() -> None:
    graph, stream = (period(H100, mode) * H100.clock_hz for mode in ("graph", "stream"))
    assert stream - graph == pytest.approx(H100["launch.stream_gap"] - H100["launch.graph_gap"], abs=1)


def test_pcie_figures_are_compared_on_that_machine() -> None:
    """H100 PCIe: 114 SMs, 2039 GB/s; a number that the user set stays."""
    pcie = as_pcie(H100)
    assert (pcie["core.sms"], pcie.clock_hz) == (114, 1_755_000_000)
    assert float(hbm_bytes_per_second(pcie)) == pytest.approx(2039e9, rel=0.001)
    assert as_pcie(H100.with_override("core.sms", "100"))["core.sms"] == 100
    assert as_pcie(TOY) is TOY


def test_a_row_is_judged_by_its_published_range() -> None:
    row = Row("l2", "l2 near", 300, Figure(260, 280, "x"))
    assert row.ratio == pytest.approx(300 / 280) and row.verdict == "within 10 %"
    assert Row("l2", "l2 near", 270, Figure(260, 280, "x")).ratio == 1
    low = Row("l2", "l2 near", 200, Figure(260, 280, "x"), "because")
    assert low.ratio == pytest.approx(200 / 260) and low.verdict == "because"
    assert Row("l2", "l2 near", 200, None).verdict == "nothing published"


def test_every_published_figure_belongs_to_a_bench_and_has_a_source() -> None:
    rows = [row for bench in BENCHES.values() for row in bench.rows]
    assert len(set(rows)) == len(rows)
    assert set(PUBLISHED) <= set(rows) and set(REASONS) <= set(rows)
    for name, chips in PUBLISHED.items():
        assert {"h100_sxm"} <= set(chips) <= {"a100_sxm", "h100_sxm", "h200_sxm"}, name
        assert all(0 < f.low <= f.high and f.source for f in chips.values()), name
    assert [unit(name) for name in ("l2 near", "l2 bandwidth", "graph edge")] == ["cycles", "B/cycle/SM", "us"]


def test_the_command_prints_a_table_and_json(capsys) -> None:
    code, out, _ = run(capsys, "microbench", "--only", "l1", "--only", "shared")
    assert code == 0 and "h100_sxm: 4 of 4 published figures within 10%" in out
    code, out, _ = run(capsys, "microbench", "--only", "shared", "--json", "--set", "h100_sxm.sm.shared.latency=40")
    found = json.loads(out)
    assert found["schema"] == "decodelab.microbench/1"
    row = found["rows"][0]
    assert (row["value"], row["within"], row["unit"]) == (40, False, "cycles")
    assert row["ratio"] == pytest.approx(40 / 29.9)
    assert {row["name"] for row in found["rows"]} == set(BENCHES["shared"].rows)


def test_kernels_can_be_read_and_assembled(capsys) -> None:
    _, out, _ = run(capsys, "microbench", "--listing")
    program = assemble(".chip h100_sxm\n" + out)
    built = {kernel.name for bench in BENCHES.values() for kernel in bench.kernels()}
    assert {kernel.name for kernel in program.texts[0].kernels} == built


def test_what_cannot_be_measured_is_refused_in_a_sentence(capsys) -> None:
    assert "did you mean shared?" in refused(capsys, "microbench", "--only", "shred")
    assert "groq_tsp_v1 is an LPU" in refused(capsys, "microbench", "--chip", "groq_tsp_v1")


@pytest.mark.parametrize("option", [("--json",), ("--chip", "h100_sxm"), ("--ideal", "l2"),
                                    ("--set", "h100_sxm.sm.shared.latency=40")])  # fmt: skip
def test_a_listing_takes_no_option_of_a_run(capsys, option: tuple[str, ...]) -> None:
    assert f"{option[0]} makes no sense with --listing" in refused(capsys, "microbench", "--listing", *option)


def test_an_unexplained_difference_is_told(monkeypatch, capsys) -> None:
    monkeypatch.setitem(microbench.PUBLISHED, "shared 32 bit", {"h100_sxm": Figure(10, 10, "somewhere")})
    _, out, _ = run(capsys, "microbench", "--only", "shared")
    assert "outside, not explained" in out and "2.90" in out


def test_bulk_copies_are_later_than_loads_by_their_own_latency() -> None:
    """Twice the extra latency: as much more; a larger tile hides more of it; an A100 has no bulk copies."""
    extra = H100["sm.bulk.extra_latency"]
    slow = H100.with_override("sm.bulk.extra_latency", str(2 * extra))
    assert bulk_latency(slow, False) == pytest.approx(bulk_latency(H100, False) + extra, abs=1)
    assert bulk_rate(H100, 1 << 12, 1) < bulk_rate(H100, 1 << 14, 1) < float(hbm_bytes_per_second(H100))
    assert BENCHES["bulk"].measure(load_chip("a100_sxm")) == {}


def test_a_barrier_takes_the_atomics_time_once() -> None:
    """All CTAs add at the same time: 2000 cycles more of an atomic are 2000 more of a pass, to a poll of L2 (262)."""
    slow = H100.with_override("sm.atomic.extra_latency", str(H100["sm.atomic.extra_latency"] + 2000))
    longer = (barrier_period(slow) - barrier_period(H100)) * H100.clock_hz
    assert longer == pytest.approx(2000, abs=300)
