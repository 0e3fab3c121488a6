"""Random whole programs for round trips: through text, and through a file."""

import numpy as np
from hypothesis import strategies as st

from emulator.assemble import target_of
from emulator.chip import load_chip
from isa.encoding import encode
from isa.opcodes import RZ, TYPES
from isa.program import (
    ROLES,
    Expectation,
    GpuImage,
    GpuText,
    Kernel,
    Launch,
    LpuImage,
    LpuText,
    Program,
    Source,
    Tensor,
)
from isa.validate import registers_used
from tests.isa.strategies import ROWS, instruction

LPU, GPU = target_of(load_chip("toy_lpu")), target_of(load_chip("toy_gpu"))
QUEUES = LPU.geometry.queue_names
NAMES = st.sampled_from(["x", "layers.0.wq", "k cache", "L3", "at", "hash", "R0", "T"])


def target(name):
    """Targets of the chips that the tests name. ValueError for others, as a caller would raise."""
    return target_of(load_chip(name))


def no_source(count):
    none = np.full(count, -1)
    return Source(none.astype(np.int32), none.astype(np.int32), none.astype(np.int16))


def arrays(draw, dtype, high, count):
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(0, high, count).astype(dtype)


@st.composite
def lpu_programs(draw):
    lanes = LPU.geometry.lanes
    rows = [row for row in ROWS if row[0] == "lpu"]
    words, starts = [], [0]
    for queue in range(len(QUEUES)):
        if queue % 5 == 3:
            found = [(op, values) for _, op, values in draw(st.lists(instruction(rows), max_size=6))
                     if op.unit == "icu" or takes(QUEUES[queue], op)]
            while found and found[0][0].name == "REPEAT":  # nothing to repeat yet
                found.pop(0)
            words += [encode("lpu", op, values) for op, values in found]
        starts.append(len(words))
    maps = arrays(draw, np.uint16, lanes, (draw(st.integers(1, 2)), lanes))
    text = LpuText(np.array(words, dtype=np.uint64), np.array(starts, dtype=np.int64), maps, no_source(len(words)))
    count = draw(st.integers(0, 4))
    image = LpuImage(arrays(draw, np.int32, 1000, count), arrays(draw, np.uint8, 256, (count, lanes)),
                     arrays(draw, np.int32, 1000, 2), arrays(draw, np.int32, 1000, draw(st.integers(0, 2))))
    chips = draw(st.sampled_from([[()], [(1, 2)], [(5, 0, 8, -1), (4,), (0, 1 << 39, 15)]]))
    tensors = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        dtype = draw(st.sampled_from(TYPES))
        tensor = Tensor(name, dtype, (2, lanes), draw(st.sampled_from(ROLES)), draw(st.booleans()), draw(st.booleans()))
        tensor.words = arrays(draw, np.int32, 1000, (2, 1, tensor.itemsize))
        tensor.chips = tuple(draw(st.permutations(range(len(chips))))[:draw(st.integers(1, len(chips)))])
        if not tensor.replicated and draw(st.booleans()):
            tensor.sharded = True
            tensor.shape = (2, draw(st.integers(1, lanes * len(tensor.chips))))
        tensors[name] = tensor
    return Program("lpu", LPU.chip, LPU.hash, [text], [image], [(0, 0, place) for place in chips], tensors,
                   draw(expectations(list(tensors))), draw(META))


def takes(queue, op):
    """A queue of the right kind, and not a small ALU for a large operation."""
    start = {"mem": "MEM", "alu": "VXM", "mxm": "MXM"}.get(op.unit)
    if op.name in ("LW", "IW", "ABC", "ACC"):
        return queue.startswith("MXM") and queue.endswith({"ABC": "ABC", "ACC": "ACC"}.get(op.name, "LW"))
    return queue.startswith(start) if start else op.unit.split("_")[-1].upper() in queue


@st.composite
def gpu_programs(draw):
    rows = [row for row in ROWS if row[0] == "gpu"]
    words, kernels = [], []
    for number in range(draw(st.integers(1, 3))):
        first, used = len(words), 1
        for _, op, values in draw(st.lists(instruction(rows), max_size=8)):
            try:
                used = max(used, registers_used(op, list(values)))
            except ValueError:  # a group that passes the last register
                continue
            words.append(encode("gpu", op, values, draw(st.integers(0, 15))))
        words.append(encode("gpu", next(op for _, op in rows if op.name == "EXIT"), []))
        parameters = ("a", "b c")[:draw(st.integers(1, 2))]
        kernels.append(Kernel(f"kernel.{number}", first, len(words) - first, min(used + 3, RZ), parameters))
    launches = []
    for i in range(draw(st.integers(0, 3))):
        kernel = draw(st.integers(0, len(kernels) - 1))
        launches.append(Launch(
            kernel, draw(st.integers(1, 1000)), 32 * draw(st.integers(1, 32)), draw(st.integers(0, 1 << 17)),
            tuple(draw(st.integers(-(2**63), 2**63 - 1)) for _ in kernels[kernel].parameters),
            tuple(sorted(draw(st.sets(st.integers(0, i - 1))))) if i else (),
            draw(st.sampled_from(["", "layers.0.qkv"]))))
    text = GpuText(np.array(words, dtype=np.uint64), kernels, launches, no_source(len(words)))
    image = GpuImage(arrays(draw, np.uint8, 256, 4096), 4096, 1 << 20)
    tensors = {}
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        tensors[name] = Tensor(name, draw(st.sampled_from(TYPES)), (3, 5), draw(st.sampled_from(ROLES)),
                               draw(st.booleans()), False, None, 64 * draw(st.integers(0, 50)), 64)
    return Program("gpu", GPU.chip, GPU.hash, [text], [image], [(0, 0, ())], tensors, draw(expectations(list(tensors))),
                   draw(META))


META = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers()),
                       max_size=3)


@st.composite
def expectations(draw, names):
    found = [Expectation("cycles", draw(st.integers(0, 10**9)))] if draw(st.booleans()) else []
    finite = st.floats(allow_nan=False, allow_infinity=False)
    for name in names:
        values = draw(st.lists(finite, min_size=1, max_size=3) | st.just("1 + 2 * (3 - 0.5)"))
        found.append(Expectation(name, values, draw(st.floats(0, 1))))
    return found

