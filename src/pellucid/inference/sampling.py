"""Choosing the next token: a pipeline of small callables from scores to scores, then one draw.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.inference.rules import AnyRule, Filter, Rule, Written, apply, check, impossible
from pellucid.trace import Elementwise, Operation, Softmax, Step, Tapped
from pellucid.trace.working import Index, Operand, Working, along, at, literal, picked, row, worked

APART = 0x1E3779B97F4A7C15
"""How far the seeds of two batches are apart: so far that nobody counts from one to the other."""


@dataclass(frozen=True)
class Temperature:
    """Scores divided by the temperature: below 1 sharper, above 1 flatter."""

    value: float

    def __post_init__(self) -> None:
        check(
            0 < self.value < math.inf,
            "temperature",
            self.value,
            "more than 0 and finite; for the likeliest token leave sampling out",
        )

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, rescaled."""
        return logits / self.value


@dataclass(frozen=True)
class TopK:
    """Only the k highest scores stay (Fan et al. 2018)."""

    k: int

    def __post_init__(self) -> None:
        check(self.k > 0, "top_k", self.k, "more than 0")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf where dropped."""
        values, indices = logits.topk(min(self.k, logits.size(-1)), dim=-1)
        return torch.full_like(logits, -torch.inf).scatter(-1, indices, values)


@dataclass(frozen=True)
class TopP:
    """Only the likeliest tokens that together reach probability p stay (Holtzman et al. 2020)."""

    p: float

    def __post_init__(self) -> None:
        check(0 < self.p <= 1, "top_p", self.p, "more than 0 and at most 1")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf where dropped; the likeliest always stays."""
        if self.p >= 1:
            return logits  # rounded shares may come to 1 before the last
        values, indices = logits.sort(dim=-1, descending=True)
        probability = values.softmax(dim=-1)
        before = _edges(probability) - probability
        return torch.full_like(logits, -torch.inf).scatter(
            -1, indices, values.masked_fill(before >= self.p, -torch.inf)
        )


@dataclass(frozen=True)
class MinP:
    """Only tokens at least p times as likely as the likeliest stay (Nguyen et al. 2024)."""

    p: float

    def __post_init__(self) -> None:
        check(0 <= self.p <= 1, "min_p", self.p, "between 0 and 1")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf where dropped."""
        log_probability = logits.log_softmax(dim=-1)
        floor = log_probability.amax(dim=-1, keepdim=True) + torch.tensor(self.p).log()
        return logits.masked_fill(log_probability < floor, -torch.inf)


@dataclass(frozen=True)
class Typical:
    """Only the tokens stay whose surprise is nearest to the mean, as many as reach p (Meister et al. 2022, eq. 9)."""

    p: float

    def __post_init__(self) -> None:
        check(0 < self.p <= 1, "typical_p", self.p, "more than 0 and at most 1")

    def __call__(self, logits: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """The scores, -inf where dropped; the most typical token always stays."""
        log_probability = logits.log_softmax(dim=-1)
        probability = log_probability.exp()
        entropy = -torch.nansum(probability * log_probability, dim=-1, keepdim=True)  # 0 times -inf counts as 0
        order = (-log_probability - entropy).abs().argsort(dim=-1)
        ranked = probability.gather(-1, order)
        dropped = ranked.cumsum(dim=-1) - ranked >= self.p
        return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -torch.inf)


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
        filters: applied in order before the draw; rules that look at what was written may stand among them.
        seed: of the draws; ``None`` takes the likeliest token instead of drawing.
    """

    filters: Sequence[AnyRule] = ()
    seed: int | None = None

    def of_batch(self, number: int) -> Sampling:
        """The same for a later batch, whose draws are others; the first, 0, has those of the seed."""
        return self if self.seed is None else replace(self, seed=(self.seed + number * APART) % (1 << 63))

    def chooser(self, device: torch.device) -> Chooser:
        """A function from scores to tokens that draws the same sequence every time it is made anew."""
        return Chooser(self.filters, self.seed, device)


class Chooser(Tapped):
    """Chooses the next token of each row; names what it does where the model that it follows is traced.

    ``stuck`` tells of the last choice in which rows the filters had left no token; what such a row chose means nothing.
    """

    def __init__(self, filters: Sequence[AnyRule], seed: int | None, device: torch.device) -> None:
        super().__init__()
        self.filters = tuple(filters)
        self.stuck: Bool[Tensor, " B"] | None = None
        self.generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    def forward(self, logits: Float[Tensor, "B V"], written: Written | None = None) -> Int[Tensor, " B"]:
        """The next token of each row; ``written`` may be left out where nothing was."""
        scores = self._ruled(self.tap("scores", logits.float(), logits), written)
        if self.generator is None and not self.is_watched("probabilities"):
            return self.tap("token", scores.argmax(dim=-1), scores)
        probabilities = self.tap("probabilities", scores.softmax(dim=-1), scores)
        if self.generator is None:
            return self.tap("token", scores.argmax(dim=-1), scores)
        draw = torch.rand(scores.size(0), 1, generator=self.generator, device=scores.device)
        draw = self.tap("draw", draw)
        return self.tap("token", drawn(probabilities, draw), probabilities, draw)

    def _ruled(self, scores: Float[Tensor, "B V"], written: Written | None) -> Float[Tensor, "B V"]:
        """The scores after the filters, each of them named."""
        now = Written.of([()] * scores.size(0), scores.device) if written is None else written
        for i, keep in enumerate(self.filters):
            operands = (scores, now) if isinstance(keep, Rule) else (scores,)
            scores = self.tap(f"filtered_{i}", apply((keep,), scores, now), *operands)
        self.stuck = impossible(scores) if self.filters else None
        return scores

    def operation(self, name: str) -> Operation:
        match name:
            case "scores":
                return Elementwise(Tensor.float, "the logits of the last position", "y = y")
            case "probabilities":
                return Softmax()
            case "token":
                return Likeliest() if self.generator is None else Drawn()
            case _:
                return Filtered(self.filters[int(name.removeprefix("filtered_"))])


def drawn(probabilities: Float[Tensor, "B V"], draw: Float[Tensor, "B 1"]) -> Int[Tensor, " B"]:
    """The token in whose share of the line from 0 to 1 each draw falls, the shares laid end to end."""
    edges = _edges(probabilities)
    return (edges <= draw * edges[:, -1:]).sum(dim=-1)


def _edges(probabilities: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Where each share ends; in double precision where there is one, since they are many and small."""
    return probabilities.cumsum(dim=-1, dtype=None if probabilities.device.type == "mps" else torch.float64)


@dataclass(frozen=True)
class Filtered:
    """Scores, of which a filter rescales or drops some. Operands: the scores, for a rule what was written too."""

    keep: AnyRule

    @property
    def formula(self) -> str:
        return str(self.keep)

    def compute(self, *operands: Any) -> Tensor:
        return self.keep(*operands)

    def explain(self, index: Index, *operands: Operand) -> Working:
        left = self.compute(*(operand.value for operand in operands))[index].item()
        what = "dropped" if left == -torch.inf else "left"
        batch, token = index
        if isinstance(self.keep, Rule):
            written: Written = operands[1].value
            code = self.keep.line(token, written.lists()[batch], written.lists(whole=True)[batch])
        else:
            code = _code(self.keep, token)
        step = Step(f"{what} by {self.keep}", left, code)
        return picked(row(operands[0], (batch,)), token, lambda total: [step])


def _code(keep: Filter, token: int) -> str:
    """A filter as Python says it: what becomes of ``y``, the score of one token among the scores ``x``."""
    match keep:
        case Temperature(value):
            return f"y = y / {literal(value)}"
        case TopK(k):
            return f"y = y if {token} in x.topk(min({k}, len(x))).indices else -torch.inf"
        case TopP(p):
            before = f"x[order].softmax(dim=0)[: order.index({token})].sum()"
            return f"order = x.argsort(descending=True).tolist()\ny = y if {before} < {literal(p)} else -torch.inf"
        case MinP(p):
            return f"y = y if x.softmax(dim=0)[{token}] >= {literal(p)} * x.softmax(dim=0).max() else -torch.inf"
        case Typical(p):
            far = "(-x.log_softmax(dim=0) - torch.special.entr(x.softmax(dim=0)).sum()).abs()"
            before = f"x.softmax(dim=0)[order][: order.index({token})].sum()"
            return f"order = {far}.argsort().tolist()\ny = y if {before} < {literal(p)} else -torch.inf"
        case Never(tokens):
            return f"y = y if {token} not in {tokens} else -torch.inf"
        case _:
            return ""


@dataclass(frozen=True)
class Likeliest:
    """The token with the highest score."""

    formula: str = "argmax(scores)"

    def compute(self, *operands: Tensor) -> Tensor:
        return operands[0].argmax(dim=-1)

    def explain(self, index: Index, *operands: Operand) -> Working:
        scores = row(operands[0], index)
        token = int(scores.values.argmax())
        step = Step("the highest score is that of token", float(token), "y = x.argmax()")
        return picked(scores, token, lambda total: [step])


@dataclass(frozen=True)
class Drawn:
    """The token in whose share a draw falls. Operands: the probabilities, the draws."""

    formula: str = "the first token up to which the probabilities add up to more than the draw"

    def compute(self, *operands: Tensor) -> Tensor:
        probabilities, draw = operands
        return drawn(probabilities, draw)

    def explain(self, index: Index, *operands: Operand) -> Working:
        probabilities, draw = operands
        (batch,) = index
        token = int(self.compute(probabilities.value, draw.value)[batch])
        until = along(probabilities.name, probabilities.value[batch, : token + 1], lambda term: (batch, term))
        drew = draw.value[batch, 0].item()
        steps = (
            Step(f"draw {at(draw.name, (batch, 0))}", drew, f"draw = {literal(drew)}"),
            Step("token", float(token), "y = (x.cumsum(dim=0) <= draw * x.sum()).sum()"),
        )
        whole = row(probabilities, index)
        return worked((until,), until.values, lambda total: steps, f"y = x[: {token + 1}].sum()", (whole,))


GREEDY = Sampling()
