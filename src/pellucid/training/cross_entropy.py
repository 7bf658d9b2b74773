"""The cross-entropy of labels under a linear layer, without ever holding all the logits.

With V in the tens of thousands the logits are the largest tensor of a step. Here they are made a chunk of positions
at a time, and while a chunk is at hand its gradient is taken too, so that it can be forgotten. ``plain`` is the
specification; the two must agree.

Shapes: N positions that have a label, D d_model, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS, CELLS = 512, 1 << 22  # a chunk has so many positions, or more while it stays within so many logits
# The last chunk is filled up to a multiple of so many positions: oneDNN writes code for each new shape of a product,
# which takes ten times as long as the product, and the number of labels differs from batch to batch.
FILLED = 64

Scores = tuple[Tensor, Tensor, Tensor]
"""The loss that is minimised, the plain negative log-likelihood, and how often the label had the highest score."""


def plain(logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"], smoothing: float, z_loss: float) -> Scores:
    """Σ -(1-ε) log p(label) - ε/V Σ log p (Szegedy et al. 2016; §5.4 of the paper), in nats.

    ``z_loss`` times the squared log of the softmax's denominator is added to what is minimised, which keeps the
    logits from drifting (Chowdhery et al. 2022, §5).
    """
    total = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    if z_loss:
        total = total + z_loss * logits.logsumexp(dim=-1).square().sum()
    with torch.no_grad():
        nats = F.cross_entropy(logits, labels, reduction="sum")
        correct = (logits.argmax(dim=-1) == labels).sum()
    return total, nats, correct


def chunked(
    states: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    labels: Int[Tensor, " N"],
    smoothing: float,
    z_loss: float,
) -> Scores:
    """``plain`` of ``states @ weight.T + bias``, in chunks. Products are taken in the precision of autocast."""
    scores: Scores = _Chunked.apply(states, weight, bias, labels, smoothing, z_loss, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return scores


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: float,
        z_loss: float,
        learning: bool,
    ) -> Scores:
        dtype = _of_products(states)
        x, w, b = states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        gradients = _Gradients(x, w, b, smoothing, frozen=not weight.requires_grad) if learning else None
        total, nats, correct = _scores(x, w, b, labels, smoothing, z_loss, gradients)
        if gradients is not None:
            ctx.save_for_backward(*gradients.finished(states.dtype, weight.dtype))
        ctx.mark_non_differentiable(nats, correct)
        return total, nats, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        return *(None if d is None else d * gradient for d in ctx.saved_tensors), None, None, None, None


def _scores(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    labels: Tensor,
    smoothing: float,
    z_loss: float,
    gradients: _Gradients | None,
) -> Scores:
    """Chunk by chunk; each chunk's gradients are taken along, where they are asked for.

    Logits and probabilities are stored in the precision of the products; softmax and sums compute in ``full`` inside.
    Nothing is lost to that where a label is all but certain: what it lacks, 1 - p, is taken as the sum of the other
    labels' probabilities, which are small and therefore precise.
    """
    full = _full(x)
    total, nats, correct = (torch.zeros((), dtype=full, device=x.device) for _ in range(3))
    rows = max(ROWS, CELLS // w.size(0) // FILLED * FILLED)
    filled = F.pad(x, (0, 0, 0, -x.size(0) % FILLED))
    for start in range(0, x.size(0), rows):
        chunk, asked = filled[start : start + rows], labels[start : start + rows]
        whole = F.linear(chunk, w, b)  # logits, which become probabilities in place
        whole[len(asked) :] = 0.0
        logits, positions = whole[: len(asked)], torch.arange(len(asked), device=x.device)
        label_logit = logits[positions, asked].to(full)
        if gradients is None:
            correct += (logits.argmax(dim=-1) == asked).sum()
        p = torch.softmax(logits, dim=-1, out=logits)
        label_p = p[positions, asked].to(full)
        p[positions, asked] = 0.0
        others = torch.where(label_p > 0.5, p.sum(dim=-1).to(full), 1 - label_p)
        nll = -torch.where(label_p > 0.5, torch.log1p(-others), label_p.log())
        if not nll.isfinite().all():  # a probability too small for a float; its logarithm is not
            nll = F.linear(chunk, w, b)[: len(asked)].to(full).logsumexp(dim=-1) - label_logit
        denominator = label_logit + nll  # the log of the softmax's denominator
        nats += nll.sum()
        total += (denominator + z_loss * denominator.square() - (1 - smoothing) * label_logit).sum()
        if gradients is not None:
            gradients.add(start, chunk, whole, asked, others, 2 * z_loss * denominator if z_loss else None)
    if smoothing:  # the mean of all logits is linear in the states: one product says it for all positions
        everything = x.sum(0, dtype=full).dot(w.sum(0, dtype=full))
        everything += 0 if b is None else x.size(0) * b.sum(dtype=full)
        total -= smoothing / w.size(0) * everything
    return total, nats, correct


def _of_products(states: Tensor) -> torch.dtype:
    """The precision that autocast asks for, or that of the states."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _full(x: Tensor) -> torch.dtype:
    """The precision of sums and of the softmax: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


class _Gradients:
    """Gradients of states, weight and bias, summed up chunk by chunk; none of a weight that is frozen.

    The gradient of the logits is p - (1-ε)·label - ε/V, and excess·p where there is a z-loss. Only p goes through the
    large products, without its entry at the label: that one is taken in full precision from what the others leave,
    because p and 1-ε nearly cancel; and ε/V is the same for all and needs no product at all.
    """

    def __init__(self, x: Tensor, w: Tensor, b: Tensor | None, smoothing: float, *, frozen: bool) -> None:
        self.x, self.w, self.full, self.smoothing = x, w, _full(x), smoothing
        self.states = torch.empty_like(x, dtype=self.full)
        self.weight = None if frozen else torch.zeros_like(w, dtype=self.full)
        self.bias = None if b is None else torch.zeros_like(b, dtype=self.full)

    def add(self, start: int, chunk: Tensor, p: Tensor, labels: Tensor, others: Tensor, excess: Tensor | None) -> None:
        """Takes in a chunk of n labels, filled up with zeros to m rows.

        Args:
            start: the first position of the chunk (m, D).
            p: probabilities (m, V) without those of the labels (n).
            others: (n,), what the labels leave to them.
            excess: (n,), what a z-loss adds for each unit of probability.
        """
        n = len(labels)
        at_label = self.smoothing - others  # p - (1-ε)
        product = (p @ self.w)[:n].to(self.full)
        if excess is not None:
            at_label = at_label + excess * (1 - others)
            product *= (1 + excess)[:, None]
            self._add_excess(chunk, p, excess)
        at_label = at_label[:, None]
        self.states[start : start + n] = product + at_label * self.w[labels]
        if self.weight is not None:
            self.weight += p.mT @ chunk
            self.weight.index_add_(0, labels, at_label * chunk[:n])
        if self.bias is not None:
            self.bias += p.sum(0, dtype=self.full)
            self.bias.index_add_(0, labels, at_label[:, 0])

    def _add_excess(self, chunk: Tensor, p: Tensor, excess: Tensor) -> None:
        """What a z-loss adds to weight and bias, by itself: half precision would round 1 + excess to 1."""
        filled = F.pad(excess, (0, len(p) - len(excess)))[:, None]
        if self.weight is not None:
            self.weight += p.mT @ (filled * chunk).to(chunk.dtype)
        if self.bias is not None:
            self.bias += (p.mT @ filled.to(p.dtype))[:, 0]

    def finished(self, states: torch.dtype, weight: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """All three, smoothing included, in the types of what they belong to."""
        share = self.smoothing / self.w.size(0)
        if share:
            self.states -= share * self.w.sum(0, dtype=self.full)
            if self.weight is not None:
                self.weight -= share * self.x.sum(0, dtype=self.full)
            if self.bias is not None:
                self.bias -= share * self.x.size(0)
        of_weight, of_bias = (None if x is None else x.to(weight) for x in (self.weight, self.bias))
        return self.states.to(states), of_weight, of_bias
