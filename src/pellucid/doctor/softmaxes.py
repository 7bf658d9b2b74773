"""What becomes of scores: whether they meet the values as they are, or after a softmax of a softmax.

Shapes: T positions.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.doctor.subject import Subject
from pellucid.trace.calls import CallStack, following
from pellucid.trace.uncompiled import uncompiled

ATTENDS = re.compile(r"attention|attn", re.IGNORECASE)
OTHERS = re.compile(r"linear|retention|retnet|gated|delta|mamba|rwkv|kernel|performer|fourier|hyena", re.IGNORECASE)
PRODUCTS = ("bmm", "mm", "baddbmm")
NEUTRAL = {
    "mul", "div", "add", "sub", "masked_fill", "where", "tril", "triu", "clamp", "_log_softmax", "view",
    "_unsafe_view", "reshape", "expand", "transpose", "permute", "t", "clone", "unsqueeze", "squeeze", "contiguous",
    "_to_copy", "slice", "detach", "alias",
}  # fmt: skip
"""What is done to scores before their softmax, and makes no weights of them."""


SOFTMAX = ("_softmax", "_safe_softmax")


class _Watch(TorchDispatchMode):
    """Follows products (…, T, T), and what a softmax makes of them, from operation to operation."""

    def __init__(self, length: int, stack: CallStack) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length, self.stack = length, stack
        self.scores: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.bare = ""
        self.twice = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._follow(str(func.overloadpacket.__name__).rstrip("_"), args, result)
        return result

    def _follow(self, name: str, args: Any, result: Tensor) -> None:
        def among(known: list[Tensor]) -> bool:
            return any(x is one for x in args if isinstance(x, Tensor) for one in known)

        of_scores, of_weights = among(self.scores), among(self.weights)
        square = result.dim() >= 2 and result.shape[-2:] == (self.length, self.length)
        if name in SOFTMAX and square:
            self.twice = self.twice or (self._place() if of_weights else "")
            self.weights.append(result)
        elif name in PRODUCTS and of_scores and not square:
            self.bare = self.bare or self._place()
        elif square and ((name in PRODUCTS and not of_scores) or (of_scores and name in NEUTRAL)):
            self.scores.append(result)
        elif square and of_weights and name in NEUTRAL:
            self.weights.append(result)

    def _place(self) -> str:
        """The innermost module that has parameters: a softmax is often a module of its own."""
        line = list(self.stack.current.line())
        call = next((call for call in line if any(True for _ in call.module.parameters())), line[-1])
        return f"{call.path or 'the model'} ({type(call.module).__name__})"


def softmaxes(subject: Subject) -> tuple[str, str]:
    """The first module in which scores meet the values without a softmax, and the first with a softmax of a softmax.

    Each is empty where there is none. Linear attention, retention and the like are known by name, and by never making
    scores of all queries and keys.
    """
    module = subject.module
    if module is None or not subject.per_position:
        return "", ""
    batch, ticks = subject.batch(), itertools.count()
    stack = CallStack(module, lambda: next(ticks))
    watch = _Watch(batch.ids.size(1), stack)
    with uncompiled(), following(stack, lambda *_: None), watch, torch.no_grad():
        subject(batch)
    meant = not ATTENDS.search(watch.bare) or OTHERS.search(f"{watch.bare} {type(module).__name__}")
    return "" if meant else watch.bare, watch.twice
