"""``/v1/completions`` and ``/v1/chat/completions``, as OpenAI's clients know them."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from pellucid.inference.batching import Request as Wanted
from pellucid.inference.batching import Wrote
from pellucid.inference.beam import Beams
from pellucid.inference.rules import AnyRule
from pellucid.inference.sampling import Sampling
from pellucid.inference.stopping import Stop, StopStrings
from pellucid.serve.bodies import ChatBody, CompletionBody, Writing, listed
from pellucid.serve.errors import Json, ServiceError
from pellucid.serve.service import Service
from pellucid.serve.text import Growing
from pellucid.serve.writing import (
    Planned,
    attended,
    check_no_draw,
    pieces,
    rules_of,
    sampling_of,
    service_of,
    streamed,
    together,
    told,
)

router = APIRouter()
MANY_TOKENS = 1 << 30  # of an answer for which no length was asked: as many as are allowed
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Form:
    """How one of the two is written down.

    Attributes:
        choice: a text at its end, from its number, text, log-probabilities and reason; ``chunk``, a piece of it.
    """

    id: str
    object: str
    chunk_object: str
    choice: Callable[[int, str, Any, str | None], dict[str, Any]]
    chunk: Callable[[int, str, Any, str | None], dict[str, Any]]
    likelihoods: Callable[[Service, Sequence[Wrote]], Any]


@router.post("/v1/completions")
async def complete(body: CompletionBody, request: Request) -> Response:
    """Writes on from prompts."""
    service = service_of(request)
    service.require("/v1/completions")
    service.check_name(body.model)
    if body.echo and body.logprobs is not None:
        raise ServiceError(
            400, "log-probabilities of the prompt are not told; leave out echo, or use /score", param="echo"
        )
    prompts, texts = await _prompts(service, body)
    _check_count(service, len(prompts) * (body.n or 1))
    planned = []
    rules = await rules_of(body, service, service.loaded.tokenizer)
    for ids in prompts:
        new = service.new_tokens(body.max_tokens, 16, len(ids), "max_tokens", width=body.beams or 1)
        planned += _planned(service, body, rules, ids, new, body.logprobs, growing_from=ids)
    before = [text for text in texts for _ in range(body.n or 1)] if body.echo else [""] * len(planned)
    form = Form("cmpl", "text_completion", "text_completion", _text, _text, _likelihoods_of_text)
    return await _answer(request, body, form, planned, sum(map(len, prompts)), before)


@router.post("/v1/chat/completions")
async def converse(body: ChatBody, request: Request) -> Response:
    """Answers in a conversation."""
    service = service_of(request)
    service.require("/v1/chat/completions")
    service.check_name(body.model)
    _check_count(service, body.n or 1)
    messages = [message.model_dump(exclude_none=True, exclude={"refusal"}) for message in body.messages]
    for message in messages:
        if isinstance(message["content"], list):
            message["content"] = "".join(part["text"] for part in message["content"])
    ids = await service.conversation(messages)
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    new = service.new_tokens(asked, MANY_TOKENS, len(ids), "max_completion_tokens", width=body.beams or 1)
    if body.top_logprobs is not None and not body.logprobs:
        raise ServiceError(400, "top_logprobs goes with logprobs", param="top_logprobs")
    best = (body.top_logprobs or 0) if body.logprobs else None
    rules = await rules_of(body, service, service.loaded.tokenizer)
    planned = _planned(service, body, rules, ids, new, best, growing_from=())
    form = Form("chatcmpl", "chat.completion", "chat.completion.chunk", _message, _delta, _likelihoods_of_message)
    return await _answer(request, body, form, planned, len(ids), [""] * len(planned))


async def _prompts(service: Service, body: CompletionBody) -> tuple[list[list[int]], list[str]]:
    """The tokens of each prompt, and its text."""
    tokenizer, given = service.loaded.tokenizer, body.prompt
    if isinstance(given, list) and given and not isinstance(given[0], str):
        rows: list[list[int]] = [given] if isinstance(given[0], int) else given
        _check_count(service, len(rows))
        for row in rows:
            service.check_length(len(row), "prompt")
            if not row or max(row) >= service.vocab_size:
                message = f"prompt: expected at least one token, each from 0 to {service.vocab_size - 1}"
                raise ServiceError(400, message, param="prompt")
        prompts, texts = rows, [tokenizer.decode(row) for row in rows] if body.echo else []
    else:
        texts = listed(given)
        prompts = [tokenizer.prompt(ids) for ids in await service.cut(texts, "prompt")]
    if not prompts:
        raise ServiceError(400, "prompt: an empty list", param="prompt")
    return prompts, texts


def _planned(
    service: Service,
    body: Writing,
    rules: tuple[AnyRule, ...],
    ids: list[int],
    new: int,
    logprobs: int | None,
    *,
    growing_from: Sequence[int],
) -> list[Planned]:
    """The texts of one prompt."""
    tokenizer, count = service.loaded.tokenizer, body.n or 1
    strings = tuple(listed(body.stop)) if body.stop else ()
    beams, stops = None, None
    if body.beams is not None:
        check_no_draw(body)
    if body.beams is not None and body.beams > 1:
        if count > 1 or logprobs is not None:
            raise ServiceError(400, "a search gives one text, without log-probabilities", param="beams")
        check_beams(service, body.beams)
        beams = Beams(body.beams)
        # A search must know where its texts end, to compare them; of other texts the loop sees it as they grow.
        stops = Stop(tokenizer, StopStrings(strings), tuple(growing_from)) if strings else None
    planned = []
    for nth in range(count):
        sampling = Sampling(rules) if body.beams else sampling_of(body, rules, nth=nth)
        wanted = Wanted(ids, new, tokenizer.ends, sampling=sampling, beams=beams, logprobs=logprobs, stops=stops)
        planned.append(Planned(wanted, Growing(tokenizer, growing_from, strings)))
    return planned


def _check_count(service: Service, count: int) -> None:
    """Raises :class:`ServiceError` for more texts than are allowed, before any of them is made."""
    if count > service.limits.texts:
        raise ServiceError(400, f"{count} texts; at most {service.limits.texts} in one request", param="n")


def check_beams(service: Service, beams: int) -> None:
    """Raises :class:`ServiceError` for more beams than are allowed."""
    most = min(service.limits.beams, service.limits.rows)
    if beams > most:
        raise ServiceError(400, f"beams: {beams}; at most {most}", param="beams")


async def _answer(
    request: Request, body: Writing, form: Form, planned: list[Planned], read: int, before: list[str]
) -> Response:
    service = service_of(request)
    if body.stream_options is not None and not body.stream:
        raise ServiceError(400, "stream_options go with stream", param="stream_options")
    head = {"id": f"{form.id}-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.name}

    def usage() -> dict[str, int]:
        written = sum(each.growing.count for each in planned)
        told(service, request, read, written)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    if body.stream:
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        head = {**head, "object": form.chunk_object}
        return await streamed(request, _chunks(service, form, head, planned, before, usage, with_usage), done=DONE)
    found = await attended(request, together(service.worker, planned))
    choices = [
        form.choice(p.index, before[p.index] + p.text, form.likelihoods(service, p.wrote), p.reason) for p in found
    ]
    return Json({**head, "object": form.object, "choices": choices, "usage": usage()})


async def _chunks(
    service: Service,
    form: Form,
    head: dict[str, Any],
    planned: list[Planned],
    before: list[str],
    usage: Callable[[], dict[str, int]],
    with_usage: bool,
) -> AsyncIterator[dict[str, Any]]:
    extra: dict[str, Any] = {"usage": None} if with_usage else {}
    begun: set[int] = set()
    found = pieces(service.worker, planned, each=True)
    try:
        async for piece in found:
            text = piece.text if piece.index in begun else before[piece.index] + piece.text
            choice = form.chunk(piece.index, text, form.likelihoods(service, piece.wrote), piece.reason)
            if piece.index not in begun and "delta" in choice:
                choice["delta"] = {"role": "assistant", **choice["delta"]}
            begun.add(piece.index)
            yield {**head, "choices": [choice], **extra}
        used = usage()
        if with_usage:
            yield {**head, "choices": [], "usage": used}
    finally:
        await found.aclose()  # type: ignore[attr-defined]


# ---- how they are written down -------------------------------------------------------------------


def _text(index: int, text: str, likelihoods: Any, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": likelihoods, "finish_reason": reason}


def _message(index: int, text: str, likelihoods: Any, reason: str | None) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": said, "logprobs": likelihoods, "finish_reason": reason}


def _delta(index: int, text: str, likelihoods: Any, reason: str | None) -> dict[str, Any]:
    grown = {"content": text} if text or reason is None else {}
    return {"index": index, "delta": grown, "logprobs": likelihoods, "finish_reason": reason}


def _likelihoods_of_text(service: Service, wrote: Sequence[Wrote]) -> Any:
    known = [(each.token, each.likelihood) for each in wrote if each.likelihood is not None]
    if not known:
        return None
    pieces_of = service.loaded.tokenizer.pieces
    best = [zip(*likelihood.best, strict=True) if likelihood.best else ((), ()) for _, likelihood in known]
    return {
        "tokens": pieces_of([token for token, _ in known]),
        "token_logprobs": [finite(likelihood.logprob) for _, likelihood in known],
        "top_logprobs": [dict(zip(pieces_of(tokens), map(finite, values), strict=True)) for tokens, values in best],
    }


def _likelihoods_of_message(service: Service, wrote: Sequence[Wrote]) -> Any:
    known = [(each.token, each.likelihood) for each in wrote if each.likelihood is not None]
    if not known:
        return None

    tokenizer = service.loaded.tokenizer

    def one(token: int, logprob: float) -> dict[str, Any]:
        (piece,), own = tokenizer.pieces([token]), tokenizer.bytes_of(token)
        return {"token": piece, "logprob": finite(logprob), "bytes": None if own is None else list(own)}

    content = [
        {**one(token, likelihood.logprob), "top_logprobs": [one(*best) for best in likelihood.best]}
        for token, likelihood in known
    ]
    return {"content": content, "refusal": None}


def finite(logprob: float) -> float:
    """OpenAI's own stand-in for what is impossible, as JSON has no infinities."""
    return max(logprob, -9999.0)
