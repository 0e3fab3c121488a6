"""What a DRAM is made of: organisation, timing and queue sizes, from a chip file's [dram] section.

All times are DRAM command-clock cycles. A timing of 0 switches its rule off.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from math import gcd
from typing import Any

from emulator.chip import Chip, ChipError
from emulator.dram.address import scramble_number, unscramble_number

LINE_BYTES, BURST_BYTES, BURSTS = 128, 32, 4  # a queue entry is a line with a mask of its bursts
MAX_BANKS, MAX_GROUPS = 62, 16  # bank masks are the bits of one positive 64-bit integer
MAX_PSEUDO_CHANNELS = 1024
MAX_CYCLES, MAX_REFRESH = 1024, 1 << 20  # of one timing: longer ones are slips, and a run would not end
ORGANISATION = ("channels", "pseudo_channels", "stack_ids", "bank_groups", "banks_per_group", "row_bytes", "rows",
                "burst_bytes", "read_queue", "write_queue", "drain_high", "drain_low", "age_cap", "chunk_bytes",
                "scramble_bits", "order", "refresh")
ORDERS = ("row_interleaved", "bank_interleaved", "in_order")
REFRESHES = ("per_bank", "all_bank", "none")


def stride_of(pseudo_channels: int) -> int:
    """How far apart neighbouring chunks lie: near the golden section, without a common factor with the number."""
    best = round(pseudo_channels * 0.618)
    near = sorted(range(1, pseudo_channels + 1), key=lambda stride: (abs(stride - best), stride))
    return next(stride for stride in near if gcd(stride, pseudo_channels) == 1)


@dataclass(frozen=True)
class DramConfig:
    """One DRAM. `rtw` is RD to WR; `wtr_*` and `wr` count from the end of the write data.

    refresh: "per_bank" takes `refi` (from one bank to the next) and `rfc`, "all_bank" `refi_ab` and `rfc_ab`.
    order: where a pseudo-channel's next chunk goes when the chunk before it was in bank b of row r.
      row_interleaved   on in row r; after the row's end to row r of bank b + 1
      bank_interleaved  to bank b + 1, at the same place; after the last bank on in row r of bank 0
      in_order          on in row r; after the row's end to row r + 1 of bank b; after `rows` rows to bank b + 1
    """

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
    # What not every description has to say.
    refi_ab: int = 0
    rfc_ab: int = 0
    rows: int = 1 << 14
    burst_bytes: int = BURST_BYTES
    order: str = "row_interleaved"
    refresh: str = "per_bank"

    def __post_init__(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise ChipError(f"dram: {what}")

        for name in ("channels", "pseudo_channels", "stack_ids", "bank_groups", "banks_per_group", "read_queue",
                     "write_queue", "burst", "rows"):
            need(getattr(self, name) >= 1, f"{name} must be at least 1")
        need(self.banks <= MAX_BANKS, f"at most {MAX_BANKS} banks a pseudo-channel, not {self.banks}")
        need(self.groups <= MAX_GROUPS, f"at most {MAX_GROUPS} bank groups a pseudo-channel, not {self.groups}")
        need(self.chunk_bytes % LINE_BYTES == 0 and self.chunk_bytes > 0,
             f"map.chunk_bytes must be a multiple of {LINE_BYTES}, not {self.chunk_bytes}")
        need(self.row_bytes % self.chunk_bytes == 0 and self.row_bytes > 0,
             f"row_bytes must be a multiple of map.chunk_bytes, not {self.row_bytes}")
        need(self.burst_bytes in (BURST_BYTES, 2 * BURST_BYTES, LINE_BYTES),
             f"burst_bytes must be 32, 64 or 128, not {self.burst_bytes}")
        need(self.rows <= 1 << 24, f"rows must be at most {1 << 24}, not {self.rows}")
        need(self.order in ORDERS, f"map.order must be {', '.join(ORDERS[:-1])} or {ORDERS[-1]}, not {self.order}")
        need(self.refresh in REFRESHES,
             f"refresh must be {', '.join(REFRESHES[:-1])} or {REFRESHES[-1]}, not {self.refresh}")
        need(0 <= self.scramble_bits <= 30, f"map.scramble_bits must be 0 to 30, not {self.scramble_bits}")
        marks = (self.drain_low, self.drain_high, self.write_queue)
        need(0 <= marks[0] < marks[1] <= marks[2], f"needs drain_low < drain_high <= write_queue, not {marks}")
        need(self.total_pseudo_channels <= MAX_PSEUDO_CHANNELS,
             f"at most {MAX_PSEUDO_CHANNELS} pseudo-channels (channels x pseudo_channels), not "
             f"{self.total_pseudo_channels}")
        for name in (f.name for f in fields(self) if f.name not in ORGANISATION):
            most = MAX_REFRESH if name.startswith(("refi", "rfc")) else MAX_CYCLES
            need(0 <= getattr(self, name) <= most, f"{name} must be at most {most} cycles, not {getattr(self, name)}")
        for name in ("read_queue", "write_queue"):
            need(getattr(self, name) <= 4096, f"{name} must be at most 4096 lines, not {getattr(self, name)}")
        access = self.rp + max(self.ras, self.rcd_rd + self.rtp, self.rcd_wr + self.cwl + self.burst + self.wr)
        refi, rfc = self.refresh_timing
        between = refi * (self.banks if self.refresh == "per_bank" else 1)
        need(refi == 0 or between > rfc + self.rc + access,
             f"a bank would always be in refresh (rfc, refi): {between} cycles from one refresh of a "
             f"bank to its next must be more than its {rfc} and an access of {self.rc + access}")

    @property
    def refresh_timing(self) -> tuple[int, int]:
        """Cycles from one refresh of a pseudo-channel to its next (0: none), and how long one takes."""
        known = {"per_bank": (self.refi, self.rfc), "all_bank": (self.refi_ab, self.rfc_ab)}
        return known.get(self.refresh, (0, 0))

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
    def row_capacity(self) -> int:
        """Bytes of all rows that there are."""
        return self.total_pseudo_channels * self.banks * self.rows * self.row_bytes

    @property
    def stride(self) -> int:
        """Pseudo-channels from a chunk of memory to the next, as the scrambled map deals them out."""
        return stride_of(self.total_pseudo_channels)

    @property
    def peak_bytes_per_cycle(self) -> float:
        """Bytes a DRAM cycle when every pseudo-channel's data bus is always busy."""
        return self.total_pseudo_channels * self.burst_bytes / self.burst

    def first_refresh(self, pc: int) -> int:
        """Cycle of a pseudo-channel's first refresh: they are spread evenly over the interval."""
        refi = self.refresh_timing[0]
        return refi + pc * refi // self.total_pseudo_channels

    def locate(self, line: int) -> tuple[int, int, int, int]:
        """(pseudo-channel of all, bank, row, line within the row) of a 128-byte line."""
        chunk_lines = self.chunk_bytes // LINE_BYTES
        chunk = scramble_number(line // chunk_lines, self.scramble_bits, self.total_pseudo_channels, self.stride)
        pc, local = chunk % self.total_pseudo_channels, chunk // self.total_pseudo_channels
        bank, row, column = self.place(local)
        return pc, bank, row, column * chunk_lines + line % chunk_lines

    def place(self, chunk: Any) -> tuple[Any, Any, Any]:
        """(bank, row, chunk within the row) of a pseudo-channel's chunk."""
        in_row = self.row_bytes // self.chunk_bytes
        if self.order == "bank_interleaved":
            block, bank = divmod(chunk, self.banks)
            return bank, block // in_row, block % in_row
        block, column = divmod(chunk, in_row)
        if self.order == "row_interleaved":
            return block % self.banks, block // self.banks, column
        turn, block = divmod(block, self.rows * self.banks)  # past the last bank: rows that do not exist, but differ
        return block // self.rows, turn * self.rows + block % self.rows, column

    def chunk_at(self, bank: Any, row: Any, column: Any) -> Any:
        """The chunk that `place` puts there."""
        in_row = self.row_bytes // self.chunk_bytes
        if self.order == "bank_interleaved":
            return (row * in_row + column) * self.banks + bank
        if self.order == "row_interleaved":
            return (row * self.banks + bank) * in_row + column
        turn, row = divmod(row, self.rows)
        return ((turn * self.banks + bank) * self.rows + row) * in_row + column

    def line_at(self, pc: Any, bank: Any, row: Any, column: Any = 0) -> Any:
        """The line that `locate` puts there, or an array of them: for tests and address patterns."""
        chunk_lines = self.chunk_bytes // LINE_BYTES
        local = self.chunk_at(bank, row, column // chunk_lines)
        total = self.total_pseudo_channels
        chunk = unscramble_number(local * total + pc, self.scramble_bits, total, self.stride)
        return chunk * chunk_lines + column % chunk_lines

    def but(self, **changes: Any) -> DramConfig:
        """A copy with some values changed."""
        return replace(self, **changes)

    @classmethod
    def from_chip(cls, chip: Chip) -> DramConfig:
        """The [dram], [dram.map] and [dram.timing] sections of a chip or DRAM. Raises ChipError."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            for section in ("dram", "dram.map", "dram.timing"):
                if f"{section}.{field.name}" in chip.numbers:
                    values[field.name] = chip[f"{section}.{field.name}"]
                    break
            else:
                if field.default is MISSING:
                    chip[f"dram.timing.{field.name}"]  # raises with the nearest name
        return cls(**values)
