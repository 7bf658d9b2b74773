"""What a loss asks of each position, seen in its gradient with respect to the outputs, whatever the loss is.

At an asked position the gradient is w (p - y): p the softmax of the outputs, y the label, w what the position weighs.
The entry pushed up is the label; the slope over all other entries is w; what has no gradient is not asked. Label
smoothing by e takes e w / V from every entry and leaves the slope.

Shapes: B batch, T positions, V outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

NO_LOSS = "Spec(loss=lambda model, batch: (loss, outputs)) or Spec(criterion=lambda outputs, batch: loss)"


class UnseenError(Exception):
    """The loss cannot be looked at; the message says why."""


@dataclass(frozen=True, eq=False)
class Xray:
    """A loss over one batch.

    Attributes:
        loss: its value.
        outputs: (B, T, V) that it was taken of.
        labels: (B, T), the token that each position is pushed towards; -1 where nothing is asked.
        gradient: (B, T, V).
    """

    loss: float
    outputs: Tensor
    labels: Tensor
    gradient: Tensor

    @property
    def asked(self) -> Tensor:
        """(B, T): whether a position is asked anything."""
        return self.labels >= 0

    @property
    def losses(self) -> Tensor:
        """(B, T): cross-entropy of each asked position; 0 elsewhere."""
        each = F.cross_entropy(
            self.outputs.double().flatten(0, 1), self.labels.clamp(min=0).flatten(), reduction="none"
        )
        return each.view_as(self.labels).masked_fill(~self.asked, 0)

    @property
    def weights(self) -> Tensor:
        """(B, T): what each position weighs in the loss; NaN where the gradient is not that of a cross-entropy."""
        p, g = self.outputs.double().softmax(-1), self.gradient.double()
        other = torch.ones_like(p).scatter(-1, self.labels.clamp(min=0)[..., None], 0)  # all entries but the label's
        count = other.sum(-1, keepdim=True)
        p, g = ((x - (x * other).sum(-1, keepdim=True) / count) * other for x in (p, g))
        slope = (p * g).sum(-1) / p.square().sum(-1).clamp_min(1e-300)
        rest = (g - slope[..., None] * p).square().sum(-1) / g.square().sum(-1).clamp_min(1e-300)
        return slope.masked_fill(rest > 1e-2, torch.nan).masked_fill(~self.asked, 0)


def xray(subject: Subject, batch: Batch) -> Xray:
    """Takes the loss of a batch in evaluation mode, and its gradient.

    Raises:
        UnseenError: where the loss has no gradient, or is not taken of the outputs.
    """
    spec = subject.spec
    with subject.mode(False), torch.enable_grad():
        subject.reseed()
        if spec.loss is not None:
            loss, outputs = spec.loss(subject.model, batch)
        else:
            assert spec.criterion is not None
            assert spec.call is not None
            with torch.no_grad():
                outputs = spec.call(subject.model, batch)
            outputs = outputs.detach().requires_grad_()
            loss = spec.criterion(outputs, batch)
        if not loss.requires_grad or not outputs.requires_grad:
            raise UnseenError("the loss has no gradient")
        (found,) = torch.autograd.grad(loss, outputs, allow_unused=True)
    if found is None:
        raise UnseenError("the outputs that were returned are not those the loss was taken of")
    rows = batch.ids.size(0)
    outputs, found = (_by_position(x.detach(), rows, subject.spec.vocab_size) for x in (outputs, found))
    labels = found.argmin(-1).masked_fill(found.amin(-1) >= 0, -1)  # what pushes nothing up asks nothing: a penalty
    return Xray(float(loss.detach()), outputs, labels, found)


def taken(subject: Subject, batch: Batch) -> Tensor:
    """(B, T, V): the outputs that the loss is taken of, without any gradient."""
    spec = subject.spec
    with subject.mode(False), torch.no_grad():
        subject.reseed()
        if spec.loss is None:
            return subject(batch)
        _, outputs = spec.loss(subject.model, batch)
    return _by_position(outputs.detach(), batch.ids.size(0), spec.vocab_size)


def _by_position(x: Tensor, rows: int, size: int | None) -> Tensor:
    """(B, T, V) of outputs that are flattened to (B T, V), or turned to (B, V, T) as ``cross_entropy`` takes them."""
    if x.dim() == 2 and x.size(0) % rows == 0 and x.size(0) > rows:
        return x.reshape(rows, -1, x.size(-1))
    if x.dim() == 3 and size is not None and x.size(1) == size != x.size(2):
        return x.transpose(1, 2)
    if x.dim() != 3:
        raise UnseenError(f"outputs {tuple(x.shape)} are not those of positions")
    return x
