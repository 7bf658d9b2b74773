"""What no candidate of ``train.py`` can be faster than: large products, and the products of its own step.

Of a training step only the matrix products are computed, in bfloat16 and on ready inputs: no softmax, norm, activation,
dropout, loss, embedding or update, and no token of padding. What a framework adds to that it can save; this it cannot.

A second yardstick adds every other operation once, as the one kernel that PyTorch has for it and on ready inputs too:
dropout draws no random numbers, and nothing is cast, copied, transposed or recorded. A step that is made of separate
kernels has all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import torch
from shapes import Work
from torch import Tensor

from pellucid.analysis.parameters import parameter_count
from pellucid.config import model as config
from pellucid.config.parts import Stack
from pellucid.data.batch import Batch

PEAK, PRODUCTS = "peak", "the step's matrix products alone"
KERNELS = "those, and every other operation as one kernel"
PEAK_SIZE, PEAK_PRODUCTS = 2048, 8
EVERY = 3  # of the batches, since all that a step computes with lies ready in memory


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
            for batch in work.batches[::EVERY]]  # fmt: skip

    def steps() -> Iterator[float]:
        for pairs in cycle(made):
            for a, b in pairs:
                gradient = a @ b
                gradient @ b.mT  # of a
                a.mT @ gradient  # of b
            yield 0.0

    return Yardstick(steps(), [batch.num_labels for batch in work.batches[::EVERY]])


def kernels_alone(work: Work) -> Yardstick:
    """The matrix products of a step and every other operation, each as one kernel; labels are counted as work."""
    alone, update = products_alone(work), _update(work)
    scores = torch.randn(2, max(batch.tokens.numel() for batch in work.batches), _vocabulary(work.model)).bfloat16()
    others = [[*_others(work, batch, scores), update] for batch in work.batches[::EVERY]]

    def steps() -> Iterator[float]:
        for _, kernels in zip(alone.steps, cycle(others), strict=False):
            for kernel in kernels:
                kernel()
            yield 0.0

    return Yardstick(steps(), alone.amounts)


def _vocabulary(model: config.Model) -> int:
    if isinstance(model, config.Decoder):
        return model.front.vocab_size
    assert isinstance(model, config.EncoderDecoder)
    return model.target.vocab_size


def _others(work: Work, batch: Batch, scores: Tensor) -> Iterator[Callable[[], object]]:
    """All operations forwards and backwards that are no products.

    ``scores`` is room for the logits and their softmax, which all batches share: each could be hundreds of megabytes.
    """
    model, rows, vocab = work.model, batch.tokens.size(0), _vocabulary(work.model)
    # Causal attention has half the keys.
    if isinstance(model, config.Decoder):
        own, sides = model.stack, [batch.tokens.numel()]
        yield from _layer(own, rows, sides[0], (sides[0] // rows // 2,))
    else:
        assert isinstance(model, config.EncoderDecoder)
        assert batch.source is not None
        own, sides = model.decoder, [int((side != work.pad).sum()) for side in (batch.source, batch.tokens)]
        source, target = sides
        yield from _layer(model.encoder, rows, source, (source // rows,))
        yield from _layer(own, rows, target, (target // rows // 2, source // rows))
    for tokens in sides:
        ids, gradient = torch.randint(vocab, (tokens,)), torch.randn(tokens, own.d_model)
        yield partial(torch.nn.functional.embedding, ids, torch.randn(vocab, own.d_model))
        yield partial(torch.ops.aten.embedding_dense_backward, gradient, ids, vocab, -1, False)
    logits, shares = scores[:, : sides[-1]]
    yield partial(torch.softmax, logits, -1, out=shares)  # of which the gradient is made in place


def _layer(stack: Stack, rows: int, tokens: int, keys: tuple[int, ...]) -> Iterator[Callable[[], object]]:
    for _ in range(stack.num_layers):
        for number in keys:  # one attention each
            yield from _softmax(rows * stack.attention.num_heads, tokens // rows, number)
            yield from _residual(tokens, stack.d_model, dropped=stack.dropout > 0)
        hidden, gradient = (torch.randn(tokens, stack.feed_forward.d_ff, dtype=torch.bfloat16) for _ in range(2))
        if stack.feed_forward.activation == "gelu":
            yield partial(torch.ops.aten.gelu.out, hidden, out=torch.empty_like(hidden))
            yield partial(torch.ops.aten.gelu_backward, gradient, hidden)
        else:
            yield hidden.relu_
            yield partial(torch.ops.aten.threshold_backward, gradient, hidden, 0)
        yield from _residual(tokens, stack.d_model, dropped=stack.dropout > 0)


def _softmax(number: int, queries: int, keys: int) -> Iterator[Callable[[], object]]:
    scores = torch.randn(number, queries, keys, dtype=torch.bfloat16)
    weights = scores.softmax(-1)
    yield partial(torch.softmax, scores, -1, out=torch.empty_like(scores))
    yield partial(torch.ops.aten._softmax_backward_data, scores, weights, -1, torch.bfloat16)


def _residual(tokens: int, width: int, *, dropped: bool) -> Iterator[Callable[[], object]]:
    """Dropout, the sum and its norm, in float32 as autocast has them."""
    x, y, keep = torch.randn(tokens, width), torch.randn(tokens, width), torch.ones(tokens, width)
    weight, bias, out = torch.ones(width), torch.zeros(width), torch.empty(tokens, width)
    _, mean, scale = torch.native_layer_norm(x, [width], weight, bias, 1e-5)
    every = [True, True, True]
    yield partial(torch.addcmul, x, y, keep, out=out) if dropped else partial(torch.add, x, y, out=out)
    yield partial(torch.native_layer_norm, x, [width], weight, bias, 1e-5)
    yield partial(torch.ops.aten.native_layer_norm_backward, y, x, [width], mean, scale, weight, bias, every)
    if dropped:
        yield partial(torch.mul, y, keep, out=out)


def _update(work: Work) -> Callable[[], object]:
    """Fused AdamW over all parameters as one."""
    parameter = torch.nn.Parameter(torch.randn(parameter_count(work.model)))
    parameter.grad = torch.randn_like(parameter)
    return torch.optim.AdamW([parameter], fused=True).step


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
