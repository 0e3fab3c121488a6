"""What both compilers refuse with."""

from __future__ import annotations


class CapacityError(ValueError):
    """What does not fit on one chip, in numbers. chips_needed: None when more chips would not help."""

    def __init__(self, message: str, chips_needed: int | None = None) -> None:
        super().__init__(message)
        self.chips_needed = chips_needed
