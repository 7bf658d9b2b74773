"""What modules keep as mere attributes: masks, tables and caches that are no buffers, and are made as the model runs.

A table that was made in double precision must not be met in single precision afterwards, and no examination may leave
one behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

INTERNAL = frozenset(vars(nn.Module()))
"""What PyTorch itself keeps in a module; parameters, buffers and modes are looked after elsewhere."""

Made = Callable[[Tensor], Tensor]


@contextmanager
def attributes_kept(model: nn.Module | None, made: Made = lambda x: x) -> Iterator[None]:
    """Attributes, and which parts and buffers there are, are after the block what they were before it.

    Some models exchange their own parts as they run: BigBird, when it meets a short text.

    Args:
        made: what tensors among them are within the block.
    """
    modules = [] if model is None else list(model.modules())
    before = [(module, _own(module), dict(module._buffers), dict(module._modules)) for module in modules]
    contents = [(value, _copied(value)) for _, own, *_ in before for value in own.values() if _holds(value)]
    for module, own, *_ in before:
        for name, value in own.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                vars(module)[name] = made(value)
    for value, copied in contents:
        _fill(value, _changed(copied, made))
    try:
        yield
    finally:
        for value, copied in contents:
            _fill(value, copied)
        for module, own, buffers, parts in before:
            for name in _own(module).keys() - own.keys():
                del vars(module)[name]
            vars(module).update(own)
            _fill(module._buffers, buffers)
            _fill(module._modules, parts)


def _own(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in INTERNAL}


def _holds(value: Any) -> bool:
    return type(value) in (list, dict)


def _copied(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else list(value)


def _changed(copied: Any, made: Made) -> Any:
    def one(x: Any) -> Any:
        return made(x) if isinstance(x, Tensor) and not isinstance(x, nn.Parameter) else x

    return {key: one(x) for key, x in copied.items()} if isinstance(copied, dict) else [one(x) for x in copied]


def _fill(value: Any, content: Any) -> None:
    value.clear()
    if isinstance(value, dict):
        value.update(content)
    else:
        value.extend(content)
