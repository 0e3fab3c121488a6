"""Streams and files: plain characters where a stream is not UTF-8, files whole or not at all."""

from __future__ import annotations

import io
import sys
import time

import pytest

from tools import console


def test_characters_become_ascii_on_a_stream_that_is_not_utf8(monkeypatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stream)
    console.prepare_streams()
    print("5 µs × 2 → “é” 猫", file=stream)
    stream.flush()
    assert raw.getvalue() == b'5 us x 2 -> "?" ?\n'


def test_utf8_streams_are_left_alone(monkeypatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="UTF8")
    monkeypatch.setattr(sys, "stdout", stream)
    console.prepare_streams()
    print("×", file=stream)
    stream.flush()
    assert raw.getvalue() == "×\n".encode()


def test_data_and_messages_keep_to_the_prepared_stream(monkeypatch) -> None:
    raw = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, buffer in raw.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding="latin-1"))
    console.prepare_streams()
    console.data("café")
    console.message("5 µs")
    assert raw["stdout"].getvalue() == b"caf?\n"
    assert raw["stderr"].getvalue() == b"5 us\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stepping", [False, True])
def test_a_terminal_sees_that_long_work_goes_on(monkeypatch, stepping: bool) -> None:
    """Without a single step the time runs; with steps also how many of how many."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.05)
    with console.Progress("slow work") as progress:
        if stepping:
            progress.step(3, 16, "tiny_kjv on h100_sxm")
        for _ in range(100):
            time.sleep(0.05)
            if "0:00:0" in sys.stderr.getvalue():  # type: ignore[attr-defined]
                break
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert "0:00:0" in shown, "the elapsed time"
    assert ("tiny_kjv on h100_sxm" in shown and "3/16" in shown) if stepping else "slow work" in shown


def test_elsewhere_one_line_says_how_long_it_took_unless_it_failed(capsys, monkeypatch) -> None:
    monkeypatch.setattr(console, "PATIENCE_SECONDS", 0.0)
    with console.Progress("work"):
        pass
    assert capsys.readouterr().err == "work: 0 s\n"
    with console.Progress("work") as progress:
        progress.failed = True
    with pytest.raises(ValueError), console.Progress("work"):
        raise ValueError
    assert capsys.readouterr().err == ""


def test_a_file_appears_only_when_it_is_complete(tmp_path, monkeypatch) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")

    def interrupted(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("os.replace", interrupted)
        console.write_file(path, "half of the new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays behind"
    console.write_file(path, "new\n")
    assert path.read_bytes() == b"new\n"
    console.write_file(path, b"\r\n\0")
    assert path.read_bytes() == b"\r\n\0"
    assert list(tmp_path.iterdir()) == [path]


def test_paths_that_cannot_be_written_are_refused_before_the_work(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        console.check_writable(tmp_path / "nowhere" / "out.csv")
    with pytest.raises(ValueError, match="it is a folder"):
        console.check_writable(tmp_path)
    console.check_writable(None)
    console.check_writable(tmp_path / "fine.csv")


def test_json_is_ascii_and_refuses_nan() -> None:
    assert console.to_json({"text": "é"}) == '{\n  "text": "\\u00e9"\n}'
    with pytest.raises(ValueError):
        console.to_json({"x": float("nan")})
