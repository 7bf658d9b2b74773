"""What the models of the lab are asked: made-up rows, without end. Shapes: B batch, T positions."""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.lab.fitting import UNASKED, Rows


def copied(rows: int, length: int, vocab: int) -> Rows:
    """Random tokens from 1 on, a 0, and the same once more, which is asked for: each stood ``length`` + 1 before.

    T is 2 · length. After Graves et al. 2014, §4.1.
    """
    word = 1 + torch.randint(vocab - 1, (rows, length))
    row = torch.cat([word, torch.zeros(rows, 1, dtype=torch.long), word], dim=1)
    return Rows(row[:, :-1], _asked_from(row, length))


def turned_round(rows: int, length: int, vocab: int) -> Rows:
    """Random tokens from 1 on, a 0, and the same backwards, which is asked for (Kreutzer et al. 2019).

    T is 2 · length.
    """
    word = 1 + torch.randint(vocab - 1, (rows, length))
    row = torch.cat([word, torch.zeros(rows, 1, dtype=torch.long), word.flip(1)], dim=1)
    return Rows(row[:, :-1], _asked_from(row, length))


def repeats(rows: int, length: int, vocab: int) -> Rows:
    """Random tokens, and the same once more: the second time each can be known from the first (Olsson et al. 2022).

    T is 2 · length - 1; asked for is the next token everywhere.
    """
    once = torch.randint(vocab, (rows, length))
    twice = torch.cat([once, once], dim=1)
    return Rows(twice[:, :-1], twice[:, 1:])


def from_places(rows: int, length: int, vocab: int, *, back: tuple[int, ...]) -> Rows:
    """Random tokens; asked for are those of several places back at once, as the digits of one number.

    T is ``length``; the labels are numbers below ``vocab`` to the number of places.
    """
    row = torch.randint(vocab, (rows, length))
    labels = torch.zeros_like(row)
    for places in back:
        labels = labels * vocab + row.roll(places, dims=1)
    labels[:, : max(back)] = UNASKED
    return Rows(row, labels)


def _asked_from(row: Tensor, start: int) -> Tensor:
    """The next token, where it is asked for."""
    labels = row[:, 1:].clone()
    labels[:, :start] = UNASKED
    return labels
