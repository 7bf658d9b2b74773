"""How likely a model finds a text that it is given, token by token.

Shapes: B texts, S and T positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.errors import UserError
from pellucid.inference.batches import in_batches, padded
from pellucid.inference.likelihood import AT_ONCE, Likelihood, likelihoods
from pellucid.inference.writer import WritingModel
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class Scored:
    """A text, how likely each of its tokens was, and all of them together.

    Attributes:
        tokens: of the text, of an encoder–decoder with the one that ends it.
        pieces: the same as people read them.
        likelihoods: of each token after all before it; ``None`` for one that nothing stands before.
    """

    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    likelihoods: tuple[Likelihood | None, ...]

    @property
    def logprob(self) -> float:
        """Of the whole text."""
        return sum(one.logprob for one in self.likelihoods if one is not None)


def score(loaded: Loaded, texts: Sequence[str], *, given: Sequence[str] | None = None, top: int = 0) -> list[Scored]:
    """Scores texts.

    Args:
        given: what each stands after: of an encoder–decoder its source, of a decoder a prompt, which may be left out.
        top: how many of the likeliest tokens are told at each place.

    Raises:
        UserError: for a model that does not write, sources that are missing, or other counts of them than texts.
    """
    if given is not None and len(given) != len(texts):
        raise UserError("score", f"{len(texts)} texts and {len(given)} given", "as many of each")
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = tokenizer.target.encode_batch(texts)
    before = tokenizer.encode_batch(given) if given is not None else [[] for _ in texts]
    if isinstance(model, EncoderDecoder):
        if given is None:
            raise UserError("score", "no sources", "the source of each text")
        writer = tokenizer.target
        start = [*writer.start, *writer.forced]
        rows = [
            (tokenizer.source(source), start, [*own, *writer.ends[:1]]) for source, own in zip(before, ids, strict=True)
        ]
    elif isinstance(model, Decoder):
        # An empty prompt would begin with the token that texts begin with: only what stands there by itself counts.
        own_start = list(tokenizer.conventions.before) if tokenizer.conventions else []
        rows = [([], [*own_start, *prompt], own) for prompt, own in zip(before, ids, strict=True)]
    else:
        raise UserError("score", f"a model of kind {type(model).__name__}", "a decoder or an encoder–decoder")
    return in_batches(rows, lambda part: _scored(loaded, part, top), length=lambda row: sum(map(len, row)))


def states_of(
    model: WritingModel,
    tokens: Int[Tensor, "B T"],
    source: Int[Tensor, "B S"] | None = None,
    *,
    keep: Bool[Tensor, "B T"] | None = None,
    source_keep: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B T D"]:
    """What the head of a model is given: the scores of a whole vocabulary at all places may be more than memory has."""
    if isinstance(model, EncoderDecoder):
        assert source is not None  # who asks has one
        return model.decoder.features_of(tokens, model.encode(source, keep=source_keep), keep=keep).states
    return model.features(tokens, keep=keep).states


def _scored(loaded: Loaded, rows: Sequence[tuple[list[int], list[int], list[int]]], top: int) -> list[Scored]:
    """Of rows of a source, what stands before a text, and the text."""
    model, tokenizer = loaded.model, loaded.tokenizer
    assert isinstance(model, Decoder | EncoderDecoder)  # score has checked it
    pad, writer = tokenizer.require("pad"), tokenizer.target
    fed = [[*start, *text] or [pad] for _, start, text in rows]
    tokens, keep = padded(fed, writer.require("pad"), model.device)
    if isinstance(model, EncoderDecoder):
        source, source_keep = padded([source for source, _, _ in rows], pad, model.device)
        states = states_of(model, tokens, source, source_keep=source_keep)  # padding is behind a text: nobody sees it
    else:
        states = states_of(model, tokens, keep=keep)
    found = []
    for row, (_, start, text) in enumerate(rows):
        first = max(len(start), 1)  # the place of the first token that something stands before
        places = range(first - 1, len(start) + len(text) - 1)
        asked = text[first - len(start) :]
        told: list[Likelihood] = []
        for at in range(0, len(places), AT_ONCE):
            logits = model.head.scores(states[row, list(places[at : at + AT_ONCE])])
            told += likelihoods(logits, asked[at : at + AT_ONCE], top)
        unasked = [None] * (len(text) - len(told))
        found.append(Scored(tuple(text), tuple(writer.pieces(text)), (*unasked, *told)))
    return found
