"""Does padding matter?

What stands in padded places, compared bit for bit; how much padding there is, within rounding; and whether a row that
is padding in part makes NaN anywhere, in outputs or gradients. Where no mask is given to the model and the padding's id
is known, the amount alone: the model may tell padding by its id.

An encoder–decoder is padded in its source, and in what it writes on the right;
:mod:`~pellucid.doctor.checks.cross_memory` asks the same of the memory.
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
from pellucid.doctor.padding import Padded, masks_by_id, most_apart, padded, seers, upside_down
from pellucid.doctor.scripts.padding import pad_script
from pellucid.doctor.subject import Subject

CHECK = Check("pad.invariance", "quick", "Does padding leave what is real alone?")
REFERENCES = (
    "huggingface/transformers#18478", "pytorch/pytorch#86120", "pytorch/pytorch#97111", "pytorch/pytorch#41508",
    "hyunwoongko/transformer#40",
)  # fmt: skip
ENABLE = "Spec(call=lambda model, batch: model(batch.ids, mask=batch.keep), masked=True), or Spec(pad_id=…)"
CAUSES = {
    "content": "padding is attended to: the mask is not passed on, is made for another axis or other rows, or has the "
    "wrong polarity",
    "count": "something other than attention counts what is padding: a pooling, a norm's statistics, a routing",
    "left": "positions are counted from the left edge and not from the first real token",
    "right": "positions, a scale, a pooling or statistics count the padding",
    "given": "the padding mask takes the place of the causal one, or that is made only where no other is given",
    "nan": "a query that may see nothing takes the softmax of -inf alone, or two masks of the lowest number are added; "
    "NaN times zero stays NaN in the gradient",
    "shape": "columns in which every row is padding are dropped, as by nested tensors on a fast path",
}
FIXES = {
    "content": "hide padded keys from every query: mask of shape (B, 1, 1, S) on the scores",
    "count": "pool, norm and route over real tokens alone",
    "left": "positions = (keep.cumsum(1) - 1).clamp(min=0), or declare no_left_pad where texts are never padded there",
    "right": "count real tokens alone",
    "given": "allowed = causal & keep[:, None, None, :]",
    "nan": "leave such a query something to see, or set its weights to zero after the softmax: "
    "weights.masked_fill(hidden.all(-1, keepdim=True), 0); add masks as booleans",
    "shape": "nn.TransformerEncoder(…, enable_nested_tensor=False), or pad the outputs to the length of the input",
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with padding on one side.

    Attributes:
        kind: ``content``, ``amount``, ``nan``, ``shape``.
        cause: a key of ``CAUSES`` and ``FIXES``.
        surely: whether it harms; else it may be that no text is ever padded so.
    """

    kind: str
    seen: str
    share: float
    cause: str
    where: str = ""
    surely: bool = True


@CHECK
def answer(subject: Subject) -> Finding:
    """All that may be padded: the source, or the ids on the sides that are allowed."""
    spec = subject.spec
    if spec.example is not None and spec.example.source is None:
        return CHECK.skipped("what it reads has no padding")
    places = _places(subject)
    if not places:
        return CHECK.skipped("no padding mask is given to the model", ENABLE)
    done = "padded rows of different lengths (" + ", ".join(f"{p.read} on the {p.side}" for p in places) + (
        "): replaced what stands in the padding, ran each row without it" if spec.masked else
        ", told by the padding's id alone): ran each row without it"
    )  # fmt: skip
    evidence: dict[str, float] = {}
    doubts = []
    for place in places:
        for fault in _faults(subject, place, evidence):
            if fault.surely:
                return _failed(subject, done, place, fault, evidence)
            doubts.append((place, fault))
    if doubts:
        place, fault = doubts[0]
        return CHECK.warned(
            done, fault.seen, cause=CAUSES[fault.cause], fix=FIXES[fault.cause],
            evidence={"kind": fault.kind, "side": place.side, "share": fault.share, **evidence},
        )  # fmt: skip
    telling = [place for place in places if not _vacuous(subject, place)]
    control = _control(subject, (telling or places)[0])
    if control <= tolerances.CONTROL and telling:
        return CHECK.unsure(done, "but without the mask padding did not matter either", control=control, **evidence)
    if bool(_alone_in_batch(subject, places[0]).isnan().any()):
        return CHECK.warned(done, "a row that is padding throughout gives NaN, for itself alone", evidence=evidence)
    return CHECK.passed(
        done, "what is real kept its bits, and no amount of padding matters", control=control, **evidence
    )


def _places(subject: Subject) -> list[Padded]:
    """The source and the target's right; an encoder's right; a decoder's left, and its right, which it cannot see."""
    spec = subject.spec
    if not spec.masked and (spec.pad_id is None or spec.features is not None or spec.example is not None):
        return []
    told = bool(spec.masked)
    if spec.kind == "encoder":
        return [padded(subject, side, told=told) for side in spec.pad_sides or ("right",)]
    right = [padded(subject, "right", "ids", told=told)] if "batch_coupled" not in spec.declare else []
    if spec.kind == "encoder_decoder":
        source = [padded(subject, side, told=told) for side in spec.pad_sides or ("right",)]
        return source + right if spec.example is None else right
    left = "left" in spec.pad_sides if spec.pad_sides else told and "no_left_pad" not in spec.declare
    return right + ([padded(subject, "left", told=told)] if left else [])


def _vacuous(subject: Subject, given: Padded) -> bool:
    """Whether padding could not be seen by what is real, mask or none."""
    return subject.writes and given.read == "ids" and given.side == "right"


def _faults(subject: Subject, given: Padded, evidence: dict[str, float]) -> Iterator[Fault]:
    yield from _nan(subject, given)
    yield from _shape(subject, given)
    if given.told:
        yield from _content(subject, given, evidence)
    yield from _amount(subject, given, evidence)
    if given.told:
        yield from _all_padding(subject, given)


def _content(subject: Subject, given: Padded, evidence: dict[str, float]) -> Iterator[Fault]:
    share = gap(given.real(subject(given.replaced(subject))), given.real(subject(given.batch))).share
    evidence[f"content of the {given.read}, {given.side}"] = share
    if share > tolerances.EXACT_NOISE:
        seeing, could = seers(subject, given)
        if could and not seeing and given.read == "ids":
            return  # the model tells padding by its id elsewhere, such as in positions: the amount says whether it may
        where = f"{seeing[0].name} ({seeing[0].module})" if seeing else ""
        seen = f"replacing {given.named} moved outputs of real tokens by {share:.2g} of the largest"
        seen += f"; {len(seeing)} of {could} attentions give weight to padding" if could else ""
        yield Fault("content", seen, share, "content" if seeing or not could else "count", where)


def _amount(subject: Subject, given: Padded, evidence: dict[str, float]) -> Iterator[Fault]:
    """Positions as the model makes them and, on the left, as a caller counts them over what is real: either may do."""
    if "batch_coupled" in subject.spec.declare:
        return
    tries, smallest = [given], None
    if given.side == "left" and given.read == "ids":
        counted = (given.keep.cumsum(1) - 1).clamp(min=0)
        tries.append(Padded(given.batch.with_(positions=counted), given.read, given.side, given.keep, given.told))
    for one in tries:
        base = subject(one.batch)
        worst = most_apart(subject, one, base)
        smallest = worst if smallest is None else min(smallest, worst)
        if worst == 0:
            break
    assert smallest is not None
    evidence[f"amount of the {given.read}, {given.side}"] = smallest
    if smallest == 0:
        return
    seen = f"a row without {given.named} differs by {smallest:.2g} of the largest output"
    cause = "given" if _vacuous(subject, given) else "left" if given.side == "left" else "right"
    where, surely = "", True
    if given.side == "left" and subject.spec.kind != "encoder":
        surely = "left" in (subject.spec.pad_sides or ()) and (given.told or masks_by_id(subject, given))
    elif not given.told:
        surely = cause == "given" or masks_by_id(subject, given)
    if cause == "right" and (seeing := seers(subject, given)[0]):
        cause, where = "content", f"{seeing[0].name} ({seeing[0].module})"
    yield Fault("amount", seen, smallest, cause, where, surely)


def _nan(subject: Subject, given: Padded) -> Iterator[Fault]:
    output = subject(given.batch)
    where = "outputs of real tokens" if _made_infinite(subject, given, output) else ""
    if not where and subject.module is not None:
        where = _gradient_nan(subject, given)
    spec = subject.spec
    unasked = given.side == "left" and subject.writes and spec.pad_sides == () and spec.step is None
    surely = bool(where) and not unasked
    if not where and bool(output.isnan().any()):
        where = "outputs of padding alone"
    if where:
        seen = f"{given.named} makes NaN or infinity in {where}"
        yield Fault("nan", seen, float("inf"), "nan", surely=surely)


def _made_infinite(subject: Subject, given: Padded, output: Tensor) -> bool:
    """Whether what is real is not finite, and is so without the padding: -inf may forbid a token."""
    if bool(given.real(output).isfinite().all()):
        return False
    rows = range(given.keep.size(0))
    pairs = ((given.of_row(output, row), subject(given.alone(row))) for row in rows)
    return any(a.shape != b.shape or bool((~a.isfinite() & b.isfinite()).any()) for a, b in pairs)


def _gradient_nan(subject: Subject, given: Padded) -> str:
    assert subject.module is not None
    parameters = [p for p in subject.module.parameters() if p.requires_grad]
    output = given.real(subject(given.batch, grads=True))
    if not output.requires_grad or not parameters:
        return ""
    with torch.enable_grad():
        finite = output[output.isfinite()]
        grads = torch.autograd.grad(finite.float().square().mean(), parameters, allow_unused=True)
    return "gradients" if any(g is not None and not bool(g.isfinite().all()) for g in grads) else ""


def _shape(subject: Subject, given: Padded) -> Iterator[Fault]:
    longer = padded(subject, given.side, given.read, extra=2, told=given.told)
    size = longer.keep.size(1)
    if given.read == "source" or (subject.spec.max_length or size) < size:
        return
    output = subject(longer.batch)
    if subject.per_position and output.shape[:2] != longer.keep.shape:
        seen = f"inputs {tuple(longer.keep.shape)} with columns of padding give outputs {tuple(output.shape[:2])}"
        yield Fault("shape", seen, float("inf"), "shape")


def _alone_in_batch(subject: Subject, given: Padded) -> Tensor:
    """Outputs where the last row is padding throughout."""
    keep = given.keep.clone()
    keep[-1] = False
    return subject(given.with_keep(keep)) if given.told else subject(given.batch)


def _all_padding(subject: Subject, given: Padded) -> Iterator[Fault]:
    """A row that is padding throughout may give anything, but not to others."""
    before, after = (x[:-1].isfinite() for x in (subject(given.batch), _alone_in_batch(subject, given)))
    if bool((before & ~after).any()):
        yield Fault("nan", "a row of padding alone makes NaN in other rows", float("inf"), "nan")


def _control(subject: Subject, given: Padded) -> float:
    """How much padding matters when it is not masked, nor can be told by its id."""
    if not given.told:
        return 1.0
    name = "source_keep" if given.read == "source" else "keep"
    bare = (given.with_keep(None), given.replaced(subject).with_(**{name: None}))
    masked = given.real(subject(given.batch))
    return max(gap(given.real(subject(batch)), masked).share for batch in bare)


def _failed(subject: Subject, done: str, given: Padded, fault: Fault, evidence: dict[str, float]) -> Finding:
    return CHECK.failed(
        done,
        fault.seen,
        where=fault.where,
        cause=CAUSES[fault.cause],
        fix=FIXES[fault.cause],
        references=REFERENCES,
        evidence={
            "kind": fault.kind,
            "cause": fault.cause,
            "side": given.side,
            "read": given.read,
            "share": fault.share,
            "upside_down": upside_down(subject, given),
            **evidence,
        },
        script=pad_script(subject, given, fault.kind),
    )
