"""Name the tensors inside a model, so that they can be watched or replaced.

A module that derives from :class:`Tapped` passes its intermediates through ``self.tap(name, tensor)``. With no tape
attached that is one comparison with ``None``. A full name is the path of the call site and the tapped name, such as
``decoder.blocks.3.cross_attention.weights``; during generation it ends in the step, as in ``logits@5``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, overload

import torch
from torch import Tensor, nn

from pellucid.errors import UserError
from pellucid.trace.calls import joined
from pellucid.trace.operations import Given, Operation
from pellucid.trace.others import tracing_others
from pellucid.trace.tape import Edit, Keep, Tape
from pellucid.trace.uncompiled import uncompiled


class Tapped(nn.Module):
    """A module that names its intermediates, as in ``q = self.tap("q", q, x)``.

    Its :meth:`operation` says what made each of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tape: Tape | None = None  # set here, not on the class: else the first attach recompiles the model
        self._path = ""

    def tap(self, name: str, tensor: Tensor, *operands: Any) -> Tensor:
        """Returns the tensor, or what an edit made of it.

        Args:
            operands: what it was computed from, in the order of its operation; none for a tensor that has a name
                already.
        """
        return tensor if self._tape is None else self._tape.visit(self, name, tensor, operands)

    def operation(self, name: str) -> Operation:
        """What computes the tensor of that name from its operands."""
        return Given()

    def named(self, name: str) -> str:
        """The full name of what this module calls so, while it is being traced."""
        return self._path + name

    def is_watched(self, *names: str) -> bool:
        """Whether any of these tensors of this module must be computed for a tape."""
        return self._tape is not None and any(self._tape.wants(self._path + name) for name in names)

    def follow(self, model: Tapped, name: str) -> None:
        """Lets this module, which is no part of a model, be traced with it under a name of its own."""
        self._tape, self._path = model._tape, f"{model._path}{name}."

    def _detach(self) -> None:
        self._tape = None

    def mark_step(self, step: int | None) -> None:
        """Tells an attached tape which step of generation comes next."""
        if self._tape is not None:
            self._tape.step = step
            if step == 0:
                self._tape.moved.clear()  # another text begins

    def mark_rows(self, rows: Tensor, count: int) -> None:
        """Tells an attached tape that of ``count`` rows these go on, in this order."""
        tape = self._tape
        if tape is not None and tape.step is not None and rows.tolist() != list(range(count)):
            tape.moved.append(tape.step)


Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


@overload
def trace(
    model: nn.Module,
    inputs: None = None,
    *,
    watch: str | Sequence[str] = "*",
    edits: Mapping[str, Edit | Sequence[Edit]] | None = None,
    keep: Keep = "device",
    grads: bool = False,
    limit: int | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    lazy: str | Sequence[str] = (),
) -> AbstractContextManager[Tape]: ...


@overload
def trace(
    model: nn.Module,
    inputs: Inputs,
    *,
    watch: str | Sequence[str] = "*",
    edits: Mapping[str, Edit | Sequence[Edit]] | None = None,
    keep: Keep = "device",
    grads: bool = False,
    limit: int | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    lazy: str | Sequence[str] = (),
) -> Tape: ...


def trace(
    model: nn.Module,
    inputs: Inputs | None = None,
    *,
    watch: str | Sequence[str] = "*",
    edits: Mapping[str, Edit | Sequence[Edit]] | None = None,
    keep: Keep = "device",
    grads: bool = False,
    limit: int | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
    lazy: str | Sequence[str] = (),
) -> Tape | AbstractContextManager[Tape]:
    """Records (and edits) the model's named tensors: of one pass, or of all that runs inside a ``with`` block.

    ``trace(model, tokens)`` runs the model once, without gradients unless ``grads``, and returns the tape; its
    ``output`` is what the model returned. ``with trace(model) as tape:`` records what the block does: several passes,
    a backward pass, generation.

    A compiled model runs eagerly inside the block: a fused graph has no intermediates to show. Watching ``mask``,
    ``scores`` or ``weights`` of a layer computes that layer's attention step by step; all else keeps the fused kernel.

    Any other module is traced too: what goes into and comes out of its parts, and ``q``, ``k``, ``v``, ``mask``,
    ``scores``, ``weights`` and ``context`` of each attention in it (:func:`find_attention`), its kernels left as they
    are; the tape's ``coverage`` says what was not understood. Edits want a model of ours.

    Args:
        inputs: one tensor, a sequence of arguments, or arguments by name.
        watch: patterns of the names to record, such as ``blocks.*.residual_post``; one without ``@`` matches every
            step of generation.
        edits: for patterns of names, what to do with the tensor before the model goes on: :mod:`pellucid.trace.edits`.
        keep: ``device`` records the tensors themselves; ``cpu`` copies of them in main memory.
        grads: record the gradients that reach them in a backward pass, too.
        limit: bytes that may be recorded; half of the free memory when left out.
        names: other names for a model that is not ours: :func:`~pellucid.models.foreign.names.our_names`.
        lazy: of the watched names those to compute again when asked for, not to keep, as ``("*.scores", "*.weights")``.

    Raises:
        UserError: when more would be recorded than fits, or no tensor has an edit's name; the model is as it was.
        RuntimeError: when the model is being traced already.
    """
    if isinstance(inputs, str):
        hint = f'text is cut into tokens first; if it is what to record, say watch="{inputs}"'
        raise UserError("trace", f'found the text "{inputs}" as inputs', "tensors", hint)
    tape = Tape(watch, edits, keep=keep, grads=grads, limit=limit, names=names, lazy=lazy)
    ours = any(isinstance(module, Tapped) for module in model.modules())
    tracing = _tracing(model, tape) if ours else tracing_others(model, tape)
    if inputs is None:
        return tracing
    with tracing, torch.set_grad_enabled(grads):
        tape.output = _called(model, inputs)
    return tape


def _called(model: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


@contextmanager
def _tracing(model: nn.Module, tape: Tape) -> Iterator[Tape]:
    undo: list[Callable[[], None]] = []
    try:
        _attach(model, "", tape, set(), undo)
        with uncompiled():
            yield tape
        tape.check_edits()
    finally:
        for restore in reversed(undo):
            restore()


def _attach(module: nn.Module, path: str, tape: Tape, seen: set[int], undo: list[Callable[[], None]]) -> None:
    seen.add(id(module))
    if isinstance(module, Tapped):
        if module._tape is not None:
            raise RuntimeError(f"{path or 'the model'} is being traced already; leave the first trace before the next")
        module._tape, module._path = tape, f"{path}." if path else ""
        undo.append(module._detach)
    for name, child in list(module._modules.items()):
        if child is None:
            continue
        if id(child) in seen:
            # One module called from two places has one name in each: give the second place a view of its own.
            undo.append(lambda name=name, child=child: module._modules.__setitem__(name, child))  # type: ignore[misc]
            child = module._modules[name] = _view(child)
        _attach(child, joined(module, path, name), tape, seen, undo)


def _view(module: nn.Module) -> nn.Module:
    """The same module (parameters, buffers, hooks) with a path and children of its own."""
    view = copy.copy(module)
    view.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    if isinstance(view, Tapped):
        view._tape = None
    return view
