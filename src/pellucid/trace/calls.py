"""Which module is running, and what went into and came out of it; for models that name nothing themselves.

Nothing is attached to the model: the hooks are the global ones of PyTorch, there only while the block runs. A hook on a
module of its own would switch off the fast path of ``nn.TransformerEncoderLayer``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from pellucid.errors import UserError
from pellucid.trace.overwritten import Heard, Keeping
from pellucid.trace.uncompiled import uncompiled

# Modules that wrap a model and would put their own attribute into every path.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of one module.

    Args:
        path: of the module, from the model; empty for the model itself.
        module: what is called.
        parent: the call from which it is called.
        began: what the clock of the trace said on entering.
    """

    path: str
    module: nn.Module
    parent: Call | None
    began: int

    def line(self) -> Iterator[Call]:
        """This call, the one around it, and so on to the model's own."""
        call: Call | None = self
        while call is not None:
            yield call
            call = call.parent


def enclosing(one: Call, other: Call) -> Call:
    """The innermost call that both lie in."""
    around = set(map(id, other.line()))
    return next(call for call in one.line() if id(call) in around)


class CallStack:
    """The calls under way, innermost last, and all calls there were.

    Args:
        model: whose modules have paths.
        clock: read on entering a module.
    """

    def __init__(self, model: nn.Module, clock: Callable[[], int]) -> None:
        self._paths = {id(module): path for path, module in _named(model, "", set())}
        self._used: dict[tuple[int, str], int] = {}
        self._clock = clock
        self._stack: list[Call] = [Call("", model, None, clock())]
        self.calls: list[Call] = list(self._stack)

    @property
    def current(self) -> Call:
        """The innermost call under way."""
        return self._stack[-1]

    def enter(self, module: nn.Module) -> Call:
        """Notes that the module is being called."""
        parent = self.current
        if parent.module is module and parent.parent is None and len(self._stack) == 1:
            return parent  # the model itself
        call = Call(self._path(parent, module), module, parent, self._clock())
        self._stack.append(call)
        self.calls.append(call)
        return call

    def leave(self, module: nn.Module) -> Call | None:
        """Notes that the module returned, or raised; returns its call."""
        for depth in range(len(self._stack) - 1, 0, -1):
            if self._stack[depth].module is module:
                call = self._stack[depth]
                del self._stack[depth:]
                return call
        return self._stack[0] if module is self._stack[0].module else None

    def _path(self, parent: Call, module: nn.Module) -> str:
        """The path; a module with several names in its parent is called by each of them in turn."""
        names = [name for name, child in parent.module._modules.items() if child is module]
        if not names:
            return self._paths.get(id(module), parent.path)
        turn = self._used.get((id(parent), names[0]), 0)
        self._used[id(parent), names[0]] = turn + 1
        return joined(parent.module, parent.path, names[min(turn, len(names) - 1)])


def _named(module: nn.Module, path: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _named(child, joined(module, path, name), seen)


def joined(parent: nn.Module, path: str, name: str) -> str:
    """The path of a child; what merely wraps a model has no place in it."""
    if name in _WRAPPED or (name == "module" and isinstance(parent, _PARALLEL)):
        return path
    return f"{path}.{name}" if path else name


Returned = Callable[[Call, tuple[Any, ...], dict[str, Any], Any], None]
"""Hears a call that has returned: its arguments by place and by name, its result."""

Entered = Callable[[Call, tuple[Any, ...]], None]
"""Hears a call that begins, and its arguments by place."""


@contextmanager
def following(
    stack: CallStack, returned: Returned | None = None, entered: Entered | None = None
) -> Iterator[CallStack]:
    """Keeps the stack while the block runs; calls back with what begins, and with the result of what returns."""

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        call = stack.enter(module)
        if entered is not None:
            entered(call, arguments)

    def after(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        call = stack.leave(module)
        if returned is not None and call is not None:
            returned(call, arguments, keywords, result)

    handles = []
    try:
        handles.append(register_module_forward_pre_hook(before))
        handles.append(register_module_forward_hook(after, with_kwargs=True, always_call=True))
        yield stack
    finally:
        for handle in handles:
            handle.remove()
            # PyTorch leaves this note of it, and torch.compile then warns of hooks that are gone.
            hooks._global_forward_hooks_with_kwargs.pop(handle.id, None)


def record_modules(
    model: nn.Module, *args: Any, patterns: str | Sequence[str] = "*", **kwargs: Any
) -> Mapping[str, Tensor]:
    """Runs a model once and records what goes into and comes out of its modules, in the order of computation.

    Names are ``path.in`` and ``path.out`` (``in`` and ``out`` for the model's own); of several tensors ``path.out.0``
    or ``path.out.logits``, by place or name, and ``path.in.mask`` for one passed by name. A second call of a module has
    ``#1`` after its path. Tensors are those the model used, with their gradients' history; where it writes over one
    later, a copy of what it was. Nothing stays attached, also after an exception.

    Args:
        patterns: ``fnmatch`` patterns of the names to record.

    Raises:
        UserError: when no name fits the patterns.
    """
    wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    ticks = itertools.count()
    found: list[tuple[int, Call, str, dict[str, Tensor]]] = []
    heard = Heard()

    def entered(call: Call, arguments: tuple[Any, ...]) -> None:
        heard.enter(id(call), tensors_in(arguments))

    def returned(call: Call, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        inputs = heard.leave(id(call), tensors_in(arguments) | tensors_in(keywords))
        found.append((call.began, call, "in", inputs))
        found.append((next(ticks), call, "out", heard.hear(tensors_in(result))))

    stack = CallStack(model, lambda: next(ticks))
    with uncompiled(), following(stack, returned, entered), Keeping(heard):
        model(*args, **kwargs)
    turns = numbered(stack.calls)
    tensors: dict[str, Tensor] = {}
    for _, call, side, group in sorted(found, key=lambda row: row[0]):
        for key, tensor in group.items():
            name = ".".join(filter(None, (turns[id(call)], side, "" if len(group) == 1 else key)))
            if any(fnmatchcase(name, pattern) for pattern in wanted):
                tensors[name] = tensor
    if not tensors:
        raise UserError("patterns", f"nothing is named {' or '.join(wanted)}", hint='try "*" to see all names')
    return tensors


def numbered(calls: Sequence[Call]) -> dict[int, str]:
    """The path of each call, with ``#1`` for the second of one path."""
    count: Counter[str] = Counter()
    names = {}
    for call in calls:
        turn = count[call.path]
        names[id(call)] = f"{call.path}#{turn}" if turn else call.path
        count[call.path] += 1
    return names


def tensors_in(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors inside tuples, mappings and dataclasses, by place or name."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif dataclasses.is_dataclass(value):
        pairs = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = list(zip(value._fields, value, strict=True))
    elif isinstance(value, list | tuple):
        pairs = [(str(place), item) for place, item in enumerate(value)]
    else:
        return {}
    found: dict[str, Tensor] = {}
    for key, item in pairs:
        found |= tensors_in(item, ".".join(filter(None, (name, key))))
    return found
