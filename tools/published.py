"""Token rates that makers have published, to stand beside emulated ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Rate:
    """Tokens a second for one user, as published; differs: what that system does that the emulated one does not."""

    tokens_per_second: float
    chips: str
    source: str
    differs: str


SERVED = ("the published rate is that of a service: longer contexts, wider arithmetic, requests of many users, network "
          "and host included; ours is one step on chips alone")
RATES: dict[tuple[str, str], Rate] = {
    ("llama-2-70b", "groq_tsp_v1"): Rate(300, "576", "TechPowerUp, February 2024; chips: Hacker News 39435411", SERVED),
    ("llama-2-7b", "groq_tsp_v1"): Rate(750, "72", "TechPowerUp, February 2024; chips: ALCF GroqRack guide", SERVED),
}


def published(model: str, chip: str, ours: float) -> dict[str, Any] | None:
    """The published rate of a model on a chip and ours over it; None where nothing is published."""
    rate = RATES.get((model, chip))
    return None if rate is None else asdict(rate) | {"ratio": ours / rate.tokens_per_second}


__all__ = ["RATES", "Rate", "published"]
