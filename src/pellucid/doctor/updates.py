"""What one step of an optimiser does to each layer: the gradient that it is given, and how far the weights move."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.health import blocks
from pellucid.doctor.record import Update
from pellucid.errors import UserError

REST = "rest"
TABLES = re.compile(r"emb|prompt|prefix|wte|wpe", re.IGNORECASE)
"""Names, with that of the module around, of tables that are bare parameters, and of prompts that are learned."""


class Updates:
    """Sees one step at a time, between :meth:`before` and :meth:`after`.

    Args:
        model: without what wraps it.

    Attributes:
        layers: the names of its layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = [plain(name) for name in blocks(model)]
        self._parameters = _by_layer(model, self.layers)
        self._gradients: dict[str, float] = {}
        self._copies: dict[str, list[Tensor]] = {}

    @property
    def seen(self) -> bool:
        """Whether a step was begun."""
        return bool(self._copies)

    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """To be called when an optimiser is about to step; of several the first counts."""
        # A scaler of half precision leaves both to a fused optimiser: whether it steps at all, and its scale.
        if self.seen or bool(getattr(optimizer, "found_inf", None) or 0):
            return
        scale = float(getattr(optimizer, "grad_scale", None) or 1)
        self._gradients = {name: norm / scale for name, norm in self._norms().items()}
        self._copies = {name: [p.detach().clone() for _, p in own] for name, own in self._parameters.items()}

    def after(self, norm: float | None) -> tuple[Update | None, list[str]]:
        """What the step did, and which parameters and gradients are not finite; forgets it.

        Args:
            norm: of the gradient before clipping, where it is known.
        """
        gradients = self._gradients if self.seen else self._norms()
        infinite = [f"parameter {name}" for own in self._parameters.values() for name, p in own if not _is_finite(p)]
        infinite += [f"gradient of {name}" for name, each in gradients.items() if not _is_number(each)]
        ratios = {}
        for name, copies in self._copies.items():
            moved, size = (
                _norm(torch._foreach_sub([p.detach() for _, p in self._parameters[name]], copies)),
                _norm(copies),
            )
            if moved is not None and size:
                ratios[name] = moved / size
        self.forget()
        if not gradients and not ratios and norm is None:
            return None, infinite
        total = sum(each * each for each in gradients.values()) ** 0.5 if gradients else None
        return Update(gradients=gradients, norm=total if norm is None else norm, ratios=ratios), infinite

    def forget(self) -> None:
        """Of a step that is not to be measured after all."""
        self._gradients, self._copies = {}, {}

    def _norms(self) -> dict[str, float]:
        norms = {name: _norm([p.grad for _, p in own if p.grad is not None]) for name, own in self._parameters.items()}
        return {name: norm for name, norm in norms.items() if norm is not None}


def optimizers_of(given: Any) -> Iterator[torch.optim.Optimizer]:
    """Those of PyTorch in what a loop calls its optimiser.

    Raises:
        UserError: where there is none.
    """
    if isinstance(given, torch.optim.Optimizer):
        yield given
    elif isinstance(given, Iterable):
        for each in given:
            yield from optimizers_of(each)
    elif (inner := getattr(given, "parts", None) or getattr(given, "optimizer", None)) is not None:
        yield from optimizers_of(inner)
    else:
        raise UserError("optimizer", f"found {type(given).__name__}", "one of torch.optim, or several in a list")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without what compiles it or spreads it over processes."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def tables_of(model: nn.Module) -> set[int]:
    """What Adam may move at rates that no layer bears, by identity: tables, and prompts that are learned."""
    modules = (part for part in model.modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag))
    tables = {id(parameter) for part in modules for parameter in part.parameters()}
    owned = ((".".join(name.split(".")[-2:]), parameter) for name, parameter in model.named_parameters())
    return tables | {id(parameter) for name, parameter in owned if TABLES.search(name)}


def holds_layers(group: Mapping[str, Any], tables: set[int]) -> bool:
    """Whether a group of an optimiser has the matrix of a layer: neither a vector nor one of the tables."""
    return any(parameter.dim() >= 2 and id(parameter) not in tables for parameter in group["params"])


def plain(path: str) -> str:
    """A path without what compiles a part of the model."""
    return path.replace("_orig_mod.", "").removesuffix("._orig_mod")


def _by_layer(model: nn.Module, layers: list[str]) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The trained parameters with their names, by layer; ``rest`` are those of none."""
    found: dict[str, list[tuple[str, nn.Parameter]]] = {layer: [] for layer in layers}
    for path, parameter in model.named_parameters():
        if parameter.requires_grad:
            name = plain(path)
            layer = next((layer for layer in layers if name.startswith(f"{layer}.")), REST)
            found.setdefault(layer, []).append((name, parameter))
    return {layer: own for layer, own in found.items() if own}


def _norm(tensors: Iterable[Tensor]) -> float | None:
    dense = [x.coalesce().values() if x.is_sparse else x.detach() for x in tensors]
    return float(nn.utils.get_total_norm([x.float() for x in dense])) if dense else None


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _is_number(x: float) -> bool:
    return x == x and abs(x) != torch.inf
