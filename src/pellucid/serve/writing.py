"""From what a client asks for to requests of the scheduler, and from their tokens to pieces of text."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from fastapi import Request as Http
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from pellucid.data.tokenizers import Tokenizer
from pellucid.inference.batches import barred
from pellucid.inference.batching import Job, Request, Wrote
from pellucid.inference.options import RuleOptions
from pellucid.inference.rules import AnyRule
from pellucid.inference.sampling import MinP, Sampling, Temperature, TopK, TopP, Typical
from pellucid.serve.bodies import Choosing
from pellucid.serve.errors import GoneError, ServiceError, dumped
from pellucid.serve.service import Service
from pellucid.serve.text import Growing
from pellucid.serve.worker import Ticket, Worker

Result = TypeVar("Result")

COLD = 1e-3  # a temperature below which draws are no draws any more
REASONS = {"end": "stop", "stop": "stop", "stuck": "stop", "length": "length"}
IDLE = {"temperature": 0, "top_k": None, "top_p": 1, "min_p": 0, "typical_p": 1, "seed": None}
"""The settings of draws, and what each is where it changes nothing."""


@dataclass(frozen=True)
class Planned:
    """A text that is to be written, and how its tokens become text."""

    request: Request
    growing: Growing


@dataclass(frozen=True)
class Piece:
    """What a text has grown by.

    Attributes:
        index: which of the texts.
        reason: why it ended, ``stop`` or ``length``; ``None`` while it has not.
        job: of a text that the scheduler has ended.
    """

    index: int
    text: str
    wrote: list[Wrote]
    reason: str | None
    job: Job | None

    def then(self, more: Piece) -> Piece:
        """This one and the next of the same text."""
        return replace(more, text=self.text + more.text, wrote=[*self.wrote, *more.wrote])


async def rules_of(body: Choosing, service: Service, tokenizer: Tokenizer) -> tuple[AnyRule, ...]:
    """What changes scores and bars tokens. A grammar is read on another thread, so that others need not wait.

    Raises:
        ServiceError: when the line is full.
        UserError: for a setting that cannot work.
    """
    service.worker.check_room()
    schema = _schema(body)
    options = RuleOptions(
        logit_bias=tuple(_biases(body.logit_bias or {}, service.vocab_size)),
        repetition_penalty=body.repetition_penalty or 1.0,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        no_repeat=body.no_repeat or 0,
        bad_words=tuple(body.bad_words or ()),
        min_tokens=body.min_tokens or 0,
        regex=body.regex,
        json_schema=schema,
    )
    if schema is None and body.regex is None:
        return (*options.rules(tokenizer), *barred(tokenizer))
    rules = await asyncio.to_thread(lambda: options.rules(tokenizer, service.grammars))
    return (*rules, *barred(tokenizer))


def _schema(body: Choosing) -> str | None:
    """The JSON schema that an answer must fit; any JSON object's for ``json_object``."""
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return '{"type": "object"}'
    if form.json_schema is None:
        raise ServiceError(400, "response_format: json_schema is missing", param="response_format")
    return json.dumps(form.json_schema.schema_ or {})


def sampling_of(body: Choosing, rules: tuple[AnyRule, ...], *, nth: int = 0) -> Sampling:
    """How the tokens of the nth text are chosen; a temperature of 0 takes the likeliest."""
    temperature = 1.0 if body.temperature is None else body.temperature
    if temperature < COLD:
        return Sampling(rules)
    tail: list[AnyRule] = []
    tail += [Temperature(temperature)] if temperature != 1.0 else []
    tail += [TopK(body.top_k)] if body.top_k is not None else []
    tail += [TopP(body.top_p)] if body.top_p is not None and body.top_p != 1.0 else []
    tail += [MinP(body.min_p)] if body.min_p else []
    tail += [Typical(body.typical_p)] if body.typical_p is not None and body.typical_p != 1.0 else []
    seed = secrets.randbelow(1 << 63) if body.seed is None else body.seed
    return Sampling((*rules, *tail), (seed + nth) % (1 << 63))


def draws_asked(body: Choosing) -> list[str]:
    """The settings of draws that were given, and do something."""
    given = [name for name in IDLE if name in body.model_fields_set]
    return [name for name in given if getattr(body, name) not in (None, IDLE[name])]


def check_no_draw(body: Choosing) -> None:
    """Raises :class:`ServiceError` where a draw is asked for beside a search."""
    for name in draws_asked(body):
        raise ServiceError(400, f"{name}: a search draws nothing; leave it out, or beams", param=name)


def _biases(given: dict[str, float], size: int) -> list[tuple[int, float]]:
    found = []
    for name, bias in given.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < size):
            message = f"logit_bias: found {name[:40]!r}; expected ids of tokens from 0 to {size - 1}"
            raise ServiceError(400, message, param="logit_bias")
        found.append((int(name), float(bias)))
    return found


async def pieces(worker: Worker, planned: Sequence[Planned], *, each: bool) -> AsyncIterator[Piece]:
    """What the texts grow by: as it comes with ``each``, else each text at its end. Leaving it cancels them.

    A text that a stop string may end is looked at as it comes in either case: nothing is written beyond it.

    Raises:
        ServiceError: when a text cannot be written, the line is full or it takes too long.
    """
    worker.check_room(len(planned))
    changed = asyncio.Event()
    followed = [each or one.growing.release is not None for one in planned]
    tickets = [worker.submit(one.request, changed, each=own) for one, own in zip(planned, followed, strict=True)]
    going = dict(enumerate(tickets))
    try:
        while going:
            await changed.wait()
            changed.clear()
            for index, ticket in list(going.items()):
                if ticket.error is not None:
                    raise ticket.error
                if not followed[index] and ticket.reason is None:
                    continue
                piece = _piece(worker, index, ticket, planned[index].growing)
                if piece.reason is not None:
                    del going[index]
                if piece.text or piece.wrote or piece.reason:
                    yield piece
    finally:
        for ticket in tickets:
            worker.cancel(ticket)


def _piece(worker: Worker, index: int, ticket: Ticket, growing: Growing) -> Piece:
    wrote = ticket.take()
    before = growing.count
    text = growing.add([each.token for each in wrote])
    reason = None if ticket.reason is None else REASONS[ticket.reason]
    if reason is not None:
        text += growing.end()
    if growing.is_stopped:
        reason = "stop"
        worker.cancel(ticket, why="stop")
    return Piece(index, text, wrote[: growing.count - before], reason, ticket.job)


async def attended(request: Http, work: Awaitable[Result]) -> Result:
    """What ``work`` returns; it is cancelled when whoever asked leaves.

    Raises:
        GoneError: when they have left.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise GoneError
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})


async def _left(request: Http) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def together(worker: Worker, planned: Sequence[Planned]) -> list[Piece]:
    """All texts, whole, in their order."""
    found: dict[int, Piece] = {}
    async for piece in pieces(worker, planned, each=False):
        before = found.get(piece.index)
        found[piece.index] = piece if before is None else before.then(piece)
    return [found[index] for index in range(len(planned))]


class Events(StreamingResponse):
    """Server-sent events; what makes them is closed when the client leaves, wherever it stands."""

    media_type = "text/event-stream"

    def __init__(self, found: AsyncIterator[bytes]) -> None:
        super().__init__(found, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._found = found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._found.aclose()  # type: ignore[attr-defined]


async def streamed(request: Http, found: AsyncIterator[Any], *, done: bytes = b"") -> Events:
    """Answers with events, of which the first is waited for: until then a refusal has a status of its own."""
    try:
        first = await attended(request, anext(found))
    except BaseException:
        await found.aclose()  # type: ignore[attr-defined]
        raise
    return Events(_events(first, found, done))


async def _events(first: Any, found: AsyncIterator[Any], done: bytes) -> AsyncIterator[bytes]:
    try:
        yield event(first)
        async for each in found:
            yield event(each)
        yield done
    except ServiceError as error:  # the status has been sent
        yield event(error.body())
    finally:
        await found.aclose()  # type: ignore[attr-defined]


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dumped(content) + b"\n\n"


def told(service: Service, request: Http, read: int, written: int) -> None:
    """Counts the tokens of a request, also in its line of the log."""
    service.metrics.counted(read)
    request.state.tokens = (read, written)


def service_of(request: Http) -> Service:
    """The model on offer."""
    return request.app.state.service
