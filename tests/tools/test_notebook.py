"""The example notebook: the script runs, the rendered file has its cells, and notebooks are rendered as they should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools import notebook

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPT = '''"""Head."""

# %% [markdown]
# # Title
#
# Text with `code`.

# %%
x = 2
print("said")
x + 1

# %%
class Rich:
    def _repr_html_(self):
        return "<b>rich</b>"

Rich()
'''


def test_cells_run_in_order_and_keep_what_they_show() -> None:
    cells = notebook.cells_of(SCRIPT)
    space = notebook.run(cells)
    assert space["x"] == 2
    made = notebook.notebook(cells)
    text, first, second = made["cells"]
    assert text["source"] == ["# Title\n", "\n", "Text with `code`."] and text["cell_type"] == "markdown"
    assert first["outputs"] == [
        {"output_type": "stream", "name": "stdout", "text": ["said\n"]},
        {"output_type": "execute_result", "data": {"text/plain": ["3"]}, "metadata": {}, "execution_count": 1}]
    assert second["outputs"][0]["data"]["text/html"] == ["<b>rich</b>"] and second["execution_count"] == 2


def test_an_error_names_the_line_of_the_script() -> None:
    with pytest.raises(ZeroDivisionError) as error:
        notebook.run(notebook.cells_of("# %%\nx = 1\n\nx / 0\n"), "s.py")
    assert error.traceback[-1].lineno == 3, "counted from 0"


def test_the_rendered_notebook_is_that_of_the_script() -> None:
    cells = notebook.cells_of((DOCS / "notebook.py").read_text(encoding="utf-8"))
    rendered = json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))
    assert [("".join(c["source"]), c["cell_type"] == "markdown") for c in rendered["cells"]] == [
        (cell.source, cell.markdown) for cell in cells], "render it: python -m tools.notebook docs/notebook.py -o ..."
    assert all(c.get("outputs") for c in rendered["cells"][-1:]), "it was run"


def test_the_example_runs_and_both_machines_agree() -> None:
    cells = notebook.cells_of((DOCS / "notebook.py").read_text(encoding="utf-8"))
    space = notebook.run(cells)
    tokens = [result.token_ids for result in space["results"].values()]
    assert tokens[0] == tokens[1] and len(tokens[0][0]) == 4
    assert space["issued"].sum() == int(space["trace"].of_kind("issue").sum())
    shown = [cell for cell in cells if cell.outputs and "text/html" in cell.outputs[-1].get("data", {})]
    assert len(shown) >= 4, "programs, results and traces show themselves"
