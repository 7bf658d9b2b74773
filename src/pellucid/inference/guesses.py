"""Guesses of what comes next, for :mod:`pellucid.inference.speculative` to check.

Shapes: B rows, T tokens fed at once, K guesses, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.errors import UserError
from pellucid.inference.rules import Rule, Written, apply, check
from pellucid.inference.sampling import Sampling, drawn
from pellucid.inference.writer import Ids, Writer
from pellucid.models.checkpoint import Loaded


@dataclass(frozen=True)
class Guesses:
    """What may come next in each row.

    Attributes:
        tokens: of each row, as many as there are.
        probabilities: what they were drawn from (B, K, V); ``None`` where there was nothing to draw.
    """

    tokens: list[list[int]]
    probabilities: Float[Tensor, "B K V"] | None = None


class Guessing(Protocol):
    """Guesses for the rows of one batch."""

    def propose(self, texts: Ids, count: int) -> Guesses:
        """At most so many tokens after each text, its prompt included."""

    def settle(self, texts: Ids) -> None:
        """Hears what the texts have become, the guesses accepted and one token more."""

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order."""


class Guesser(Protocol):
    """A way to guess."""

    @property
    def guesses(self) -> int:
        """How many tokens it guesses at once."""

    def begin(self, prompts: Ids, sources: Sequence[Any] | None, choice: Choice) -> Guessing:
        """Starts on a batch of prompts."""


@dataclass(frozen=True)
class PromptLookup:
    """Guesses that the text goes on as it did before: after the latest earlier place of its last n-gram (Saxena 2023).

    Args:
        ngram: how many tokens must be the same. guesses: how many tokens are copied from there.
    """

    ngram: int = 3
    guesses: int = 4

    def __post_init__(self) -> None:
        check(self.ngram > 0, "ngram", self.ngram, "more than 0")
        check(self.guesses > 0, "guesses", self.guesses, "more than 0")

    def begin(self, prompts: Ids, sources: Sequence[Any] | None, choice: Choice) -> Guessing:
        """As :meth:`Guesser.begin`."""
        return _LookingUp(self.ngram, len(prompts))


@dataclass(frozen=True)
class Draft:
    """Guesses what a smaller model would write (Leviathan et al. 2023; Chen et al. 2023).

    Args:
        writer: of the same vocabulary; it reads the same sources.
    """

    writer: Writer
    guesses: int = 4

    def __post_init__(self) -> None:
        check(self.guesses > 0, "guesses", self.guesses, "more than 0")

    @classmethod
    def of(cls, small: Loaded, large: Loaded, guesses: int = 4) -> Draft:
        """A run that guesses for another.

        Raises:
            UserError: for one without an engine, of another family, or whose tokens are others.
        """
        if small.writer is None:
            raise UserError("draft", "a run without an engine, or that does not write", "the run as `pl.fast(run)`")
        if type(small.model) is not type(large.model):
            found, wanted = (type(each.model).__name__ for each in (small, large))
            raise UserError("draft", f"a model of kind {found}", f"one of kind {wanted}, as the one it guesses for")
        ours, theirs = ((each.tokenizer, each.tokenizer.target) for each in (small, large))
        if any(a.raw.get_vocab() != b.raw.get_vocab() for a, b in zip(ours, theirs, strict=True)):
            hint = "train it on the same text, or with --from a run of the same tokenizer"
            raise UserError("draft", "its tokens are others", "the tokens of the model that it guesses for", hint)
        return cls(small.writer, guesses)

    def begin(self, prompts: Ids, sources: Sequence[Any] | None, choice: Choice) -> Guessing:
        """As :meth:`Guesser.begin`."""
        return _Drafting(self.writer, prompts, sources, choice)


class Choice:
    """How tokens are chosen from scores: the filters and rules of a sampling, and one sequence of draws."""

    def __init__(self, sampling: Sampling, prompts: Ids, vocab_size: int, device: torch.device) -> None:
        self.sampling, self.prompts, self.device = sampling, [len(prompt) for prompt in prompts], device
        self.vocab_size = vocab_size
        self.here = list(range(len(prompts)))
        self.by_text = any(isinstance(rule, Rule) for rule in sampling.filters)
        self.generator = None if sampling.seed is None else torch.Generator(device).manual_seed(sampling.seed)

    def scores(self, logits: Float[Tensor, "B T V"], texts: Ids, guesses: Ids) -> Float[Tensor, "B T V"]:
        """The scores after all rules; those of the last T places, each of which has seen one guess more."""
        B, T, V = logits.shape
        if not self.sampling.filters:
            return logits.float()
        written = self._written(texts, guesses, T) if self.by_text else Written.of([()] * (B * T), self.device)
        return apply(self.sampling.filters, logits.float().reshape(B * T, V), written).view(B, T, V)

    def _written(self, texts: Ids, guesses: Ids, T: int) -> Written:
        """What stands before each of the places; the rows of one text go on from the same prompt."""
        pairs = list(zip(texts, guesses, strict=True))
        whole = Written.of([[*text, *own[:seen]] for text, own in pairs for seen in range(T)], self.device)
        new = [
            len(t) + min(len(own), n) - self.prompts[i]
            for i, (t, own) in zip(self.here, pairs, strict=True)
            for n in range(T)
        ]
        prompts = torch.tensor(self.here, device=self.device).repeat_interleave(T)
        return Written(whole.tokens, torch.tensor(new, device=self.device), prompts)

    def draws(self, *shape: int) -> Tensor:
        """Numbers from 0 to 1."""
        return torch.rand(*shape, generator=self.generator, device=self.device)

    def token(self, scores: Float[Tensor, "B V"]) -> tuple[Int[Tensor, " B"], Float[Tensor, "B V"] | None]:
        """One token of each row, and the probabilities that it was drawn from."""
        if self.generator is None:
            return scores.argmax(dim=-1), None
        probabilities = scores.softmax(dim=-1)
        return drawn(probabilities, self.draws(scores.size(0), 1)), probabilities


class _LookingUp:
    """For each row, where its n-grams were last followed by something."""

    def __init__(self, ngram: int, batch: int) -> None:
        self.ngram = ngram
        self.places: list[dict[tuple[int, ...], int]] = [{} for _ in range(batch)]
        self.read = [ngram] * batch  # n-grams that end before this are in the table

    def propose(self, texts: Ids, count: int) -> Guesses:
        return Guesses([list(self._after(i, text, count)) for i, text in enumerate(texts)])

    def _after(self, i: int, text: Sequence[int], count: int) -> Sequence[int]:
        table, n = self.places[i], self.ngram
        for end in range(self.read[i], len(text)):
            table[tuple(text[end - n : end])] = end
        self.read[i] = max(self.read[i], len(text))
        place = table.get(tuple(text[len(text) - n :])) if len(text) > n else None
        return () if place is None else text[place : place + count]

    def settle(self, texts: Ids) -> None:
        pass

    def select(self, rows: Sequence[int]) -> None:
        self.places, self.read = [self.places[i] for i in rows], [self.read[i] for i in rows]


class _Drafting:
    """A draft model beside the rows. Each has been fed all of its text but the last token."""

    def __init__(self, writer: Writer, prompts: Ids, sources: Sequence[Any] | None, choice: Choice) -> None:
        self.writer, self.choice = writer, choice
        self.is_over = max(map(len, prompts)) > self._limit
        self.rows: Any = None
        if not self.is_over:
            logits, self.rows = writer.prefill(prompts, sources)
            check(
                logits.size(-1) == choice.vocab_size,
                "draft",
                f"{logits.size(-1)} tokens",
                f"{choice.vocab_size} tokens, those of the model that it guesses for",
            )

    @property
    def _limit(self) -> float:
        return float("inf") if self.writer.limit is None else self.writer.limit

    def propose(self, texts: Ids, count: int) -> Guesses:
        count = 0 if self.is_over else int(min(count, self._limit - max(map(len, texts))))
        guesses: list[list[int]] = [[] for _ in texts]
        drawn_from = []
        last = torch.tensor([text[-1:] for text in texts], device=self.choice.device)
        for _ in range(count):
            logits = self.writer.extend(last, self.rows).to(self.choice.device)
            so_far = [[*text, *own] for text, own in zip(texts, guesses, strict=True)]
            tokens, probabilities = self.choice.token(self.choice.scores(logits, so_far, [[]] * len(texts))[:, 0])
            drawn_from.append(probabilities)
            for own, token in zip(guesses, tokens.tolist(), strict=True):
                own.append(token)
            last = tokens[:, None]
        certain = [p for p in drawn_from if p is not None]
        return Guesses(guesses, torch.stack(certain, dim=1) if certain else None)

    def settle(self, texts: Ids) -> None:
        if self.is_over:
            return
        wanted = [len(text) - 1 for text in texts]
        if max(wanted) > self._limit:
            self.is_over, self.rows = True, None
            return
        if any(has < want for has, want in zip(self.rows.lengths, wanted, strict=True)):
            # Where all guesses were right, the last of them was never fed.
            fed = [[text[has] if has < len(text) else 0] for text, has in zip(texts, self.rows.lengths, strict=True)]
            self.writer.extend(torch.tensor(fed, device=self.choice.device), self.rows)
        self.rows.crop(wanted)

    def select(self, rows: Sequence[int]) -> None:
        if not self.is_over:
            self.rows.select(rows)
