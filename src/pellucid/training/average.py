"""Averages of weights: over the last steps, or over some checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pellucid.config.optimisation import CheckpointAverage
from pellucid.models.checkpoint import SNAPSHOTS
from pellucid.models.files import fill, write_tensors, writes


class Running:
    """An exponential moving average of a model's parameters, kept beside it.

    Args:
        decay: the share of the average that stays at each step; less while there is little to average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Takes in the weights after a step, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        own = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.weights.values()), [own[name].detach() for name in self.weights], share)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside this context, and its own again after it."""
        self._swap(model)
        try:
            yield
        finally:
            self._swap(model)

    @torch.no_grad()
    def _swap(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            own = parameter.detach().clone()
            parameter.copy_(self.weights[name])
            self.weights[name].copy_(own)


class Snapshots:
    """The weights at the last or the best few evaluations, as files ``snapshots/step-N.safetensors`` of a run.

    The validation loss of each is in its metadata, so that a run that goes on knows which were the best.
    """

    def __init__(self, folder: Path, settings: CheckpointAverage, after: int) -> None:
        self.folder, self.settings = folder / SNAPSHOTS, settings
        for path, step in self._found().items():
            if step > after and writes():
                path.unlink()

    def add(self, model: nn.Module, step: int, loss: float) -> None:
        """Takes in the weights after a step and drops the snapshot that is one too many."""
        weights = {name: p.detach() for name, p in model.named_parameters()}
        write_tensors(weights, self.folder / f"step-{step}.safetensors", metadata={"loss": repr(loss)})
        if not writes():
            return
        ranked = sorted(self._found().items(), key=lambda found: self._rank(*found))
        for path, _ in ranked[self.settings.count :]:
            path.unlink()

    def steps(self) -> list[int]:
        """The steps that would be averaged."""
        return sorted(self._found().values())

    @torch.no_grad()
    def average_into(self, model: nn.Module) -> None:
        """Gives the model the mean of all snapshots; in double precision, whatever their order."""
        paths = sorted(self._found())
        sums: dict[str, Tensor] = {}
        for path in paths:
            for name, value in load_file(path).items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
        for name, parameter in model.named_parameters():
            fill(parameter, (sums[name] / len(paths)).to(parameter.dtype))

    def _rank(self, path: Path, step: int) -> float:
        return self._loss(path) if self.settings.which == "best" else -step

    def _loss(self, path: Path) -> float:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return float((file.metadata() or {})["loss"])

    def _found(self) -> dict[Path, int]:
        paths = self.folder.glob("step-*.safetensors")
        return {path: int(path.stem[5:]) for path in paths if path.stem[5:].isdigit()}
