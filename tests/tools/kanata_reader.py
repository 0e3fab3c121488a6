"""A strict reader of the Kanata 0004 grammar (docs/kanata-log-format.md of the Konata project)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Row:
    """One instruction: labels, stages of each lane as (name, first cycle, end), cycles it was open."""

    thread: int
    opened: int
    left: str = ""
    tooltip: str = ""
    stages: dict[int, list[tuple[str, int, int]]] = field(default_factory=dict)
    running: dict[int, tuple[str, int]] = field(default_factory=dict)
    retired: int = -1
    retire_id: int = -1
    producers: list[int] = field(default_factory=list)

    def close(self, lane: int, now: int) -> None:
        name, since = self.running.pop(lane)
        assert now > since, f"stage {name} lasts {now - since} cycles"
        self.stages.setdefault(lane, []).append((name, since, now))


def _number(text: str) -> int:
    assert text.isdecimal(), f"{text!r} is no number"
    return int(text)


def read(path: Path) -> tuple[int, list[Row]]:
    """(cycle of the first line, rows by id). Raises AssertionError for anything that the grammar does not say."""
    content = path.read_bytes().decode("utf-8")
    assert content.endswith("\n") and "\r" not in content
    header, *lines = content[:-1].split("\n")
    assert header == "Kanata\t0004"
    rows: list[Row] = []
    now = start = -1
    for number, line in enumerate(lines):
        command, *rest = line.split("\t")
        if number == 0:
            assert command == "C=" and len(rest) == 1
            now = start = _number(rest[0])
            continue
        if command == "C":
            (text,) = rest
            assert _number(text) > 0
            now += int(text)
        elif command == "I":
            row, simulator, thread = map(_number, rest)
            assert row == len(rows), "ids are new and in sequence"
            rows.append(Row(thread, now))
        else:
            assert command in ("L", "S", "E", "R", "W"), f"unknown command {command!r}"
            one = rows[_number(rest[0])]
            assert one.retired < 0, "the row is gone"
            if command == "L":
                _, kind, text = rest
                assert kind in ("0", "1", "2") and text
                if kind == "0":
                    one.left += text
                else:
                    one.tooltip += text
            elif command == "S":
                _, lane, stage = rest
                assert stage and not any(c.isspace() for c in stage)
                if _number(lane) in one.running:
                    one.close(int(lane), now)
                one.running[int(lane)] = (stage, now)
            elif command == "E":
                _, lane, stage = rest
                assert one.running[_number(lane)][0] == stage, "only an open stage ends"
                one.close(int(lane), now)
            elif command == "R":
                _, retire_id, kind = rest
                assert kind in ("0", "1")
                for lane in list(one.running):
                    one.close(lane, now)
                one.retired, one.retire_id = now, _number(retire_id)
            else:
                _, producer, kind = rest
                assert kind == "0"
                assert _number(producer) < len(rows), "the producer has a row"
                one.producers.append(int(producer))
    assert all(row.retired >= 0 for row in rows), "every row retires"
    assert len({row.retire_id for row in rows}) == len(rows)
    return start, rows
