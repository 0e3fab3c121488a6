"""Data values in assembly files: numbers, lists, .npy files, expressions and reproducible random numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isa import expressions, formats
from isa.lexer import Line, Token

ELEMENTS_MAX = 1 << 26
FORMATS = tuple(formats.RAW)


def read_shape(line: Line, constants: dict[str, int]) -> tuple[int, int]:
    """[rows, columns], or [columns] for one row."""
    opening = line.expect("[")
    sizes = [line.integer(constants)]
    if line.accept(","):
        sizes.append(line.integer(constants))
    line.expect("]")
    rows, columns = (1, sizes[0]) if len(sizes) == 1 else sizes
    if rows < 1 or columns < 1 or rows * columns > ELEMENTS_MAX:
        raise line.error(f"shape [{rows},{columns}] must be positive and at most {ELEMENTS_MAX} elements", opening)
    return rows, columns


def read_format(line: Line) -> str:
    token = line.name("a number format")
    if token.text not in FORMATS:
        raise line.unknown("number format", token, FORMATS)
    return token.text


def read_values(line: Line, dtype: str, shape: tuple[int, int], folder: Path | None,
                earlier: dict[str, np.ndarray]) -> np.ndarray | None:
    """Values [rows, columns] that follow on the line, None when there are none.

    folder: where .npy files may lie (None: nowhere). earlier: data by name for expressions.
    """
    token = line.peek()
    if token.kind == "end" or token.text == "@":
        return None
    if token.kind == "string":
        return _fit(line, token, read_file(line, folder), shape)
    if token.text == "[":
        return _fit(line, token, np.array(read_list(line), dtype=np.float64), shape)
    if token.text == "random":
        return _random(line, dtype, shape)
    if token.text == "(":
        text, opening = line.group_text("(", ")")
        rows, columns = np.meshgrid(np.arange(shape[0], dtype=np.float64), np.arange(shape[1], dtype=np.float64),
                                    indexing="ij")
        try:
            values = expressions.evaluate(text, {**earlier, "r": rows, "c": columns})
            return np.broadcast_to(values, shape)
        except expressions.ExpressionError as error:
            raise line.error(str(error), opening) from None
        except ValueError:
            raise line.error(f"({text}) does not have the shape [{shape[0]},{shape[1]}]", opening) from None
    return np.full(shape, line.real())


def read_list(line: Line) -> list[float]:
    """[number, number, ...]"""
    line.expect("[")
    numbers = [line.real()]
    while line.accept(","):
        numbers.append(line.real())
    line.expect("]")
    return numbers


def _fit(line: Line, token: Token, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = shape
    if values.size == rows * columns and values.shape in ((values.size,), shape):
        return values.reshape(shape)
    if values.ndim == 1 and values.size in (1, columns):
        return np.broadcast_to(values, shape)
    raise line.error(f"{'x'.join(map(str, values.shape))} values do not fill [{rows},{columns}]", token)


def read_file(line: Line, folder: Path | None) -> np.ndarray:
    """The array of a .npy file, beside or below the assembly file only; nothing is unpickled."""
    token = line.next()
    name = token.text[1:-1]
    if folder is None:
        raise line.error(f"{token.text}: text that is not in a file cannot name files", token)
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and not Path(name).is_absolute()
    except (OSError, ValueError):
        inside = False
    if not inside:
        raise line.error(f"{token.text} must lie beside or below the assembly file", token)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise line.error(f"there is no file {token.text}", token) from None
    except (OSError, ValueError, EOFError):
        raise line.error(f"{token.text} is not a NumPy .npy file of numbers", token) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.size > ELEMENTS_MAX:
        raise line.error(f"{token.text} is not a NumPy .npy file of numbers", token)
    return np.array(array, dtype=np.float64)


def _random(line: Line, dtype: str, shape: tuple[int, int]) -> np.ndarray:
    """random SEED [LOW HIGH]: SplitMix64 (Steele et al. 2014), so that every computer gets the same numbers."""
    line.next()
    seed_token = line.peek()
    seed = line.real()
    if not 0 <= seed < 2**53 or seed != int(seed):
        raise line.error("the seed is a whole number from 0 on", seed_token)
    whole = dtype in formats.INTEGERS
    low, high = (0.0 if dtype == "u8" else -8.0, 8.0) if whole else (-1.0, 1.0)
    if line.peek().kind == "number" or line.peek().text == "-":
        low_token = line.peek()
        low, high = line.real(), line.real()
        if not -1e30 < low <= high < 1e30:
            raise line.error(f"the range {low:g} to {high:g} is empty", low_token)
    uniform = random_uniform(int(seed), shape[0] * shape[1]).reshape(shape)
    if whole:
        return low + np.floor(uniform * (high - low + 1))
    return low + uniform * (high - low)


def random_uniform(seed: int, count: int) -> np.ndarray:
    """`count` float64 in [0, 1): the SplitMix64 sequence of a seed, top 53 bits each."""
    z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53
