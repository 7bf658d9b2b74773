"""Do gradients reach every layer, none of them vanishing or exploding?"""

from __future__ import annotations

import torch

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.health import blocks
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import loss_of, next_token, norm

CHECK = Check("health.gradients", "standard", "Do gradients reach every layer?")


@CHECK
def answer(subject: Subject) -> Finding:
    """The norm of the gradient of each layer; the first over the last."""
    module, spec = subject.module, subject.spec
    if module is None:
        return CHECK.skipped("a callable shows no gradients", "a module in place of a callable")
    loss = loss_of(spec)
    if loss is None and (spec.kind != "decoder" or spec.features is not None):
        return CHECK.skipped("nothing says how the loss is taken", "Spec(criterion=lambda outputs, batch: loss)")
    layers = blocks(module)
    if not layers:
        return CHECK.skipped("no list of layers is found")
    with subject.mode(False), torch.enable_grad():
        subject.reseed()
        value = (loss or next_token(spec))(module, subject.batch())
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        found = dict(zip(named, torch.autograd.grad(value, list(named.values()), allow_unused=True), strict=True))
    done = f"took the gradient of the loss and its norm in {len(layers)} layers"
    if any(g is not None and not bool(g.isfinite().all()) for g in found.values()):
        return CHECK.failed(
            done, "some gradients are NaN or infinite", cause="a softmax of -inf alone, a root or logarithm of zero, an "
            "overflow", fix="find the first NaN with torch.autograd.set_detect_anomaly(True)",
            script="""
model.eval()
loss_of(sample(1))[0].backward()
bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
assert not bad, f"gradients of {bad} are not finite; torch.autograd.set_detect_anomaly(True) finds the first"
""",
        )  # fmt: skip
    norms = {}
    for name in layers:
        parts = [g for key, g in found.items() if key.startswith(f"{name}.") and g is not None]
        if parts:
            norms[name] = norm(parts)
    if len(norms) < 2 or min(norms.values()) == 0:
        return CHECK.skipped("fewer than two layers have gradients")
    values = list(norms.values())
    ratio = max(values) / min(values)
    seen = f"the largest is {ratio:.3g} times the smallest"
    if ratio > tolerances.GRADIENT_RATIO:
        return CHECK.warned(
            done, seen, cause="gradients vanish or explode with depth: norms after the sum without warm-up, no residual, "
            "weights drawn too small or too large", evidence={"norms": norms},
        )  # fmt: skip
    return CHECK.passed(done, seen, norms=norms)
