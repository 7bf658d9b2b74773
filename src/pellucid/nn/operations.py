"""The operations that are attention's own, as a trace explains them; the others are in ``trace/operations.py``.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads, K head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.nn.kernels import explicit
from pellucid.nn.masks import PADDING, Mask
from pellucid.nn.positions import AddedPositions, Rotation
from pellucid.trace.operations import Operation, Softmax
from pellucid.trace.working import (
    Factor,
    Index,
    Operand,
    Step,
    Working,
    along,
    at,
    product,
    row,
    scored,
    single,
    worked,
)


@dataclass(frozen=True)
class Positioned:
    """The vector of the position added to that of the token. Operands: x, the positions."""

    added: nn.Module
    name: str
    formula: str = "x + code of the position"

    def compute(self, *operands: Tensor) -> Tensor:
        x, positions = operands
        return self.added(x, positions)

    def explain(self, index: Index, *operands: Operand) -> Working:
        x, positions = operands
        if not isinstance(self.added, AddedPositions):
            return product(single(x, index))
        batch, place, column = index
        position = positions.value[min(batch, positions.value.size(0) - 1), place].reshape(1, 1)
        code = self.added.code(position)[0, 0, column].double()
        names = (at(x.name, index), f"{self.name}({int(position)})[{column}]")
        return product(Factor(lambda term: names[term], torch.stack([x.value[index].double(), code])))


@dataclass(frozen=True)
class Turned:
    """Each pair of coordinates turned by the angle of its position (Su et al. 2021, eq. 15), or left as it is."""

    formula: str = "x · cos ± x' · sin"

    def compute(self, *operands: Any) -> Tensor:
        x, rotate = operands
        return rotate(x)

    def explain(self, index: Index, *operands: Operand) -> Working:
        x, rotation = operands[0], operands[1].value
        *before, coordinate = index
        if not isinstance(rotation, Rotation) or coordinate >= rotation.cos.size(-1):
            return product(single(x, index))
        width = rotation.cos.size(-1)
        partner = int(rotation.quarter_turn(torch.arange(1, width + 1, dtype=torch.float64))[coordinate])
        batch = min(before[0], rotation.cos.size(0) - 1)
        places = ((*before, coordinate), (*before, abs(partner) - 1))
        angles = [table[batch, 0, before[2], coordinate].double() for table in (rotation.cos, rotation.sin)]
        turn = torch.stack([angles[0], math.copysign(1.0, partner) * angles[1]])
        numbers = torch.stack([x.value[place].double() for place in places])
        names = ("cos", "sin" if partner > 0 else "-sin")
        pair = Factor(lambda term: at(x.name, places[term]), numbers)
        return product(pair, Factor(lambda term: names[term], turn, "turn"))


@dataclass(frozen=True)
class Remembered:
    """Keys or values of this step behind those of the steps before it.

    Operands: the new ones and the mask of each step so far, the latest first.
    """

    formula: str = "[kept from the steps before, new]"

    def history(self, entries: Mapping[str, Any], name: str, moved: Sequence[int] = ()) -> tuple[Any, ...]:
        """The new keys or values of this step and those before it, and their masks, the latest first.

        Args:
            moved: steps after which other rows, or in another order, went on.

        Raises:
            UserError: where none were named, or rows were rearranged in between, as a beam search does at every step.
        """
        short, _, step = name.partition("@")
        for earlier in moved:
            if step and earlier < int(step):
                told = f"was remembered from rows that were rearranged after step {earlier}, as in a beam search"
                hint = f'with watch="*.{short[-1]}" it is recorded, and what is computed from it can be explained'
                raise UserError(f'"{name}"', told, "rows that stay where they are", hint)
        steps = [f"@{i}" for i in range(int(step), -1, -1)] if step else [""]
        found: list[Any] = []
        for suffix in steps:
            if f"{short}_new{suffix}" in entries and f"{short}{suffix}" in entries:
                found += [f"{short}_new{suffix}", entries[f"{short}{suffix}"].inputs[0]]
        if not found:
            raise UserError(
                f'"{name}"', "was remembered from what the tape has not seen", "a trace from the first step"
            )
        return tuple(found)

    def compute(self, *operands: Any) -> Tensor:
        mask: Mask = operands[1]
        key = mask.key.positions
        first: Tensor = operands[0]
        out = first.new_zeros(key.size(0), first.size(1), key.size(1), first.size(3))
        real = torch.ones_like(key, dtype=torch.bool) if mask.key.segments is None else mask.key.segments != PADDING
        for new, at_step in reversed(list(zip(operands[::2], operands[1::2], strict=True))):
            query, segments = at_step.query.positions, at_step.query.segments
            meant = (key[:, :, None] == query[:, None, :]) & real[:, :, None]  # (B, S, T)
            meant = meant if segments is None else meant & (segments != PADDING)[:, None, :]
            found = torch.einsum("bst,bgtk->bgsk", meant.to(new.dtype), new)
            out = torch.where(meant.any(dim=-1)[:, None, :, None], found, out)
        return out

    def explain(self, index: Index, *operands: Operand) -> Working:
        batch, group, slot, coordinate = index
        position = int(operands[1].value.key.positions[batch, slot])
        for new, mask in zip(operands[::2], operands[1::2], strict=True):
            query = mask.value.query
            meant = query.positions[batch] == position
            meant = meant if query.segments is None else meant & (query.segments[batch] != PADDING)
            if meant.any():
                return product(single(new, (batch, group, int(meant.int().argmax()), coordinate)))
        return product(Factor(lambda _: "an empty slot", torch.zeros(1, dtype=torch.float64)))


@dataclass(frozen=True)
class Rule:
    """Who may look where: 1 where a query sees a key."""

    formula: str = "the rule of the mask"

    def compute(self, *operands: Any) -> Tensor:
        mask: Mask = operands[0]
        return mask.anew().allowed()

    def explain(self, index: Index, *operands: Operand) -> Working:
        mask: Mask = operands[0].value
        batch, _, query, key = index
        asks, offers = int(mask.query.positions[batch, query]), int(mask.key.positions[batch, key])
        steps = [
            Step("position of the query", float(asks), f"query = {asks}"),
            Step("position of the key", float(offers), f"key = {offers}"),
        ]
        if mask.causal:
            steps.append(Step("the key is not later", float(offers <= asks), "y = y and key <= query"))
        if mask.window is not None:
            near = float(abs(asks - offers) < mask.window)
            steps.append(Step(f"nearer than {mask.window}", near, f"y = y and abs(query - key) < {mask.window}"))
        if mask.key.segments is not None:
            own = int(mask.key.segments[batch, key])
            steps.append(Step("the key is real", float(own != PADDING), f"y = y and {own} != {PADDING}"))
            if mask.query.segments is not None:
                other = int(mask.query.segments[batch, query])
                steps.append(Step("both of one document", float(own == other), f"y = y and {own} == {other}"))
        steps.append(Step("may look", float(self.compute(mask)[batch, 0, query, key]), "y = float(y)"))
        return worked((), torch.zeros(0, dtype=torch.float64), lambda total: steps, "y = True")


@dataclass(frozen=True)
class Scores:
    """q · k · scale, squashed where a softcap is set, plus the bias of the distance; -inf where nobody may look.

    Operands: q, k, the mask.
    """

    scale: float
    softcap: float | None

    @property
    def formula(self) -> str:
        inner = "Σ q · k · scale"
        return f"{inner if self.softcap is None else f'softcap · tanh({inner} / softcap)'} + bias, masked"

    def compute(self, *operands: Any) -> Tensor:
        q, k, mask = operands
        if k.size(1) < q.size(1):
            k = k.repeat_interleave(q.size(1) // k.size(1), dim=1)
        return self._scored(q, k, mask, mask.biases())

    def of_head(self, head: int, q: Tensor, k: Tensor, mask: Mask) -> Float[Tensor, "B 1 T S"]:
        """The scores of one head alone."""
        group, biases = head // (q.size(1) // k.size(1)), mask.biases()
        if biases is not None and biases.size(1) > 1:
            biases = biases[:, head : head + 1]
        return self._scored(q[:, head : head + 1], k[:, group : group + 1], mask, biases)

    def _scored(self, q: Tensor, k: Tensor, mask: Mask, biases: Tensor | None) -> Tensor:
        scores = (q @ k.mT).mul_(self.scale)  # in place: of long texts, scores are large
        if self.softcap is not None:
            scores = self.softcap * torch.tanh(scores / self.softcap)
        scores = scores if biases is None else scores + biases.to(scores.dtype)  # as the kernel adds them
        return scores.masked_fill_(~mask.allowed(), -torch.inf)

    def explain(self, index: Index, *operands: Operand) -> Working:
        q, k, mask = operands[0], operands[1], operands[2].value
        batch, head, query, key = index
        group = head // (q.value.size(1) // k.value.size(1))
        return product(
            row(q, (batch, head, query), "q"),
            row(k, (batch, group, key), "k"),
            steps=lambda total: self.after(total, index, mask),
        )

    def after(self, total: float, index: Index, mask: Mask) -> list[Step]:
        """What is done with the sum of products, step by step."""
        batch, head, query, key = index
        biases = mask.biases()
        bias = None if biases is None else biases[min(batch, biases.size(0) - 1), head, query, key].item()
        hidden = None if mask.allowed()[batch, 0, query, key] else -math.inf
        return scored(total, self.scale, self.softcap, bias, hidden)


@dataclass(frozen=True)
class Mixture:
    """Σ weights · v. Operands: weights and v; or q, k, v and the mask, where a fused kernel stored no weights."""

    scale: float
    softcap: float | None
    formula: str = "Σ weights · v"

    def compute(self, *operands: Any) -> Tensor:
        if len(operands) == 4:
            q, k, v, mask = operands
            return explicit(q, k, v, mask, scale=self.scale, softcap=self.softcap, dropout=0.0, tap=_unseen)
        weights, v = operands
        return weights @ v.repeat_interleave(weights.size(1) // v.size(1), dim=1)

    def explain(self, index: Index, *operands: Operand) -> Working:
        batch, head, query, coordinate = index
        name, weights, v = self._weights(index, *operands)
        group = head // (operands[0].value.size(1) // v.value.size(1))
        return product(
            along(name, weights, lambda term: (batch, head, query, term), "weights"),
            along(v.name, v.value[batch, group, :, coordinate], lambda term: (batch, group, term, coordinate), "v"),
        )

    def _weights(self, index: Index, *operands: Operand) -> tuple[str, Tensor, Operand]:
        """The weights of a query, which a fused kernel has not stored."""
        batch, head, query, _ = index
        if len(operands) == 2:
            return operands[0].name, operands[0].value[batch, head, query], operands[1]
        q, k, v, mask = operands
        group = head // (q.value.size(1) // k.value.size(1))
        products = k.value[batch, group].double() @ q.value[batch, head, query].double()
        scores = Scores(self.scale, self.softcap)
        after = [scores.after(s, (batch, head, query, i), mask.value) for i, s in enumerate(products.tolist())]
        found = products.new_tensor([steps[-1].value for steps in after])
        short, mark, step = q.name.partition("@")
        return f"{short.removesuffix('q')}weights{mark}{step}", Softmax().compute(found), v

    def unseen(self, part: str, q: Any, k: Any, v: Any, mask: Any, *, scores: str) -> tuple[Operation, tuple[Any, ...]]:
        """How the mask, scores or weights that a fused kernel stored nowhere come about, and of what.

        Args:
            part: which of them.
            q, k, v, mask: what went into the context. scores: what they are called.
        """
        match part:
            case "mask":
                return Rule(), (mask,)
            case "scores":
                return Scores(self.scale, self.softcap), (q, k, mask)
            case _:
                return Softmax(), (scores,)


def _unseen(name: str, tensor: Tensor, /, *operands: object) -> Tensor:
    return tensor
