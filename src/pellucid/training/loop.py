"""The training loop: a generator that yields what one step did. Whoever iterates logs, evaluates and saves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pellucid.config.model import stacks
from pellucid.config.run import Objective, Training
from pellucid.data.batch import Batch, TrainingBatches
from pellucid.errors import TrainingError
from pellucid.models.build import Model
from pellucid.trace import trace
from pellucid.training.objectives import LossFunction, loss_function
from pellucid.training.optim import optimizer
from pellucid.training.schedule import learning_rate


@dataclass(frozen=True)
class Step:
    """What one update did: mean loss in nats per label, gradient norm before clipping, tokens read, seconds taken."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float


def train(
    model: Model,
    batches: TrainingBatches,
    objective: Objective,
    training: Training,
    *,
    adam: torch.optim.Optimizer | None = None,
    after: int = 0,
) -> Iterator[Step]:
    """Trains the model in place, going on ``after`` so many steps with an optimiser that has done them.

    Gradients of accumulated batches are weighted by their labels, so that accumulating equals one larger batch.

    Raises:
        TrainingError: for a loss that is not finite; names the step and the first tensor that is not.
    """
    loss_of = loss_function(objective)
    adam = optimizer(model, training.optimizer) if adam is None else adam
    rate = learning_rate(training.schedule, steps=training.steps, d_model=stacks(model.config)[-1].d_model)
    for step in range(after + 1, training.steps + 1):
        began = time.perf_counter()
        model.train()
        for group in adam.param_groups:
            group["lr"] = rate(step)
        first = (step - 1) * training.accumulate
        parts = [batches[first + i].to(model.device) for i in range(training.accumulate)]
        loss = _backward(model, parts, loss_of, training.precision)
        if not torch.isfinite(loss):
            raise _not_finite(model, parts, loss_of, training.precision, step, rate(step))
        norm = nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm or torch.inf)
        adam.step()
        adam.zero_grad()
        tokens = sum(part.num_tokens for part in parts)
        yield Step(step, loss.item(), rate(step), norm.item(), tokens, time.perf_counter() - began)


def autocast(model: Model, precision: str) -> torch.autocast:
    """Matrix products in the given precision; weights, norms, softmax and loss stay as they are."""
    return torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _backward(model: Model, parts: list[Batch], loss_of: LossFunction, precision: str) -> torch.Tensor:
    count = max(sum(part.num_labels for part in parts), 1)
    mean = torch.zeros((), device=model.device)
    for part in parts:
        with autocast(model, precision):
            loss = loss_of(model, part).total / count
        loss.backward()
        mean += loss.detach()
    return mean


def _not_finite(
    model: Model, parts: list[Batch], loss_of: LossFunction, precision: str, step: int, rate: float
) -> TrainingError:
    """Runs the batches once more, looking, to name the first tensor that is not finite."""
    culprit = "the loss alone"
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            culprit = f"the weight {name}"
            break
    else:
        for part in parts:
            with torch.no_grad(), trace(model) as tape, autocast(model, precision):
                loss_of(model, part)
            hidden = ("scores",)  # -inf there is the mask at work
            bad = [n for n in tape if not n.endswith(hidden) and not torch.isfinite(tape[n]).all()]
            if bad:
                culprit = f"the tensor {bad[0]}"
                break
    hint = f"lower the learning rate ({rate:.2g} here), warm up longer, clip harder, or use precision float32"
    return TrainingError(f"step {step}", f"the loss is not finite; the first cause seen is {culprit}", hint=hint)
