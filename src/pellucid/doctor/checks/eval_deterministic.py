"""Are two passes in evaluation mode the same, but for the noise of kernels that add in no fixed order?"""

from __future__ import annotations

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
    batch = subject.batch()
    seeded = [Subject(subject.model, subject.spec, seed=seed) for seed in range(3)]
    if bool(seeded[0](batch).isnan().any()):
        return _nan()

    def apart() -> float:
        first, *others = (each(batch) for each in seeded)
        return max(gap(other, first).share for other in others)

    same, worst = subject.vanishes(apart)
    seen = f"they differ by {worst:.2g} of the largest output"
    if same:
        return CHECK.passed(DONE, f"{seen}, which is rounding" if worst else "the same bits each time")
    if "stochastic" in subject.spec.declare:
        return CHECK.warned(DONE, f"{seen}; declared to be so")
    if same is None:
        return CHECK.unsure(DONE, f"{seen}; double precision does not tell whether it is rounding", gap=worst)
    return CHECK.failed(
        DONE,
        seen,
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
