"""What a script reads, and how it hands that to the model: ``sample``, ``call``, ``masked``, ``translated``.

Shapes: B batch, T positions, S source positions, V outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pellucid.doctor.scripts.definition import Definition, holds, own, to_fill, watched
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject


def sample(subject: Subject) -> Definition:
    """Ids (B, T), or vectors, images, sounds."""
    return _drawn("sample", subject, subject.batch().ids)


def sample_source(subject: Subject) -> Definition:
    """What an encoder–decoder reads."""
    source = subject.batch().source
    assert source is not None
    return _drawn("sample_source", subject, source)


def _drawn(name: str, subject: Subject, like: Tensor) -> Definition:
    shape = tuple(like.shape)
    if like.is_floating_point():
        drawn = f"torch.randn({shape}, generator=torch.Generator().manual_seed(seed))"
        return Definition(f"def {name}(seed):\n    return {drawn}")
    size = subject.spec.vocab_size or 2
    left_out = sorted(set(range(size)) - set(subject.words.tolist()))
    words = f"torch.arange({size})"
    if left_out:
        words = f"torch.tensor([i for i in range({size}) if i not in {left_out}])"
    return Definition(
        f"def {name}(seed):  # other tokens in every place for another seed\n"
        f"    words = {words}\n"
        f"    drawn = torch.randint(len(words), {shape}, generator=torch.Generator().manual_seed(0))\n"
        f"    return words[(drawn + seed) % len(words)]"
    )


def call(subject: Subject) -> Definition:
    """Outputs of ids alone."""
    given = subject.batch()
    if given.source is not None:
        width = ", ".join(["-1"] * (given.source.dim() - 1))
        source = f"sample_source(9)[:1].expand(len(ids), {width})  # one for all rows"
        return Definition(f"def call(ids):\n    source = {source}\n    return translated(source, ids)")
    return _calling(subject, "call", given, {"ids": given.ids}, "how ids are given; outputs (B, T, V)")


def translated(subject: Subject) -> Definition:
    """Outputs of a source and what is written."""
    given = subject.batch()
    names = {"source": given.source, "ids": given.ids}
    return _calling(subject, "translated", given, names, "how both are given; outputs (B, T, V)")


def masked(subject: Subject) -> Definition:
    """Outputs with padding hidden, that of the source where there is one."""
    given = subject.batch()
    read = given.ids if given.source is None else given.source
    length = read.size(1)
    keep = (torch.arange(length) < torch.tensor([length, length - 1, max(1, length // 2)])[:, None]).to(read.device)
    names: dict[str, Any] = {"ids": given.ids, "keep": keep}
    if given.source is None:
        given = given.with_(keep=keep)
    else:
        given, names = given.with_(source_keep=keep), {"source": given.source, **names}
    return _calling(subject, "masked", given, names, "how the mask is given, True where a token is real")


def masked_target(subject: Subject) -> Definition:
    """Outputs of an encoder–decoder with the padding of what is written hidden."""
    given = subject.batch()
    length = given.ids.size(1)
    keep = torch.arange(length) < torch.tensor([length, length - 1, max(1, length // 2)])[:, None]
    keep = keep.to(given.ids.device)
    names = {"source": given.source, "ids": given.ids, "keep": keep}
    what = "how the mask of what is written is given, True where a token is real"
    return _calling(subject, "masked_target", given.with_(keep=keep), names, what)


def _calling(subject: Subject, name: str, given: Batch, names: dict[str, Any], what: str) -> Definition:
    run, head = subject.spec.call, f"{name}({', '.join(names)})"
    assert run is not None
    seen = watched(subject, lambda model: run(model, given))
    if seen is not None and (text := seen.call(names)) and (suffix := seen.output(seen.value)) is not None:
        return Definition(f"def {head}:\n    return {text}{suffix}")
    kept = {"keep": "keep" if given.source_keep is None else "source_keep"}
    told = ", ".join(f"{kept.get(each, each)}={each}" for each in names)
    definition = own(run, f"_{name}", f"def {head}:\n    return _{name}(model, as_batch({told}))", subject)
    if definition is not None and holds(
        subject, definition, lambda space: space[name](*names.values()), lambda model: run(model, given)
    ):
        return definition
    return to_fill(head, what)
