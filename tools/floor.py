"""The floor: the least time that any machine with a chip's peak rates needs for one decode step.

Every byte that must move moves once, every operation that must be done is done once, everything
overlaps perfectly; the slowest of the parts is the floor. No emulation is involved.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from emulator.chip import Chip
from programs.decode.stored import BYTES

if TYPE_CHECKING:
    from programs.decode.stored import Scheme
    from programs.models.config import ModelConfig

LINE_BYTES, BURST_BYTES, SUB_CORES = 128, 32, 4


@dataclass(frozen=True)
class Work:
    """What one decode step must move and compute, whatever the machine."""

    weights: int  # matrix weights that every step multiplies; a tied head counts as a matrix
    weight_bytes: int  # the same in bytes, with row scales, biases and norms
    embedding_bytes: int  # embedding rows looked up
    kv_read_bytes: int
    kv_write_bytes: int
    weight_macs: int
    attention_macs: int

    @property
    def memory_bytes(self) -> int:
        """Bytes that come from or go to where weights and KV live."""
        return self.weight_bytes + self.embedding_bytes + self.kv_read_bytes + self.kv_write_bytes


def decode_work(
    config: ModelConfig, scheme: Scheme, batch: int, positions: int, layers: tuple[int, int] | None = None
) -> Work:
    """Work of one decode step in which each of `batch` sequences attends to `positions` positions.

    The sum over the decode graph; `layers` (a, b) leaves embedding and head out.
    """
    from programs.decode.graph import decode_graph, operations

    steps = operations(decode_graph(config, batch, positions, layers, scheme=scheme)).values()
    attention = sum(step.macs for step in steps if step.kind == "attention")
    return Work(
        weights=sum(step.weights for step in steps),
        weight_bytes=sum(step.weight_bytes for step in steps),
        embedding_bytes=sum(step.embedding_bytes for step in steps),
        kv_read_bytes=sum(step.kv_read_bytes for step in steps),
        kv_write_bytes=sum(step.kv_write_bytes for step in steps),
        weight_macs=sum(step.macs for step in steps) - attention,
        attention_macs=attention,
    )


@dataclass(frozen=True)
class Floor:
    """The floor of one step: `parts` are (resource, seconds) from slowest to fastest; links: seconds that values
    must spend between chips, which nothing overlaps."""

    parts: tuple[tuple[str, float], ...]
    links: float = 0.0

    @property
    def seconds(self) -> float:
        return self.parts[0][1] + self.links

    @property
    def bound_by(self) -> str:
        return self.parts[0][0]


def floor(chip: Chip, work: Work, scheme: Scheme, layers: int = 0, ranks: int = 1, stages: int = 1) -> Floor:
    """Floor of `work` on `chip`; see the module's head.

    ranks: chips that share each of `layers` layers; stages: groups of them that a token visits in turn.
    """
    parts = lpu_parts(chip, work, scheme) if chip.kind == "lpu" else gpu_parts(chip, work, scheme, ranks)
    ranked = sorted(((name, float(seconds / ranks)) for name, seconds in parts.items()), key=lambda p: (-p[1], p[0]))
    return Floor(tuple(ranked), link_seconds(chip, layers, ranks, stages) if ranks * stages > 1 else 0.0)


def link_seconds(chip: Chip, layers: int, ranks: int, stages: int) -> float:
    """Seconds of link latency that no schedule can hide: two all-reduces a layer where ranks share the layers, of
    two hops each on an LPU and of one on GPUs, and a hop from stage to stage."""
    if chip.kind == "gpu":
        return 2 * layers * int(chip["nvlink.latency"]) / chip.clock_hz
    hop = int(chip["c2c.link_latency_cycles"]) + int(chip["c2c.overhead_cycles"])
    return ((4 * layers if ranks > 1 else 0) + stages - 1) * hop / chip.clock_hz


def lpu_parts(chip: Chip, work: Work, scheme: Scheme) -> dict[str, Fraction]:
    """Seconds that each resource of an LPU needs.

    K and V are matrices like the weights: both pass the MXM's weight ingest, in the format the
    plane multiplies. 8-bit weights that are cast pass the VXM's large ALUs, one value a lane and cycle.
    """
    from emulator.lpu.geometry import geometry

    place = geometry(chip)
    hz = place.clock_hz
    wide = scheme.activations != "s8"
    ingest_bytes = work.weights * (2 if wide else 1) + work.kv_read_bytes
    weight_rate = place.fp16_ops_per_second if wide else place.int8_ops_per_second
    parts = {
        "weight ingest": Fraction(ingest_bytes, place.ingest_bytes_per_cycle * hz),
        "SRAM": Fraction(work.memory_bytes, place.sram_bytes_per_cycle * hz),
        "arithmetic": Fraction(2 * work.weight_macs, weight_rate)
        + Fraction(2 * work.attention_macs, place.fp16_ops_per_second),
    }
    if scheme.weights == "s8" and wide:
        parts["casts in the VXM"] = Fraction(work.weights, len(place.large_alus) * place.lanes * hz)
    return parts


def gpu_parts(chip: Chip, work: Work, scheme: Scheme, ranks: int = 1) -> dict[str, Fraction]:
    """Seconds that each resource of a GPU needs, were it alone.

    What fits in the L2 of all `ranks` that share the work stays there from step to step and need not come from HBM
    again.
    """
    hz = chip.clock_hz
    parts = {
        "arithmetic": Fraction(work.weight_macs, tensor_macs_per_cycle(chip, scheme.activations) * hz)
        + Fraction(work.attention_macs, tensor_macs_per_cycle(chip, scheme.wide) * hz),
    }
    if l2_bytes_per_cycle(chip):
        parts["L2 read"] = Fraction(work.memory_bytes, l2_bytes_per_cycle(chip) * hz)
    if work.memory_bytes > ranks * l2_capacity_bytes(chip):
        parts["HBM read"] = work.memory_bytes / hbm_bytes_per_second(chip)
    return parts


def l2_capacity_bytes(chip: Chip) -> int:
    """Bytes that a GPU's L2 holds."""
    return int(chip["l2.slices"]) * int(chip["l2.sets"]) * int(chip["l2.ways"]) * LINE_BYTES


def l2_bytes_per_cycle(chip: Chip) -> int:
    """Bytes a cycle that the L2 can give to all SMs: its slices or the SMs' ports; 0 = unlimited."""
    limits = (
        int(chip["l2.slices"]) * int(chip["l2.slice_bytes"]),
        int(chip["core.sms"]) * int(chip["noc.sm_in_bytes"]),
    )
    return min((limit for limit in limits if limit), default=0)


def hbm_bytes_per_second(chip: Chip) -> Fraction:
    """Peak of the DRAM pins: one burst of 32 bytes a pseudo-channel every `dram.timing.burst` cycles."""
    pins = int(chip["dram.channels"]) * int(chip["dram.pseudo_channels"])
    return Fraction(pins * BURST_BYTES * int(chip["dram.clock_hz"]), int(chip["dram.timing.burst"]))


def tensor_macs_per_cycle(chip: Chip, form: str) -> Fraction:
    """Multiply-accumulates a cycle of all tensor cores: one 16 x 8 x k MMA an interval and sub-core."""
    k = 32 // BYTES[form]  # m16n8k16 of 2-byte values, m16n8k32 of 1-byte values
    return Fraction(int(chip["core.sms"]) * SUB_CORES * 16 * 8 * k, max(1, int(chip["sm.tensor.interval"])))
