"""Streams and files: plain characters where a stream is not UTF-8, files whole or not at all."""

from __future__ import annotations

import io
import sys

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
