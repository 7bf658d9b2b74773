"""Text in, text out: what a trained model is for.

Shapes: B texts, T positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.config import model as config
from pellucid.errors import UserError
from pellucid.inference.batches import barred, expect, in_batches, padded
from pellucid.inference.beam import PAPER, LengthPenalty
from pellucid.inference.decode import Prompt, generations, stream
from pellucid.inference.encode import EncoderTasks, Fill, Label, labelled
from pellucid.inference.gaps import write_gap
from pellucid.inference.guesses import Guesser
from pellucid.inference.reading import GAP
from pellucid.inference.rules import AnyRule
from pellucid.inference.sampling import GREEDY, Sampling
from pellucid.inference.speculative import speculate, speculative_stream
from pellucid.inference.stopping import Release, Spoken, Stop, StopStrings
from pellucid.inference.tagging import Span, names
from pellucid.inference.translating import Output, Searching, translations
from pellucid.inference.writer import Writer
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder

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
    guesser: Guesser | None = None,
) -> list[str]:
    """What a decoder writes after each prompt; an empty one starts from the begin-of-sequence token.

    Args:
        rules: applied before the filters of the sampling.
        stop: strings that end a text and are no part of it.
        guesser: guesses some tokens ahead, which the model checks in one step: the same texts in fewer steps
            (draws follow the same probabilities, but are others).

    Raises:
        UserError: for a model that does not write, or a guesser where no engine checks what it guesses.
    """
    told = completions(
        loaded, prompts, max_new_tokens=max_new_tokens, sampling=sampling, rules=rules, stop=stop, guesser=guesser
    )
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
    guesser: Guesser | None = None,
) -> list[Output]:
    """The same, with what else there is to tell of it.

    Args:
        logprobs: how many of the likeliest tokens are told at each place; ``None`` tells nothing.
    """
    model = expect(loaded, Decoder, "generate", "a decoder")
    tokenizer, strings = loaded.tokenizer, StopStrings(tuple(stop))
    choose = replace(sampling, filters=(*rules, *barred(tokenizer), *sampling.filters))

    batches = count()

    def run(rows: list[list[int]]) -> list[Output]:
        draws = choose.of_batch(next(batches))
        stops = [Stop(tokenizer, strings, tuple(row)) for row in rows] if stop else None
        asked: dict[str, Any] = {"max_new_tokens": max_new_tokens, "ends": tokenizer.ends, "sampling": draws,
                                 "stops": stops, "logprobs": logprobs}  # fmt: skip
        if guesser is None:
            tokens, keep = padded(rows, tokenizer.require("pad"), model.device)
            told = generations(model, Prompt(tokens, keep=keep), writer=loaded.writer, **asked)
        else:
            told = speculate(_checking(loaded), rows, guesser, **asked).generations
        texts = [strings.cut(tokenizer.continuation(row, one.tokens)) for row, one in zip(rows, told, strict=True)]
        return [
            Output(text, one.tokens, None, one.reason, one.likelihoods, one.guessed, one.accepted)
            for text, one in zip(texts, told, strict=True)
        ]

    def left(row: list[int]) -> int:
        """How many tokens there are positions for: a text beside a longer one would have no more than that one."""
        return max_new_tokens if model.max_length is None else min(max_new_tokens, model.max_length + 1 - len(row))

    rows = [tokenizer.prompt(ids) for ids in tokenizer.encode_batch(prompts)]
    return in_batches(rows, run, rows_at_once=64, alike=left)


def _checking(loaded: Loaded) -> Writer:
    """What checks guesses. The model itself feeds one token at a time."""
    if loaded.writer is None:
        raise UserError("guesser", "a run without an engine, which guesses need", "the run as `pl.fast(run)`")
    writer: Writer = loaded.writer
    return writer


def write(
    loaded: Loaded,
    prompt: str,
    *,
    max_new_tokens: int = 100,
    sampling: Sampling = GREEDY,
    rules: Sequence[AnyRule] = (),
    stop: Sequence[str] = (),
    guesser: Guesser | None = None,
) -> Iterator[str]:
    """The same for one prompt, yielding the text as it grows, in whole characters, and nothing of a stop string."""
    model = expect(loaded, Decoder, "generate", "a decoder")
    tokenizer = loaded.tokenizer
    before = tokenizer.prompt(tokenizer.encode(prompt))
    choose = replace(sampling, filters=(*rules, *barred(tokenizer), *sampling.filters))
    spoken, release = Spoken(tokenizer, before), Release(StopStrings(tuple(stop)))
    for token in _tokens(loaded, model, before, max_new_tokens, choose, guesser):
        if token in tokenizer.ends:
            break
        if new := release.feed(spoken.add(token)):
            yield new
        if release.is_over:
            return
    if rest := release.feed(spoken.rest()) + release.rest():
        yield rest


def _tokens(
    loaded: Loaded, model: Decoder, prompt: list[int], count: int, choose: Sampling, guesser: Guesser | None
) -> Iterator[int]:
    """The new tokens of one text, the one that ends it included."""
    ends = loaded.tokenizer.ends
    if guesser is not None:
        rounds = speculative_stream(
            _checking(loaded), [prompt], guesser, max_new_tokens=count, ends=ends, sampling=choose
        )
        for (taken,) in rounds:
            yield from taken.tokens if taken is not None else ()
        return
    prompted = Prompt(torch.tensor([prompt], device=model.device))
    for (token,) in stream(model, prompted, max_new_tokens=count, ends=ends, sampling=choose, writer=loaded.writer):
        if token is None:
            return
        yield token


def fill(loaded: Loaded, text: str, *, top: int = 5) -> list[Fill]:
    """The likeliest pieces for the one ``<mask>`` in a text; of an encoder–decoder spans of any length.

    Raises:
        UserError: for a model that was not trained to fill gaps, or when there is not exactly one.
    """
    if isinstance(loaded.model, EncoderDecoder):
        return write_gap(loaded, text, top=top)
    expect(loaded, Encoder, "fill", "an encoder with a masked-language head", config.MaskedLanguage)
    if (gaps := text.count(GAP)) != 1:
        raise UserError("fill", f"{gaps} gaps in {text!r}", f"one {GAP}", f'try "the {GAP} statement"')
    ((answers,),) = EncoderTasks(loaded).fill([text], top=top)
    return answers


def classify(loaded: Loaded, inputs: Sequence[Any]) -> list[Label]:
    """The label of each text or pair of texts; for a model that reads images, Pillow's or bytes (Y, X, C), of each."""
    wanted = "an encoder with a classification head"
    front = config.Tokens if loaded.images is None else config.Patches
    model = expect(loaded, Encoder, "classify", wanted, config.Classification, front)
    if loaded.images is None:
        return EncoderTasks(loaded).classify(inputs)
    head = model.config.head
    assert isinstance(head, config.Classification)  # expect has checked it
    found: list[Label] = []
    with torch.inference_mode():
        for start in range(0, len(inputs), IMAGES_AT_ONCE):
            scores = model(loaded.images(inputs[start : start + IMAGES_AT_ONCE]).to(model.device, model.dtype))
            found += labelled(scores, head.labels)
    return found


def tag(loaded: Loaded, texts: Sequence[str], *, words: bool = False) -> list[list[Span]]:
    """The names in each text with their kinds; of every word its label, if ``words``.

    Raises:
        UserError: for a model without a head that labels tokens, or a text that is too long for it.
    """
    expect(loaded, Encoder, "tag", "an encoder with a head that labels tokens", config.TokenClassification)
    found = EncoderTasks(loaded).tag(texts)
    return found if words else [names(each, text) for each, text in zip(found, texts, strict=True)]


def embed(loaded: Loaded, texts: Sequence[str]) -> Float[Tensor, "B D"]:
    """One vector per text: the head's, or for another encoder the mean of its last states, normalised."""
    expect(loaded, Encoder, "embed", "an encoder")
    return EncoderTasks(loaded).embed(texts)
