"""What a page may ask for: the input of a pass, and what is to be changed in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from pellucid.analysis.views import redrawn
from pellucid.errors import UserError
from pellucid.trace import edits
from pellucid.trace.edits import Where
from pellucid.trace.tape import Edit

Name = Annotated[str, Field(min_length=1, max_length=200)]
Places = Annotated[list[int], Field(min_length=1, max_length=4096)] | None
LONGEST_TEXT = 100_000  # characters
MOST_EDITS = 64


class Asked(BaseModel):
    """The base of all bodies: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Shown(Asked):
    """Another input of the same model, whose pass lends a tensor."""

    text: Annotated[str, Field(max_length=LONGEST_TEXT)]
    target: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None


Source = Annotated[str, Field(max_length=32)] | Shown  # a pass by its id, or by what it reads
Held = Callable[[Source, str], Tensor]  # the tensor that a pass has under a name


class Change(Asked):
    """One tensor changed, all of it or some positions, heads or units (the last axis: of maps the keys).

    Attributes:
        source: of a patch, the pass that it is taken from.
        taken: the positions there, where they are not those here.
    """

    kind: Literal["zero", "mean", "scale", "add", "replace", "patch"]
    name: Name
    heads: Places = None
    positions: Places = None
    units: Places = None
    value: float | bool = 0.0
    source: Source | None = Field(None, alias="from")
    taken: Places = None

    @property
    def where(self) -> Where:
        """The part of the tensor that it changes."""
        return Where(heads=self.heads, positions=self.positions, units=self.units)

    def edits(self, held: Held) -> dict[str, Edit]:
        """For :func:`pellucid.trace.trace`."""
        match self.kind:
            case "zero":
                made = edits.zero(self.where)
            case "mean":
                made = edits.mean(self.where)
            case "scale":
                made = edits.scale(float(self.value), self.where)
            case "add":
                made = edits.add(float(self.value), self.where)
            case "replace":
                made = edits.replace(self.value, self.where)
            case "patch":
                other = held(self.source or "", self.name)
                made = edits.replace(other, self.where, replace(self.where, positions=self.taken or self.positions))
        return {self.name: made}


class Steer(Asked):
    """A push from what one input means towards what another means: their means over positions (Turner et al. 2023).

    Attributes:
        value: how hard, as a share of the length of what is pushed.
        towards, away: whose tensors make the direction; without ``away`` it is that of ``towards`` itself.
    """

    kind: Literal["steer"]
    name: Name
    positions: Places = None
    value: float = 1.0
    towards: Source
    away: Source | None = None

    def edits(self, held: Held) -> dict[str, Edit]:
        """For :func:`pellucid.trace.trace`."""
        direction = self._meant(held(self.towards, self.name))
        if self.away is not None:
            direction = direction - self._meant(held(self.away, self.name))
        if not direction.any():
            raise UserError("steer", "both inputs mean the same here", "two that differ")
        return {self.name: edits.steer(direction, self.value, Where(positions=self.positions))}

    def _meant(self, tensor: Tensor) -> Tensor:
        """The mean over positions.

        Raises:
            UserError: for a tensor that has no vector at each of them.
        """
        if tensor.dim() != 3 or not tensor.is_floating_point():
            found = f'"{self.name}" of shape {list(tensor.shape)}'
            raise UserError("steer", found, "a tensor with a vector for each position, as the residual stream")
        return tensor[0].mean(dim=0)


class Swap(Asked):
    """Two positions of a tensor change places: two words in ``embedding.tokens``."""

    kind: Literal["swap"]
    name: Name
    positions: Annotated[list[int], Field(min_length=2, max_length=2)]

    def edits(self, held: Held) -> dict[str, Edit]:
        """For :func:`pellucid.trace.trace`."""
        first, second = self.positions
        return {self.name: edits.swap(first, second)}


class Redraw(Asked):
    """Masks drawn by another rule: who may look where, padding left hidden; nothing else is with neither rule."""

    kind: Literal["mask"]
    name: Name
    causal: bool = False
    window: Annotated[int, Field(ge=1)] | None = None

    def edits(self, held: Held) -> dict[str, Edit]:
        """For :func:`pellucid.trace.trace`."""
        return {self.name: redrawn(self.causal, self.window)}


class Skip(Asked):
    """A layer left out: what comes in goes out."""

    kind: Literal["skip"]
    layer: Name

    def edits(self, held: Held) -> dict[str, Edit]:
        """For :func:`pellucid.trace.trace`."""
        return edits.skip(self.layer)


Ids = Annotated[list[int], Field(min_length=1, max_length=100_000)]


class Tokens(Asked):
    """Tokens in place of a text: what the model, or the encoder, reads, and what the decoder is fed as written."""

    reads: Ids
    writes: Ids | None = None


class Padding(Asked):
    """Padding beside a text, as in a batch with longer ones.

    Attributes:
        reads, writes: how much of it.
        hidden: whether the model is told that it is padding.
    """

    reads: Annotated[int, Field(ge=0, le=1024)] = 0
    writes: Annotated[int, Field(ge=0, le=1024)] = 0
    side: Literal["left", "right"] = "right"
    hidden: bool = True


class Input(Asked):
    """What a model is shown, and how it is changed on the way.

    Attributes:
        positions: ``none`` takes all that tells the model where a token stands out of it, but for its masks.
    """

    model: Annotated[str, Field(max_length=100)] = "main"
    text: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    target: Annotated[str, Field(max_length=LONGEST_TEXT)] | None = None
    ids: Tokens | None = None
    padding: Padding | None = None
    positions: Literal["own", "none"] = "own"
    edits: Annotated[
        list[Annotated[Change | Steer | Swap | Redraw | Skip, Field(discriminator="kind")]],
        Field(max_length=MOST_EDITS),
    ] = []

    @property
    def texts(self) -> list[str]:
        """Its own, and those of the inputs that its edits take from."""
        lent = (getattr(change, name, None) for change in self.edits for name in ("source", "towards", "away"))
        return [self.text, *(source.text for source in lent if isinstance(source, Shown))]

    def changes(self, held: Held) -> dict[str, list[Edit]]:
        """The edits by the name of the tensor, in their order."""
        found: dict[str, list[Edit]] = {}
        for change in self.edits:
            for name, edit in change.edits(held).items():
                found.setdefault(name, []).append(edit)
        return found

    def spelled_out(self, held: Held) -> Input:
        """The same while a text grows: a patch stays with the positions that the other pass has."""
        return self.model_copy(update={"edits": [_spelled_out(change, held) for change in self.edits]})

    def as_dict(self) -> dict[str, Any]:
        """As it was asked."""
        return self.model_dump(by_alias=True, exclude_defaults=True)


def _spelled_out(change: Any, held: Held) -> Any:
    if not isinstance(change, Change) or change.kind != "patch":
        return change
    shape = held(change.source or "", change.name).shape
    positions = change.positions or (list(range(shape[-2])) if len(shape) > 2 else None)
    return change.model_copy(update={"positions": positions, "units": change.units or list(range(shape[-1]))})
