"""From a model and a chip to a Program: options are checked here, then the machine's own compiler works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emulator.chip import Chip
from isa.program import Program
from programs.decode.stored import BYTES
from programs.program_cache import kept

if TYPE_CHECKING:
    from programs.decode.stored import Scheme, StoredModel
    from programs.models.checkpoint import Model

FORMATS = {"fp16": "f16", "bf16": "bf16", "fp8": "e4m3", "int8": "s8"}  # people's words -> number types
ARITHMETIC = ("fp16", "int8", "cast8")  # LPU
WEIGHTS = ("bf16", "fp16", "fp8", "int8")  # GPU
KV = ("fp16", "bf16", "fp8")
VALUES_BUCKET = 64  # positions a default context is rounded up to, with values
TIMING_CONTEXT = 1024  # default context of a timing-only run


class OptionError(ValueError):
    """An option that does not exist, or makes no sense for this chip or model; one sentence."""


def default_weights(model: Model) -> str:
    """The GPU's default number format: the checkpoint's 16-bit type; fp32 and GGUF become fp16."""
    return "bf16" if model.dtype == "bf16" else "fp16"


def scheme_for(
    model: Model,
    chip: Chip,
    arithmetic: str | None = None,
    weights: str | None = None,
    kv_format: str | None = None,
) -> Scheme:
    """Number formats of weights, activations and KV cache on this chip. Raises OptionError.

    LPU: `arithmetic` fp16 (default), int8 (int8 x int8), cast8 (int8 stored, cast to fp16 in the
    VXM). GPU: `weights`; int8 and fp8 quantise the activations too.
    """
    from programs.decode.stored import Scheme

    if kv_format is not None and kv_format not in KV:
        raise OptionError(f"--kv-format {kv_format} is unknown; known: {', '.join(KV)}")
    if chip.kind == "lpu":
        if weights is not None:
            raise OptionError(f"--weights {weights} is for GPUs; {chip.name} is an LPU and takes --arithmetic")
        arithmetic = arithmetic or "fp16"
        if arithmetic not in ARITHMETIC:
            raise OptionError(f"--arithmetic {arithmetic} is unknown; known: {', '.join(ARITHMETIC)}")
        if kv_format in ("bf16", "fp8"):
            raise OptionError(f"--kv-format {kv_format}: the matrix planes of {chip.name} multiply fp16 and int8 only; "
                              "take --kv-format fp16")
        if arithmetic == "fp16":
            return Scheme(weights="f16", activations="f16", kv="f16", fold_norms=False)
        if arithmetic == "cast8":
            return Scheme(weights="s8", activations="f16", kv="f16", fold_norms=False)
        return Scheme(weights="s8", activations="s8", kv="f16", fold_norms=True)
    if arithmetic is not None:
        raise OptionError(f"--arithmetic {arithmetic} is for LPUs; {chip.name} is a GPU and takes --weights")
    wide = default_weights(model)
    weights = weights or wide
    if weights not in WEIGHTS:
        raise OptionError(f"--weights {weights} is unknown; known: {', '.join(WEIGHTS)}")
    if weights in ("fp16", "bf16"):
        form = FORMATS[weights]
        return Scheme(weights=form, activations=form, kv=FORMATS[kv_format or weights], fold_norms=False)
    form = FORMATS[weights]
    return Scheme(weights=form, activations=form, kv=FORMATS[kv_format or wide], fold_norms=True)


def arithmetic_words(scheme: Scheme) -> tuple[str, str]:
    """(arithmetic, weights) of a scheme in words for people: ("int8 x int8", "int8, one scale a row")."""
    names = {form: word for word, form in FORMATS.items()}
    weights, activations = names[scheme.weights], names[scheme.activations]
    stored = weights if weights == activations and weights in ("fp16", "bf16") else f"{weights}, one scale a row"
    if weights != activations:
        return f"{weights} cast to {activations}, {activations} x {activations}", stored
    return f"{weights} x {activations}", stored


def default_context(positions: int | None, limit: int) -> int:
    """Context capacity when --context is not given. limit: what the model allows.

    positions: prompt + tokens, rounded up to 64 (the last token is never fed, so one position fewer
    will do at the limit); None for timing only: 1024.
    """
    if positions is None:
        return min(TIMING_CONTEXT, limit)
    return max(positions - 1, min(-(-positions // VALUES_BUCKET) * VALUES_BUCKET, limit))


def check_layers(layers: tuple[int, int] | None, count: int) -> tuple[int, int] | None:
    """The range of layers, None when it is all of them. Raises OptionError."""
    if layers is None or layers == (0, count):
        return None
    first, end = layers
    if not 0 <= first < end <= count:
        raise OptionError(f"--layers {first}:{end} is outside the model's {count} layers (0:{count})")
    return layers


def compile_decode(
    model: Model,
    chip: Chip,
    *,
    batch: int = 1,
    context: int | None = None,
    arithmetic: str | None = None,
    weights: str | None = None,
    kv_format: str | None = None,
    layers: tuple[int, int] | None = None,
    timing_only: bool | None = None,
    chips: int | None = None,
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    launch: str | None = None,
) -> Program:
    """The program of one decode step of `model` on `chip`.

    batch: sequences in lock step. context: positions the KV cache holds (default 1024, or the
    model's own limit where that is smaller). layers (a, b): only these layers, without embedding
    and head. timing_only: no values; default for a model that has no weights. chips, tensor_parallel,
    pipeline_parallel (LPU): the system and its split; default the fewest chips that hold the model. GPUs
    of a system all share every layer. launch (GPU): "persistent" makes the step one kernel; graph and stream
    run the same program.
    Raises OptionError for an option the chip does not take, and CapacityError where the model does not fit.
    """
    from programs.decode.stored import store

    if timing_only is None:
        timing_only = model.weights is None
    scheme = check_options(model, chip, batch, arithmetic, weights, kv_format, timing_only)
    context = context or default_context(None, model.config.positions_max)
    model.config.check_context(context, model.name)
    return compile_stored(
        store(model, scheme, timing_only=timing_only),
        chip,
        batch=batch,
        context=context,
        layers=layers,
        timing_only=timing_only,
        name=model.name,
        chips=chips,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        launch=launch,
    )


def check_options(
    model: Model,
    chip: Chip,
    batch: int,
    arithmetic: str | None,
    weights: str | None,
    kv_format: str | None,
    timing_only: bool,
) -> Scheme:
    """The number formats, after every option but the context was found possible. Raises OptionError."""
    if model.weights is None and not timing_only:
        raise OptionError(f"model {model.name} has shapes but no weights: it runs with --timing-only")
    if not 1 <= batch <= 4096:
        raise OptionError(f"--batch {batch} is not between 1 and 4096")
    return scheme_for(model, chip, arithmetic, weights, kv_format)


def compile_stored(
    stored: StoredModel,
    chip: Chip,
    *,
    batch: int,
    context: int | None,
    layers: tuple[int, int] | None,
    timing_only: bool,
    name: str,
    chips: int | None = None,
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    launch: str | None = None,
) -> Program:
    """`compile_decode` for a model whose weights are already in the form that the machine stores."""
    config = stored.config
    context = context or default_context(None, config.positions_max)
    layers = check_layers(layers, config.layers)
    common: dict[str, Any] = {"batch": batch, "context": context, "timing_only": timing_only, "layers": layers}
    system = {"chips": chips, "tensor_parallel": tensor_parallel, "pipeline_parallel": pipeline_parallel}
    if chip.kind == "gpu":
        from programs.gpu.compile import compile_gpu
        from programs.shard import check_ranks

        if pipeline_parallel not in (None, 1):
            raise OptionError(f"--pipeline-parallel {pipeline_parallel} is for LPUs; GPUs share every layer")
        if None not in (chips, tensor_parallel) and chips != tensor_parallel:
            raise OptionError(f"--chips {chips} with --tensor-parallel {tensor_parallel}: GPUs share every layer, so "
                              "both are the same number")
        ranks = tensor_parallel or chips
        if ranks is not None:
            check_ranks(ranks, "--chips" if tensor_parallel is None else "--tensor-parallel")
        program: Program = compile_gpu(stored, chip, persistent=launch == "persistent", ranks=ranks, **common)
        if launch is not None:
            program.meta["launch"] = launch
    else:
        if launch is not None:
            raise OptionError(f"--launch {launch} is for GPUs; {chip.name} is an LPU and launches no kernels")
        from programs.lpu import system as lpu
        from programs.lpu.requirements import check_chip

        check_chip(chip)
        common |= system
        if timing_only:
            what = repr((chip.name, chip.hash, stored.name, config, stored.scheme, sorted(common.items())))
            program = kept(Path(lpu.__file__), what, lambda: lpu.compile_lpu(stored, chip, **common))
        else:
            program = lpu.compile_lpu(stored, chip, **common)
    words = arithmetic_words(stored.scheme)
    program.meta.setdefault("model", name)
    program.meta.update(arithmetic=words[0], weights=words[1])
    return program


def gpu_bytes(stored: StoredModel, batch: int, context: int) -> int:
    """Bytes of weights, norms, embedding table and KV cache of the whole model, without padding."""
    config, scheme = stored.config, stored.scheme
    linear = sum(one.bytes for one in stored.linears.values())
    norms = 4 * config.hidden * (0 if scheme.fold_norms else 2 * config.layers + 1)
    kv = 2 * batch * context * config.layers * config.kv_size * BYTES[scheme.kv]
    return linear + norms + kv + config.vocab * config.hidden * BYTES[scheme.embed]


def chips_needed(stored: StoredModel, chip: Chip, *, batch: int, context: int) -> int:
    """Chips of the smallest system that holds the whole model with its KV cache; CapacityError when none does."""
    if chip.kind == "gpu":
        return -(-gpu_bytes(stored, batch, context) // int(chip["dram.capacity_bytes"]))
    from emulator.lpu.geometry import geometry
    from programs.lpu.split import choose_split

    return choose_split(stored, geometry(chip), batch, context, None).chips
