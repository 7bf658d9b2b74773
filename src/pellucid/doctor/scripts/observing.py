"""How a spec calls a model, found by watching one call, and written as an expression.

Whatever a user's function does to hand a batch over, the model sees tensors. Each of them is compared with what can be
made of the batch in a line: the ids, the mask, its opposite, a triangle. What is found is one call of the model that a
script can make without the function.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.scripts.literals import literal

KEEPS = ("keep", "~keep", "keep.long()", "keep.float()", "(~keep).float()", "(~keep).long()")
SHAPES = ("{}", "{}[:, None, None]", "{}[:, None]")
FILLS = ("-torch.inf", "-1e9", "torch.finfo(torch.float32).min", "-1e4")
LENGTH = "{0}.size(1), {0}.size(1)"
MASKS = (
    "torch.ones({0}, dtype=torch.bool).tril()", "torch.ones({0}, dtype=torch.bool).triu(1)",
    "torch.full(({0}), -torch.inf).triu(1)", "torch.ones({0}).tril()", "torch.ones({0}).tril()[None, None]",
    "torch.ones({0}, dtype=torch.bool).tril()[None, None]",
)  # fmt: skip
OUTPUTS = ("", ".logits", "['logits']", "[0]", "[1]", "[2]", ".last_hidden_state", ".prediction_logits")
TURNS = ("", ".transpose(0, 1)")


@dataclass(frozen=True, eq=False)
class Observed:
    """One call of a model.

    Attributes:
        given: what it was given by place.
        named: what it was given by name.
        result: what it returned.
        value: what the function that called it made of that.
    """

    given: tuple[Any, ...]
    named: Mapping[str, Any]
    result: Any
    value: Any

    def call(self, names: Mapping[str, Any]) -> str | None:
        """The call as an expression in ``names``; ``None`` where it was given what none of them makes."""
        given = [expressed(value, names) for value in self.given]
        named = {key: expressed(value, names) for key, value in self.named.items() if value is not None}
        while given and given[-1] == "None":
            given.pop()
        if None in given or None in named.values():
            return None
        return f"model({', '.join([*map(str, given), *(f'{key}={text}' for key, text in named.items())])})"

    def output(self, wanted: Tensor) -> str | None:
        """What to write behind the call so that it gives an output."""
        return part_of(self.result, wanted)


def observed(model: Any, run: Callable[[Any], Any]) -> Observed | None:
    """Runs a function of a model and watches the model's own call; ``None`` unless there is exactly one."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
    if not isinstance(model, nn.Module):

        def watched(*given: Any, **named: Any) -> Any:
            found = model(*given, **named)
            seen.append((given, named, found))
            return found

        value = run(watched)
    else:

        def note(module: nn.Module, given: Any, named: Any, found: Any) -> None:
            seen.append((given, named, found))

        handle = model.register_forward_hook(note, with_kwargs=True)
        try:
            value = run(model)
        finally:
            handle.remove()
    return Observed(*seen[0], value) if len(seen) == 1 else None


def expressed(value: Any, names: Mapping[str, Any]) -> str | None:
    """A value as an expression in names of tensors and of others; ``None`` if it is none."""
    for name, known in names.items():
        if value is known and value is not None:
            return name
    if not isinstance(value, Tensor):
        found = literal(value)
        return found.text if found is not None and not found.imports else None
    for text in _candidates(names):
        try:
            made = eval(text, {"torch": torch, **names})
        except Exception:  # not every expression suits every shape
            continue
        if isinstance(made, Tensor) and made.dtype == value.dtype and _equal(made.to(value.device), value):
            return text
    return None


def part_of(result: Any, wanted: Any) -> str | None:
    """The suffix that takes ``wanted`` out of what a model returned."""
    names = [f".{name}" for name in getattr(result, "keys", tuple)() if isinstance(name, str) and name.isidentifier()]
    attributes = [name for name in names if hasattr(result, name[1:])]
    keys = [f"[{name[1:]!r}]" for name in names if name not in attributes]
    for suffix in (*OUTPUTS[:1], *OUTPUTS[1:3], *attributes, *keys, *OUTPUTS[3:]):
        for turn in TURNS:
            try:
                with warnings.catch_warnings(action="ignore"):  # of an index that does not suit the result
                    found = eval(f"result{suffix}{turn}", {"result": result})
            except Exception:  # what is not there
                continue
            if found is wanted or _equal(found, wanted):
                return suffix + turn
    return None


def _equal(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.shape == b.shape and bool(torch.equal(a, b))


def _candidates(names: Mapping[str, Any]) -> list[str]:
    tensors = [name for name, value in names.items() if isinstance(value, Tensor)]
    found = [f"{name}{turn}" for name in tensors if name != "keep" for turn in ("", ".T", ".clone()")]
    if "keep" in names:
        found += [shape.format(text if shape == "{}" else f"({text})") for text in KEEPS for shape in SHAPES]
        zeros = "torch.zeros(keep.shape).masked_fill(~keep, {})"
        found += [shape.format(zeros.format(fill)) for fill in FILLS for shape in SHAPES]
        found += ["(keep.cumsum(1) - 1).clamp(min=0)", "ids.masked_fill(~keep, -100)"]
    if "ids" in names:
        sides = LENGTH.format("ids")
        found += [mask.format(sides) for mask in MASKS]
        found += [
            "torch.arange(ids.size(1))",
            "torch.arange(ids.size(1))[None]",
            "torch.arange(ids.size(1)).expand_as(ids)",
        ]
        found += ["torch.ones_like(ids)", "torch.ones_like(ids, dtype=torch.bool)"]
    return found
