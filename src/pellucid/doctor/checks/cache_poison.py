"""Does what lies in unused slots of a cache stay unseen?"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.doctor import tolerances
from pellucid.doctor.check import Check
from pellucid.doctor.checks.kv_parity import part
from pellucid.doctor.finding import Finding
from pellucid.doctor.measures import gap
from pellucid.doctor.scripts.stepping import feeding
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

CHECK = Check("cache.poison", "quick", "Does what lies in unused slots stay unseen?")
DONE = "filled the slots of the cache that are not in use with garbage and went on"


@CHECK
def answer(subject: Subject) -> Finding:
    """Compares bit for bit: shapes are the same."""
    spec = subject.spec
    if spec.step is None or spec.poison is None:
        return CHECK.skipped(
            "nothing says which slots of a cache are not in use", "Spec(step=…, poison=lambda cache: cache)"
        )
    batch = subject.batch()
    share = gap(_run(subject, batch, True), _run(subject, batch, False)).share
    if share > tolerances.EXACT_NOISE:
        return CHECK.failed(
            DONE,
            f"outputs moved by {share:.2g} of the largest",
            cause="slots beyond the length are attended to, with a small weight or with none that is exactly zero",
            fix="mask keys beyond the length of each row by -inf, or slice the cache to the live length",
            references=("ggml-org/llama.cpp#26744", "vllm-project/vllm#36939"),
            evidence={"moved": share},
            script=_script(subject),
        )
    return CHECK.passed(DONE, "every output kept its bits", moved=share)


def _run(subject: Subject, batch: Batch, poisoned: bool) -> Tensor:
    assert subject.spec.step is not None
    assert subject.spec.poison is not None
    length = batch.ids.size(1)
    size = 1 if subject.spec.one_by_one else length - 2
    cache, found = None, None
    with subject.mode(False), torch.no_grad():
        for at in range(0, length - 2, size):
            subject.reseed()
            _, cache = subject.spec.step(subject.model, part(batch, at, size), cache)
        if poisoned:
            cache = subject.spec.poison(cache)
        for at in (length - 2, length - 1):
            subject.reseed()
            found, cache = subject.spec.step(subject.model, part(batch, at, 1), cache)
    assert found is not None
    return found


def _script(subject: Subject) -> str:
    feed = feeding(subject)
    prompt = feed.prompt(subject.spec.one_by_one)
    return f"""
model.eval()
{feed.lines}
{prompt}
one, _ = {feed.step("ids[:, 8:9]", "cache")}
{prompt}
two, _ = {feed.step("ids[:, 8:9]", "poison(cache)")}
assert torch.equal(one, two), f"garbage in unused slots moves outputs by {{(one - two).abs().max():.3g}}"
"""
