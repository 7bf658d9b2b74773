"""Rows of different lengths, padded, and what sees the padding.

Shapes: B batch, T positions of what is padded, S keys, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.measures import gap
from pellucid.doctor.spec import Batch, Side
from pellucid.doctor.subject import Subject
from pellucid.trace.sites import HIDDEN, Site

Read = Literal["ids", "source"]


@dataclass(frozen=True, eq=False)
class Padded:
    """A batch in which the ids, or the source, are padded on one side.

    Attributes:
        read: which of both.
        keep: (B, T) of it, True where it is real.
        told: whether the model is given ``keep``; else the padding is known by its id.
    """

    batch: Batch
    read: Read
    side: Side
    keep: Tensor
    told: bool = True

    @property
    def text(self) -> Tensor:
        """(B, T) or (B, T, D): what is padded."""
        text = self.batch.source if self.read == "source" else self.batch.ids
        assert text is not None
        return text

    @property
    def named(self) -> str:
        """In words."""
        return f"padding of the {self.read} on the {self.side}"

    def with_text(self, text: Tensor) -> Batch:
        """The same masks over another text."""
        return self.batch.with_(source=text) if self.read == "source" else self.batch.with_(ids=text)

    def with_keep(self, keep: Tensor | None) -> Batch:
        """The same text under other masks."""
        return self.batch.with_(source_keep=keep) if self.read == "source" else self.batch.with_(keep=keep)

    def replaced(self, subject: Subject) -> Batch:
        """Something else in every padded place."""
        return self.with_text(torch.where(self._wide(self.text), self.text, subject.other(self.text, 6)))

    def alone(self, row: int) -> Batch:
        """One row without its padding."""
        bare = self.text[row : row + 1, self.keep[row]]
        one = self.batch.rows(slice(row, row + 1)).with_(positions=None)
        if self.read == "source":
            return one.with_(source=bare, source_keep=None)
        return one.with_(ids=bare, keep=None)

    def real(self, output: Tensor) -> Tensor:
        """Outputs with those of padding as zeros; all of them where the source is padded, or outputs are pooled."""
        if self.read == "source" or output.dim() < 3 or output.shape[:2] != self.keep.shape:
            return output
        return torch.where(self._wide(output), output, torch.zeros_like(output))

    def of_row(self, output: Tensor, row: int) -> Tensor:
        """The outputs of one row at its real places, as :meth:`alone` gives them."""
        found = output[row : row + 1]
        places = self.read == "ids" and found.dim() >= 3 and found.shape[1:2] == self.keep.shape[1:]
        return found[:, self.keep[row]] if places else found

    def _wide(self, x: Tensor) -> Tensor:
        return self.keep.view(*self.keep.shape, *[1] * (x.dim() - 2))


def padded(subject: Subject, side: Side, read: Read | None = None, *, extra: int = 0, told: bool = True) -> Padded:
    """Rows of three lengths, padded on a side; the source of an encoder–decoder unless it is said otherwise.

    Args:
        extra: columns that are padding in every row.
    """
    batch = subject.batch()
    read = read or ("ids" if batch.source is None else "source")
    text = batch.ids if read == "ids" else batch.source
    assert text is not None
    rows, length = text.shape[:2]
    lengths = torch.tensor([max(2, length - row * max(1, length // 4)) for row in range(rows)])
    places = torch.arange(length + extra)
    keep = places < lengths[:, None] if side == "right" else places >= (length + extra - lengths)[:, None]
    keep = keep.to(text.device)
    fill = _fill(subject)
    more = torch.full((rows, extra, *text.shape[2:]), fill, dtype=text.dtype, device=text.device)
    whole = torch.cat([text, more] if side == "right" else [more, text], dim=1)
    whole = torch.where(keep.view(*keep.shape, *[1] * (whole.dim() - 2)), whole, torch.full_like(whole, fill))
    bare = Padded(batch, read, side, keep, told)
    given = Padded(bare.with_text(whole), read, side, keep, told)
    return Padded(given.with_keep(keep), read, side, keep, told) if told else given


def _fill(subject: Subject) -> int:
    spec = subject.spec
    if spec.features is not None or spec.example is not None:
        return 0
    inside = spec.pad_id is not None and (spec.vocab_size is None or 0 <= spec.pad_id < spec.vocab_size)
    return int(spec.pad_id if inside and spec.pad_id is not None else subject.words[0])


def most_apart(subject: Subject, given: Padded, base: Tensor) -> float:
    """How far a padded row is at most from itself without padding; 0 where that is rounding.

    Args:
        base: the outputs of all of them, padded.
    """
    return max(_apart(subject, given, base, row) for row in range(given.keep.size(0)))


def _apart(subject: Subject, given: Padded, base: Tensor, row: int) -> float:
    if gap(given.of_row(base, row), subject(given.alone(row))).share <= tolerances.SHAPE_PASS:
        return 0.0
    pair = lambda: (given.of_row(subject(given.batch), row), subject(given.alone(row)))  # noqa: E731
    agreed, found, _ = subject.agree(pair, exact=False)
    return 0.0 if agreed else found.share


def seers(subject: Subject, given: Padded) -> tuple[list[Site], int]:
    """Places in which a real query gives weight to padded keys, and how many could have.

    Where it attends within what is padded, queries are those that are real; across, all of them.
    """
    if subject.module is None:
        return [], 0
    size, rows = given.keep.size(1), given.keep.size(0)
    sites = [s for s in subject.attention_of(given.batch).sites if s.k.size(2) == size and s.q.size(0) == rows]
    return [site for site in sites if _sees(site, given.keep)], len(sites)


def _sees(site: Site, keep: Tensor) -> bool:
    hidden = ~keep[:, None, None, :]
    return bool((site.weights() * (hidden & _queries(site, keep))).nan_to_num(nan=1.0).any())


def _queries(site: Site, keep: Tensor) -> Tensor:
    """(B, 1, T or 1, 1): the queries that are real; all where it attends across."""
    within = site.q.size(2) == keep.size(1)
    return keep[:, None, :, None] if within else torch.ones_like(keep[:, None, None, :1])


def upside_down(subject: Subject, given: Padded) -> bool:
    """Whether real queries of padded rows see padding, and nothing that is real."""
    seeing, _ = seers(subject, given)
    padded = ~given.keep.all(-1)
    real, hidden = given.keep[:, None, None, :], ~given.keep[:, None, None, :]
    for site in seeing:
        queries = (
            given.keep[:, None, :, None] if site.q.size(2) == given.keep.size(1) else torch.ones_like(real[..., :1])
        )
        weights = (site.weights().nan_to_num() * queries)[padded]
        if bool((weights * hidden[padded]).any()) and not bool((weights * real[padded]).any()):
            return True
    return False


def hidden_id(subject: Subject) -> int | None:
    """The token that no query looks at wherever it stands, where there is one and nothing else is hidden so."""
    batch = subject.batch()
    found: set[int] = set()
    for site in subject.attention_of(batch).sites:
        unseen = (site.scores() <= HIDDEN).all(2).all(1)  # (B, S)
        for text in (batch.ids, batch.source):
            if text is None or text.shape != unseen.shape or not bool(unseen.any()):
                continue
            ids = set(text[unseen].tolist())
            if len(ids) > 1 or not torch.equal(unseen, text == text[unseen][0]):
                return None
            found |= ids
    return found.pop() if len(found) == 1 else None


def masks_by_id(subject: Subject, given: Padded) -> bool:
    """Whether the model hides padding by its id without being told: a short row hides other keys than a full one."""
    if subject.module is None:
        return False
    size, rows = given.keep.size(1), given.keep.size(0)
    sites = [s for s in subject.attention_of(given.batch).sites if s.k.size(2) == size and s.q.size(0) == rows]
    hidden = [site.scores() <= HIDDEN for site in sites]
    return any(bool((each != each[:1]).any()) for each in hidden)
