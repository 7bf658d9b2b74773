"""Text in, text out: what a trained model is for.

Shapes: B texts, T positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.inference.batches import barred, expect, in_batches, padded
from pellucid.inference.beam import PAPER, LengthPenalty
from pellucid.inference.decode import Prompt, generations, stream
from pellucid.inference.reading import GAP, gapped
from pellucid.inference.rules import AnyRule
from pellucid.inference.sampling import GREEDY, Sampling
from pellucid.inference.stopping import Release, Spoken, Stop, StopStrings
from pellucid.inference.translating import Output, Searching, translations
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder

IMAGES_AT_ONCE = 16


def translate(
    loaded: Loaded,
    texts: Sequence[str],
    *,
    beams: int = 1,
    penalty: LengthPenalty = PAPER,
    max_new_tokens: int | None = None,
    sampling: Sampling = GREEDY,
    source_language: str | None = None,
    target_language: str | None = None,
    rules: Sequence[AnyRule] = (),
) -> list[str]:
    """The target of each source; greedy unless there are beams or a sampling.

    Args:
        max_new_tokens: by default the source's length + 50, as in the paper (§6.1).
        source_language, target_language: special tokens such as ``de_DE``, for a model of several languages.
        rules: applied before the sampling, and in beams.

    Raises:
        UserError: for a model that does not translate text, fewer than one beam, or beams that are to be drawn.
    """
    search = Searching(beams, penalty)
    languages = (source_language, target_language)
    found = translations(
        loaded,
        texts,
        search,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        languages=languages,
        rules=rules,
    )
    return [best[0].text for best in found]


def complete(
    loaded: Loaded,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 100,
    sampling: Sampling = GREEDY,
    rules: Sequence[AnyRule] = (),
    stop: Sequence[str] = (),
) -> list[str]:
    """What a decoder writes after each prompt; an empty one starts from the begin-of-sequence token.

    Args:
        rules: applied before the filters of the sampling.
        stop: strings that end a text and are no part of it.
    """
    told = completions(loaded, prompts, max_new_tokens=max_new_tokens, sampling=sampling, rules=rules, stop=stop)
    return [one.text for one in told]


def completions(
    loaded: Loaded,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 100,
    sampling: Sampling = GREEDY,
    rules: Sequence[AnyRule] = (),
    stop: Sequence[str] = (),
    logprobs: int | None = None,
) -> list[Output]:
    """The same, with what else there is to tell of it.

    Args:
        logprobs: how many of the likeliest tokens are told at each place; ``None`` tells nothing.
    """
    model = expect(loaded, Decoder, "generate", "a decoder")
    tokenizer, strings = loaded.tokenizer, StopStrings(tuple(stop))
    choose = replace(sampling, filters=(*rules, *barred(tokenizer), *sampling.filters))

    def run(rows: list[list[int]]) -> list[Output]:
        tokens, keep = padded(rows, tokenizer.require("pad"), model.device)
        stops = [Stop(tokenizer, strings, tuple(row)) for row in rows] if stop else None
        told = generations(model, Prompt(tokens, keep=keep), max_new_tokens=max_new_tokens, ends=tokenizer.ends,
                           sampling=choose, stops=stops, logprobs=logprobs)  # fmt: skip
        texts = [strings.cut(tokenizer.continuation(row, one.tokens)) for row, one in zip(rows, told, strict=True)]
        return [
            Output(text, one.tokens, None, one.reason, one.likelihoods) for text, one in zip(texts, told, strict=True)
        ]

    return in_batches([tokenizer.prompt(ids) for ids in tokenizer.encode_batch(prompts)], run, rows_at_once=64)


def write(
    loaded: Loaded,
    prompt: str,
    *,
    max_new_tokens: int = 100,
    sampling: Sampling = GREEDY,
    rules: Sequence[AnyRule] = (),
    stop: Sequence[str] = (),
) -> Iterator[str]:
    """The same for one prompt, yielding the text as it grows, in whole characters, and nothing of a stop string."""
    model = expect(loaded, Decoder, "generate", "a decoder")
    tokenizer = loaded.tokenizer
    before = tokenizer.prompt(tokenizer.encode(prompt))
    choose = replace(sampling, filters=(*rules, *barred(tokenizer), *sampling.filters))
    spoken, release = Spoken(tokenizer, before), Release(StopStrings(tuple(stop)))
    prompted = Prompt(torch.tensor([before], device=model.device))
    for (token,) in stream(model, prompted, max_new_tokens=max_new_tokens, ends=tokenizer.ends, sampling=choose):
        if token is None or token in tokenizer.ends:
            break
        if new := release.feed(spoken.add(token)):
            yield new
        if release.is_over:
            return
    if rest := release.feed(spoken.rest()) + release.rest():
        yield rest


@dataclass(frozen=True)
class Fill:
    """A text with its gap filled, the piece that was put in, and its probability."""

    text: str
    piece: str
    probability: float


def fill(loaded: Loaded, text: str, *, top: int = 5) -> list[Fill]:
    """The likeliest pieces for the one ``<mask>`` in a text.

    Raises:
        UserError: when there is not exactly one gap.
    """
    model = expect(loaded, Encoder, "fill", "an encoder with a masked-language head", config.MaskedLanguage)
    if (gaps := text.count(GAP)) != 1:
        raise UserError("fill", f"{gaps} gaps in {text!r}", f"one {GAP}", f'try "the {GAP} statement"')
    tokenizer = loaded.tokenizer
    cut, mask = gapped(tokenizer, text), tokenizer.require("mask")
    framed, gap = tokenizer.excerpt(cut), cut.index(mask)
    with torch.inference_mode():
        scores = model(torch.tensor([framed], device=model.device))[0, framed.index(mask)]
    probabilities = scores.float().softmax(dim=-1)
    best = probabilities.topk(min(top, probabilities.numel()))
    return [
        Fill(tokenizer.decode([*cut[:gap], token, *cut[gap + 1 :]]), tokenizer.pieces([token])[0], probability)
        for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Label:
    """The likeliest label of a text, and the probability of every label."""

    label: str
    probabilities: dict[str, float]

    @property
    def probability(self) -> float:
        """Of the likeliest label."""
        return self.probabilities[self.label]


def classify(loaded: Loaded, inputs: Sequence[Any]) -> list[Label]:
    """The label of each text; of each image, Pillow's or an array of bytes (Y, X, C), for a model that reads those."""
    wanted = "an encoder with a classification head"
    front = config.Tokens if loaded.images is None else config.Patches
    model = expect(loaded, Encoder, "classify", wanted, config.Classification, front)
    head = model.config.head
    assert isinstance(head, config.Classification)  # _expect has checked it

    def labelled(scores: Float[Tensor, "B C"]) -> list[Label]:
        rows = [dict(zip(head.labels, row, strict=True)) for row in scores.float().softmax(dim=-1).tolist()]
        return [Label(max(row, key=lambda label: row[label]), row) for row in rows]

    def run(rows: list[list[int]]) -> list[Label]:
        tokens, keep = padded(rows, loaded.tokenizer.require("pad"), model.device)
        return labelled(model(tokens, keep=keep))

    if loaded.images is None:
        return in_batches(_framed(loaded, inputs), run)
    found: list[Label] = []
    with torch.inference_mode():
        for start in range(0, len(inputs), IMAGES_AT_ONCE):
            found += labelled(model(loaded.images(inputs[start : start + IMAGES_AT_ONCE]).to(model.device)))
    return found


def embed(loaded: Loaded, texts: Sequence[str]) -> Float[Tensor, "B D"]:
    """One vector per text: the head's, or for another encoder the mean of its last states, normalised."""
    model = expect(loaded, Encoder, "embed", "an encoder")
    from pellucid.models.heads import EmbeddingHead, pool_mean

    head = model.head if isinstance(model.head, EmbeddingHead) else EmbeddingHead(pool=pool_mean, normalized=True)

    def run(rows: list[list[int]]) -> list[Tensor]:
        tokens, keep = padded(rows, loaded.tokenizer.require("pad"), model.device)
        return list(head(model.features(tokens, keep=keep)).float())

    return torch.stack(in_batches(_framed(loaded, texts), run))


def _framed(loaded: Loaded, texts: Sequence[str]) -> list[list[int]]:
    return [loaded.tokenizer.text(ids) for ids in loaded.tokenizer.encode_batch(texts)]
