"""A table of names: which tensor of a published file is which parameter here, and how it lies.

Every row can be read in both directions. Reading gives views, never copies: a file that is mapped into memory stays
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import prod

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One tensor of a file.

    Attributes:
        theirs: its name there.
        ours: the parameter here; several lie side by side there, one after the other along their outputs.
        transposed: stored as (in, out), as GPT-2 does.
        shape: there, where it differs; -1 for whatever fits.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    shape: Shape | None = None

    def read(self, tensor: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
        """The parameters, as views of a tensor of the file."""
        tensor = tensor.mT if self.transposed else tensor
        if self.shape is not None:
            return [tensor.reshape(shapes[0])]
        return list(torch.split(tensor, [shape[0] for shape in shapes])) if len(shapes) > 1 else [tensor]

    def write(self, parameters: Sequence[Tensor]) -> Tensor:
        """The tensor of the file."""
        joined = torch.cat(list(parameters)) if len(parameters) > 1 else parameters[0]
        if self.shape is not None:
            return joined.reshape(self.shape)
        return joined.mT if self.transposed else joined

    def stored(self, shapes: Sequence[Shape]) -> Shape:
        """The shape in the file."""
        joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        if self.shape is not None:
            known = prod(size for size in self.shape if size != -1)
            return tuple(prod(joined) // known if size == -1 else size for size in self.shape)
        return joined[::-1] if self.transposed else joined


@dataclass(frozen=True)
class Entry:
    """A line of a table: a module there and what it is here, or with ``whole`` a single tensor.

    ``*`` stands for the number of a layer. A module has a weight and may have a bias.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    shape: Shape | None = None
    whole: bool = False

    def rows(self, known: Mapping[str, object]) -> Iterator[Row]:
        """The tensors it stands for, of those that the model has."""
        for layer in count() if "*" in self.theirs else [0]:
            found = [row for row in self._layer(layer) if all(name in known for name in row.ours)]
            if not found:
                return
            yield from found

    def _layer(self, layer: int) -> Iterator[Row]:
        theirs, *names = (name.replace("*", str(layer)) for name in (self.theirs, *self.ours))
        ours = tuple(names)
        if self.whole:
            yield Row(theirs, ours, self.transposed, self.shape)
            return
        yield Row(f"{theirs}.weight", tuple(f"{name}.weight" for name in ours), self.transposed, self.shape)
        yield Row(f"{theirs}.bias", tuple(f"{name}.bias" for name in ours))


def module(theirs: str, *ours: str, transposed: bool = False, shape: Shape | None = None) -> Entry:
    """A module's weight and bias."""
    return Entry(theirs, ours, transposed, shape)


def tensor(theirs: str, *ours: str, shape: Shape | None = None) -> Entry:
    """One tensor by its full name."""
    return Entry(theirs, ours, shape=shape, whole=True)


Table = tuple[Entry, ...]


@dataclass(frozen=True)
class Place:
    """A parameter, or several that lie side by side in a file, and every name it may have there.

    More than one row where it is tied: the file may have it under any of the names, or under several.
    """

    rows: tuple[Row, ...]
    parameters: tuple[nn.Parameter, ...]

    @property
    def shapes(self) -> list[Shape]:
        """Of the parameters."""
        return [tuple(parameter.shape) for parameter in self.parameters]


def places(table: Table, model: nn.Module) -> list[Place]:
    """The table with the parameters of a model filled in.

    Raises:
        LookupError: for a parameter the table does not know, which is a fault of the table.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    grouped: dict[tuple[int, ...], list[Row]] = {}
    for entry in table:
        for row in entry.rows(known):
            grouped.setdefault(tuple(id(known[name]) for name in row.ours), []).append(row)
    found = [Place(tuple(rows), tuple(known[name] for name in rows[0].ours)) for rows in grouped.values()]
    covered = {id(parameter) for place in found for parameter in place.parameters}
    if missing := [name for name, parameter in model.named_parameters() if id(parameter) not in covered]:
        raise LookupError(f"the table of this layout has no line for {', '.join(missing[:5])}")
    return found
