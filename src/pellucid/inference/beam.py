"""Beam search: the best few beginnings are carried on side by side.

:class:`Search` decides, for one text and whoever computes the scores: which beginnings go on, what is finished, when it
is over. :func:`likeliest` finds the candidates of many searches at once; :func:`beam_search` is the plain loop.

Shapes: B rows, W beams, C candidates, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.inference.decode import Lengths, Prompt, State, Stops, WritingModel, begin, prefill, rooms, step
from pellucid.inference.highest import highest
from pellucid.inference.rules import AnyRule, Rule, Written, apply, check
from pellucid.inference.writer import Go, Writer, carried


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: its tokens without the end, and its log-probability over its length penalty.

    Attributes:
        end: the token that ended it; ``None`` where a stop, the length or rules did.
    """

    tokens: tuple[int, ...]
    score: float
    end: int | None = None


@dataclass(frozen=True)
class Wu:
    """((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14), which the paper uses with 0.6; fairseq and Marian differ."""

    alpha: float = 0.6

    def __post_init__(self) -> None:
        _check_power(self.alpha)

    def __call__(self, length: int) -> float:
        """What the log-probability of a text of this length, its end counted, is divided by."""
        return float(((5 + length) / 6) ** self.alpha)


@dataclass(frozen=True)
class Power:
    """length^alpha, as in fairseq, Marian and ``transformers``, where 1 is the mean over the tokens."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check_power(self.alpha)

    def __call__(self, length: int) -> float:
        """What the log-probability of a text of this length, its end counted, is divided by."""
        return float(length**self.alpha)


def _check_power(alpha: float) -> None:
    check(abs(alpha) <= 10, "length penalty", alpha, "from -10 to 10")  # nan is in no range


LengthPenalty = Wu | Power
PAPER = Wu(0.6)
Text = tuple[int, ...]
Ended = tuple[Text, float, int | None]
"""A text that is over, its log-probability, and the token that ended it."""
Fate = Literal["kept", "finished", "dropped"]


@dataclass(frozen=True)
class Candidate:
    """A text that a step of the search looked at: one of the beginnings, and one token more.

    Attributes:
        beam: of the beginning that it goes on from. token: what is added.
        total: the log-probability of all that was written. score: that over its length penalty.
        fate: it goes on, has ended, or is given up.
        becomes: the beam that it goes on as; ``None`` unless kept.
    """

    beam: int
    token: int
    total: float
    score: float
    fate: Fate
    becomes: int | None = None


Observer = Callable[[int, int, list[Candidate]], None]
"""Hears the row, the length that its texts now have, and the candidates of that step, the likeliest first."""
Bonus = Callable[[Sequence[Text], int], Sequence[float]]
"""What is added to the scores of texts that have said so many tokens, their end counted: at most 0."""


@dataclass(frozen=True)
class Beams:
    """How one text is searched for.

    Attributes:
        width: how many beginnings are carried on.
        ends: tokens that end a text.
        penalty: what the log-probability of a text is divided by.
        patience: stop as soon as so many times ``width`` texts are finished (Kasai et al. 2022; 1 is what many call
            early stopping); ``None`` goes on until no beginning could still displace a finished text.
        written: how many tokens at the end of the prompt count as written, where a first token is forced.
        rises: whether a log-probability may grow as a text goes on, by rules that lift scores.
    """

    width: int
    ends: tuple[int, ...] = ()
    penalty: LengthPenalty = PAPER
    patience: float | None = None
    written: int = 0
    rises: bool = False

    def __post_init__(self) -> None:
        check(self.width > 0, "beams", self.width, "1 or more")
        check(self.patience is None or self.patience > 0, "patience", self.patience, "more than 0")

    @property
    def candidates(self) -> int:
        """How many to look at: as many as there are when each beam ends in every way it can."""
        return max(2, 1 + len(self.ends)) * self.width


class Search:
    """One search, a step at a time. It begins with one beginning and goes on with ``width``.

    Args:
        longest: how many tokens a text may have; what is unfinished then competes as it stands.
        stops: whether a text is over after its last token, besides by ``ends``, as at a stop string.
        bonus: added to the score of a text that is finished, such as a coverage penalty.

    Attributes:
        texts, totals: the beginnings, and their log-probabilities; -inf for a beam that is not in use.
        found: what is finished, best first.
        is_over: there is nothing to go on with, or no reason to.
    """

    def __init__(
        self,
        beams: Beams,
        longest: int,
        *,
        stops: Stops | None = None,
        bonus: Bonus | None = None,
    ) -> None:
        self.beams, self.longest, self.stops, self.bonus = beams, longest, stops, bonus
        self.texts: list[Text] = [()]
        self.totals: list[float] = [0.0]
        self.found: list[Hypothesis] = []
        self.is_over = longest < 1
        if self.is_over:
            self.found.append(Hypothesis((), 0.0))
        self.kindest = max(self.divisor(length) for length in (1, max(longest, 1)))

    def divisor(self, length: int) -> float:
        """What the log-probability of so many new tokens is divided by."""
        return self.beams.penalty(length + self.beams.written)

    def take(self, values: Sequence[float], origins: Sequence[int], tokens: Sequence[int]) -> list[Candidate]:
        """Takes in the candidates of a step, the likeliest first; tells what becomes of each that is possible.

        Args:
            values: (C,) log-probabilities. origins: the beams that they go on from. tokens: what each adds.
        """
        width, length = self.beams.width, len(self.texts[0]) + 1
        divisor = self.divisor(length)
        judged: list[Candidate] = []
        kept: list[tuple[Text, float]] = []
        finished: list[Ended] = []
        for place, (total, beam, token) in enumerate(zip(values, origins, tokens, strict=True)):
            if total == -math.inf:
                continue
            text, fate, becomes = (*self.texts[beam], token), "dropped", None
            ends, counts = token in self.beams.ends, place < width or len(kept) < width
            if ends or (counts and self.stops is not None and self.stops(text)):
                # As in a search that takes the best W candidates: an end ranked below them does not count.
                if place < width:
                    fate = "finished"
                    finished.append((text[:-1], total, token) if ends else (text, total, None))
            elif len(kept) < width:
                fate, becomes = "kept", len(kept)
                kept.append((text, total))
            judged.append(Candidate(beam, token, total, total / divisor, fate, becomes))  # type: ignore[arg-type]
        self._file(finished, length)
        self._go_on(kept, length)
        return judged

    def lacks(self, values: Sequence[float], origins: Sequence[int], tokens: Sequence[int]) -> bool:
        """Whether more candidates are to be looked at: a stop may end a text at any token, and so many of these."""
        if self.stops is None or self.is_over or values[-1] == -math.inf:
            return False
        going = 0
        for beam, token in zip(origins, tokens, strict=True):
            going += token not in self.beams.ends and not self.stops((*self.texts[beam], token))
            if going == self.beams.width:
                return False
        return True

    def steps(self, judged: Sequence[Candidate]) -> tuple[list[int], list[int]]:
        """The beams to go on from and the tokens to feed them, one for every beam, in use or not."""
        kept = [one for one in judged if one.becomes is not None]
        kept += [Candidate(0, 0, -math.inf, -math.inf, "dropped")] * (self.beams.width - len(kept))
        return [one.beam for one in kept], [one.token for one in kept]

    def best(self) -> list[Hypothesis]:
        """The best ``width`` texts, best first."""
        return sorted(self.found, key=lambda one: -one.score)[: self.beams.width]

    def _file(self, texts: Sequence[Ended], said: int) -> None:
        if not texts:
            return
        divisor = self.divisor(said)
        extra = self.bonus([text for text, _, _ in texts], said) if self.bonus else [0.0] * len(texts)
        scored = zip(texts, extra, strict=True)
        self.found += [Hypothesis(text, t / divisor + more, end) for (text, t, end), more in scored]
        self.found.sort(key=lambda one: -one.score)
        if self.beams.patience is None:
            del self.found[self.beams.width :]

    def _go_on(self, kept: Sequence[tuple[Text, float]], length: int) -> None:
        """The beginnings that go on; decides whether the search is over."""
        if not kept:  # rules have left no way on: what stood there before competes as it stands
            before = zip(self.texts, self.totals, strict=True)
            if not self.found:
                self._file([(text, t, None) for text, t in before if t > -math.inf and text], length - 1)
            self.found = self.found or [Hypothesis((), 0.0, None)]  # nothing can be written at all
            self.is_over = True
            return
        idle = [(kept[0][0], -math.inf)] * (self.beams.width - len(kept))
        self.texts, self.totals = (list(part) for part in zip(*kept, *idle, strict=True))
        if length >= self.longest:
            self._file([(text, t, None) for text, t in kept], length)
            self.is_over = True
        else:
            self.is_over = self._settled()

    def _settled(self) -> bool:
        """Whether enough is found, or no beginning can still displace a finished text.

        A log-probability only falls as a text goes on; what it can hope for is its present one over the kindest
        penalty.
        """
        if self.beams.patience is not None:
            return len(self.found) >= self.beams.patience * self.beams.width
        enough = len(self.found) == self.beams.width and not self.beams.rises
        return enough and self.found[-1].score >= max(self.totals) / self.kindest


def likeliest(
    totals: Float[Tensor, "B W"], scores: Float[Tensor, "R V"], count: int
) -> tuple[Float[Tensor, "B C"], Int[Tensor, "B C"], Int[Tensor, "B C"]]:
    """The likeliest ways for each row to go on, best first: their totals, the beams they go on from, the tokens."""
    tokens = highest(scores, count)  # of each beam: no other can be among those of its row
    each = tokens.size(1)
    everything = (totals.flatten()[:, None] + scores.gather(1, tokens)).view(totals.size(0), -1)
    values, places = everything.topk(min(count, everything.size(1)), dim=1)
    return values, places // each, tokens.view(totals.size(0), -1).gather(1, places)


def candidates(
    searches: Sequence[Search], totals: Float[Tensor, "B W"], scores: Float[Tensor, "R V"]
) -> list[tuple[list[float], list[int], list[int]]]:
    """What :meth:`Search.take` takes of each, as many as all need."""
    count = max(search.beams.candidates for search in searches)
    while True:
        rows = list(zip(*(part.tolist() for part in likeliest(totals, scores, count)), strict=True))
        lacking = any(search.lacks(*row) for search, row in zip(searches, rows, strict=True))
        if not lacking or count >= scores.numel():
            return rows
        count *= 2


def beam_search(
    model: WritingModel,
    prompt: Prompt,
    *,
    beams: int,
    max_new_tokens: Lengths,
    ends: Sequence[int],
    penalty: LengthPenalty = PAPER,
    filters: Sequence[AnyRule] = (),
    written: int = 0,
    observer: Observer | None = None,
    patience: float | None = None,
    stops: Sequence[Stops] | None = None,
    bonuses: Sequence[Bonus] | None = None,
    writer: Writer | None = None,
) -> list[list[Hypothesis]]:
    """The best ``beams`` texts of each row, best first.

    A row ends when no beginning could still beat its worst finished text, or at ``max_new_tokens``, where what is
    unfinished competes as it stands; with ``patience`` as :class:`Beams` says. A row in which rules leave no way on
    ends with what it has, an empty text where that is nothing.

    Args:
        ends: tokens that end a text.
        filters: filters and rules, applied to the log-probabilities of each step, which are not made to add up to 1
            again: a text is as likely as the model finds it.
        written: how many tokens at the end of the prompt count as written, where a first token is forced.
        observer: hears what every step looked at and what became of it.
        stops, bonuses: of each row, as :class:`Search` takes them.
        writer: writes in the model's place, as an engine made of it does.
    """
    limits = rooms(model, prompt, max_new_tokens)
    settings = Beams(beams, tuple(ends), penalty, patience, written, rises(filters))
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits, state = prefill(model, prompt, max(limits, default=0)) if writer is None else begin(writer, prompt)
            go = _going(state) if isinstance(state, State) else carried(state.writer, state.rows, beams)
            searches = [
                Search(settings, limit, stops=stops and stops[row], bonus=bonuses and bonuses[row])  # type: ignore[arg-type]
                for row, limit in enumerate(limits)
            ]
            run(searches, logits, Written.after(prompt.tokens, prompt.keep), filters, go, observer)
            return [search.best() for search in searches]
    finally:
        model.mark_step(None)
        model.train(was_training)


def _going(state: State) -> Go:
    def go(rows: Int[Tensor, " R"], tokens: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
        state.select(rows)
        return step(state, tokens)

    return go


def run(
    searches: Sequence[Search],
    logits: Float[Tensor, "B V"],
    text: Written,
    rules: Sequence[AnyRule],
    go: Callable[[Int[Tensor, " R"], Int[Tensor, " R"]], Float[Tensor, "R V"]],
    observer: Observer | None = None,
) -> None:
    """Searches side by side, of the same width, until all are over; those that are leave the others.

    Args:
        logits: of what follows each prompt.
        text: the prompts.
        go: goes on from some of its rows, each by a token; the scores of what follows.
    """
    here = list(enumerate(searches))
    beams = 1  # there is one beginning of each row
    while here:
        scores = apply(rules, logits.float().log_softmax(dim=-1), text)
        totals = torch.tensor([search.totals for _, search in here], dtype=scores.dtype, device=scores.device)
        found = candidates([search for _, search in here], totals, scores)
        stay: list[tuple[int, Search]] = []
        rows: list[int] = []
        tokens: list[int] = []
        for place, ((row, search), own) in enumerate(zip(here, found, strict=True)):
            if search.is_over:  # it may write nothing
                continue
            judged = search.take(*own)
            if observer is not None:
                observer(row, int(text.lengths[place * beams]) + 1, judged)
            if not search.is_over:
                origins, added = search.steps(judged)
                stay.append((row, search))
                rows += [place * beams + origin for origin in origins]
                tokens += added
        here = stay
        if here:
            beams = here[0][1].beams.width
            origin, token = (torch.tensor(part, device=scores.device) for part in (rows, tokens))
            text = text.select(origin).add(token)
            logits = go(origin, token)


def rises(rules: Sequence[AnyRule]) -> bool:
    """Whether rules may lift a log-probability above 0."""
    return any(isinstance(rule, Rule) and rule.raises for rule in rules)
