"""Gradients gathered from two small batches against that of both together.

Both are sums of the gradients of the tokens: of the first batch's, and of the second's. How much of each is in them is
solved for, so that a token that weighs too much can be told from a gradient that is too long.

Shapes: B batch, T positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import Loss, gradients, loss_of, norm, without_dropout


@dataclass(frozen=True)
class Gathered:
    """What two small batches give together.

    Attributes:
        apart: norm of the difference from the gradient of both in one batch, over the norm of that.
        first, second: how much of each small batch is in it, over how much of it is in that of one batch.
        left: norm of what is neither of the one nor of the other, over the norm of the whole.
    """

    apart: float
    first: float
    second: float
    left: float

    @property
    def uneven(self) -> float:
        """How many times more a token of the second, short batch weighs than one of the first."""
        return self.second / self.first if self.first else float("inf")


def gathered(subject: Subject) -> Gathered:
    """Runs ``spec.accumulate`` over a batch of many asked tokens and one of few, without dropout."""
    module, spec = subject.module, subject.spec
    assert module is not None
    assert spec.accumulate is not None
    loss = loss_of(spec) or _next_token(subject)
    whole = ragged(subject)
    halves = [whole.rows(slice(0, 2)), whole.rows(slice(2, 4))]
    before = {p: p.grad for p in module.parameters()}
    try:
        with subject.mode(False), without_dropout(module), torch.enable_grad():
            full = _flat(gradients(module, loss(module, whole)))
            first, second = (_flat(gradients(module, loss(module, half))) for half in halves)
            for p in before:
                p.grad = None
            spec.accumulate(module, halves)
            found = _flat([torch.zeros_like(p) if p.grad is None else p.grad for p in before if p.requires_grad])
    finally:
        for p, gradient in before.items():
            p.grad = gradient
    parts = torch.stack([first, second], dim=1)
    shares = torch.linalg.lstsq(parts, torch.stack([full, found], dim=1)).solution
    left = float((found - parts @ shares[:, 1]).norm() / found.norm().clamp_min(1e-30))
    weights = shares[:, 1] / shares[:, 0]
    return Gathered(norm([found - full]) / max(norm([full]), 1e-30), float(weights[0]), float(weights[1]), left)


def ragged(subject: Subject) -> Batch:
    """Four rows: two long, two short; padding is masked and labelled as not asked."""
    batch = subject.batch(4, seed=50)
    rows, length = batch.ids.shape[:2]
    assert rows == 4
    keep = (torch.arange(length) < torch.tensor([length, length, 4, 3])[:, None]).to(batch.ids.device)
    pad = subject.spec.pad_id
    ids = batch.ids if pad is None else batch.ids.where(keep, torch.full_like(batch.ids, pad))
    return batch.with_(ids=ids, keep=keep, labels=batch.ids.masked_fill(~keep, -100))


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().double().flatten() for part in parts])


def _next_token(subject: Subject) -> Loss:
    call = subject.spec.call
    assert call is not None

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        assert batch.labels is not None
        logits = call(model, batch)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.labels[:, 1:].flatten())

    return loss
