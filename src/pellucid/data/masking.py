"""Hiding tokens for a model to restore: one by one (Devlin et al. 2019, §3.1), or in spans (Raffel et al. 2020)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from pellucid.data.batch import IGNORE


@dataclass(frozen=True)
class Masking:
    """Chooses ``rate`` of the ordinary tokens: of these 80 % become ``mask``, 10 % a random token, 10 % stay.

    The labels are the chosen tokens, ``IGNORE`` elsewhere. Special tokens are neither chosen nor put in.
    """

    rate: float
    mask: int
    vocab_size: int
    special_ids: Collection[int]

    @cached_property
    def _is_ordinary(self) -> Bool[ndarray, "V"]:
        ordinary = np.ones(self.vocab_size, bool)
        ordinary[list(self.special_ids)] = False
        return ordinary

    @cached_property
    def _ordinary_ids(self) -> Int[ndarray, "ordinary"]:
        return np.flatnonzero(self._is_ordinary)

    def hide(
        self, tokens: Int[ndarray, "B T"], keep: Bool[ndarray, "B T"], random: np.random.Generator
    ) -> tuple[Int[ndarray, "B T"], Int[ndarray, "B T"]]:
        """Tokens with some hidden, and the labels; at least one is chosen wherever any can be."""
        eligible = self._is_ordinary[tokens] & keep
        draw = np.where(eligible, random.random(tokens.shape), np.inf)
        chosen = draw < max(self.rate, np.nextafter(draw.min(), 1))
        labels = np.where(chosen, tokens, IGNORE)
        fate = random.random(tokens.shape)
        random_ids = random.choice(self._ordinary_ids, tokens.shape)
        hidden = np.where(fate < 0.8, self.mask, np.where(fate < 0.9, random_ids, tokens))
        return np.where(chosen, hidden, tokens), labels


@dataclass(frozen=True)
class Spans:
    """Takes ``rate`` of the tokens out, in spans of ``mean`` tokens on average, neither at the very beginning nor side
    by side (Raffel et al. 2020, §3.1.4 and figure 2). Each is named by the next of ``sentinels``.
    """

    rate: float
    mean: float
    sentinels: Sequence[int]

    def hide(
        self, tokens: Int[ndarray, "T"], random: np.random.Generator
    ) -> tuple[Int[ndarray, "S"], Int[ndarray, "U"]]:
        """What is left, a sentinel in place of each span; and each sentinel with the tokens that it stands for."""
        hidden = min(max(1, round(len(tokens) * self.rate)), len(tokens) - 1)
        number = min(max(1, round(hidden / self.mean)), hidden, len(tokens) - hidden, len(self.sentinels))
        if number < 1:
            return tokens, tokens[:0]  # of one token nothing can be taken
        gone, kept = _parted(hidden, number, random), _parted(len(tokens) - hidden, number, random)
        source, target, at = [], [], 0
        for sentinel, before, span in zip(self.sentinels[:number], kept, gone, strict=True):
            source += [*tokens[at : at + before], sentinel]
            target += [sentinel, *tokens[at + before : at + before + span]]
            at += before + span
        return np.array(source, tokens.dtype), np.array(target, tokens.dtype)


def _parted(total: int, number: int, random: np.random.Generator) -> Int[ndarray, "number"]:
    """A number as a sum of so many others of at least 1, each such sum as likely as any."""
    ends = np.sort(random.choice(total - 1, number - 1, replace=False)) + 1
    return np.diff(np.concatenate([[0], ends, [total]]))
