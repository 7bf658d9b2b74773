"""What a forward pass keeps for the backward pass, and the most that the loss takes on its way.

Letters: n positions that are asked, D d_model, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from pellucid.analysis.parameters import parts_of
from pellucid.analysis.tower import FULL, Means, norm_keeps, towers_of
from pellucid.analysis.work import Work
from pellucid.config import model as config
from pellucid.config.model import stacks

ROWS, CELLS = 512, 1 << 22
"""Of a chunk of the loss, in training.cross_entropy, which imports torch; a test holds them together."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Bytes kept for the backward pass.

    Attributes:
        cast: copies of weights in the precision of the products, which autocast keeps to the end of a step.
        joined: copies of weights that are joined for a common product.
        shared: embeddings, and what all blocks of a tower share.
        blocks: of all blocks.
        largest_block: of one, everything that it keeps while it is worked on.
        last_norms: after the last block.
        head: the head and the loss.
    """

    cast: int
    joined: int
    shared: int
    blocks: int
    largest_block: int
    last_norms: int
    head: int

    @property
    def total(self) -> int:
        return self.cast + self.joined + self.shared + self.blocks + self.last_norms + self.head


def kept_by(model: config.Model, work: Work, means: Means) -> Kept:
    """What one forward pass over a batch keeps."""
    towers, (cast, joined) = towers_of(model, work, means), _weights(model, means)
    return Kept(
        cast=cast,
        joined=joined,
        shared=sum(tower.shared() for tower in towers),
        blocks=sum(t.stack.num_layers * (t.input if means.checkpointing else t.block()) for t in towers),
        largest_block=max(tower.block() for tower in towers),
        last_norms=sum(tower.final_norm() for tower in towers),
        head=_head(model, work, means),
    )


# ---- heads -------------------------------------------------------------------------------------


def _head(model: config.Model, work: Work, means: Means) -> int:
    match model:
        case config.Encoder(head=config.Classification() as head):
            return _classifier(head, work, model.stack.d_model, means)
        case config.Encoder(head=config.Embedding() | config.TokenClassification()):
            return 0  # nothing here trains them
        case _:
            return work.rows * work.tokens + _vocabulary(model, work, means)  # a byte a position: asked or not


def _vocabulary(model: config.Model, work: Work, means: Means) -> int:
    """Gradients, which the chunked loss takes at once; with a softcap the logits instead."""
    asked, width, vocab = work.rows * work.labels, stacks(model)[-1].d_model, vocabulary(model)
    match model.head:
        case config.MaskedLanguage(bias=bias):
            dense = 2 * asked * width * means.product + norm_keeps(stacks(model)[-1].norm, asked, width, means)
            return dense + asked * width * means.product + vocab * (width + bias) * FULL
        case config.Language(softcap=None, bias=bias):
            return (asked * width + vocab * (width + bias)) * FULL
        case _:
            return asked * (width * means.product + vocab * (means.product + FULL))


def _classifier(head: config.Classification, work: Work, width: int, means: Means) -> int:
    """A view of the first state, or its maximum, keeps all states; the rest is small."""
    product = means.product
    viewed = head.pooling == "first" and not means.casts and (head.projected or not head.dropout)
    states = work.tokens * width * FULL if viewed or head.pooling == "max" else 0
    vectors = head.projected + (head.projected or head.dropout > 0 or means.casts)
    vectors += head.projected and head.dropout > 0
    dropped = width * means.mask if head.dropout else 0
    return work.rows * (states + vectors * width * product + dropped + len(head.labels) * FULL)


def vocabulary(model: config.Model) -> int:
    """V of what is predicted; 0 where that is no token."""
    match model:
        case config.Encoder(front=config.Tokens(vocab_size=size), head=config.MaskedLanguage()):
            return size
        case config.Decoder(front=front):
            return front.vocab_size
        case config.EncoderDecoder(target=target):
            return target.vocab_size
        case _:
            return 0


def loss_working(model: config.Model, work: Work, means: Means) -> int:
    """The most that the loss holds besides what it keeps: states, casts, and one or two chunks of logits."""
    vocab, product = vocabulary(model), means.product
    if not vocab:
        return 0
    asked, width = work.rows * work.labels, stacks(model)[-1].d_model
    states = (work.rows * work.tokens + asked) * width * FULL
    if getattr(model.head, "softcap", None) is not None:
        return states + asked * vocab * 2 * FULL
    casts = (asked + vocab) * width * product if means.casts else 0
    rows = max(ROWS, CELLS // vocab)
    chunk, following = min(asked, rows), min(max(asked - rows, 0), rows)
    two = (chunk + following) * vocab * product  # the next is made before the last is let go
    summed = chunk * vocab * FULL if getattr(model.head, "bias", False) and means.casts else 0
    added = vocab * width * (product + (FULL if means.on_cpu and means.casts else 0))  # a CPU casts before it adds
    one = chunk * vocab * product + max(3 * chunk * width * FULL, added, summed)
    return states + casts + max(one, two)


# ---- weights -----------------------------------------------------------------------------------


def _weights(model: config.Model, means: Means) -> tuple[int, int]:
    """Copies of weights: those that autocast casts and keeps, and those that are joined for a common product."""
    chunked = vocabulary(model) > 0 and getattr(model.head, "softcap", None) is None
    cast = joined = 0
    for part in parts_of(model):
        if _joined(part.name, model):
            if not means.checkpointing or ".cross_attention." in part.name:  # else they live as long as their block
                joined += part.matrix * means.product
        elif means.casts and not (part.name == "head.project" and chunked):
            cast += part.matrix * means.product
    return cast, joined


def _joined(name: str, model: config.Model) -> bool:
    stack = stacks(model)[0 if name.startswith("encoder.") else -1]
    if ".feed_forward." in name:
        return stack.feed_forward.gated and not name.endswith(".down")
    attention = stack.attention
    return attention.key_bias in (None, attention.bias) and name.endswith((".key", ".value", "self_attention.query"))
