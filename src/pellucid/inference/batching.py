"""Continuous batching: requests come and go while others are being written, and none changes what another is given.

A :class:`Scheduler` feeds one token to every text in flight at each step. A request that waits is read as soon as there
is room and then written beside the others (Yu et al. 2022, "Orca", §3.1); one that ends or is cancelled leaves at once.
A beam search is a request of several rows that are rearranged together.

Shapes: B rows in flight, W beams, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.errors import UserError
from pellucid.inference.batching_rows import Choices, Searching, Slot
from pellucid.inference.beam import Beams, Hypothesis
from pellucid.inference.decode import Reason, Stops
from pellucid.inference.likelihood import Likelihood
from pellucid.inference.sampling import GREEDY, Sampling
from pellucid.inference.writer import Writer, vacate
from pellucid.nn.positions import check_length


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Attributes:
        prompt: the tokens to go on from, at least one.
        max_new_tokens: fewer are written where the model has no positions for more.
        ends: tokens that end a text; they are not part of it.
        source: what an encoder–decoder reads; ``None`` for a decoder.
        sampling: filters, and the seed of draws that are this request's own.
        beams: a search, with the filters of ``sampling``, which then may not draw. It ends texts by ``ends`` above.
        logprobs: how many of the likeliest tokens are told at each place, the chosen one apart; ``None`` tells nothing.
        stops: whether a text, its new tokens, is over with its last one, besides by ``ends``.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    ends: Sequence[int] = ()
    source: Any = None
    sampling: Sampling = GREEDY
    beams: Beams | None = None
    logprobs: int | None = None
    stops: Stops | None = None

    @property
    def width(self) -> int:
        """How many rows it takes."""
        return 1 if self.beams is None else self.beams.width


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes:
        tokens: written so far; of a search what all its texts agree on, and at its end the best.
        reason: why it ended; ``None`` while it has not.
        hypotheses: the texts that a search has found, the best first.
        is_cancelled: nobody wants it any more.
    """

    request: Request
    limit: int
    tokens: list[int] = field(default_factory=list)
    reason: Reason | None = None
    hypotheses: list[Hypothesis] = field(default_factory=list)
    is_cancelled: bool = False

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.is_cancelled or self.reason is not None

    @property
    def read(self) -> int:
        """The positions of its source."""
        source = self.request.source
        return len(source) if hasattr(source, "__len__") else 0

    @property
    def longest(self) -> int:
        """The positions that one of its texts may come to, prompt included."""
        return len(self.request.prompt) + self.limit


@dataclass(frozen=True, slots=True)
class Wrote:
    """A job has one token more."""

    job: Job
    token: int
    likelihood: Likelihood | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """A job has come to its end: a token of its ``ends``, a stop, its length, or rules that left no way on."""

    job: Job
    reason: Reason


Event = Wrote | Finished


class ReadError(Exception):
    """Requests that were to be read in one step could not be; what was in flight is as it was.

    Attributes:
        jobs: of those requests, which are cancelled.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(f"{len(jobs)} requests could not be read")
        self.jobs = jobs


class Scheduler:
    """Writes many requests at once. Not for several threads.

    Requests are begun in the order of their arrival.

    Args:
        writer: what writes.
        max_rows: in flight at once.
        max_tokens: positions that there may come to be room for, each row having as much as the longest.
        max_prompt_tokens: read in one step, so that those being written need not wait for long; one prompt always is.
    """

    def __init__(
        self, writer: Writer, *, max_rows: int = 64, max_tokens: int = 1 << 16, max_prompt_tokens: int = 2048
    ) -> None:
        self.writer, self.max_rows, self.max_tokens = writer, max_rows, max_tokens
        self.max_prompt_tokens = max_prompt_tokens
        self.waiting: deque[Job] = deque()
        self._slots: list[Slot] = []  # in the order of their rows
        self._rows: Any = None

    @property
    def running(self) -> list[Job]:
        """The jobs in flight."""
        return [slot.job for slot in self._slots]

    @property
    def rows(self) -> int:
        """How many rows the writer remembers."""
        return 0 if self._rows is None else len(self._rows.lengths)

    @property
    def tokens(self) -> int:
        """The positions that the jobs in flight may come to need room for."""
        return _room_for(self.running)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self._slots)

    def add(self, request: Request) -> Job:
        """Puts a request at the end of the line.

        Raises:
            UserError: for one that can never be begun.
        """
        job = Job(request, self._room(request))
        if request.beams is not None and request.sampling.seed is not None:
            raise UserError("beams", "beams and a draw", "drawing goes with one beam")
        if request.width > self.max_rows:
            raise UserError("beams", f"found {request.width}", f"at most {self.max_rows}, the rows of this scheduler")
        if (room := _room_for([job])) > self.max_tokens:
            raise UserError("request", f"may come to {room:,} tokens", f"at most {self.max_tokens:,}")
        self.waiting.append(job)
        return job

    def _room(self, request: Request) -> int:
        """How many new tokens there are positions for; the last one is never fed back."""
        length, limit = len(request.prompt), self.writer.limit
        if not length:
            raise UserError("prompt", "no tokens", "at least one")
        if request.max_new_tokens < 1:
            raise UserError("max_new_tokens", f"found {request.max_new_tokens}", "1 or more")
        check_length(length, limit, "prompt")
        if hasattr(request.source, "__len__") and not isinstance(request.source, Tensor):
            check_length(len(request.source), self.writer.source_limit, "source")
        return request.max_new_tokens if limit is None else min(request.max_new_tokens, limit - length + 1)

    def cancel(self, job: Job) -> None:
        """Takes a job out: of the line now, of the batch before the next step. One that is over stays as it is."""
        if job.is_over:
            return
        job.is_cancelled = True
        if job in self.waiting:
            self.waiting.remove(job)

    def clear(self) -> list[Job]:
        """Cancels everything, as after a step that failed; returns what was on its way."""
        jobs = [*self.running, *self.waiting]
        for job in jobs:
            job.is_cancelled = True
        self.waiting.clear()
        self._slots, self._rows = [], None
        return jobs

    @torch.inference_mode()
    def step(self) -> list[Event]:
        """Reads what there is room for, and writes one token of everything in flight.

        A request that was read in this step has two tokens after it.

        Raises:
            ReadError: for a fault in reading; the step may be repeated without those requests.
        """
        self._drop()
        events: list[Event] = []
        if admitted := self._admitted():
            logits, rows = self._read(admitted)
            slots = [Slot.of(job.request, job, logits.device) for job in admitted]
            left = self._settle(slots, logits, rows, events)
            self._join(left, rows)
        if self._slots:
            tokens = torch.tensor([[t] for slot in self._slots for t in slot.next], device=self.writer.device)
            logits = self.writer.extend(tokens, self._rows)[:, -1]
            self._slots = self._settle(self._slots, logits, self._rows, events)
            self._forget()
        return events

    def run(self, requests: Iterable[Request]) -> list[Job]:
        """Writes all of these, and returns their jobs in the same order."""
        jobs = [self.add(request) for request in requests]
        while self.has_work:
            self.step()
        return jobs

    def _read(self, admitted: Sequence[Job]) -> tuple[Float[Tensor, "B V"], Any]:
        """The scores of what follows each prompt, and the rows to go on with."""
        sources = None if admitted[0].request.source is None else [job.request.source for job in admitted]
        try:
            return self.writer.prefill([job.request.prompt for job in admitted], sources)
        except Exception as error:
            for job in admitted:
                job.is_cancelled = True
            raise ReadError(admitted) from error

    def _drop(self) -> None:
        """Rows that nobody wants leave the batch."""
        if not any(slot.job.is_cancelled for slot in self._slots):
            return
        kept = [(slot, range(first, last)) for slot, first, last in _spans(self._slots) if not slot.job.is_cancelled]
        self._slots = _leave(self._rows, kept)
        self._forget()

    def _forget(self) -> None:
        if not self._slots:
            self._rows = None

    def _join(self, slots: list[Slot], rows: Any) -> None:
        if not slots:
            return
        if self._rows is None:
            self._rows = rows
        else:
            self._rows.join(rows)
        self._slots = self._slots + slots

    def _admitted(self) -> list[Job]:
        """The jobs at the head of the line that there is room for."""
        rows, prompts = self.rows, 0
        admitted: list[Job] = []
        while self.waiting:
            job = self.waiting[0]
            rows, prompts = rows + job.request.width, prompts + job.read + len(job.request.prompt)
            late = bool(admitted) and prompts > self.max_prompt_tokens
            if rows > self.max_rows or late or _room_for([*self.running, *admitted, job]) > self.max_tokens:
                break
            admitted.append(self.waiting.popleft())
        return admitted

    def _settle(self, slots: list[Slot], logits: Float[Tensor, "B V"], rows: Any, events: list[Event]) -> list[Slot]:
        """Chooses what follows, tells it, and lets rows that are done leave; returns the jobs that go on."""
        choices = Choices(logits, slots)
        going_on: list[tuple[Slot, Sequence[int]]] = []
        for slot, first, last in list(_spans(slots)):  # the widths of searches change on the way
            if slot.search is not None:
                origins = self._searched(slot, slot.search, logits[first:last], events)
            else:
                origins = self._written(slot, choices, first, events)
            if origins is not None:
                going_on.append((slot, [first + origin for origin in origins]))
        return _leave(rows, going_on)

    def _written(self, slot: Slot, choices: Choices, row: int, events: list[Event]) -> list[int] | None:
        """One token of a job; ``None`` when it was the last."""
        job, token = slot.job, choices.tokens[row]
        reason: Reason | None = None
        if row in choices.stuck:
            reason = "stuck"
        elif token in job.request.ends:
            reason = "end"
        else:
            job.tokens.append(token)
            events.append(Wrote(job, token, choices.likelihoods.get(row)))
            if job.request.stops is not None and job.request.stops(job.tokens):
                reason = "stop"
            elif len(job.tokens) == job.limit:
                reason = "length"
        if reason is not None:
            self._finish(job, reason, events)
            return None
        slot.next = [token]
        return [0]

    def _searched(self, slot: Slot, search: Searching, logits: Tensor, events: list[Event]) -> list[int] | None:
        """One step of a search: where its rows come from; ``None`` when it is over."""
        job = slot.job
        found = search.step(logits)
        new = search.certain[len(job.tokens) :]
        job.tokens += new
        events += [Wrote(job, token) for token in new]
        if found is not None:
            origins, slot.next = found
            return origins
        job.hypotheses = search.search.best()
        self._finish(job, "length" if len(job.tokens) == job.limit else "end", events)
        return None

    def _finish(self, job: Job, reason: Reason, events: list[Event]) -> None:
        job.reason = reason
        events.append(Finished(job, reason))


def _leave(rows: Any, kept: Sequence[tuple[Slot, Sequence[int]]]) -> list[Slot]:
    """Jobs that go on, each from some rows; the order in which they then stand: single rows stay where they can."""
    origins = [row for _, each in kept for row in each]
    count = len(rows.lengths)
    if not kept or origins == list(range(count)):
        return [slot for slot, _ in kept]
    if all(slot.search is None for slot, _ in kept):
        owners = {each[0]: slot for slot, each in kept}
        return [owners[row] for row in vacate(rows, set(range(count)) - set(origins))]
    rows.select(origins)
    return [slot for slot, _ in kept]


def _spans(slots: Sequence[Slot]) -> Iterator[tuple[Slot, int, int]]:
    """Every slot with its first row and the one after its last."""
    row = 0
    for slot in slots:
        yield slot, row, row + len(slot.next)
        row += len(slot.next)


def _room_for(jobs: Sequence[Job]) -> int:
    """The positions that jobs may come to need room for: all rows have as much as the longest, in text and source."""
    if not jobs:
        return 0
    longest = max(job.longest for job in jobs) + max(job.read for job in jobs)
    return longest * sum(job.request.width for job in jobs)
