"""The optimiser of a config."""

from __future__ import annotations

import torch
from torch import nn

from pellucid.config.run import AdamW


def optimizer(model: nn.Module, settings: AdamW) -> torch.optim.Optimizer:
    """Fused AdamW; weight decay on matrices, not on gains and biases (Loshchilov & Hutter 2019)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.epsilon, fused=True)
