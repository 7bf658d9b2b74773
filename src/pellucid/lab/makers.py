"""The models of the lab: small decoders, and the recurrent networks that they replaced."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.inference.decode import Prompt, generate
from pellucid.lab.fitting import size_of
from pellucid.models.build import build
from pellucid.models.decoder import Decoder
from pellucid.models.encoder_decoder import EncoderDecoder

Cell = Literal["LSTM", "GRU"]


def decoder(
    vocab: int,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    init: config.Init | None = None,
    tie: tuple[config.Tied, ...] = ("target", "output"),
    **changes: Any,
) -> Decoder:
    """A decoder with norms before the sub-layers; ``changes`` are of its :class:`~pellucid.config.parts.Stack`."""
    stack = parts.Stack(
        d_model=width,
        num_layers=layers,
        attention=parts.Attention(num_heads=heads),
        feed_forward=parts.FeedForward(d_ff=4 * width, activation="gelu"),
        positions=parts.Sinusoidal(),
        placement="pre",
    )
    whole = config.Decoder(front=config.Tokens(vocab_size=vocab), stack=replace(stack, **changes), tie=tie)
    made = build(whole if init is None else replace(whole, init=init))
    assert isinstance(made, Decoder)
    return made


class Recurrent(nn.Module):
    """A recurrent network that predicts at every position; optionally it looks back at its own states.

    The attention is that of Luong et al. 2015, §3.1 ("general"), over the past states of the network itself, as there
    is no source: softmax(hᵀ W h') over all h' up to now, and a layer over both.

    Args:
        looks_back: whether it has that attention.
    """

    def __init__(self, vocab: int, width: int, cell: Cell, *, layers: int = 1, looks_back: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(vocab, width)
        self.cells = getattr(nn, cell)(width, width, num_layers=layers, batch_first=True)
        self.compare = nn.Linear(width, width, bias=False) if looks_back else None
        self.combine = nn.Linear(2 * width, width) if looks_back else None
        self.project = nn.Linear(width, vocab)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        states, _ = self.cells(self.table(tokens))
        if self.compare is not None and self.combine is not None:
            scores = self.compare(states) @ states.mT
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            found = scores.masked_fill(hidden, -math.inf).softmax(-1) @ states
            states = torch.tanh(self.combine(torch.cat([states, found], dim=-1)))
        return self.project(states)


def recurrent_of_size(parameters: int, vocab: int, cell: Cell, **how: Any) -> Recurrent:
    """The recurrent network whose number of parameters is the nearest from above."""
    low, high = 1, 8192
    while low < high:
        middle = (low + high) // 2
        with torch.device("meta"):
            size = size_of(Recurrent(vocab, middle, cell, **how))
        low, high = (low, middle) if size >= parameters else (middle + 1, high)
    return Recurrent(vocab, low, cell, **how)


class Pairs(NamedTuple):
    """What is read, what of it is no padding, and what has been written so far."""

    source: Int[Tensor, "B S"]
    keep: Bool[Tensor, "B S"]
    tokens: Int[Tensor, "B T"]


class Translator(nn.Module):
    """A small encoder–decoder with one vocabulary, norms before the sub-layers."""

    def __init__(self, vocab: int, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        stack = parts.Stack(
            d_model=width,
            num_layers=layers,
            attention=parts.Attention(num_heads=heads),
            feed_forward=parts.FeedForward(d_ff=4 * width),
            positions=parts.Sinusoidal(),
            placement="pre",
        )
        front = config.Tokens(vocab_size=vocab, scaled=True)
        made = build(config.EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack))
        assert isinstance(made, EncoderDecoder)
        self.model = made

    def forward(self, pairs: Pairs) -> Float[Tensor, "B T V"]:
        return self.model(pairs.source, pairs.tokens, source_keep=pairs.keep)

    def write(self, pairs: Pairs, start: int, end: int, longest: int) -> list[list[int]]:
        """What it writes about each source, greedily."""
        prompt = Prompt(torch.full((len(pairs.source), 1), start), source=pairs.source, source_keep=pairs.keep)
        return generate(self.model, prompt, max_new_tokens=longest, ends=(end,))
