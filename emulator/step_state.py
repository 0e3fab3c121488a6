"""What the host may ask of a decode program's step: token ids it knows, positions that its KV cache has.

A program's step state is its tensors "token" and "position", one row a sequence.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from isa.program import Program


class RunError(ValueError):
    """A run that was asked for and makes no sense; the message is one sentence for the user."""


class Readable(Protocol):
    """The part of a machine that is looked at here."""

    program: Program

    def read(self, name: str) -> np.ndarray: ...


def batch_of(program: Program) -> int:
    """Sequences that a decode program serves. Raises RunError for a program without step state."""
    token = program.tensors.get("token")
    if token is None:
        raise RunError("this program is not a decode step of a model: it has no tensor named token")
    return token.shape[0]


def vocabulary(program: Program) -> int:
    """Token ids that a program knows: 0 to this minus one; 0 for layers without a head."""
    logits = program.tensors.get("logits")
    return logits.shape[1] if logits is not None else 0


def check_ids(program: Program, ids: Any) -> list[int]:
    """Token ids as integers. Raises RunError for one that is no whole number or not in the vocabulary."""
    vocab = vocabulary(program)
    found = []
    for token in ids:
        if not isinstance(token, (int, np.integer)):
            raise RunError(f"token id {token!r} is not a whole number")
        if token < 0 or (vocab and token >= vocab):
            raise RunError(f"token id {token} is not in the vocabulary of {vocab} tokens (0 to {vocab - 1})")
        found.append(int(token))
    return found


def fed_ids(program: Program, token: Any) -> list[int]:
    """What `step(token=...)` writes: one id a sequence; a single id goes to all. Raises RunError."""
    batch = batch_of(program)
    ids = check_ids(program, [token] * batch if np.ndim(token) == 0 else list(token))
    if len(ids) != batch:
        raise RunError(f"the program serves {batch} sequences, {len(ids)} token ids were given")
    return ids


def check_room(machine: Readable) -> None:
    """Refuse a step whose position the KV cache does not have. Raises RunError."""
    program = machine.program
    context = int(program.meta.get("context", 0))
    if context and "position" in program.tensors:
        position = int(machine.read("position").max())
        if position >= context:
            raise RunError(f"position {position} is over the program's context of {context} positions (0 to "
                           f"{context - 1}); load it anew, or compile it with a larger context")
