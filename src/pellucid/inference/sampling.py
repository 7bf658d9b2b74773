"""Choosing the next token: a pipeline of small callables from scores to scores, then one draw.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.errors import UserError

Filter = Callable[[Float[Tensor, "B V"]], Float[Tensor, "B V"]]


def _check(holds: bool, where: str, found: object, expected: str) -> None:
    if not holds:
        raise UserError(where, f"found {found}", expected)


@dataclass(frozen=True)
class Temperature:
    """Scores divided by the temperature: below 1 sharper, above 1 flatter."""

    value: float

    def __post_init__(self) -> None:
        _check(self.value > 0, "temperature", self.value, "more than 0; for the likeliest token leave sampling out")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, rescaled."""
        return logits / self.value


@dataclass(frozen=True)
class TopK:
    """Only the k highest scores stay (Fan et al. 2018)."""

    k: int

    def __post_init__(self) -> None:
        _check(self.k > 0, "top_k", self.k, "more than 0")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf where dropped."""
        values, indices = logits.topk(min(self.k, logits.size(-1)), dim=-1)
        return torch.full_like(logits, -torch.inf).scatter(-1, indices, values)


@dataclass(frozen=True)
class TopP:
    """Only the likeliest tokens that together reach probability p stay (Holtzman et al. 2020)."""

    p: float

    def __post_init__(self) -> None:
        _check(0 < self.p <= 1, "top_p", self.p, "more than 0 and at most 1")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf where dropped; the likeliest always stays."""
        values, indices = logits.sort(dim=-1, descending=True)
        probability = values.softmax(dim=-1)
        before = probability.cumsum(dim=-1) - probability
        return torch.full_like(logits, -torch.inf).scatter(
            -1, indices, values.masked_fill(before >= self.p, -torch.inf)
        )


@dataclass(frozen=True)
class MinP:
    """Only tokens at least p times as likely as the likeliest stay (Nguyen et al. 2024)."""

    p: float

    def __post_init__(self) -> None:
        _check(0 <= self.p <= 1, "min_p", self.p, "between 0 and 1")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf where dropped."""
        log_probability = logits.log_softmax(dim=-1)
        floor = log_probability.amax(dim=-1, keepdim=True) + torch.tensor(self.p).log()
        return logits.masked_fill(log_probability < floor, -torch.inf)


@dataclass(frozen=True)
class Never:
    """Some tokens never: what a model was told not to write."""

    tokens: tuple[int, ...]

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf for those."""
        return logits.index_fill(-1, torch.tensor(self.tokens, dtype=torch.long, device=logits.device), -torch.inf)


@dataclass(frozen=True)
class Sampling:
    """How to choose: no filters and no draw is greedy.

    Args:
        filters: applied in order before the draw.
        seed: of the draws; ``None`` takes the likeliest token instead of drawing.
    """

    filters: Sequence[Filter] = ()
    seed: int | None = None

    def chooser(self, device: torch.device) -> Callable[[Float[Tensor, "B V"]], Int[Tensor, " B"]]:
        """A function from scores to tokens that draws the same sequence every time it is made anew."""
        if self.seed is None:
            return lambda logits: self._filtered(logits).argmax(dim=-1)
        generator = torch.Generator(device).manual_seed(self.seed)
        return lambda logits: torch.multinomial(self._filtered(logits).softmax(dim=-1), 1, generator=generator).squeeze(
            -1
        )

    def _filtered(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        for keep in self.filters:
            logits = keep(logits)
        return logits


GREEDY = Sampling()
