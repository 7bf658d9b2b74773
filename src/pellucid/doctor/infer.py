"""Finds out what a spec does not say, and says what was found out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.spec import Kind, Spec
from pellucid.doctor.subject import Subject
from pellucid.doctor.ways import hugging_face, ours, plain
from pellucid.errors import UserError

TOLD = ("kind", "vocab_size", "features", "pad_id", "eos_id", "window", "max_length", "positions", "scale", "tied")


def subject_of(model: Any, spec: Spec | None, *, seed: int = 0, build: str = "") -> tuple[Subject, tuple[str, ...]]:
    """A model with its complete spec, and a sentence for each thing that was found out.

    Raises:
        UserError: for a model that cannot be called, with what to say about it.
    """
    said = spec or Spec()
    if not callable(model):
        raise UserError("model", f"found {type(model).__name__}", "a module, or a callable from ids to logits")
    inferred = ours.spec_of(model) or hugging_face.spec_of(model) or plain.spec_of(model, said)
    full = said.over(inferred)
    if full.vocab_size is None and full.features is None and full.example is None:
        raise UserError("vocab_size", "nothing says how many tokens there are", hint="say it: Spec(vocab_size=…)")
    subject = Subject(
        model, full if full.call else replace(full, call=plain.spec_of(model, Spec()).call), seed=seed, build=build
    )
    notes = []
    if full.masked is None:
        full, note = _with_masks(subject, said)
        notes.append(note)
        subject = Subject(model, full, seed=seed, build=build)
    if full.kind is None:
        kind, why = _kind(subject)
        subject = Subject(model, replace(full, kind=kind), seed=seed, build=build)
        notes.append(f"kind: {kind}, {why}; if it is meant otherwise, say it: Spec(kind=…)")
    named = {name: getattr(subject.spec, name) for name in TOLD if getattr(said, name) is None and name != "kind"}
    if said.kind is None and full.kind is not None:
        notes.insert(0, f"kind: {full.kind}, by its class")
    return subject, (*notes, *(f"{name}: {value}" for name, value in named.items() if value is not None))


def _with_masks(subject: Subject, said: Spec) -> tuple[Spec, str]:
    """The spec with a call that honours padding, if one is found."""
    spec = subject.spec
    if said.call is not None or isinstance(subject.model, nn.Module) is False:
        return replace(spec, masked=False), "padding: not asked; Spec(masked=True) if call honours batch.keep"

    def run(call: Any) -> Tensor:
        return Subject(subject.model, replace(spec, call=call), seed=subject.seed)(batch)

    batch = subject.batch(2)
    try:
        found = plain.masks(subject.model, spec.kind, batch, run)
    except Exception as error:
        raise UserError(
            "call",
            f"{type(subject.model).__name__} does not run on ids {tuple(batch.ids.shape)}: {type(error).__name__}: {error}",
            "a model that reads ids (B, T), or to be told how it is called",
            "say it: Spec(call=lambda model, batch: model(…))",
        ) from error
    if found is None:
        return replace(spec, masked=False), "padding: no mask argument is understood"
    return replace(spec, call=found, masked=True), "padding: given by the model's own mask argument"


def _kind(subject: Subject) -> tuple[Kind, str]:
    """By what it does: what hides nearly all of the future is a decoder."""
    probe = Subject(subject.model, replace(subject.spec, kind="encoder"), seed=subject.seed)
    if not probe.per_position:
        return "encoder", "by what it does: one output for a whole text"
    influence = probe.influence
    ahead = influence.triu(1) > 0
    share = float(ahead.sum()) / max(1, int(torch.ones_like(influence).triu(1).sum()))
    if share <= 0.25:
        return "decoder", f"by what it does: {1 - share:.0%} of the future is hidden"
    return "encoder", f"by what it does: {share:.0%} of the future is seen"
