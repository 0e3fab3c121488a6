"""The sentences of `explain`: why each step of a waterfall costs what it does, with the numbers of this very run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from emulator.accounting import GPU_REASONS, LPU_CAUSES
from emulator.chip import Chip
from emulator.time_tree import Leaf, cycles_by
from tools.explain import Stage, floor_cycles
from tools.report import seconds, significant, size

TABLES = {"gpu": GPU_REASONS, "lpu": LPU_CAUSES}


def by_kernel(tree: Sequence[Leaf]) -> dict[str, int]:
    """Cycles of each kernel (LPU: graph node), all layers together."""
    return cycles_by(tree, lambda leaf: leaf.path[2])


def by_cause(tree: Sequence[Leaf]) -> dict[str, int]:
    """Cycles of each cause, of the whole token."""
    return cycles_by(tree, lambda leaf: leaf.path[3])


def most_changed(before: dict[str, int], after: dict[str, int]) -> tuple[str, int]:
    """What differs most between two sums, in the direction in which their totals differ; ("", 0) when nothing does."""
    change = {name: after.get(name, 0) - before.get(name, 0) for name in {**before, **after}}
    sign = 1 if sum(change.values()) >= 0 else -1
    name = max(change, key=lambda name: (sign * change[name], name), default="")
    return (name, change[name]) if name and sign * change[name] > 0 else ("", 0)


def signed(cycles: int) -> str:
    """A difference with its sign and commas."""
    return f"{cycles:+,}"


def where(before: Stage, after: Stage) -> str:
    """Where the cycles of a step lie: the kernel and the cause that changed most."""
    if before.cycles == after.cycles:
        return "it changes nothing here"
    kernel, more = most_changed(by_kernel(before.tree), by_kernel(after.tree))
    cause, waits = most_changed(by_cause(before.tree), by_cause(after.tree))
    told = [f"most in {kernel} ({signed(more)})"] if kernel else []
    if cause and abs(waits) <= 2 * abs(after.cycles - before.cycles):
        told.append(f"seen as '{cause}' ({signed(waits)})")
    elif cause:
        told.append(f"what waited elsewhere now waits as '{cause}' ({signed(waits)})")
    faster = "the token gets faster with it, as other work falls into better places: " if after.cycles < before.cycles \
        else ""
    return faster + ", ".join(told)


def reasons(chip: Chip, entry: dict[str, Any], stages: Sequence[Stage]) -> list[str]:
    """A sentence for the floor and one for every run of the waterfall."""
    found = [floor_words(chip, entry), (first_gpu if chip.kind == "gpu" else first_lpu)(chip, entry, stages[0])]
    for before, after in zip(stages, stages[1:]):
        found.append(f"{WHY[after.limit.name](chip, entry, after)}; {where(before, after)}")
    return found


def floor_words(chip: Chip, entry: dict[str, Any]) -> str:
    """What the floor is made of."""
    name, time = next((n, t) for n, t in entry["floor_parts"].items() if n != "links")
    links = entry["floor_parts"].get("links")
    told = {
        "HBM read": f"{size(entry['working_set_bytes'])} of weights and KV pass the HBM pins once, at their peak rate",
        "L2 read": f"{size(entry['working_set_bytes'])} of weights and KV leave the L2 once, at its peak rate",
        "arithmetic": "every multiplication is done once, at the chip's peak rate",
        "weight ingest": f"all weights, K and V enter the matrix planes{_at_a_time(entry)} once, at their peak rate",
        "casts in the VXM": "every 8-bit weight is cast once by the large ALUs of the vector unit",
        "SRAM": f"{size(entry['working_set_bytes'])} of weights and KV leave the SRAM once, at its peak rate",
    }.get(name, f"{name} at its peak rate")
    return told + (f" ({seconds(time)}), and the links' latency ({seconds(links)}) cannot be hidden" if links else "")


def _at_a_time(entry: dict[str, Any]) -> str:
    """Which chips of several work at once."""
    if entry["chips_used"] == 1:
        return ""
    if entry["pipeline_parallel"] == 1:
        return f" of {entry['chips_used']} chips"
    return f" of {entry['tensor_parallel']} chips at a time, {entry['chips_used']} in turn,"


def first_gpu(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    """What is left of a GPU's time without any limit."""
    kernels = f"{stage.kernels:,} kernel{'s' if stage.kernels > 1 else ''}"
    read = stage.traffic.get("hbm_read", 0)
    again = f", and {size(read)} come from HBM" if read else ", and nothing comes from HBM"
    if stage.cycles < floor_cycles(entry):
        return f"without any limit the {kernels} beat the floor: caches hold what it counts{again}"
    if stage.kernels == 1:
        return f"with no limit but the peak rates the parts of the one kernel still wait for each other{again}"
    return (f"with no limit but the peak rates {kernels} still follow each other, each waits for all of the one "
            f"before{again}")


def first_lpu(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    """What is left of an LPU's time without any limit."""
    causes = by_cause(stage.tree)
    loads = causes.get("weight load", 0) + causes.get("KV load", 0)
    rest = sorted(((n, c) for n, c in causes.items() if n not in ("weight load", "KV load")), key=lambda x: -x[1])
    told = ", ".join(f"{name} {cycles:,}" for name, cycles in rest[:3])
    return (f"compiled for a chip without delays, planes take weights, K or V in {loads:,} cycles; in the others one "
            f"operation waits for the one before: {told}")


def _dram(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    rate = stage.traffic.get("hbm_read", 0) / stage.cycles * chip.clock_hz
    share = chip["dram.sustained_percent"]
    slower = f", and commands follow each other at {share} % of the clock" if share != 100 else ""
    if not stage.traffic.get("hbm_read"):
        return "nothing is read from HBM, so rows, refresh and turnarounds cost little"
    return f"rows must be opened and banks refreshed{slower}: HBM then gives {size(rate)} a second over the whole token"


def _caches(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    away = int(chip["noc.request_latency"]) + int(chip["noc.response_latency"])
    told = f"an L2 slice is {away} cycles away and back, a port takes {chip['noc.sm_in_bytes']} B a cycle"
    if chip["l2.partitions"] > 1:
        told += f", the far partition lies {2 * int(chip['l2.link_latency'])} cycles further"
    return told + (f", a TLB miss costs {chip['tlb.miss_latency']}" if chip["tlb.entries"] else "")


def _nvlink(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    return (f"{entry['tensor_parallel']} GPUs add up their parts twice a layer, {chip['nvlink.latency']} cycles apart, "
            f"{size(entry['traffic_bytes'].get('nvlink', 0))} a token (what the floor has of it is not counted again)")


def _l1(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    under_way = 32 * int(chip["sm.outstanding_sectors"])
    return f"an SM has at most {size(under_way)} under way, and its load-store unit takes instructions in turn"


def _issue(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    return (f"an MMA's sums come after {chip['sm.tensor.latency']} cycles, an fp32 sum after "
            f"{chip['sm.fp32.latency']}, a barrier takes {chip['sm.barrier.latency']}")


def _waves(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    count = int(chip["launch.ctas_per_cycle"])
    return (f"{count} CTA{'s start' if count > 1 else ' starts'} a cycle, {chip['launch.cta_start']} cycles before the "
            "first instruction, and an SM takes as many as it has registers and slots for (what SMs with less work "
            "lose at a kernel's end is part of the steps above)")


def _launch(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    gaps = sum(leaf.cycles for leaf in stage.tree if leaf.path[3] == "launch gaps")
    count = stage.kernels
    return f"{gaps:,} cycles lie before {count:,} kernel{'s' if count > 1 else ''}: {gaps // max(count, 1):,} each"


def _transit(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    return (f"a value moves one column a cycle, up to {chip['mxm.column']} from the vector unit to a matrix plane "
            f"(a third of that without this step)")


def _vector(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    large = len(str(chip["vxm.large_alus"]).split(","))
    return (f"an ALU's result comes {int(chip['vxm.entry_cycles']) + int(chip['vxm.op_cycles'])} cycles after its "
            f"operands, and {large} of 16 ALUs a lane can cast, exponentiate and take maxima")


def _network(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    hop = int(chip["c2c.link_latency_cycles"]) + int(chip["c2c.overhead_cycles"])
    sent = entry["traffic_bytes"].get("c2c_sent", 0)
    return (f"{entry['chips_used']} chips send {size(sent)}; a vector arrives {hop} cycles after it was sent, "
            f"one every {chip['c2c.slot_cycles']} cycles a link (what the floor has of it is not counted again)")


def _fill(chip: Chip, entry: dict[str, Any], stage: Stage) -> str:
    return (f"a plane's sums come {chip['mxm.latency_cycles']} cycles after their activations, lanes are switched in "
            f"{chip['sxm.permute_cycles']} and more, the start barrier takes {chip['icu.barrier_cycles']}")


WHY: dict[str, Callable[[Chip, dict[str, Any], Stage], str]] = {  # name of a Limit -> why it costs time
    "DRAM timing and refresh": _dram, "caches, TLB, crossbar": _caches, "NVLink": _nvlink,
    "L1, load-store unit, copies": _l1, "instruction latencies": _issue, "waves and tails": _waves,
    "launches": _launch, "activation transit": _transit, "vector work": _vector, "network": _network,
    "pipeline fill": _fill,
}  # fmt: skip


def biggest(waterfall: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The step after the floor that costs most."""
    return max(waterfall[1:], key=lambda step: step["cycles"])


def advice(chip: Chip, entry: dict[str, Any], waterfall: Sequence[dict[str, Any]], stages: Sequence[Stage]
           ) -> dict[str, Any]:
    """The biggest loss and what to try, from the table of reasons; and the same of the cause that most cycles have.

    A step's advice is that of the cause that grew by at least half of it, else the step's own.
    """
    loss = biggest(waterfall)
    table = TABLES[chip.kind]
    at = next(n for n, stage in enumerate(stages) if stage.limit.name == loss["name"])
    of_step = stages[at].limit.reason
    if at > 0:
        grown, by = most_changed(by_cause(stages[at - 1].tree), by_cause(stages[at].tree))
        of_step = next((reason.name for reason in table
                        if reason.words == grown and reason.advice and 2 * by >= loss["cycles"] > 0), of_step)
    cause = max(((words, cycles) for words, cycles in entry["cycles_by_cause"].items()
                 if any(reason.words == words and reason.advice for reason in table)), key=lambda x: x[1])
    said = {reason.name: reason for reason in table}[of_step]
    owner = next(reason for reason in table if reason.words == cause[0])
    return {"step": loss["name"], "step_cycles": loss["cycles"], "try": said.advice, "cause": owner.words,
            "cause_cycles": cause[1], "meaning": owner.cause, "cause_try": owner.advice}


BOUND = {  # by what a token is bound -> what follows from it
    "HBM read": "It is bound by HBM: only fewer bytes (--weights fp8) or more sequences that share them (--batch) "
                "change that.",
    "L2 read": "It is bound by the rate of the L2: only fewer bytes or more sequences that share them (--batch) change "
               "that.",
    "arithmetic": "It is bound by arithmetic: only narrower numbers change that.",
    "weight ingest": "It is bound by how fast weights enter the planes: only narrower weights (--arithmetic int8) or "
                     "more chips a layer (--tensor-parallel) change that.",
    "casts in the VXM": "It is bound by the casts of 8-bit weights: --arithmetic int8 multiplies them as they are.",
    "SRAM": "It is bound by the rate of the SRAM: only fewer bytes or more chips change that.",
    "latency": "It is bound by latency: not moving bytes takes the time, but waiting for them and for each other.",
}  # fmt: skip


def words(entry: dict[str, Any], waterfall: Sequence[dict[str, Any]]) -> list[str]:
    """In plain words why the token takes as long as it does on this chip."""
    total, hz = entry["cycles_per_token"], entry["clock_hz"]
    floor, rest = waterfall[0], sorted(waterfall[1:], key=lambda step: -step["cycles"])
    share = 100 * floor["cycles"] / total
    found = [f"{seconds(total / hz)} a token ({total:,} cycles); {significant(share)} % of it no schedule could avoid: "
             f"{floor['why']}, {seconds(floor['cycles'] / hz)}."]
    found.append(BOUND.get(entry["bound_by"], BOUND["latency"]))
    losses = [step for step in rest if step["cycles"] >= max(1, total // 100)]
    if losses:
        told = "; ".join(f"{step['name']} {seconds(step['cycles'] / hz)} ({100 * step['cycles'] / total:.0f} %)"
                         for step in losses[:3])
        found.append(f"On top come, largest first: {told}.")
    gained = [step for step in rest if step["cycles"] < 0]
    for step in gained[-1:]:
        found.append(f"With '{step['name']}' the run gets shorter by {-step['cycles']:,} cycles.")
    return found
