"""Do small batches that are gathered give the gradient of one large batch?"""

from __future__ import annotations

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.checks.accum_token_weights import gathering
from pellucid.doctor.finding import Finding
from pellucid.doctor.gathered import gathered
from pellucid.doctor.subject import Subject

CHECK = Check("accum.grad_equal", "standard", "Do small batches add up to a large one?")
DONE = "gathered the gradients of two small batches, of many and of few asked tokens, and took that of both together"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares them whole; says whether they differ in length alone."""
    spec = subject.spec
    if spec.accumulate is None:
        return CHECK.skipped("nothing says how gradients are gathered", "Spec(accumulate=lambda model, batches: …)")
    if "per_sequence" in spec.declare:
        return CHECK.skipped("the loss is declared to be a mean over sequences")
    if subject.module is None:
        return CHECK.skipped("a callable has no gradients to gather", "a module in place of a callable")
    found = gathered(subject)
    evidence = {"apart": found.apart, "first": found.first, "second": found.second, "left": found.left}
    if found.apart <= tolerances.GRADIENT:
        return CHECK.passed(DONE, f"the same within {found.apart:.1e}", **evidence)
    length = 1 / tolerances.TOKEN_WEIGHTS <= found.uneven <= tolerances.TOKEN_WEIGHTS and found.left < 1e-3
    seen = f"which is {found.first:.3g} times what it should be" if length else "and they point elsewhere"
    return CHECK.failed(
        DONE,
        f"they differ by {found.apart:.2g} of the length, {seen}",
        cause="the loss is not divided by the number of small batches, or losses are summed where one batch takes the "
        "mean: the learning rate grows with the number"
        if length
        else "tokens of small batches do not weigh the same, or what is gathered is not the gradient of the loss alone",
        fix="sum the losses of tokens and divide by the number of asked tokens of all small batches together",
        references=("karpathy/nanoGPT#206", "karpathy/nanoGPT#168", "huggingface/transformers#35203"),
        evidence=evidence,
        script=gathering(bool(spec.masked)),
    )
