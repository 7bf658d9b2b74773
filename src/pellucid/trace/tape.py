"""What a traced run recorded: named tensors, what each was computed from and by which operation."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pellucid.errors import UserError, nearest
from pellucid.trace.explain import Explanation, explained
from pellucid.trace.operations import Given, Operation, Same, Softmax
from pellucid.trace.room import check_room
from pellucid.trace.statistics import Statistics
from pellucid.trace.working import Operand

if TYPE_CHECKING:
    from rich.table import Table

    from pellucid.trace.taps import Tapped

Edit = Callable[[Tensor], Tensor]
UNSEEN = ("mask", "scores", "weights")  # of an attention whose kernel stores none of them

Keep = Literal["device", "cpu"]


@dataclass(frozen=True)
class Held:
    """An operand that has no name of its own: what came from outside, or no tensor at all."""

    value: Any
    name: str


@dataclass(frozen=True, eq=False)
class Entry:
    """One named tensor: where it stands in the model and what it was computed from, whether or not it was kept.

    Attributes:
        name: the path of the module, the tapped name and, while writing, the step.
        module: the class of the module.
        operation: what made it.
        inputs: the names of what it was computed from, or what has no name, held.
        line: of the source, as file and number.
        edited: the patterns of the edits that changed it.
        random: whether dropout had a hand in it.
        device: where the model had it, whatever it is kept on.
    """

    name: str
    module: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    operation: Operation
    inputs: tuple[str | Held, ...]
    line: tuple[str, int]
    edited: tuple[str, ...] = ()
    random: bool = False
    device: torch.device | str = "cpu"

    @property
    def input_names(self) -> tuple[str, ...]:
        """What it was computed from, by name."""
        return tuple(given if isinstance(given, str) else given.name for given in self.inputs)


class Tape:
    """Tensor by full name, in the order computed.

    Args:
        watch: patterns (``fnmatch``) of the names to record. A pattern without ``@`` matches every step.
        edits: for patterns of names, what to do with the tensor before the model goes on, one thing after another.
        keep: ``device`` records the tensors themselves, through which gradients flow; ``cpu`` copies of them in main
            memory.
        grads: also record the gradients that reach them in a backward pass, in :attr:`gradients`.
        limit: bytes that may be recorded; half of the memory that is free when left out.
        names: of a model that is not ours, other names for its tensors.
        lazy: patterns of watched names of which only the origin is kept: :meth:`value` computes them again. What was
            edited or drawn with dropout is kept all the same.
    """

    def __init__(
        self,
        watch: str | Sequence[str] = "*",
        edits: Mapping[str, Edit | Sequence[Edit]] | None = None,
        *,
        keep: Keep = "device",
        grads: bool = False,
        limit: int | None = None,
        names: Mapping[str, str] = MappingProxyType({}),
        lazy: str | Sequence[str] = (),
    ) -> None:
        self.watch = (watch,) if isinstance(watch, str) else tuple(watch)
        self.lazy = (lazy,) if isinstance(lazy, str) else tuple(lazy)
        self.edits = {pattern: _chain(pattern, given) for pattern, given in (edits or {}).items()}
        self.keep, self.grads, self.limit, self.renamed = keep, grads, limit, names
        self.entries: dict[str, Entry] = {}
        self.tensors: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self.step: int | None = None
        self.moved: list[int] = []  # steps after which other rows, or in another order, went on
        self.output: Any = None
        self.coverage = ""  # of a model that is not ours: what was found in it, and what was not understood
        self._names: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._statistics: dict[str, Statistics] = {}
        self._bytes = 0
        self._applied: set[str] = set()

    # ---- while the model runs ------------------------------------------------------------------

    def wants(self, name: str) -> bool:
        """Whether the tensor of that name is recorded or edited."""
        return any(self._matches(name, pattern) for pattern in (*self.watch, *self.edits))

    def visit(self, module: Tapped, tap: str, tensor: Tensor, operands: Sequence[Any]) -> Tensor:
        """Edits and records one tensor; returns what the model is to go on with."""
        short = module.named(tap)
        name = self._full(short)
        known = self._name_of(tensor)
        inputs = (known,) if known else tuple(self.input(operand) for operand in operands)
        operation = Same() if known else module.operation(tap) if operands else Given()
        edited = tuple(pattern for pattern in self.edits if self._matches(short, pattern))
        for pattern in edited:
            tensor = self.edits[pattern](tensor)
        self._applied.update(edited)
        entry = Entry(
            name,
            type(module).__name__,
            tuple(tensor.shape),
            tensor.dtype,
            operation,
            inputs or (Held(tensor, "given"),),
            _line(sys._getframe(2)),
            edited,
            module.training and getattr(module, "dropout", 0.0) > 0,
            tensor.device,
        )
        self.add(entry, short, tensor, fresh=known is None)
        return tensor

    def add(self, entry: Entry, short: str, tensor: Tensor, *, fresh: bool) -> None:
        """Takes in an entry, and its tensor if its name without the step is watched."""
        self.entries.pop(entry.name, None)  # a second pass stands behind the first
        self.entries[entry.name] = entry
        self._names[id(tensor)] = (weakref.ref(tensor), entry.name)
        again = not (entry.edited or entry.random) and any(self._matches(short, pattern) for pattern in self.lazy)
        if not again and any(self._matches(short, pattern) for pattern in self.watch):
            self._record(entry.name, tensor, fresh=fresh)

    def input(self, operand: Any) -> str | Held:
        """What was given to an operation: its name, or itself where it has none."""
        if isinstance(operand, Tensor):
            return self._name_of(operand) or Held(operand, "given")
        kept = getattr(operand, "kept", None)  # what goes on changing says how it is now
        return Held(operand if kept is None else kept(), type(operand).__name__.lower())

    def _record(self, name: str, tensor: Tensor, *, fresh: bool) -> None:
        if fresh:
            self._bytes = check_room(name, tensor, self._bytes, self.limit, self.keep)
        self.tensors.pop(name, None)
        self._statistics.pop(name, None)
        # A cache writes on in the memory that its keys and values are views of.
        shared = self.step is not None and hasattr(self.entries[name].operation, "history")
        kept = tensor.detach().clone() if shared else tensor
        self.tensors[name] = kept.detach().to("cpu", copy=True) if self.keep == "cpu" else kept
        if self.grads and tensor.requires_grad:
            tape = weakref.ref(self)  # the tape holds the tensor, and the tensor this hook: no ring of them
            tensor.register_hook(lambda gradient: None if (here := tape()) is None else here._take(name, gradient))

    def _take(self, name: str, gradient: Tensor) -> None:
        self.gradients[name] = gradient.detach().to("cpu", copy=True) if self.keep == "cpu" else gradient.detach()

    def _name_of(self, tensor: Tensor) -> str | None:
        found = self._names.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def _full(self, name: str) -> str:
        return name if self.step is None else f"{name}@{self.step}"

    def _matches(self, name: str, pattern: str) -> bool:
        return fnmatchcase(self._full(name) if "@" in pattern else name, pattern)

    def check_edits(self) -> None:
        """After the last pass: an edit that changed nothing is a slip of the pen, unless it waits for a step.

        Raises:
            UserError: for a pattern that no tensor had, with the nearest name.
        """
        missed = [pattern for pattern in self.edits if "@" not in pattern and pattern not in self._applied]
        if missed and self.entries:
            names = list(dict.fromkeys(name.partition("@")[0] for name in self.names))
            found = f'no such tensor as "{missed[0]}" among the {len(names)} of this pass'
            raise UserError("edits", found, "a name or a pattern of names", nearest(missed[0], names))

    # ---- afterwards ----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise self._missing(name)
        return self.tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def _missing(self, name: str) -> KeyError | UserError:
        if name in self.entries or self._unseen(name) is not None:
            return UserError(f'"{name}"', "was not recorded", "a name that `watch` matches", f'watch="{name}"')
        return UserError(f'"{name}"', "no such tensor", "one of the names of the tape", nearest(name, self.names))

    @property
    def names(self) -> list[str]:
        """All that could be watched: what the run passed, and what a fused kernel would compute if it were."""
        contexts = [name for name, entry in self.entries.items() if hasattr(entry.operation, "unseen")]
        sites = [name.rpartition("context") for name in contexts]
        hidden = [f"{site}{unseen}{step}" for site, _, step in sites for unseen in UNSEEN]
        return list(dict.fromkeys([*self.entries, *hidden]))

    def value(self, name: str) -> Tensor:
        """The tensor of that name: as recorded, or where it was not, computed again from what it was made of.

        Raises:
            UserError: for a name that the run has not passed, or what cannot be computed again.
        """
        if name in self.tensors:
            return self.tensors[name]
        entry = self.entry(name)
        if entry.edited or entry.random:
            why = "edited" if entry.edited else "drawn with dropout on"
            raise UserError(f'"{name}"', f"was {why} and not recorded", hint=f'watch="{name}"')
        with torch.no_grad():
            return entry.operation.compute(*(operand.value for operand in self.operands(name)))

    def head(self, name: str, head: int) -> Tensor:
        """One head (B, 1, T, S) of scores or weights; where they were not recorded, it is computed without the others.

        Then it differs from :meth:`value` by a rounding, as a product of another size.
        """
        entry = self.entry(name)
        operation, recorded = entry.operation, name in self.tensors or entry.edited or entry.random
        if not recorded and isinstance(operation, Softmax) and isinstance(entry.inputs[0], str):
            with torch.no_grad():
                return operation.compute(self.head(entry.inputs[0], head))
        if not recorded and hasattr(operation, "of_head"):
            with torch.no_grad():
                found: Tensor = operation.of_head(head, *(operand.value for operand in self.operands(name)))
            return found
        return self.value(name)[:, head : head + 1]

    def entry(self, name: str) -> Entry:
        """Where a tensor stands and what it was computed from.

        Raises:
            UserError: for a name that the run has not passed, with the nearest.
        """
        found = self.entries.get(name) or self._unseen(name)
        if found is None:
            raise self._missing(name)
        return found

    def _unseen(self, name: str) -> Entry | None:
        """What a fused kernel computes on the way to the context and stores nowhere; ``None`` for any other name."""
        short, mark, step = name.partition("@")
        site, _, part = short.rpartition(".")
        context = self.entries.get(f"{site}.context{mark}{step}")
        told = None if context is None else getattr(context.operation, "unseen", None)
        if context is None or told is None or part not in UNSEEN or len(context.inputs) != 4:
            return None
        operation, inputs = told(part, *context.inputs, scores=f"{site}.scores{mark}{step}")
        q, k = (self.entry(one).shape if isinstance(one, str) else one.value.shape for one in context.inputs[:2])
        shape = (q[0], 1 if part == "mask" else q[1], q[2], k[2])
        dtype = torch.bool if part == "mask" else context.dtype
        return replace(context, name=name, shape=shape, dtype=dtype, operation=operation, inputs=inputs, edited=())

    def operands(self, name: str) -> tuple[Operand, ...]:
        """What went into a tensor, values and all."""
        entry = self.entry(name)
        history = getattr(entry.operation, "history", None)
        inputs = entry.inputs if history is None else history(self.entries, name, self.moved)
        return tuple(
            Operand(given, self.value(given).to(entry.device))
            if isinstance(given, str)
            else Operand(given.name, given.value)
            for given in inputs
        )

    def recompute(self, name: str) -> Tensor:
        """The tensor again, from what it was computed from: equal to what was recorded, but for rounding."""
        with torch.no_grad():
            return self.entry(name).operation.compute(*(operand.value for operand in self.operands(name)))

    def explain(self, name: str, index: Sequence[int], *, terms: int = 8) -> Explanation:
        """One number down to its products.

        Args:
            name: of the tensor, recorded or not.
            index: of the number; negative ones count from the end.
            terms: how many of the largest terms to list.

        Raises:
            UserError: for a name or a place that does not exist, or a number that chance had a hand in.
        """
        entry = self.entry(name)
        if entry.random:
            hint = "call model.eval() first, or explain another tensor"
            raise UserError(f'"{name}"', "was computed with dropout on, whose draws are not kept", hint=hint)
        origin = entry
        while isinstance(origin.operation, Same) and not origin.edited and isinstance(origin.inputs[0], str):
            origin = self.entry(origin.inputs[0])  # a second name explains nothing
        with torch.no_grad():
            return explained(entry, origin, self.operands(origin.name), self.value(name), tuple(index), terms)

    def statistics(self, name: str) -> Statistics:
        """Least, greatest, mean, root of the mean square and so on; computed when first asked for."""
        if name not in self._statistics:
            self._statistics[name] = Statistics.of(self[name], distribution=name.split("@")[0].endswith("weights"))
        return self._statistics[name]

    def table(self, pattern: str = "*") -> Table:
        """The recorded tensors as a table for the terminal."""
        from pellucid.trace.show import table

        return table(self, pattern)

    @property
    def nbytes(self) -> int:
        """Bytes recorded, what has two names counted once."""
        return sum({tensor.data_ptr(): tensor.nbytes for tensor in self.tensors.values()}.values())

    def save(self, folder: str | Path) -> None:
        """Writes the recorded tensors as safetensors, and what they are as JSON.

        Raises:
            CheckpointError: when it cannot be written.
        """
        from pellucid.trace.store import save

        save(self, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> Tape:
        """Reads what :meth:`save` wrote.

        Raises:
            CheckpointError: for a folder that is missing, torn or something else.
        """
        from pellucid.trace.store import load

        return load(Path(folder))

    def __repr__(self) -> str:
        told = f"{len(self.tensors)} of {len(self.entries)} tensors, {self.nbytes / 1e6:.1f} MB"
        return f"<Tape: {told}; {self.coverage}>" if self.coverage else f"<Tape: {told}>"

    def __rich__(self) -> Table:
        return self.table()

    def _repr_html_(self) -> str:
        from pellucid.trace.show import html

        return html(self)


def _chain(pattern: str, given: Edit | Sequence[Edit]) -> Edit:
    """One edit after another, and a look at what they made."""
    each = (given,) if callable(given) else tuple(given)

    def edit(tensor: Tensor) -> Tensor:
        made: Any = tensor
        for one in each:
            made = one(made)
        if not isinstance(made, Tensor) or made.shape != tensor.shape:
            found = f"of shape {list(made.shape)}" if isinstance(made, Tensor) else f"of type {type(made).__name__}"
            expected = f"a tensor of shape {list(tensor.shape)}, as it was given"
            raise UserError(f'edits, "{pattern}"', f"what it returned is {found}", expected)
        return made

    return edit


def _line(frame: FrameType | None) -> tuple[str, int]:
    """Where the tap stands."""
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
