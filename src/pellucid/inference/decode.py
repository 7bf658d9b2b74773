"""Writing token by token: ``prefill`` reads the prompt, ``step`` adds a token, ``stream`` loops over them.

Shapes: B rows, P prompt positions, S source positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.config.model import stacks
from pellucid.inference.likelihood import Likelihood, likelihoods
from pellucid.inference.rules import Written, check
from pellucid.inference.sampling import GREEDY, Sampling
from pellucid.inference.writer import LEAVING, Writer
from pellucid.models.decoder import Decoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.models.tower import Encoded
from pellucid.nn.cache import KVCache
from pellucid.nn.positions import check_length

WritingModel = Decoder | EncoderDecoder
Reason = Literal["end", "stop", "length", "stuck"]
Stops = Callable[[Sequence[int]], bool]
"""Whether a text, its new tokens, is over with its last one."""
Lengths = int | Sequence[int]
"""How many tokens a text may have: all alike, or each row its own."""


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
        self.model.mark_rows(rows, self.cache.lengths.size(0))
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


@dataclass
class Begun:
    """The same, where a writer remembers in the model's place."""

    writer: Writer
    rows: Any

    def select(self, rows: Int[Tensor, " R"]) -> None:
        """Goes on with these rows, in this order."""
        self.rows.select(rows.tolist())

    def scores(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Feeds tokens; returns the scores of what follows each."""
        return self.writer.extend(tokens, self.rows)


def begin(writer: Writer, prompt: Prompt) -> tuple[Float[Tensor, "B V"], Begun]:
    """As :func:`prefill`, with a writer."""
    logits, rows = writer.prefill(_lists(prompt.tokens, prompt.keep), _sources(prompt))
    return logits, Begun(writer, rows)


def _lists(tokens: Int[Tensor, "B P"], keep: Bool[Tensor, "B P"] | None) -> list[list[int]]:
    return [
        (row if keep is None else row[real]).tolist() for row, real in zip(tokens, _each(keep, tokens), strict=True)
    ]


def _sources(prompt: Prompt) -> list[Any] | None:
    source = prompt.source
    if source is None or source.is_floating_point():  # of images and sound there is no padding
        return None if source is None else list(source)
    return _lists(source, prompt.source_keep)


def _each(keep: Tensor | None, tokens: Tensor) -> Iterable[Any]:
    return [None] * tokens.size(0) if keep is None else keep


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


def rooms(model: WritingModel, prompt: Prompt, wanted: Lengths) -> list[int]:
    """The same for each row; positions are counted as those of the longest prompt.

    Raises:
        UserError: as :func:`room`, and for fewer than none.
    """
    count = prompt.tokens.size(0)
    each = [wanted] * count if isinstance(wanted, int) else list(wanted)
    check(min(each, default=0) >= 0, "max_new_tokens", min(each, default=0), "0 or more")
    longest = room(model, prompt, max(each, default=0))
    return [min(own, longest) for own in each]


def step(state: State | Begun, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
    """Adds one token to each row; returns the scores of the next."""
    return state.scores(tokens[:, None])[:, 0]


@dataclass(frozen=True)
class Step:
    """One token of every row.

    Attributes:
        tokens: ``None`` for a row that has ended before.
        ended: why a row ends here; ``None`` for one that goes on or has ended before.
        logits: that they were chosen by, of the rows that are still in the batch.
        here: which rows those are.
    """

    tokens: list[int | None]
    ended: list[Reason | None]
    logits: Float[Tensor, "R V"]
    here: list[int]


@dataclass(frozen=True)
class Generation:
    """What was written.

    Attributes:
        tokens: without the one that ends it.
        reason: a token of ``ends``, a stop, the length, or rules that left no way on.
        likelihoods: where asked for, of each token, and last of the one that ends it.
        guessed: how many tokens were guessed ahead, and ``accepted``, how many of them were right.
    """

    tokens: tuple[int, ...]
    reason: Reason
    likelihoods: tuple[Likelihood, ...] = ()
    guessed: int = 0
    accepted: int = 0


@torch.inference_mode()  # a generator enters it when it goes on and leaves it when it yields: its caller is as before
def steps(
    model: WritingModel,
    prompt: Prompt,
    *,
    max_new_tokens: Lengths,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    stops: Sequence[Stops] | None = None,
    writer: Writer | None = None,
) -> Generator[Step, None, None]:
    """Writes a token per row at a time. Without gradients and in evaluation mode; both are as before between tokens.

    Args:
        stops: of each row, whether it ends with its last token, besides by ``ends``.
        writer: writes in the model's place, as an engine made of it does; rows that have ended leave its batch.
    """
    limits = rooms(model, prompt, max_new_tokens)
    longest = max(limits, default=0)
    was_training = model.training
    model.eval()
    try:
        logits, state = prefill(model, prompt, longest) if writer is None else begin(writer, prompt)
        choose = sampling.chooser(logits.device)
        choose.follow(model, "sampling")
        written = Written.after(prompt.tokens, prompt.keep)
        rows = [Row(tuple(ends), stops[row] if stops else None, limit, limit < 1) for row, limit in enumerate(limits)]
        here = list(range(len(rows)))
        # Draws of all rows come from one generator, in their order: there, rows stay where they are.
        leave = writer is not None and sampling.seed is None
        for _ in range(longest):
            tokens = choose(logits, written)
            written = written.add(tokens)
            stuck = [False] * len(here) if choose.stuck is None else choose.stuck.tolist()
            added = _added(rows, here, tokens.tolist(), stuck, logits)
            if was_training:  # whoever reads has the model as it was
                model.train()
            yield added
            if was_training := model.training:
                model.eval()
            stay = [place for place, row in enumerate(here) if not rows[row].is_over]
            if not stay:
                return
            if leave and len(stay) <= (1 - LEAVING) * len(here):
                places = torch.tensor(stay, device=tokens.device)
                state.select(places)
                here, tokens, written = [here[place] for place in stay], tokens[places], written.select(places)
            logits = step(state, tokens)
    finally:
        model.mark_step(None)
        model.train(was_training)


def _added(rows: list[Row], here: list[int], tokens: list[int], stuck: list[bool], logits: Tensor) -> Step:
    """What a token for each of the rows that are here makes of them all."""
    added: list[int | None] = [None] * len(rows)
    ended: list[Reason | None] = [None] * len(rows)
    for row, token, is_stuck in zip(here, tokens, stuck, strict=True):
        added[row], ended[row] = rows[row].add(token, is_stuck), rows[row].ends_here
    return Step(added, ended, logits, here)


@dataclass
class Row:
    """How far a row is.

    Attributes:
        text: its new tokens, the one that ended it included.
        ends_here: why it has ended with its last token.
    """

    ends: tuple[int, ...]
    stops: Stops | None
    limit: int
    is_over: bool = False
    ends_here: Reason | None = None
    text: list[int] = field(default_factory=list)

    def add(self, token: int, is_stuck: bool) -> int | None:
        """Takes in a token; returns it unless the row has ended or has no way on."""
        self.ends_here = None
        if self.is_over:
            return None
        self.text.append(token)
        if is_stuck:
            self.ends_here = "stuck"
        elif token in self.ends:
            self.ends_here = "end"
        elif self.stops is not None and self.stops(self.text):
            self.ends_here = "stop"
        elif len(self.text) == self.limit:
            self.ends_here = "length"
        self.is_over = self.ends_here is not None
        return None if is_stuck else token


def stream(
    model: WritingModel,
    prompt: Prompt,
    *,
    max_new_tokens: Lengths,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    stops: Sequence[Stops] | None = None,
    writer: Writer | None = None,
) -> Iterator[list[int | None]]:
    """Yields one token per row at a time, ``None`` for a row that has ended; stops when all have.

    A token of ``ends``, which ends its row, is yielded too. The arguments are those of :func:`steps`.
    """
    taken = steps(
        model, prompt, max_new_tokens=max_new_tokens, ends=ends, sampling=sampling, stops=stops, writer=writer
    )
    with closing(taken):
        for one in taken:
            yield one.tokens


def generate(
    model: WritingModel,
    prompt: Prompt,
    *,
    max_new_tokens: Lengths,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    stops: Sequence[Stops] | None = None,
    writer: Writer | None = None,
) -> list[list[int]]:
    """The new tokens of each row, without the one that ends it."""
    told = generations(
        model, prompt, max_new_tokens=max_new_tokens, ends=ends, sampling=sampling, stops=stops, writer=writer
    )
    return [list(one.tokens) for one in told]


def generations(
    model: WritingModel,
    prompt: Prompt,
    *,
    max_new_tokens: Lengths,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    stops: Sequence[Stops] | None = None,
    writer: Writer | None = None,
    logprobs: int | None = None,
) -> list[Generation]:
    """What is written in each row, why it ended, and how likely each token was.

    Args:
        logprobs: how many of the likeliest tokens are told at each place; 0 tells of the token itself, ``None``
            nothing.
    """
    rows: list[list[int]] = [[] for _ in range(prompt.tokens.size(0))]
    told: list[list[Likelihood]] = [[] for _ in rows]
    reasons: list[Reason] = ["length"] * len(rows)
    taken = steps(
        model, prompt, max_new_tokens=max_new_tokens, ends=ends, sampling=sampling, stops=stops, writer=writer
    )
    for one in taken:
        real = [(place, row, token) for place, row in enumerate(one.here) if (token := one.tokens[row]) is not None]
        if logprobs is not None and real:
            places, owners, tokens = zip(*real, strict=True)
            for row, likelihood in zip(owners, likelihoods(one.logits[list(places)], tokens, logprobs), strict=True):
                told[row].append(likelihood)
        for row, (token, reason) in enumerate(zip(one.tokens, one.ended, strict=True)):
            if token is not None and token not in ends:
                rows[row].append(token)
            reasons[row] = reason or reasons[row]
    found = zip(rows, reasons, told, strict=True)
    return [Generation(tuple(row), reason, tuple(likely)) for row, reason, likely in found]
