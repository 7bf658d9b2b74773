"""Tensors of a running model as they were when they were heard of, though the model writes over them later.

``nn.ReLU(inplace=True)`` leaves its result in what the layer before it returned, and so does ``x += y``. To copy every
tensor would take the memory twice: here a copy is made just before the operation that writes, and of those alone that
somebody has heard of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode


class Heard:
    """Groups of tensors by name; what is about to be overwritten makes room for a copy, which no gradient goes through.

    What a module is passed by place is heard of when it is called. What it is passed by name, or by a hook of its own,
    is known only when it returns: overwritten inside, it is what it was if somebody had heard of it before.
    """

    def __init__(self) -> None:
        self._groups: dict[int, list[dict[str, Tensor]]] = {}  # by the memory that they stand in
        self._copies: list[tuple[Tensor, Tensor]] = []  # what was overwritten, and what it had been
        self._entered: dict[int, int] = {}  # by call: how many copies there were

    def hear(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes in a group; the same one comes back."""
        for tensor in tensors.values():
            self._groups.setdefault(address(tensor), []).append(tensors)
        return tensors

    def enter(self, call: int, tensors: dict[str, Tensor]) -> None:
        """A call begins, given these by place."""
        self.hear(tensors)
        self._entered[call] = len(self._copies)

    def leave(self, call: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A call has returned that was given these; they, as they were when it began.

        A hook of the module's own may have put others in their place, which nobody has heard of.
        """
        before = {id(tensor): copy for tensor, copy in reversed(self._copies[self._entered.pop(call, 0) :])}
        return self.hear({name: before.get(id(tensor), tensor) for name, tensor in tensors.items()})

    def before(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """What is to be called before each operation, below autograd."""
        if not self._groups or not is_written(func):
            return
        for target in _targets(func, args, kwargs):
            place = address(target)
            copies: dict[int, Tensor] = {}  # one of each: what is the same tensor in two groups stays the same
            for group in self._groups.pop(place, ()):
                for name, tensor in group.items():
                    if address(tensor) == place:
                        if id(tensor) not in copies:
                            copies[id(tensor)] = tensor.clone()
                            self._copies.append((tensor, copies[id(tensor)]))
                        group[name] = copies[id(tensor)]

    def clear(self) -> None:
        """Lets go of everything."""
        for held in (self._groups, self._copies, self._entered):
            held.clear()


class Keeping(TorchDispatchMode):
    """Lets ``heard`` know of every operation, where nothing else watches them."""

    supports_higher_order_operators = True  # flex_attention is one

    def __init__(self, heard: Heard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._heard = heard

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation as it is."""
        self._heard.before(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def is_written(func: Any) -> bool:
    """Whether an operation writes over one of its arguments."""
    return isinstance(func, OpOverload) and func._schema.is_mutable


def address(tensor: Tensor) -> int:
    """Which memory a tensor stands in: the same for all its views."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # a sparse tensor has none
        return -id(tensor)


def _targets(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    for place, declared in enumerate(func._schema.arguments):
        if declared.is_write:
            given = args[place] if place < len(args) else kwargs.get(declared.name)
            many = given if isinstance(given, list | tuple) else [given]
            yield from (one for one in many if isinstance(one, Tensor))
