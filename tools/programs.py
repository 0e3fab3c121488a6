"""Programs as files: opening, saving, running them with arrays bound to their names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tools import console
from tools.options import load_chip_with, split_setting

if TYPE_CHECKING:
    import numpy as np

    from isa.program import Program

ARRAY_BYTES_MAX = 1 << 32  # an .npy larger than this is not read


def check_settings_used(settings: tuple[str, ...], chip: str) -> None:
    """Refuse a --set value for a chip that takes no part."""
    for setting in settings:
        if split_setting(setting)[0] != chip:
            raise ValueError(f"--set {setting}: the program is for {chip}")


def assemble_with(source: Path, settings: tuple[str, ...]) -> Program:
    """Assemble a file, with --set values for its chip."""
    from emulator.assemble import assemble

    program = assemble(source, lambda name: load_chip_with(name, settings))
    check_settings_used(settings, program.chip)
    return program


def example_or_file(path: Path) -> Path:
    """The file itself, or the bundled example of that name. Raises ValueError for a near name of an example."""
    import difflib

    folder = Path(__file__).resolve().parent.parent / "programs" / "examples"
    if path.exists() or path.parent.parts not in ((), ("programs", "examples")):
        return path
    known = sorted(file.name for file in folder.glob("*.s"))
    if path.name in known:
        return folder / path.name
    near = difflib.get_close_matches(path.name, known, n=1, cutoff=0.6)
    if near:
        raise ValueError(f"{path}: no such file; did you mean the example {near[0]}?")
    return path


def open_program(path: Path, settings: tuple[str, ...] = ()) -> Program:
    """A program from a .s file, a program file, or by a bundled example's name. Raises ValueError or OSError."""
    path = example_or_file(path)
    if path.suffix == ".s":
        return assemble_with(path, settings)
    from isa.programfile import load_program

    program: Program = load_program(path)
    check_settings_used(settings, program.chip)
    return program


def queue_names(program: Program, settings: tuple[str, ...] = ()) -> tuple[str, ...] | None:
    """Names of an LPU program's queues, for a listing."""
    if program.dialect != "lpu":
        return None
    from emulator.lpu.geometry import geometry

    return geometry(load_chip_with(program.chip, settings)).queue_names


def summary(program: Program) -> str:
    """A program in one line."""
    from isa.program import GpuText

    text = program.texts[0]
    size = f"{len(text.words):,} instructions"
    if isinstance(text, GpuText):
        size += f", {len(text.kernels)} kernels, {len(text.launches)} launches"
    else:
        size += f" in {sum(1 for a, b in zip(text.starts, text.starts[1:]) if b > a)} queues"
    if program.meta.get("predicted_cycles"):
        size += f", {program.meta['predicted_cycles']:,} cycles a step"
    return f"{program.chip}, {size}"


def read_array(name: str, path: Path) -> np.ndarray:
    """An array from an .npy file, never unpickled. Raises ValueError with one sentence."""
    import numpy as np

    try:
        if path.stat().st_size > ARRAY_BYTES_MAX:
            raise ValueError(f"--in {name}={path}: larger than {ARRAY_BYTES_MAX} bytes")
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise ValueError(f"--in {name}={path}: not a NumPy array that can be read ({error})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iufb":
        raise ValueError(f"--in {name}={path}: must be one array of numbers (.npy)")
    return array


def write_array(array: np.ndarray, path: Path) -> None:
    """An array as an .npy file, whole or not at all."""
    import io

    import numpy as np

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    console.write_file(path, stream.getvalue())
