"""How much is asked: forward passes alone, gradients as well, or short trainings too."""

from __future__ import annotations

from typing import Literal

Level = Literal["quick", "standard", "full"]
LEVELS: tuple[Level, ...] = ("quick", "standard", "full")


def within(level: Level, asked: Level) -> bool:
    """Whether a check of one level belongs to an examination of another."""
    return LEVELS.index(level) <= LEVELS.index(asked)
