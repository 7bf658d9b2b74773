"""Probes: what a linear classifier can read from features, such as the states of one layer (Alain & Bengio 2016).

Accuracy alone says little: a probe may find what is frequent, or learn the words by heart. So it stands beside that of
always guessing the most frequent label, and beside that of a control task: labels drawn at random, one for each type of
word, which can only be learned by heart (Hewitt & Liang 2019, §2).

Shapes: N examples, D features, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.errors import UserError
from pellucid.trace.working import wide


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier: weight · x + bias scores each label, in single precision at least."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]

    def predict(self, features: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        """The label of the highest score."""
        return F.linear(features.to(self.weight.dtype), self.weight, self.bias).argmax(-1)

    def accuracy(self, features: Float[Tensor, "N D"], labels: Int[Tensor, " N"]) -> float:
        """The share of labels that it finds."""
        return (self.predict(features) == labels).double().mean().item()


@dataclass(frozen=True, eq=False)
class Probing:
    """A probe and what its accuracy is to be compared with, all on examples that were held out.

    Attributes:
        majority: of always giving the most frequent label of the examples that were learned from.
        control: of a probe of the same kind for labels drawn at random for each type; ``None`` without types.
    """

    probe: Probe
    accuracy: float
    majority: float
    control: float | None

    @property
    def selectivity(self) -> float | None:
        """Accuracy less that of the control task: what is read and not learned by heart (Hewitt & Liang 2019)."""
        return None if self.control is None else self.accuracy - self.control


def probing(
    features: Float[Tensor, "N D"],
    labels: Int[Tensor, " N"],
    *,
    types: Int[Tensor, " N"] | None = None,
    held_out: float = 0.2,
    penalty: float = 1e-3,
    seed: int = 0,
) -> Probing:
    """Fits a probe to some of the examples and asks it about the others.

    Args:
        labels: from 0 to C - 1.
        types: the token or word of each example, for the control task.
        held_out: the share of examples asked about, chosen at random.
        penalty: as for :func:`fit_probe`.

    Raises:
        UserError: for lengths that differ, negative labels, or too few examples to hold any out.
    """
    _check(features, labels, types)
    generator = torch.Generator().manual_seed(seed)
    test = _held_out(labels, held_out, generator)
    train = ~test
    probe = fit_probe(features[train], labels[train], penalty=penalty)
    majority = (labels[test] == labels[train].mode().values).double().mean().item()
    control = None
    if types is not None:
        drawn = control_labels(types, labels, generator)
        control = fit_probe(features[train], drawn[train], penalty=penalty).accuracy(features[test], drawn[test])
    return Probing(probe, probe.accuracy(features[test], labels[test]), majority, control)


def fit_probe(features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], *, penalty: float = 1e-3) -> Probe:
    """Multinomial logistic regression by L-BFGS (Liu & Nocedal 1989), to its one minimum.

    Features are standardised for the fit, so that the penalty falls on all alike, and the probe takes them as they are.

    Args:
        labels: from 0 to C - 1.
        penalty: times half the squared weights is added to the mean cross-entropy.

    Raises:
        UserError: for lengths that differ or negative labels.
    """
    _check(features, labels)
    x = features.detach().double().clone()  # cloned, what inference mode gave can be learned from
    mean, deviation = x.mean(0), x.std(0, correction=0)
    deviation = torch.where(deviation > 0, deviation, 1)
    x = (x - mean) / deviation
    weight = torch.zeros(int(labels.max()) + 1, x.size(1), dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(weight.size(0), dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    scaled = weight.detach() / deviation
    dtype = wide(features[:0]).dtype  # what was learned is not what half of it holds
    return Probe(scaled.to(dtype), (bias.detach() - scaled @ mean).to(dtype))


def control_labels(
    types: Int[Tensor, " N"], labels: Int[Tensor, " N"], generator: torch.Generator | None = None
) -> Int[Tensor, " N"]:
    """A label for each type, drawn at random as often as the labels occur (Hewitt & Liang 2019, §2).

    Raises:
        UserError: for lengths that differ or negative labels.
    """
    _check(types[:, None], labels)
    distinct, which = types.unique(return_inverse=True)
    frequency = torch.bincount(labels).double().cpu()
    return frequency.multinomial(len(distinct), replacement=True, generator=generator).to(labels.device)[which]


def _held_out(labels: Tensor, share: float, generator: torch.Generator) -> Bool[Tensor, " N"]:
    count = round(share * len(labels))
    if not 0 < count < len(labels):
        raise UserError("held_out", f"{share} of {len(labels)} examples is {count}", "some, but not all of them")
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[torch.randperm(len(labels), generator=generator)[:count]] = True
    return test.to(labels.device)


def _check(features: Tensor, labels: Tensor, types: Tensor | None = None) -> None:
    lengths = [len(part) for part in (features, labels, types) if part is not None]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise UserError(
            "probing", f"lengths {lengths}", "one label, and one type where there are any, for each example"
        )
    if int(labels.min()) < 0:
        raise UserError("labels", f"found {int(labels.min())}", "0 or more", "leave out positions that have no label")
