"""Name the tensors inside a model, so that they can be watched or replaced.

A module that derives from :class:`Tapped` passes its intermediates through ``self.tap(name, tensor)``. With no tape
attached that is one comparison with ``None``. A full name is the path of the call site and the tapped name, such as
``decoder.blocks.3.cross_attention.weights``; during generation it ends in the step, as in ``logits@5``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

Edit = Callable[[Tensor], Tensor]

# Modules that wrap a model and would put their own attribute into every path.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class Tape:
    """What one traced run recorded: tensor by full name, in the order computed.

    Args:
        watch: patterns (``fnmatch``) of the names to record. A pattern without ``@`` matches every step.
        edits: for patterns of names, what to do with the tensor before the model goes on.
    """

    def __init__(self, watch: str | Sequence[str] = "*", edits: Mapping[str, Edit] | None = None) -> None:
        self.watch = (watch,) if isinstance(watch, str) else tuple(watch)
        self.edits = dict(edits or {})
        self.tensors: dict[str, Tensor] = {}
        self.step: int | None = None

    def wants(self, name: str) -> bool:
        """Whether the tensor of that name is recorded or edited."""
        return any(self._matches(name, pattern) for pattern in (*self.watch, *self.edits))

    def visit(self, name: str, tensor: Tensor) -> Tensor:
        """Edits and records one tensor; returns what the model is to go on with."""
        for pattern, edit in self.edits.items():
            if self._matches(name, pattern):
                tensor = edit(tensor)
        if any(self._matches(name, pattern) for pattern in self.watch):
            self.tensors[self._full(name)] = tensor
        return tensor

    def _full(self, name: str) -> str:
        return name if self.step is None else f"{name}@{self.step}"

    def _matches(self, name: str, pattern: str) -> bool:
        return fnmatchcase(self._full(name) if "@" in pattern else name, pattern)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class Tapped(nn.Module):
    """A module that names its intermediates: ``q = self.tap("q", q)``."""

    def __init__(self) -> None:
        super().__init__()
        self._tape: Tape | None = None  # set here, not on the class: else the first attach recompiles the model
        self._path = ""

    def tap(self, name: str, tensor: Tensor) -> Tensor:
        """Returns the tensor, or what an edit made of it."""
        return tensor if self._tape is None else self._tape.visit(self._path + name, tensor)

    def is_watched(self, *names: str) -> bool:
        """Whether any of these tensors of this module must be computed for a tape."""
        return self._tape is not None and any(self._tape.wants(self._path + name) for name in names)

    def _detach(self) -> None:
        self._tape = None

    def mark_step(self, step: int | None) -> None:
        """Tells an attached tape which step of generation comes next."""
        if self._tape is not None:
            self._tape.step = step


@contextmanager
def trace(
    model: nn.Module, watch: str | Sequence[str] = "*", edits: Mapping[str, Edit] | None = None
) -> Iterator[Tape]:
    """Records (and edits) the model's named tensors while the block runs.

    A compiled model runs eagerly inside the block: a fused graph has no intermediates to show. Watching ``scores`` or
    ``weights`` of a layer computes that layer's attention step by step; all else keeps the fused kernel.

    Raises:
        RuntimeError: when the model is being traced already.
    """
    tape = Tape(watch, edits)
    undo: list[Callable[[], None]] = []
    try:
        _attach(model, "", tape, set(), undo)
        with torch.compiler.set_stance("force_eager"):
            yield tape
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
        _attach(child, _join(module, path, name), tape, seen, undo)


def _view(module: nn.Module) -> nn.Module:
    """The same module (parameters, buffers, hooks) with a path and children of its own."""
    view = copy.copy(module)
    view.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    if isinstance(view, Tapped):
        view._tape = None
    return view


def _join(parent: nn.Module, path: str, name: str) -> str:
    if name in _WRAPPED or (name == "module" and isinstance(parent, _PARALLEL)):
        return path
    return f"{path}.{name}" if path else name
