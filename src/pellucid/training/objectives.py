"""What a model is trained to do: a batch in, a summed loss and the number of its terms out.

Shapes: B batch, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from pellucid.config.run import (
    Causal,
    Classify,
    Masked,
    NoObjective,
    Objective,
    SequenceToSequence,
    SpanCorruption,
)
from pellucid.data.batch import IGNORE, Batch
from pellucid.models.build import Model
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.heads import LanguageHead, MaskedLanguageHead
from pellucid.training import cross_entropy


class Loss(NamedTuple):
    """The loss summed over what the labels ask, in nats.

    Attributes:
        total: the sum that is minimised, smoothing and z-loss included; differentiable.
        nats: the plain negative log-likelihood of the labels, for perplexity.
        correct: how often the label had the highest score; counted only where no gradient is taken.
        num_labels: how many were asked.
    """

    total: Tensor
    nats: Tensor
    correct: Tensor
    num_labels: int


LossFunction = Callable[[Model, Batch], Loss]


def loss_function(objective: Objective) -> LossFunction:
    """The loss of an objective."""
    match objective:
        case Causal() | SpanCorruption() | SequenceToSequence():
            return lambda model, batch: _of_tokens(model, batch, objective.label_smoothing, objective.z_loss)
        case Masked():
            return lambda model, batch: _of_tokens(model, batch, 0.0, objective.z_loss)
        case Classify():
            return lambda model, batch: _of_texts(model, batch, objective.label_smoothing)
        case NoObjective():
            raise TypeError("an embedding head has no loss")


class Criterion(nn.Module):
    """A model and what it is trained to do as one module, a batch in and its loss out: what gets distributed."""

    def __init__(self, model: Model, objective: Objective) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_function(objective)

    def forward(self, batch: Batch) -> Loss:
        return self.loss_of(self.model, batch)


def _of_tokens(model: Model, batch: Batch, smoothing: float, z_loss: float) -> Loss:
    """Cross-entropy at the positions that have a label; nothing is computed for the others."""
    states, head = _states(model, batch), model.head
    assert isinstance(head, LanguageHead | MaskedLanguageHead)  # the objectives of tokens go with no other
    asked = batch.labels != IGNORE
    if asked.all():  # nothing to pick, and no gradient to put back in its place
        states, labels = states.flatten(0, 1), batch.labels.flatten()
    else:
        states, labels = states[asked], batch.labels[asked]
    if head.softcap is not None:
        scores = cross_entropy.plain(head.scores(states).float(), labels, smoothing, z_loss)
    else:
        ready, layer = head.prepare(states), head.project
        scores = cross_entropy.chunked(ready, layer.weight, layer.bias, labels, smoothing, z_loss)
    return Loss(*scores, labels.numel())


def _of_texts(model: Model, batch: Batch, smoothing: float) -> Loss:
    logits = model(batch.tokens, keep=batch.keep).float()
    return Loss(*cross_entropy.plain(logits, batch.labels, smoothing, 0.0), batch.num_labels)


def _states(model: Model, batch: Batch) -> Tensor:
    if isinstance(model, EncoderDecoder):
        assert batch.source is not None  # an objective of pairs makes batches of pairs
        encoded = model.encode(batch.source, keep=batch.source_keep)
        return model.decoder.features_of(batch.tokens, encoded, keep=batch.keep).states
    return model.features(batch.tokens, keep=batch.keep, positions=batch.positions, segments=batch.segments).states
