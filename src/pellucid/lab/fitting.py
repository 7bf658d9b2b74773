"""One loop for every model of the lab, whoever made it: the Transformer is given nothing that others are not.

Shapes: B batch, T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

UNASKED = -100
"""A label that is none: nothing is asked at its place."""


class Rows(NamedTuple):
    """A batch: tokens (B, T), or whatever else a model takes, and what is to be said at each place or of each row."""

    tokens: Any
    labels: Int[Tensor, "B T"] | Int[Tensor, "B"]


def fit(
    model: nn.Module,
    batches: Callable[[], Rows],
    steps: int,
    *,
    peak: float = 1e-3,
    warmup: int = 100,
    clip: float | None = 1.0,
    smoothing: float = 0.0,
) -> Iterator[tuple[int, float]]:
    """Trains in place by AdamW; yields the number of each step and its loss in nats per label.

    The rate rises over ``warmup`` steps to its ``peak`` and falls along a cosine to a tenth of it.
    """
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    for step in range(1, steps + 1):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(step, steps, warmup)
        loss = loss_of(model, batches(), smoothing)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        yield step, loss.item()


def course_of(
    model: nn.Module, batches: Callable[[], Rows], judged: Callable[[], Rows], steps: int, *, peak: float, every: int
) -> dict[int, float]:
    """Trains, and says how much was right after every so many steps, and after the last."""
    return {
        step: right(model, judged())
        for step, _ in fit(model, batches, steps, peak=peak)
        if step % every == 0 or step == steps
    }


def rate(step: int, steps: int, warmup: int) -> float:
    """Of the peak, at a step from 1 on."""
    if step <= warmup:
        return step / warmup
    return 0.55 + 0.45 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def loss_of(model: nn.Module, rows: Rows, smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats per label."""
    logits, labels = model(rows.tokens).flatten(0, -2), rows.labels.flatten()
    return F.cross_entropy(logits, labels, ignore_index=UNASKED, label_smoothing=smoothing)


@torch.no_grad()
def right(model: nn.Module, rows: Rows) -> float:
    """The share of the labels that are the likeliest token."""
    model.eval()
    asked = rows.labels != UNASKED
    return float((model(rows.tokens).argmax(-1) == rows.labels)[asked].float().mean())


def size_of(model: nn.Module) -> int:
    """Trained parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
