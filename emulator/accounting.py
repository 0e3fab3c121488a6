"""Where cycles go: one table of stall reasons, and the checks that nothing is lost.

Every unit's cycle has exactly one owner: busy, one stall reason, or idle.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.result import Accounting


@dataclass(frozen=True)
class Reason:
    name: str
    cause: str
    advice: str


# Index 0 is always "busy", the last one always "idle". Engines use the indices.
GPU_REASONS: tuple[Reason, ...] = (
    Reason("busy", "an instruction was issued", ""),
    Reason("fixed_latency", "waits for the result of an arithmetic instruction",
           "interleave independent instructions, or run more warps"),
    Reason("global_memory", "waits for a load from L1, L2 or DRAM", "issue loads earlier: more bytes in flight"),
    Reason("shared_memory", "waits for a shared-memory load or a shuffle", "load fragments one step ahead"),
    Reason("copy_wait", "CPWAIT: asynchronous copies have not arrived", "more copy stages or more CTAs"),
    Reason("mbarrier", "MBWAIT: the phase of an mbarrier is not complete", "more copy stages, or arrive earlier"),
    Reason("unit_busy", "the execution unit still works on an earlier instruction",
           "spread work over units and sub-cores"),
    Reason("memory_queue", "the load-store unit or its outstanding-miss limit is full",
           "use wider accesses; fewer, larger copies"),
    Reason("barrier", "BAR: other warps of the CTA have not arrived", "balance the warps, or use fewer barriers"),
    Reason("launch", "no kernel runs: launch latency", "fuse kernels or use a persistent plan"),
    Reason("no_warp", "a kernel runs, but this sub-core has no warp left", "more or smaller CTAs: waves and tails"),
    Reason("idle", "nothing was left to do", ""),
)

LPU_REASONS: tuple[Reason, ...] = (
    Reason("busy", "an instruction was issued, or a REPEAT issued one", ""),
    Reason("start_barrier", "parked in SYNC until the launch barrier", "nothing: one barrier a step"),
    Reason("data", "its operand is not there yet", "shorten the chain before it, or overlap other work"),
    Reason("stream", "the stream it needs carries other values", "use another stream or hemisphere"),
    Reason("port", "the SRAM bank or port it needs is taken", "place the tensor in another slice or bank"),
    Reason("unit", "its execution unit works for another operation", "spread the work over more units"),
    Reason("order", "the scheduler issues it after an earlier operation of the same queue", "reorder the program"),
    Reason("no_work", "the program gives this queue nothing to do here", "more parallelism, or a larger model"),
    Reason("network", "waits for a vector from another chip", "send earlier, or overlap the exchange with other work"),
    Reason("pipeline", "other pipeline stages work: before the chip's start or after its end", "more tokens in flight"),
    Reason("idle", "after the queue's last instruction", ""),
)


def reason_index(table: tuple[Reason, ...], name: str) -> int:
    """Index of a reason in its table; ValueError when it has none."""
    return [reason.name for reason in table].index(name)


def check_accounting(accounting: Accounting, units: dict[str, int], cycles: int) -> None:
    """Raise AssertionError unless each class's buckets add up to its units times cycles."""
    for name, buckets in accounting.items():
        total = sum(buckets.values())
        if total != units[name] * cycles or min(buckets.values(), default=0) < 0:
            raise AssertionError(
                f"accounting of {name}: buckets add up to {total}, expected {units[name]} x {cycles} cycles")
