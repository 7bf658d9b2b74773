"""Hiding tokens for a model to restore (Devlin et al. 2019, §3.1)."""

from __future__ import annotations

from collections.abc import Collection
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
