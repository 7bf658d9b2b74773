"""Figures of a model at work: how sharp its attention is, which units never fire, how gradients and residuals grow.

Shapes: B batch, T positions, D d_model, F d_ff, H heads, S keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

BLOCK = re.compile(r"^(.*\.)?\d+$")
STILL, NOTHING = 1e-8, 1e-20
"""Variance of a unit over that of the unit that varies most, and of a unit alone, below which it does not fire: layers
without a norm before them may be small all over."""

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU, nn.Mish, nn.LeakyReLU, nn.ReLU6, nn.Hardswish)


def is_activation(module: nn.Module) -> bool:
    """Whether it is a function of each unit alone, by its class or its name."""
    name = type(module).__name__
    return isinstance(module, ACTIVATIONS) or "Activation" in name or name.endswith("ReLU")


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The layers: modules with parameters directly in a list, the longest lists first."""
    lists = {
        path: part
        for path, part in model.named_modules()
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part) > 1
    }
    found: dict[str, nn.Module] = {}
    for path, part in lists.items():
        kinds = {type(layer) for layer in part}
        deep = all(any(True for _ in layer.children()) for layer in part)
        if len(kinds) == 1 and deep and not any(path.startswith(f"{other}.") for other in lists if other != path):
            found |= {f"{path}.{i}": layer for i, layer in enumerate(part)}
    return found


@contextmanager
def seen(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """The outputs of some modules, detached, while the block runs."""
    found: dict[str, list[Tensor]] = {name: [] for name in modules}

    def keep(name: str) -> object:
        def hook(_: nn.Module, __: object, result: object) -> None:
            tensor = result[0] if isinstance(result, tuple) else result
            if isinstance(tensor, Tensor):
                found[name].append(tensor.detach())

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]  # type: ignore[arg-type]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def entropy(weights: Tensor) -> Tensor:
    """(B, H): the median over queries that see 8 keys and more, of the entropy over the greatest there can be."""
    keys = (weights > 0).sum(-1)
    value = -(weights * weights.clamp_min(1e-30).log()).sum(-1) / keys.clamp_min(2).log()
    value = value.masked_fill(keys < 8, torch.nan)
    return value.nanmedian(-1).values


def dead(hidden: Tensor, *, relu: bool) -> float:
    """The share of units that never fire over (N, F): zero throughout, or all but still beside those that vary most."""
    flat = hidden.reshape(-1, hidden.size(-1)).float()
    spread = flat.var(0, correction=0)
    still = (flat == 0).all(0) if relu else spread <= max(STILL * float(spread.max()), NOTHING)
    return float(still.float().mean())


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return float(x.float().square().mean().sqrt())
