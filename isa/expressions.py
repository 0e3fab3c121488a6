"""Arithmetic in assembly files: data values, and what `.expect` says should come out.

Everything is float64 NumPy. The text is parsed by Python's own parser and walked over a short list of
allowed nodes; nothing is ever executed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isa.program import Expectation

TEXT_MAX = 1000  # characters


class ExpressionError(ValueError):
    """An expression that cannot be evaluated; the message is for the user."""


def _rows(function: Callable[..., Any]) -> Callable[[np.ndarray], np.ndarray]:
    """A reduction over the columns that keeps the axis when there are several rows."""
    return lambda x: function(x, axis=-1, keepdims=np.ndim(x) > 1) if np.ndim(x) else x


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "exp2": np.exp2, "sqrt": np.sqrt, "tanh": np.tanh, "abs": np.abs, "T": np.transpose,
    "sum": _rows(np.sum), "mean": _rows(np.mean), "max": _rows(np.max), "min": _rows(np.min)}
_BINARY: dict[type, Callable[..., Any]] = {
    ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide, ast.Mod: np.mod,
    ast.MatMult: np.matmul}


def parse(text: str) -> ast.expr:
    """Syntax tree of an expression, checked: only arithmetic, names and FUNCTIONS. Raises ExpressionError."""
    if len(text) > TEXT_MAX:
        raise ExpressionError(f"the expression is longer than {TEXT_MAX} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ExpressionError(f"({text}) is not an expression") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            known = isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS
            if not known or len(node.args) != 1 or node.keywords:
                raise ExpressionError(f"({text}): the functions are {', '.join(FUNCTIONS)}, of one argument")
        elif isinstance(node, ast.BinOp):
            if type(node.op) not in _BINARY:
                raise ExpressionError(f"({text}): the operators are + - * / % @")
        elif isinstance(node, ast.UnaryOp):
            if not isinstance(node.op, ast.USub):
                raise ExpressionError(f"({text}): the operators are + - * / % @")
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool) or not isinstance(node.value, int | float):
                raise ExpressionError(f"({text}): {node.value!r} is not a number")
        elif not isinstance(node, ast.Name | ast.operator | ast.unaryop | ast.expr_context):
            raise ExpressionError(f"({text}) is not arithmetic")
    return tree


def names(text: str) -> set[str]:
    """Names of data in an expression. Raises ExpressionError."""
    tree = parse(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}


def evaluate(text: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The expression's value in float64; `values` are arrays by name. Raises ExpressionError."""

    def walk(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant):
            return np.float64(node.value)  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            if node.id not in values:
                raise ExpressionError(f"({text}): there is no data {node.id}")
            return np.asarray(values[node.id], dtype=np.float64)
        if isinstance(node, ast.UnaryOp):
            return -walk(node.operand)
        if isinstance(node, ast.BinOp):
            return _BINARY[type(node.op)](walk(node.left), walk(node.right))
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        return FUNCTIONS[node.func.id](walk(node.args[0]))

    try:
        with np.errstate(all="ignore"):
            return np.asarray(walk(parse(text)), dtype=np.float64)
    except ExpressionError:
        raise
    except (ValueError, OverflowError, RecursionError) as error:
        raise ExpressionError(f"({text}): {error}") from None


def squeeze(array: np.ndarray) -> np.ndarray:
    """Data as expressions see it: one row is a vector, one number a scalar."""
    array = np.asarray(array, dtype=np.float64)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    return array[0] if array.shape == (1,) else array


def failure(expectation: Expectation, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray],
            cycles: int) -> str | None:
    """What is wrong with one `.expect` after a run, in a sentence, or None.

    before and after: data by name [rows, columns] (or one value a row) at the start and the end of the
    run. Raises ExpressionError when the expectation makes no sense.
    """
    if expectation.name == "cycles":
        wanted = int(expectation.values)
        return None if cycles == wanted else f"cycles: expected {wanted}, got {cycles}"
    if expectation.name not in after:
        raise ExpressionError(f"there is no data {expectation.name}")
    got = squeeze(after[expectation.name])
    if isinstance(expectation.values, str):
        expected = evaluate(expectation.values, {name: squeeze(array) for name, array in before.items()})
    else:
        expected = np.asarray(expectation.values, dtype=np.float64)
        if expected.size == got.size:
            expected = expected.reshape(got.shape)
    try:
        expected = np.broadcast_to(expected, got.shape)
    except ValueError:
        raise ExpressionError(
            f"{expectation.name} has shape {got.shape}, but the expected values have shape {expected.shape}") from None
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(got - expected) <= expectation.tolerance) | (got == expected)
                  | (np.isnan(got) & np.isnan(expected)))
    if not wrong.any():
        return None
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    index = f"[{', '.join(map(str, place))}]" if place else ""
    return (f"{expectation.name}{index}: expected {expected[place]:.9g}, got {got[place]:.9g} "
            f"(tolerance {expectation.tolerance:g}; {int(wrong.sum())} of {wrong.size} differ)")
