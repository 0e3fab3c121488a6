"""`decodelab models`: what can be run by name, and the shape of one model."""

from __future__ import annotations

from typing import Any

import click

from tools import console
from tools.options import json_option


@click.command("models")
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List bundled models and presets; with NAME (or a folder or .gguf file) show one."""
    from programs.models.checkpoint import load_model, model_names

    entries = [describe(load_model(n)) for n in ([name] if name is not None else model_names())]
    if as_json:
        console.data(console.to_json({"schema": "decodelab.models/1", "models": entries}))
        return
    from tools.report import size, table

    if name is not None:
        console.data(table([[key, "-" if value is None else value] for key, value in entries[0].items()]))
        return
    rows = [
        [e["model"], "weights" if e["has_weights"] else "shapes only", f"{e['parameters'] / 1e6:,.1f} M",
         e["layers"], e["hidden"], e["heads"], e["kv_heads"], e["ffn"], e["vocabulary"], e["dtype"],
         size(2 * e["parameters"])]
        for e in entries
    ]  # fmt: skip
    header = "model,has,parameters,layers,hidden,heads,KV heads,FFN,vocabulary,type,16-bit".split(",")
    console.data(table(rows, header))
    console.data("\nShapes only: --timing-only. Also: a Hugging Face folder, a .gguf file.")


def describe(model: Any) -> dict[str, Any]:
    """A model's shape as plain data."""
    c = model.config
    return {
        "model": model.name,
        "architecture": c.architecture,
        "has_weights": model.weights is not None,
        "has_tokenizer": model.tokenizer is not None,
        "parameters": c.weight_count(),
        "layers": c.layers,
        "hidden": c.hidden,
        "heads": c.heads,
        "kv_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "ffn": c.ffn,
        "vocabulary": c.vocab,
        "context": c.context,
        "sliding_window": c.window,
        "rope_theta": c.rope_theta,
        "rope_scaling": c.rope_scaling.kind if c.rope_scaling else None,
        "norm_eps": c.norm_eps,
        "tied_head": c.tied,
        "dtype": model.dtype,
    }
