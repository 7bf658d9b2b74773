"""Beginning at the weights of another run: what is taken over, what is frozen, what is adapted."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import nn

from pellucid.config.run import Run
from pellucid.config.start import LoRA, Pretrained
from pellucid.errors import CheckpointError, ConfigError, nearest
from pellucid.models.load import load
from pellucid.nn.lora import adapt

HEAD = "head."


def take_over(model: nn.Module, start: Pretrained) -> list[str]:
    """Fills a model with the weights of another; returns the names of those of its head that are not there.

    Raises:
        CheckpointError: when anything but the head is missing or of another shape.
    """
    found = dict(load(start.path).model.named_parameters())
    fits = {
        name: name in found and found[name].shape == parameter.shape for name, parameter in model.named_parameters()
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


def prepare_parameters(model: nn.Module, run: Run) -> None:
    """Freezes and adapts what the start of a run says; nothing for one that begins at random.

    Raises:
        ConfigError: for a pattern or a target that fits no parameter.
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


def _adapt(model: nn.Module, lora: LoRA) -> None:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    last = {name.rpartition(".")[2] for name in names}
    for target in lora.targets:
        if target not in last:
            raise _unknown("start.lora.targets", target, sorted(last))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(HEAD))
    adapt(model, lora.targets, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout)


def _unknown(where: str, given: str, names: Iterable[str]) -> ConfigError:
    return ConfigError(where, f'"{given}" fits nothing', "a name the model has", nearest(given, list(names)))
