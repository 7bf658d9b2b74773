"""Watches a training: any loop, any optimiser of PyTorch. It measures every so many steps and says what stays wrong.

>>> with pl.doctor.watch(model, optimizer, every=100) as watched:
...     for inputs, labels in batches:
...         loss = criterion(model(inputs), labels)
...         optimizer.zero_grad()
...         loss.backward()
...         optimizer.step()
...         if (record := watched.step(loss)) and record.new:
...             print(record)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.finding import Finding
from pellucid.doctor.probe import Arguments, Probe, first_rows
from pellucid.doctor.record import Forward, Record
from pellucid.doctor.trend import ADAPTIVE, Setting, judged
from pellucid.doctor.updates import Updates, holds_layers, optimizers_of, tables_of, unwrapped
from pellucid.errors import UserError

LOSSES = 1000  # that are kept for the mean
PATIENCE = (
    10  # steps that a measurement waits for an optimiser that leaves some out, as a scaler of half precision does
)


def watch(
    model: nn.Module,
    optimizer: Any = None,
    every: int = 100,
    *,
    probe: Any = None,
    vocab_size: int | None = None,
    floor: float | None = None,
    after: int = 0,
) -> Watch:
    """Watches a training; ``step(loss)`` is to be called after each step of the optimiser.

    After the first step and every ``every`` steps it measures: the entropy of each head, units that do not fire, the
    size of the residual stream, gradients and updates by layer, the loss against what is possible, numbers that are not
    finite. In between it does nothing. The training is the same bits with and without it: the model is looked at in
    passes of a few rows, after which its state, its buffers and all random numbers are what they were. There are hooks
    on the model and the optimiser during a step that is measured, and none after it, or after ``close``.

    Args:
        model: as the loop calls it, compiled or in ``DistributedDataParallel`` or not. In several processes one is
            enough.
        optimizer: one of PyTorch, several, or something that has them as ``.parts`` or as ``.optimizer``. Without it
            updates and rates are not seen, and gradients only where they are still there.
        every: steps between two measurements.
        probe: what to run the model on when it is looked at: a tensor, a tuple of arguments or a dictionary of named
            ones, or a function that gives such. Without it, what the loop last called it with.
        vocab_size: V, where the loss is the mean of -log p over tokens, to be held against guessing, ln V.
        floor: nats below which that loss cannot fall on data not seen before: the entropy of the data.
        after: steps that were done before.

    Raises:
        UserError: for an optimiser that cannot be watched, or a number below 1.
    """
    for name, value in (("every", every), ("vocab_size", vocab_size)):
        if value is not None and value < 1:
            raise UserError(name, f"found {value}", "1 or more")
    optimizers = [] if optimizer is None else list(optimizers_of(optimizer))
    return Watch(model, optimizers, every, after, Setting(vocab_size=vocab_size, floor=floor), probe)


class Watch:
    """A training under watch; made by :func:`watch`.

    Attributes:
        records: what was measured so far.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        every: int,
        after: int,
        setting: Setting,
        probe: Any,
    ) -> None:
        self.records: list[Record] = []
        own = unwrapped(model)
        self._called, self._optimizers, self._given = model, optimizers, probe
        self._every, self._first, self._step = every, after + 1, after
        self._probe = Probe(own, same=probe is not None and not callable(probe))
        self._updates = Updates(own)
        self._tables = tables_of(own)
        self._adaptive = [each for each in optimizers if type(each).__name__ in ADAPTIVE]
        self._setting = replace(setting, layers=len(self._updates.layers))
        self._losses: deque[Tensor | float] = deque(maxlen=LOSSES)
        self._handles: list[Any] = []
        self._seen: Arguments | None = None
        self._unheard = ""  # why what the model was called with is not known
        self._armed, self._waited = False, 0
        self._arm()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All that was found so far, each as it was first seen."""
        return tuple(finding for record in self.records for finding in record.new)

    def step(self, loss: Tensor | float | None = None, *, gradient_norm: float | None = None) -> Record | None:
        """To be called once a step, after the optimiser's.

        Args:
            loss: of this step, a mean over what is asked.
            gradient_norm: before clipping, as ``clip_grad_norm_`` returns it; without it the norm is that which reaches
                the optimiser.

        Returns:
            What was measured, after the first step and after every N-th; else ``None``.
        """
        self._step += 1
        if loss is not None:
            self._losses.append(loss.detach() if isinstance(loss, Tensor) else loss)
        record = None
        if self._armed:
            waits = bool(self._optimizers) and not self._updates.seen and self._waited < min(PATIENCE, self._every)
            self._waited += 1
            if not waits:
                record = self._measured(gradient_norm)
                self._disarm()
        if not self._armed and (self._step + 1) % self._every == 0:
            self._arm()
        return record

    def close(self) -> None:
        """Ends it; nothing is left on the model or the optimiser. The records stay."""
        self._disarm()

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- the step that is measured -------------------------------------------------------------

    def _arm(self) -> None:
        """Hooks, for one step: what the model is called with, and the moment before the optimiser's step."""
        self._armed, self._waited = True, 0
        if self._given is None:
            self._handles.append(self._called.register_forward_pre_hook(self._hear, with_kwargs=True))
        for each in self._optimizers:
            self._handles.append(each.register_step_pre_hook(self._about_to_step))

    def _disarm(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._updates.forget()
        self._armed, self._seen, self._unheard = False, None, ""

    def _hear(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        try:
            self._seen, self._unheard = first_rows((arguments, keywords), None), ""
        except Exception as error:  # this runs inside the training's own forward pass
            self._seen, self._unheard = None, f"what the model reads cannot be kept: {type(error).__name__}: {error}"

    def _about_to_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._updates.before(optimizer)

    # ---- measuring -----------------------------------------------------------------------------

    def _measured(self, gradient_norm: float | None) -> Record:
        losses = _numbers(self._losses)
        self._losses.clear()
        count = losses.numel()
        loss = float(losses.mean()) if count else None
        update, infinite = self._updates.after(gradient_norm)
        forward, layers, notes = self._forward()
        record = Record(
            step=self._step,
            loss=loss,
            error=float(losses.std() / count**0.5) if count > 1 else None,
            losses=count,
            rate=self._rate(),
            forward=forward,
            update=update,
            nonfinite=(*(["loss"] if loss is not None and not isfinite(loss) else []), *infinite, *layers),
            notes=notes,
        )
        findings = judged([*self.records, record], self._setting)
        had = {(finding.check, finding.status) for finding in self.records[-1].findings} if self.records else set()
        new = tuple(finding for finding in findings if (finding.check, finding.status) not in had)
        self.records.append(replace(record, findings=findings, new=new))
        return self.records[-1]

    def _rate(self) -> float | None:
        """The learning rate now; the first and the largest of layers under Adam's kind are noted: others bear more."""
        if (rate := _largest_rate(self._adaptive, self._tables)) is not None:
            first, peak = self._setting.first_rate, self._setting.peak_rate or 0.0
            first = rate if first is None and self._first == 1 else first
            self._setting = replace(self._setting, first_rate=first, peak_rate=max(rate, peak))
        return _largest_rate(self._optimizers)

    def _forward(self) -> tuple[Forward | None, tuple[str, ...], tuple[str, ...]]:
        """What a pass shows, the layers that are not finite, and why there was none."""
        try:
            given = self._given() if callable(self._given) else self._given
            arguments = self._seen if given is None else _arguments(given)
            if arguments is None:
                why = self._unheard or "the model was not called: watch the module that the loop calls"
                return None, (), (f"{why}, or give probe=…",)
            forward, layers = self._probe.measured(arguments)
        except Exception as error:  # whatever a model cannot do while it is looked at must not end its training
            return None, (), (f"the model could not be run for a look: {type(error).__name__}: {error}",)
        return forward, tuple(f"output of {name}" for name in layers), ()


def _largest_rate(optimizers: list[torch.optim.Optimizer], tables: set[int] | None = None) -> float | None:
    """Of all groups, or of those that hold layers; where none does, of those that hold more than tables: weights that
    are sharded or fused lie flat.
    """
    groups = [group for each in optimizers for group in each.param_groups]
    if tables is not None:
        flat = [group for group in groups if any(id(parameter) not in tables for parameter in group["params"])]
        groups = [group for group in groups if holds_layers(group, tables)] or flat
    return max((float(group["lr"]) for group in groups), default=None)


def _arguments(given: Any) -> Arguments:
    if isinstance(given, Mapping):
        return (), dict(given)
    return (tuple(given), {}) if isinstance(given, tuple) else ((given,), {})


def _numbers(losses: deque[Tensor | float]) -> Tensor:
    """Brought to the processor together, as each alone would wait for the device."""
    tensors = [loss.float().mean() for loss in losses if isinstance(loss, Tensor)]
    if tensors and len(tensors) == len(losses):
        return torch.stack(tensors).cpu().double()
    return torch.tensor([float(loss) for loss in losses], dtype=torch.float64)
