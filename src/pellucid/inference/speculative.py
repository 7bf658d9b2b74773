"""Speculation: several tokens are guessed cheaply, then checked by the model in one step.

What is written is what the model would have written without guesses: token for token where the likeliest is taken, in
distribution where tokens are drawn. Rows of a batch accept different numbers of guesses; each is cut back to its own.

Shapes: B rows, T tokens fed at once (one that is certain and the guesses after it), K guesses, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.inference.decode import Generation, Reason, Row, Stops
from pellucid.inference.guesses import Choice, Guesser, Guessing
from pellucid.inference.likelihood import Likelihood, likelihoods
from pellucid.inference.rules import check, impossible
from pellucid.inference.sampling import GREEDY, Sampling, drawn
from pellucid.inference.writer import Ids, Writer
from pellucid.nn.positions import check_length


@dataclass(frozen=True)
class Taken:
    """What one step of the model has added to a row.

    Attributes:
        tokens: at least one, unless rules left none; one that ends the row is the last.
        ended: why the row ends here; ``None`` for one that goes on.
        likelihoods: where asked for, of each token.
        guessed: how many guesses were checked, and ``accepted``, how many of them were right.
    """

    tokens: list[int]
    ended: Reason | None
    likelihoods: list[Likelihood]
    guessed: int
    accepted: int


Round = list[Taken | None]
"""One step of the model: what each row was given, ``None`` for one that has ended before."""


@dataclass(frozen=True)
class Speculated:
    """What was written in each row.

    Attributes:
        steps: how often the model was asked.
    """

    generations: list[Generation]
    steps: int

    @property
    def texts(self) -> list[list[int]]:
        """The new tokens of each row, without the one that ends it."""
        return [list(one.tokens) for one in self.generations]

    @property
    def guessed(self) -> int:
        """How many guesses were checked in all."""
        return sum(one.guessed for one in self.generations)

    @property
    def accepted(self) -> int:
        """How many of them were right."""
        return sum(one.accepted for one in self.generations)

    @property
    def share(self) -> float:
        """Of the guesses that were right; 0 where there were none."""
        return self.accepted / self.guessed if self.guessed else 0.0


def speculate(
    writer: Writer,
    prompts: Ids,
    guesser: Guesser,
    *,
    max_new_tokens: int,
    sources: Sequence[Any] | None = None,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    stops: Sequence[Stops] | None = None,
    logprobs: int | None = None,
) -> Speculated:
    """What the writer writes after each prompt. Arguments as for :func:`speculative_stream`."""
    rounds = list(
        speculative_stream(
            writer, prompts, guesser, max_new_tokens=max_new_tokens, sources=sources, ends=ends, sampling=sampling,
            stops=stops, logprobs=logprobs,
        )
    )  # fmt: skip
    columns = ([taken for each in rounds if (taken := each[row]) is not None] for row in range(len(prompts)))
    return Speculated([_generation(column, frozenset(ends)) for column in columns], len(rounds))


def _generation(taken: Sequence[Taken], ends: frozenset[int]) -> Generation:
    """A row as a whole."""
    return Generation(
        tuple(token for one in taken for token in one.tokens if token not in ends),
        (taken[-1].ended if taken else None) or "length",
        tuple(likelihood for one in taken for likelihood in one.likelihoods),
        sum(one.guessed for one in taken),
        sum(one.accepted for one in taken),
    )


def speculative_stream(
    writer: Writer,
    prompts: Ids,
    guesser: Guesser,
    *,
    max_new_tokens: int,
    sources: Sequence[Any] | None = None,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    stops: Sequence[Stops] | None = None,
    logprobs: int | None = None,
) -> Iterator[Round]:
    """Yields what each step of the writer adds to every row: one token or more. Rows that have ended leave the batch.

    Args:
        max_new_tokens: of each row; fewer where its positions end.
        ends: tokens that end a row.
        stops: of each row, whether it ends with its last token, besides by ``ends``.
        logprobs: how many of the likeliest tokens are told at each place; ``None`` tells nothing.

    Raises:
        UserError: for a prompt beyond the writer's positions, or a draft of another vocabulary.
    """
    check(max_new_tokens >= 0, "max_new_tokens", max_new_tokens, "0 or more")
    for prompt in prompts:
        check_length(len(prompt), writer.limit, "prompt")
    if not prompts or max_new_tokens < 1:
        return
    limits = [
        max_new_tokens if writer.limit is None else min(max_new_tokens, writer.limit + 1 - len(prompt))
        for prompt in prompts  # the last token is never fed
    ]
    lines = [Row(tuple(ends), stops[i] if stops else None, limit) for i, limit in enumerate(limits)]
    logits, rows = writer.prefill(prompts, sources)
    choice = Choice(sampling, prompts, logits.size(-1), logits.device)
    texts = [list(prompt) for prompt in prompts]
    scores = choice.scores(logits[:, None], texts, [[]] * len(texts))
    first, _ = choice.token(scores[:, 0])
    batch = _Batch(writer, rows, guesser, guesser.begin(prompts, sources, choice), choice, texts, lines, logprobs)
    yield batch.take(first[:, None].tolist(), logits[:, None], scores)
    batch.leave()
    while batch.texts:
        yield batch.step()
        batch.leave()


@dataclass
class _Batch:
    """The rows that are still being written. Each has been fed all of its text but the last token.

    Attributes:
        lines: of all rows, those that have ended included.
    """

    writer: Writer
    rows: Any
    guesser: Guesser
    guessing: Guessing
    choice: Choice
    texts: list[list[int]]
    lines: list[Row]
    logprobs: int | None

    def step(self) -> Round:
        """Guesses, checks, and keeps what is right."""
        left = [self._left(i) for i in range(len(self.texts))]
        found = self.guessing.propose(self.texts, self._count(left))
        # The last token that a row has room for is not guessed: checking gives one token more than was right.
        guesses = [list(own[: room - 1]) for own, room in zip(found.tokens, left, strict=True)]
        T = 1 + max(map(len, guesses))
        fed = [[text[-1], *own, *[0] * (T - 1 - len(own))] for text, own in zip(self.texts, guesses, strict=True)]
        logits = self.writer.extend(torch.tensor(fed, device=self.choice.device), self.rows)
        scores = self.choice.scores(logits, self.texts, guesses)
        kept = verified(scores, guesses, found.probabilities, None if self._greedy else self.choice.draws)
        new = [[*own[:n], last] for own, (n, last) in zip(guesses, kept, strict=True)]
        return self.take(new, logits, scores, [(len(own), n) for own, (n, _) in zip(guesses, kept, strict=True)])

    def take(
        self,
        new: Ids,
        logits: Float[Tensor, "B T V"],
        scores: Float[Tensor, "B T V"],
        counts: Sequence[tuple[int, int]] | None = None,
    ) -> Round:
        """Adds tokens to each row until it ends.

        Args:
            logits: of the places of the tokens, and ``scores``, what the rules have made of them.
            counts: of each row, its guesses and those that were right.
        """
        stuck = impossible(scores.flatten(0, 1)).view(scores.shape[:2]).tolist()
        added: Round = [None] * len(self.lines)
        for i, (own, (guessed, right)) in enumerate(zip(new, counts or [(0, 0)] * len(new), strict=True)):
            row = self.choice.here[i]
            tokens = _until_over(self.lines[row], own, stuck[i])
            self.texts[i] += tokens
            top = self.logprobs
            told = likelihoods(logits[i, : len(tokens)], tokens, top) if tokens and top is not None else []
            added[row] = Taken(tokens, self.lines[row].ends_here, told, guessed, min(right, len(tokens)))
        return added

    def leave(self) -> None:
        """Lets go of rows that have ended, and of what the others were fed in vain."""
        stay = [i for i, row in enumerate(self.choice.here) if not self.lines[row].is_over]
        if len(stay) < len(self.texts):
            self.texts = [self.texts[i] for i in stay]
            self.choice.here = [self.choice.here[i] for i in stay]
            if not stay:
                return
            self.rows.select(stay)
            self.guessing.select(stay)
        self.rows.crop([len(text) - 1 for text in self.texts])
        self.guessing.settle(self.texts)

    @property
    def _greedy(self) -> bool:
        return self.choice.generator is None

    def _left(self, i: int) -> int:
        line = self.lines[self.choice.here[i]]
        return line.limit - len(line.text)

    def _count(self, left: Sequence[int]) -> int:
        count, limit = min(self.guesser.guesses, max(left) - 1), self.writer.limit
        return count if limit is None else min(count, limit - max(map(len, self.texts)))


def _until_over(line: Row, tokens: Sequence[int], stuck: Sequence[bool]) -> list[int]:
    """Adds tokens to a row until it ends; those that it took."""
    taken: list[int] = []
    for token, is_stuck in zip(tokens, stuck, strict=False):
        if (added := line.add(token, is_stuck)) is not None:
            taken.append(added)
        if line.is_over:
            break
    return taken


def verified(
    scores: Float[Tensor, "B T V"],
    guesses: Ids,
    probabilities: Float[Tensor, "B K V"] | None = None,
    draws: Callable[..., Tensor] | None = None,
) -> list[tuple[int, int]]:
    """How many guesses of each row are right, and the token that comes after those.

    Greedily, a guess is right if it is the likeliest. Where tokens are drawn, a guess x drawn with probability q(x) is
    accepted with probability min(1, p(x) / q(x)); in place of the first that is not, a token is drawn from what p has
    more than q (Leviathan et al. 2023, Algorithm 1 and appendix A.1), so that what is written follows p.

    Args:
        scores: of the model, after each row's certain token and each of its guesses.
        probabilities: q; by default 1 for the token guessed.
        draws: numbers from 0 to 1 of a shape; ``None`` takes the likeliest.
    """
    if draws is None:
        best = scores.argmax(dim=-1).tolist()
        counts = [
            _leading(a == b for a, b in zip(own, row, strict=False)) for own, row in zip(guesses, best, strict=True)
        ]
        return [(count, row[count]) for count, row in zip(counts, best, strict=True)]
    B, T, _ = scores.shape
    p, uniform = scores.softmax(dim=-1), draws(B, T)
    padded = torch.tensor([[*own, *[0] * (T - len(own))] for own in guesses], device=scores.device)
    if probabilities is None:
        q = torch.zeros_like(p).scatter_(-1, padded[..., None], 1.0)
    else:
        q = torch.zeros_like(p)
        q[:, : T - 1] = probabilities[:, : T - 1]
    px, qx = (x.gather(-1, padded[..., None])[..., 0] for x in (p, q))
    passed = (uniform * qx < px).tolist()  # u < p / q, where q may be 0
    counts = [_leading(row[: len(own)]) for own, row in zip(guesses, passed, strict=True)]
    place, each = torch.tensor(counts, device=scores.device), torch.arange(B, device=scores.device)
    refused = place < torch.tensor([len(own) for own in guesses], device=scores.device)
    rest = (p[each, place] - q[each, place] * refused[:, None]).clamp(min=0)
    rest = torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, p[each, place])  # equal but for rounding
    return list(zip(counts, drawn(rest, draws(B, 1)).tolist(), strict=True))


def _leading(right: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    count = 0
    for each in right:
        if not each:
            break
        count += 1
    return count
