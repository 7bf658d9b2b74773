"""Does every asked token weigh the same, in a small batch of few and in one of many?"""

from __future__ import annotations

import torch

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import gradients, loss_of, norm

CHECK = Check("accum.token_weights", "standard", "Do small batches add up to a large one?")
DONE = "gathered the gradients of two small batches, of many and of few asked tokens, and took that of both together"
REFERENCES = ("huggingface/transformers#34191", "pytorch/torchtune#1875", "karpathy/nanoGPT#206")


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares directions and lengths: another direction is a mean of means, another length a missing division."""
    spec = subject.spec
    if spec.accumulate is None:
        return CHECK.skipped("nothing says how gradients are gathered", "Spec(accumulate=lambda model, batches: …)")
    if "per_sequence" in spec.declare:
        return CHECK.skipped("the loss is declared to be a mean over sequences")
    loss, module = loss_of(spec), subject.module
    if loss is None or module is None:
        return CHECK.skipped("nothing says how the loss is taken", "Spec(loss=lambda model, batch: (loss, outputs))")
    whole = ragged(subject)
    with subject.mode(False), torch.enable_grad():
        full = gradients(module, loss(module, whole))
        for parameter in module.parameters():
            parameter.grad = None
        spec.accumulate(module, [whole.rows(slice(0, 2)), whole.rows(slice(2, 4))])
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.parameters() if p.requires_grad]
        for parameter in module.parameters():
            parameter.grad = None
    apart = norm([a - b for a, b in zip(found, full, strict=True)]) / max(norm(full), 1e-30)
    ratio = norm(found) / max(norm(full), 1e-30)
    cosine = sum(float((a.double() * b.double()).sum()) for a, b in zip(found, full, strict=True))
    cosine /= max(norm(found) * norm(full), 1e-30)
    evidence = {"apart": apart, "ratio": ratio, "cosine": cosine}
    if apart <= tolerances.GRADIENT:
        return CHECK.passed(DONE, f"the same within {apart:.1e}", **evidence)
    only_length = cosine > 1 - 1e-6
    return CHECK.failed(
        DONE,
        f"they differ by {apart:.2g} of the length, "
        + (
            f"which is {ratio:.3g} times what it should be"
            if only_length
            else f"and point elsewhere (cosine {cosine:.4f})"
        ),
        cause="the loss is not divided by the number of small batches"
        if only_length
        else "each small batch is a mean over its own tokens, and the means are averaged: a token among few weighs more",
        fix="sum the losses of tokens and divide by the number of asked tokens of all small batches together",
        references=REFERENCES,
        evidence=evidence,
        script=f"""
model.eval()
ids = torch.cat([sample(1), sample(2)])[:4]
keep = torch.arange(ids.size(1)) < torch.tensor([ids.size(1), ids.size(1), 4, 3])[:, None]  # two of four rows are short
labels = ids.masked_fill(~keep, -100)
whole, *halves = (
    as_batch(ids[rows], keep={"keep[rows]" if spec.masked else "None"}, labels=labels[rows])
    for rows in (slice(0, 4), slice(0, 2), slice(2, 4))
)
parameters = [p for p in model.parameters() if p.requires_grad]
full = torch.cat([g.flatten() for g in torch.autograd.grad(batch_loss(whole), parameters)])
accumulate(halves)
found = torch.cat([p.grad.flatten() for p in parameters])
apart = (found - full).norm() / full.norm()
assert apart < 1e-3, f"gathered gradients differ from those of the whole by {{apart:.3g}} of their length"
""",
    )


def ragged(subject: Subject) -> Batch:
    """Four rows: two long, two short; padding is masked and labelled as not asked."""
    batch = subject.batch(4, seed=50)
    rows, length = batch.ids.shape[:2]
    lengths = torch.tensor([length, length, 4, 3])
    keep = (torch.arange(length) < lengths[:, None]).to(batch.ids.device)
    labels = batch.ids.masked_fill(~keep, -100)
    pad = subject.spec.pad_id
    ids = batch.ids if pad is None else batch.ids.where(keep, torch.full_like(batch.ids, pad))
    return batch.with_(ids=ids, keep=keep if subject.spec.masked else None, labels=labels)
