"""Counters under the names of NVIDIA's profiler, Nsight Compute, as sums of ours.

The profiler counts what hardware units see; where a mechanism differs the nearest count of ours stands here and the
note says how it differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SECTOR_BYTES = 32


@dataclass(frozen=True)
class Metric:
    """A metric as a sum of counters, times `scale`; note: what to know when the two are compared."""

    counters: tuple[str, ...]
    scale: int = 1
    note: str = ""


METRICS: dict[str, Metric] = {
    "sm__inst_executed.sum": Metric(("warp_instructions",), note="of our instruction set, not of SASS"),
    "sm__inst_executed_pipe_tensor.sum": Metric(("tensor_instructions",), note="m16n8k16 and m16n8k32"),
    "sm__ctas_launched.sum": Metric(("ctas",)),
    "sm__cycles_active.sum": Metric(("sm_active_cycles",), note="cycles in which an SM has a CTA"),
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum": Metric(("l1_read_sectors",)),
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_hit.sum": Metric(("l1_hit_sectors",)),
    "l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_miss.sum": Metric(
        ("l1_miss_sectors", "l1_merged_sectors"), note="with sectors that were on their way already"),
    "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum": Metric(("store_sectors",)),
    "l1tex__m_xbar2l1tex_read_sectors.sum": Metric(
        ("l1_miss_sectors", "copy_sectors", "bulk_sectors"), note="loads, 16-byte and bulk copies"),
    "l1tex__data_bank_conflicts_pipe_lsu.sum": Metric(("bank_conflict_cycles",), note="shared memory only"),
    "lts__t_requests.sum": Metric(("l2_requests",), note="a request is a line of 128 bytes"),
    "lts__t_sectors_op_read.sum": Metric(("l2_read_sectors",)),
    "lts__t_sectors_op_write.sum": Metric(("l2_write_sectors",)),
    "lts__t_sectors_op_read_lookup_hit.sum": Metric(
        ("l2_hit_sectors", "l2_merged_sectors", "l2_far_hit_sectors", "l2_far_merged_sectors"),
        note="in either partition, with sectors that were on their way already"),
    "lts__t_sectors_op_read_lookup_miss.sum": Metric(("l2_fill_sectors",)),
    "lts__t_sectors_srcunit_ltcfabric.sum": Metric(("l2_far_sectors",), note="asked from the other partition"),
    "dram__sectors_read.sum": Metric(("dram_reads",)),
    "dram__sectors_write.sum": Metric(("dram_writes",)),
    "dram__bytes_read.sum": Metric(("dram_reads",), SECTOR_BYTES),
    "dram__bytes_write.sum": Metric(("dram_writes",), SECTOR_BYTES),
}


def nsight_counters(counters: Mapping[str, int]) -> dict[str, int]:
    """Every metric from the counters of a step."""
    return {name: metric.scale * sum(counters[key] for key in metric.counters) for name, metric in METRICS.items()}
