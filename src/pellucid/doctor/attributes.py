"""What modules keep as mere attributes: masks, tables and caches that are no buffers, and are made as the model runs.

A table that was made in double precision must not be met in single precision afterwards, and no examination may leave
one behind. It may lie in a container, or in an object that is no module, such as one that turns queries and keys.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ProxyTypes

import torch
from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module()))
"""What PyTorch itself keeps in a module; parameters, buffers and modes are looked after elsewhere."""

CONTAINERS = (OrderedDict, dict, list, deque)
BEYOND = (Tensor, type, str, bytes, FunctionType, MethodType, ModuleType)
DEPTH = 5
"""How many containers and objects lie one in another, at the most, in what a module keeps."""

Made = Callable[[Tensor], Tensor]
Place = tuple[Any, Any]
"""A container, or the ``vars`` of an object, and what was in it."""


@contextmanager
def attributes_kept(model: nn.Module | None, made: Made = lambda x: x) -> Iterator[None]:
    """Attributes, and which parts and buffers there are, are after the block what they were before it.

    Some models exchange their own parts as they run: BigBird, when it meets a short text.

    Args:
        made: what tensors among them are within the block.
    """
    modules = _modules(model)
    before = [(module, _own(module), dict(module._buffers), dict(module._modules)) for module in modules]
    contents = _places(modules)
    for module, own, *_ in before:
        for name, value in own.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                vars(module)[name] = made(value)
    for place, content in contents:
        _fill(place, _changed(content, made))
    try:
        yield
    finally:
        for place, content in contents:
            _fill(place, content)
        for module, own, buffers, parts in before:
            for name in _own(module).keys() - own.keys():
                del vars(module)[name]
            vars(module).update(own)
            _fill(module._buffers, buffers)
            _fill(module._modules, parts)


def attribute_tensors(model: nn.Module) -> list[Tensor]:
    """The tensors among them, each once: a forward pass may write into one as into a buffer."""
    modules = _modules(model)
    held = [value for module in modules for value in _own(module).values()]
    for _, content in _places(modules):
        held += content.values() if isinstance(content, dict) else content
    tensors = (x for x in held if isinstance(x, Tensor) and not isinstance(x, nn.Parameter))
    return list({id(x): x for x in tensors if not x.is_meta and not x.is_nested and x.layout == torch.strided}.values())


def _modules(model: nn.Module | None) -> list[nn.Module]:
    """All but those that are compiled to TorchScript, which keep nothing in Python."""
    return [] if model is None else [part for part in model.modules() if not isinstance(part, torch.jit.ScriptModule)]


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in INTERNAL}


def _places(modules: list[nn.Module]) -> list[Place]:
    """All containers, and the ``vars`` of all objects, that are reached without passing another module with weights."""
    passed = {id(module) for module in modules}
    return [place for module in modules for value in _own(module).values() for place in _within(value, passed, DEPTH)]


def _within(value: Any, passed: set[int], depth: int) -> Iterator[Place]:
    if not depth or id(value) in passed or type(value) in ProxyTypes or isinstance(value, BEYOND):
        return  # what a module knows by a weak reference holds the module, such as whoever trains it
    own = getattr(value, "__dict__", None)
    if not isinstance(own, dict) and not isinstance(value, (*CONTAINERS, tuple)):
        return
    if isinstance(value, nn.Module) and any(True for _ in (*value.parameters(), *value.buffers())):
        return  # its precision stays what it is
    passed.add(id(value))
    items: list[Any] = []
    for place in (value, own):
        if isinstance(place, CONTAINERS):
            yield place, _copied(place)
        if isinstance(place, (*CONTAINERS, tuple)):
            items += place.values() if isinstance(place, dict) else place
    for item in items:
        yield from _within(item, passed, depth - 1)


def _copied(place: Any) -> Any:
    return dict(place) if isinstance(place, dict) else list(place)


def _changed(content: Any, made: Made) -> Any:
    def one(x: Any) -> Any:
        return made(x) if isinstance(x, Tensor) and not isinstance(x, nn.Parameter) else x

    return {key: one(x) for key, x in content.items()} if isinstance(content, dict) else [one(x) for x in content]


def _fill(place: Any, content: Any) -> None:
    """Nothing is written where nothing has changed, nor by methods of the place's own class."""
    now, then = ((*x.items(),) if isinstance(x, dict) else (*enumerate(x),) for x in (place, content))
    if len(now) == len(then) and all(a[0] == b[0] and a[1] is b[1] for a, b in zip(now, then, strict=True)):
        return
    kind: Any = next(kind for kind in CONTAINERS if isinstance(place, kind))
    kind.clear(place)
    if isinstance(place, dict):
        for key, value in content.items():
            kind.__setitem__(place, key, value)
    else:
        kind.extend(place, content)
