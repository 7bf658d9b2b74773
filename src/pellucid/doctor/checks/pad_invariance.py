"""Does padding matter?

What stands in padded places, compared bit for bit; how much padding there is, within rounding; and whether a row that is
padding in part, or in whole, makes NaN anywhere, in outputs or gradients.

An encoder–decoder is padded in its source; :mod:`~pellucid.doctor.checks.cross_memory` asks the same of the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.spec import Batch, Side
from pellucid.doctor.subject import Subject

CHECK = Check("pad.invariance", "quick", "Does padding leave what is real alone?")
DONE = "padded rows of different lengths on the {sides}: replaced what stands in the padding, ran each row without it"
REFERENCES = (
    "huggingface/transformers#18478", "pytorch/pytorch#86120", "pytorch/pytorch#97111", "pytorch/pytorch#41508",
    "hyunwoongko/transformer#40",
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What is wrong on one side.

    Attributes:
        kind: ``content``, ``amount``, ``nan``, ``shape``.
    """

    kind: str
    side: Side
    seen: str
    share: float
    cause: str
    fix: str


@CHECK
def answer(subject: Subject) -> Finding:
    """Both sides where both are allowed; an encoder is padded on the right alone unless it is said otherwise."""
    spec = subject.spec
    if not spec.masked:
        return CHECK.skipped(
            "no padding mask is given to the model", "Spec(call=lambda model, batch: model(batch.ids, mask=batch.keep))"
        )
    if spec.example is not None and spec.example.source is None:
        return CHECK.skipped("what it reads has no padding")
    sides = _sides(subject)
    done = DONE.format(sides=" and the ".join(sides))
    if not sides:
        return CHECK.skipped("padding on the left is declared not to happen, and on the right a decoder cannot see it")
    evidence: dict[str, float] = {}
    for side in sides:
        for fault in _faults(subject, side, evidence):
            return CHECK.failed(
                done,
                fault.seen,
                cause=fault.cause,
                fix=fault.fix,
                references=REFERENCES,
                evidence={"kind": fault.kind, "side": side, "share": fault.share, **evidence},
                script=_script(fault, subject),
            )
    if (control := _control(subject, sides[0])) <= tolerances.CONTROL:
        return CHECK.unsure(done, "but without the mask padding did not matter either", control=control, **evidence)
    return CHECK.passed(
        done, "what is real kept its bits, and no amount of padding matters", control=control, **evidence
    )


def _sides(subject: Subject) -> tuple[Side, ...]:
    spec = subject.spec
    if spec.kind == "encoder_decoder" or spec.kind == "encoder":
        return spec.pad_sides or ("right",)
    if spec.pad_sides is not None:
        return tuple(side for side in spec.pad_sides if side == "left" or spec.kind == "prefix")
    return () if "no_left_pad" in spec.declare else ("left",)


def padded(subject: Subject, side: Side, *, extra: int = 0) -> tuple[Batch, Tensor]:
    """Rows of three lengths, padded on a side; and which places of what is padded are real.

    Padding comes in the source of an encoder–decoder, else in the ids.
    """
    batch = subject.batch()
    read = batch.ids if batch.source is None else batch.source
    rows, length = read.shape[:2]
    lengths = torch.tensor([max(2, length - row * max(1, length // 4)) for row in range(rows)])
    places = torch.arange(length + extra)
    keep = places < lengths[:, None] if side == "right" else places >= (length + extra - lengths)[:, None]
    keep = keep.to(read.device)
    fill = (
        subject.spec.pad_id
        if subject.spec.pad_id is not None
        else int(subject.words[0])
        if subject.spec.features is None
        else 0
    )
    more = torch.full((rows, extra, *read.shape[2:]), fill, dtype=read.dtype, device=read.device)
    whole = torch.cat([read, more] if side == "right" else [more, read], dim=1)
    whole = torch.where(keep.view(*keep.shape, *[1] * (whole.dim() - 2)), whole, torch.full_like(whole, fill))
    return (
        batch.with_(source=whole, source_keep=keep) if batch.source is not None else batch.with_(ids=whole, keep=keep)
    ), keep


def _faults(subject: Subject, side: Side, evidence: dict[str, float]) -> Iterator[Fault]:
    batch, keep = padded(subject, side)
    output = subject(batch)
    yield from _nan(subject, batch, output, side)
    yield from _shape(subject, side)
    tries = _conventions(batch, keep, side)
    yield from _content(subject, batch, keep, side, evidence)
    yield from _amount(subject, tries, keep, side, evidence)
    yield from _all_padding(subject, batch, side)


def _conventions(batch: Batch, keep: Tensor, side: Side) -> list[Batch]:
    """Positions as the model makes them, and as the caller may give them, counted over what is real."""
    counted = (keep.cumsum(1) - 1).clamp(min=0)
    return [batch] if side == "right" or batch.source is not None else [batch, batch.with_(positions=counted)]


def _content(subject: Subject, batch: Batch, keep: Tensor, side: Side, evidence: dict[str, float]) -> Iterator[Fault]:
    read = batch.ids if batch.source is None else batch.source
    shape = (*keep.shape, *[1] * (read.dim() - 2))
    other = torch.where(keep.view(shape), read, subject.other(read, 6))
    changed = batch.with_(ids=other) if batch.source is None else batch.with_(source=other)
    share = gap(_real(subject(changed), keep, batch), _real(subject(batch), keep, batch)).share
    evidence[f"content, {side}"] = share
    if share > tolerances.EXACT_NOISE:
        yield Fault(
            "content", side,
            f"replacing what stands in the padding on the {side} moved outputs of real tokens by {share:.2g} of the largest",
            share,
            "padding is attended to: the mask is not passed on, is made for another axis or other rows, has the wrong "
            "polarity, or a pooling counts what is padding",
            "hide padded keys from every query: mask of shape (B, 1, 1, S) on the scores; pool over real tokens alone",
        )  # fmt: skip


def _amount(
    subject: Subject, tries: list[Batch], keep: Tensor, side: Side, evidence: dict[str, float]
) -> Iterator[Fault]:
    smallest = None
    for batch in tries:
        worst = 0.0
        for row in range(keep.size(0)):
            agreed, found, _ = subject.agree(lambda b=batch, r=row: _alone(subject, b, keep, r), exact=False)  # type: ignore[misc]
            worst = max(worst, 0.0 if agreed else found.share)
        smallest = worst if smallest is None else min(smallest, worst)
        if worst == 0:
            evidence[f"amount, {side}"] = 0.0
            return
    assert smallest is not None
    evidence[f"amount, {side}"] = smallest
    cause = (
        "positions are counted from the left edge and not from the first real token"
        if side == "left"
        else "positions, a scale, a pooling or statistics count the padding"
    )
    fix = "positions = (keep.cumsum(1) - 1).clamp(min=0)" if side == "left" else "count real tokens alone"
    yield Fault(
        "amount", side, f"a row without its padding on the {side} differs by {smallest:.2g} of the largest output",
        smallest, cause, fix + (", or declare no_left_pad where texts are never padded there" if side == "left" else ""),
    )  # fmt: skip


def _alone(subject: Subject, batch: Batch, keep: Tensor, row: int) -> tuple[Tensor, Tensor]:
    """A row of a padded batch, at its real places, and the same row with no padding."""
    one = batch.rows(slice(row, row + 1))
    real = keep[row]
    if batch.source is not None:
        bare = one.with_(source=one.source[:, real], source_keep=None)  # type: ignore[index]
        return subject(batch)[row : row + 1], subject(bare)
    bare = one.with_(ids=one.ids[:, real], keep=None, positions=None)
    found, alone = subject(batch)[row : row + 1], subject(bare)
    return (found[:, real], alone) if found.shape[1:2] == keep.shape[1:] else (found, alone)


def _real(output: Tensor, keep: Tensor, batch: Batch) -> Tensor:
    """Outputs with those of padding as zeros; all of them where padding is in the source or outputs are pooled."""
    if batch.source is not None or output.dim() < 3 or output.shape[:2] != keep.shape:
        return output
    return torch.where(keep.view(*keep.shape, *[1] * (output.dim() - 2)), output, torch.zeros_like(output))


def _nan(subject: Subject, batch: Batch, output: Tensor, side: Side) -> Iterator[Fault]:
    where = "outputs" if not bool(output.isfinite().all()) else ""
    if not where and subject.module is not None:
        where = _gradient_nan(subject, batch)
    if where:
        yield Fault(
            "nan", side, f"padding on the {side} makes NaN or infinity in {where}", float("inf"),
            "a query that may see nothing takes the softmax of -inf alone, or two masks of the lowest number are added; "
            "NaN times zero stays NaN in the gradient",
            "leave such a query something to see, or set its weights to zero after the softmax: "
            "weights.masked_fill(hidden.all(-1, keepdim=True), 0); add masks as booleans",
        )  # fmt: skip


def _gradient_nan(subject: Subject, batch: Batch) -> str:
    assert subject.module is not None
    parameters = [p for p in subject.module.parameters() if p.requires_grad]
    output = subject(batch, grads=True)
    if not output.requires_grad or not parameters:
        return ""
    with torch.enable_grad():
        grads = torch.autograd.grad(output.float().square().mean(), parameters, allow_unused=True)
    return "gradients" if any(g is not None and not bool(g.isfinite().all()) for g in grads) else ""


def _shape(subject: Subject, side: Side) -> Iterator[Fault]:
    batch, _ = padded(subject, side, extra=2)
    read = batch.ids if batch.source is None else None
    if read is None or (subject.spec.max_length or read.size(1)) < read.size(1):
        return
    output = subject(batch)
    if subject.per_position and output.shape[:2] != read.shape[:2]:
        yield Fault(
            "shape", side, f"inputs {tuple(read.shape[:2])} whose last columns are padding give outputs {tuple(output.shape[:2])}",
            float("inf"), "columns in which every row is padding are dropped, as by nested tensors on a fast path",
            "nn.TransformerEncoder(…, enable_nested_tensor=False), or pad the outputs to the length of the input",
        )  # fmt: skip


def _all_padding(subject: Subject, batch: Batch, side: Side) -> Iterator[Fault]:
    """A row that is padding throughout may give anything, but not to others."""
    name = "keep" if batch.source is None else "source_keep"
    keep = getattr(batch, name).clone()
    keep[-1] = False
    output = subject(batch.with_(**{name: keep}))[:-1]
    if not bool(output.isfinite().all()):
        yield Fault(
            "nan", side, "a row of padding alone makes NaN in other rows", float("inf"),
            "NaN of one row reaches the others by a sum over the batch", "set what such a row gives to zero",
        )  # fmt: skip


def _control(subject: Subject, side: Side) -> float:
    """How much padding matters when it is not masked."""
    batch, keep = padded(subject, side)
    bare = batch.with_(keep=None, source_keep=None)
    return gap(_real(subject(bare), keep, batch), _real(subject(batch), keep, batch)).share


def _script(fault: Fault, subject: Subject) -> str:
    given = "source" if subject.spec.kind == "encoder_decoder" else "ids"
    return f"""
model.eval()
ids = sample(1)
keep = torch.ones_like(ids, dtype=torch.bool)
keep[1, {"-4:" if fault.side == "right" else ":4"}] = False  # padding on the {fault.side}, in the {given}
other = torch.where(keep, ids, sample(2))
one, two = masked(ids, keep), masked(other, keep)  # as you pass the mask: True where a token is real
assert one.isfinite().all(), "NaN"
assert (one - two)[keep].abs().max() == 0, "what stands in the padding matters"
alone = masked(ids[1:2][:, keep[1]], None)
assert (one[1][keep[1]] - alone[0]).abs().max() < 1e-4, "the amount of padding matters"
"""
