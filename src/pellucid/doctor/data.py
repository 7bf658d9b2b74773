"""What is wrong with a batch before any model sees it: labels, ends, padding, truncation, starts, packing.

Shapes: B batch, T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from pellucid.doctor.finding import Finding, Status
from pellucid.doctor.spec import Batch, Spec

IGNORE = -100


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


def faults(batch: Batch, spec: Spec) -> Iterator[Fault]:
    """All that is wrong, the surest harm first."""
    ids, labels = batch.ids, batch.labels
    asked = None if labels is None else labels[labels != IGNORE]
    yield from _range(ids, asked, spec)
    if labels is not None and asked is not None:
        yield from _labels(batch, labels, asked, spec)
    yield from _padding(batch, spec)
    yield from _starts(ids, spec)
    yield from _ends(batch, asked, spec)


def _range(ids: Tensor, asked: Tensor | None, spec: Spec) -> Iterator[Fault]:
    if spec.vocab_size is None:
        return
    for name, values in (("ids", ids), ("labels", asked)):
        if values is not None and values.numel() and (int(values.min()) < 0 or int(values.max()) >= spec.vocab_size):
            worst = int(values.max()) if int(values.max()) >= spec.vocab_size else int(values.min())
            yield Fault(
                "range", True, f"{name} hold {worst}, and there are {spec.vocab_size} tokens",
                "the tokenizer has more tokens than the model, or another value marks what is not asked",
                "resize the model's tables to the tokenizer, and mark what is not asked by -100",
            )  # fmt: skip


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
    pad = spec.pad_id
    if pad is not None and pad != spec.eos_id and bool((asked == pad).any()):
        yield Fault(
            "padding_asked", True, f"{int((asked == pad).sum())} labels are the padding",
            "labels are a copy of the ids and padding was not replaced", "labels.masked_fill(~keep, -100)",
        )  # fmt: skip
    if batch.keep is not None and labels.shape == batch.keep.shape:
        stray = (labels != IGNORE) & ~batch.keep
        if bool(stray[:, 1:].any() if spec.labels != "same" else stray.any()) and spec.kind != "encoder_decoder":
            yield Fault(
                "padding_asked", True, f"{int(stray.sum())} labels stand in padding",
                "the labels were not masked by the padding", "labels.masked_fill(~keep, -100)",
            )  # fmt: skip


def _padding(batch: Batch, spec: Spec) -> Iterator[Fault]:
    keep, ids = batch.keep, batch.ids
    if keep is None:
        if spec.pad_id is not None and spec.pad_id != spec.eos_id and bool((ids == spec.pad_id).any()):
            yield Fault(
                "mask", True, f"{int((ids == spec.pad_id).sum())} tokens are padding and no mask says so",
                "the mask of the tokenizer was not passed on", "give the model attention_mask, or keep",
            )  # fmt: skip
        return
    if bool((~keep).all(-1).any()):
        yield Fault("mask", True, "a row is padding throughout", "an empty text", "drop empty texts")
    steps = (keep[:, 1:] != keep[:, :-1]).sum(-1)
    if bool((steps > 1).any()):
        yield Fault(
            "mask", True, "real tokens stand on both sides of padding", "masks of two texts were joined, or sides mixed",
            "pad on one side",
        )  # fmt: skip
    if spec.pad_id is not None and bool((keep & (ids == spec.pad_id)).any()) and spec.pad_id != spec.eos_id:
        yield Fault("mask", True, "padding counts as real", "the mask is all ones", "keep = ids != pad_id")
    if spec.pad_id is not None and bool((~keep & (ids != spec.pad_id)).any()):
        yield Fault(
            "mask", False, "tokens that are not the padding are masked", "the mask is upside down, or belongs to other rows",
            "keep is True where a token is real",
        )  # fmt: skip
    waste = 1 - float(keep.float().mean())
    if waste > 0.6:
        yield Fault(
            "waste", False, f"{waste:.0%} of the batch is padding", "texts of very different lengths in one batch",
            "sort by length before batching",
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


def _ends(batch: Batch, asked: Tensor | None, spec: Spec) -> Iterator[Fault]:
    eos = spec.eos_id
    if eos is None or spec.kind == "encoder":
        return
    values = asked if asked is not None else batch.ids
    if not bool((values == eos).any()):
        same = " (the padding is the same token, and was masked with it)" if eos == spec.pad_id else ""
        yield Fault(
            "end_asked", asked is not None, f"the end token {eos} is never {'asked' if asked is not None else 'there'}{same}",
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
