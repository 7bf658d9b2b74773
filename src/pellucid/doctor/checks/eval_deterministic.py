"""Are two passes in evaluation mode the same, bit for bit?"""

from __future__ import annotations

import torch

from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.subject import Subject

CHECK = Check("eval.deterministic", "quick", "Are two passes in evaluation mode the same?")
NAN = """
model.eval()
assert not call(sample(1)).isnan().any(), "outputs are NaN"
"""
DONE = "ran the same batch three times in evaluation mode, with other random numbers each time"


@CHECK
def answer(subject: Subject) -> Finding:
    """Seeds differently on purpose: what is random in evaluation mode then shows."""
    assert subject.spec.call is not None
    batch, outputs = subject.batch(), []
    with subject.mode(False), torch.no_grad():
        for seed in range(3):
            torch.manual_seed(seed)
            outputs.append(subject.spec.call(subject.model, batch))
    if bool(outputs[0].isnan().any()):
        return _nan()
    worst = max(gap(other, outputs[0]).share for other in outputs[1:])
    if worst == 0:
        return CHECK.passed(DONE, "the same bits each time")
    if "stochastic" in subject.spec.declare:
        return CHECK.warned(DONE, f"they differ by {worst:.2g} of the largest output; declared to be so")
    return CHECK.failed(
        DONE,
        f"they differ by {worst:.2g} of the largest output",
        cause="dropout that does not ask for the mode: F.dropout without training=self.training, or "
        "scaled_dot_product_attention(dropout_p=p), which drops in evaluation mode too",
        fix="dropout_p=self.p if self.training else 0.0; F.dropout(x, p, training=self.training)",
        references=("huggingface/pytorch-image-models#1978", "karpathy/nanoGPT#240", "pytorch/pytorch#124464"),
        evidence={"gap": worst},
        script="""
model.eval()
torch.manual_seed(0)
one = call(sample(1))
torch.manual_seed(1)
two = call(sample(1))
assert torch.equal(one, two), f"two passes differ by {(one - two).abs().max():.3g}"
""",
    )


def _nan() -> Finding:
    return CHECK.failed(
        DONE,
        "outputs are NaN, for tokens that are all real",
        cause="a softmax of -inf alone: a query that may see nothing, or a softmax over another axis than the keys; a "
        "root of a negative number, a division by zero",
        fix="find the first NaN: register_forward_hook on every module, and look which returns it; let every query see "
        "itself at the least",
        references=("pytorch/pytorch#41508", "pytorch/pytorch#103749"),
        evidence={"nan": True},
        script=NAN,
    )
