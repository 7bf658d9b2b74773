"""Watches every operation of a running model, below autograd, where fused kernels still are one operation.

A mode that catches functions (``TorchFunctionMode``) would see more of what was asked, and change what is done:
``nn.MultiheadAttention`` leaves its fast path when one is there. Under this one every kernel is chosen and run as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.trace.calls import CallStack
from pellucid.trace.expressions import (
    FOLLOWED,
    OPERANDS,
    ORDERED,
    POINTWISE,
    PRODUCTS,
    SOFTMAX,
    SPLITS,
    VIEWS,
    Expression,
    Stage,
    replaced,
    simplified,
)
from pellucid.trace.overwritten import Heard, is_written
from pellucid.trace.provenance import Node, Provenance

Attended = Callable[[Expression, bool, Any, Node | None, Tensor], None]
"""Told of a product with weights: the weights, whether on the right, the values, where these come from, the result."""

Called = Callable[[Any, dict[str, Any], Any], bool]
"""Told of an operation by itself, its arguments by name, and its result; says whether it was a fused kernel."""

_WRITES_MEMORY = {"copy", "index_copy", "index_put", "scatter", "zero", "fill", "set"}


class Watch(TorchDispatchMode):
    """Keeps provenance up to date, and tells of attention.

    Args:
        model: whose parameters are the constants.
        attended: called at each product of weights and values.
        called: called at each operation, before anything else.
    """

    supports_higher_order_operators = True  # flex_attention is one

    def __init__(self, model: nn.Module, attended: Attended, called: Called) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.provenance = Provenance([*model.parameters(), *model.buffers()])
        self.stack = CallStack(model, lambda: self.provenance.time)
        self.heard = Heard()
        self._attended, self._called = attended, called

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation as it is, then notes it."""
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        if isinstance(func, OpOverload) and _is_composite(func) and not any(tensor.is_nested for tensor in tensors):
            with self:  # in inference mode such an operation arrives whole: look at its parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        self.heard.before(func, args, kwargs)
        result = func(*args, **kwargs)
        with torch.no_grad():
            self._note(func, args, kwargs, [tensor for tensor in tensors if not tensor.is_nested], result)
        return result

    def _note(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], result: Any
    ) -> None:
        self.provenance.tick()
        outputs = [tensor for tensor in _tensors(result) if not tensor.is_nested]
        fused = self._called(func, _named(func, args, kwargs), result)
        name = simplified(_name(func))
        if name == "copy" and is_written(func) and _is_itself(args[0], args[1]):
            return  # Python's ``x[a:] += b`` ends in a copy of x[a:] onto itself
        nodes = tuple(dict.fromkeys(filter(None, map(self.provenance.node, tensors))))
        weights = [self.provenance.is_weight(tensor) for tensor in tensors]
        projected = any(weights) and (name in PRODUCTS or "convolution" in name)
        joined = bool(weights) and all(weights) and name in OPERANDS | {"cat", "stack"}
        base = nodes[0] if nodes and name in VIEWS | {"clone", "_to_copy"} else None
        expressions = [] if fused or not outputs else [self._expression(name, func, args, kwargs, outputs)]
        if name in SPLITS and expressions and expressions[0] is not None:
            first = expressions[0]
            expressions = [replace(first, output=i, shape=output.shape) for i, output in enumerate(outputs)]
        expression = expressions[0] if expressions else None
        if is_written(func) and tensors and outputs and outputs[0] is tensors[0]:
            self._write_through(outputs[0], expression)
        for place, output in enumerate(outputs):
            node = Node(nodes, self.provenance.time, projected, base)
            known = expressions[place] if place < len(expressions) else None
            self.provenance.put(output, node, known, joined)

    def _expression(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]
    ) -> Expression | None:
        """How the first output was computed, where that belongs to attention."""
        output = outputs[0]

        def known(item: Any) -> Any:
            if not isinstance(item, Tensor) or item.is_nested:
                return item
            found = self.provenance.expression(item)
            # Scores that were never given to a softmax may become queries: then they are numbers like any others.
            lost = found is not None and found.stage == "scores" and name in PRODUCTS and not mixed
            return item if found is None or lost else found

        mixed = name in PRODUCTS and any(self.provenance.is_weight(item) for item in _tensors(args))
        outside = _out_of_place(func)
        arguments, keywords = replaced(args, known), {key: known(value) for key, value in kwargs.items()}
        over = is_written(func) and not (isinstance(arguments[0], Expression) and arguments[0].stage != "operand")
        if outside is None or output.dim() < 2 or (over and name != "copy"):
            return None  # of a tensor that is overwritten the old numbers are gone; scores are made again from others
        function: Callable[..., Any] = outside

        def make(stage: Stage, explained: bool = True) -> Expression:
            call, shape = self.stack.current, output.shape
            return Expression(
                name, function, arguments, keywords, shape, output.dtype, call, stage, explained, index, between
            )

        between = tuple(map(self.provenance.node, _tensors(args)))[-2:] if name in PRODUCTS else ()
        index = 0 if name == "max" and len(args) > 1 and not isinstance(args[1], Tensor) else None
        parts = [item for item in _flat((*arguments, *keywords.values())) if isinstance(item, Expression)]
        heavy = [part for part in parts if part.stage != "operand"]
        if name in PRODUCTS:
            return self._product(name, args, arguments, heavy, output, make)
        if name in SOFTMAX:
            explained = isinstance(arguments[0], Expression) and arguments[0].stage == "scores"
            return make("weights", explained) if explained or output.dim() > 2 else None
        if heavy and name == "native_dropout":  # as a product with what was drawn, which would not be drawn again
            name, function, keywords = "mul", torch.ops.aten.mul.Tensor, {}
            arguments = (arguments[0], outputs[1].to(output.dtype) / max(1.0 - args[1], 1e-30))
        if heavy and name in FOLLOWED:
            # Scores stay as many: what they are broadcast to or summed over is something else.
            if name in POINTWISE and output.numel() > max(part.shape.numel() for part in heavy):
                return None
            weights = any(part.stage == "weights" for part in heavy)
            return make("weights" if weights else "scores", all(part.explained for part in heavy))
        if name in OPERANDS and not heavy and self._is_scaled(name, args):
            return make("operand")
        return None

    def _is_scaled(self, name: str, args: tuple[Any, ...]) -> bool:
        """Of what is no product only multiplication by a number is followed: else a whole model would be kept."""
        if name not in ("mul", "div"):
            return True
        return not isinstance(args[1], Tensor) or args[1].dim() == 0

    def _product(
        self,
        name: str,
        args: tuple[Any, ...],
        arguments: tuple[Any, ...],
        heavy: list[Expression],
        output: Tensor,
        make: Callable[..., Expression],
    ) -> Expression | None:
        first = 1 if name in ("addmm", "baddbmm", "addbmm", "addmv") else 0
        pair = args[first : first + 2]
        stages = [part.stage if isinstance(part, Expression) else "operand" for part in arguments[first : first + 2]]
        constant = [operand for operand in pair if self.provenance.is_weight(operand)]
        if constant:
            if len(heavy) == 1 and heavy[0].explained and _mixes(constant[0], output, heavy[0]):
                return make(heavy[0].stage)
            return make("scores") if output.dim() > 2 and not heavy else None
        if stages.count("weights") == 1:
            right = stages[1] == "weights"
            weights, values = arguments[first + right], arguments[first + 1 - right]
            self._attended(weights, right, values, self.provenance.node(pair[1 - right]), output)
            return None
        return make("scores") if not heavy else None

    def _write_through(self, target: Tensor, expression: Expression | None) -> None:
        """A tensor was written in place: what is known of its other views is now another thing."""
        before = self.provenance.expression(target)
        for entry in self.provenance.sharing(target):
            entry.expression = _scattered(before, entry.expression, expression)


def _scattered(view: Expression | None, base: Expression | None, written: Expression | None) -> Expression | None:
    """What the base is after its view was written; none where that is not known."""
    while view is not None and written is not None and base is not None:
        if view is base:
            return written
        inner = view.arguments[0]
        if not isinstance(inner, Expression):
            return None
        written = _inverse(view, inner, written)
        view = inner
    return None


def _inverse(view: Expression, inner: Expression, written: Expression) -> Expression | None:
    aten = torch.ops.aten
    if view.shape == inner.shape and view.name in ORDERED | {"slice"}:
        return written
    if view.name == "slice":
        name, function, rest = "slice_scatter", aten.slice_scatter.default, (written, *view.arguments[1:])
        arguments: tuple[Any, ...] = (inner, *rest)
    elif view.name in ORDERED and view.shape.numel() == inner.shape.numel():
        name, function, arguments = "reshape", aten.reshape.default, (written, list(inner.shape))
    elif view.name == "transpose":
        name, function, arguments = "transpose", aten.transpose.int, (written, *view.arguments[1:])
    else:
        return None
    stage = written.stage if written.stage != "operand" else inner.stage
    return Expression(name, function, arguments, {}, inner.shape, inner.dtype, written.call, stage, written.explained)


def _is_itself(target: Any, origin: Any) -> bool:
    return target.data_ptr() == origin.data_ptr() and (target.shape, target.stride()) == (origin.shape, origin.stride())


def _mixes(parameter: Tensor, output: Tensor, heavy: Expression) -> bool:
    """Whether a parameter mixes the heads of scores or weights; a projection of the model is larger."""
    return parameter.numel() <= 1024 and output.numel() == heavy.shape.numel()


def _is_composite(func: OpOverload) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _out_of_place(func: Any) -> Callable[..., Any] | None:
    """The function that gives what ``add_`` writes; none for one that is not known."""
    if not is_written(func):
        return func if callable(func) else None
    packet = getattr(torch.ops.aten, simplified(_name(func)), None)
    return getattr(packet, func._overloadname, None)


def _name(func: Any) -> str:
    return func._schema.name if isinstance(func, OpOverload) else str(func.name())


def _named(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults included; by place where the operation has no schema."""
    if not isinstance(func, OpOverload):
        names = ("query", "key", "value")  # the only such operation that is read is flex_attention
        return {names[place] if place < 3 else str(place): value for place, value in enumerate(args)} | kwargs
    declared = func._schema.arguments
    values = {one.name: one.default_value for one in declared if one.has_default_value()}
    return values | {one.name: value for one, value in zip(declared, args, strict=False)} | kwargs


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _tensors(value: Any) -> Iterator[Tensor]:
    return (item for item in _flat(value) if isinstance(item, Tensor))
