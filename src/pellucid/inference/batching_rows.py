"""What the rows of a batch choose, each by the rules of its own request.

Shapes: B rows, W beams, V vocabulary.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pellucid.inference.beam import Search, candidates, rises
from pellucid.inference.likelihood import Likelihood, likelihoods
from pellucid.inference.rules import NONE, AnyRule, Rule, Written, apply, impossible
from pellucid.inference.sampling import drawn
from pellucid.inference.streaming import StablePrefix


class Searching:
    """One beam search among other rows, a step at a time.

    Args:
        longest: how many tokens a text may have.

    Attributes:
        certain: the tokens that all its texts agree on; of a search that is over the best text.
    """

    def __init__(self, request: Any, longest: int, device: torch.device) -> None:
        self.rules = tuple(request.sampling.filters)
        beams = replace(request.beams, ends=tuple(request.ends), rises=rises(self.rules))
        self.search = Search(beams, longest, stops=request.stops)
        self.text = Written.of([request.prompt], device)
        self.certain: list[int] = []
        self.stable = StablePrefix(lambda _, tokens: self.certain.extend(tokens), request.ends)

    def step(self, logits: Float[Tensor, "W V"]) -> tuple[list[int], list[int]] | None:
        """The beams to go on from and the tokens to feed them; ``None`` when the search is over.

        Args:
            logits: of one row at the first step, of every beam later on.
        """
        scores = apply(self.rules, logits.float().log_softmax(dim=-1), self.text)
        totals = torch.tensor([self.search.totals], dtype=scores.dtype, device=scores.device)
        (found,) = candidates([self.search], totals, scores)
        judged = self.search.take(*found)
        if self.search.is_over:
            best = self.search.best()
            self.stable.finish(0, best[0].tokens if best else ())
            return None
        self.stable(0, self.text.tokens.size(1) + 1, judged)
        origins, tokens = self.search.steps(judged)
        rows, new = (torch.tensor(part, device=scores.device) for part in (origins, tokens))
        self.text = self.text.select(rows).add(new)
        return origins, tokens


@dataclass(eq=False)
class Slot:
    """The rows of one job.

    Attributes:
        next: the token that each row is fed next.
        generator: of its draws; ``None`` when it takes the likeliest token.
        search: ``None`` for a job of one row that chooses by itself.
        ids: its prompt, and as many of its tokens as rules were last shown.
    """

    job: Any
    next: list[int]
    filters: tuple[AnyRule, ...]
    generator: torch.Generator | None
    search: Searching | None
    logprobs: int | None
    ids: array[int]

    def text(self) -> Int[Tensor, " L"]:
        """Its prompt and tokens; of a text that grows only what is new is turned from Python's numbers."""
        self.ids.extend(self.job.tokens[len(self.ids) - len(self.job.request.prompt) :])
        return torch.frombuffer(self.ids, dtype=torch.long).clone() if self.ids else torch.empty(0, dtype=torch.long)

    @classmethod
    def of(cls, request: Any, job: Any, device: torch.device) -> Slot:
        """The row of a job that has just been read."""
        filters, seed = tuple(request.sampling.filters), request.sampling.seed
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        search = None if request.beams is None else Searching(request, job.limit, device)
        return cls(job, [0], filters, generator, search, request.logprobs, array("q", request.prompt))


class Choices:
    """The tokens that follow, of every row that is no part of a search.

    Attributes:
        tokens: by row.
        stuck: the rows in which rules have left no token; what such a row chose means nothing.
        likelihoods: by row, where it was asked for.
    """

    def __init__(self, logits: Float[Tensor, "B V"], slots: Sequence[Slot]) -> None:
        self.tokens: dict[int, int] = {}
        self.stuck: set[int] = set()
        self.likelihoods: dict[int, Likelihood] = {}
        rows = [(row, slot) for row, slot in _starts(slots) if slot.search is None]
        # Rows of equal rules are worked on together: a rule looks at each row by itself.
        groups: dict[tuple[bool, tuple[AnyRule, ...]], list[tuple[int, Slot]]] = defaultdict(list)
        for row, slot in rows:
            groups[slot.generator is not None, slot.filters].append((row, slot))
        for (draws, filters), group in groups.items():
            self._choose(_picked(logits, [row for row, _ in group]), draws, filters, group)
        self._tell(logits, [(row, slot.logprobs) for row, slot in rows if slot.logprobs is not None])

    def _choose(
        self, scores: Tensor, draws: bool, filters: tuple[AnyRule, ...], group: Sequence[tuple[int, Slot]]
    ) -> None:
        scores, rows = scores.float(), [row for row, _ in group]
        if filters:
            scores = apply(filters, scores, _written(filters, [slot for _, slot in group], scores.device))
            self.stuck.update(row for row, is_stuck in zip(rows, impossible(scores).tolist(), strict=True) if is_stuck)
        if draws:
            draw = torch.cat([torch.rand(1, 1, generator=slot.generator, device=scores.device) for _, slot in group])
            tokens = drawn(scores.softmax(dim=-1), draw)
        else:
            tokens = scores.argmax(dim=-1)
        self.tokens.update(zip(rows, tokens.tolist(), strict=True))

    def _tell(self, logits: Tensor, asked: list[tuple[int, int]]) -> None:
        if not asked:
            return
        rows = [row for row, _ in asked]
        found = likelihoods(_picked(logits, rows), [self.tokens[row] for row in rows], max(most for _, most in asked))
        for (row, most), one in zip(asked, found, strict=True):
            self.likelihoods[row] = replace(one, best=one.best[:most])


def _starts(slots: Sequence[Slot]) -> Iterator[tuple[int, Slot]]:
    row = 0
    for slot in slots:
        yield row, slot
        row += len(slot.next)


def _written(filters: Sequence[AnyRule], slots: Sequence[Slot], device: torch.device) -> Written:
    """What the rules are shown of each text: nothing where none of them looks."""
    if not any(isinstance(rule, Rule) for rule in filters):
        return Written.of([()] * len(slots), device)
    tokens = pad_sequence([slot.text() for slot in slots], True, NONE, "left").to(device)
    lengths = torch.tensor([len(slot.job.tokens) for slot in slots], device=device)
    return Written(tokens, lengths, torch.arange(len(slots), device=device))


def _picked(logits: Tensor, rows: list[int]) -> Tensor:
    return logits if len(rows) == logits.size(0) else logits[torch.tensor(rows, device=logits.device)]
