"""Whether what a layer reads also goes around it: the residual connections, seen from outside.

Every linear layer of a block is set to zero for a while. What attention and feed-forward network give is then the same
for all tokens, and only what goes around them still tells one token from another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from pellucid.doctor import tolerances
from pellucid.doctor.health import blocks, seen
from pellucid.doctor.measures import gap
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Bilinear, nn.MultiheadAttention)


def not_around(subject: Subject) -> str:
    """The path of the first layer around which nothing goes; empty where something goes around each of them."""
    module = subject.module
    if module is None or subject.attention is None or not subject.per_position:
        return ""
    layers = _attending(subject, blocks(module))
    written = subject.batch().ids.shape[1]
    for own in (written, None):
        stack = [part for part, length in layers.values() if (length == written) == (own is not None)]
        batch = subject.batch()
        other = _other(subject, batch, own is not None)
        if not stack or other is None or _same(subject, batch, other) or not _cut(subject, stack, batch, other):
            continue
        paths = [path for path, (part, _) in layers.items() if any(part is one for one in stack)]
        return next((path for path in paths if _cut(subject, [layers[path][0]], batch, other)), paths[0])
    return ""


def _attending(subject: Subject, found: Mapping[str, nn.Module]) -> dict[str, tuple[nn.Module, int]]:
    """The layers in which a sequence attends to itself, and how long it is."""
    assert subject.attention is not None
    own = [site for site in subject.attention.sites if site.kind != "cross" and site.q.size(2) == site.k.size(2)]
    attending = {}
    for path, part in found.items():
        site = next((site for site in own if site.name.startswith((f"{path}.", f"{path}#")) or site.name == path), None)
        if site is not None:
            attending[path] = (part, site.q.size(2))
    return attending


def _other(subject: Subject, batch: Batch, written: bool) -> Batch | None:
    """Other tokens throughout, in what is written or in the source."""
    if written:
        return batch.with_(ids=subject.other(batch.ids, 40))
    return None if batch.source is None else batch.with_(source=subject.other(batch.source, 41))


def _cut(subject: Subject, parts: Sequence[nn.Module], batch: Batch, other: Batch) -> bool:
    """Whether the last of some layers gives the same whatever is read, when the weights of all of them are zero.

    Outputs of the model may be of another stream than that of its tokens.
    """
    with _silent(parts), seen({"": parts[-1]}) as given:
        if not _same(subject, batch, other):
            return False
    states = given[""]
    return len(states) != 2 or gap(states[1], states[0]).share <= tolerances.CONTROL


def _same(subject: Subject, batch: Batch, other: Batch) -> bool:
    """Whether two batches give the same; never where something is no number."""
    one, two = subject(batch), subject(other)
    return bool(one.isfinite().all() and two.isfinite().all()) and gap(two, one).share <= tolerances.CONTROL


@contextmanager
def _silent(parts: Sequence[nn.Module]) -> Iterator[None]:
    """The weights of all linear layers within some modules are zero; biases, norms and gains stay."""
    linear = [m for part in parts for m in part.modules() if isinstance(m, LINEAR) or type(m).__name__ == "Conv1D"]
    weights = {p for m in linear for p in m.parameters() if p.dim() >= 2 and p.device.type != "meta"}
    own = [(p, p.data) for p in weights]
    try:
        for parameter, data in own:
            parameter.data = torch.zeros_like(data)
        yield
    finally:
        for parameter, data in own:
            parameter.data = data
