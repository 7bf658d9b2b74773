"""What is wrong with a batch before any model sees it: labels, ends, padding, truncation, starts, packing.

Shapes: B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from pellucid.doctor.finding import Finding, Status
from pellucid.doctor.spec import Batch, Spec

IGNORE = -100
SHIFTED = 0.95
"""Share of the labels that one offset explains."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a batch.

    Attributes:
        surely: whether it harms whatever the model; else it is often meant so.
    """

    name: str
    surely: bool
    seen: str
    cause: str
    fix: str


def batch(batch: Batch, spec: Spec) -> tuple[Finding, ...]:
    """Examines one batch of the real data.

    >>> for finding in pl.doctor.batch(pl.doctor.Batch(ids=ids, labels=labels), spec):
    ...     print(finding.status, finding.seen)

    Args:
        batch: ids as the model reads them, labels as the loss is given them, ``IGNORE`` (-100) where nothing is asked.
        spec: with ``vocab_size`` and the ids of padding, start and end, as far as there are such.

    Returns:
        A finding for each fault; one PASS if there is none.
    """
    done = f"looked through a batch of {batch.ids.size(0)} rows of {batch.ids.size(1)}"
    found = [
        Finding(
            check=f"data.{fault.name}", status=Status.FAIL if fault.surely else Status.WARN, done=done, seen=fault.seen,
            cause=fault.cause, fix=fault.fix,
        )
        for fault in faults(batch, spec)
    ]  # fmt: skip
    if found:
        return tuple(found)
    return (Finding(check="data.labels", status=Status.PASS, done=done, seen="nothing is wrong with it"),)


def faults(batch: Batch, spec: Spec, source_size: int | None = None) -> Iterator[Fault]:
    """All that is wrong, the surest harm first.

    Args:
        source_size: how many tokens a source may hold; ``None`` where no model was asked, as of its padding.
    """
    ids, labels = batch.ids, batch.labels
    asked = None if labels is None else labels[labels != IGNORE]
    tokens = asked if labels is not None and _are_tokens(batch, labels, spec) else None
    yield from _range("ids", ids, spec.vocab_size)
    if asked is not None and not asked.is_floating_point():
        yield from _range("labels", asked, spec.vocab_size)
    if labels is not None and asked is not None:
        yield from _labels(batch, labels, asked, spec)
        if tokens is not None:
            yield from _padding_asked(tokens, spec)
            yield from _shifts(batch, labels)
    yield from _padding(batch, spec)
    yield from _source(batch, spec, source_size)
    yield from _starts(ids, spec)
    yield from _boundaries(batch, spec)
    yield from _ends(batch, tokens, spec)


def _are_tokens(batch: Batch, labels: Tensor, spec: Spec) -> bool:
    """Whether labels are ids of tokens: where texts or words are classified they are other numbers.

    Where nothing says which, they are tokens if most of them are the ids that they stand beside, or near.
    """
    if spec.pooled or labels.dim() != 2 or labels.is_floating_point():
        return False
    if spec.labels is not None or labels.shape != batch.ids.shape:
        return spec.labels is not None or spec.kind != "encoder"
    asked = labels != IGNORE
    if spec.pad_id is not None:
        asked = asked & (batch.ids != spec.pad_id)
    return max(_shares(batch.ids, labels, asked).values()) >= 0.5


def _shares(ids: Tensor, labels: Tensor, asked: Tensor) -> dict[int, float]:
    """By how many places to the right: the share of labels that are the id found there."""
    shares = {}
    for offset in (-1, 0, 1, 2):
        there, place = ids.roll(-offset, dims=1), asked.clone()
        place[:, : max(0, -offset)] = False
        place[:, labels.size(1) - max(0, offset) :] = False
        shares[offset] = float((labels == there)[place].float().mean()) if bool(place.any()) else 0.0
    return shares


def _range(name: str, values: Tensor, size: int | None) -> Iterator[Fault]:
    if size is None or not values.numel() or (int(values.min()) >= 0 and int(values.max()) < size):
        return
    worst = int(values.max()) if int(values.max()) >= size else int(values.min())
    yield Fault(
        "range", True, f"{name} hold {worst}, and there are {size} tokens",
        "the tokenizer has more tokens than the model, or another value marks what is not asked",
        "resize the model's tables to the tokenizer, and mark what is not asked by -100",
    )  # fmt: skip


def _source(batch: Batch, spec: Spec, size: int | None) -> Iterator[Fault]:
    """What an encoder–decoder reads, all of which it sees."""
    source = batch.source
    if source is None or source.dim() != 2 or source.is_floating_point():
        return
    yield from _range("source ids", source, size)
    known = size is not None or batch.source_keep is not None  # else a model may yet know padding by its id
    for fault in _padding(Batch(ids=source, keep=batch.source_keep), replace(spec, kind="encoder")):
        yield replace(fault, surely=fault.surely and known, seen=f"in the source {fault.seen}")


def _labels(batch: Batch, labels: Tensor, asked: Tensor, spec: Spec) -> Iterator[Fault]:
    if asked.numel() == 0:
        yield Fault(
            "asked", True, "nothing is asked: every label is -100",
            "the template that marks answers was not found, or texts were cut before them",
            "print the labels of one row beside its tokens",
        )  # fmt: skip
        return
    empty = (labels == IGNORE).all(-1)
    if bool(empty.any()):
        yield Fault(
            "asked", False, f"{int(empty.sum())} of {labels.size(0)} rows ask nothing",
            "texts were cut before what is asked", "drop such rows, or cut at the beginning",
        )  # fmt: skip
    if batch.keep is not None and labels.shape == batch.keep.shape:
        stray = (labels != IGNORE) & ~batch.keep
        if bool(stray[:, 1:].any() if spec.labels != "same" else stray.any()) and spec.kind != "encoder_decoder":
            yield Fault(
                "padding_asked", True, f"{int(stray.sum())} labels stand in padding",
                "the labels were not masked by the padding", "labels.masked_fill(~keep, -100)",
            )  # fmt: skip


def _padding_asked(asked: Tensor, spec: Spec) -> Iterator[Fault]:
    pad = spec.pad_id
    if pad is not None and pad != spec.eos_id and bool((asked == pad).any()):
        yield Fault(
            "padding_asked", True, f"{int((asked == pad).sum())} labels are the padding",
            "labels are a copy of the ids and padding was not replaced", "labels.masked_fill(~keep, -100)",
        )  # fmt: skip


def _padding(batch: Batch, spec: Spec) -> Iterator[Fault]:
    keep, ids = batch.keep, batch.ids
    if keep is None:
        if spec.pad_id is not None and spec.pad_id != spec.eos_id and _seen(_padded(ids, spec), spec):
            yield Fault(
                "mask", True, f"{int(_padded(ids, spec).sum())} tokens are padding and no mask says so",
                "the mask of the tokenizer was not passed on", "give the model attention_mask, or keep",
            )  # fmt: skip
        return
    if bool((~keep).all(-1).any()):
        yield Fault("mask", True, "a row is padding throughout", "an empty text", "drop empty texts")
    after, before = keep.flip(1).cummax(1).values.flip(1), keep.cummax(1).values
    if bool((~keep & after & before).any()):
        yield Fault(
            "mask", False, "padding stands between real tokens", "masks of two texts were joined, or sides are mixed",
            "pad on one side",
        )  # fmt: skip
    if spec.pad_id is not None and bool((keep & _padded(ids, spec)).any()) and spec.pad_id != spec.eos_id:
        yield Fault("mask", True, "padding counts as real", "the mask is all ones", "keep = ids != pad_id")
    if spec.pad_id is not None and bool((~keep & (ids != spec.pad_id)).any()):
        yield Fault(
            "mask", False, "tokens that are not the padding are masked",
            "the mask is upside down, or belongs to other rows",
            "keep is True where a token is real",
        )  # fmt: skip
    waste = 1 - float(keep.float().mean())
    if waste > 0.6:
        yield Fault(
            "waste", False, f"{waste:.0%} of the batch is padding", "texts of very different lengths in one batch",
            "sort by length before batching",
        )  # fmt: skip


def _padded(ids: Tensor, spec: Spec) -> Tensor:
    """(B, T): which tokens are padding. T5, Marian and Pegasus begin what they write at the same token."""
    assert spec.pad_id is not None  # whoever asks has looked
    padding = ids.eq(spec.pad_id)
    if spec.kind == "encoder_decoder":
        padding[:, 0] = False
    return padding


def _seen(padding: Tensor, spec: Spec) -> bool:
    """Whether padding without a mask is seen: a decoder does not see what is on its right."""
    if spec.kind in ("decoder", "encoder_decoder"):
        ahead = (~padding).flip(1).cummax(1).values.flip(1)  # a real token comes after it
        padding = padding & ahead
    return bool(padding.any())


def _shifts(batch: Batch, labels: Tensor) -> Iterator[Fault]:
    """Labels against the ids: no loss wants them two places ahead, or one behind."""
    if labels.shape != batch.ids.shape or batch.ids.size(1) < 4:
        return
    shares = _shares(batch.ids, labels, labels != IGNORE)
    best = max(shares, key=lambda offset: shares[offset])
    if best in (-1, 2) and shares[best] >= SHIFTED and shares[best] > 2 * max(shares[0], shares[1]):
        yield Fault(
            "shifted", True, f"{shares[best]:.0%} of the labels are the token {best:+d} places from theirs",
            "labels are shifted twice" if best == 2 else "labels are shifted the wrong way",
            "shift once: by the caller or by the loss, and the next token to the left",
        )  # fmt: skip


def _boundaries(batch: Batch, spec: Spec) -> Iterator[Fault]:
    """Several texts in a row, and no mask or position that tells them apart."""
    bos = spec.bos_id
    if bos is None or bos in (spec.eos_id, spec.pad_id) or batch.positions is not None or spec.kind == "encoder":
        return
    inner = batch.ids[:, 1:] == bos
    packed = (inner & (batch.ids[:, :-1] != bos)).any(-1)
    if bool(packed.any()):
        yield Fault(
            "packed", False, f"{int(packed.sum())} of {batch.ids.size(0)} rows hold several texts, and nothing says so",
            "texts are packed: each sees those before it, and its first token is asked of the one before",
            "a block-diagonal mask, positions that restart, and -100 for the first token of each text",
        )  # fmt: skip


def _starts(ids: Tensor, spec: Spec) -> Iterator[Fault]:
    bos = spec.bos_id
    if bos is None or ids.size(1) < 2 or bos in (spec.eos_id, spec.pad_id):
        return
    twice = ((ids[:, :-1] == bos) & (ids[:, 1:] == bos)).any(-1)
    if bool(twice.any()):
        yield Fault(
            "double_bos", True, f"{int(twice.sum())} of {ids.size(0)} rows have the start token twice",
            "the template writes it and the tokenizer adds it again", "tokenizer(text, add_special_tokens=False)",
        )  # fmt: skip


def _whole(batch: Batch, spec: Spec) -> bool:
    """Whether rows are texts for certain, and no blocks of a longer one: some are shorter, or all begin at a start."""
    ids, bos = batch.ids, spec.bos_id
    short = batch.keep is not None and not bool(batch.keep.all())
    padded = spec.pad_id is not None and bool((ids == spec.pad_id).any())
    return short or padded or (bos not in (None, spec.eos_id) and bool((ids[:, 0] == bos).all()))


def _ends(batch: Batch, asked: Tensor | None, spec: Spec) -> Iterator[Fault]:
    eos = spec.eos_id
    if eos is None or spec.kind == "encoder":
        return
    values = asked if asked is not None else batch.ids
    if not bool((values == eos).any()):
        same = " (the padding is the same token, and was masked with it)" if eos == spec.pad_id else ""
        which = "there" if asked is None else "asked"
        yield Fault(
            "end_asked", asked is not None and _whole(batch, spec), f"the end token {eos} is never {which}{same}",
            "texts have no end token, were cut before it, or it is the padding and was masked with it",
            "append it to every text, take another token for padding, and mask by the lengths",
        )  # fmt: skip
    if batch.keep is not None and asked is not None:
        cut = batch.keep[:, -1] & (batch.ids[:, -1] != eos)
        if bool(cut.all()) and batch.ids.size(0) > 1:
            yield Fault(
                "truncated", False, "every row fills the whole length and none has an end",
                "texts are longer than the rows and are cut", "a greater length, or packing",
            )  # fmt: skip
