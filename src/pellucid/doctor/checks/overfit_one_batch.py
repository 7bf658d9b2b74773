"""Can the model learn one batch by heart?"""

from __future__ import annotations

import math

import torch

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import loss_for, trained, trainee

CHECK = Check("overfit.one_batch", "full", "Can one batch be learned by heart?")
STEPS, ROWS, LENGTH, RATES = 200, 4, 12, (3e-3, 1e-3, 3e-4)


@CHECK
def answer(subject: Subject) -> Finding:
    """Trains copies at three rates; the best counts. Rows begin with different tokens, so that all can be known."""
    spec = subject.spec
    if subject.module is None or not subject.writes or spec.features is not None:
        return CHECK.skipped("nothing is predicted from ids")
    loss = loss_for(subject)
    if loss is None:
        return CHECK.skipped("nothing says how the loss is taken", "Spec(criterion=lambda outputs, batch: loss)")
    batch = subject.batch(ROWS, min(LENGTH, subject.length), seed=40)
    target = tolerances.OVERFIT * math.log(len(subject.words)) + spec.smoothing * math.log(len(subject.words))
    reached, evaluated = math.inf, math.inf
    for rate in RATES:
        with trainee(subject, dropout=False) as model:
            losses = trained(model, loss, lambda _: batch, steps=STEPS, lr=rate, seed=subject.seed)
            model.eval()
            with torch.no_grad():
                value = float(loss(model, batch))
        if min(losses[-5:]) < reached:
            reached, evaluated = min(losses[-5:]), value
        if reached <= target:
            break
    done = f"trained a copy for {STEPS} steps on one batch of {ROWS} rows, at rates down to {rate:g}"
    seen = f"the loss fell to {reached:.3f} nats, and {evaluated:.3f} in evaluation mode; {target:.2f} is asked"
    evidence = {"loss": reached, "evaluation": evaluated, "target": target}
    if reached <= target and evaluated <= max(2 * target, reached + 0.5):
        return CHECK.passed(done, seen, **evidence)
    return CHECK.warned(
        done,
        seen,
        cause="parameters that are not trained, inputs that do not reach the outputs, labels that do not belong to "
        "them, "
        "or another computation in evaluation than in training mode",
        fix="see what else this report says; then train longer, or at another rate",
        evidence=evidence,
    )
