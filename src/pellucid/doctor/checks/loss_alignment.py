"""Is each position asked for the token that it should be asked for?

The gradient of the loss with respect to the outputs tells what is asked (:mod:`~pellucid.doctor.xray`). What a position
has read is found by replacing one token: the first output that moves is the first that has read it. A position must be
asked for the token after the last that it has read, wherever the shift is made, in the labels or in the input.
"""

from __future__ import annotations

import torch

from pellucid.doctor import tolerances
from pellucid.doctor.asking import known, match, padding_asked, ragged, rows_of_others, told_by_labels
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.loss_place import loss_place
from pellucid.doctor.reading import Reading, reading_of
from pellucid.doctor.scripts.data import own_batch
from pellucid.doctor.spec import Batch, Spec
from pellucid.doctor.subject import Subject
from pellucid.doctor.xray import NO_LOSS, UnseenError, Xray, xray

CHECK = Check("loss.alignment", "standard", "Is every position asked for the right token?")
OFFSETS = range(-3, 5)
DONE = (
    "took the gradient of the loss with respect to the outputs, whose entry that is pushed up is the label; "
    "replaced single tokens to see what a position has read"
)
NAMES = {
    0: "labels are not shifted, or the decoder reads what it is asked: each position can copy the answer",
    2: "labels are shifted twice, by the caller and by the loss: each position is asked for the token after the next",
    -1: "labels are shifted the wrong way: each position is asked for the token before the one it reads",
}
STARTS_TWICE = ", or the input starts twice: [start, start, …]"
"""What it may be as well where the input is shifted on its way to the decoder."""

UNSHIFTED = (
    "F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()), or a decoder that reads [start, ids[:-1]] "
    "and is asked for ids"
)
FIXES = {
    2: "in the loss, with targets = ids[:, 1:] of the caller: F.cross_entropy(logits.flatten(0, 1), targets.flatten())"
    "; or leave that line as it is, and let the caller give ids both as input and as targets",
}
BOTH_WAYS = (
    "a model that reads both ways is asked in the place that was masked: "
    "F.cross_entropy(logits.flatten(0, 1), labels.flatten())"
)
SCRIPT = """
model.eval()
ids, other = sample(1), sample(1)
other[:, 5] = sample(2)[:, 5]
loss, outputs = loss_of(ids)
(gradient,) = torch.autograd.grad(loss, outputs, retain_graph=True)
labels = gradient.argmin(-1)  # what each position is pushed towards
moved = (loss_of(other)[1] - outputs).abs().amax((0, 2))
first = int(moved.nonzero()[0])  # the first position that has read token 5
assert (labels[:, first] == ids[:, 6]).all(), f"position {first} has read token 5 and is not asked for token 6"
"""
SAME = """
model.eval()
ids = sample(1)
loss, outputs = loss_of(ids)
(gradient,) = torch.autograd.grad(loss, outputs)
asked = gradient.abs().amax(-1) > 0
assert (gradient.argmin(-1) == ids[:, : outputs.size(1)])[asked].all(), "what is asked is not the text"
"""
TWICE = """
model.eval()
loss, outputs = loss_of(sample(1))
(gradient,) = torch.autograd.grad(loss, outputs)
asked, (pull, label) = gradient.abs().amax(-1) > 0, gradient.min(-1)
chance = outputs.softmax(-1).gather(-1, label[..., None])[..., 0]
weight = (-pull / (1 - chance))[asked].sum()  # of all positions together: 1 in a mean over them
assert loss > 0, f"a negative loss: {loss:.3g}"
assert weight > 0.5, f"gradients are {weight:.2g} of what those of a cross-entropy of these outputs are"
"""
OWN = """
model.eval()
{batch}
loss, outputs = batch_loss(as_batch(ids, keep=keep, labels=labels))
(gradient,) = torch.autograd.grad(loss, outputs)
pull, label = gradient[:, : ids.size(1) - {offset}].min(-1)  # what each position is pushed towards
share = (label == ids[:, {offset} : {offset} + label.size(1)])[pull < 0].float().mean()
assert share > 0.9, f"of your labels {{share:.0%}} stand {offset:+d} from the position that is asked for them"
"""
ROLLED = """
model.eval()
ids = sample(1)
loss, outputs = loss_of(ids)
(gradient,) = torch.autograd.grad(loss, outputs)
asked = gradient[:, ids.size(1) - 1 :].argmin(-1)[:, :1]  # what the last position is pushed towards
assert not torch.equal(asked, ids[:, :1]), "the last position is asked for the first token of its row"
"""
WRAPS = """
model.eval()
ids, other = sample(1), sample(1)
other[:, -1] = sample(2)[:, -1]
moved = (loss_of(other)[1] - loss_of(ids)[1])[:, 0].abs().max()
assert moved == 0, f"the last token moves the first output by {moved:.3g}"
"""


@CHECK
def answer(subject: Subject) -> Finding:
    """Offset of the labels, padding and end among them, on random rows; the offset on the user's own as well."""
    spec = subject.spec
    if not subject.writes and spec.labels is None:
        return CHECK.skipped("nothing says what is asked", 'Spec(labels="same", loss=…) for a masked language model')
    if spec.loss is None and spec.criterion is None:
        return CHECK.skipped("nothing says how the loss is taken", NO_LOSS)
    try:
        batch, ray = _seen(subject)
        reading = reading_of(subject, batch, ray) if subject.writes else Reading(0)
    except UnseenError as error:
        return CHECK.unsure(DONE, str(error))
    if not bool(ray.asked.any()):
        return CHECK.unsure(DONE, "nothing is asked of random text")
    wanted = (1 - reading.shift) if subject.writes and reading.shift is not None else 0 if spec.labels == "same" else 1
    words = ray.labels.where(ray.labels != spec.pad_id, -1) if spec.pad_id is not None else ray.labels
    matches = {k: match(words, batch.ids, k) for k in OFFSETS}  # padding stands at every offset
    best = max(matches, key=lambda k: matches[k])
    sure = matches[best] >= (tolerances.LABEL_MATCH if batch is not spec.batch else tolerances.LABEL_MATCH_OWN)
    evidence: dict[str, object] = {
        "offsets": {str(k): round(v, 3) for k, v in matches.items()}, "asked": int(ray.asked.sum()),
        "read_shift": reading.shift,
    }  # fmt: skip
    return (
        _softmax_twice(ray, evidence)
        or (_misplaced(matches[best], best, wanted, evidence, subject, batch) if sure and best != wanted else None)
        or _padding(ray, batch, wanted, subject, evidence)
        or (None if sure else _unexplained(ray, batch, matches, wanted, subject, evidence))
        or (_wraps(evidence) if reading.wraps else None)
        or (_rolled(ray, batch, evidence) if best == 1 else None)
        or (_end(ray, subject, evidence) if batch is not spec.batch else None)
        or _own(subject, reading, evidence)
        or CHECK.passed(DONE, f"all labels stand {best:+d} from their position", **evidence)
    )  # fmt: skip


def _seen(subject: Subject) -> tuple[Batch, Xray]:
    """Random rows and what is asked of them; the user's own where the loss takes no others."""
    batch, own = ragged(subject), subject.spec.batch
    try:
        return batch, xray(subject, batch)
    except UnseenError:
        raise
    except Exception:  # a loss that needs labels
        if own is None or own.ids.dim() != 2:
            raise
    return own, xray(subject, own)


def _softmax_twice(ray: Xray, evidence: dict[str, object]) -> Finding | None:
    """The loss is V times what its gradient says, or the mean of negative probabilities."""
    p = ray.outputs.double().softmax(-1).gather(-1, ray.labels.clamp(min=0)[..., None])[..., 0]
    g = ray.gradient.double().gather(-1, ray.labels.clamp(min=0)[..., None])[..., 0]
    weights = (-g / (1 - p).clamp_min(1e-6)).masked_fill(~ray.asked, 0)
    told = float((weights * ray.losses).sum())
    size, chance = ray.outputs.size(-1), float(p[ray.asked].mean())
    bare = abs(ray.loss + chance) <= 1e-3 * chance
    if not bare and (size < 8 or ray.loss < size / 3 * abs(told)):
        return None
    return CHECK.failed(
        DONE,
        f"the loss is {ray.loss:.3g}, and its gradient is that of a cross-entropy of {told:.2g}",
        cause="nll_loss is given probabilities, and not their logarithms"
        if bare
        else "the loss takes the softmax of what is a softmax already: it cannot fall, and its gradient vanishes",
        fix="F.cross_entropy(scores, labels), of the scores themselves; nll_loss of log_softmax",
        evidence={**evidence, "loss": ray.loss, "by_gradient": told},
        script=TWICE,
    )


def _padding(
    ray: Xray, batch: Batch, offset: int, subject: Subject, evidence: dict[str, object]
) -> Finding | None:  # fmt: skip
    """Whether positions whose label is padding are asked; not by a loss that is told by its labels what to ignore."""
    if batch.keep is None:
        return None
    stray, real = padding_asked(ray, batch, offset, subject)
    if not stray or told_by_labels(batch, offset, subject):
        return None
    upside_down = real == 0
    return CHECK.failed(
        DONE,
        f"{stray} positions whose label is padding are asked" + (", and no others" if upside_down else " as well"),
        cause="the mask of what is ignored is upside down"
        if upside_down
        else "padding is not ignored: no ignore_index, one that is not the padding's id, a mask of the inputs where "
        "that of the labels is meant, or a smoothing term that is not masked",
        fix="labels.masked_fill(~keep, -100) and cross_entropy(…, ignore_index=-100); mask the smoothing term alike",
        references=("pytorch/pytorch#73205", "awslabs/sockeye#200"),
        evidence={**evidence, "padding_asked": stray},
        script=_padding_script(subject.spec, offset),
    )


def _padding_script(spec: Spec, offset: int) -> str:
    first = 4 + offset - (spec.pad_id == spec.eos_id)
    return f"""
model.eval()
ids = sample(1)
keep = torch.ones_like(ids, dtype=torch.bool)
keep[1, -4:] = False  # the last four tokens of row 1 are padding
loss, outputs = padded_loss(ids.masked_fill(~keep, {spec.pad_id}), keep)
(gradient,) = torch.autograd.grad(loss, outputs)
asked = gradient.abs().amax(-1) > 0
assert not asked[1, ids.size(1) - {first} :].any(), "positions whose label is padding are asked"
assert asked[1, : ids.size(1) - {first + 1}].any(), "nothing else is asked"
"""


def _misplaced(
    share: float, best: int, wanted: int, evidence: dict[str, object], subject: Subject, batch: Batch, own: str = ""
) -> Finding:
    apart, whose, read = best - wanted + 1, "in your own batch " if own else "", subject.writes
    cause = (NAMES if read else {}).get(apart, f"labels stand {best - wanted:+d} from where they should")
    if apart == 2 and (subject.spec.kind == "encoder_decoder" or evidence["read_shift"] != 0):
        cause += STARTS_TWICE
    return CHECK.failed(
        DONE,
        f"{whose}{share:.0%} of the labels stand {best:+d} from their position, and should stand {wanted:+d}",
        where=loss_place(subject, batch),
        cause=cause,
        fix=FIXES.get(apart, UNSHIFTED) if read else BOTH_WAYS,
        references=(
            "huggingface/transformers#47394", "Project-MONAI/GenerativeModels#314", "huggingface/transformers#32944",
        ),
        evidence={**evidence, "offset": best, "apart": apart if read else None},
        script=own or (SCRIPT if read else SAME),
    )  # fmt: skip


def _unexplained(
    ray: Xray, batch: Batch, matches: dict[int, float], wanted: int, subject: Subject, evidence: dict[str, object]
) -> Finding:
    best = max(matches, key=lambda k: matches[k])
    values = set(ray.labels[ray.asked].tolist())
    if len(values) == 1 and not values & set(subject.words.tolist()):
        seen = f"every position is asked for token {values.pop()}"
        cause = "labels are the masked text, or the padding, and not the text itself"
    elif batch.source is not None and batch.source.dim() == 2 and match(ray.labels, batch.source, 0) == 1:
        seen, cause = "every position is asked for the token of the source", "labels are the source"
    elif rows_of_others(ray.labels, batch.ids, wanted):
        seen, cause = "every row is asked for the text of another", "texts and labels are shuffled or sorted apart"
    else:
        return CHECK.unsure(
            DONE, f"no offset explains the labels; the nearest, {best:+d}, explains {matches[best]:.0%}", **evidence
        )
    return CHECK.failed(
        DONE,
        seen,
        cause=cause,
        fix="labels are the text before masking",
        evidence=evidence,
        script=SCRIPT if subject.writes else SAME,
    )


def _wraps(evidence: dict[str, object]) -> Finding:
    return CHECK.failed(
        DONE,
        "replacing the last token of a text moved the first output that the loss is taken of",
        cause="the decoder's input is rolled and not shifted: torch.roll brings the end round to the beginning, where "
        "the start token should stand",
        fix="torch.cat([start, ids[:, :-1]], dim=1)",
        references=("huggingface/transformers#32344", "huggingface/transformers#7077"),
        evidence=evidence,
        script=WRAPS,
    )


def _rolled(ray: Xray, batch: Batch, evidence: dict[str, object]) -> Finding | None:
    """Whether the last position, after which nothing comes, is asked for the token that the row begins with."""
    if batch.ids.dim() != 2 or ray.labels.shape != batch.ids.shape:
        return None
    asked = ray.asked[:, -1]
    if not bool(asked.any()) or not torch.equal(ray.labels[asked, -1], batch.ids[asked, 0]):
        return None
    return CHECK.failed(
        DONE,
        f"the last position of {int(asked.sum())} rows is asked for the first token of its row",
        cause="labels are rolled and not shifted: ids.roll(-1) brings the beginning round to the end",
        fix="F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())",
        evidence=evidence,
        script=ROLLED,
    )


def _end(ray: Xray, subject: Subject, evidence: dict[str, object]) -> Finding | None:
    """Whether the end is asked, of texts that all have one."""
    spec, eos = subject.spec, known(subject.spec.eos_id, subject)
    if eos is None or not subject.writes or spec.features is not None or spec.example is not None:
        return None
    if bool((ray.labels == eos).any()):
        return None
    same = ", being the padding as well" if eos == spec.pad_id else ""
    return CHECK.failed(
        DONE,
        f"the end token {eos}{same} ends every text and is never asked",
        cause="what is ignored is told by the padding's id, and the end has the same; or the end is cut off or masked: "
        "the model never learns to stop",
        fix="take another token for padding, or ignore by the lengths of texts and not by the id",
        references=("huggingface/trl#1623", "pytorch/torchtune#949", "huggingface/course#33"),
        evidence=evidence,
        script=f"""
model.eval()
ids = sample(1)
ids[:, -1] = {eos}  # every text ends
loss, outputs = loss_of(ids)
(gradient,) = torch.autograd.grad(loss, outputs)
asked = gradient.abs().amax(-1) > 0
assert (gradient.argmin(-1) == {eos})[asked].any(), "the end is never asked"
""",
    )


def _own(subject: Subject, reading: Reading, evidence: dict[str, object]) -> Finding | None:
    """The offset on the user's own batch, whose labels may be shifted before they come to the loss."""
    batch = subject.spec.batch
    if batch is None or not subject.writes or reading.shift is None or batch.ids.dim() != 2:
        return None
    if subject.spec.kind == "encoder_decoder" and reading.shift != 0:
        return None  # the input is made of the labels: ids say nothing of them
    try:
        ray = xray(subject, batch.rows(slice(0, 4)))
    except Exception:  # a batch the model does not take is said by data.labels
        return None
    wanted = 1 - reading.shift
    matches = {k: match(ray.labels, batch.ids[:4].to(ray.labels.device), k) for k in OFFSETS}
    best = max(matches, key=lambda k: matches[k])
    evidence["own_offsets"] = {str(k): round(v, 3) for k, v in matches.items()}
    if matches[best] < tolerances.LABEL_MATCH_OWN or matches[wanted] > 0.5 * matches[best]:
        return None
    script = OWN.format(batch=own_batch(batch), offset=wanted)
    return _misplaced(matches[best], best, wanted, evidence, subject, batch.rows(slice(0, 4)), script)
