"""Address traces of DRAM as text: the formats that Ramulator and DRAMsim3 read, in and out.

    ldst      LD 0x12340        Ramulator 2, loads and stores: LD or ST, then the byte address
    rw        0x12340 R         Ramulator, memory traces: byte address, then R or W
    dramsim3  0x12340 READ 17   DRAMsim3: byte address, READ or WRITE, memory-clock cycle of arrival
Addresses are hexadecimal with 0x, or decimal. Empty lines and lines that begin with # are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from emulator.chip import Chip

FORMATS = ("ldst", "rw", "dramsim3")
SHAPES = {"ldst": "LD ADDRESS or ST ADDRESS", "rw": "ADDRESS R or ADDRESS W", "dramsim3": "ADDRESS READ|WRITE CYCLE"}
WORDS = {"ldst": ("LD", "ST"), "rw": ("R", "W"), "dramsim3": ("READ", "WRITE")}  # a read, a write
ADDRESS_LIMIT = 1 << 48
ROOM = 1 << 24  # requests of a GPU program that can be noted
SECTOR_BYTES = 32


@dataclass
class Trace:
    """Requests in order: byte addresses, which are writes, and DRAM cycles of arrival (None: as fast as they fit)."""

    addresses: np.ndarray
    writes: np.ndarray
    arrivals: np.ndarray | None


def read_trace(path: Path) -> Trace:
    """Read a trace in any of the formats. Raises ValueError that names the first bad line."""
    addresses: list[int] = []
    writes: list[bool] = []
    arrivals: list[int] = []
    found = None
    with open(path, encoding="ascii", errors="replace") as stream:
        for number, line in enumerate(stream, 1):
            parts = line.split()
            if not parts or parts[0].startswith("#"):
                continue
            if found is None:
                found = _format_of(parts)
                if found is None:
                    shapes = "; ".join(SHAPES.values())
                    raise ValueError(f"{path}:{number}: {line.strip()!r} is no request; expected one of: {shapes}")
            try:
                address, write, arrival = _request(found, parts)
            except ValueError as error:
                reason = str(error)
                raise ValueError(f"{path}:{number}: {reason}; expected {SHAPES[found]}, as on the lines before"
                                 if addresses else f"{path}:{number}: {reason}; expected {SHAPES[found]}") from None
            if arrivals and arrival < arrivals[-1]:
                raise ValueError(f"{path}:{number}: cycle {arrival} comes after cycle {arrivals[-1]}; sort the trace")
            addresses.append(address)
            writes.append(write)
            arrivals.append(arrival)
    if not addresses:
        raise ValueError(f"{path}: no request in it")
    timed = np.array(arrivals, dtype=np.int64) if found == "dramsim3" else None
    return Trace(np.array(addresses, dtype=np.int64), np.array(writes), timed)


def _format_of(parts: list[str]) -> str | None:
    for name in FORMATS:
        word = parts[0] if name == "ldst" else parts[1] if len(parts) > 1 else ""
        if word.upper() in WORDS[name] and len(parts) == (3 if name == "dramsim3" else 2):
            return name
    return None


def _request(form: str, parts: list[str]) -> tuple[int, bool, int]:
    """(address, write, cycle) of one line. Raises ValueError with what is wrong."""
    if len(parts) != (3 if form == "dramsim3" else 2):
        raise ValueError(f"{' '.join(parts)!r} has {len(parts)} words")
    kind, address = (parts[0], parts[1]) if form == "ldst" else (parts[1], parts[0])
    if kind.upper() not in WORDS[form]:
        raise ValueError(f"{kind!r} is neither {WORDS[form][0]} nor {WORDS[form][1]}")
    arrival = _number(parts[2], "cycle") if form == "dramsim3" else 0
    return _number(address, "address"), kind.upper() == WORDS[form][1], arrival


def _number(text: str, what: str) -> int:
    try:
        value = int(text, 16 if text[:2].lower() == "0x" else 10)
    except ValueError:
        raise ValueError(f"{what} {text!r} is not a number") from None
    if not 0 <= value < ADDRESS_LIMIT:
        raise ValueError(f"{what} {text} is not between 0 and 2**48")
    return value


def trace_text(trace: Trace, form: str) -> str:
    """The trace in a format; requests without a time get cycle 0 in DRAMsim3's."""
    read, write = WORDS[form]
    kinds = [write if w else read for w in trace.writes.tolist()]
    addresses = [f"{a:#x}" for a in trace.addresses.tolist()]
    if form == "ldst":
        lines = [f"{k} {a}" for a, k in zip(addresses, kinds)]
    elif form == "rw":
        lines = [f"{a} {k}" for a, k in zip(addresses, kinds)]
    else:
        times = np.zeros(len(kinds), np.int64) if trace.arrivals is None else trace.arrivals
        lines = [f"{a} {k} {t}" for a, k, t in zip(addresses, kinds, times.tolist())]
    return "\n".join(lines) + "\n"


class Recorder:
    """Notes every request that a GPU's L2 sends to DRAM while it runs. Raises ValueError for other machines."""

    def __init__(self, machine: Any, chip: Chip) -> None:
        if chip.kind != "gpu" or not hasattr(machine.engine, "M"):
            raise ValueError("--dram-trace needs a GPU program and --engine fast")
        from emulator.dram.layout import keep_trace
        from emulator.gpu.memory_layout import D

        self.machine, self.offset = machine, D
        machine.engine.M = keep_trace(machine.engine.M, D, ROOM)

    def trace(self) -> Trace:
        """One request for each 32-byte sector, in order of arrival at DRAM."""
        from emulator.dram.layout import traced

        count, rows = traced(self.machine.engine.M, self.offset)
        if count > len(rows):
            raise ValueError(f"--dram-trace: the program sends {count} requests to DRAM; {len(rows)} can be written")
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        sectors = rows[:, 2, None] >> np.arange(1, 5) & 1  # [requests, 4 sectors of a line]
        which, sector = np.nonzero(sectors)
        return Trace(rows[which, 1] * 128 + sector * SECTOR_BYTES, (rows[which, 2] & 1).astype(bool), rows[which, 0])
