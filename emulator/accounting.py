"""Where cycles go: one table of stall reasons, and the checks that nothing is lost.

Every unit's cycle has exactly one owner: busy, one stall reason, or idle.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from emulator.result import Accounting

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Reason:
    """Why a cycle was spent: its name in counters, its cause and what to try, each a sentence, its words in tables."""

    name: str
    cause: str
    advice: str
    words: str = ""


# Index 0 is always "busy", the last one always "idle". Engines use the indices.
GPU_REASONS: tuple[Reason, ...] = (
    Reason("busy", "an instruction was issued", "", "issuing"),
    Reason("fixed_latency", "waits for the result of an arithmetic instruction",
           "interleave independent instructions, or run more warps", "arithmetic latency"),
    Reason("global_memory", "waits for a load from L1, L2 or DRAM",
           "issue loads earlier: more bytes in flight", "waiting for loads"),
    Reason("shared_memory", "waits for a shared-memory load or a shuffle",
           "load fragments one step ahead", "waiting for shared memory"),
    Reason("copy_wait", "CPWAIT: asynchronous copies have not arrived",
           "more copy stages or more CTAs", "waiting for copies"),
    Reason("mbarrier", "MBWAIT: the phase of an mbarrier is not complete",
           "more copy stages, or arrive earlier", "waiting for mbarriers"),
    Reason("unit_busy", "the execution unit still works on an earlier instruction",
           "spread work over units and sub-cores", "unit busy"),
    Reason("memory_queue", "the load-store unit or its outstanding-miss limit is full",
           "use wider accesses; fewer, larger copies", "memory queue full"),
    Reason("barrier", "BAR: other warps of the CTA have not arrived",
           "balance the warps, or use fewer barriers", "barriers"),
    Reason("launch", "no kernel runs: launch latency", "fuse kernels or use a persistent plan", "launch gaps"),
    Reason("no_warp", "a kernel runs, but no warp is left here",
           "more or smaller CTAs: waves and tails", "waves and tails"),
    Reason("idle", "nothing was left to do", "", "idle"),
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

# Of a whole LPU step, on all its chips: a cycle belongs to the first line that is true of it. `words` are the names.
LPU_CAUSES: tuple[Reason, ...] = (
    Reason("weight_load", "an LW or IW of a weight matrix issues",
           "narrower weights (--arithmetic int8), or more chips that share a layer", "weight load"),
    Reason("kv_load", "an LW or IW of K or V issues",
           "a shorter context, or more chips that share a layer's heads", "KV load"),
    Reason("matrix", "activations enter a plane, or sums leave it",
           "overlap a pass with the next weights: more tiles a plane", "matrix"),
    Reason("vector", "a VXM ALU issues", "spread the chain over more ALUs, or overlap it with weight loads", "vector"),
    Reason("lane_switch", "an SXM unit issues", "lay tensors out so that lanes need not move", "lane switch"),
    Reason("network", "a vector is between two chips",
           "fewer chips a layer or fewer stages: less is sent, but more weights pass each chip", "network"),
    Reason("memory", "a slice issues: values are on their way from or to SRAM",
           "place what is used next nearer to its unit, or read it earlier", "memory"),
    Reason("fill", "nothing issues: values are on their way into a unit, or out of it",
           "give each operation more rows: a larger model or batch hides the units' depth", "fill and drain"),
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


def shares(total: int, parts: Mapping[Key, int]) -> dict[Key, int]:
    """`total` divided in proportion to `parts` by largest remainder: integers that add up exactly.

    Equal remainders go to the earlier part. Empty when all parts are zero.
    """
    whole = sum(parts.values())
    if whole == 0:
        return {}
    exact = {name: divmod(total * value, whole) for name, value in parts.items()}
    result = {name: quotient for name, (quotient, _) in exact.items()}
    missing = total - sum(result.values())
    for name in sorted(exact, key=lambda name: -exact[name][1])[:missing]:
        result[name] += 1
    return result
