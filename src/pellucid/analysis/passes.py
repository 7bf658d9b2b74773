"""What the analyses that run a model are given: a pass, what is asked of its output, and who hears how far it is.

Shapes: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from jaxtyping import Float
from torch import Tensor

from pellucid.errors import UserError, nearest

Pass = Callable[[], Tensor]
"""Runs a model on one input and returns its output: ``lambda: model(tokens, keep=keep)``, whatever the family."""

Metric = Callable[[Tensor], Float[Tensor, " B"]]
"""What is asked of an output: one number for each row, such as the logit of an answer less that of another."""

Tensors = Mapping[str, Tensor]
"""Tensors by their full names, such as a tape's ``tensors``."""

Progress = Callable[[int, int], None]
"""Hears how many steps are done, of how many."""


def unheard(done: int, total: int) -> None:
    """Nobody listens."""


def measured(run: Pass, metric: Metric) -> Float[Tensor, " B"]:
    """The metric of one pass.

    Raises:
        UserError: for a metric that does not give one number for each row.
    """
    output = run()
    values = metric(output)
    if values.shape != output.shape[:1]:
        found = f"values of shape {tuple(values.shape)} for an output of shape {tuple(output.shape)}"
        raise UserError("metric", found, f"shape ({output.size(0)},)", "give one number for each row of the batch")
    return values


def matching(tensors: Tensors, pattern: str) -> list[str]:
    """The names that a pattern (``fnmatch``) matches, in the order computed.

    Raises:
        UserError: if there is none, with the nearest name.
    """
    names = [name for name in tensors if fnmatchcase(name, pattern)]
    if not names:
        raise UserError(f'"{pattern}"', "matches no tensor that was recorded", hint=_advice(pattern, tensors))
    return names


def recorded(tensors: Tensors, name: str) -> Tensor:
    """The tensor of that name.

    Raises:
        UserError: if it was not recorded, with the nearest name.
    """
    if name not in tensors:
        raise UserError(f'"{name}"', "was not recorded", hint=_advice(name, tensors))
    return tensors[name]


def fits(value: Tensor, tensor: Tensor) -> bool:
    """Whether a value broadcasts to a tensor of this shape."""
    sizes = zip(reversed(value.shape), reversed(tensor.shape), strict=False)
    return value.dim() <= tensor.dim() and all(size in (1, wanted) for size, wanted in sizes)


def _advice(name: str, tensors: Tensors) -> str:
    if not tensors:
        return "watch it: trace(model, watch=[...])"
    return f"watch it: trace(model, watch=[...]), or {nearest(name, tensors)}"
