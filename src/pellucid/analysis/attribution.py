"""How much of an output is owed to each input vector, by gradients.

Inputs are named tensors, by default the embeddings: ``embedding.out``, or ``encoder.embedding.out`` and
``decoder.embedding.out`` together. Add up over the features for one number for each token.

Shapes: B batch, T positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.analysis.passes import Metric, Pass, Progress, Tensors, fits, measured, recorded, unheard
from pellucid.analysis.streams import streams_of
from pellucid.errors import UserError
from pellucid.trace import Edit, trace


@dataclass(frozen=True, eq=False)
class IntegratedGradients:
    """What each input vector contributes to the difference between the input and a baseline.

    Attributes:
        attributions: (B, T, D) for each name.
        difference: the metric at the input less that at the baseline.
    """

    attributions: dict[str, Float[Tensor, "B T D"]]
    difference: Float[Tensor, " B"]

    @property
    def missing(self) -> Float[Tensor, " B"]:
        """What the attributions do not add up to: 0 by completeness but for the steps; take more if it is large."""
        return self.difference - sum(
            (values.flatten(1).sum(1) for values in self.attributions.values()), torch.zeros_like(self.difference)
        )


def embedding_names(model: nn.Module) -> list[str]:
    """The names of the embeddings of a model, the encoder's first.

    Raises:
        UserError: for a module that is none of our three families.
    """
    return [stream.embedding for stream in streams_of(model)]


def input_times_gradient(
    model: nn.Module, run: Pass, metric: Metric, names: Sequence[str] | None = None
) -> dict[str, Float[Tensor, "B T D"]]:
    """x · ∂metric/∂x for each feature of each input (Shrikumar et al. 2016).

    To first order what the metric would lose with the feature: exactly that if the metric is linear in it.

    Args:
        names: of the tensors to attribute to; the embeddings when left out.

    Raises:
        UserError: for a name that the pass does not compute, or a metric that is not one number for each row.
    """
    inputs = _inputs(model, run, names)
    _, gradients = _gradients(model, run, metric, inputs)
    return {name: inputs[name] * gradient for name, gradient in gradients.items()}


def integrated_gradients(
    model: nn.Module,
    run: Pass,
    metric: Metric,
    names: Sequence[str] | None = None,
    *,
    baselines: Tensors | None = None,
    steps: int = 32,
    progress: Progress = unheard,
) -> IntegratedGradients:
    """(x - x') · ∫₀¹ ∂metric/∂x(x' + a (x - x')) da (Sundararajan et al. 2017, eq. 1).

    The integral is taken at the ``steps`` points of Gauss and Legendre, which need fewer passes than equal steps. Near
    zero a norm turns sharply: the embedding of a neutral token is a gentler baseline there than zeros.

    Args:
        names: of the tensors to attribute to, all together; the embeddings when left out.
        baselines: x' for each name, of a shape that broadcasts to x; zeros where left out.

    Raises:
        UserError: for a name that the pass does not compute, a baseline of another shape or for another name, or a
            metric that is not one number for each row.
    """
    inputs = _inputs(model, run, names)
    starts = _baselines(inputs, baselines or {})
    points, shares = np.polynomial.legendre.leggauss(steps)
    sums = {name: torch.zeros_like(x) for name, x in inputs.items()}
    for step, (point, share) in enumerate(zip((points + 1) / 2, shares / 2, strict=True)):
        between = {name: torch.lerp(starts[name], x, float(point)) for name, x in inputs.items()}
        for name, gradient in _gradients(model, run, metric, between)[1].items():
            sums[name] += float(share) * gradient
        progress(step + 1, steps)
    with torch.no_grad():
        difference = _value(model, run, metric, inputs) - _value(model, run, metric, starts)
    return IntegratedGradients({name: (x - starts[name]) * sums[name] for name, x in inputs.items()}, difference)


def _inputs(model: nn.Module, run: Pass, names: Sequence[str] | None) -> dict[str, Tensor]:
    names = embedding_names(model) if names is None else names
    with torch.no_grad(), trace(model, watch=list(names)) as tape:
        run()
    return {name: recorded(tape.tensors, name) for name in names}


def _baselines(inputs: Tensors, given: Tensors) -> dict[str, Tensor]:
    for name, baseline in given.items():
        wanted = recorded(inputs, name)
        if not fits(baseline, wanted):
            expected = f"one that broadcasts to {tuple(wanted.shape)}"
            raise UserError(f'the baseline of "{name}"', f"shape {tuple(baseline.shape)}", expected)
    return {
        name: given[name].to(x).expand_as(x) if name in given else torch.zeros_like(x) for name, x in inputs.items()
    }


def _gradients(model: nn.Module, run: Pass, metric: Metric, inputs: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """The metric with these tensors in the place of what the model computes, and its gradient by each."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    with torch.enable_grad():
        values = _value(model, run, metric, leaves)
        found = torch.autograd.grad(values.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True)
    return values.detach(), dict(zip(leaves, found, strict=True))


def _value(model: nn.Module, run: Pass, metric: Metric, inputs: Tensors) -> Float[Tensor, " B"]:
    edits: Mapping[str, Edit] = {name: lambda _, x=x: x for name, x in inputs.items()}  # type: ignore[misc]
    with trace(model, watch=(), edits=edits):
        return measured(run, metric)
