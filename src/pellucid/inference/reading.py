"""What a model is shown when it reads a text: its tensors, and the pieces they stand for.

Shapes: B texts (1), T positions, S source positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from pellucid.config.model import MaskedLanguage, Tokens
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.batches import barred
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.sampling import Sampling
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder

if TYPE_CHECKING:
    from pellucid.inference.seen import Seen

GAP = "<mask>"


@dataclass(frozen=True)
class Reading:
    """One text, ready for ``model(*reading.inputs)`` or ``trace(model, reading.inputs)``.

    Attributes:
        inputs: tokens (1, T); of an encoder–decoder the source (1, S) and the target (1, T).
        pieces: the pieces of the text, one for each position.
        target: those of the target; ``None`` where there is none.
        real: for each of the inputs, which tokens are no padding (1, T); ``None`` where all are real.
        given: the arguments by name, where a model is given more than the inputs.
        seen: the picture or sound that is read in place of a text.
        drawn: the picture that the last tokens of a text stand for.
    """

    inputs: tuple[Any, ...]
    pieces: tuple[str, ...]
    target: tuple[str, ...] | None = None
    real: tuple[Any, ...] | None = None
    given: Mapping[str, Any] | None = None
    seen: Seen | None = None
    drawn: Seen | None = None

    @property
    def ids(self) -> tuple[list[int], ...]:
        """The tokens of each input; of what is no text the numbers of its positions."""
        first = [list(range(len(self.pieces)))] if self.seen is not None else []
        return (*first, *(ids[0].tolist() for ids in self.inputs[len(first) :]))

    @property
    def arguments(self) -> tuple[Any, ...] | Mapping[str, Any]:
        """For ``trace(model, reading.arguments)``: the inputs, and what is padding where that is told."""
        return self.inputs if self.given is None else self.given


def read(loaded: Loaded, text: str, target: str | None = None, longest: int | None = None) -> Reading:
    """Cuts a text as the model was trained to read it.

    Args:
        target: what an encoder–decoder is fed as written; what it writes itself, greedily, when left out.
        longest: tokens of a text that it is to write about, and of what it writes.

    Raises:
        UserError: for a model that reads no text, a target for one that has none, or a text that is too long.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, EncoderDecoder):
        if target is not None:
            raise UserError("target", f"a model of kind {type(model).__name__} reads one text", "an encoder–decoder")
        return _of_one(model, tokenizer, _framed(model, tokenizer, text))
    if not isinstance(model.config.source, Tokens):
        raise UserError("text", f"this model reads {type(model.config.source).__name__.lower()}", "one that reads text")
    ids, writer = tokenizer.source(tokenizer.encode(text)), tokenizer.target
    source = torch.tensor([ids], device=model.device)
    start = [*writer.start, *writer.forced]
    if target is None:
        limit = len(start) + len(ids) + 50 if longest is None else longest
        if len(ids) > limit:
            raise UserError("text", f"{len(ids):,} tokens", f"at most {limit:,}", "shorten it")
        prompt = Prompt(torch.tensor([start], device=model.device), source=source)
        most = min(len(ids) + 50, limit - len(start))
        likeliest = Sampling(barred(writer))
        (written,) = generate(model, prompt, max_new_tokens=most, ends=writer.ends, sampling=likeliest)
    else:
        written = writer.encode(target)
    return _of_two(model, tokenizer, ids, [*start, *written])


def read_ids(loaded: Loaded, ids: Sequence[int], target: Sequence[int] | None = None) -> Reading:
    """The same for tokens that are cut already, whatever stands around them.

    Raises:
        UserError: for no tokens, one outside the vocabulary, or as many sequences as the model does not read.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    two = isinstance(model, EncoderDecoder)
    if two != (target is not None):
        raise UserError("tokens", f"{'one sequence' if two else 'two sequences'}", "two" if two else "one")
    for given, cut in ((ids, tokenizer), (target, tokenizer.target)):
        size = cut.vocab_size
        if given is not None and (not given or not all(0 <= i < size for i in given)):
            raise UserError("tokens", "none" if not given else f"found {list(given)[:20]}", f"ids from 0 to {size - 1}")
    return _of_one(model, tokenizer, ids) if target is None else _of_two(model, tokenizer, ids, target)


def beginning(loaded: Loaded, text: str) -> Prompt:
    """What a model goes on from: the text itself, or for an encoder–decoder the start of what it writes about it.

    Raises:
        UserError: for a model that does not write, or reads no text.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if isinstance(model, Encoder):
        raise UserError("writing", "an encoder writes nothing", "a decoder or an encoder–decoder")
    if not isinstance(model, EncoderDecoder):
        return Prompt(torch.tensor([tokenizer.prompt(tokenizer.encode(text))], device=model.device))
    if not isinstance(model.config.source, Tokens):
        raise UserError("text", f"this model reads {type(model.config.source).__name__.lower()}", "one that reads text")
    writer = tokenizer.target
    start = torch.tensor([[*writer.start, *writer.forced]], device=model.device)
    return Prompt(start, source=torch.tensor([tokenizer.source(tokenizer.encode(text))], device=model.device))


def padded(
    loaded: Loaded, reading: Reading, counts: Sequence[int], *, left: bool = False, told: bool = True
) -> Reading:
    """The same text among padding, as it stands in a batch beside longer ones.

    Args:
        counts: of padding, for each of the inputs.
        told: whether the model is told which tokens are padding. One that is not reads them like any other.

    Raises:
        UserError: where there is no token to pad with, or other counts than inputs.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if len(counts) != len(reading.inputs):
        raise UserError("padding", f"{len(counts)} counts", f"{len(reading.inputs)}, one for each sequence")
    cutters = (tokenizer, tokenizer.target)
    inputs, pieces, real = [], [], []
    for ids, own, count, cut in zip(reading.inputs, (reading.pieces, reading.target), counts, cutters, strict=False):
        pad = cut.require("pad")
        beside = ids.new_full((1, count), pad)
        whole = [beside, ids] if left else [ids, beside]
        inputs.append(torch.cat(whole, dim=1))
        real.append(torch.cat([torch.full_like(part, part is ids, dtype=torch.bool) for part in whole], dim=1))
        extra = tuple(cut.pieces([pad])) * count
        pieces.append((*extra, *(own or ())) if left else (*(own or ()), *extra))
    names = ("source", "target") if len(inputs) == 2 else ("inputs" if isinstance(model, Encoder) else "tokens",)
    keeps = ("source_keep", "keep")[-len(inputs) :]
    given = dict(zip((*names, *keeps), (*inputs, *real), strict=True)) if told else None
    target = pieces[1] if len(pieces) == 2 else None
    return replace(reading, inputs=tuple(inputs), pieces=pieces[0], target=target, real=tuple(real), given=given)


def gapped(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which ``<mask>`` stands for a piece that is missing."""
    *before, last = text.split(GAP)
    ids: list[int] = []
    for part in before:
        ids += [*tokenizer.encode(before_gap(tokenizer, part)), tokenizer.require("mask")]
    return [*ids, *tokenizer.encode(last)]


def before_gap(tokenizer: Tokenizer, text: str) -> str:
    """What is left of the text before a gap: where a piece takes the space before it along, that is missing too."""
    takes_space = tokenizer.pieces(tokenizer.encode(" a")[:1]) != [" "]
    return text.removesuffix(" ") if takes_space else text


def _framed(model: Any, tokenizer: Tokenizer, text: str) -> list[int]:
    if not isinstance(model, Encoder):
        return tokenizer.prompt(tokenizer.encode(text))
    if isinstance(model.config.head, MaskedLanguage):
        return tokenizer.excerpt(gapped(tokenizer, text))
    return tokenizer.text(tokenizer.encode(text))


def _of_one(model: Any, tokenizer: Tokenizer, ids: Sequence[int]) -> Reading:
    return Reading((torch.tensor([list(ids)], device=model.device),), _pieces(tokenizer, ids))


def _of_two(model: Any, tokenizer: Tokenizer, ids: Sequence[int], target: Sequence[int]) -> Reading:
    inputs = tuple(torch.tensor([list(part)], device=model.device) for part in (ids, target))
    return Reading(inputs, _pieces(tokenizer, ids), _pieces(tokenizer.target, target))


def _pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, ...]:
    return tuple(tokenizer.pieces(ids))
