"""Does every asked token weigh the same, in a short text and in a long one, in a small batch of few and in one of many?

Within one batch the gradient of the loss with respect to the outputs tells (:mod:`~pellucid.doctor.xray`); over several
that are gathered, how much of each is in what is gathered (:mod:`~pellucid.doctor.gathered`).
"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.gathered import gathered, ragged
from pellucid.doctor.subject import Subject
from pellucid.doctor.xray import NO_LOSS, UnseenError, xray

CHECK = Check("accum.token_weights", "standard", "Does every asked token weigh the same?")
DONE = "compared what asked tokens of long and of short texts weigh in the loss, and in gradients gathered of two"
REFERENCES = ("huggingface/transformers#34191", "pytorch/torchtune#1875", "OpenNMT/OpenNMT-py#2209")


@CHECK
def answer(subject: Subject) -> Finding:
    """Weights within one batch, then those over two that are gathered."""
    spec = subject.spec
    if "per_sequence" in spec.declare:
        return CHECK.skipped("the loss is declared to be a mean over sequences")
    if spec.loss is None and spec.criterion is None and spec.accumulate is None:
        return CHECK.skipped("nothing says how the loss is taken", NO_LOSS)
    evidence: dict[str, object] = {}
    if (found := _by_row(subject, evidence)) is not None:
        return found
    if spec.accumulate is None or subject.module is None:
        seen = "all tokens of a batch weigh the same; of several batches nothing is said"
        return CHECK.passed(DONE, seen, **evidence) if evidence else CHECK.skipped(
            "the loss asks nothing of random texts of different lengths", "Spec(accumulate=lambda model, batches: …)"
        )  # fmt: skip
    found_ = gathered(subject)
    evidence |= {"uneven": found_.uneven, "first": found_.first, "second": found_.second}
    if 1 / tolerances.TOKEN_WEIGHTS <= found_.uneven <= tolerances.TOKEN_WEIGHTS or found_.left > 0.1:
        return CHECK.passed(DONE, "tokens of both batches weigh the same", **evidence)
    lost = abs(found_.first) < 1e-6 or abs(found_.second) < 1e-6
    evidence["lost"] = lost
    return CHECK.failed(
        DONE,
        f"a token of a batch of few asked tokens weighs {found_.uneven:.3g} times as much as one of a batch of many",
        cause="one of the small batches is not there at all: gradients are zeroed between them, or a step is taken"
        if lost
        else "each small batch is a mean over its own tokens, and the means are averaged",
        fix="zero gradients once, before the first small batch"
        if lost
        else "sum the losses of tokens and divide by the number of asked tokens of all small batches together",
        references=REFERENCES,
        evidence=evidence,
        script=gathering(bool(spec.masked)),
    )


def _by_row(subject: Subject, evidence: dict[str, object]) -> Finding | None:
    """Whether tokens weigh the same within each row, and otherwise in another."""
    if subject.spec.loss is None and subject.spec.criterion is None:
        return None
    try:
        ray = xray(subject, ragged(subject))
    except UnseenError:
        return None
    weights = ray.weights
    rows = [row[asked] for row, asked in zip(weights, ray.asked, strict=True) if bool(asked.any())]
    if len(rows) < 2 or bool(weights.isnan().any()):
        return None
    means = [float(row.mean()) for row in rows]
    alike = all(float((row.max() - row.min()) / row.mean().abs()) < 0.02 for row in rows if len(row) > 1)
    ratio = max(means) / max(min(means), 1e-30)
    evidence["of_rows"] = ratio
    if not alike or ratio < tolerances.ROW_WEIGHTS:
        return None
    return CHECK.failed(
        DONE,
        f"in one batch a token of a short text weighs {ratio:.3g} times as much as one of a long text",
        cause="each text is a mean over its own tokens, and the means are averaged",
        fix='divide by the number of asked tokens of the whole batch; declare={"per_sequence"} where it is meant so',
        references=REFERENCES,
        evidence=evidence,
        script="""
model.eval()
ids = torch.cat([sample(1), sample(2)])[:4]
keep = torch.arange(ids.size(1)) < torch.tensor([ids.size(1), ids.size(1), 4, 3])[:, None]  # two rows are short
loss, outputs = padded_loss(ids, keep)
(gradient,) = torch.autograd.grad(loss, outputs)
pull = -gradient.amin(-1)  # what each position weighs, but for a factor that is near 1
weights = torch.stack([row[row > 0].mean() for row in pull])
assert weights.max() < 1.2 * weights.min(), f"tokens of short and long texts weigh {weights.tolist()}"
""",
    )


def gathering(masked: bool) -> str:
    """A script that compares gradients of one batch with those gathered from its halves."""
    return f"""
model.eval()
ids = torch.cat([sample(1), sample(2)])[:4]
keep = torch.arange(ids.size(1)) < torch.tensor([ids.size(1), ids.size(1), 4, 3])[:, None]  # two of four rows are short
labels = ids.masked_fill(~keep, -100)
whole, *halves = (
    as_batch(ids[rows], keep={"keep[rows]" if masked else "None"}, labels=labels[rows])
    for rows in (slice(0, 4), slice(0, 2), slice(2, 4))
)
parameters = [p for p in model.parameters() if p.requires_grad]
full = torch.cat([g.flatten() for g in torch.autograd.grad(batch_loss(whole)[0], parameters)])
accumulate(halves)
found = torch.cat([p.grad.flatten() for p in parameters])
apart = (found - full).norm() / full.norm()
assert apart < 1e-3, f"gathered gradients differ from those of the whole by {{apart:.3g}} of their length"
"""
