"""Translation with all that can be asked of it: beams, prefixes, rules, stop strings, unknown words, likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch

from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.alignments import Coverage, without_unknown
from pellucid.inference.batches import barred, expect, in_batches, padded
from pellucid.inference.beam import PAPER, Hypothesis, LengthPenalty, beam_search
from pellucid.inference.decode import Prompt, Reason, generations
from pellucid.inference.likelihood import Likelihood, likelihoods
from pellucid.inference.rules import AnyRule, ForcedPrefix, PerPrompt, SoftPrefix
from pellucid.inference.sampling import GREEDY, Sampling
from pellucid.inference.stopping import Stop, StopStrings
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder_decoder import EncoderDecoder


@dataclass(frozen=True)
class Output:
    """A text that was written.

    Attributes:
        tokens: its tokens, without the one that ends it; a stop string stays among them.
        score: of a beam search, its log-probability over its length penalty.
        reason: why it ended; ``None`` for a text of a beam search.
        likelihoods: where asked for, of each token, and last of the one that ends it, if one does.
        guessed: how many tokens were guessed ahead, and ``accepted``, how many of them were right.
    """

    text: str
    tokens: tuple[int, ...]
    score: float | None = None
    reason: Reason | None = None
    likelihoods: tuple[Likelihood, ...] = ()
    guessed: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class Searching:
    """How the best translation is looked for; see :func:`pellucid.inference.beam.beam_search`.

    Attributes:
        beams: 1 is greedy, or drawn.
        best: how many of the texts found are returned.
        coverage: for texts that leave nothing of the source out; ``None`` for none.
    """

    beams: int = 1
    penalty: LengthPenalty = PAPER
    patience: float | None = None
    coverage: Coverage | None = None
    best: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.best <= max(self.beams, 1):
            raise UserError("best", f"found {self.best}", f"from 1 to {self.beams}, the number of beams")


def translations(
    loaded: Loaded,
    texts: Sequence[str],
    search: Searching = Searching(),
    *,
    max_new_tokens: int | None = None,
    sampling: Sampling = GREEDY,
    languages: tuple[str | None, str | None] = (None, None),
    rules: Sequence[AnyRule] = (),
    prefixes: Sequence[str] | None = None,
    prefix_bias: float | None = None,
    stop: Sequence[str] = (),
    replace_unknown: bool = False,
    logprobs: int | None = None,
) -> list[list[Output]]:
    """The best targets of each source, best first: what :func:`translate` returns the text of, and more.

    Args:
        languages: of source and target, as for :func:`translate`.
        prefixes: what each target begins with.
        prefix_bias: how strongly it is drawn to its prefix until it departs from it; ``None`` forces the prefix.
        stop: strings that end a text and are no part of it.
        replace_unknown: put the source's own word where the unknown token was written.
        logprobs: how many of the likeliest tokens are told at each place; ``None`` tells nothing.

    Raises:
        UserError: as :func:`translate`, and for other counts of prefixes than texts.
    """
    if search.beams < 1 or (search.beams > 1 and sampling is not GREEDY):
        found = f"{search.beams} beams" + (" and a sampling" if sampling is not GREEDY else "")
        raise UserError("translate", found, "one beam or more; drawing goes with one")
    if prefixes is not None and len(prefixes) != len(texts):
        raise UserError("prefix", f"{len(prefixes)} for {len(texts)} texts", "one for each text")
    expect(loaded, EncoderDecoder, "translate", "an encoder–decoder that reads text")
    tokenizer = loaded.tokenizer.in_languages(*languages)
    heads = tokenizer.target.encode_batch(prefixes) if prefixes is not None else [[]] * len(texts)
    cut = zip(tokenizer.encode_batch(texts), heads, texts, strict=True)
    rows = [(tokenizer.source(ids), head, text) for ids, head, text in cut]
    asked = _Translating(
        loaded, tokenizer, search, max_new_tokens, sampling, tuple(rules), prefix_bias, tuple(stop), replace_unknown,
        logprobs,
    )  # fmt: skip
    batches = count()

    def run(part: list[tuple[list[int], list[int], str]]) -> list[list[Output]]:
        return replace(asked, sampling=sampling.of_batch(next(batches))).run(part)

    return in_batches(rows, run, rows_at_once=max(1, 256 // search.beams), length=lambda row: len(row[0]))


@dataclass(frozen=True)
class _Translating:
    """One batch of translations; the fields are arguments of :func:`translations`."""

    loaded: Loaded
    tokenizer: Tokenizer
    search: Searching
    max_new_tokens: int | None
    sampling: Sampling
    rules: tuple[AnyRule, ...]
    prefix_bias: float | None
    stop: tuple[str, ...]
    replace_unknown: bool
    logprobs: int | None

    def run(self, rows: list[tuple[list[int], list[int], str]]) -> list[list[Output]]:
        """Of rows of a source's tokens, a target's first tokens, and the source."""
        model, target, search = self.loaded.model, self.tokenizer.target, self.search
        assert isinstance(model, EncoderDecoder)  # translations has checked it
        source, keep = padded([row[0] for row in rows], self.tokenizer.require("pad"), model.device)
        start = torch.tensor([[*target.start, *target.forced]], device=model.device).expand(len(rows), -1)
        prompt = Prompt(start, source=source, source_keep=keep)
        own = self.max_new_tokens
        longest = [len(row[0]) + 50 for row in rows] if own is None else own
        rules = (*self.rules, *barred(target), *self._prefixed([tuple(row[1]) for row in rows]))
        stops = [Stop(target, StopStrings(self.stop)) for _ in rows] if self.stop else None
        if search.beams == 1:
            choose = replace(self.sampling, filters=(*rules, *self.sampling.filters))
            told = generations(model, prompt, max_new_tokens=longest, ends=target.ends, sampling=choose, stops=stops,
                               logprobs=self.logprobs, writer=self.loaded.writer)  # fmt: skip
            return [
                [Output(self._text(row[2], one.tokens), one.tokens, None, one.reason, one.likelihoods)]
                for row, one in zip(rows, told, strict=True)
            ]
        written = len(target.forced)
        found = beam_search(
            model,
            prompt,
            beams=search.beams,
            max_new_tokens=longest,
            ends=target.ends,
            penalty=search.penalty,
            filters=rules,
            written=written,
            patience=search.patience,
            stops=stops,
            bonuses=None if search.coverage is None else search.coverage.bonuses(model, prompt, written),
            writer=self.loaded.writer,
        )
        return [
            [self._told(row, start[0].tolist(), one) for one in best[: search.best]]
            for row, best in zip(rows, found, strict=True)
        ]

    def _prefixed(self, prefixes: Sequence[tuple[int, ...]]) -> tuple[AnyRule, ...]:
        if not any(prefixes):
            return ()
        bias = self.prefix_bias
        own = [ForcedPrefix(prefix) if bias is None else SoftPrefix(prefix, bias) for prefix in prefixes]
        return (PerPrompt(tuple((rule,) for rule in own)),)

    def _text(self, source: str, tokens: Sequence[int]) -> str:
        target = self.tokenizer.target
        if self.replace_unknown:
            text = without_unknown(Loaded(self.loaded.model, self.tokenizer, None), source, tokens)
        else:
            text = target.decode(tokens)
        return StopStrings(self.stop).cut(text)

    def _told(self, row: tuple[list[int], list[int], str], start: list[int], found: Hypothesis) -> Output:
        likely: list[Likelihood] = []
        if self.logprobs is not None and (found.tokens or found.end is not None):
            said = [*found.tokens, *([] if found.end is None else [found.end])]
            device = self.loaded.model.device
            # The last token is not fed: there may be no position for it.
            read, whole = (torch.tensor([ids], device=device) for ids in (row[0], [*start, *said[:-1]]))
            logits = self.loaded.model(read, whole)[0, len(start) - 1 :]
            likely = likelihoods(logits[: len(said)], said, self.logprobs)
        return Output(self._text(row[2], found.tokens), found.tokens, found.score, None, tuple(likely))
