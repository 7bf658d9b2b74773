"""What our families can do that OpenAI's service has no name for; and embeddings, for which it has one."""

from __future__ import annotations

import base64
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from pellucid.errors import UserError
from pellucid.inference import predict
from pellucid.inference.alternatives import alternatives as alternatives_of
from pellucid.inference.batching import Request as Wanted
from pellucid.inference.beam import Beams, Wu
from pellucid.inference.encode import EncoderTasks
from pellucid.inference.likelihood import Likelihood
from pellucid.inference.sampling import Sampling
from pellucid.inference.scores import score as likelihood_of
from pellucid.inference.tagging import names
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.serve.bodies import (
    AlternativesBody,
    ClassifyBody,
    EmbeddingBody,
    FillBody,
    ScoreBody,
    TagBody,
    TranslateBody,
    listed,
)
from pellucid.serve.completions import check_beams, finite
from pellucid.serve.errors import Json, ServiceError, of_user
from pellucid.serve.service import Service
from pellucid.serve.text import Growing
from pellucid.serve.writing import (
    Piece,
    Planned,
    attended,
    check_no_draw,
    draws_asked,
    pieces,
    rules_of,
    sampling_of,
    service_of,
    streamed,
    together,
    told,
)

router = APIRouter()
Result = TypeVar("Result")
MOST_ALTERNATIVES = 512  # texts that one request may have written
MOST_FOLLOWING = 64  # tokens after each of them
EXTRA = 50  # tokens beyond those of the source, as in the paper (Vaswani et al. 2017, §6.1)


@router.post("/translate")
async def translate(body: TranslateBody, request: Request) -> Response:
    """Writes the target of each text."""
    service = service_of(request)
    service.require("/translate")
    service.check_name(body.model)
    texts, beams, best = listed(body.text), body.beams or 1, body.hypotheses or 1
    check_beams(service, beams)
    if best > beams:
        raise ServiceError(400, f"hypotheses: {best}; at most as many as beams, {beams}", param="hypotheses")
    if beams > 1:
        check_no_draw(body)
    elif "length_penalty" in body.model_fields_set:
        raise ServiceError(400, "length_penalty goes with beams; leave it out", param="length_penalty")
    if body.temperature is None or "temperature" not in body.model_fields_set:
        body.temperature = 1.0 if draws_asked(body) else 0.0  # whoever cuts the tail of a draw wants one
    try:
        tokenizer = service.loaded.tokenizer.in_languages(body.source_language, body.target_language)
    except UserError as error:
        names = service.loaded.tokenizer.special_tokens
        is_source = body.source_language is not None and body.source_language not in names
        raise of_user(error, param="source_language" if is_source else "target_language") from None
    target = tokenizer.target
    start = [*target.start, *target.forced]
    penalty = Wu(0.6 if body.length_penalty is None else body.length_penalty)
    search = Beams(beams, penalty=penalty, written=len(target.forced)) if beams > 1 else None
    planned = []
    limit = None if service.writer is None else service.writer.source_limit
    rules = await rules_of(body, service, target)
    for nth, ids in enumerate(await service.cut(texts, "text")):
        source = tokenizer.source(ids)
        service.check_positions(len(source), limit, "text")
        usual = len(source) + EXTRA
        new = service.new_tokens(body.max_tokens, usual, len(start), "max_tokens", width=beams, source=len(source))
        sampling = Sampling(rules) if search else sampling_of(body, rules, nth=nth)
        wanted = Wanted(start, new, target.ends, source=source, sampling=sampling, beams=search)
        planned.append(Planned(wanted, Growing(target)))
    read = sum(len(each.request.source) for each in planned)
    if body.stream:
        if len(texts) > 1:
            raise ServiceError(400, "a stream is of one text", param="stream")
        if best > 1:
            raise ServiceError(400, "a stream is of the best text alone; leave one of the two out", param="hypotheses")
        return await streamed(request, _grown(service, request, planned, read), done=b"data: [DONE]\n\n")
    found = await attended(request, together(service.worker, planned))
    told(service, request, read, sum(each.growing.count for each in planned))
    return Json({"model": service.name, "translations": [_translation(piece, target.decode, best) for piece in found]})


def _translation(piece: Piece, decode: Callable[[Any], str], best: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"text": piece.text, "finish_reason": piece.reason}
    if piece.job is not None and piece.job.hypotheses:
        found = piece.job.hypotheses[:best]
        answer["hypotheses"] = [{"text": decode(each.tokens), "score": each.score} for each in found]
    return answer


async def _grown(service: Service, request: Request, planned: list[Planned], read: int) -> AsyncIterator[Any]:
    found = pieces(service.worker, planned, each=True)
    try:
        async for piece in found:
            yield {"text": piece.text, "finish_reason": piece.reason}
        told(service, request, read, planned[0].growing.count)
    finally:
        await found.aclose()  # type: ignore[attr-defined]


@router.post("/v1/embeddings")
async def embed(body: EmbeddingBody, request: Request) -> Response:
    """One vector for each text."""
    service, texts = await _texts(request, body.model, "/v1/embeddings", listed(body.input), "input")
    vectors = await _together(request, "embed", texts[0], lambda every: predict.embed(service.loaded, every).tolist())
    packed = body.encoding_format == "base64"
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(vector) if packed else vector}
        for i, vector in enumerate(vectors)
    ]
    told(service, request, texts[1], 0)
    usage = {"prompt_tokens": texts[1], "total_tokens": texts[1]}
    return Json({"object": "list", "data": data, "model": service.name, "usage": usage})


def _packed(vector: list[float]) -> str:
    return base64.b64encode(array("f", vector).tobytes()).decode()


@router.post("/fill")
async def fill(body: FillBody, request: Request) -> Response:
    """The likeliest pieces for the one ``<mask>`` of a text."""
    service, (texts, read) = await _texts(request, body.model, "/fill", [body.text], "text")
    found = await _done(request, partial(predict.fill, service.loaded, texts[0], top=body.top))
    told(service, request, read, 0)
    return Json({"model": service.name, "fills": [asdict(each) for each in found]})


@router.post("/classify")
async def classify(body: ClassifyBody, request: Request) -> Response:
    """The label of each text."""
    service, (texts, read) = await _texts(request, body.model, "/classify", listed(body.text), "text")
    found = await _together(request, "classify", texts, partial(predict.classify, service.loaded))
    told(service, request, read, 0)
    labels = [{"label": each.label, "probabilities": each.probabilities} for each in found]
    return Json({"model": service.name, "labels": labels})


@router.post("/tag")
async def tag(body: TagBody, request: Request) -> Response:
    """The names in each text, or the labels of its words."""
    service, (texts, read) = await _texts(request, body.model, "/tag", listed(body.text), "text")
    found = await _together(request, "tag", texts, partial(predict.tag, service.loaded, words=True))
    found = found if body.words else [names(words, text) for words, text in zip(found, texts, strict=True)]
    told(service, request, read, 0)
    return Json({"model": service.name, "spans": [[asdict(span) for span in spans] for spans in found]})


async def _texts(
    request: Request, name: str | None, path: str, texts: list[str], param: str
) -> tuple[Service, tuple[list[str], int]]:
    """The model on offer, the texts, and how many tokens they are."""
    service = service_of(request)
    service.require(path)
    service.check_name(name)
    ids = await service.cut(texts, param)
    model = service.loaded.model
    assert isinstance(model, Encoder)  # require has asked
    limit = model.max_length
    for each in ids:
        service.check_positions(len(service.loaded.tokenizer.text(each)), limit, param)
    return service, (texts, sum(map(len, ids)))


async def _together(
    request: Request, kind: str, items: Sequence[Any], work: Callable[[list[Any]], Sequence[Result]]
) -> Sequence[Result]:
    """The same for work that is done in one go with what others ask of its kind."""
    try:
        return await attended(request, service_of(request).worker.together(kind, work, items))
    except UserError as error:
        raise of_user(error) from None


async def _done(request: Request, work: Callable[[], Result]) -> Result:
    """What the model's thread returns; what the client can mend is told so."""
    try:
        return await attended(request, service_of(request).worker.do(work))
    except UserError as error:
        raise of_user(error) from None


@router.post("/score")
async def score(body: ScoreBody, request: Request) -> Response:
    """How likely a text is, token by token, after what is ``given``; of a classifier the score of each label."""
    service = service_of(request)
    service.require("/score")
    service.check_name(body.model)
    loaded, given = service.loaded, body.given
    cut = await service.cut([body.text, given or ""], "text")
    read = sum(map(len, cut))
    if isinstance(loaded.model, Encoder):
        pair = body.text if given is None else (given, body.text)
        labels = loaded.model.config.head.labels  # type: ignore[union-attr]
        (scores,) = await _together(request, "score", [pair], lambda every: EncoderTasks(loaded).scores(every).tolist())
        told(service, request, read, 0)
        return Json({"model": service.name, "scores": dict(zip(labels, scores, strict=True))})
    _check_scored(service, *cut)
    before = None if given is None else [given]
    (found,) = await _done(request, lambda: likelihood_of(loaded, [body.text], given=before, top=body.top))
    told(service, request, read, 0)
    rows = [(piece, one) for piece, one in zip(found.pieces, found.likelihoods, strict=True)]
    tokens = [{"piece": piece, **_likely(service, one)} for piece, one in rows]
    return Json({"model": service.name, "logprob": finite(found.logprob), "tokens": tokens})


def _check_scored(service: Service, text: list[int], given: list[int]) -> None:
    """Raises :class:`ServiceError` for a text, or what it stands after, that the model has no positions for."""
    assert service.writer is not None  # what scores texts writes them
    tokenizer, target = service.loaded.tokenizer, service.loaded.tokenizer.target
    if isinstance(service.loaded.model, EncoderDecoder):
        service.check_positions(len(tokenizer.source(given)), service.writer.source_limit, "given")
        written = [*target.start, *target.forced, *text, *target.ends[:1]]
    else:
        written = tokenizer.prompt([*given, *text])
    service.check_positions(len(written), service.writer.limit, "text")


def _likely(service: Service, one: Likelihood | None) -> dict[str, Any]:
    """A token's log-probability, ``null`` where nothing stands before it, and those of the likeliest in its place."""
    if one is None:
        return {"logprob": None, "best": []}
    pieces_of = service.loaded.tokenizer.target.pieces
    best = [{"piece": pieces_of([token])[0], "logprob": finite(value)} for token, value in one.best]
    return {"logprob": finite(one.logprob), "best": best}


@router.post("/alternatives")
async def alternatives(body: AlternativesBody, request: Request) -> Response:
    """What else could stand at places of a text, how likely, and what would follow."""
    service = service_of(request)
    service.require("/alternatives")
    service.check_name(body.model)
    cut = await service.cut([body.text, body.source or ""], "text")
    places = len(cut[0]) + 1 if body.positions is None else len(body.positions)
    if places * body.top > MOST_ALTERNATIVES:
        message = f"{places} places of {body.top}; at most {MOST_ALTERNATIVES} in all: name some positions"
        raise ServiceError(400, message, param="positions")
    if body.max_tokens > MOST_FOLLOWING:  # each is a step in which nobody else is written
        message = f"{body.max_tokens:,} tokens; at most {MOST_FOLLOWING} may follow: go on from a text by completion"
        raise ServiceError(400, message, param="max_tokens")
    service.new_tokens(body.max_tokens or None, 1, len(cut[0]) + 2, "max_tokens")
    if (most := places * body.top * body.max_tokens) > service.limits.new_tokens:
        message = f"{most:,} tokens to be written; at most {service.limits.new_tokens:,}: name fewer positions"
        raise ServiceError(400, message, param="max_tokens")
    work = partial(
        alternatives_of,
        service.loaded,
        body.text,
        body.positions,
        source=body.source,
        top=body.top,
        max_new_tokens=body.max_tokens,
    )
    found = await _done(request, work)
    told(service, request, sum(map(len, cut)), 0)
    return Json({"model": service.name, "places": [[asdict(one) for one in place] for place in found]})
