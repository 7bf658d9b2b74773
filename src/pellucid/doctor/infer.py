"""Finds out what a spec does not say, and says what was found out."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.checks.attn_mask import all_causal
from pellucid.doctor.measures import gap
from pellucid.doctor.padding import hidden_id
from pellucid.doctor.spec import Batch, Call, Kind, Spec
from pellucid.doctor.subject import Subject
from pellucid.doctor.ways import hugging_face, ours, plain, torch_nn
from pellucid.errors import UserError

TOLD = ("vocab_size", "features", "pad_id", "eos_id", "window", "max_length", "positions", "scale", "tied")
SHORTER = (16, 12, 8)
TWO_WAY = re.compile(r"bert|encoder|vit|embed|mask\w*(lm|language)|mlm", re.IGNORECASE)
"""Names of what reads both ways for certain, so that a causal mask is a fault in it."""
HIDDEN_SHARE = 0.75
"""Share of the future that must be hidden from a model for it to be meant as a decoder: one layer that leaks from a
little ahead makes no encoder of it."""


def subject_of(model: Any, spec: Spec | None, *, seed: int = 0, build: str = "") -> tuple[Subject, tuple[str, ...]]:
    """A model with its complete spec, and a sentence for each thing that was found out.

    Raises:
        UserError: for a model that cannot be called, with what to say about it.
    """
    said = spec or Spec()
    if not callable(model):
        raise UserError("model", f"found {type(model).__name__}", "a module, or a callable from ids to logits")
    known = _known(model)
    if known is not None and said.call is not None:  # theirs need not give masks, nor say where positions begin
        known = replace(known, masked=None, pad_sides=None)
    full = said.over(known or plain.spec_of(model, said))
    if full.vocab_size is None and full.features is None and (full.example is None or _reads_ids(full)):
        raise UserError("vocab_size", "nothing says how many tokens there are", hint="say it: Spec(vocab_size=…)")
    notes: list[str] = []

    def subject(spec: Spec | None = None) -> Subject:
        return Subject(model, spec or full, seed=seed, build=build)

    if full.batch is not None:  # data are read on the processor, wherever the model is
        full = replace(full, batch=full.batch.to(subject().device))
    full = _running(subject, notes)
    unknown = known is None and isinstance(model, nn.Module)
    if unknown and said.call is None and (turned := _time_first(subject())) is not None:
        full = replace(full, call=turned, masked=False)
        notes.append("call: model(ids.T).transpose(0, 1): it reads (T, B), by what it does")
    if unknown and full.pad_id is None and (pad := _padding(subject())) is not None:
        full = replace(full, pad_id=pad)
        notes.append(f"padding: token {pad}, at which no query looks; if another is meant, say it: Spec(pad_id=…)")
    if said.kind is None:
        full, note = _with_kind(subject())
        notes.append(note)
    if full.masked is None:
        full, note = _with_masks(subject(), said)
        notes.append(note)
    declared = sorted(full.declare - said.declare)
    named = {name: value for name in TOLD if getattr(said, name) is None and (value := getattr(full, name)) is not None}
    notes += [f"{name}: {value}" for name, value in named.items()]
    notes += [f"declared for it: {word}" for word in declared]
    return subject(), tuple(notes)


def _reads_ids(spec: Spec) -> bool:
    return spec.example is not None and not spec.example.ids.is_floating_point()


def _known(model: Any) -> Spec | None:
    return ours.spec_of(model) or hugging_face.spec_of(model) or torch_nn.spec_of(model)


def _running(subject: Callable[[Spec | None], Subject], notes: list[str]) -> Spec:
    """The spec as the model runs with it: if nothing says how much it can read, perhaps only shorter.

    Raises:
        UserError: for a model that does not run.
    """
    spec = subject(None).spec
    try:
        _try(subject(None))
    except UserError as error:
        for length in SHORTER if spec.max_length is None and spec.example is None else ():
            with suppress(UserError):
                _try(subject(replace(spec, max_length=length)))
                notes.append(f"max_length: {length}, by trying")
                return replace(spec, max_length=length)
        raise error
    return spec


def _try(subject: Subject) -> None:
    """One pass, so that a model that cannot be called is no matter for every check.

    Raises:
        UserError: with what the model said, and what to say about it.
    """
    name = type(subject.model).__name__
    batch = subject.batch()
    given = f"ids {tuple(batch.ids.shape)}"
    if batch.source is not None:
        given = f"a source {tuple(batch.source.shape)} and {given}"
    try:
        output: Any = subject(batch)
    except UserError:
        raise
    except Exception as error:
        told = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise UserError(
            "call", f"{name} does not run on {given}: {told}", "a call that gives outputs (B, T, V)",
            "say how it is called: Spec(call=lambda model, batch: model(…)); or its vocab_size, max_length or features",
        ) from error  # fmt: skip
    if isinstance(output, Tensor) and output.dim():
        return
    seen = "one number, which may be its loss" if isinstance(output, Tensor) else type(output).__name__
    raise UserError("call", f"{name} gives {seen}", "outputs (B, T, V) or (B, labels)",
                    "say which: Spec(call=lambda model, batch: model.….logits)")  # fmt: skip


def _time_first(subject: Subject) -> Call | None:
    """How a model is called that reads (T, B), as those of PyTorch's tutorials do; ``None`` for any other."""
    call, batch = subject.spec.call, subject.batch()
    assert call is not None

    def turned(model: Any, given: Batch) -> Tensor:
        return call(model, given.with_(ids=given.ids.T)).transpose(0, 1)

    if batch.ids.dim() != 2 or batch.source is not None or not subject.per_position:
        return None
    other = Subject(subject.model, replace(subject.spec, call=turned), seed=subject.seed)
    with suppress(Exception):  # what cannot be called so is no such model
        if _mixing(subject) == (True, False) and _mixing(other) == (False, True) and _rows_alike(other):
            return turned
    return None


def _mixing(subject: Subject) -> tuple[bool, bool]:
    """Whether rows move one another, and whether positions do."""
    batch = subject.batch()
    base, other = subject(batch), subject.other(batch.ids, 4)
    row, ends = batch.ids.clone(), batch.ids.clone()
    row[0], ends[:, [0, -1]] = other[0], other[:, [0, -1]]
    rows = gap(subject(batch.with_(ids=row))[1:], base[1:]).share
    positions = gap(subject(batch.with_(ids=ends))[:, 1:-1], base[:, 1:-1]).share
    return rows > tolerances.EXACT_NOISE, positions > tolerances.EXACT_NOISE


def _rows_alike(subject: Subject) -> bool:
    """Whether rows that change places give what they gave: positions are not counted along them."""
    batch = subject.batch()
    order = torch.arange(batch.ids.size(0), device=batch.ids.device).roll(1)
    return gap(subject(batch.rows(order)), subject(batch)[order]).share <= tolerances.SHAPE_FAIL


def _padding(subject: Subject) -> int | None:
    """The token that the model hides by itself, where nothing says which it is."""
    if subject.spec.features is not None or subject.spec.example is not None:
        return None
    with suppress(Exception):  # where nothing can be watched, whoever watches says so
        return hidden_id(subject)
    return None


def _with_masks(subject: Subject, said: Spec) -> tuple[Spec, str]:
    """The spec with a call that honours padding, if one is found."""
    spec = subject.spec
    if said.call is not None or not isinstance(subject.model, nn.Module):
        return replace(spec, masked=False), "padding: not asked; Spec(masked=True) if call honours batch.keep"

    def run(call: Any) -> Tensor:
        return Subject(subject.model, replace(spec, call=call), seed=subject.seed)(batch)

    batch = subject.batch()
    found = plain.masks(subject.model, spec.kind, batch, run)
    if found is None:
        return replace(spec, masked=False), "padding: no mask argument is understood"
    found_ = replace(spec, call=found, masked=True, pad_sides=spec.pad_sides or ())
    return found_, "padding: given by the model's own mask argument"


def _with_kind(subject: Subject) -> tuple[Spec, str]:
    """The spec with its kind; what classifies a text or its words may hide the future, and is no encoder then."""
    spec, otherwise = subject.spec, "; if it is meant otherwise, say it: Spec(kind=…)"
    kind, why = (spec.kind, "by its class or its signature") if spec.kind is not None else _kind(subject)
    told = f"kind: {kind}, {why}{otherwise}"
    full = replace(spec, kind=kind)
    if kind != "encoder" or TWO_WAY.search(type(subject.model).__name__):
        return full, told
    with suppress(Exception):  # where nothing can be watched, whoever watches says so
        if all_causal(Subject(subject.model, full, seed=subject.seed)):
            return replace(full, kind="decoder"), f"kind: decoder, as all of its attention is causal{otherwise}"
    return full, told


def _kind(subject: Subject) -> tuple[Kind, str]:
    """By what it does: what hides nearly all of the future is a decoder."""
    probe = Subject(subject.model, replace(subject.spec, kind="encoder"), seed=subject.seed)
    if not probe.per_position:
        return "encoder", "by what it does: one output for a whole text"
    seen = probe.influence > 0
    ones = torch.ones_like(seen)
    if not bool((seen & ones.triu(1)).any()) and not bool((seen & ones.tril(-1)).any()):
        return "encoder", "which cannot be told by what it does: no position moves another"
    hidden = 1 - float((seen & ones.triu(1)).sum()) / max(1, int(ones.triu(1).sum()))
    if hidden >= HIDDEN_SHARE:
        return "decoder", f"by what it does: {hidden:.0%} of the future is hidden"
    return "encoder", f"by what it does: {1 - hidden:.0%} of the future is seen"
