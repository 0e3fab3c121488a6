"""Options that several commands share, and the parsing of their values: one meaning everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from emulator.chip import Chip

DEFAULT_MODEL = "tiny_kjv"
DEFAULT_CHIPS = ("groq_tsp_v1", "h100_sxm")
DEFAULT_PROMPT = "In the beginning"

COUNT_MAX = 1 << 30
_COUNT = re.compile(r"(\d+)(k?)", re.IGNORECASE)


class Count(click.ParamType):
    """A positive whole number; 8k means 8192. Lists (`1,8,64`) where `many`."""

    name = "count"

    def __init__(self, many: bool = False) -> None:
        self.many = many

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.split(",") if self.many else [value]
        numbers = []
        for part in parts:
            found = _COUNT.fullmatch(part.strip())
            digits = found[1].lstrip("0")[:20] if found else ""  # 20 are far over the limit, however many follow
            number = int(digits or 0) * (1024 if found and found[2] else 1)
            if number > COUNT_MAX:
                self.fail(f"{part.strip()} is more than {COUNT_MAX:,}", param, ctx)
            if number < 1:
                allowed = "numbers such as 1,8,64 or 1k,8k" if self.many else "a number such as 64 or 1k"
                self.fail(f"{value!r} is not {allowed}, each at least 1", param, ctx)
            numbers.append(number)
        return tuple(dict.fromkeys(numbers)) if self.many else numbers[0]


class Finite(click.FloatRange):
    """A number within limits that is one: click's own lets nan through, and every comparison with that is false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


class Names(click.ParamType):
    """Names or patterns with commas between them, such as issue,stall: a tuple, empty where there is none."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())


class TokenIds(click.ParamType):
    """Token ids with commas: 5,77,640."""

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(",")]
        if not all(re.fullmatch(r"\d{1,9}", part) for part in parts):
            self.fail(f"{value!r} is not a list of token ids such as 5,77,640", param, ctx)
        return tuple(int(part) for part in parts)


class Range(click.ParamType):
    """A range A:B of whole numbers, B not included; `what` is counted, in at most `digits` digits."""

    name = "A:B"

    def __init__(self, what: str, digits: int, example: str) -> None:
        self.what, self.digits, self.example = what, digits, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        number = rf"(\d{{1,{self.digits}}})"
        found = re.fullmatch(f"{number}:{number}", value)
        if not found or int(found[1]) >= int(found[2]):
            self.fail(f"{value!r} is not a range of {self.what} such as {self.example}, each of at most {self.digits} "
                      "digits", param, ctx)
        return int(found[1]), int(found[2])


class Layers(Range):
    """A range of layers."""

    def __init__(self) -> None:
        super().__init__("layers", 6, "0:1")


class CycleRange(Range):
    """A range of cycles."""

    def __init__(self) -> None:
        super().__init__("cycles", 12, "0:60")


class Binding(click.ParamType):
    """NAME=FILE."""

    name = "NAME=FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        name, equals, file = value.partition("=")
        if not equals or not name or not file:
            self.fail(f"{value!r} is not NAME=FILE", param, ctx)
        return name, Path(file)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def option_group(*options: Decorator) -> Decorator:
    """One decorator that adds several options, in the order given."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


model_option = click.option(
    "--model", default=DEFAULT_MODEL, show_default=True,
    help="Bundled name, preset, Hugging Face folder, or .gguf file.",
)  # fmt: skip
set_option = click.option(
    "--set", "settings", multiple=True, metavar="CHIP.KEY=VALUE",
    help="What if a number of a chip file were another one; repeatable.",
)  # fmt: skip
ideal_option = click.option(
    "--ideal", default=None, metavar="WORD,..",
    help="Without these limits: issue, l1, bulk, noc, l2, tlb, nvlink, dram, pins, waves, launch (GPU); "
         "links, transit, vxm, units (LPU).",
)  # fmt: skip
engine_option = click.option(
    "--engine", type=click.Choice(["fast", "naive"]), default="fast", show_default=True,
    help="The fast engine, or its slow twin in plain Python.",
)  # fmt: skip
launch_option = click.option(
    "--launch", type=click.Choice(["graph", "stream", "persistent"]), default=None,
    help="GPU: a step's kernels as a graph, one by one, or as one kernel with grid barriers [default: graph].",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

arithmetic_options = option_group(
    click.option(
        "--arithmetic", default=None, metavar="fp16|int8|cast8",
        help="LPU: number formats of weights and activations [default: fp16].",
    ),
    click.option(
        "--weights", default=None, metavar="bf16|fp16|fp8|int8",
        help="GPU: number format of the weights [default: the checkpoint's 16-bit type].",
    ),
    click.option(
        "--kv-format", default=None, metavar="fp16|bf16|fp8",
        help="Number format of the KV cache [default: fp16 on the LPU, the activations' on the GPU; fp8: GPU].",
    ),
)  # fmt: skip
system_options = option_group(
    click.option(
        "--chips", "system_chips", type=Count(), default=None,
        help="Chips of the system [default: the fewest that hold the model].",
    ),
    click.option("--tensor-parallel", type=Count(), default=None, help="Chips that share a layer: 1, 2, 4 or 8."),
    click.option("--pipeline-parallel", type=Count(), default=None, help="LPU: stages that layers are dealt out to."),
)  # fmt: skip
prompt_options = option_group(
    click.option(
        "--prompt", "prompts", multiple=True,
        help="Text to continue; repeatable, cycled over the batch.",
    ),
    click.option(
        "--prompt-ids", "prompt_ids", multiple=True, type=TokenIds(), metavar="5,77,640",
        help="The same, as token ids.",
    ),
    click.option(
        "--tokens", type=Count(), default=None,
        help="Tokens to generate [default: 16; with --timing-only one step is measured].",
    ),
)  # fmt: skip


def option_name(field: str) -> str:
    """How an option is written: its name in Python to its name on the command line."""
    return "--chips" if field == "system_chips" else "--" + field.replace("_", "-")


def load_chip_with(name: str, settings: tuple[str, ...]) -> Chip:
    """A chip with the --set values meant for it. Raises ChipError for a key that it does not have."""
    from emulator.chip import load_chip

    chip = load_chip(name)
    for setting in settings:
        target, key, text = split_setting(setting)
        if target == chip.name:
            chip = chip.with_override(key, text)
    return chip


def with_ideal(ideal: str | None, names: tuple[str, ...], settings: tuple[str, ...]) -> tuple[str, ...]:
    """Settings that take the limits of --ideal from every chip that has them; the user's own come after and win.

    names: the chips, none for the default ones. Raises ValueError for a word that none of them has.
    """
    if ideal is None:
        return settings
    from emulator.chip import ChipError, load_chip
    from emulator.ideal import NEUTRAL, ideal_values

    chips = [load_chip(name) for name in names or DEFAULT_CHIPS]
    found: list[str] = []
    for word in (part.strip() for part in ideal.split(",")):
        having = [chip for chip in chips if word in NEUTRAL[chip.kind]]
        if not having:
            try:
                ideal_values(chips[-1], word)  # refuses it, with the words that there are
            except ChipError as error:
                raise ValueError(f"--{error}") from None
        found += [f"{chip.name}.{key}={value}" for chip in having for key, value in ideal_values(chip, word).items()]
    return (*found, *settings)


def split_setting(setting: str) -> tuple[str, str, str]:
    """(chip, key, value) of CHIP.KEY=VALUE. Raises ValueError."""
    left, equals, text = setting.partition("=")
    name, dot, key = left.partition(".")
    if not equals or not dot or not name or not key or not text:
        raise ValueError(f"--set {setting}: expected CHIP.KEY=VALUE, such as h100_sxm.dram.channels=80")
    return name, key, text


def load_chips(names: tuple[str, ...], settings: tuple[str, ...]) -> list[Chip]:
    """The chips of --chip, in order, with their --set values.

    Raises ValueError when a setting names a chip that takes no part, or a chip is named twice.
    """
    import difflib

    names = names or DEFAULT_CHIPS
    if len(set(names)) != len(names):
        raise ValueError(f"--chip: a chip is named twice ({', '.join(names)})")
    chips = [load_chip_with(name, settings) for name in names]
    known = [chip.name for chip in chips]
    for setting in settings:
        target = split_setting(setting)[0]
        if target not in known:
            near = difflib.get_close_matches(target, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ValueError(f"--set {setting}: no chip {target} takes part; {hint}chips here: {', '.join(known)}")
    return chips
