"""Writing token by token: ``prefill`` reads the prompt, ``step`` adds a token, ``stream`` loops over them.

Shapes: B rows, P prompt positions, S source positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.config.model import stacks
from pellucid.inference.rules import Written
from pellucid.inference.sampling import GREEDY, Sampling
from pellucid.models.decoder import Decoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.tower import Encoded
from pellucid.nn.cache import KVCache
from pellucid.nn.positions import check_length

WritingModel = Decoder | EncoderDecoder


@dataclass(frozen=True)
class Prompt:
    """What to go on from.

    Attributes:
        tokens: the beginning of what is written; for an encoder–decoder usually the begin-of-sequence token alone.
        keep: True where a token is real; prompts of unequal length are padded on either side.
        source: what an encoder–decoder reads: tokens (B, S), or what another front takes.
        source_keep: True where a source token is real.
    """

    tokens: Int[Tensor, "B P"]
    keep: Bool[Tensor, "B P"] | None = None
    source: Tensor | None = None
    source_keep: Bool[Tensor, "B S"] | None = None


@dataclass
class State:
    """A text in the making: what the model remembers of it and how many steps were taken."""

    model: WritingModel
    cache: KVCache
    encoded: Encoded | None
    steps: int = 0

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Goes on with these rows, in this order."""
        self.cache.select(rows)
        self.encoded = None if self.encoded is None else self.encoded.select(rows)

    def scores(self, tokens: Int[Tensor, "B T"], keep: Tensor | None = None) -> Float[Tensor, "B T V"]:
        """Feeds tokens; returns the scores of what follows each."""
        self.model.mark_step(self.steps)
        self.steps += 1
        if isinstance(self.model, EncoderDecoder):
            assert self.encoded is not None  # prefill has read the source
            return self.model.decode(tokens, self.encoded, keep=keep, cache=self.cache)
        return self.model(tokens, keep=keep, cache=self.cache)


def prefill(model: WritingModel, prompt: Prompt, max_new_tokens: int) -> tuple[Float[Tensor, "B V"], State]:
    """Reads the prompt (and the source); returns the scores of the first new token and where to go on from."""
    batch, length = prompt.tokens.shape
    capacity = length + max_new_tokens
    if isinstance(model, EncoderDecoder):
        if prompt.source is None:
            raise ValueError("an encoder–decoder needs a source to write from")
        encoded = model.encode(prompt.source, keep=prompt.source_keep)
        state = State(model, model.new_cache(encoded, capacity), encoded)
    else:
        state = State(model, model.new_cache(batch, capacity), None)
    scores = state.scores(prompt.tokens, prompt.keep)
    if prompt.keep is None:
        return scores[:, -1], state
    last = (prompt.keep * torch.arange(1, length + 1, device=scores.device)).argmax(dim=1)
    return scores[torch.arange(batch, device=scores.device), last], state


def room(model: WritingModel, prompt: Prompt, wanted: int) -> int:
    """How many new tokens there are positions for, at most ``wanted``; the last one is never fed back.

    Raises:
        UserError: for a prompt beyond the positions the model has learned.
    """
    limit = stacks(model.config)[-1].max_length
    length = prompt.tokens.size(1)
    check_length(length, limit, "prompt")
    return wanted if limit is None else min(wanted, limit - length + 1)


def step(state: State, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """Adds one token to each row; returns the scores of the next."""
    return state.scores(tokens[:, None])[:, 0]


def stream(
    model: WritingModel,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
) -> Iterator[list[int | None]]:
    """Yields one token per row at a time, ``None`` for a row that has ended; stops when all have.

    A token of ``ends``, which ends its row, is yielded too. Runs without gradients, in evaluation mode.
    """
    max_new_tokens = room(model, prompt, max_new_tokens)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits, state = prefill(model, prompt, max_new_tokens)
            choose = sampling.chooser(logits.device)
            choose.follow(model, "sampling")
            ended = torch.zeros(logits.size(0), dtype=torch.bool, device=logits.device)
            last = torch.tensor(tuple(ends), dtype=torch.long, device=logits.device)
            written = Written.after(prompt.tokens, prompt.keep)
            for count in range(max_new_tokens):
                tokens = choose(logits, written)
                written = written.add(tokens)
                over = ended.tolist()
                yield [None if done else token for token, done in zip(tokens.tolist(), over, strict=True)]
                ended = ended | torch.isin(tokens, last)
                if bool(ended.all()) or count + 1 == max_new_tokens:
                    return
                logits = step(state, tokens)
    finally:
        model.mark_step(None)
        model.train(was_training)


def generate(
    model: WritingModel,
    prompt: Prompt,
    *,
    max_new_tokens: int,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
) -> list[list[int]]:
    """The new tokens of each row, without the one that ends it."""
    rows: list[list[int]] = [[] for _ in range(prompt.tokens.size(0))]
    for tokens in stream(model, prompt, max_new_tokens=max_new_tokens, ends=ends, sampling=sampling):
        for row, token in zip(rows, tokens, strict=True):
            if token is not None and token not in ends:
                row.append(token)
    return rows
