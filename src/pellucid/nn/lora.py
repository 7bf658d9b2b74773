"""Low-rank adaptation of linear layers (Hu et al. 2022). Shapes: I inputs, O outputs, R rank."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.nn.dropout import dropout


class LoRALinear(nn.Linear):
    """W x + b + scale · B A x. Takes over the weights of a linear layer; B begins at zero, so nothing changes at first.

    ``lora_A`` and ``lora_B`` are named as in the ``peft`` library.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, alpha: float, dropout: float) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.dropout = alpha / rank, dropout
        self.lora_A = nn.Linear(linear.in_features, rank, bias=False, device=linear.weight.device)
        self.lora_B = nn.Linear(rank, linear.out_features, bias=False, device=linear.weight.device)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, input: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        term = self.lora_B(self.lora_A(dropout(input, self.dropout, self.training)))
        return F.linear(input, self.weight, self.bias) + self.scale * term

    def merged(self) -> Float[Tensor, "O I"]:
        """The one matrix that does the same outside training."""
        return self.weight + self.scale * self.lora_B.weight @ self.lora_A.weight


def adapt(model: nn.Module, targets: tuple[str, ...], *, rank: int, alpha: float, dropout: float) -> list[str]:
    """Gives every linear layer whose name ends in one of ``targets`` a low-rank term; returns their names."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    ]
    for name, linear in found:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoRALinear(linear, rank=rank, alpha=alpha, dropout=dropout))
    return [name for name, _ in found]


@torch.no_grad()
def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter under its name, low-rank terms added to the matrices they stand beside."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        if owner.endswith((".lora_A", ".lora_B")):
            continue
        yield name, adapted[owner].merged() if owner in adapted and last == "weight" else parameter.detach()
