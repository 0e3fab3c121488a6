"""The viewer's page without a browser: what is in it, that it is safe, and that its bytes depend on nothing else."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from emulator.chip import load_chip
from emulator.trace_file import write_trace
from tests.tools.test_cli import refused, run
from tools.bench.made_up_trace import gpu_recording, lpu_recording
from tools.viewer.pack import LAYOUT, folded, packed_events, planes, script_json
from tools.viewer.page import description, page, tables
from tools.viewer.recording import Recording, recordings_of

Capture = pytest.CaptureFixture[str]
NASTY = """</script><script>window.broken = 1</script><img src=x onerror="window.broken = 2">"'`&amp;<!--"""


def nasty_recordings() -> list[Recording]:
    """Recordings whose every text, the label among them, is markup."""
    found = [lpu_recording(400), gpu_recording(2000, sms=2)]
    for number, recording in enumerate(found):
        tables = recording.trace
        for column in (tables.instructions.asm, tables.instructions.source, tables.instructions.node,
                       tables.instructions.kernel, tables.launches.node, tables.launches.kernel):  # fmt: skip
            column[:] = [f"{text} {NASTY}" for text in column]
        tables.units.name[:] = [f"{name} {NASTY}" for name in tables.units.name]
        recording.label = f"{number} {NASTY}"
        recording.run = {"model": NASTY}
    return found


class _Elements(HTMLParser):
    """Elements of a page, and the text of its scripts by their id (or number)."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.inside = dict(attributes).get("id") or f"script{len(self.scripts)}"
            self.scripts[self.inside] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside is not None:
            self.scripts[self.inside] += data


def parsed(text: str) -> _Elements:
    elements = _Elements()
    elements.feed(text)
    elements.close()
    return elements


def unpacked(data: bytes, units: int, count: int) -> dict[str, np.ndarray]:
    """packed_events undone, one number after another: the slow twin of assets/codec.js."""
    raw = zlib.decompress(data)

    def column(at: int, length: int) -> tuple[list[int], int]:
        size = raw[at]
        return ([sum(raw[at + 1 + plane * length + index] << (8 * plane) for plane in range(size))
                 for index in range(length)], at + 1 + size * length)  # fmt: skip

    counts, at = column(0, units)
    found: dict[str, list[int]] = {"unit": [unit for unit, n in enumerate(counts) for _ in range(n)]}
    for name, differences in LAYOUT:
        values, at = column(at, count)
        values = [value // 2 if value % 2 == 0 else -(value + 1) // 2 for value in values]
        if differences:
            start = 0
            for n in counts:
                for index in range(start + 1, start + n):
                    values[index] += values[index - 1]
                start += n
        found[name] = values
    assert at == len(raw)
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("recording", [lpu_recording(600), gpu_recording(3000, sms=2)], ids=["lpu", "gpu"])
def test_packed_events_come_back_by_unit_and_start(recording: Recording) -> None:
    trace = recording.trace
    found = unpacked(packed_events(recording), len(trace.units), len(trace))
    order = np.lexsort((trace.start, trace.unit))
    for name in ("unit", "kind", "reason", "launch", "instruction", "actor", "wait", "bytes", "start"):
        assert (found[name] == getattr(trace, name)[order]).all(), name
    assert (found["duration"] == (trace.end - trace.start)[order]).all()


def test_signs_are_folded_and_bytes_lie_in_planes() -> None:
    assert folded(np.array([0, -1, 1, -2, 2])).tolist() == [0, 1, 2, 3, 4]
    assert planes(np.array([0x0102, 0x0304], dtype=np.uint64)) == bytes([2, 2, 4, 1, 3])
    assert planes(np.array([0, 0], dtype=np.uint64)) == bytes([0])
    with pytest.raises(ValueError, match="does not fit 32 bits"):
        planes(np.array([1 << 32], dtype=np.uint64))


def test_a_window_that_is_too_long_is_refused() -> None:
    recording = lpu_recording(200)
    recording.trace.window = (0, 2**31)
    with pytest.raises(ValueError, match="too long to show"):
        packed_events(recording)


def test_equal_input_gives_equal_bytes() -> None:
    assert page([gpu_recording(2000, sms=2)]) == page([gpu_recording(2000, sms=2)])


def test_the_page_asks_for_nothing_outside_itself() -> None:
    text = page([lpu_recording(400), gpu_recording(2000, sms=2)])
    for tag, attributes in parsed(text).tags:
        for name in ("src", "href", "action", "data", "poster"):
            assert not attributes.get(name) or attributes[name] == "data:,", (tag, attributes)
    text = text.replace("http://www.w3.org/2000/svg", "")  # a name, not a place
    assert not re.search(r"https?://|//cdn|@import|url\(|fetch\(|XMLHttpRequest|importScripts|WebSocket", text)


def test_text_of_a_program_cannot_leave_its_place() -> None:
    recordings = nasty_recordings()
    text = page(recordings, title=NASTY)
    clean = parsed(page([lpu_recording(400), gpu_recording(2000, sms=2)]))
    elements = parsed(text)
    assert [tag for tag, _ in elements.tags] == [tag for tag, _ in clean.tags]  # no text became an element
    assert NASTY not in text and "window.broken" not in text.replace(script_json(NASTY)[1:-1], "")
    meta = json.loads(elements.scripts["meta"])
    assert meta["title"] == NASTY and meta["traces"][0]["label"] == recordings[0].label
    known = json.loads(zlib.decompress(base64.b64decode(elements.scripts["tables1"])))
    assert known["instructions"]["asm"] == recordings[1].trace.instructions.asm


def test_no_script_writes_markup() -> None:
    """All text goes through textContent: nothing that parses HTML is in the assets."""
    parses = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function")
    for path in (Path(__file__).parents[2] / "tools" / "viewer" / "assets").glob("*.js"):
        assert not parses.search(path.read_text(encoding="utf-8")), path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a trace of each machine."""
    for recording in (lpu_recording(400), gpu_recording(2000, sms=2)):
        write_trace(recording.trace, tmp_path / "first" / recording.trace.chip, {"clock_hz": recording.clock_hz})
    return tmp_path / "first"


def test_view_writes_one_page_of_all_machines(capsys: Capture, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    code, said, errors = run(capsys, "view", str(folder), "-o", str(out))
    assert code == 0, errors
    assert "2 machines" in said
    meta = json.loads(parsed(out.read_text(encoding="utf-8")).scripts["meta"])
    assert [t["chip"] for t in meta["traces"]] == ["groq_tsp_v1", "h100_sxm"]
    assert [t["label"] for t in meta["traces"]] == ["first", "first"]
    assert {path.name for path in tmp_path.iterdir()} == {"first", "page.html"}


def test_runs_of_one_name_are_told_apart(folder: Path) -> None:
    labels = [r.label for r in recordings_of([folder, folder])]
    assert labels == ["first", "first", "first (2)", "first (2)"]


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda chip: (chip / "run.json").unlink(), "not a trace"),
    (lambda chip: (chip / "events.parquet").write_bytes(b"PAR1"), "truncated"),
    (lambda chip: (chip / "units.parquet").unlink(), "missing"),
])  # fmt: skip
def test_what_is_no_trace_is_told_in_a_sentence(
    capsys: Capture, folder: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    chip = folder / "h100_sxm"
    spoil(chip)
    assert said in refused(capsys, "view", str(chip), "-o", str(tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()


def test_an_unwritable_place_is_told_before_the_work(capsys: Capture, folder: Path, tmp_path: Path) -> None:
    said = refused(capsys, "view", str(folder), "-o", str(tmp_path / "nowhere" / "page.html"))
    assert "there is no folder" in said


def test_a_waterfall_comes_from_an_explanation_of_the_same_chip(capsys: Capture, folder: Path, tmp_path: Path) -> None:
    steps = [{"name": "floor", "cycles": 100, "why": "a"}, {"name": "DRAM timing", "cycles": -7, "why": "b"}]
    why, out = tmp_path / "why.json", tmp_path / "page.html"
    why.write_text(json.dumps({"chips": [{"chip": "h100_sxm", "waterfall": steps}]}))
    code, _, errors = run(capsys, "view", str(folder), "-o", str(out), "--explain", str(why))
    assert code == 0, errors
    traces = json.loads(parsed(out.read_text(encoding="utf-8")).scripts["meta"])["traces"]
    assert [t["summary"]["waterfall"] for t in traces] == [[], steps]
    why.write_text(json.dumps({"chips": [{"chip": "a100_sxm", "waterfall": steps}]}))
    said = refused(capsys, "view", str(folder), "-o", str(out), "--explain", str(why))
    assert "explains a100_sxm, and the traces are of groq_tsp_v1, h100_sxm" in said
    why.write_text("[]")
    assert "not what decodelab explain" in refused(capsys, "view", str(folder), "-o", str(out), "--explain", str(why))


@pytest.mark.parametrize(("chip", "limit"), [("groq_tsp_v1", "links"), ("h100_sxm", "noc")])
def test_the_chip_of_an_ideal_run_is_known_to_its_page(capsys: Capture, tmp_path: Path, chip: str, limit: str) -> None:
    """run.json keeps the settings that --ideal stands for: without them the page has no roofs and no streams."""
    code, _, errors = run(capsys, "trace", "--model", "tiny_kjv", "--chip", chip, "--timing-only", "--context", "64",
                          "--layers", "0:1", "--ideal", limit, "--kinds", "issue", "-o", str(tmp_path / "t"))
    assert code == 0, errors
    (recording,) = recordings_of([tmp_path / "t"])
    plain = load_chip(chip)
    assert recording.chip is not None and recording.chip.hash == recording.run["chip_hash"] != plain.hash
    shown = description(recording)
    assert shown["roofs"] and shown["summary"]["options"]["ideal"] == limit
    assert (tables(recording)["streams"] is None) == (chip == "h100_sxm")
