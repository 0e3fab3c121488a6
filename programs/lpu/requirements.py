"""What the LPU compiler needs of a chip, beyond what a hand-written program needs."""

from __future__ import annotations

from emulator.chip import Chip, ChipError
from emulator.lpu.geometry import geometry

GROUP = 4  # slices on one column: the four byte planes of an fp32 word lie there
LOAD_STREAMS = 16  # an LW of the compiler takes this many
SLICES_MIN = 2 * LOAD_STREAMS + GROUP  # fp16 weights of a plane pair stream from 32, sums rest in four others
LATENCY_MAX = 400  # cycles; the scheduler books results of a pass no further ahead


def check_chip(chip: Chip) -> None:
    """Raise ChipError, with the key, for numbers that hand-written programs may have but compiled ones not."""
    g = geometry(chip)

    def need(key: str, good: bool, allowed: str) -> None:
        if not good:
            raise ChipError(f"{chip.name}.{key} = {chip[key]}: compiled programs need {allowed}")

    need("mem.slices_per_hemisphere", g.slices_per_hemisphere >= SLICES_MIN, f"at least {SLICES_MIN}")
    need("mem.slices_per_column", chip["mem.slices_per_column"] % GROUP == 0, f"a multiple of {GROUP}")
    need("vxm.result_column", g.result_column <= 1, "0 or 1")
    need("mxm.rows", g.rows == g.lanes, f"square planes: {g.lanes} rows, one a lane")
    need("mxm.load_streams_per_plane", g.load_streams == LOAD_STREAMS, f"{LOAD_STREAMS}")
    need("mxm.latency_cycles", g.latency <= LATENCY_MAX, f"at most {LATENCY_MAX}")
    need("mxm.f16_feed_cycles", g.f16_feed <= g.latency, f"at most the latency of {g.latency} cycles")
