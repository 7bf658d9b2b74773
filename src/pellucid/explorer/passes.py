"""A model that is looked at, and one pass through it: its tape, and what is computed of it when somebody asks."""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from pellucid.analysis.attention import patterns
from pellucid.analysis.places import without_positions
from pellucid.explorer.asked import Input
from pellucid.explorer.describe import described
from pellucid.explorer.wire import part, pictured, pooled
from pellucid.inference.reading import Reading
from pellucid.inference.seen import Sense, sense_of
from pellucid.models.checkpoint import Loaded
from pellucid.trace import Tape, trace
from pellucid.trace.explain import Explanation
from pellucid.trace.statistics import Statistics
from pellucid.version import __version__

GLANCE = 64  # rows and columns of a map in small
PROBED = 64  # numbers of each parameter
AGAIN = 0.1  # seconds after which they are looked at once more, for an answer about what is there already


@dataclass(eq=False)
class Explored:
    """One model of a session.

    Attributes:
        key: what the page calls it. name: what people do.
        step: of training, for a checkpoint of a run.
    """

    key: str
    name: str
    loaded: Loaded
    step: int | None = None
    _seen: tuple[Any, ...] = field(default=(), init=False, repr=False)
    _looked: float = field(default=-math.inf, init=False, repr=False)
    _reckoned: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def hash(self) -> str:
        """Of the weights: sixteen hex digits that change whenever a number does."""
        return self._of_now("hash", lambda: _digest(self.loaded.model.named_parameters()))

    @property
    def identity(self) -> str:
        """Of all that decides an answer: passes and drafts are known by it, whose answers a browser keeps for ever."""
        return self._of_now("identity", self._identified)

    def is_still(self, identity: str) -> bool:
        """Whether it is what it was when it had this one. A page asks hundreds of things at once."""
        known, is_recent = self._reckoned.get("identity"), time.monotonic() - self._looked < AGAIN
        if known is None or not is_recent or _written(self.loaded.model) != self._seen[:1]:
            known = self.identity
        return known == identity

    def _of_now(self, what: str, reckon: Callable[[], str]) -> str:
        """Reckoned once while the model stays: one in memory may be trained on while its page is open."""
        if (now := _state(self.loaded.model)) != self._seen:
            self._seen = now
            self._reckoned.clear()
        self._looked = time.monotonic()
        if what not in self._reckoned:
            self._reckoned[what] = reckon()
        return self._reckoned[what]

    def _identified(self) -> str:
        model = self.loaded.model
        cut = [] if self.sense == "picture" else [self.loaded.tokenizer, self.loaded.tokenizer.target]
        about = [__version__, repr(model.config), self.hash, _digest(model.named_buffers())]
        about += [*(tokenizer.fingerprint for tokenizer in cut), *_settings(model)]
        return hashlib.sha256("\n".join(about).encode()).hexdigest()[:16]

    @cached_property
    def description(self) -> dict[str, Any]:
        """What it is made of."""
        return described(self.loaded.model.config)

    @cached_property
    def sense(self) -> Sense:
        """What it reads."""
        return sense_of(self.loaded.model.config)

    def as_dict(self) -> dict[str, Any]:
        """For the list of models."""
        about = self.description
        return {
            "key": self.key,
            "name": self.name,
            "hash": self.hash,
            "step": self.step,
            **{name: about[name] for name in ("family", "head", "labels", "parameters")},
            "reads": self.sense,
            "vocabulary": None if self.sense == "picture" else self.loaded.tokenizer.vocab_size,
        }


@dataclass(frozen=True, eq=False)
class Glance:
    """One attention from afar.

    Attributes:
        patterns: what each head is like, by name.
        maps: (H, t, s), the weights in small.
    """

    patterns: list[dict[str, float | None]]
    maps: Tensor


@dataclass(eq=False)
class Pass:
    """One forward of one model: what it read, and what happened."""

    id: str
    asked: Input
    explored: Explored
    reading: Reading
    tape: Tape
    seconds: float
    identity: str = field(init=False)
    _computed: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    _captured: dict[str, Tensor] = field(default_factory=dict)
    _glances: dict[str, Glance] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identity = self.explored.identity

    @property
    def is_current(self) -> bool:
        """Whether its model is still the one that it is a pass of."""
        return self.explored.is_still(self.identity)

    def value(self, name: str) -> Tensor:
        """A tensor of the tape, computed again where it was not kept."""
        if name in self.tape:
            return self.tape[name]
        if name not in self._computed:
            self._computed[name] = self.tape.value(name)
            while len(self._computed) > 4:  # the maps of a few layers, as people look at one after the other
                self._computed.popitem(last=False)
        self._computed.move_to_end(name)
        return self._computed[name]

    def drawn(self, name: str, at: str | None) -> Tensor:
        """A part that is drawn: of a head that nobody has looked at, that head alone is computed.

        The numbers that are printed are those of :meth:`value`, which may differ from it by a rounding.
        """
        shape, axes = self.tape.entry(name).shape, (at or "").split(",")
        known = name in self.tape or name in self._computed or not name.endswith((".scores", ".weights"))
        if known or len(axes) != len(shape) or not axes[1].isdecimal() or int(axes[1]) >= shape[1]:
            return part(self.value(name), at, name)
        return part(self.tape.head(name, int(axes[1])), ",".join([axes[0], "0", *axes[2:]]), name)

    def explain(self, name: str, index: tuple[int, ...], terms: int) -> Explanation:
        """One number, against what the model itself had: what was not kept is captured first."""
        if name in self.tape or name not in self.tape.entries:
            return self.tape.explain(name, index, terms=terms)
        if name not in self._captured:
            model = self.explored.loaded.model
            with placed(self.asked, model):
                captured = trace(model, self.reading.arguments, watch=name, edits=self.tape.edits)
            self._captured = {name: captured[name]}  # the last one: people stay with a number's neighbours
        self.tape.tensors.update(self._captured)
        try:
            return self.tape.explain(name, index, terms=terms)
        finally:  # what was shown of it was computed again, and differs by a rounding: it must not change now
            del self.tape.tensors[name]

    def again(self) -> Tensor:
        """What the model answers to the same input, its edits not in force."""
        model, given = self.explored.loaded.model, self.reading.arguments
        with placed(self.asked, model):
            answer: Tensor = model(**given) if isinstance(given, Mapping) else model(*given)
        return answer

    def glance(self, site: str) -> Glance:
        """An attention from afar: its maps are computed once for all who look, and not kept."""
        if site not in self._glances:
            weights = self.value(f"{site}.weights")
            itself = site.endswith("self_attention")
            self._glances[site] = Glance(patterns(weights, of_itself=itself), pooled(weights[0], GLANCE))
        return self._glances[site]

    def statistics(self, name: str) -> Statistics:
        """A tensor in a few numbers."""
        return Statistics.of(self.value(name), distribution=name.endswith("weights"))

    @property
    def nbytes(self) -> int:
        """What keeping it costs."""
        beside = (*self._computed.values(), *self._captured.values())
        return self.tape.nbytes + sum(tensor.nbytes for tensor in beside)

    def as_dict(self) -> dict[str, Any]:
        """What the page needs to know before it asks for tensors."""
        reads, *writes = (
            {"ids": ids, "pieces": list(pieces)}
            for ids, pieces in zip(self.reading.ids, (self.reading.pieces, self.reading.target), strict=False)
            if pieces is not None
        )
        if (seen := self.reading.seen or self.reading.drawn) is not None:
            reads["seen"] = pictured(seen)
        return {
            "id": self.id,
            "model": self.explored.key,
            "hash": self.explored.hash,
            "identity": self.identity,
            "asked": self.asked.as_dict(),
            "reads": reads,
            "writes": writes[0] if writes else None,
            "tensors": [
                {
                    "name": entry.name,
                    "shape": list(entry.shape),
                    "dtype": str(entry.dtype).removeprefix("torch."),
                    "module": entry.module,
                    "formula": entry.operation.formula,
                    "inputs": list(entry.input_names),
                    "edited": bool(entry.edited),
                }
                for entry in self.tape.entries.values()
            ],
            "seconds": self.seconds,
        }


def _digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _state(model: torch.nn.Module) -> tuple[Any, ...]:
    """What tells at little cost that a model is what it was.

    Besides :func:`_written` some numbers of each parameter, as what is written to ``.data`` is not counted, and all
    settings.
    """
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for one in model.parameters():
        if one.numel():
            few = torch.take(one.detach(), _places(one.numel(), one.device))
            alike.setdefault((few.device, few.dtype), []).append(few)
    # As bytes, for NaN is not equal to itself.
    probed = b"".join(torch.cat(few).cpu().view(dtype=torch.uint8).numpy().tobytes() for few in alike.values())
    return *_written(model), probed, tuple(_settings(model))


def _written(model: torch.nn.Module) -> tuple[Any, ...]:
    """Where each parameter is, and how often it was written to."""
    return ([(one.data_ptr(), 0 if one.is_inference() else one._version) for one in model.parameters()],)


@cache
def _places(count: int, device: torch.device) -> Tensor:
    """Some of so many numbers, always the same, without a pattern that rows or columns could have too."""
    return torch.randint(count, (PROBED,), generator=torch.Generator().manual_seed(count)).to(device)


def _settings(model: torch.nn.Module) -> Iterator[str]:
    """Numbers and flags of modules: what was set after building, as ``model.causal``, no config tells."""
    for path, module in model.named_modules():
        own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        for name, value in sorted(own.items()):
            if isinstance(value, bool | int | float | str | tuple | None):
                yield f"{path}.{name}={value!r}"


def placed(asked: Input, model: torch.nn.Module) -> AbstractContextManager[None]:
    """The model as it is, or with its positions taken out."""
    return nullcontext() if asked.positions == "own" else without_positions(model)
