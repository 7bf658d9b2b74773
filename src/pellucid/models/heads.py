"""What comes out of a tower. Shapes: B batch, T positions, D d_model, V vocabulary, C labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.models.tower import Encoded
from pellucid.nn.dropout import dropout
from pellucid.nn.masks import PADDING
from pellucid.trace import Elementwise, Linear, LinearIn, Operation, Tapped, UnitLength
from pellucid.trace.working import Index, Operand, Working, literal

Pool = Callable[[Encoded], Tensor]


class LanguageHead(Tapped):
    """A score for every token of the vocabulary: x · scale onto V, squashed to ±softcap where one is set."""

    def __init__(self, d_model: int, vocab_size: int, *, bias: bool, scale: float, softcap: float | None) -> None:
        super().__init__()
        self.project = nn.Linear(d_model, vocab_size, bias=bias)
        self.scale, self.softcap = scale, softcap

    def forward(self, encoded: Encoded) -> Float[Tensor, "B T V"]:
        return self.scores(encoded.states)

    def prepare(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """What is projected onto the vocabulary."""
        return states if self.scale == 1.0 else self.tap("scaled", states * self.scale, states)

    def scores(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """The scores of any selection of positions."""
        ready = self.prepare(states)
        logits = self.tap("projected", self.project(ready), ready)
        return logits if self.softcap is None else self.tap("capped", self._cap(logits), logits)

    def _cap(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def operation(self, name: str) -> Operation:
        match name:
            case "scaled":
                scaled = f"x · {self.scale:.6g}"
                return Elementwise(lambda states: states * self.scale, scaled, f"y = y * {literal(self.scale)}")
            case "capped":
                assert self.softcap is not None  # else nothing has this name
                cap = literal(self.softcap)
                return Elementwise(self._cap, "softcap · tanh(x / softcap)", f"y = {cap} * torch.tanh(y / {cap})")
            case _:
                return Linear(self.project, self.named("project"))


class MaskedLanguageHead(Tapped):
    """Projection, activation, norm, vocabulary (Devlin et al. 2019, its published code)."""

    def __init__(
        self, d_model: int, vocab_size: int, *, activation: Callable[[Tensor], Tensor], norm: nn.Module, bias: bool
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(d_model, d_model)
        self.activation, self.norm, self.softcap = activation, norm, None
        self.project = nn.Linear(d_model, vocab_size, bias=bias)

    def forward(self, encoded: Encoded) -> Float[Tensor, "B T V"]:
        return self.scores(encoded.states)

    def prepare(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """What is projected onto the vocabulary."""
        dense = self.tap("dense", self.dense(states), states)
        return self.norm(self.tap("activated", self.activation(dense), dense))

    def scores(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """The scores of any selection of positions."""
        ready = self.prepare(states)
        return self.tap("projected", self.project(ready), ready)

    def operation(self, name: str) -> Operation:
        match name:
            case "dense":
                return Linear(self.dense, self.named("dense"))
            case "activated":
                return Elementwise(self.activation, "activation(x)")
            case _:
                return Linear(self.project, self.named("project"))


class ClassificationHead(Tapped):
    """A score for every label; ``projected`` puts a dense layer and an activation before it, as BERT does."""

    def __init__(
        self,
        d_model: int,
        num_labels: int,
        *,
        pool: Pool,
        projected: bool,
        activation: Callable[[Tensor], Tensor],
        dropout: float,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(d_model, d_model) if projected else None
        self.project = nn.Linear(d_model, num_labels)
        self.pool, self.activation, self.dropout = pool, activation, dropout

    def forward(self, encoded: Encoded) -> Float[Tensor, "B C"]:
        pooled = self.tap("pooled", self.pool(encoded), encoded.states, encoded.sites)
        if self.dense is not None:
            dense = self.tap("dense", self.dense(pooled), pooled)
            pooled = self.tap("activated", self.activation(dense), dense)
        return self.tap("projected", self.project(dropout(pooled, self.dropout, self.training)), pooled)

    def operation(self, name: str) -> Operation:
        match name:
            case "pooled":
                return Pooled(self.pool)
            case "dense":
                assert self.dense is not None  # else nothing has this name
                return Linear(self.dense, self.named("dense"))
            case "activated":
                return Elementwise(self.activation, "activation(x)")
            case _:
                return Linear(self.project, self.named("project"))


class TokenClassificationHead(Tapped):
    """A score for every label at every position (Devlin et al. 2019, §5.3)."""

    def __init__(self, d_model: int, num_labels: int, *, dropout: float) -> None:
        super().__init__()
        self.project, self.dropout = nn.Linear(d_model, num_labels), dropout

    def forward(self, encoded: Encoded) -> Float[Tensor, "B T C"]:
        return self.scores(encoded.states)

    def scores(self, states: Float[Tensor, "*B D"]) -> Float[Tensor, "*B C"]:
        """The scores of any selection of positions."""
        return self.tap("projected", self.project(dropout(states, self.dropout, self.training)), states)

    def operation(self, name: str) -> Operation:
        return Linear(self.project, self.named("project"))


class EmbeddingHead(Tapped):
    """One vector for the whole input, of unit length if ``normalized`` (Reimers & Gurevych 2019).

    ``dense`` is BERT's pooler, a linear layer with a tanh after it.
    """

    def __init__(self, *, pool: Pool, dense: nn.Linear | None = None, normalized: bool) -> None:
        super().__init__()
        self.dense = dense
        self.pool, self.normalized = pool, normalized

    def forward(self, encoded: Encoded) -> Float[Tensor, "B D"]:
        pooled = self.tap("pooled", self.pool(encoded), encoded.states, encoded.sites)
        if self.dense is not None:
            dense = self.tap("dense", self.dense(pooled), pooled)
            pooled = self.tap("activated", torch.tanh(dense), dense)
        return self.tap("unit", F.normalize(pooled, dim=-1), pooled) if self.normalized else pooled

    def operation(self, name: str) -> Operation:
        match name:
            case "pooled":
                return Pooled(self.pool)
            case "dense":
                assert self.dense is not None  # else nothing has this name
                return Linear(self.dense, self.named("dense"))
            case "activated":
                return Elementwise(torch.tanh, "tanh(x)")
            case _:
                return UnitLength()


@dataclass(frozen=True)
class Pooled:
    """The states of all positions made one. Operands: the states, where they stand."""

    pool: Pool
    formula: str = "Σ states · weight"

    def compute(self, *operands: Any) -> Tensor:
        return self.pool(Encoded(*operands))

    def explain(self, index: Index, *operands: Operand) -> Working:
        sites = operands[1].value
        return LinearIn(lambda states: self.pool(Encoded(states, sites)), self.formula).explain(index, operands[0])


def pool_first(encoded: Encoded) -> Float[Tensor, "B D"]:
    """The state of the first real token."""
    if encoded.sites.segments is None:
        return encoded.states[:, 0]
    first = (encoded.sites.segments != PADDING).int().argmax(dim=1)
    return encoded.states[torch.arange(first.size(0), device=first.device), first]


def pool_mean(encoded: Encoded) -> Float[Tensor, "B D"]:
    """The mean over the real tokens; zeros where there are none."""
    if encoded.sites.segments is None:
        return encoded.states.mean(dim=1)
    real = (encoded.sites.segments != PADDING)[..., None].type_as(encoded.states)
    return (encoded.states * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)


def pool_max(encoded: Encoded) -> Float[Tensor, "B D"]:
    """The largest value of each feature over the real tokens; zeros where there are none."""
    if encoded.sites.segments is None:
        return encoded.states.amax(dim=1)
    padding = (encoded.sites.segments == PADDING)[..., None]
    largest = encoded.states.masked_fill(padding, -torch.inf).amax(dim=1)
    return largest.masked_fill(padding.all(dim=1), 0.0)
