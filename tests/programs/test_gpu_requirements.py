"""Chip numbers that no GPU can have, or with which a run would not end, are refused by their key before planning."""

from __future__ import annotations

import pytest

from emulator.chip import load_chip
from emulator.dram.config import DramConfig
from programs.compile import compile_decode
from programs.models.checkpoint import load_model

REFUSED = [
    ("core.clock_hz", "0", "core.clock_hz=0: must be between"),
    ("core.sms", "0", "core.sms=0: must be between 1"),
    ("sm.outstanding_sectors", "0", "sm.outstanding_sectors=0: must be 32"),
    ("l2.slices", "0", "l2.slices must be a multiple"),
    ("dram.clock_hz", "0", "dram.clock_hz=0: must be between"),
    ("dram.clock_hz", "1", "dram.clock_hz=1: must be between"),
    ("dram.channels", "0", "channels must be at least 1"),
    ("dram.pseudo_channels", "0", "pseudo_channels must be at least 1"),
    ("dram.pseudo_channels", "5000", "at most 1024 pseudo-channels"),
    ("dram.capacity_bytes", "0", "dram.capacity_bytes=0: must be at least 1"),
    ("dram.timing.burst", "0", "burst must be at least 1"),
    ("dram.timing.rcd_rd", "5000", "rcd_rd must be at most 1024 cycles"),
    ("sm.fp32.latency", "1048576", "sm.fp32.latency=1048576: must be at most 4096"),
    ("noc.request_latency", "1048576", "noc.request_latency=1048576: must be at most 4096"),
    ("sm.registers", "1099511627776", "sm.registers=1099511627776: must be between"),
    ("sm.shared.bytes", "1099511627776", "sm.shared.bytes=1099511627776: must be a multiple of 128 up to"),
    ("sm.l1.bytes", "1099511627776", "sm.l1.bytes=1099511627776: must be a whole number"),
    ("sm.max_warps", "0", "sm.max_warps=0: must be a multiple of 4"),
    # plans that do not fit blame what is short, and only that
    ("sm.registers", "1024", ": 1024 registers an SM are too few"),
    ("sm.shared.max_per_cta", "1024", ": 1024 bytes of shared memory an SM are too few"),
    ("sm.shared.bytes", "2048", ": 1024 bytes of shared memory an SM are too few"),  # 1024 of them are reserved
]


@pytest.mark.parametrize(("key", "value", "message"), REFUSED, ids=[f"{key}={value}" for key, value, _ in REFUSED])
def test_numbers_that_no_gpu_can_have_are_refused(key: str, value: str, message: str) -> None:
    chip = load_chip("h100_sxm").with_override(key, value)
    with pytest.raises(ValueError, match=message):
        compile_decode(load_model("tiny_kjv"), chip, context=64, timing_only=True)


def test_refresh_must_leave_room_for_an_access() -> None:
    """32 banks x 16 cycles = 512 from refresh to refresh; an access takes rc 63 + rp 19 + the longer of
    ras 45, rcd 19 + rtp 8, and rcd 19 + cwl 6 + burst 2 + wr 21 = 48: 130 in all.
    """
    h100 = DramConfig.from_chip(load_chip("h100_sxm"))
    h100.but(refi=16, rfc=381)
    with pytest.raises(ValueError, match="always be in refresh"):
        h100.but(refi=16, rfc=382)
