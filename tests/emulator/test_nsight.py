"""The profiler's names for our counters."""

from __future__ import annotations

import json
from pathlib import Path

import programs
from emulator.assemble import assemble
from emulator.gpu.nsight import METRICS, nsight_counters
from emulator.run import run
from tests.tools.test_cli import run as command

EXAMPLES = Path(programs.__file__).parent / "examples"


def test_the_metrics_of_a_small_program_are_those_counted_by_hand() -> None:
    """bulk_gemv: W of 64 x 32 floats in 8 bulk copies of 32 sectors, x of 64 floats through L1, a row of 32 stored.

    The first of the 8 loads of a sector of x misses L1: 8 sectors; caches are empty, so all comes from DRAM.
    """
    found = nsight_counters(run(assemble(EXAMPLES / "bulk_gemv.gpu.s")).steps[-1].counters)
    assert found["l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"] == 64
    assert found["l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_miss.sum"] == 8
    assert found["l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_hit.sum"] == 56
    assert found["l1tex__m_xbar2l1tex_read_sectors.sum"] == 8 + 8 * 32 == found["lts__t_sectors_op_read.sum"]
    assert found["lts__t_sectors_op_read_lookup_miss.sum"] == 264
    assert found["dram__bytes_read.sum"] == 264 * 32 == 32 * found["dram__sectors_read.sum"]
    assert found["l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum"] == 4 == found["lts__t_sectors_op_write.sum"]
    assert (found["dram__bytes_write.sum"], found["sm__ctas_launched.sum"]) == (0, 1)
    assert found["sm__inst_executed_pipe_tensor.sum"] == 0 < found["lts__t_sectors_srcunit_ltcfabric.sum"] < 264


def test_reads_of_l2_are_hits_and_misses() -> None:
    for example in ("gemv", "softmax", "rmsnorm"):
        found = nsight_counters(run(assemble(EXAMPLES / f"{example}.gpu.s")).steps[-1].counters)
        hits, misses = (found[f"lts__t_sectors_op_read_lookup_{what}.sum"] for what in ("hit", "miss"))
        assert hits + misses == found["lts__t_sectors_op_read.sum"] > 0


def test_run_gives_them_beside_ours(capsys) -> None:
    _, out, _ = command(capsys, "run", str(EXAMPLES / "gemv.gpu.s"), "--json")
    found = json.loads(out)
    assert set(found["nsight_counters"]) == set(METRICS)
    assert found["nsight_counters"]["dram__bytes_read.sum"] == found["traffic_bytes"]["hbm_read"]
    _, out, _ = command(capsys, "run", str(EXAMPLES / "gemv.lpu.s"), "--json")
    assert "nsight_counters" not in json.loads(out)


def test_the_document_lists_every_metric_with_our_counters() -> None:
    document = Path(__file__).parents[2] / "docs" / "gpu.md"
    lines = document.read_text(encoding="utf-8").splitlines()
    for name, metric in METRICS.items():
        line = next((line for line in lines if line.startswith(f"| `{name}` |")), "")
        assert all(f"`{counter}`" in line for counter in metric.counters), name
