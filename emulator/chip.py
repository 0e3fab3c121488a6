"""Chip descriptions: every number of a machine with its unit, source and status.

A chip is a TOML file of sections whose entries are
    key = { value = 32, unit = "cycles", status = "measured", source = "where the number comes from" }
An optional `range = [low, high]` says how far an assumed number may be off.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec

STATUSES = ("published", "measured", "calibrated", "assumed")
FOLDER = Path(__file__).resolve().parent / "chips"
DRAM_FOLDER = FOLDER.parent / "dram" / "configs"


class ChipError(ValueError):
    """A chip file or an override that cannot be used; the message is for the user."""


class Number(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One hardware number with its provenance."""

    value: int | float | str
    unit: str
    status: str
    source: str
    range: tuple[float, float] | None = None


class Chip:
    """A loaded chip: `chip["mem.read_cycles"]` is a value, `chip.numbers[...]` its provenance."""

    def __init__(self, name: str, kind: str, title: str, numbers: dict[str, Number]) -> None:
        self.name = name
        self.kind = kind  # "lpu" or "gpu"; "dram" for a DRAM by itself
        self.title = title
        self.numbers = numbers

    def __getitem__(self, key: str) -> Any:
        try:
            return self.numbers[key].value
        except KeyError:
            raise ChipError(_unknown("key", f"{self.name}.{key}", [f"{self.name}.{k}" for k in self.numbers])) from None

    @property
    def clock_hz(self) -> int:
        """Cycles a second of the clock that cycle counts refer to."""
        return int(self["core.clock_hz"])

    @property
    def hash(self) -> str:
        """Digest of every value, user overrides included: programs carry it."""
        values = {key: number.value for key, number in sorted(self.numbers.items())}
        return hashlib.sha256(json.dumps([self.name, self.kind, values]).encode()).hexdigest()[:16]

    def status_counts(self) -> dict[str, int]:
        """How many numbers have each status."""
        return {status: sum(n.status == status for n in self.numbers.values()) for status in STATUSES}

    def with_override(self, key: str, text: str) -> Chip:
        """A copy with one value replaced by the user's, marked `assumed: user`. Raises ChipError."""
        if key not in self.numbers:
            raise ChipError(_unknown("key", f"{self.name}.{key}", [f"{self.name}.{k}" for k in self.numbers]))
        old = self.numbers[key]
        value: int | float | str
        try:
            if isinstance(old.value, bool) or isinstance(old.value, str):
                value = text
            elif isinstance(old.value, int):
                value = int(text, 0) if not any(c in text for c in ".eE") or text.startswith("0x") else _whole(text)
            else:
                value = float(text)
        except ValueError:
            kind = "a whole number" if isinstance(old.value, int) else "a number"
            raise ChipError(f"{self.name}.{key}={text}: expected {kind} ({old.unit})") from None
        if not isinstance(value, str) and not 0 <= value < 2**62:
            raise ChipError(f"{self.name}.{key}={text}: must be at least 0 and less than 2**62")
        numbers = dict(self.numbers)
        numbers[key] = Number(value=value, unit=old.unit, status="assumed", source="user")
        return Chip(self.name, self.kind, self.title, numbers)


def _whole(text: str) -> int:
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown chip {what} {name}{hint}"


def chip_names() -> list[str]:
    """Names of the chips that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_chip(name: str | Path) -> Chip:
    """Load a bundled chip by name, or a TOML file by path. Raises ChipError with one sentence.

    A GPU's file may name a DRAM (`dram = "hbm3_5g2"` in [chip]): then it has that DRAM's numbers, except for
    those that it gives itself.
    """
    path = description_path(name, "chip", FOLDER)
    head, numbers = read_numbers(path, "chip", ("lpu", "gpu"))
    if "dram" in head:
        numbers = {**load_dram(head["dram"]).numbers, **numbers}
    return Chip(head["name"], head["kind"], head["title"], numbers)


def dram_names() -> list[str]:
    """Names of the DRAMs that ship with the package."""
    return sorted(path.stem for path in DRAM_FOLDER.glob("*.toml"))


def load_dram(name: str | Path) -> Chip:
    """Load a bundled DRAM by name, or a TOML file by path: a description of kind "dram". Raises ChipError."""
    head, numbers = read_numbers(description_path(name, "DRAM", DRAM_FOLDER), "memory", ("dram",))
    return Chip(head["name"], head["kind"], head["title"], numbers)


def description_path(name: str | Path, what: str, folder: Path) -> Path:
    """The TOML file of a bundled name, or the given file. Raises ChipError with the nearest name."""
    path = Path(name)
    if path.suffix == ".toml":
        return path
    path = folder / f"{name}.toml"
    if not path.is_file():
        known = sorted(other.stem for other in folder.glob("*.toml"))
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ChipError(f"unknown {what} {name}; {hint}known {what}s: {', '.join(known)}")
    return path


def read_numbers(path: Path, what: str, kinds: tuple[str, ...]) -> tuple[dict[str, str], dict[str, Number]]:
    """(name, kind and title; numbers by key) of a description with a [what] section. Raises ChipError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ChipError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ChipError(f"{path}: not valid TOML ({error})") from None
    head = document.pop(what, None)
    if not isinstance(head, dict) or head.get("kind") not in kinds or "name" not in head:
        raise ChipError(f"{path}: needs a [{what}] section with name, kind ({' or '.join(kinds)}) and title")
    numbers: dict[str, Number] = {}
    _collect(path, "", document, numbers)
    told = {"name": head["name"], "kind": head["kind"], "title": str(head.get("title", head["name"]))}
    return told | ({"dram": str(head["dram"])} if "dram" in head else {}), numbers


def _collect(path: Path, prefix: str, table: dict[str, Any], numbers: dict[str, Number]) -> None:
    for key, entry in table.items():
        name = f"{prefix}{key}"
        if not isinstance(entry, dict):
            raise ChipError(f"{path}: {name} must be a number with value, unit, status and source")
        if "value" not in entry:
            _collect(path, f"{name}.", entry, numbers)
            continue
        try:
            number = msgspec.convert(entry, Number)
        except msgspec.ValidationError as error:
            raise ChipError(f"{path}: {name}: {error}") from None
        if number.status not in STATUSES:
            raise ChipError(f"{path}: {name}: status {number.status!r} is not one of {', '.join(STATUSES)}")
        if not number.unit or not number.source:
            raise ChipError(f"{path}: {name}: unit and source must not be empty")
        numbers[name] = number
