"""Looks at a model between two steps of its training, and leaves it and all random numbers as they were.

Shapes: B batch, T positions, F units of an activation, H heads.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.doctor import tolerances
from pellucid.doctor.health import blocks, entropy, is_activation, rms
from pellucid.doctor.record import Forward
from pellucid.doctor.updates import plain
from pellucid.trace.calls import Call, CallStack, following, tensors_in
from pellucid.trace.finder import seeking
from pellucid.trace.sites import HIDDEN
from pellucid.trace.uncompiled import uncompiled

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a model is called with, by place and by name."""

SITES_ROWS, SITES_TOKENS = 4, 1024
"""Attention is looked at over so many rows and tokens at the most: its maps grow with the square of the length."""

RELUS = {"relu", "relu_", "threshold", "hardtanh"}
OTHERS = {"gelu", "silu", "silu_", "mish", "leaky_relu", "elu", "hardswish"}


class Probe:
    """Runs a model on a few rows and measures what happens in it.

    Args:
        model: without what wraps it for several processes or for speed.
        same: whether it is always given the same rows, so that more passes show no more of its units.
    """

    def __init__(self, model: nn.Module, *, same: bool = False) -> None:
        self.model = model
        self._units: deque[tuple[int, dict[str, Tensor]]] = deque(maxlen=1 if same else 64)

    def measured(self, arguments: Arguments) -> tuple[Forward, tuple[str, ...]]:
        """What a pass shows, and which layers gave NaN or infinities.

        Raises:
            Exception: whatever the model raises.
        """
        tensors = list(tensors_in(arguments).values())
        length = next((x.size(1) for x in tensors if x.dim() > 1), 1)
        with undisturbed(self.model):
            seen = _Seen(self.model)
            with seen.watching():
                seen.output = _run(self.model, arguments, max(1, -(-tolerances.UNITS_TOKENS // length)))
            with seeking(self.model) as search:
                output = _run(self.model, arguments, max(1, min(SITES_ROWS, SITES_TOKENS // length)))
            sites = search.found(output).sites
            sharpness, largest = {}, {}
            for site in sites:
                scores = site.scores().float()
                sharpness[site.name] = tuple(entropy(site.weights().float()).nanmedian(0).values.tolist())
                seen_scores = scores.masked_fill(scores <= HIDDEN, 0.0).abs()
                largest[site.name] = tuple(seen_scores.amax((0, 2, 3)).tolist())
        dead, tokens = self._silent(seen)
        infinite = tuple(name for name, value in seen.sizes.items() if not np.isfinite(value))
        forward = Forward(
            entropy=sharpness, scores=largest, dead=dead, tokens=tokens, residual=seen.sizes,
            normed=bool(seen.spreads) and max(seen.spreads) < tolerances.NORMED, width=seen.width,
        )  # fmt: skip
        return forward, infinite

    def _silent(self, seen: _Seen) -> tuple[dict[str, float], int]:
        """The share of units that were silent in the last measurements, as many as make enough tokens."""
        self._units.append((seen.tokens, seen.active))
        active, tokens = dict(seen.active), 0
        for count, other in reversed(self._units):
            for name in active.keys() & other.keys():
                active[name] = active[name] | other[name]
            tokens += count
            if tokens >= tolerances.UNITS_TOKENS:
                break
        return {name: float((~each).float().mean()) for name, each in active.items()}, tokens


class _Seen:
    """What passed by in one pass: layers, activations, the answer."""

    def __init__(self, model: nn.Module) -> None:
        self.sizes: dict[str, float] = {}
        self.spreads: list[float] = []
        self.active: dict[str, Tensor] = {}
        self.tokens = 0
        self.output: Any = None
        self._layers = {plain(name) for name in blocks(model)}
        self._turn: Counter[str] = Counter()
        ticks = itertools.count()
        self._stack = CallStack(model, lambda: next(ticks))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks at all that is computed within the block."""
        with following(self._stack, self._returned), _Operations(self._operated):
            yield

    @property
    def width(self) -> int | None:
        """The last axis of the answer."""
        found = [x for x in tensors_in(self.output).values() if x.is_floating_point() and x.dim() > 1]
        named = getattr(self.output, "logits", None)
        first = named if isinstance(named, Tensor) else found[0] if found else None
        return None if first is None else first.size(-1)

    def _returned(self, call: Call, arguments: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
        tensor = next(iter(tensors_in(result).values()), None)
        if tensor is None or not tensor.is_floating_point():
            return
        if call.path in self._layers:
            rows = tensor.detach().float().square().mean(-1).sqrt()
            self.sizes[call.path] = rms(tensor.detach())
            self.spreads.append(float(rows.std() / rows.mean().clamp_min(1e-30)) if rows.numel() > 1 else torch.inf)
        elif is_activation(call.module):
            self._heard(call.path, tensor, isinstance(call.module, nn.ReLU | nn.ReLU6))

    def _operated(self, name: str, result: Tensor) -> None:
        current = self._stack.current
        if not is_activation(current.module):  # which tells by itself
            self._heard(current.path, result, name in RELUS)

    def _heard(self, path: str, result: Tensor, relu: bool) -> None:
        if result.dim() < 2 or result.size(-1) < 2:
            return
        flat = result.detach().reshape(-1, result.size(-1))
        turn, self._turn[path] = self._turn[path], self._turn[path] + 1
        name = f"{path}#{turn}" if turn else path
        self.active[name] = (flat != 0).any(0) if relu else flat.float().var(0, correction=0) >= tolerances.STILL
        self.tokens = max(self.tokens, flat.size(0))


class _Operations(TorchDispatchMode):
    """Hears every activation that is an operation of PyTorch, also where no module stands for it."""

    supports_higher_order_operators = True

    def __init__(self, heard: Callable[[str, Tensor], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._told = heard

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation as it is."""
        result = func(*args, **(kwargs or {}))
        name = str(getattr(func, "overloadpacket", func)).rpartition(".")[2]
        if name in RELUS or name in OTHERS:
            self._told(name, result)
        return result


# ---- running it ----------------------------------------------------------------------------------


def _run(model: nn.Module, arguments: Arguments, rows: int) -> Any:
    """The model on the first rows; on all where it cannot be told which axis they are on."""
    by_place, by_name = first_rows(arguments, rows)
    try:
        return model(*by_place, **by_name)
    except Exception:
        by_place, by_name = first_rows(arguments, None)
        return model(*by_place, **by_name)


def first_rows(arguments: Arguments, rows: int | None) -> Arguments:
    """The same for the first rows of a batch, cut off from any graph; all rows for ``None``.

    The first tensor says how many rows there are; whatever has as many on its first axis is cut.
    """
    size = next((x.size(0) for x in tensors_in(arguments).values() if x.dim() > 0), 0)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach()[:rows] if value.dim() > 0 and value.size(0) == size else value.detach()
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*map(cut, value))
        if isinstance(value, list | tuple):
            return type(value)(map(cut, value))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{f.name: cut(getattr(value, f.name)) for f in dataclasses.fields(value)}
            )
        return value

    return cut(arguments[0]), cut(arguments[1])


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Within the block the model is in evaluation mode, without gradients, eager and in its plain steps.

    Afterwards it and all random states are what they were: modes, buffers, and what modules keep for themselves.
    """
    kept = [_Kept(module) for module in model.modules()]
    drawn, drawn_too = random.getstate(), np.random.get_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.random.fork_rng(devices=devices), torch.no_grad(), uncompiled():
            model.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for each in kept:
            each.restore()
        random.setstate(drawn)
        np.random.set_state(drawn_too)


class _Kept:
    """Everything that a module has for itself: attributes, what is in its lists and dictionaries, buffers."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._had = module, dict(vars(module))
        self._lists = [(value, list(value)) for value in self._had.values() if isinstance(value, list)]
        self._maps = [(value, dict(value)) for value in self._had.values() if isinstance(value, dict)]
        self._buffers = [(x, x.clone()) for x in module._buffers.values() if x is not None]

    def restore(self) -> None:
        """Puts it back."""
        here = vars(self._module)
        here.update(self._had)
        for name in here.keys() - self._had.keys():
            del here[name]
        for items, had in self._lists:
            items[:] = had
        for table, entries in self._maps:
            table.clear()
            table.update(entries)
        with torch.no_grad():
            for buffer, value in self._buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
