"""What no candidate of ``train.py`` can be faster than: large products, and the products of its own step.

Of a training step only the matrix products are computed, in bfloat16 and on ready inputs: no softmax, norm, activation,
dropout, loss, embedding or update, and no token of padding. What a framework adds to that it can save; this it cannot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import torch
from shapes import Work
from torch import Tensor

from pellucid.config import model as config
from pellucid.config.parts import Stack
from pellucid.data.batch import Batch

PEAK, PRODUCTS = "peak", "the step's matrix products alone"
PEAK_SIZE, PEAK_PRODUCTS = 2048, 8


@dataclass(frozen=True)
class Yardstick:
    """Each of the steps does an amount of work, in turn."""

    steps: Iterator[float]
    amounts: list[int]


def peak() -> Yardstick:
    """The machine's best: large bfloat16 products; floating-point operations are counted as work."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, dtype=torch.bfloat16) for _ in range(2))

    def steps() -> Iterator[float]:
        while True:
            for _ in range(PEAK_PRODUCTS):
                a @ b
            yield 0.0

    return Yardstick(steps(), [PEAK_PRODUCTS * 2 * PEAK_SIZE**3])


def products_alone(work: Work) -> Yardstick:
    """The matrix products of a step, forwards and backwards; labels are counted as work."""
    made = [[(_random(n, rows, inner), _random(n, inner, columns)) for n, rows, inner, columns in products(work, batch)]
            for batch in work.batches]  # fmt: skip

    def steps() -> Iterator[float]:
        for pairs in cycle(made):
            for a, b in pairs:
                gradient = a @ b
                gradient @ b.mT  # of a
                a.mT @ gradient  # of b
            yield 0.0

    return Yardstick(steps(), [batch.num_labels for batch in work.batches])


def products(work: Work, batch: Batch) -> Iterator[tuple[int, int, int, int]]:
    """Products of the forward pass: how many, and their rows, inner size and columns.

    Tokens are those that are not padding; queries, keys and values come of one product; causal attention has half the
    keys.
    """
    model, rows = work.model, batch.tokens.size(0)
    if isinstance(model, config.Decoder):
        tokens = batch.tokens.numel()
        yield from _layers(model.stack, rows, tokens, causal=True)
        yield 1, tokens, model.stack.d_model, model.front.vocab_size
        return
    assert isinstance(model, config.EncoderDecoder)
    assert batch.source is not None
    source, target = (int((side != work.pad).sum()) for side in (batch.source, batch.tokens))
    width = model.decoder.d_model
    yield from _layers(model.encoder, rows, source, causal=False)
    yield from _layers(model.decoder, rows, target, causal=True)
    for _ in range(model.decoder.num_layers):
        yield 1, target, width, width
        yield 1, source, width, 2 * width
        yield from _attention(model.decoder, rows, target // rows, source // rows)
        yield 1, target, width, width
    yield 1, target, width, model.target.vocab_size


def _layers(stack: Stack, rows: int, tokens: int, *, causal: bool) -> Iterator[tuple[int, int, int, int]]:
    width, hidden, length = stack.d_model, stack.feed_forward.d_ff, tokens // rows
    for _ in range(stack.num_layers):
        yield 1, tokens, width, 3 * width
        yield from _attention(stack, rows, length, length // 2 if causal else length)
        yield 1, tokens, width, width
        yield 1, tokens, width, hidden
        yield 1, tokens, hidden, width


def _attention(stack: Stack, rows: int, queries: int, keys: int) -> Iterator[tuple[int, int, int, int]]:
    heads, size = stack.attention.num_heads, stack.d_model // stack.attention.num_heads
    yield rows * heads, queries, size, keys
    yield rows * heads, queries, keys, size


def _random(number: int, rows: int, columns: int) -> Tensor:
    """One matrix, or a batch of them."""
    matrix = torch.randn(number, rows, columns, dtype=torch.bfloat16)
    return matrix[0] if number == 1 else matrix
