"""What a DRAM is made of: organisation, timing and queue sizes, from a chip file's [dram] section.

All times are DRAM command-clock cycles. A timing of 0 switches its rule off.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from emulator.chip import Chip, ChipError
from emulator.dram.address import scramble_number, stride_of, unscramble_number

LINE_BYTES, BURST_BYTES, BURSTS = 128, 32, 4  # a queue entry is a line with a mask of its bursts
MAX_BANKS, MAX_GROUPS = 62, 16  # bank masks are the bits of one positive 64-bit integer
MAX_PSEUDO_CHANNELS = 1024
MAX_CYCLES, MAX_REFRESH = 1024, 1 << 20  # of one timing: longer ones are slips, and a run would not end
ORGANISATION = ("channels", "pseudo_channels", "stack_ids", "bank_groups", "banks_per_group", "row_bytes", "read_queue",
                "write_queue", "drain_high", "drain_low", "age_cap", "chunk_bytes", "scramble_bits")


@dataclass(frozen=True)
class DramConfig:
    """One DRAM. `rtw` is RD to WR; `wtr_*` and `wr` count from the end of the write data."""

    channels: int
    pseudo_channels: int
    stack_ids: int
    bank_groups: int
    banks_per_group: int
    row_bytes: int
    read_queue: int
    write_queue: int
    drain_high: int
    drain_low: int
    age_cap: int
    act_bus_cycles: int
    pre_bus_cycles: int
    chunk_bytes: int
    scramble_bits: int
    burst: int
    ccd_s: int
    ccd_l: int
    cl: int
    cwl: int
    rcd_rd: int
    rcd_wr: int
    rp: int
    ras: int
    rc: int
    rrd_s: int
    rrd_l: int
    faw: int
    wtr_s: int
    wtr_l: int
    rtw: int
    wr: int
    rtp: int
    refi: int
    rfc: int

    def __post_init__(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise ChipError(f"dram: {what}")

        for name in ("channels", "pseudo_channels", "stack_ids", "bank_groups", "banks_per_group", "read_queue",
                     "write_queue", "burst"):
            need(getattr(self, name) >= 1, f"{name} must be at least 1")
        need(self.banks <= MAX_BANKS, f"at most {MAX_BANKS} banks a pseudo-channel, not {self.banks}")
        need(self.groups <= MAX_GROUPS, f"at most {MAX_GROUPS} bank groups a pseudo-channel, not {self.groups}")
        need(self.chunk_bytes % LINE_BYTES == 0 and self.chunk_bytes > 0,
             f"map.chunk_bytes must be a multiple of {LINE_BYTES}, not {self.chunk_bytes}")
        need(self.row_bytes % self.chunk_bytes == 0 and self.row_bytes > 0,
             f"row_bytes must be a multiple of map.chunk_bytes, not {self.row_bytes}")
        need(0 <= self.scramble_bits <= 30, f"map.scramble_bits must be 0 to 30, not {self.scramble_bits}")
        marks = (self.drain_low, self.drain_high, self.write_queue)
        need(0 <= marks[0] < marks[1] <= marks[2], f"needs drain_low < drain_high <= write_queue, not {marks}")
        need(self.total_pseudo_channels <= MAX_PSEUDO_CHANNELS,
             f"at most {MAX_PSEUDO_CHANNELS} pseudo-channels (channels x pseudo_channels), not "
             f"{self.total_pseudo_channels}")
        for name in (f.name for f in fields(self) if f.name not in ORGANISATION):
            most = MAX_REFRESH if name in ("refi", "rfc") else MAX_CYCLES
            need(0 <= getattr(self, name) <= most, f"{name} must be at most {most} cycles, not {getattr(self, name)}")
        for name in ("read_queue", "write_queue"):
            need(getattr(self, name) <= 4096, f"{name} must be at most 4096 lines, not {getattr(self, name)}")
        access = self.rp + max(self.ras, self.rcd_rd + self.rtp, self.rcd_wr + self.cwl + self.burst + self.wr)
        need(self.refi == 0 or self.refi * self.banks > self.rfc + self.rc + access,
             f"a bank would always be in refresh (rfc, refi): {self.refi * self.banks} cycles from one refresh of a "
             f"bank to its next must be more than its {self.rfc} and an access of {self.rc + access}")

    @property
    def groups(self) -> int:
        """Bank groups of a pseudo-channel over all its ranks; bank b is in group b modulo groups."""
        return self.bank_groups * self.stack_ids

    @property
    def banks(self) -> int:
        """Banks of a pseudo-channel over all its ranks."""
        return self.groups * self.banks_per_group

    @property
    def total_pseudo_channels(self) -> int:
        return self.channels * self.pseudo_channels

    @property
    def stride(self) -> int:
        """Pseudo-channels from a chunk of memory to the next, as the scrambled map deals them out."""
        return stride_of(self.total_pseudo_channels)

    @property
    def peak_bytes_per_cycle(self) -> float:
        """Bytes a DRAM cycle when every pseudo-channel's data bus is always busy."""
        return self.total_pseudo_channels * BURST_BYTES / self.burst

    def first_refresh(self, pc: int) -> int:
        """Cycle of a pseudo-channel's first refresh: they are spread evenly over the interval."""
        return self.refi + pc * self.refi // self.total_pseudo_channels

    def locate(self, line: int) -> tuple[int, int, int, int]:
        """(pseudo-channel of all, bank, row, line within the row) of a 128-byte line."""
        chunk_lines = self.chunk_bytes // LINE_BYTES
        chunk = scramble_number(line // chunk_lines, self.scramble_bits, self.total_pseudo_channels, self.stride)
        pc, local = chunk % self.total_pseudo_channels, chunk // self.total_pseudo_channels
        chunks = self.row_bytes // self.chunk_bytes
        row, bank = divmod(local // chunks, self.banks)
        return pc, bank, row, local % chunks * chunk_lines + line % chunk_lines

    def line_at(self, pc: int, bank: int, row: int, column: int = 0) -> int:
        """The line that `locate` puts there: for tests and address patterns."""
        chunk_lines = self.chunk_bytes // LINE_BYTES
        chunks = self.row_bytes // self.chunk_bytes
        local = (row * self.banks + bank) * chunks + column // chunk_lines
        chunk = unscramble_number(local * self.total_pseudo_channels + pc, self.scramble_bits,
                                  self.total_pseudo_channels, self.stride)
        return chunk * chunk_lines + column % chunk_lines

    def but(self, **changes: int) -> DramConfig:
        """A copy with some numbers changed."""
        return replace(self, **changes)

    @classmethod
    def from_chip(cls, chip: Chip) -> DramConfig:
        """The [dram], [dram.map] and [dram.timing] sections of a chip. Raises ChipError."""
        places: dict[str, Any] = {}
        for field in fields(cls):
            for section in ("dram", "dram.map", "dram.timing"):
                if f"{section}.{field.name}" in chip.numbers:
                    places[field.name] = chip[f"{section}.{field.name}"]
                    break
            else:
                chip[f"dram.timing.{field.name}"]  # raises with the nearest name
        return cls(**places)
