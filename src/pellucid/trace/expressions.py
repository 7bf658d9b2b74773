"""How a tensor was computed from a product of two others: enough of a model's arithmetic to rebuild its scores.

An expression is a function and its arguments, tensors or expressions again. It holds on to the tensors that went into
the products and the masks, not to anything in between, and is forgotten with the tensor that it describes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pellucid.trace.calls import Call

Stage = Literal["operand", "scores", "weights"]
"""Before the product of queries and keys; between that and the softmax; after the softmax."""

ORDERED = {"view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "expand", "detach", "alias", "contiguous"}
"""Views that keep the order of the numbers."""

VIEWS = ORDERED | {"transpose", "t", "permute", "movedim"}
SAME = {"clone", "_to_copy", "lift_fresh", "copy", "to"}
"""Copies: the same numbers, perhaps in another precision."""

SELECTS = {
    "slice",
    "select",
    "gather",
    "index",
    "index_select",
    "flip",
    "roll",
    "narrow",
    "take_along_dim",
    "as_strided",
}
SPLITS = {"split", "split_with_sizes", "chunk", "unbind"}
JOINS = {
    "cat",
    "stack",
    "constant_pad_nd",
    "slice_scatter",
    "select_scatter",
    "repeat",
    "tril",
    "triu",
    "repeat_interleave",
}
POINTWISE = {
    *("add", "sub", "rsub", "mul", "div", "neg", "where", "masked_fill", "tanh", "clamp", "clamp_min", "clamp_max"),
    *("maximum", "minimum", "amax", "max", "nan_to_num", "exp", "sum", "sigmoid", "reciprocal", "pow", "abs"),
    *("native_dropout", "convolution", "addcmul", "logaddexp", "logsumexp", "softplus", "relu", "log"),
}
SOFTMAX = {"_softmax", "_safe_softmax", "_masked_softmax", "softmax"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "addbmm", "mv", "addmv"}

OPERANDS = (
    VIEWS
    | SAME
    | SPLITS
    | {"slice", "select", "mul", "div", "repeat", "repeat_interleave", "index_select", "constant_pad_nd"}
)
"""What is remembered of a tensor that comes of no product: how queries were scaled, keys repeated for their heads."""

FOLLOWED = VIEWS | SAME | SPLITS | SELECTS | JOINS | POINTWISE


@dataclass(frozen=True, eq=False)
class Expression:
    """A function of tensors, and the shape of what it gives.

    Args:
        name: of the function, without overload and without the underscore of one that writes in place.
        call: the module that computed it.
        stage: how far it is on the way from queries to weights.
        nodes: of a product, where its two operands come from.
        explained: False after the softmax of something that comes of no product.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    shape: torch.Size
    dtype: torch.dtype
    call: Call
    stage: Stage
    explained: bool = True
    output: int | None = None
    nodes: tuple[Any, ...] = ()

    def value(self) -> Tensor:
        """The tensor, computed again."""
        done: dict[int, Tensor] = {}
        # Chains are as long as a model's own code between two products, far below Python's limit.
        return _value(self, done)

    def parts(self) -> Iterator[Expression]:
        """The expressions among the arguments."""
        for item in _flat((*self.arguments, *self.keywords.values())):
            if isinstance(item, Expression):
                yield item

    def line(self) -> Iterator[Expression]:
        """This expression and all below it, along first arguments first."""
        seen: set[int] = set()
        waiting = [self]
        while waiting:
            one = waiting.pop()
            if id(one) not in seen:
                seen.add(id(one))
                yield one
                waiting.extend(reversed(list(one.parts())))  # first arguments first

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument given by place or by name."""
        return self.arguments[place] if place < len(self.arguments) else self.keywords.get(name, default)


def plain(x: Tensor | Expression) -> Tensor:
    """The tensor itself, or what the expression gives."""
    return x.value() if isinstance(x, Expression) else x


def simplified(name: str) -> str:
    """``add_.Tensor`` is ``add``."""
    name = name.split(".")[0].split("::")[-1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def replaced(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same nested arguments with every leaf changed."""
    if isinstance(value, list | tuple):
        return type(value)(replaced(item, change) for item in value) if type(value) in (list, tuple) else value
    return change(value)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _value(expression: Expression, done: dict[int, Tensor]) -> Tensor:
    if id(expression) not in done:

        def change(item: Any) -> Any:
            return _value(item, done) if isinstance(item, Expression) else item

        arguments = replaced(expression.arguments, change)
        result = expression.function(*arguments, **{k: change(v) for k, v in expression.keywords.items()})
        done[id(expression)] = result if expression.output is None else result[expression.output]
    return done[id(expression)]
