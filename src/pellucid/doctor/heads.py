"""Whether heads are pieces of the channels, or, by a reshape without a transpose, pieces of the text.

Shapes: B batch, T positions, H heads, K head_dim, N features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pellucid.doctor.subject import Subject
from pellucid.trace.calls import Call, tensors_in
from pellucid.trace.finder import seeking
from pellucid.trace.sites import Site


def reshaped(subject: Subject) -> tuple[Site, str] | None:
    """The first place whose heads are split, or joined, by a reshape alone; found by the numbers themselves.

    Values (B, H, T, K) are looked for among what modules returned, and contexts among what modules were given: they
    must be some (B, T, H·K) with its axes exchanged, and not the same memory read in other shapes.
    """
    module, call = subject.module, subject.spec.call
    assert module is not None
    assert call is not None
    given: list[Tensor] = []
    made: list[Tensor] = []

    def returned(_: Call, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        given.extend(_flat(tensors_in((arguments, keywords)).values()))
        made.extend(_flat(tensors_in(result).values()))

    with subject.mode(False), torch.no_grad(), seeking(module, returned) as search:
        subject.reseed()
        output = call(module, subject.batch())
    for site in search.found(output).sites:
        if any(_is_reshaped(site.v, flat) for flat in made):
            return site, "split"
        if any(_is_reshaped(site.context, flat) for flat in given):
            return site, "joined"
    return None


def _flat(tensors: Iterable[Tensor]) -> Iterable[Tensor]:
    return (x.detach() for x in tensors if x.dim() == 3 and x.is_floating_point())


def _is_reshaped(x: Tensor, flat: Tensor) -> bool:
    """Whether (B, H, T, K) is a part of (B, T, N), read in the order of memory and in no other."""
    rows, heads, length, width = x.shape
    if heads == 1 or length == 1 or flat.shape[:2] != (rows, length) or flat.dtype != x.dtype:
        return False
    size = heads * width
    for start in {0, size, 2 * size, flat.size(2) - size}:
        if start < 0 or start + size > flat.size(2):
            continue
        part = flat[..., start : start + size]
        right = part.reshape(rows, length, heads, width).transpose(1, 2)
        if torch.equal(part.reshape(x.shape), x) and not torch.equal(right, x):
            return True
    return False
