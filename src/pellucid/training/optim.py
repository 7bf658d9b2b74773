"""The optimiser of a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.config import optimisation as config


class Optimizers:
    """Several optimisers that share the parameters of one model among them and take their steps together."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all."""
        return [group for part in self.parts for group in part.param_groups]

    def set_rate(self, rate: float) -> None:
        """Gives every group this learning rate."""
        for group in self.param_groups:
            group["lr"] = rate

    def state(self, parameter: Tensor) -> dict[str, Any]:
        """What is remembered of a parameter: its moments. Writing into it is how they are restored."""
        for part in self.parts:
            if any(parameter is own for group in part.param_groups for own in group["params"]):
                return part.state[parameter]
        return {}  # a frozen parameter

    def step(self) -> None:
        """Updates every parameter."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for part in self.parts:
            part.zero_grad()


def optimizer(model: nn.Module, settings: config.Optimizer) -> Optimizers:
    """The optimiser of all parameters that are trained; weight decay is on matrices, not on gains and biases."""
    match settings:
        case config.AdamW():
            return Optimizers(_adam(_trained(model), settings))
        case config.Muon(momentum=momentum, weight_decay=decay):
            hidden = list(_hidden_matrices(model))
            taken = {id(p) for p in hidden}
            rest = _adam([p for p in _trained(model) if id(p) not in taken], settings)
            if not hidden:  # all of them are frozen
                return Optimizers(rest)
            muon = torch.optim.Muon(hidden, momentum=momentum, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
            return Optimizers(muon, rest)


def _adam(parameters: list[nn.Parameter], settings: config.Optimizer) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=True)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _hidden_matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    """The matrices inside the blocks, which is where Muon is meant to be used."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dim() == 2 and ".blocks." in f".{name}":
            yield parameter
