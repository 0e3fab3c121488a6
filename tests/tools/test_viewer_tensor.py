"""Tensors in the viewer: what a search finds, what hovering tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tools.test_viewer import complaints, frame, move, needs_browser, point, search, selected, text
from tools.bench.browser import browser, open_page
from tools.bench.made_up_trace import gpu_recording, lpu_recording
from tools.viewer.page import page

pytestmark = needs_browser
LPU, GPU = lpu_recording(2_000), gpu_recording(20_000)
NASTY = '<img src=x onerror="window.broken = 1">'


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("tensor") / "page.html"
    path.write_text(page([LPU, GPU]), encoding="utf-8")
    with browser() as driver:
        open_page(driver, path, fragment="timeline")
        frame(driver)
        yield driver
        assert complaints(driver) == []


def test_a_search_finds_the_events_of_a_tensor_on_both_machines(view: Any) -> None:
    """LPU: by its instructions. GPU: its loads say "weights" in every kernel; the launch says which weights."""
    lpu, gpu = LPU.trace, GPU.trace
    of_matrix = {n for n, tensor in enumerate(lpu.instructions.tensor) if tensor == "matrix 3"}
    expected = sum(int(n) in of_matrix for n in lpu.instruction)
    assert of_matrix and search(view, "tensor: Matrix 3") == f"{expected:,} matches"
    found = selected(view)
    assert found is not None and found[0] == 0 and found[3] in of_matrix
    attention = gpu.launches.node.index("layers.0.attention")
    loads = {n for n, opcode in enumerate(gpu.instructions.opcode) if opcode == "LDG"}
    events = sum(int(n) in loads and int(launch) == attention for n, launch in zip(gpu.instruction, gpu.launch))
    assert events and search(view, "layers.0.attention.weights") == f"{events:,} matches"
    found = selected(view)
    assert found is not None and found[0] == 1 and found[3] in loads


def test_a_field_keeps_the_others_out(view: Any) -> None:
    """layers.0.attention is a node too, with all that its kernel does."""
    gpu = GPU.trace
    attention = gpu.launches.node.index("layers.0.attention")
    node, tensor = (search(view, f"{field}: layers.0.attention") for field in ("node", "tensor"))
    assert node == f"{int((gpu.launch == attention).sum()):,} matches" != tensor
    assert search(view, "layers.0.attention") == node
    assert search(view, "unit: MMA") == "0 matches" != search(view, "instruction: MMA")


def test_hovering_over_a_load_tells_its_tensor(view: Any) -> None:
    trace = GPU.trace
    unit = trace.units.name.index("SM0.1")
    i = next(i for i in range(len(trace)) if trace.unit[i] == unit and trace.kind[i] == 0 and trace.launch[i] == 1
             and trace.instructions.opcode[int(trace.instruction[i])] == "LDG")  # fmt: skip
    ns = (int(trace.start[i]) + 0.5) / 1.755
    search(view, "")
    view.execute_script("decodelab.timeline.setView(arguments[0] - 3, arguments[0] + 3)", ns)
    move(view, *point(view, "SM0.1", ns))
    said = text(view, "#tip")
    assert "tensor" in said and "layers.0.attention.weights" in said


def test_names_of_tensors_are_shown_as_text(view: Any, tmp_path: Path) -> None:
    gpu = gpu_recording(2_000, sms=1)
    gpu.trace.launches.tensors[:] = [json.dumps({"weights": NASTY})] * 3
    path = tmp_path / "nasty.html"
    path.write_text(page([gpu]), encoding="utf-8")
    open_page(view, path, fragment="timeline")
    assert search(view, "tensor: <img") != "0 matches"
    assert "<img" in text(view, "#pane") or "<img" in text(view, "#status")
    assert view.execute_script("return [window.broken === undefined, document.querySelectorAll('img').length]") == [
        True, 0]  # fmt: skip
