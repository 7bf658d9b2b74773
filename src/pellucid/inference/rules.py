"""Rules of writing: small callables that change the scores of the next token, each by itself, in the order given.

A :data:`Filter` looks at the scores alone, a :class:`Rule` at what was written too. :func:`apply` is the one place
that knows the difference: sampling, beam search and a batch in which every row has its own rules all go through it.

Order matters. What changes scores comes first (bias, penalties, a soft prefix), then what bars tokens (words, n-grams,
lengths, a grammar), a forced prefix after them, then temperature, then what cuts the tail off (top-k, top-p).

Shapes: B rows, L tokens of the longest text, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.errors import UserError

Filter = Callable[[Float[Tensor, "B V"]], Float[Tensor, "B V"]]
NONE = -1  # stands where a row has no token


@dataclass(frozen=True)
class Written:
    """What each row has so far. All rows end in the last column, so that they grow together, however long they are.

    Attributes:
        tokens: (B, L) prompts and what follows them; -1 before a row begins.
        lengths: (B,) how many tokens of each row are new.
        prompts: (B,) which of the prompts each row goes on from: rows of one search share theirs.
    """

    tokens: Int[Tensor, "B L"]
    lengths: Int[Tensor, " B"]
    prompts: Int[Tensor, " B"]

    @classmethod
    def after(cls, prompt: Int[Tensor, "B L"], keep: Bool[Tensor, "B L"] | None = None) -> Written:
        """Nothing yet, after prompts that may be padded on either side; ``keep`` is True where a token is real."""
        if keep is not None:
            order = keep.long().argsort(dim=1, stable=True)  # padding first, the tokens in their order
            prompt = prompt.masked_fill(~keep, NONE).gather(1, order)
        rows = torch.arange(prompt.size(0), device=prompt.device)
        return cls(prompt, torch.zeros_like(rows), rows)

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], device: torch.device | None = None) -> Written:
        """Nothing yet, after prompts of any lengths."""
        longest = max(map(len, prompts), default=0)
        rows = [[*[NONE] * (longest - len(prompt)), *prompt] for prompt in prompts]
        return cls.after(torch.tensor(rows, dtype=torch.long, device=device).view(len(rows), longest))

    def add(self, tokens: Int[Tensor, " B"]) -> Written:
        """One token more in every row."""
        return Written(torch.cat([self.tokens, tokens[:, None]], dim=1), self.lengths + 1, self.prompts)

    def select(self, rows: Int[Tensor, " R"]) -> Written:
        """These rows, in this order; one may be there twice."""
        return Written(self.tokens[rows], self.lengths[rows], self.prompts[rows])

    def text(self, *, whole: bool = False) -> Int[Tensor, "B L"]:
        """The new tokens, with ``whole`` the prompt too; -1 before them."""
        if whole:
            return self.tokens
        return self.tokens.masked_fill(self.places < 0, NONE)

    @property
    def places(self) -> Int[Tensor, "B L"]:
        """Which of the new tokens stands in each column, counted from 0; negative in the prompt."""
        L = self.tokens.size(1)
        return torch.arange(L, device=self.tokens.device) - (L - self.lengths)[:, None]

    def counts(self, vocabulary: int, *, whole: bool = False) -> Int[Tensor, "B V"]:
        """How often each token was written."""
        text = self.text(whole=whole)
        counted = torch.zeros(text.size(0), vocabulary + 1, dtype=torch.long, device=text.device)
        index = text.masked_fill(text == NONE, vocabulary)
        return counted.scatter_add_(1, index, torch.ones_like(index))[:, :vocabulary]

    def lists(self, *, whole: bool = False) -> list[list[int]]:
        """The same as Python's lists, which waits for the device."""
        return [[token for token in row if token != NONE] for row in self.text(whole=whole).tolist()]


class Rule(ABC):
    """Changes scores by what was written. Subclasses are frozen dataclasses, so that equal rules can be told."""

    @property
    def raises(self) -> bool:
        """Whether it may lift a log-probability above 0; a beam search then cannot know early what is best."""
        return False

    @abstractmethod
    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        """The scores, -inf for tokens that may not come next."""

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        """What becomes of ``y``, the score of a token, in Python; empty where no line can say.

        Args:
            text: the new tokens of the row; ``whole``, its prompt before them.
        """
        return ""


AnyRule = Filter | Rule


def apply(rules: Sequence[AnyRule], scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
    """The scores after all rules, in their order."""
    for rule in rules:
        scores = rule(scores, written) if isinstance(rule, Rule) else rule(scores)
    return scores


def apply_each(
    rules: Sequence[Sequence[AnyRule]], scores: Float[Tensor, "B V"], written: Written
) -> Float[Tensor, "B V"]:
    """The scores after the rules of each row; rows with equal rules are done together."""
    groups: dict[tuple[AnyRule, ...], list[int]] = {}
    for row, own in enumerate(rules):
        groups.setdefault(tuple(own), []).append(row)
    if len(groups) == 1:
        return apply(next(iter(groups)), scores, written)
    changed = scores.clone()
    for own, rows in groups.items():
        if own:
            index = torch.tensor(rows, device=scores.device)
            changed[index] = apply(own, scores[index], written.select(index))
    return changed


def impossible(scores: Float[Tensor, "B V"]) -> Bool[Tensor, " B"]:
    """Rows in which the rules have left no token."""
    return scores.amax(dim=-1) == -torch.inf


@dataclass(frozen=True)
class PerPrompt(Rule):
    """To each row the rules of its prompt, where prompts of one batch differ in them."""

    rules: tuple[tuple[AnyRule, ...], ...]

    @property
    def raises(self) -> bool:
        return any(isinstance(rule, Rule) and rule.raises for own in self.rules for rule in own)

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        return apply_each([self.rules[prompt] for prompt in written.prompts.tolist()], scores, written)


def check(holds: bool, where: str, found: object, expected: str) -> None:
    """Refuses a setting that cannot work.

    Raises:
        UserError: unless it holds.
    """
    if not holds:
        raise UserError(where, f"found {found}", expected)


# ---- rules that change scores --------------------------------------------------------------------


@dataclass(frozen=True)
class LogitBias(Rule):
    """Adds a number to the scores of some tokens."""

    biases: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        for _, bias in self.biases:
            check(bias < math.inf, "logit_bias", bias, "a number, or -inf to bar a token; force a prefix for inf")

    @property
    def raises(self) -> bool:
        return any(bias > 0 for _, bias in self.biases)

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        tokens = torch.tensor([token for token, _ in self.biases], dtype=torch.long, device=scores.device)
        added = torch.tensor([bias for _, bias in self.biases], dtype=scores.dtype, device=scores.device)
        return scores.index_add(-1, tokens, added.expand(scores.size(0), -1))

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        return f"y = y + {sum(bias for own, bias in self.biases if own == token)!r}"


@dataclass(frozen=True)
class RepetitionPenalty(Rule):
    """Divides the scores of tokens that were written by θ (Keskar et al. 2019, §4.1), multiplies negative ones by it.

    The paper only divides; multiplying negative scores, which dividing would raise, is what ``transformers`` does.

    Args:
        whole: the tokens of the prompt count too, as in the paper's code and in ``transformers``.
    """

    theta: float
    whole: bool = False

    def __post_init__(self) -> None:
        check(0 < self.theta < math.inf, "repetition_penalty", self.theta, "more than 0 and finite; 1 changes nothing")

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        seen = written.counts(scores.size(-1), whole=self.whole) > 0
        return torch.where(seen, torch.where(scores > 0, scores / self.theta, scores * self.theta), scores)

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        times = f"y / {self.theta!r} if y > 0 else y * {self.theta!r}"
        return f"y = {times}" if token in (whole if self.whole else text) else "y = y"


@dataclass(frozen=True)
class PresencePenalty(Rule):
    """Takes α from the score of every token that was written (as OpenAI defines it)."""

    alpha: float

    def __post_init__(self) -> None:
        check(math.isfinite(self.alpha), "presence_penalty", self.alpha, "a finite number")

    @property
    def raises(self) -> bool:
        return self.alpha < 0

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        return scores - self.alpha * (written.counts(scores.size(-1)) > 0).to(scores)

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        return f"y = y - {self.alpha!r}" if token in text else "y = y"


@dataclass(frozen=True)
class FrequencyPenalty(Rule):
    """Takes α from the score of a token as often as it was written (as OpenAI defines it)."""

    alpha: float

    def __post_init__(self) -> None:
        check(math.isfinite(self.alpha), "frequency_penalty", self.alpha, "a finite number")

    @property
    def raises(self) -> bool:
        return self.alpha < 0

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        return scores - self.alpha * written.counts(scores.size(-1)).to(scores)

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        return f"y = y - {self.alpha!r} * {list(text).count(token)}"


@dataclass(frozen=True)
class SoftPrefix(Rule):
    """Draws writing towards a prefix until it departs: (1 − β) p + β (Arivazhagan et al. 2020, biased beam search).

    The scores become log-probabilities. What other rules barred stays barred.
    """

    tokens: tuple[int, ...]
    beta: float

    def __post_init__(self) -> None:
        check(0 <= self.beta < 1, "prefix_bias", self.beta, "at least 0 and less than 1; force a prefix for 1")

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        if not self.tokens:
            return scores
        prefix = torch.tensor(self.tokens, device=scores.device)
        places = written.places
        wanted = prefix[places.clamp(0, len(self.tokens) - 1)]
        follows = ((wanted == written.tokens) | (places < 0)).all(dim=1) & (written.lengths < len(self.tokens))
        token = prefix[written.lengths.clamp(max=len(self.tokens) - 1)][:, None]
        probability = (1 - self.beta) * scores.softmax(dim=-1)
        pulled = probability.scatter_add(-1, token, torch.full_like(token, self.beta, dtype=scores.dtype)).log()
        pulled = pulled.masked_fill(scores == -torch.inf, -torch.inf)
        return torch.where(follows[:, None], pulled, scores)


# ---- rules that bar tokens -----------------------------------------------------------------------


@dataclass(frozen=True)
class NoRepeat(Rule):
    """No n tokens in a row come twice (Paulus et al. 2018, §2.5).

    Args:
        whole: those of the prompt count too.
    """

    n: int
    whole: bool = False

    def __post_init__(self) -> None:
        check(self.n > 0, "no_repeat", self.n, "more than 0")

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        text, V = written.text(whole=self.whole), scores.size(-1)
        if text.size(1) < self.n:
            return scores
        last = text[:, text.size(1) - self.n + 1 :]
        grams = text.unfold(1, self.n, 1)
        again = (grams[..., :-1] == last[:, None]).all(dim=-1) & (last != NONE).all(dim=1)[:, None]
        barred = grams[..., -1].masked_fill(~again | (grams[..., -1] == NONE), V)
        marks = torch.zeros(scores.size(0), V + 1, dtype=torch.bool, device=scores.device)
        return scores.masked_fill(marks.scatter(1, barred, True)[:, :V], -torch.inf)

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        before, n = list(whole if self.whole else text), self.n
        tail = [*before[len(before) - n + 1 :], token]
        again = any(before[i : i + n] == tail for i in range(len(before) - n + 1))
        return f"y = -torch.inf  # {tail} would come twice" if again else "y = y"


@dataclass(frozen=True)
class BadWords(Rule):
    """Some sequences of tokens are never completed, not even where the prompt begins them."""

    sequences: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check(all(self.sequences), "bad_words", "a sequence of no tokens", "one token or more in each")

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        scores, L = scores.clone(), written.tokens.size(1)
        for *before, last in self.sequences:
            if len(before) <= L:
                tail = written.tokens[:, L - len(before) :]
                begun = (tail == torch.tensor(before, dtype=torch.long, device=tail.device)).all(dim=1)
                scores[:, last] = scores[:, last].masked_fill(begun, -torch.inf)
        return scores

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        after = [*whole, token]
        done = [own for own in self.sequences if tuple(after[-len(own) :]) == own]
        return f"y = -torch.inf  # would complete {list(done[0])}" if done else "y = y"


@dataclass(frozen=True)
class MinLength(Rule):
    """No end before so many tokens are written."""

    tokens: int
    ends: tuple[int, ...]

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        early = (written.lengths < self.tokens)[:, None]
        ends = torch.zeros(scores.size(-1), dtype=torch.bool, device=scores.device)
        ends[list(self.ends)] = True
        return scores.masked_fill(early & ends, -torch.inf)

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        return "y = -torch.inf" if token in self.ends and len(text) < self.tokens else "y = y"


@dataclass(frozen=True)
class ForcedPrefix(Rule):
    """The first tokens are these, whatever their scores and whatever was barred before."""

    tokens: tuple[int, ...]

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        if not self.tokens:
            return scores
        forced = written.lengths < len(self.tokens)
        prefix = torch.tensor(self.tokens, device=scores.device)
        token = prefix[written.lengths.clamp(max=len(self.tokens) - 1)][:, None]
        own = scores.gather(1, token)
        alone = torch.full_like(scores, -torch.inf).scatter(1, token, own.masked_fill(own == -torch.inf, 0.0))
        return torch.where(forced[:, None], alone, scores)

    def line(self, token: int, text: Sequence[int], whole: Sequence[int]) -> str:
        if len(text) >= len(self.tokens):
            return "y = y"
        return "y = y if y > -torch.inf else 0.0" if token == self.tokens[len(text)] else "y = -torch.inf"
