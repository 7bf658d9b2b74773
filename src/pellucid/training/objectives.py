"""What a model is trained to do: a batch in, a summed loss and the number of its terms out.

Shapes: B batch, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.config.run import Causal, Classify, Masked, Objective, SequenceToSequence
from pellucid.data.batch import IGNORE, Batch
from pellucid.models.build import Model
from pellucid.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class Loss:
    """The loss summed over what the labels ask, in nats.

    Attributes:
        total: the sum that is minimised, smoothing included; differentiable.
        nats: the plain negative log-likelihood of the labels, for perplexity.
        correct: how often the label had the highest score.
        count: how many labels were asked.
    """

    total: Tensor
    nats: Tensor
    correct: Tensor
    count: int


LossFunction = Callable[[Model, Batch], Loss]


def loss_function(objective: Objective) -> LossFunction:
    """The loss of an objective."""
    match objective:
        case Causal(label_smoothing=smoothing):
            return lambda model, batch: _of_tokens(model, batch, smoothing)
        case Masked():
            return lambda model, batch: _of_tokens(model, batch, 0.0)
        case SequenceToSequence(label_smoothing=smoothing):
            return lambda model, batch: _of_tokens(model, batch, smoothing)
        case Classify(label_smoothing=smoothing):
            return lambda model, batch: _of_texts(model, batch, smoothing)


def _of_tokens(model: Model, batch: Batch, smoothing: float) -> Loss:
    """Cross-entropy at the positions that have a label; nothing is computed for the others."""
    states = _states(model, batch)
    asked = batch.labels != IGNORE
    logits = model.head.scores(states[asked]).float()
    return _cross_entropy(logits, batch.labels[asked], smoothing)


def _of_texts(model: Model, batch: Batch, smoothing: float) -> Loss:
    return _cross_entropy(model(batch.tokens, keep=batch.keep).float(), batch.labels, smoothing)


def _states(model: Model, batch: Batch) -> Tensor:
    if isinstance(model, EncoderDecoder):
        assert batch.source is not None  # an objective of pairs makes batches of pairs
        encoded = model.encode(batch.source, keep=batch.source_keep)
        return model.decoder.features_of(batch.tokens, encoded, keep=batch.keep).states
    return model.features(batch.tokens, keep=batch.keep, positions=batch.positions, segments=batch.segments).states


def _cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Loss:
    """-(1-ε) log p(label) - ε/V Σ log p (Szegedy et al. 2016; §5.4 of the paper), summed."""
    total = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    with torch.no_grad():
        nats = F.cross_entropy(logits, labels, reduction="sum") if smoothing else total.detach()
        correct = (logits.argmax(-1) == labels).sum()
    return Loss(total, nats, correct, labels.numel())
