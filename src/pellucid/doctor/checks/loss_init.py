"""Does training start where a model that knows nothing should: at ln V?"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.subject import Subject

CHECK = Check("loss.init", "quick", "Does the loss start near ln V?", awake=False)


@CHECK
def answer(subject: Subject) -> Finding:
    """Asks random targets of a fresh model; looks for probabilities where there should be scores."""
    spec = subject.spec
    if spec.vocab_size is None or subject.output.dim() < 2 or not subject.per_position:
        return CHECK.skipped("the outputs are no scores of a vocabulary")
    logits = subject.output.float()
    size = logits.size(-1)
    if size < spec.vocab_size or size > spec.vocab_size + 512:  # some round the table up
        return CHECK.skipped(f"outputs of width {size} are no scores of {spec.vocab_size} tokens")
    done = f"took the cross-entropy of the outputs with random targets among {spec.vocab_size}"
    floor, loss, spread = math.log(size), _loss(subject, logits), float(logits.std(-1).mean())
    evidence = {"loss": loss, "ln_V": floor, "logit_std": spread, "predicted": floor + spread**2 / 2}
    if _probabilities(logits):
        return CHECK.failed(
            done,
            "every output row is positive and sums to 1: these are probabilities, and the loss takes a softmax again",
            cause="a softmax stands before a loss that has one in it",
            fix="return the scores; F.cross_entropy takes the softmax",
            evidence=evidence,
            script="""
model.eval()
logits = call(sample(1))
assert not ((logits >= 0).all() and torch.allclose(logits.sum(-1), torch.ones(())))  # scores, no probabilities
""",
        )
    below, above, beyond = tolerances.INITIAL_LOSS
    predicted = f"scores of deviation {spread:.2g} predict {evidence['predicted']:.2f}"
    seen = f"{loss:.2f} nats, where ln {size} is {floor:.2f} and {predicted}"
    if floor - below <= loss <= floor + above:
        return CHECK.passed(done, seen, **evidence)
    if fresh(subject) is not True:
        return CHECK.skipped(f"{seen}; the weights seem to be trained", "Spec(pretrained=False) for a fresh model")
    if loss > beyond * floor or loss < floor / beyond:
        return CHECK.failed(
            done,
            seen,
            cause="the scores are too large at the start: the output projection, or the embedding it is tied to, is "
            "drawn "
            "with a deviation of 1, or the state is not normed before it",
            fix="draw the table with std 0.02 or 1/√d_model, or scale the state before a tied projection",
            references=("huggingface/transformers#26441",),
            evidence=evidence,
            script=f"""
model.eval()
logits, targets = call(sample(1)), sample(2)
loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
assert loss < {beyond} * torch.tensor({size}.0).log(), f"{{loss:.1f}} nats at the start"
""",
        )
    return CHECK.warned(done, seen, cause="scores that are wide at the start cost the first steps", evidence=evidence)


def fresh(subject: Subject) -> bool | None:
    """Whether the weights are those of an initialisation; ``None`` where nothing tells."""
    if subject.spec.pretrained is not None:
        return not subject.spec.pretrained
    if subject.module is None:
        return None
    norms = [
        m for m in subject.module.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm) or "Norm" in type(m).__name__
    ]
    gains = [p for m in norms for name, p in m.named_parameters(recurse=False) if name == "weight" or p.dim() == 1]
    if not gains:
        return None
    return all(bool((p == p.flatten()[0]).all()) for p in gains)


def _loss(subject: Subject, logits: Tensor) -> float:
    targets = subject.other(subject.batch().ids, 12).flatten()
    return float(F.cross_entropy(logits.flatten(0, 1), targets))


def _probabilities(logits: Tensor) -> bool:
    return bool((logits >= 0).all()) and bool(torch.allclose(logits.sum(-1), torch.ones(()), atol=1e-4))
