"""Can a position see what comes after it?

Tokens from a cut on are replaced. Outputs before the cut must keep every bit, in evaluation and in training mode: with
the same random numbers dropout falls on the same places. Values are perturbed, not gradients asked for: a routing that
chooses over the sequence leaks without any gradient, and NaN spreads through correct masks as 0 · NaN.
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.finding import Finding
from pellucid.doctor.localise import first_moved
from pellucid.doctor.measures import moved
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.doctor.undropped import undropped

CHECK = Check("causal.prefix_invariance", "quick", "Is the future hidden from every position?")
DRAW, MORE = 2, (21, 22)
DONE = "replaced all tokens from position c on and compared the outputs before c, for c = {cuts}, in {modes}"
REFERENCES = (
    "huggingface/transformers#48745", "keras-team/keras#23038", "huggingface/transformers#31673",
    "pytorch/pytorch#31567", "rasbt/LLMs-from-scratch#1061",
)  # fmt: skip


@CHECK
def answer(subject: Subject) -> Finding:
    """Perturbs at every cut; says which cuts leak, in which mode, and from how far ahead."""
    if not subject.writes:
        return CHECK.skipped(f"the future is not hidden from an {subject.spec.kind}")
    if not subject.per_position:
        return CHECK.skipped("there is no output for every position", "Spec(call=…) that returns (B, T, V)")
    batch, first = subject.batch(), subject.spec.prefix or 0
    cuts = cut_points(batch.ids.size(1), first, subject.spec.widest)
    leaks, unsure = {}, 0.0
    coupled = "batch_coupled" in subject.spec.declare  # by statistics over all rows and positions, in training
    modes = ("evaluation",) if coupled else ("evaluation", "training")
    for mode in modes:
        if _repeats(subject, batch, train=mode == "training"):
            leaks[mode], doubt = _leaks(subject, batch, tried(cuts, mode), train=mode == "training")
            unsure = max(unsure, doubt)
    done = DONE.format(cuts=", ".join(map(str, cuts)), modes=" and ".join(leaks or modes))
    worst = {mode: max(found.values()) for mode, found in leaks.items() if found}
    if not worst:
        if "evaluation" not in leaks:
            return CHECK.unsure(done, "but the same text twice gives other outputs: nothing can be compared")
        if unsure:
            return CHECK.unsure(done, f"outputs before the cut moved by {unsure:.1e}, which may be rounding")
        return _control(subject, done, cuts)
    mode = max(worst, key=lambda name: worst[name])
    cut = max(leaks[mode], key=lambda at: leaks[mode][at])
    where = first_moved(subject, batch, _after(subject, batch, cut, DRAW), allowed=cut, train=mode == "training")
    which = "only in training mode" if "evaluation" not in worst else "in evaluation mode"
    missed = [at for at in tried(cuts, mode) if at not in leaks[mode]]
    seen = f"outputs before position {cut} moved by {worst[mode]:.2g} of the largest output, {which}"
    if missed:
        seen += f"; nothing leaked across the cuts {', '.join(map(str, missed))}"
    return CHECK.failed(
        done,
        seen,
        where=where,
        cause="the mask is missing, transposed, of the wrong polarity or skipped on this path; or something mixes over "
        "time besides attention: a norm's statistics, a pooling, a convolution, a routing over the sequence",
        fix="let query t see keys up to t alone: scores.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -inf) "
        "before the softmax; norms over the last axis alone",
        references=REFERENCES,
        evidence={"leaks": leaks, "cuts": cuts, "only_in_training": "evaluation" not in worst, "missed": missed},
        script=_script(cut, mode == "training"),
    )


def _repeats(subject: Subject, batch: Batch, *, train: bool) -> bool:
    """Whether a mode gives the same twice; where it does not, another check says so and here nothing can be told."""
    return not bool((moved(subject(batch, train=train), subject(batch, train=train)) > 0).any())


def _leaks(subject: Subject, batch: Batch, cuts: list[int], *, train: bool) -> tuple[dict[int, float], float]:
    """By how much outputs before each cut moved, where they did; and the largest of what cannot be told from rounding.

    What is small is looked at in double precision: experts add in an order that depends on all tokens. In training mode
    what is found must stay without the randomness of dropout: experts draw as many numbers as they have tokens.
    """
    found = _moved(subject, batch, cuts, train)
    if found and train:
        with undropped(subject.module):
            found = _moved(subject, batch, cuts, train)
    if not found or max(found.values()) > tolerances.SHAPE_FAIL:
        return found, 0.0
    with undropped(subject.module) if train else nullcontext():
        double = subject.in_double(lambda: _moved(subject, batch, cuts, train))
    if double is None:
        noise = max(found.values()) <= tolerances.EXACT_NOISE
        return ({}, max(found.values())) if noise else (found, 0.0)
    return {cut: share for cut, share in found.items() if double.get(cut, 0.0) > share * tolerances.SHRUNK}, 0.0


def _moved(subject: Subject, batch: Batch, cuts: list[int], train: bool) -> dict[int, float]:
    base = subject(batch, train=train)
    found: dict[int, float] = {}
    # A routing over the sequence leaks by jumps: at one cut several futures are tried.
    middle = [] if train else cuts[len(cuts) // 2 :][:1]
    for cut, draw in (*itertools.product(cuts, (DRAW,)), *itertools.product(middle, MORE)):
        after = moved(subject(_after(subject, batch, cut, draw), train=train)[:, :cut], base[:, :cut])
        if after.numel() and float(after.max()) > 0:
            found[cut] = max(found.get(cut, 0.0), float(after.max()))
    return found


def tried(cuts: list[int], mode: str) -> list[int]:
    """Of the cuts, those of a mode: a path that training alone takes forgets the mask as a whole."""
    few = {*cuts[:1], *cuts[len(cuts) // 2 :][:1], *cuts[-1:]}
    return sorted(few) if mode == "training" else cuts


def cut_points(length: int, first: int = 0, window: int = 0) -> list[int]:
    """Where to cut: near both ends, in thirds and halves, at the edges of a window."""
    edges = [window, window + 1, 2 * window] if window else []
    points = {1, 2, 3, length // 3, length // 2, length - 2, length - 1, *edges}
    return sorted(cut for cut in points if max(first, 1) <= cut < length)


def _after(subject: Subject, batch: Batch, cut: int, draw: int) -> Batch:
    ids = batch.ids.clone()
    ids[:, cut:] = subject.other(batch.ids, draw)[:, cut:]
    return batch.with_(ids=ids)


def _control(subject: Subject, done: str, cuts: list[int]) -> Finding:
    """The first token must be able to move a later output, else nothing mixes and nothing could have leaked."""
    batch = subject.batch()
    ids = batch.ids.clone()
    ids[:, 0] = subject.other(batch.ids, 3)[:, 0]
    share = float(moved(subject(batch.with_(ids=ids)), subject(batch))[:, 1:].max()) if ids.size(1) > 1 else 0.0
    if share <= tolerances.CONTROL:
        seen = f"but replacing the first token moved no later output either ({share:.1e}): nothing is mixed"
        return CHECK.unsure(done, seen, control=share)
    return CHECK.passed(done, "every output before the cut kept its bits", cuts=cuts, control=share)


def _script(cut: int, train: bool) -> str:
    return f"""
model.{"train" if train else "eval"}()
torch.manual_seed(0)
ids = sample(1)
other = ids.clone()
other[:, {cut}:] = sample(2)[:, {cut}:]  # the future changes
outputs = []
for each in (ids, other):
    torch.manual_seed(0)  # the same dropout
    outputs.append(call(each))
moved = (outputs[0] - outputs[1])[:, :{cut}].abs().max()
assert moved == 0, f"outputs before position {cut} moved by {{moved:.3g}}"
"""
