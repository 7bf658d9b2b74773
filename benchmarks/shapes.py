"""What ``train.py`` trains: three sizes of GPT on made-up tokens, and an encoder-decoder on real pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pellucid.config import model as config
from pellucid.config.model import Tokens, stacks, with_vocab_size
from pellucid.config.parts import Attention, FeedForward, LayerNorm, Learned, Stack
from pellucid.config.run import ByteBPE, Causal, NamedData, Objective, SequenceToSequence
from pellucid.data.batch import Batch
from pellucid.data.batches import example_rows
from pellucid.data.buckets import TrainingBuckets
from pellucid.data.corpora import load_corpus
from pellucid.data.tokenizers import Tokenizer

BATCH_TOKENS = 4096  # of a batch of pairs, on the longer side


@dataclass(frozen=True)
class Work:
    """What every candidate of a shape is given: the model to build, and the batches to go through again and again."""

    model: config.Model
    objective: Objective
    batches: Sequence[Batch]
    pad: int = 0

    @property
    def longest(self) -> int:
        """The longest side of any batch."""
        sides = [side for batch in self.batches for side in (batch.tokens, batch.source) if side is not None]
        return max(side.size(1) for side in sides)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and its batches.

    Attributes:
        rows, length: of a random batch; without them the batches are real ones, and the vocabulary is theirs.
        warm, timed: steps of a turn.
        together: how many candidates memory holds at once.
    """

    model: config.Decoder | config.EncoderDecoder
    rows: int = 0
    length: int = 0
    warm: int
    timed: int
    together: int = 99


def gpt(layers: int, width: int, heads: int, vocab: int, length: int) -> config.Decoder:
    stack = Stack(
        d_model=width,
        num_layers=layers,
        attention=Attention(num_heads=heads, bias=False),
        feed_forward=FeedForward(d_ff=4 * width, activation="gelu", bias=False),
        positions=Learned(max_length=length),
        norm=LayerNorm(bias=False),
        placement="pre",
    )
    return config.Decoder(front=Tokens(vocab_size=vocab), stack=stack)


def classic(layers: int, width: int, heads: int, d_ff: int, dropout: float) -> config.EncoderDecoder:
    attention, feed_forward = Attention(num_heads=heads), FeedForward(d_ff=d_ff)
    stack = Stack(d_model=width, num_layers=layers, attention=attention, feed_forward=feed_forward, dropout=dropout)
    front = Tokens(scaled=True, dropout=dropout)
    return config.EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack)


SHAPES: Mapping[str, Shape] = {
    "4x128": Shape(model=gpt(4, 128, 4, 65, 64), rows=12, length=64, warm=2, timed=20),
    "6x384": Shape(model=gpt(6, 384, 6, 65, 256), rows=16, length=256, warm=1, timed=4, together=6),
    "12x768": Shape(model=gpt(12, 768, 12, 50_304, 512), rows=4, length=512, warm=1, timed=2, together=3),
    "multi30k": Shape(model=classic(4, 128, 4, 256, 0.3), warm=2, timed=24, together=5),
}


def work_of(shape: Shape, mirror: str | None) -> Work:
    """The batches of one turn, the same in every turn and for every candidate."""
    count = shape.warm + shape.timed
    if isinstance(shape.model, config.Decoder):
        vocab, size = shape.model.front.vocab_size, (shape.rows, 1)
        torch.manual_seed(0)
        batches = []
        for _ in range(count):  # each row counts in steps of its own: something to learn, of any vocabulary
            start, step = torch.randint(vocab, size), torch.randint(1, 8, size)
            row = (start + step * torch.arange(shape.length + 1)) % vocab
            batches.append(Batch(row[:, :-1].contiguous(), row[:, 1:].contiguous()))
        return Work(shape.model, Causal(length=shape.length), batches)
    corpus = load_corpus(NamedData(name="multi30k", mirror=mirror))
    tokenizer = Tokenizer.train(ByteBPE(vocab_size=10_000), corpus.training_texts())
    objective = SequenceToSequence(label_smoothing=0.1)
    found = TrainingBuckets(example_rows(corpus.train, tokenizer, objective), BATCH_TOKENS, seed=0)
    spread = [found[found.batches_per_epoch * i // count] for i in range(count)]
    return Work(with_vocab_size(shape.model, tokenizer.vocab_size), objective, spread, tokenizer.require("pad"))


def described(work: Work) -> str:
    """A shape in words."""
    stack, batch = stacks(work.model)[0], work.batches[0]
    model = f"{stack.num_layers} layers of {stack.d_model}, {stack.attention.num_heads} heads"
    if isinstance(work.model, config.Decoder):
        rows, length = batch.tokens.shape
        made = f"vocabulary {work.model.front.vocab_size:,}, {rows} × {length} made-up tokens a batch, no dropout"
        return f"Decoder, {model}, {made}."
    sizes = f"{stack.num_layers} + {model}, d_ff {stack.feed_forward.d_ff}, dropout {stack.dropout} on the residuals"
    real = f"{len(work.batches)} batches of Multi30k of up to {BATCH_TOKENS:,} tokens of the longer side"
    counted = "counted are target tokens without padding"
    return f"Encoder–decoder, {sizes}, vocabulary {work.model.target.vocab_size:,}, label smoothing, {real}; {counted}."


def flops_per_token(model: config.Model, length: int) -> int:
    """6N + 12LDT, N being the matrices that are multiplied by, the head's too (Chowdhery et al. 2022, appendix B)."""
    assert isinstance(model, config.Decoder)
    width, layers = model.stack.d_model, model.stack.num_layers
    matrices = layers * (4 * width**2 + 2 * width * model.stack.feed_forward.d_ff) + model.front.vocab_size * width
    return 6 * matrices + 12 * layers * width * length
