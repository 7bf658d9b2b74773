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

from pellucid.inference.guesses import Choice, Guesser, Guessing
from pellucid.inference.sampling import GREEDY, Sampling, drawn
from pellucid.inference.writer import Ids, Writer
from pellucid.nn.positions import check_length


@dataclass(frozen=True)
class Round:
    """What one step of the model has added.

    Attributes:
        tokens: of each row, none once it has ended; a token that ends a row is the last of its own.
        guessed: how many guesses were checked, and ``accepted``, how many of them were right.
    """

    tokens: list[list[int]]
    guessed: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Speculated:
    """The new tokens of each row, without the one that ends it, and how the guesses did.

    Attributes:
        steps: how often the model was asked.
    """

    texts: list[list[int]]
    steps: int
    guessed: int
    accepted: int

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
) -> Speculated:
    """What the writer writes after each prompt. Arguments as for :func:`speculative_stream`."""
    rounds = list(
        speculative_stream(
            writer, prompts, guesser, max_new_tokens=max_new_tokens, sources=sources, ends=ends, sampling=sampling
        )
    )
    texts: list[list[int]] = [[] for _ in prompts]
    for each in rounds:
        for text, new in zip(texts, each.tokens, strict=True):
            text += [token for token in new if token not in ends]
    return Speculated(texts, len(rounds), sum(r.guessed for r in rounds), sum(r.accepted for r in rounds))


def speculative_stream(
    writer: Writer,
    prompts: Ids,
    guesser: Guesser,
    *,
    max_new_tokens: int,
    sources: Sequence[Any] | None = None,
    ends: Sequence[int] = (),
    sampling: Sampling = GREEDY,
) -> Iterator[Round]:
    """Yields what each step of the writer adds to every row: one token or more. Rows that have ended leave the batch.

    Args:
        max_new_tokens: of each row; fewer where its positions end.
        ends: tokens that end a row.

    Raises:
        UserError: for a prompt beyond the writer's positions, or a draft of another vocabulary.
    """
    for prompt in prompts:
        check_length(len(prompt), writer.limit, "prompt")
    if not prompts or max_new_tokens < 1:
        return
    room = [max_new_tokens if writer.limit is None else writer.limit + 1 - len(prompt) for prompt in prompts]
    most = [min(max_new_tokens, own) for own in room]  # the last token is never fed
    logits, rows = writer.prefill(prompts, sources)
    choice = Choice(sampling, prompts, logits.size(-1), logits.device)
    texts = [list(prompt) for prompt in prompts]
    first, _ = choice.token(choice.scores(logits[:, None], texts, [[]] * len(texts))[:, 0])
    for text, token in zip(texts, first.tolist(), strict=True):
        text.append(token)
    batch = _Batch(writer, rows, guesser, guesser.begin(prompts, sources, choice), choice, texts, most, frozenset(ends))
    yield Round([[token] for token in first.tolist()])
    batch.leave()
    while batch.texts:
        tokens: list[list[int]] = [[] for _ in prompts]
        here, (new, guessed, accepted) = list(choice.here), batch.step()
        for row, own in zip(here, new, strict=True):
            tokens[row] = own
        yield Round(tokens, guessed, accepted)
        batch.leave()


@dataclass
class _Batch:
    """The rows that are still being written. Each has been fed all of its text but the last token."""

    writer: Writer
    rows: Any
    guesser: Guesser
    guessing: Guessing
    choice: Choice
    texts: list[list[int]]
    most: list[int]
    ends: frozenset[int]

    def step(self) -> tuple[list[list[int]], int, int]:
        """Guesses, checks and keeps what is right; the new tokens of each row, the guesses and those accepted."""
        left = [self._left(i) for i in range(len(self.texts))]
        found = self.guessing.propose(self.texts, self._count(left))
        # The last token that a row has room for is not guessed: checking gives one token more than was right.
        guesses = [own[: room - 1] for own, room in zip(found.tokens, left, strict=True)]
        T = 1 + max(map(len, guesses))
        fed = [[text[-1], *own, *[0] * (T - 1 - len(own))] for text, own in zip(self.texts, guesses, strict=True)]
        logits = self.writer.extend(torch.tensor(fed, device=self.choice.device), self.rows)
        scores = self.choice.scores(logits, self.texts, guesses)
        kept = verified(scores, guesses, found.probabilities, None if self._greedy else self.choice.draws)
        new = [self._until_end([*own[:n], last]) for own, (n, last) in zip(guesses, kept, strict=True)]
        for text, own in zip(self.texts, new, strict=True):
            text += own
        accepted = sum(min(n, len(own)) for own, (n, _) in zip(new, kept, strict=True))
        return new, sum(map(len, guesses)), accepted

    def leave(self) -> None:
        """Lets go of rows that have ended, and of what the others were fed in vain."""
        over = [self._left(i) < 1 or self.texts[i][-1] in self.ends for i in range(len(self.texts))]
        stay = [i for i, ended in enumerate(over) if not ended]
        self.texts = [self.texts[i] for i in stay]
        if not stay:
            return
        if len(stay) < len(over):
            self.choice.here = [self.choice.here[i] for i in stay]
            self.rows.select(stay)
            self.guessing.select(stay)
        self.rows.crop([len(text) - 1 for text in self.texts])
        self.guessing.settle(self.texts)

    @property
    def _greedy(self) -> bool:
        return self.choice.generator is None

    def _left(self, i: int) -> int:
        row = self.choice.here[i]
        return self.most[row] - (len(self.texts[i]) - self.choice.prompts[row])

    def _count(self, left: Sequence[int]) -> int:
        count, limit = min(self.guesser.guesses, max(left) - 1), self.writer.limit
        return count if limit is None else min(count, limit - max(map(len, self.texts)))

    def _until_end(self, tokens: list[int]) -> list[int]:
        over = [i for i, token in enumerate(tokens) if token in self.ends]
        return tokens[: over[0] + 1] if over else tokens


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
