"""How much a model is given to do: rows and their lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pellucid.analysis.parameters import Over
from pellucid.config import model as config
from pellucid.config.model import stacks
from pellucid.config.parts import Stack
from pellucid.config.run import Masked
from pellucid.errors import UserError

USUAL_LENGTH = 1024
"""Of rows, where neither the user nor the positions of a model say how long they are."""

HALF_A_MINUTE = 1500
"""Vectors of 30 seconds of sound, 20 ms each (Radford et al. 2022, §2.2)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A batch of rows without padding.

    Attributes:
        rows: B.
        tokens: T, positions of the text, of the target where there is a source, or of an image.
        source: S, positions of the source; 0 where there is none.
        labels: how many positions of a row are asked during training; 1 where the row as a whole is.
        raw: patches of an image, or frames of a spectrogram.
    """

    rows: int
    tokens: int
    source: int
    labels: int
    raw: int = 0

    def vectors(self, over: Over) -> int:
        """How many vectors of a row a matrix multiplies."""
        return {"tokens": self.tokens, "source": self.source, "labels": self.labels, "raw": self.raw}[over]


def work_on(
    model: config.Model, *, batch: int = 1, length: int | None = None, source_length: int | None = None
) -> Work:
    """The work of a batch; lengths that are left out are the longest that the positions can tell apart, or the usual.

    Raises:
        UserError: for a length that the model cannot have, or a source for a model that reads none.
    """
    stack = stacks(model)[-1]
    front = model.front if not isinstance(model, config.EncoderDecoder) else model.target
    tokens = _length("--length", front, stack, length)
    if isinstance(model, config.EncoderDecoder):
        source = _length("--source-length", model.source, model.encoder, source_length)
    elif source_length is not None:
        raise UserError("--source-length", "this model reads no source", "--length alone")
    else:
        source = 0
    if batch < 1:
        raise UserError("--batch", f"found {batch}", "1 or more")
    read = model.source if isinstance(model, config.EncoderDecoder) else front
    return Work(
        rows=batch, tokens=tokens, source=source, labels=_labels(model, tokens), raw=_raw(read, source or tokens)
    )


def _raw(front: config.Front, length: int) -> int:
    match front:
        case config.Patches(class_token=class_token):
            return length - class_token
        case config.Audio():
            return 2 * length  # the second convolution takes steps of two
        case config.Tokens():
            return 0


def _labels(model: config.Model, tokens: int) -> int:
    match model:
        case config.Encoder(head=config.MaskedLanguage()):
            return math.ceil(Masked().rate * tokens)
        case config.Encoder(head=config.TokenClassification()):
            return tokens
        case config.Encoder():
            return 1
        case _:
            return tokens


def _length(where: str, front: config.Front, stack: Stack, given: int | None) -> int:
    limit = stack.max_length
    if isinstance(front, config.Patches):
        limit = (front.image_size // front.patch_size) ** 2 + front.class_token
        if given not in (None, limit):
            raise UserError(where, f"found {given}", f"{limit}, the patches of an image of {front.image_size} pixels")
        return limit
    if given is None:
        return limit or (HALF_A_MINUTE if isinstance(front, config.Audio) else USUAL_LENGTH)
    if given < 1 or (limit is not None and given > limit):
        most = "1 or more" if limit is None else f"from 1 to {limit}, as many as the model has learned positions"
        raise UserError(where, f"found {given}", most)
    return given
