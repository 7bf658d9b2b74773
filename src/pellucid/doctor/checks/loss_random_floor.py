"""Can the loss fall below what is possible?

Uniform random tokens cannot be predicted: no honest loss stays below their entropy. What falls below sees the answer.
"""

from __future__ import annotations

import math
from statistics import mean, stdev

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.training import loss_for, trained, trainee
from pellucid.doctor.xray import xray

CHECK = Check("loss.random_floor", "full", "Is what cannot be predicted not predicted?")
STEPS, ROWS, LAST, RATE = 200, 8, 25, 1e-3
MOST_SYMBOLS = 64


@CHECK
def answer(subject: Subject) -> Finding:
    """Trains a copy on fresh uniform tokens and compares the last losses with their entropy."""
    spec = subject.spec
    if not subject.writes or subject.module is None or spec.features is not None:
        return CHECK.skipped("nothing is predicted from ids")
    if spec.smoothing:
        return CHECK.skipped("label smoothing moves the floor", "the loss without smoothing")
    loss = loss_for(subject)
    if loss is None:
        return CHECK.skipped("nothing says how the loss is taken", "Spec(criterion=lambda outputs, batch: loss)")
    words = subject.words[:MOST_SYMBOLS]
    length = min(subject.length, 16)

    def batch(step: int) -> Batch:
        draw = torch.Generator().manual_seed(10_000 * (subject.seed + 1) + step)

        def drawn(length: int) -> Tensor:
            return words[torch.randint(len(words), (ROWS, length), generator=draw, device="cpu")].to(subject.device)

        ids = drawn(length)
        if spec.kind != "encoder_decoder" or spec.example is not None:
            return subject.batch(ROWS, length, seed=1000 + step).with_(ids=ids)
        return Batch(ids=ids, source=drawn(length - 3))

    with trainee(subject, dropout=False) as model:
        losses = trained(model, loss, batch, steps=STEPS, lr=RATE, seed=subject.seed)
    last, weight = losses[-LAST:], _weight(subject, batch(0))
    error, entropy = stdev(last) / math.sqrt(LAST), math.log(len(words))
    floor, margin = weight * entropy, max(weight * tolerances.FLOOR_MARGIN, 4 * error)
    done = f"trained a copy for {STEPS} steps on uniform tokens among {len(words)}, whose entropy is {entropy:.3f} nats"
    done += f"; the loss is {weight:.3g} times a mean" if abs(weight - 1) > 1e-3 else ""
    seen = f"the last {LAST} losses are {mean(last):.3f} ± {error:.3f}"
    evidence = {"loss": mean(last), "floor": floor, "first": losses[0], "standard_error": error}
    if mean(last) >= floor - margin:
        return CHECK.passed(done, seen, **evidence)
    return CHECK.failed(
        done,
        seen + ": nobody can know them so well without seeing them",
        cause="the answer is in the input: the future leaks, or labels are not shifted",
        fix="hide the future from every position, and ask each for the next token",
        references=("huggingface/transformers#48745", "lucidrains/linformer#25"),
        evidence=evidence,
        script=_script(ROWS if spec.kind != "encoder_decoder" else 3, length, words.tolist(), floor),
    )


def _weight(subject: Subject, batch: Batch) -> float:
    """What all positions together weigh in the loss: 1 in a mean, and where it is no plain cross-entropy.

    A penalty on the outputs, as a z-loss, seems to weigh a little as well, and lifts no floor.
    """
    if subject.spec.loss is None and subject.spec.criterion is None:
        return 1.0
    try:
        weight = float(xray(subject, batch).weights.sum())
    except Exception:  # a loss that cannot be looked at is taken for a mean
        return 1.0
    return weight if 0 < weight < math.inf and not 1 < weight < tolerances.PENALTY else 1.0


def _script(rows: int, length: int, words: list[int], floor: float) -> str:
    return f"""
for module in model.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
model.train()
optimizer, losses = torch.optim.Adam(model.parameters(), {RATE}), []
words = torch.tensor({words})
torch.manual_seed(0)
for _ in range({STEPS}):
    loss, _ = loss_of(words[torch.randint(len(words), ({rows}, {length}))])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
mean = sum(losses[-{LAST}:]) / {LAST}
assert mean > {floor:.3f} - 0.1, f"the loss is {{mean:.3f}}, and tokens without any order have {floor:.3f} nats"
"""
