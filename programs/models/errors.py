"""The one exception of everything that reads models."""

from __future__ import annotations

import difflib


class ModelError(ValueError):
    """A model, checkpoint or tokenizer that cannot be used; the message is one sentence for the user."""


def nearest(name: str, known: list[str]) -> str:
    """"did you mean X? " for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]}? " if near else ""
