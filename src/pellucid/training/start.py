"""Beginning at the weights of another run: what is taken over, what is frozen, what is adapted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from pellucid.config import model as config
from pellucid.config.model import labels_of
from pellucid.config.run import Run
from pellucid.config.start import LoRA, Pretrained
from pellucid.errors import CheckpointError, ConfigError, nearest
from pellucid.models.build import Model
from pellucid.models.heads import LanguageHead, MaskedLanguageHead
from pellucid.models.load import load
from pellucid.nn.lora import adapt

HEAD = "head."
LABELS = "head.project."  # has a row for each label


def with_own_labels(model: config.Model, source: config.Model, labels: Sequence[str]) -> config.Model:
    """The model without the labels that it has from its source where the data has others: its head begins anew."""
    if not isinstance(model, config.Encoder) or not isinstance(model.head, config.Classification):
        return model
    if model.head.labels != labels_of(source) or set(labels) <= set(model.head.labels):
        return model
    return replace(model, head=replace(model.head, labels=()))


def take_over(model: Model, start: Pretrained) -> list[str]:
    """Fills a model with the weights of another; returns the names of those of its head that are not there.

    Rows of the head for other labels are not there, however many they are.

    Raises:
        CheckpointError: when anything but the head is missing or of another shape.
    """
    source = load(start.path).model
    found = dict(source.named_parameters())
    other: tuple[str, ...] = (LABELS,) if labels_of(model.config) != labels_of(source.config) else ()
    fits = {
        name: name in found and found[name].shape == parameter.shape and not name.startswith(other)
        for name, parameter in model.named_parameters()
    }
    missing = [name for name, fit in fits.items() if not fit]
    if wrong := [name for name in missing if not name.startswith(HEAD)]:
        raise CheckpointError(
            Path(start.path),
            f"{', '.join(wrong[:5])} missing or of another shape",
            "a run whose model differs in its head at most",
            "leave out the settings of the model, which are the run's own",
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if fits[name]:
                parameter.copy_(found[name])
    return missing


def prepare_parameters(model: Model, run: Run) -> None:
    """Freezes and adapts what the start of a run says; nothing for one that begins at random.

    Raises:
        ConfigError: for a pattern or a target that fits no parameter, or where nothing is left to train.
    """
    if not isinstance(run.start, Pretrained):
        return
    if run.start.lora is not None:
        _adapt(model, run.start.lora)
    for pattern in run.start.freeze:
        names = [name for name, _ in model.named_parameters()]
        frozen = [name for name in names if fnmatchcase(name, pattern)]
        if not frozen:
            raise _unknown("start.freeze", pattern, names)
        for name in frozen:
            model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("start.freeze", "nothing is left to train", "patterns that leave some parameters")


def _adapt(model: Model, lora: LoRA) -> None:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    last = {name.rpartition(".")[2] for name in names}
    for target in lora.targets:
        if target not in last:
            raise _unknown("start.lora.targets", target, sorted(last))
        if target == "project" and isinstance(model.head, LanguageHead | MaskedLanguageHead):
            found = "project, whose weights the loss takes as they are"
            raise ConfigError("start.lora.targets", found, "layers of the blocks, such as query")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(HEAD))
    adapt(model, lora.targets, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout)


def _unknown(where: str, given: str, names: Iterable[str]) -> ConfigError:
    return ConfigError(where, f'"{given}" fits nothing', "a name the model has", nearest(given, list(names)))
