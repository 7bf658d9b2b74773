"""Text in, text out: what a trained model is for.

Shapes: B texts, T positions, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.config import model as config
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.beam import PAPER, LengthPenalty, beam_search
from pellucid.inference.decode import Prompt, generate, stream
from pellucid.inference.reading import GAP, gapped
from pellucid.inference.sampling import GREEDY, Filter, Never, Sampling
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder

BATCH_TOKENS = (
    8192  # padded tokens of one batch: enough for the products to be efficient, little enough for any machine
)

IMAGES_AT_ONCE = 16

Result = TypeVar("Result")


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
) -> list[str]:
    """The target of each source; greedy unless there are beams or a sampling.

    Args:
        max_new_tokens: by default the source's length + 50, as in the paper (§6.1).
        source_language, target_language: special tokens such as ``de_DE``, for a model of several languages.

    Raises:
        UserError: for a model that does not translate text, fewer than one beam, or beams that are to be drawn.
    """
    if beams < 1 or (beams > 1 and sampling is not GREEDY):
        found = f"{beams} beams" + (" and a sampling" if sampling is not GREEDY else "")
        raise UserError("translate", found, "one beam or more; drawing goes with one")
    model = _expect(loaded, EncoderDecoder, "translate", "an encoder–decoder that reads text")
    tokenizer = loaded.tokenizer.in_languages(source_language, target_language)
    target = tokenizer.target
    forced, never = target.forced, barred(target)

    def run(rows: list[list[int]]) -> list[str]:
        source, keep = padded(rows, tokenizer.require("pad"), model.device)
        start = torch.tensor([[*target.start, *forced]], device=model.device).expand(len(rows), -1)
        prompt = Prompt(start, source=source, source_keep=keep)
        longest = max_new_tokens or source.size(1) + 50
        if beams == 1:
            choose = replace(sampling, filters=(*never, *sampling.filters))
            new = generate(model, prompt, max_new_tokens=longest, ends=target.ends, sampling=choose)
            return [target.decode(row) for row in new]
        found = beam_search(
            model,
            prompt,
            beams=beams,
            max_new_tokens=longest,
            ends=target.ends,
            penalty=penalty,
            filters=never,
            written=len(forced),
        )
        return [target.decode(best[0].tokens) for best in found]

    rows = [tokenizer.source(ids) for ids in tokenizer.encode_batch(texts)]
    return _in_batches(rows, run, rows_at_once=max(1, 256 // beams))


def complete(
    loaded: Loaded, prompts: Sequence[str], *, max_new_tokens: int = 100, sampling: Sampling = GREEDY
) -> list[str]:
    """What a decoder writes after each prompt; an empty one starts from the begin-of-sequence token."""
    model = _expect(loaded, Decoder, "generate", "a decoder")
    tokenizer = loaded.tokenizer

    def run(rows: list[list[int]]) -> list[str]:
        tokens, keep = padded(rows, tokenizer.require("pad"), model.device)
        prompt = Prompt(tokens, keep=keep)
        new = generate(model, prompt, max_new_tokens=max_new_tokens, ends=tokenizer.ends, sampling=choose)
        return [tokenizer.continuation(before, row) for before, row in zip(rows, new, strict=True)]

    choose = replace(sampling, filters=(*barred(tokenizer), *sampling.filters))
    return _in_batches([tokenizer.prompt(ids) for ids in tokenizer.encode_batch(prompts)], run, rows_at_once=64)


def write(loaded: Loaded, prompt: str, *, max_new_tokens: int = 100, sampling: Sampling = GREEDY) -> Iterator[str]:
    """The same for one prompt, yielding the text as it grows, in whole characters."""
    model = _expect(loaded, Decoder, "generate", "a decoder")
    tokenizer = loaded.tokenizer
    before = tokenizer.prompt(tokenizer.encode(prompt))
    tokens = torch.tensor([before], device=model.device)
    ids: list[int] = []
    shown = ""
    choose = replace(sampling, filters=(*barred(tokenizer), *sampling.filters))
    steps = stream(model, Prompt(tokens), max_new_tokens=max_new_tokens, ends=tokenizer.ends, sampling=choose)
    for (token,) in steps:
        if token is None or token in tokenizer.ends:
            break
        ids.append(token)
        text = tokenizer.continuation(before, ids)
        if not text.endswith("�"):  # half of a character: its other bytes come with the next token
            yield text[len(shown) :]
            shown = text
    if rest := tokenizer.continuation(before, ids)[len(shown) :]:
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
    model = _expect(loaded, Encoder, "fill", "an encoder with a masked-language head", config.MaskedLanguage)
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
    model = _expect(loaded, Encoder, "classify", wanted, config.Classification, front)
    head = model.config.head
    assert isinstance(head, config.Classification)  # _expect has checked it

    def labelled(scores: Float[Tensor, "B C"]) -> list[Label]:
        rows = [dict(zip(head.labels, row, strict=True)) for row in scores.float().softmax(dim=-1).tolist()]
        return [Label(max(row, key=lambda label: row[label]), row) for row in rows]

    def run(rows: list[list[int]]) -> list[Label]:
        tokens, keep = padded(rows, loaded.tokenizer.require("pad"), model.device)
        return labelled(model(tokens, keep=keep))

    if loaded.images is None:
        return _in_batches(_framed(loaded, inputs), run)
    found: list[Label] = []
    with torch.inference_mode():
        for start in range(0, len(inputs), IMAGES_AT_ONCE):
            found += labelled(model(loaded.images(inputs[start : start + IMAGES_AT_ONCE]).to(model.device)))
    return found


def embed(loaded: Loaded, texts: Sequence[str]) -> Float[Tensor, "B D"]:
    """One vector per text: the head's, or for another encoder the mean of its last states, normalised."""
    model = _expect(loaded, Encoder, "embed", "an encoder")
    from pellucid.models.heads import EmbeddingHead, pool_mean

    head = model.head if isinstance(model.head, EmbeddingHead) else EmbeddingHead(pool=pool_mean, normalized=True)

    def run(rows: list[list[int]]) -> list[Tensor]:
        tokens, keep = padded(rows, loaded.tokenizer.require("pad"), model.device)
        return list(head(model.features(tokens, keep=keep)).float())

    return torch.stack(_in_batches(_framed(loaded, texts), run))


def padded(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"] | None]:
    """Rows of tokens as one tensor, padded on the right, and which of them are real (``None``: all)."""
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return tokens, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return tokens, torch.arange(longest, device=device) < lengths[:, None]


def barred(tokenizer: Tokenizer) -> tuple[Filter, ...]:
    """A filter for what a model was told never to write, where there is any."""
    never = tokenizer.conventions.never if tokenizer.conventions else ()
    return (Never(never),) if never else ()


def _framed(loaded: Loaded, texts: Sequence[str]) -> list[list[int]]:
    return [loaded.tokenizer.text(ids) for ids in loaded.tokenizer.encode_batch(texts)]


def _in_batches(
    rows: list[list[int]], run: Callable[[list[list[int]]], list[Result]], rows_at_once: int = 256
) -> list[Result]:
    """Runs rows of like length together, so that little is padded; returns the results in the order asked."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    results: dict[int, Result] = {}
    with torch.inference_mode():
        while order:
            count = max(1, min(rows_at_once, BATCH_TOKENS // max(len(rows[order[0]]), 1)))
            now, order = order[:count], order[count:]
            results.update(zip(now, run([rows[i] for i in now]), strict=True))
    return [results[i] for i in range(len(rows))]


M = TypeVar("M", Encoder, Decoder, EncoderDecoder)


def _expect(
    loaded: Loaded, family: type[M], task: str, wanted: str, head: type | None = None, front: type = config.Tokens
) -> M:
    model = loaded.model
    own = model.config.source if isinstance(model.config, config.EncoderDecoder) else model.config.front
    fits = isinstance(own, front) and (head is None or isinstance(model.config.head, head))
    if not isinstance(model, family) or not fits:
        kinds = [type(part).__name__.lower() for part in (own, model.config.head)]
        found = f"a model of kind {type(model).__name__} that reads {kinds[0]}, with a head of kind {kinds[1]}"
        raise UserError(task, found, wanted, "see `pellucid --help` for what each family can do")
    return model
