"""What every way of decoding needs of a model, and the plainest way to have it.

A writer reads prompts and goes on from them, some tokens at a time. :class:`Plain` remembers nothing but the texts and
reads them again at every step: it is what faster writers are compared with.

Shapes: B rows, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.models.decoder import Decoder
from pellucid.models.encoder_decoder import EncoderDecoder

WritingModel = Decoder | EncoderDecoder
Ids = Sequence[Sequence[int]]
LEAVING = 0.25  # the share of a batch that must be over before the others are moved together


class Rows(Protocol):
    """Texts in the making, one a row. Rows may be of any lengths, and come and go."""

    @property
    def lengths(self) -> list[int]:
        """How many tokens each row has been fed."""

    def select(self, rows: Sequence[int]) -> None:
        """Keeps these rows, in this order; one may be there twice."""

    def join(self, other: Any) -> None:
        """Takes in the rows of another, of the same writer, behind its own."""

    def crop(self, lengths: Sequence[int]) -> None:
        """Forgets what each row was fed beyond these lengths."""


@runtime_checkable
class Vacating(Protocol):
    """Rows of which some can leave without the others being copied."""

    def vacate(self, rows: Collection[int]) -> list[int]:
        """These rows leave, and the last ones take their places; which row now stands where."""


@runtime_checkable
class Shrinking(Protocol):
    """Rows that have more room than they use."""

    def shrink(self) -> None:
        """Gives back what is not in use; whoever goes on makes new room."""


def source_limit(model: WritingModel) -> int | None:
    """The longest text that a model can read before it writes; ``None`` for any."""
    return model.encoder.max_length if isinstance(model, EncoderDecoder) else None


def vacate(rows: Any, gone: Collection[int]) -> list[int]:
    """Some rows leave, and the last ones take their places; which row now stands where."""
    if isinstance(rows, Vacating):
        return rows.vacate(gone)
    order = filled(len(rows.lengths), gone)
    rows.select(order)
    return order


def filled(count: int, gone: Collection[int]) -> list[int]:
    """Which of ``count`` rows stands where when some have gone and the last ones have taken their places."""
    order = list(range(count - len(gone)))
    last = (row for row in range(len(order), count) if row not in gone)
    for hole in sorted(gone):
        if hole < len(order):
            order[hole] = next(last)
    return order


class Writer(Protocol):
    """A model that can be written with. Runs without gradients, in evaluation mode."""

    @property
    def limit(self) -> int | None:
        """The longest text its positions can tell apart; ``None`` for any."""

    @property
    def source_limit(self) -> int | None:
        """The same of a text that an encoder–decoder reads."""

    @property
    def device(self) -> torch.device:
        """Where scores come out."""

    def prefill(self, prompts: Ids, sources: Sequence[Any] | None = None) -> tuple[Float[Tensor, "B V"], Any]:
        """Reads prompts of any lengths; the scores of what follows each, and the rows to go on with.

        Args:
            prompts: at least one token each.
            sources: what an encoder–decoder reads, ids for one that reads text; ``None`` for a decoder.
        """

    def extend(self, tokens: Int[Tensor, "B T"], rows: Any) -> Float[Tensor, "B T V"]:
        """Feeds T more tokens to every row; the scores of what follows each of them."""


Go = Callable[[Tensor, Tensor], Tensor]
"""Goes on from some beams (R,), each by a token (R,); the scores of what follows (R, V)."""


@runtime_checkable
class Carrying(Protocol):
    """A writer with a way of its own to carry the beams of a search on."""

    def carry(self, rows: Any, width: int) -> Go:
        """Goes on from prefilled rows, as ``width`` beams each, those of a row one behind the other."""


def carried(writer: Writer, rows: Any, width: int) -> Go:
    """How a writer carries beams on; the plain way is to select rows."""
    if isinstance(writer, Carrying):
        return writer.carry(rows, width)
    return selecting(writer, rows)


def selecting(writer: Writer, rows: Any) -> Go:
    """Beams as rows that are selected at every step."""

    def go(origins: Int[Tensor, " R"], tokens: Int[Tensor, " R"]) -> Float[Tensor, "R V"]:
        rows.select(origins.tolist())
        return writer.extend(tokens[:, None], rows)[:, 0]

    return go


class Plain:
    """Reads every text from its beginning at every step: no cache, no padding, one row at a time."""

    def __init__(self, model: WritingModel) -> None:
        self.model = model
        self.limit = (model if isinstance(model, Decoder) else model.decoder).max_length
        self.source_limit = source_limit(model)
        self.device = model.device

    def prefill(self, prompts: Ids, sources: Sequence[Any] | None = None) -> tuple[Float[Tensor, "B V"], PlainRows]:
        """As :meth:`Writer.prefill`."""
        rows = PlainRows([list(prompt) for prompt in prompts], list(sources or [None] * len(prompts)))
        return torch.stack([self._scores(*row)[-1] for row in zip(rows.texts, rows.sources, strict=True)]), rows

    def extend(self, tokens: Int[Tensor, "B T"], rows: PlainRows) -> Float[Tensor, "B T V"]:
        """As :meth:`Writer.extend`."""
        rows.texts = [[*text, *new] for text, new in zip(rows.texts, tokens.tolist(), strict=True)]
        each = zip(rows.texts, rows.sources, strict=True)
        return torch.stack([self._scores(*row)[-tokens.size(1) :] for row in each])

    @torch.inference_mode()
    def _scores(self, text: list[int], source: Any) -> Float[Tensor, "T V"]:
        ids = torch.tensor([text], device=self.device)
        if isinstance(self.model, Decoder):
            return self.model(ids)[0]
        return self.model(torch.as_tensor(source, device=self.device)[None], ids)[0]


class PlainRows:
    """The texts themselves, and their sources."""

    def __init__(self, texts: list[list[int]], sources: list[Any]) -> None:
        self.texts, self.sources = texts, sources

    @property
    def lengths(self) -> list[int]:
        return [len(text) for text in self.texts]

    def select(self, rows: Sequence[int]) -> None:
        """As :meth:`Rows.select`."""
        self.texts = [list(self.texts[row]) for row in rows]
        self.sources = [self.sources[row] for row in rows]

    def join(self, other: PlainRows) -> None:
        """As :meth:`Rows.join`."""
        self.texts, self.sources = self.texts + other.texts, self.sources + other.sources

    def crop(self, lengths: Sequence[int]) -> None:
        """As :meth:`Rows.crop`."""
        self.texts = [text[:length] for text, length in zip(self.texts, lengths, strict=True)]
