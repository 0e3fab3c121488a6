"""How an mbarrier lies in shared memory: 8 aligned bytes that only mbarrier instructions and bulk copies should touch.

    word 0   0xB in bits 28-31 | the phase's parity in bit 24 | arrivals a phase in 12-23 | arrivals missing in 0-11
    word 1   bytes missing, two's complement (below zero while they come before they are expected)

A phase is complete when neither arrivals nor bytes are missing. Whatever has no 0xB there is no mbarrier.
"""

from __future__ import annotations

MARK, MARK_AT, PHASE_AT, COUNT_AT, FIELD = 0xB, 28, 24, 12, 0xFFF
BYTES_MAX = (1 << 20) - 1  # that a phase can wait for, as in PTX
