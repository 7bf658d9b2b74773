"""Short trainings on a copy of a model, and gradients of its loss, for the checks that need them.

Shapes: B batch, T positions, V outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Spec
from pellucid.doctor.subject import Subject

Loss = Callable[[nn.Module, Batch], Tensor]


def loss_of(spec: Spec) -> Loss | None:
    """The loss as it is taken in training; ``None`` where nothing says how."""
    if spec.loss is not None:
        objective = spec.loss
        return lambda model, batch: objective(model, batch)[0]
    if spec.criterion is not None and spec.call is not None:
        criterion, call = spec.criterion, spec.call
        return lambda model, batch: criterion(call(model, batch), batch)
    return None


def loss_for(subject: Subject) -> Loss | None:
    """The loss as it is taken in training; the plain one of a decoder that says of none and has scores of all tokens.

    ``None`` where nothing says how.
    """
    spec = subject.spec
    if (loss := loss_of(spec)) is not None:
        return loss
    scores = subject.per_position and spec.vocab_size is not None and subject.output.size(-1) >= spec.vocab_size
    return _next_token(spec) if spec.kind == "decoder" and scores and spec.features is None else None


def _next_token(spec: Spec) -> Loss:
    """Each position is asked for the next token."""
    call = spec.call
    assert call is not None

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = call(model, batch)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.ids[:, 1:].flatten())

    return loss


@contextmanager
def trainee(subject: Subject, *, dropout: bool = True) -> Iterator[nn.Module]:
    """A copy of the model to train, but for what is not to be trained; the model itself is left alone.

    Args:
        dropout: whether it keeps its dropout.
    """
    assert subject.module is not None
    model = copy.deepcopy(subject.module)
    model.train()
    with without_dropout(model) if not dropout else _as_it_is(), torch.enable_grad():
        yield model


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def without_dropout(model: nn.Module) -> AbstractContextManager[None]:
    """Every rate of dropout at zero for a while: those of modules, and numbers in (0, 1) under such a name."""
    return _at_zero(model, _drops)


def without_layer_drop(model: nn.Module) -> AbstractContextManager[None]:
    """The same of rates at which whole layers are skipped alone (Fan et al. 2020; Huang et al. 2016)."""
    return _at_zero(model, _drops_layers)


def _drops(module: nn.Module, name: str) -> bool:
    return "drop" in name.lower() or (isinstance(module, nn.modules.dropout._DropoutNd) and name == "p")


def _drops_layers(module: nn.Module, name: str) -> bool:
    of_layers = "layer" in name.lower() or any(
        kind in type(module).__name__ for kind in ("DropPath", "StochasticDepth")
    )
    return of_layers and _drops(module, name)


@contextmanager
def _at_zero(model: nn.Module, which: Callable[[nn.Module, str], bool]) -> Iterator[None]:
    changed: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and 0 < value <= 1 and which(module, name):
                changed.append((module, name, value))
                setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in changed:
            setattr(module, name, value)


def trained(
    model: nn.Module, loss: Loss, batches: Callable[[int], Batch], *, steps: int, lr: float, seed: int = 0
) -> list[float]:
    """Adam on a model for some steps; the loss of each."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.98), fused=_fusable(parameters))
    torch.manual_seed(seed)
    losses = []
    for step in range(steps):
        value = loss(model, batches(step))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def _fusable(parameters: list[nn.Parameter]) -> bool:
    return all(p.dtype in (torch.float32, torch.float64) and p.device.type in ("cpu", "cuda") for p in parameters)


def gradients_by_name(model: nn.Module, value: Tensor, *, again: bool = False) -> dict[str, Tensor | None]:
    """Of the trained parameters; ``None`` for those that have no part in a value.

    By ``backward`` and not by ``torch.autograd.grad``, which some kinds of checkpointing refuse.

    Args:
        again: whether another value of the same passes is to follow.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.grad for name, p in named.items()}
    try:
        for p in named.values():
            p.grad = None
        value.backward(retain_graph=again)
        return {name: p.grad for name, p in named.items()}
    finally:
        for name, p in named.items():
            p.grad = before[name]


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    """The same in order, zeros for those without one."""
    found = gradients_by_name(model, value)
    named = dict(model.named_parameters())
    return [torch.zeros_like(named[name]) if g is None else g for name, g in found.items()]


def norm(parts: list[Tensor]) -> float:
    """Of all parts together."""
    return float(torch.stack([part.double().square().sum() for part in parts]).sum().sqrt())
