"""What a model answers: the likeliest tokens at a position, or the labels of a text.

Shapes: V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.models.checkpoint import Loaded


@dataclass(frozen=True)
class Answer:
    """One possible answer.

    Attributes:
        id: of the token or the label; ``piece`` is how it reads.
        probability: the softmax over all of them.
    """

    id: int
    piece: str
    logit: float
    probability: float


@dataclass(frozen=True)
class Answers:
    """The likeliest answers.

    Attributes:
        hidden: the probability of all that are not listed.
        entropy: of the whole distribution, in nats.
    """

    position: int
    entries: tuple[Answer, ...]
    hidden: float
    entropy: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def answers(loaded: Loaded, logits: Tensor, position: int, top: int = 20) -> Answers:
    """The answers of one text.

    Args:
        logits: (1, T, V) of a language head, (1, T, C) of one that labels tokens, (1, C) of a classifier, whose
            position is 0.
        position: negative ones count from the end.

    Raises:
        UserError: for a position that the text does not have, or a head that answers with a vector.
    """
    head = loaded.model.config.head
    if isinstance(head, config.Embedding):
        raise UserError("answers", "this model answers with a vector", "a head over tokens or labels")
    rows = logits[0] if logits.dim() == 3 else logits
    if not -len(rows) <= position < len(rows):
        raise UserError("position", f"found {position}", f"0 to {len(rows) - 1}")
    row = rows[position].double()
    log_probabilities = row.log_softmax(dim=-1)
    best = log_probabilities.topk(min(top, row.numel())).indices.tolist()
    labels = head.labels if isinstance(head, config.Classification | config.TokenClassification) else None
    pieces = [labels[i] for i in best] if labels else loaded.tokenizer.target.pieces(best)
    entries = tuple(
        Answer(i, piece, row[i].item(), log_probabilities[i].exp().item())
        for i, piece in zip(best, pieces, strict=True)
    )
    hidden = max(0.0, 1.0 - sum(entry.probability for entry in entries))
    entropy = torch.special.entr(log_probabilities.exp()).sum().item()
    return Answers(position % len(rows), entries, hidden, entropy)


def find(loaded: Loaded, logits: Float[Tensor, " V"], text: str, top: int = 20) -> list[Answer]:
    """The likeliest tokens whose piece contains some characters, in either case."""
    log_probabilities = logits.double().log_softmax(dim=-1)
    pieces = loaded.tokenizer.target.pieces(range(logits.numel()))
    ids = [i for i, piece in enumerate(pieces) if text.casefold() in piece.casefold()]
    ids.sort(key=lambda i: -log_probabilities[i].item())
    return [Answer(i, pieces[i], logits[i].item(), log_probabilities[i].exp().item()) for i in ids[:top]]
