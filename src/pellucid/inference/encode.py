"""What an encoder is asked: vectors, labels, gaps. Texts are sorted by length and read within a budget.

:class:`EncoderTasks` asks a reader for states and puts the answers into the order of the questions.

Shapes: N tokens of all texts, B texts, D d_model, C labels, G gaps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from tokenizers import Encoding
from torch import Tensor

from pellucid.config import model as config
from pellucid.data.tokenizers import Tokenizer, check_whole
from pellucid.errors import UserError
from pellucid.inference.batches import expect
from pellucid.inference.reader import Flat, Padded, Reader
from pellucid.inference.reading import GAP, gapped
from pellucid.inference.rules import check
from pellucid.inference.tagging import Span, words_of
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder import Encoder
from pellucid.models.heads import EmbeddingHead, TokenClassificationHead, pool_first
from pellucid.models.tower import Encoded
from pellucid.nn.masks import Sites

GAPS_AT_ONCE = 256

Pair = tuple[str, str]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Fill:
    """A text with its gap filled, the piece that was put in, and its probability."""

    text: str
    piece: str
    probability: float


@dataclass(frozen=True)
class Label:
    """The likeliest label of a text, and the probability of every label."""

    label: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        """Of the likeliest label."""
        return self.probabilities[self.label]


class EncoderTasks:
    """Everything that an encoder can be asked, as its head allows.

    Args:
        reader: how it reads; by default as the model was loaded, by an engine or by itself.
        budget: tokens of one batch, the longest text's for each; by default the reader's.

    Raises:
        UserError: for a model that is no encoder of text.
    """

    def __init__(self, loaded: Loaded, reader: Reader | None = None, *, budget: int = 0) -> None:
        self.model = expect(loaded, Encoder, "reading", "an encoder that reads text")
        self.loaded, self.tokenizer = loaded, loaded.tokenizer
        self.read: Reader = reader or loaded.reader or Padded(self.model, loaded.tokenizer.require("pad"))
        self.budget = budget or self.read.budget

    def embed(
        self, texts: Sequence[str], *, pooling: config.Pooling | None = None, normalized: bool | None = None
    ) -> Float[Tensor, "B D"]:
        """One vector per text: what the head makes of it; of an encoder with another head the mean, of unit length.

        Args:
            pooling: in place of the head's; its dense layer is then left out.
            normalized: whether vectors have unit length, in place of what the head says.
        """
        settings = self.model.config.head
        own = settings if isinstance(settings, config.Embedding) else config.Embedding()
        head = self.model.head
        if pooling is not None or normalized is not None or not isinstance(head, EmbeddingHead):
            dense = head.dense if isinstance(head, EmbeddingHead) and pooling is None else None
            unit = own.normalized if normalized is None else normalized
            head = EmbeddingHead(pool=pool_first, dense=dense, normalized=unit)
        rows = [self.tokenizer.text(ids) for ids in self.tokenizer.encode_batch(texts)]
        found = self._each(rows, lambda flat, _: list(head(_as_one(pooled(flat, pooling or own.pooling))).float()))
        return torch.stack(found) if found else torch.empty(0, self.model.config.stack.d_model)

    def classify(self, texts: Sequence[str | Pair]) -> list[Label]:
        """The label of each text, or of each pair of texts read together.

        Raises:
            UserError: for a model without a classification head.
        """
        return labelled(self.scores(texts), self._classification().labels)

    def scores(self, texts: Sequence[str | Pair]) -> Float[Tensor, "B C"]:
        """The score of each label, before any softmax: for pairs what a cross-encoder says (Nogueira & Cho 2019).

        Raises:
            UserError: for a model without a classification head.
        """
        settings = self._classification()
        rows, types = self._framed(texts)

        def score(flat: Flat, now: Sequence[int]) -> list[Tensor]:
            # The head's own pooling of one position is that position.
            return list(self.model.head(_as_one(pooled(flat, settings.pooling))).float())

        found = self._each(rows, score, types)
        return torch.stack(found) if found else torch.empty(0, len(settings.labels))

    def tag(self, texts: Sequence[str]) -> list[list[Span]]:
        """The label of each word of each text, ``O`` included; :func:`~pellucid.inference.tagging.names` joins them.

        Raises:
            UserError: for a model without a head that labels tokens, or a text that it has to be cut for.
        """
        wanted = "an encoder with a head that labels tokens"
        expect(self.loaded, Encoder, "tag", wanted, config.TokenClassification)
        head, settings = self.model.head, self.model.config.head
        assert isinstance(head, TokenClassificationHead)  # expect has checked both
        assert isinstance(settings, config.TokenClassification)
        for text in texts:
            check_whole(text)
        cut = self.tokenizer.raw.encode_batch(list(texts), add_special_tokens=False)
        rows = [self.tokenizer.text(encoding.ids) for encoding in cut]
        around = len(self.tokenizer.text([]))
        for text, encoding, row in zip(texts, cut, rows, strict=True):
            if len(row) < len(encoding.ids) + around:
                most = f"at most {len(row) - around:,} tokens"
                raise UserError("tag", f"{len(encoding.ids):,} in {text[:40]!r}…", most, "split it, by sentences")

        def label(flat: Flat, now: Sequence[int]) -> list[list[Span]]:
            likely, best = head.scores(flat.states).float().softmax(dim=-1).max(dim=-1)
            found = zip(likely.split(list(flat.lengths)), best.split(list(flat.lengths)), strict=True)
            return [list(self._words(texts[i], cut[i], rows[i], *each)) for i, each in zip(now, found, strict=True)]

        return self._each(rows, label)

    def _words(
        self, text: str, encoding: Encoding, row: list[int], likely: Float[Tensor, " T"], best: Int[Tensor, " T"]
    ) -> Iterator[Span]:
        labels = self.model.config.head.labels  # type: ignore[union-attr]  # tag has checked it
        before = row.index(encoding.ids[0]) if encoding.ids else 0  # what stands around a text is in none
        for token, start, end in words_of(encoding):
            place = before + token
            start += len(text[start:end]) - len(text[start:end].lstrip())  # a space that a piece takes along
            yield Span(labels[best[place]], text[start:end], start, end, likely[place].item())

    def fill(self, texts: Sequence[str], *, top: int = 5) -> list[list[list[Fill]]]:
        """The likeliest pieces for every ``<mask>`` of each text, gap by gap, each as if it were the only one.

        In the text of a :class:`Fill`, other gaps hold their own likeliest pieces.

        Raises:
            UserError: for a text without a gap, or a model without a masked-language head.
        """
        expect(self.loaded, Encoder, "fill", "an encoder with a masked-language head", config.MaskedLanguage)
        check(top > 0, "top", top, "1 or more")
        for text in texts:
            if GAP not in text:
                raise UserError("fill", f"0 gaps in {text!r}", f"one {GAP} or more", f'try "the {GAP} statement"')
        mask = self.tokenizer.require("mask")
        cut = [gapped(self.tokenizer, text) for text in texts]
        rows = [self.tokenizer.excerpt(ids) for ids in cut]
        for text, ids, row in zip(texts, cut, rows, strict=True):
            if row.count(mask) < ids.count(mask):
                found = f"a gap behind the first {len(row):,} tokens of {text[:40]!r}…"
                raise UserError("fill", found, "a shorter text")

        def best(flat: Flat, now: Sequence[int]) -> list[list[tuple[list[int], list[float]]]]:
            tokens = torch.tensor([token for i in now for token in rows[i]], device=flat.states.device)
            found = iter(self._likeliest(flat.states[tokens == mask], top))
            return [[next(found) for _ in range(rows[i].count(mask))] for i in now]

        return [self._filled(ids, found, mask) for ids, found in zip(cut, self._each(rows, best), strict=True)]

    def _likeliest(self, states: Float[Tensor, "G D"], top: int) -> Iterator[tuple[list[int], list[float]]]:
        """For each gap the likeliest tokens and their probabilities; the vocabulary is scored at gaps alone."""
        for some in torch.split(states, GAPS_AT_ONCE):
            probabilities = self.model.head.scores(some).float().softmax(dim=-1)  # type: ignore[operator]
            values, tokens = probabilities.topk(min(top, probabilities.size(-1)))
            yield from zip(tokens.tolist(), values.tolist(), strict=True)

    def _filled(
        self, ids: Sequence[int], found: Sequence[tuple[list[int], list[float]]], mask: int
    ) -> list[list[Fill]]:
        gaps = [place for place, token in enumerate(ids) if token == mask]
        whole = list(ids)
        for place, (tokens, _) in zip(gaps, found, strict=True):
            whole[place] = tokens[0]
        filled = []
        for place, (tokens, values) in zip(gaps, found, strict=True):
            texts = [self.tokenizer.decode([*whole[:place], token, *whole[place + 1 :]]) for token in tokens]
            filled.append([Fill(*each) for each in zip(texts, self.tokenizer.pieces(tokens), values, strict=True)])
        return filled

    def _framed(self, texts: Sequence[str | Pair]) -> tuple[list[list[int]], list[list[int]] | None]:
        """Tokens, and their types where there are pairs and the model has types."""
        longest = self.model.max_length
        pairs = [None if isinstance(text, str) else _pair_of(text) for text in texts]
        both = [None if pair is None else paired(self.tokenizer, *pair, longest) for pair in pairs]
        singles = [text for text in texts if isinstance(text, str)]
        alone = iter([self.tokenizer.text(ids) for ids in self.tokenizer.encode_batch(singles)])
        rows = [next(alone) if pair is None else pair[0] for pair in both]
        front = self.model.config.front
        if not isinstance(front, config.Tokens) or front.token_types < 2 or all(pair is None for pair in both):
            return rows, None
        return rows, [[0] * len(row) if pair is None else pair[1] for row, pair in zip(rows, both, strict=True)]

    def _each(
        self,
        rows: Sequence[list[int]],
        finish: Callable[[Flat, Sequence[int]], list[Result]],
        types: Sequence[list[int]] | None = None,
    ) -> list[Result]:
        """Reads rows of like length together; returns what is made of each in the order asked."""
        results: dict[int, Result] = {}
        with torch.inference_mode():
            for now in in_budget([len(row) for row in rows], self.budget):
                flat = self.read([rows[i] for i in now], None if types is None else [types[i] for i in now])
                flat = replace(flat, states=flat.states.to(self.model.dtype))  # an engine's are always float32
                results.update(zip(now, finish(flat, now), strict=True))
        return [results[i] for i in range(len(rows))]

    def _classification(self) -> config.Classification:
        expect(self.loaded, Encoder, "classify", "an encoder with a classification head", config.Classification)
        head = self.model.config.head
        assert isinstance(head, config.Classification)  # expect has checked it
        return head


def _pair_of(given: Sequence[str]) -> Pair:
    """Two texts, however they were put together.

    Raises:
        UserError: for anything else.
    """
    if not isinstance(given, Sequence) or [type(text) for text in given] != [str, str]:
        raise UserError("texts", f"found {given!r:.60}", "a text, or a pair of texts")
    return given[0], given[1]


def labelled(scores: Float[Tensor, "B C"], labels: Sequence[str]) -> list[Label]:
    """The likeliest label of each row of scores, and the probability of all; of one label its logistic function."""
    likely = scores.float().softmax(dim=-1) if len(labels) > 1 else scores.float().sigmoid()
    rows = [dict(zip(labels, row, strict=True)) for row in likely.tolist()]
    return [Label(max(row, key=lambda label: row[label]), row) for row in rows]


def pooled(flat: Flat, pooling: config.Pooling) -> Float[Tensor, "B D"]:
    """One vector per text: its first state, or the mean or maximum of all."""
    match pooling:
        case "first":
            return torch.stack([part[0] for part in flat.each()])
        case "mean":
            return torch.stack([part.mean(dim=0) for part in flat.each()])
        case "max":
            return torch.stack([part.amax(dim=0) for part in flat.each()])


def _as_one(vectors: Float[Tensor, "B D"]) -> Encoded:
    """Vectors as texts of one position, which is what any head makes of them that pools."""
    return Encoded(vectors[:, None], Sites.of(vectors.size(0), 1, vectors.device))


def in_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Which texts to read together: the longest first, as many as fit a budget of tokens padded to the longest."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        count = max(1, budget // max(lengths[order[0]], 1))
        yield order[:count]
        order = order[count:]


def paired(tokenizer: Tokenizer, first: str, second: str, longest: int | None = None) -> tuple[list[int], list[int]]:
    """Two texts as one, and which of them each token belongs to; of the longer, what does not fit is cut off.

    A published tokenizer that frames one text as we do is asked how it frames two; otherwise the first is framed as a
    text of its own, and the second follows up to an end of its own, as in BERT (Devlin et al. 2019, §3).
    """
    raw = tokenizer.raw
    check_whole(first)
    check_whole(second)
    a, b = (raw.encode(text, add_special_tokens=False) for text in (first, second))
    empty = tokenizer.text([])
    before = tokenizer.conventions.before if tokenizer.conventions else (tokenizer.require("bos"),)
    alone = [*before, *a.ids, *empty[len(before) :]]
    knows = raw.post_process(a, None, True).ids == alone and raw.num_special_tokens_to_add(True) > 0
    after = tokenizer.conventions.after if tokenizer.conventions else (tokenizer.require("eos"),)
    extra = raw.num_special_tokens_to_add(True) if knows else len(empty) + len(after)
    limits = [n for n in (longest, tokenizer.conventions and tokenizer.conventions.longest) if n]
    if limits and len(a.ids) + len(b.ids) + extra > min(limits):
        shares = _shares(len(a.ids), len(b.ids), max(min(limits) - extra, 0))
        a.truncate(shares[0])
        b.truncate(shares[1])
    if knows:
        both = raw.post_process(a, b, True)
        return both.ids, both.type_ids
    left = tokenizer.text(a.ids)
    return [*left, *b.ids, *after], [0] * len(left) + [1] * (len(b.ids) + len(after))


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """What two texts keep of a room that is too small: the longer gives first."""
    half = room // 2
    if first <= half:
        return first, room - first
    if second <= room - half:
        return room - second, second
    return half, room - half
