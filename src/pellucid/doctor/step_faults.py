"""Why a step with a cache disagrees with one pass: what it attends to, against what one pass attends to.

Shapes: B batch, T positions, S keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject
from pellucid.trace.finder import seeking
from pellucid.trace.sites import HIDDEN, Site

Why = Literal["stored", "masked", "placed", "source", ""]
CLOSE = 1e-3
ADDED = "a mask of 0 and 1 is added to the scores, and hides nothing"
"""What becomes of a float mask that was meant to be boolean: 0 and 1 are numbers like others."""


class StepFault(NamedTuple):
    """What is wrong in a step.

    Attributes:
        why: the kind of fault; empty where nothing of it is seen.
        where: the module.
        mask: of a wrong mask, whether it shows too much or hides too much.
        added: whether that mask holds 0 and 1, and is added.
    """

    why: Why = ""
    where: str = ""
    mask: str = ""
    added: bool = False


def step_fault(subject: Subject, batch: Batch, chunks: Sequence[int], position: int) -> StepFault:
    """What is wrong with the chunk in which outputs first differ.

    Args:
        chunks: the sizes that are fed.
        position: of the first output that differs.

    Returns:
        ``stored`` where keys or values are missing, or are not those that were put in; ``masked`` where keys that may
        be seen are hidden, or others seen; ``placed`` where the first layer's new keys are not those of one pass, so
        that positions differ; ``source`` where those of the source differ."""
    if subject.module is None or subject.spec.step is None:
        return StepFault()
    try:
        stepped, start, size = _step_sites(subject, batch, chunks, position)
        whole = subject.attention_of(batch).sites
    except Exception:  # an explanation is a help, and must not cost the finding
        return StepFault()
    length, first = batch.ids.size(1), True
    named = {site.name: site for site in whole if site.q.size(2) == length}
    for one in stepped:
        other = named.get(one.name)
        if other is None or other.q.size(2) != length:
            continue
        if other.k.size(2) != length:
            why = _across(one, other, start, size)
        else:
            why = _within(one, other, start, size)
            why = "" if why == "placed" and not first else why  # what comes before has changed them
            first = False
        if why:
            mask = _wrong(one, other, start, size) if why == "masked" else ""
            return StepFault(why, f"{one.name} ({one.module})", mask, bool(mask) and zero_and_one(one))
    return StepFault()


def _across(stepped: Site, whole: Site, start: int, size: int) -> Why:
    """Attention to the source."""
    if stepped.k.shape != whole.k.shape or not _close(stepped.k, whole.k) or not _close(stepped.v, whole.v):
        return "source"
    return "" if _equal(_seen(stepped.scores()), _seen(whole.scores())[:, :, start : start + size]) else "source"


def _within(stepped: Site, whole: Site, start: int, size: int) -> Why:
    """Attention to what was written."""
    end = start + size
    allowed = _seen(whole.scores())[:, :, start:end, :end]
    if stepped.k.size(2) < int(allowed.sum(-1).max()) or stepped.v.size(2) != stepped.k.size(2):
        return "stored"
    if stepped.k.shape != whole.k[:, :, :end].shape or stepped.q.size(2) != size:
        return ""  # a window, or a cache of a fixed length, whose slots have an order of their own
    new = whole.k[:, :, start:end]
    if not _close(stepped.k[:, :, start:], new):
        elsewhere = any(_close(stepped.k[:, :, at : at + 1], new[:, :, :1]) for at in range(end))
        return "stored" if elsewhere else "placed"
    if not _close(stepped.q, whole.q[:, :, start:end]):
        return "placed"
    if not _close(stepped.k, whole.k[:, :, :end]) or not _close(stepped.v, whole.v[:, :, :end]):
        return "stored"
    return "" if _equal(_seen(stepped.scores()), allowed) else "masked"


def _wrong(stepped: Site, whole: Site, start: int, size: int) -> str:
    """What a mask of a step does that the one of the whole does not."""
    seen, allowed = _seen(stepped.scores()), _seen(whole.scores())[:, :, start : start + size, : start + size]
    more, less = bool((seen & ~allowed).any()), bool((allowed & ~seen).any())
    if more and less:
        return "some keys are seen that may not be, and others hidden that may be seen"
    return "too much is seen" if more else "too much is hidden"


def zero_and_one(site: Site) -> bool:
    """Whether what is added to the scores is 0 here and 1 there, and nothing else."""
    bias = site.formula.bias
    if bias is None or not bias.is_floating_point():
        return False
    return bool(((bias == 0) | (bias == 1)).all() and (bias == 0).any() and (bias == 1).any())


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two masks that broadcast are the same."""
    return bool((a == b).all())


def _seen(scores: Tensor) -> Tensor:
    return scores > HIDDEN


def _close(a: Tensor, b: Tensor) -> bool:
    a, b = a.double(), b.double()
    return a.numel() == 0 or bool((a - b).abs().max() <= CLOSE * b.abs().max().clamp_min(1e-30))


def _step_sites(subject: Subject, batch: Batch, chunks: Sequence[int], position: int) -> tuple[list[Site], int, int]:
    """Where the chunk that holds a position attends, the position it starts at, and its size."""
    from pellucid.doctor.checks.kv_parity import part

    step = subject.spec.step
    assert step is not None
    assert subject.module is not None
    cache: Any = None
    at = 0
    with subject.mode(False), torch.no_grad():
        for size in chunks:
            subject.reseed()
            if at <= position < at + size:
                with seeking(subject.module) as search:
                    step(subject.model, part(batch, at, size), cache)
                return list(search.found(None).sites), at, size
            _, cache = step(subject.model, part(batch, at, size), cache)
            at += size
    return [], at, 0
