"""Do gradients reach every layer, none of them vanishing or exploding, and are they those of the outputs?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.differences import mismatch
from pellucid.doctor.finding import Finding
from pellucid.doctor.health import blocks
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import Loss, loss_for, norm

CHECK = Check("health.gradients", "standard", "Do gradients reach every layer?")


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares the gradient with differences of the outputs, then its norm from layer to layer."""
    module, spec = subject.module, subject.spec
    if module is None:
        return CHECK.skipped("a callable shows no gradients", "a module in place of a callable")
    away = mismatch(subject) if "frozen" not in spec.declare else None
    if away is not None and away > tolerances.DERIVATIVE:
        return _cut(away)
    loss = loss_for(subject)
    if loss is None:
        return CHECK.skipped("nothing says how the loss is taken", "Spec(criterion=lambda outputs, batch: loss)")
    layers = blocks(module)
    if not layers:
        return CHECK.skipped("no list of layers is found")
    found = _gradients(subject, module, loss)
    done = f"took the gradient of the loss and its norm in {len(layers)} layers"
    if any(g is not None and not bool(g.isfinite().all()) for g in found.values()):
        return _infinite(done)
    norms = {}
    for name in layers:
        parts = [g for key, g in found.items() if key.startswith(f"{name}.") and g is not None]
        if parts:
            norms[name] = norm(parts)
    if len(norms) < 2 or min(norms.values()) == 0:
        return CHECK.skipped("fewer than two layers have gradients")
    ratio = max(norms.values()) / min(norms.values())
    seen = f"the largest is {ratio:.3g} times the smallest"
    if ratio > tolerances.GRADIENT_RATIO:
        return CHECK.warned(
            done, seen, cause="gradients vanish or explode with depth: norms after the sum without warm-up, no "
            "residual, weights drawn too small or too large", evidence={"norms": norms},
        )  # fmt: skip
    return CHECK.passed(done, seen, norms=norms, derivative=away)


def _gradients(subject: Subject, module: nn.Module, loss: Loss) -> dict[str, Tensor | None]:
    with subject.mode(False), torch.enable_grad():
        subject.reseed()
        value = loss(module, subject.batch())
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        return dict(zip(named, torch.autograd.grad(value, list(named.values()), allow_unused=True), strict=True))


def _cut(away: float) -> Finding:
    return CHECK.failed(
        "moved the embeddings a little, and compared how outputs moved with what the gradient says, in float64",
        f"the gradient is not that of the outputs: the two differ by {away:.0%}",
        cause="the graph is cut on the way: detach(), .data or no_grad in a block, on the stream or on what a part "
        "reads; what lies before learns by the ways that are left",
        fix="look for detach, .data and no_grad in forward, and let the stream pass without them",
        references=("pytorch/pytorch#666", "espnet/espnet#465"),
        evidence={"away": away},
        script="""
model.double().eval()
ids = sample(1)
table = next(part.weight for part in model.modules() if isinstance(part, torch.nn.Embedding))
weights, change = torch.randn_like(call(ids)), torch.randn_like(table)
(gradient,) = torch.autograd.grad((call(ids) * weights).sum(), table, allow_unused=True)
sides = []
for sign in (1, -1):
    with torch.no_grad():
        table += sign * 1e-6 * change
        sides.append((call(ids) * weights).sum())
        table -= sign * 1e-6 * change
moved, told = (sides[0] - sides[1]) / 2e-6, 0.0 if gradient is None else (gradient * change).sum()
assert abs(moved - told) < 0.02 * abs(moved), f"outputs move by {moved:.4g}, and the gradient says {told:.4g}"
""",
    )


def _infinite(done: str) -> Finding:
    return CHECK.failed(
        done,
        "some gradients are NaN or infinite",
        cause="a softmax of -inf alone, a root or logarithm of zero, an overflow",
        fix="find the first NaN with torch.autograd.set_detect_anomaly(True)",
        script="""
model.eval()
loss_of(sample(1))[0].backward()
bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
assert not bad, f"gradients of {bad} are not finite; torch.autograd.set_detect_anomaly(True) finds the first"
""",
    )
