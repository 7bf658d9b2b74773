"""What a zoo holds: a bug with the check that must name it, and a healthy oddity that no check may blame.

Every file of the zoo offers tuples ``BUGS`` and ``HEALTHY`` of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pellucid.doctor.spec import Spec

Family = Literal["decoder", "encoder", "encoder_decoder"]
Build = Callable[[], tuple[Any, Spec | None]]


@dataclass(frozen=True, kw_only=True)
class Bug:
    """A model with one fault that somebody really made.

    Attributes:
        name: the fault, in a few words.
        reference: its number in the catalogue ("#17"), or the report or paper it comes from.
        family: of the model.
        checks: of these at least one must fail; the first is the one that names the fault best.
        build: makes the model, and the spec that its user would write.
        level: at which it is found.
        published: whether it is planted in a class of ``transformers``.
        slow: whether its examination takes more than about a second.
    """

    name: str
    reference: str
    family: Family
    checks: tuple[str, ...]
    build: Build
    level: Literal["quick", "standard", "full"] = "quick"
    published: bool = False
    slow: bool = False

    def made(self, seed: int = 0) -> tuple[Any, Spec | None]:
        """The model, the same for the same seed, and its spec."""
        torch.manual_seed(seed)
        return self.build()


@dataclass(frozen=True, kw_only=True)
class Healthy:
    """A model that is right, and unusual in a legitimate way.

    Attributes:
        name: what is unusual about it.
        reference: who does it so.
        family: of the model.
        build: makes the model, and the spec that its user would write.
        published: whether its class is one of ``transformers``.
        slow: whether its examination takes more than a few seconds.
    """

    name: str
    reference: str
    family: Family
    build: Build
    published: bool = False
    slow: bool = False

    def made(self, seed: int = 0) -> tuple[Any, Spec | None]:
        """The model, the same for the same seed, and its spec."""
        torch.manual_seed(seed)
        return self.build()
