"""Which word was translated by which: word alignment, read from the weights of cross-attention.

A link is a pair (source word, target word), counted from 0. A row of weights belongs to the target token that is fed in
there. That token's own translation is found by this row, at least as well as by the row before, which writes it (Chen
et al. 2020, "Accurate Word Alignment Induction from Neural Machine Translation", shift-att); for the latter, shift the
weights first. Which layer and head align best differs from model to model: the error rate tells.

Shapes: T target tokens or words, S source tokens or words.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import UserError

Link = tuple[int, int]

NO_WORD = -1
"""The word of a token that is part of none, such as the end of a text."""


def word_numbers(
    pieces: Sequence[str], *, continuation: str | None = None, no_words: Collection[int] = ()
) -> list[int]:
    """The number of the word that each piece is part of, from 0.

    Args:
        pieces: tokens as people read them, from ``tokenizer.pieces``.
        continuation: the mark of a piece that goes on with a word, such as ``##`` in BERT. Without one, a word begins
            at the first piece and at each that begins with a space.
        no_words: positions of special tokens, which are part of no word.
    """
    numbers, word, inside = [], -1, False
    for i, piece in enumerate(pieces):
        if i in no_words:
            numbers.append(NO_WORD)
            inside = False
            continue
        goes_on = piece.startswith(continuation) if continuation else not piece[:1].isspace()
        if not (inside and goes_on):
            word += 1
        inside = True
        numbers.append(word)
    return numbers


def merged_words(
    weights: Float[Tensor, "T S"], target_words: Sequence[int], source_words: Sequence[int]
) -> Float[Tensor, "T2 S2"]:
    """Weights between words from weights between pieces (Clark et al. 2019, §4.1).

    What is paid to a word is the sum over its pieces, what a word pays the mean over its own, so that rows still add up
    to what they did, less what goes to tokens that are part of no word.

    Args:
        target_words, source_words: of each token, from :func:`word_numbers`.

    Raises:
        UserError: for as many words as there are not tokens.
    """
    targets = _membership(target_words, weights.size(0), "target_words").to(weights)
    sources = _membership(source_words, weights.size(1), "source_words").to(weights)
    return targets @ weights @ sources.mT / targets.sum(1, keepdim=True).clamp(min=1)


def align(weights: Float[Tensor, "T S"], reverse: Float[Tensor, "S T"] | None = None) -> frozenset[Link]:
    """Links each target word to the source word that it looks at most; one that looks nowhere has no link.

    Args:
        reverse: of a model that translates the other way, or ``weights.mT`` for lack of one. Only links that both
            directions find are given: fewer, and more often right (Och & Ney 2003, intersection).

    Raises:
        UserError: for weights of other shapes.
    """
    if weights.dim() != 2 or (reverse is not None and reverse.shape != weights.mT.shape):
        shapes = " and ".join(str(tuple(w.shape)) for w in (weights, reverse) if w is not None)
        raise UserError(
            "weights", f"shape {shapes}", "(T, S), and (S, T) the other way", "take one head or a mean of some"
        )
    links = {(source, target) for target, source in _most(weights)}
    return frozenset(links if reverse is None else links & set(_most(reverse)))


def alignment_error_rate(
    found: Sequence[AbstractSet[Link]],
    sure: Sequence[AbstractSet[Link]],
    possible: Sequence[AbstractSet[Link]] | None = None,
) -> float:
    """1 - (|A ∩ S| + |A ∩ P|) / (|A| + |S|) over all sentences: 0 is perfect (Och & Ney 2003).

    Args:
        found: A, the links to be judged, by sentence.
        sure: S, links that must be found.
        possible: P, links that may be found; the sure ones are among them in any case.

    Raises:
        UserError: for lists of different lengths, or no links at all.
    """
    possible = sure if possible is None else possible
    if not len(found) == len(sure) == len(possible):
        raise UserError("alignment", f"{len(found)}, {len(sure)} and {len(possible)} sentences", "as many of each")
    size = sum(len(a) + len(s) for a, s in zip(found, sure, strict=True))
    if not size:
        raise UserError("alignment", "no links, neither found nor sure", "sentences with words that correspond")
    right = sum(len(a & s) + len(a & (s | p)) for a, s, p in zip(found, sure, possible, strict=True))
    return 1 - right / size


def _most(weights: Tensor) -> Iterable[tuple[int, int]]:
    """Each row that looks anywhere, and where it looks most."""
    largest, where = weights.max(-1)
    return [(row, int(where[row])) for row in range(len(weights)) if largest[row] > 0]


def _membership(words: Sequence[int], length: int, name: str) -> Float[Tensor, "W N"]:
    """1 where a token is part of a word."""
    if len(words) != length:
        raise UserError(name, f"{len(words)} numbers for {length} tokens", "one for each token")
    return (torch.tensor(words)[None] == torch.arange(max(words, default=-1) + 1)[:, None]).float()
