"""`python -m tools.notebook docs/notebook.py -o docs/notebook.ipynb`: a script in percent format, run, as a notebook.

Cells begin with `# %%`, text cells with `# %% [markdown]` and are comments. They run in one namespace, in this
process; a cell's output is what it prints and its last expression, as HTML where that has `_repr_html_`, as a picture
where it is a matplotlib figure. No Jupyter is needed; the same run gives the same file.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools import console

MARK = "# %%"


@dataclass
class Cell:
    """One cell: its source, whether it is text, the line of the script on which it begins, and its outputs."""

    source: str
    markdown: bool
    line: int
    outputs: list[dict[str, Any]] = field(default_factory=list)


def cells_of(script: str) -> list[Cell]:
    """The cells of a script. What stands before the first mark is not part of the notebook."""
    cells: list[Cell] = []
    for number, line in enumerate(script.splitlines(), 1):
        if line.startswith(MARK):
            cells.append(Cell("", "[markdown]" in line, number + 1))
        elif cells:
            text = line.removeprefix("#").removeprefix(" ") if cells[-1].markdown else line
            cells[-1].source += text + "\n"
    for cell in cells:
        cell.source = cell.source.strip("\n")
    return [cell for cell in cells if cell.source]


def run(cells: list[Cell], name: str = "notebook") -> dict[str, Any]:
    """Run the code cells in order and keep what they show; gives their namespace. Errors of a cell go through."""
    space: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        if cell.markdown:
            continue
        tree = ast.parse(cell.source, name)
        ast.increment_lineno(tree, cell.line - 1)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        said = io.StringIO()
        value = None
        with contextlib.redirect_stdout(said):
            exec(compile(tree, name, "exec"), space)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), name, "eval"), space)
        if said.getvalue():
            cell.outputs.append({"output_type": "stream", "name": "stdout", "text": _lines(said.getvalue())})
        if value is not None:
            cell.outputs.append({"output_type": "execute_result", "data": _shown(value), "metadata": {}})
    return space


def _shown(value: Any) -> dict[str, Any]:
    """A value as Jupyter would show it, by MIME type."""
    if hasattr(value, "savefig"):
        image = io.BytesIO()
        value.savefig(image, format="png", dpi=100, metadata={"Software": None})
        return {"image/png": base64.b64encode(image.getvalue()).decode(), "text/plain": ["<Figure>"]}
    data: dict[str, Any] = {"text/plain": _lines(repr(value))}
    if hasattr(value, "_repr_html_") and (page := value._repr_html_()):
        data = {"text/html": _lines(page), **data}
    return data


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def notebook(cells: list[Cell]) -> dict[str, Any]:
    """The notebook file's content, format 4.5."""
    found: list[dict[str, Any]] = []
    count = 0
    for at, cell in enumerate(cells):
        kind = "markdown" if cell.markdown else "code"
        head: dict[str, Any] = {"cell_type": kind, "id": f"cell-{at}", "metadata": {}}
        if cell.markdown:
            found.append(head | {"source": _lines(cell.source)})
            continue
        count += 1
        outputs = [o | ({"execution_count": count} if o["output_type"] == "execute_result" else {})
                   for o in cell.outputs]
        found.append(head | {"execution_count": count, "outputs": outputs, "source": _lines(cell.source)})
    return {"cells": found, "metadata": {"language_info": {"name": "python"}, "kernelspec": {
        "display_name": "Python 3", "language": "python", "name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


def main(arguments: list[str]) -> int:
    """SCRIPT -o NOTEBOOK. Returns the exit code."""
    if len(arguments) != 3 or arguments[1] != "-o":
        console.message("usage: python -m tools.notebook SCRIPT -o NOTEBOOK.ipynb")
        return 2
    script, output = Path(arguments[0]), Path(arguments[2])
    cells = cells_of(script.read_text(encoding="utf-8"))
    run(cells, str(script))
    console.write_file(output, console.to_json(notebook(cells)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
