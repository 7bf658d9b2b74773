"""A model under examination: what it is meant to be, and how to run it so that two runs can be compared.

Shapes: B batch, T positions, S source positions, D d_model, V outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pellucid.doctor import tolerances
from pellucid.doctor.grouped import grouped_in_double
from pellucid.doctor.measures import Gap, gap, in_half, moved, verdict
from pellucid.doctor.precision import doubled
from pellucid.doctor.spec import Batch, Spec
from pellucid.errors import UserError
from pellucid.trace.finder import Found, find_attention

T = TypeVar("T")
ROWS, LENGTH, SOURCE_LENGTH, MAP_LENGTH = 3, 24, 17, 16
WIDE, PAST, LONGEST = 64, 8, 512
"""Up to which window all probes reach beyond it; by how many positions that of few checks does beyond a wider one, and
how long it may be at the most."""


RANDOM = "two passes in evaluation mode differ by what is drawn: shapes cannot be compared"
"""What checks say of such a model that compare passes of different shapes."""


class Subject:
    """A model, its complete spec, and everything that several checks ask of it, computed once.

    Args:
        model: a module, or any callable that the spec says how to call.
        spec: with ``call`` and ``kind`` filled in.
        build: lines of Python that make ``model``, for scripts that reproduce a finding.
        length: positions of a probe, where they are not as many as usual.
    """

    def __init__(self, model: Any, spec: Spec, *, seed: int = 0, build: str = "", length: int | None = None) -> None:
        assert spec.call is not None
        self.model, self.spec, self.seed, self.build = model, spec, seed, build
        self.length = self.usual_length if length is None else length
        self._doubled = False

    # ---- what it is ----------------------------------------------------------------------------

    @property
    def module(self) -> nn.Module | None:
        """The model, if it is a module."""
        return self.model if isinstance(self.model, nn.Module) else None

    @property
    def writes(self) -> bool:
        """Whether it predicts what comes next, so that the future must be hidden from it."""
        return self.spec.kind in ("decoder", "encoder_decoder", "prefix")

    @property
    def device(self) -> torch.device:
        """Where its parameters are."""
        parameters = self.module.parameters() if self.module is not None else iter(())
        return next((p.device for p in parameters if not p.is_meta), torch.device("cpu"))

    # ---- what it reads -------------------------------------------------------------------------

    @property
    def usual_length(self) -> int:
        """Positions of a probe: beyond twice the window where there is one that is not wide."""
        wanted = max(LENGTH, 2 * self.spec.widest + 3 if self.spec.widest <= WIDE else 0)
        return min(wanted, self.spec.max_length or wanted)

    @cached_property
    def past_window(self) -> Subject:
        """One that reads beyond a window that is wider than probes are; itself where nothing can or need be done."""
        widest = self.spec.widest
        wanted = min(widest + PAST, LONGEST, self.spec.max_length or LONGEST)
        wide = self.length <= widest < wanted
        if not wide or self.spec.example is not None or self.spec.kind == "encoder_decoder":
            return self
        longer = Subject(self.model, self.spec, seed=self.seed, build=self.build, length=wanted)
        try:
            longer.output  # noqa: B018
        except Exception:  # a table of positions that nobody told of may be shorter
            return self
        return longer

    @property
    def short(self) -> str:
        """What is to be said where a window is wider than probes are, and texts need not be; else nothing."""
        wide = self.length < self.spec.widest < (self.spec.max_length or self.spec.widest + 1)
        return f"; the window of {self.spec.widest} was not reached" if wide else ""

    @cached_property
    def words(self) -> Tensor:
        """The ids that may be drawn: all but the special ones."""
        spec = self.spec
        special = {spec.pad_id, spec.bos_id, spec.eos_id, *spec.special_ids} - {None}
        if spec.vocab_size is None:
            raise UserError("vocab_size", "not known", "Spec(vocab_size=…)")
        ids = [i for i in range(spec.vocab_size) if i not in special]
        return torch.tensor(ids if len(ids) >= 2 else list(range(spec.vocab_size)), device="cpu")

    def draw(self, rows: int, length: int, seed: int, like: Tensor | None = None) -> Tensor:
        """(rows, length) ids, without repetition in a row where the vocabulary allows, no two rows beginning alike.

        Vectors (rows, length, D) where the model reads those; ``like`` an input that is neither. All are
        drawn on the CPU, also where another device is the default, so that every device reads the same.
        """
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + seed)
        if like is not None and like.is_floating_point() and self.spec.features is None:
            return torch.randn(rows, *like.shape[1:], generator=draw, device="cpu").to(like)
        if self.spec.features is not None:
            return torch.randn(rows, length, self.spec.features, generator=draw, device="cpu").to(self.device)
        words = self.words
        if len(words) >= length + rows:
            ids = torch.stack([words[_shuffled(len(words), draw)[:length]] for _ in range(rows)])
        else:
            ids = words[torch.randint(len(words), (rows, length), generator=draw, device="cpu")]
        if length and len(words) >= rows:
            ids[:, 0] = words[_shuffled(len(words), draw)[:rows]]
        return ids.to(self.device)

    def batch(
        self, rows: int = ROWS, length: int | None = None, *, seed: int = 1, source_length: int | None = None
    ) -> Batch:
        """Random reading, all of it real; the source has another length than what is written.

        What is drawn like the example keeps its length.
        """
        length = self.length if length is None else length
        example = self.spec.example
        ids = self.draw(rows, length, seed, None if example is None else example.ids)
        if self.spec.kind != "encoder_decoder":
            return Batch(ids=ids)
        if example is not None and example.source is not None:
            return Batch(ids=ids, source=self.draw(rows, example.source.size(1), seed + 500, example.source))
        longest = self.spec.max_length or SOURCE_LENGTH
        wanted = min(SOURCE_LENGTH, longest) if source_length is None else source_length
        if wanted == length:
            wanted = max(1, wanted - 2)
        return Batch(ids=ids, source=self.draw(rows, wanted, seed + 500))

    def other(self, x: Tensor, seed: int) -> Tensor:
        """Something of the same shape that differs from it in every position."""
        if x.is_floating_point():
            draw = torch.Generator().manual_seed(1_000_003 * self.seed + seed)
            return x + torch.randn(x.shape, generator=draw, device="cpu").to(x)
        words = self.words.to(x.device)
        draw = torch.Generator().manual_seed(1_000_003 * self.seed + seed)
        steps = torch.randint(1, len(words), x.shape, generator=draw, device="cpu").to(x.device)
        place = torch.searchsorted(words, x.clamp(max=int(words[-1])).contiguous())
        return words[(place + steps) % len(words)]

    # ---- how it runs ---------------------------------------------------------------------------

    def __call__(self, batch: Batch, *, train: bool = False, grads: bool = False) -> Tensor:
        """Its outputs, with the random numbers of every other call of it.

        Returns:
            (B, T, V), or (B, …) of a model that reads a whole text.
        """
        assert self.spec.call is not None
        with self.mode(train), torch.set_grad_enabled(grads):
            self.reseed()
            output = self.spec.call(self.model, self._fitting(batch))
        if self._doubled and bool(output.isnan().any()):
            raise ArithmeticError("no numbers in double precision")  # a lowest number of float64, added to itself
        return output

    def _fitting(self, batch: Batch) -> Batch:
        """Vectors, images and sounds in the precision that the model has just now."""
        parts = {"ids": batch.ids, "source": batch.source}
        given = {name: x for name, x in parts.items() if x is not None and x.is_floating_point()}
        if not given or self.module is None:
            return batch
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        return batch.with_(**{name: x.to(dtype) for name, x in given.items()})

    def reseed(self) -> None:
        """The same random numbers again: dropout of the same shapes then falls on the same places."""
        torch.manual_seed(self.seed)

    @contextmanager
    def mode(self, train: bool) -> Iterator[None]:
        """Training or evaluation mode for a while; the type of number that is made is after it what it was."""
        dtype = torch.get_default_dtype()
        modes = {} if self.module is None else {module: module.training for module in self.module.modules()}
        if self.module is not None:
            self.module.train(train)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            for module, training in modes.items():
                module.training = training

    def agree(self, pair: Callable[[], tuple[Tensor, Tensor]], *, exact: bool) -> tuple[bool | None, Gap, float | None]:
        """Whether two computations give the same; what is not the same is looked at in double precision.

        Args:
            pair: computes both, now and perhaps again with the model in float64.
            exact: whether both have the same shapes, so that the same bits are expected.

        Returns:
            The verdict (``None``: cannot be told), the gap, and that in double precision if it was asked for.
        """
        found, expected = pair()
        first = gap(found, expected)
        if verdict(first.share, None, exact=exact):
            return True, first, None
        double = self.in_double(lambda: gap(*pair()).share)
        return verdict(first.share, double, exact=exact, half=in_half(expected)), first, double

    def vanishes(self, measured: Callable[[], float]) -> tuple[bool | None, float]:
        """Whether a gap of the same shapes is none, and the gap; what kernels of some devices make is asked in float64.

        Above that it is a fault without being asked: random numbers of two precisions are not the same.
        """
        single = measured()
        if single > tolerances.EXACT_NOISE:
            return False, single
        return verdict(single, self.in_double(measured) if single else None, exact=True), single

    def in_double(self, measured: Callable[[], T]) -> T | None:
        """A measurement with the model in float64; ``None`` where the model cannot, or gives no numbers in it."""
        if self.module is None:
            return None
        self._doubled = True
        try:
            with doubled(self.module), grouped_in_double():
                return measured()
        except Exception:  # a model that makes tensors of its own in float32 need not run in float64
            return None
        finally:
            self._doubled = False

    # ---- what several checks ask ---------------------------------------------------------------

    @cached_property
    def output(self) -> Tensor:
        """Of the first probe."""
        return self(self.batch())

    @cached_property
    def random(self) -> bool:
        """Whether two passes in evaluation mode differ when other random numbers are drawn.

        What draws another count of them for other shapes then differs whatever else is right.
        """
        assert self.spec.call is not None
        found = []
        with self.mode(False), torch.no_grad():
            for seed in (1, 2):
                torch.manual_seed(seed)
                found.append(self.spec.call(self.model, self._fitting(self.batch())))
        return bool(gap(*found))

    @property
    def per_position(self) -> bool:
        """Whether there is an output for every position of what it writes, or reads."""
        ids = self.batch().ids
        flat = ids.dim() == 2 or (ids.dim() == 3 and self.spec.features is not None)
        return flat and self.output.dim() >= 3 and self.output.shape[:2] == ids.shape[:2]

    @cached_property
    def attention(self) -> Found | None:
        """Every place in which it attends, over the first probe; ``None`` if it is no module."""
        if self.module is None:
            return None
        return self.attention_of(self.batch())

    def attention_of(self, batch: Batch) -> Found:
        """Every place in which it attends, over some batch."""
        assert self.module is not None
        assert self.spec.call is not None
        call = _Called(self.module, self.spec.call)
        with self.mode(False), torch.no_grad():
            self.reseed()
            return find_attention(call, batch)

    @cached_property
    def influence(self) -> Tensor:
        """(T, T): by how much the output at a position moves when the token at another is replaced.

        Row: the position that moves; column: the position replaced. One pass for each column, so that all have the
        same shape; what is so faint that it may be rounding, as where experts sort tokens, is asked again in double
        precision.
        """
        batch = self.batch(1, min(MAP_LENGTH, self.length), seed=7)
        try:
            found = influence(self, batch)
        except Exception:  # of a model that reads one length alone, or so many rows
            batch = self.batch(seed=7)
            found = influence(self, batch)
        if not bool(((found > 0) & (found <= tolerances.EXACT_NOISE)).any()):
            return found
        double = self.in_double(lambda: influence(self, batch))
        return found if double is None else found.masked_fill(double <= found * tolerances.SHRUNK, 0.0)


def _shuffled(count: int, draw: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=draw, device="cpu")


class _Called(nn.Module):
    """A model and how it is called as one module, so that the finder can watch any of them."""

    def __init__(self, model: nn.Module, call: Any) -> None:
        super().__init__()
        self._modules = model._modules  # the paths of the model's own parts
        self.called: Callable[[Batch], Tensor] = lambda batch: call(model, batch)

    def forward(self, batch: Batch) -> Tensor:
        return self.called(batch)


def influence(subject: Subject, batch: Batch) -> Tensor:
    """(T, T) of :attr:`Subject.influence` over the first row of a batch."""
    base = subject(batch)
    columns = []
    for position in range(batch.ids.size(1)):
        ids = batch.ids.clone()
        ids[:, position] = subject.other(batch.ids, 11)[:, position]
        columns.append(moved(subject(batch.with_(ids=ids)), base)[0])
    return torch.stack(columns, dim=1)
