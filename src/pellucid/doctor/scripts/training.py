"""How a script takes the loss and trains: ``loss_of``, ``padded_loss``, ``accumulate``, ``schedule``.

Shapes: B batch, T positions, V outputs.
"""

from __future__ import annotations

import torch

from pellucid.doctor.scripts.definition import Definition, copied, holds, own, to_fill, watched
from pellucid.doctor.scripts.observing import part_of
from pellucid.doctor.spec import Batch
from pellucid.doctor.subject import Subject

FUNCTIONAL = ("import torch.nn.functional as F",)


def loss_of(subject: Subject) -> Definition:
    """Loss, and the outputs that it is taken of."""
    return _losing(subject, "loss_of", "ids", subject.batch())


def padded_loss(subject: Subject) -> Definition:
    """The same of rows that end in padding."""
    given = subject.batch()
    length = given.ids.size(1)
    keep = torch.arange(length) < torch.tensor([length, length - 2, max(1, length - 4)])[:, None]
    return _losing(subject, "padded_loss", "ids, keep", given.with_(keep=keep.to(given.ids.device)))


def batch_loss(subject: Subject) -> Definition:
    """Loss and outputs of a batch with labels."""
    spec, head = subject.spec, "def batch_loss(batch):\n    "
    if spec.loss is not None:
        found = own(spec.loss, "_loss", f"{head}return _loss(model, batch)", subject)
    elif spec.criterion is not None:
        called = own(spec.call, "_call", "", subject)
        body = "outputs = _call(model, batch)\n    return _criterion(outputs, batch), outputs"
        taken = own(spec.criterion, "_criterion", head + body, subject)
        both = called is not None and taken is not None
        found = Definition(f"{called.text}{taken.text}", (*called.imports, *taken.imports)) if both else None  # type: ignore[union-attr]
    elif spec.kind == "decoder" and spec.features is None:
        outputs = "call(batch.ids) if batch.keep is None else masked(batch.ids, batch.keep)"
        outputs = outputs if spec.masked else "call(batch.ids)"
        loss = "F.cross_entropy(outputs[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten())"
        found = Definition(f"{head}outputs = {outputs}\n    return {loss}, outputs", FUNCTIONAL)
    else:
        found = None
    return found or to_fill(
        "batch_loss(batch)", "your loss of batch.ids and batch.labels, and the outputs it is taken of"
    )


def accumulate(subject: Subject) -> Definition:
    """Gradients of several small batches together."""
    head = "accumulate(batches)"
    wrapper = f"def {head}:\n    return _accumulate(model, batches)"
    return own(subject.spec.accumulate, "_accumulate", wrapper, subject) or to_fill(
        head, "as you gather gradients in .grad"
    )


def schedule(subject: Subject) -> Definition:
    """Step → learning rate."""
    return copied(subject.spec.schedule, "schedule(step)", "your learning rate at a step", subject)


def _losing(subject: Subject, name: str, arguments: str, given: Batch) -> Definition:
    spec, head = subject.spec, f"def {name}({arguments}):\n    "
    names = {"ids": given.ids, "source": given.source, "keep": given.keep}
    names = {key: value for key, value in names.items() if value is not None}
    source = "" if given.source is None else "source = sample_source(9)[: len(ids)]\n    "
    told = ", ".join(f"{key}={key}" for key in names)
    hides = given.keep is not None and given.source is None and spec.masked
    outputs = f"outputs = {'masked(ids, keep)' if hides else 'call(ids)'}\n    "
    if spec.loss is not None:
        return _whole(subject, name, given, f"{head}{source}", told) or _unknown(name, arguments)
    if spec.criterion is not None:
        taken = f"{head}{source}{outputs}return _criterion(outputs, as_batch({told})), outputs"
        return own(spec.criterion, "_criterion", taken, subject) or _unknown(name, arguments)
    if spec.kind == "decoder" and spec.features is None:
        loss = "F.cross_entropy(outputs[:, :-1].flatten(0, 1), ids[:, 1:].flatten())"
        return Definition(f"{head}{outputs}return {loss}, outputs", FUNCTIONAL)
    return _unknown(name, arguments)


def _whole(subject: Subject, name: str, given: Batch, head: str, told: str) -> Definition | None:
    """The loss that the spec's function takes: by the model's own call, or as its user wrote it."""
    run = subject.spec.loss
    assert run is not None
    names = {"ids": given.ids, "source": given.source, "keep": given.keep}
    known = {key: value for key, value in names.items() if value is not None}
    seen = watched(subject, lambda model: run(model, given))
    if seen is not None and (text := seen.call(known)):
        loss, outputs = (part_of(seen.result, each) for each in seen.value)
        if loss is not None and outputs is not None:
            return Definition(f"{head}found = {text}\n    return found{loss}, found{outputs}")
    definition = own(run, f"_{name}", f"{head}return _{name}(model, as_batch({told}))", subject)
    if definition is None or given.source is not None:
        return definition
    inputs = [given.ids] if given.keep is None else [given.ids, given.keep]
    fits = holds(subject, definition, lambda space: space[name](*inputs), lambda model: run(model, given))
    return definition if fits else None


def _unknown(name: str, arguments: str) -> Definition:
    return to_fill(f"{name}({arguments})", "your loss, and the outputs that it is taken of")
