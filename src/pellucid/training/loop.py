"""The training loop: a generator that yields what one step did. Whoever iterates logs, evaluates and saves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pellucid.config.model import stacks
from pellucid.config.optimisation import Training
from pellucid.config.run import Causal, Objective
from pellucid.data.batch import Batch, TrainingBatches
from pellucid.errors import TrainingError
from pellucid.models.build import Model
from pellucid.models.files import whole
from pellucid.models.tower import Learning, set_learning
from pellucid.trace import trace
from pellucid.training.distributed import ALONE, World
from pellucid.training.objectives import Criterion, LossFunction, loss_function
from pellucid.training.optim import Optimizers, optimizer
from pellucid.training.precision import products
from pellucid.training.schedule import learning_rate


@dataclass(frozen=True)
class Step:
    """What one update did.

    Attributes:
        step: counted from 1.
        loss: the mean per label of what is minimised, in nats: smoothing and z-loss included.
        nats: the mean negative log-likelihood of the labels, which is what an evaluation tells; dropout is in both.
        learning_rate: of this update.
        gradient_norm: before clipping.
        tokens: real tokens read, those of a source included.
        seconds: taken.
        update_ratio: the size of the update over that of the weights; ``None`` where it was not measured.
        gradient_noise: labels in a batch above which more of them would hardly make the gradient better: the simple
            noise scale of McCandlish et al. 2018, appendix A.1, from one part of an accumulated batch against the
            whole. A single figure is noisy: average many. ``None`` where not measured or nothing is accumulated.
    """

    step: int
    loss: float
    nats: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    seconds: float
    update_ratio: float | None = None
    gradient_noise: float | None = None


def train(
    model: Model,
    batches: TrainingBatches,
    objective: Objective,
    training: Training,
    *,
    optimizers: Optimizers | None = None,
    after: int = 0,
    measure_every: int = 0,
    seed: int = 0,
    world: World = ALONE,
    criterion: nn.Module | None = None,
) -> Iterator[Step]:
    """Trains the model in place, going on ``after`` so many steps with an optimiser that has done them.

    Gradients of accumulated batches are weighted by their labels, so that accumulating equals one larger batch. Every
    ``measure_every`` steps the ratio of update to weights and the gradient's noise are measured too. In a world of
    several processes ``criterion`` is what ``world`` made of the model, and ``seed`` gives each its random numbers.

    Raises:
        TrainingError: for a loss or a gradient that is not finite, of which nothing is learned; names the step and the
            first tensor that is not.
    """
    criterion = Criterion(model, objective) if criterion is None else criterion
    optimizers = optimizer(model, training.optimizer) if optimizers is None else optimizers
    set_learning(model, Learning(recomputed=training.recompute, compiled=training.compile))
    rate = learning_rate(training.schedule, steps=training.steps, d_model=stacks(model.config)[-1].d_model)
    for step in range(after + 1, training.steps + 1):
        began = time.perf_counter()
        measures = measure_every > 0 and step % measure_every == 0
        model.train()
        world.seed(seed, step)
        optimizers.set_rate(rate(step))
        first = (step - 1) * training.accumulate
        parts = [shortened(batches[first + i], objective, step) for i in range(training.accumulate)]
        loss, nats, noise = _backward(criterion, parts, training.precision, model.device, world, measures)
        if not torch.isfinite(loss):
            culprit = _first_cause(model, parts, loss_function(objective), training.precision)
            raise _not_finite("loss", culprit, step, rate(step))
        split = _norm(model)  # among processes, where the gradients are
        norm = whole(split)
        if not torch.isfinite(norm):
            raise _not_finite("gradient", _bad_gradient(model), step, rate(step))
        nn.utils.clip_grads_with_norm_(model.parameters(), training.clip_norm or torch.inf, split)
        before = [p.detach().clone() for p in model.parameters()] if measures else []
        optimizers.step()
        optimizers.zero_grad()
        tokens, seconds = sum(part.num_tokens for part in parts), time.perf_counter() - began
        ratio = _update_ratio(model, before) if measures else None
        yield Step(step, loss.item(), nats.item(), rate(step), norm.item(), tokens, seconds, ratio, noise)


def shortened(batch: Batch, objective: Objective, step: int) -> Batch:
    """The windows of a batch cut into shorter ones while a curriculum of lengths is on; all tokens stay."""
    if not isinstance(objective, Causal) or step > objective.curriculum_steps or batch.positions is not None:
        return batch
    quarter = 4 * (step - 1) // objective.curriculum_steps  # eighths, quarters, halves, and halves once more
    length = batch.tokens.size(1) // (8 >> min(quarter, 2))
    return Batch(batch.tokens.reshape(-1, length), batch.labels.reshape(-1, length))


def _backward(
    criterion: nn.Module, parts: list[Batch], precision: str, device: torch.device, world: World, measures: bool
) -> tuple[Tensor, Tensor, float | None]:
    """Fills the gradients; returns the mean of what is minimised and of the plain loss, and the noise if asked for."""
    counts = [part.num_labels for part in parts]
    count = max(sum(counts), 1)
    means, of_part = torch.zeros(2, device=device), None
    compares = measures and len(parts) > 1 and world.size == 1
    for i, part in enumerate(parts):
        own = world.share(part).to(device)
        # Each part rounds the weights anew: split among processes, those that an earlier part has rounded belong to
        # gradients that have been exchanged when the last one's arrive.
        with world.exchange(criterion, now=i == len(parts) - 1), products(device, precision):
            loss = criterion(own)
            # Gradients are averaged over the processes; what is wanted is their sum.
            (loss.total * (world.size / count)).backward()
        means += torch.stack((loss.total.detach(), loss.nats)) / count
        if compares and i == 0:
            of_part = _norm(criterion).item() * count / max(counts[0], 1)
    noise = None if of_part is None else _noise(of_part**2, _norm(criterion).item() ** 2, counts[0], count)
    loss_mean, nats_mean = world.total(means)
    return loss_mean, nats_mean, noise


def _norm(model: nn.Module) -> Tensor:
    """Of all gradients together."""
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def _noise(small: float, large: float, of_small: int, of_large: int) -> float:
    """From the squared gradient norms of a smaller and a larger batch: trace of the covariance over squared mean."""
    signal = (of_large * large - of_small * small) / (of_large - of_small)
    noise = (small - large) / (1 / of_small - 1 / of_large)
    return noise / signal if signal > 0 else float("inf")


@torch.no_grad()
def _update_ratio(model: nn.Module, before: list[Tensor]) -> float:
    now = [p.detach() for p in model.parameters()]
    updates = torch._foreach_sub(now, before)
    change, size = (whole(nn.utils.get_total_norm(tensors)) for tensors in (updates, before))
    return (change / size.clamp(min=1e-30)).item()


def _first_cause(model: Model, parts: list[Batch], loss_of: LossFunction, precision: str) -> str:
    """Names the first tensor that is not finite; the loss is told also where nothing can be looked at."""
    try:
        return _bad_tensor(model, parts, loss_of, precision)
    except Exception as error:  # no room to record, or weights that are split among processes
        return f"the loss alone, since looking for an earlier one failed ({type(error).__name__})"


def _bad_tensor(model: Model, parts: list[Batch], loss_of: LossFunction, precision: str) -> str:
    """Runs the batches once more, looking, to name the first tensor that is not finite."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the weight {name}"
    for part in parts:
        with torch.no_grad(), trace(model) as tape, products(model.device, precision):
            loss_of(model, part.to(model.device))
        hidden = ("scores",)  # -inf there is the mask at work
        bad = [n for n in tape if not n.endswith(hidden) and not torch.isfinite(tape[n]).all()]
        if bad:
            return f"the tensor {bad[0]}"
    return "the loss alone"


def _bad_gradient(model: Model) -> str:
    """Names the last gradient that is not finite: they are taken from the end of a model to its beginning."""
    found = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in found if not torch.isfinite(gradient).all()]
    return f"the gradient of {bad[-1]}" if bad else "the norm of all together"


def _not_finite(what: str, culprit: str, step: int, rate: float) -> TrainingError:
    hint = f"lower the learning rate ({rate:.2g} here), warm up longer, clip harder, or use precision float32"
    return TrainingError(f"step {step}", f"the {what} is not finite; the first cause seen is {culprit}", hint=hint)
