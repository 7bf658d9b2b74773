"""Writing: a text token by token with the model's own cache, a beam search as a tree, and writing under edits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

import torch
from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from pellucid.analysis.answers import find
from pellucid.analysis.slots import What
from pellucid.explorer.asked import LONGEST_TEXT, Asked, Input
from pellucid.explorer.drafts import Draft
from pellucid.explorer.passes import placed
from pellucid.explorer.routes.given import At
from pellucid.explorer.session import Session
from pellucid.explorer.wire import FOREVER, Json, as_bytes, lines
from pellucid.inference.batches import barred
from pellucid.inference.beam import LengthPenalty, Power, Wu
from pellucid.inference.decode import Prompt
from pellucid.inference.edited import write_edited
from pellucid.inference.reading import beginning
from pellucid.inference.tree import beam_tree

router = APIRouter(prefix="/writing")
DraftId = Annotated[str, Path(max_length=32)]
MOST_BEAMS, MOST_TOKENS = 8, 64


class Text(Asked):
    """What a model is to go on with: a text, and the tokens that were added to it."""

    model: Annotated[str, Field(max_length=100)] = "main"
    text: Annotated[str, Field(max_length=LONGEST_TEXT)] = ""
    written: Annotated[tuple[int, ...], Field(max_length=4096)] = ()


class Beams(Text):
    """A beam search from there on."""

    beams: Annotated[int, Field(ge=1, le=MOST_BEAMS)] = 4
    max_new_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 16
    penalty: Literal["wu", "power"] = "wu"
    alpha: Annotated[float, Field(ge=-4, le=4)] = 0.6

    @property
    def divides(self) -> LengthPenalty:
        """By what the log-probability of a text is divided."""
        return Wu(self.alpha) if self.penalty == "wu" else Power(self.alpha)


class Continue(Input):
    """What a model writes while it is edited."""

    max_new_tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)] = 32


def _draft(session: Session, asked: Text) -> Draft:
    return session.drafts.draft(session.model(asked.model), asked.text, asked.written)


@router.post("")
async def write(at: At, asked: Text, top: Annotated[int, Query(ge=1, le=500)] = 100) -> Json:
    """What follows a text: how far the cache has grown, and the likeliest tokens."""
    return Json(await at.do(lambda: _draft(at.session, asked).as_dict(top)))


@router.get("/{id}/logits")
async def logits(at: At, id: DraftId) -> Response:
    """The scores of every token of the vocabulary, exactly."""
    return as_bytes((await at.do(lambda: at.session.drafts.known(id))).logits)


@router.get("/{id}/find")
async def search(at: At, id: DraftId, piece: Annotated[str, Query(min_length=1, max_length=100)]) -> Json:
    """The likeliest tokens whose piece contains some characters."""

    def found() -> list[dict[str, Any]]:
        draft = at.session.drafts.known(id)
        return [asdict(entry) for entry in find(draft.explored.loaded, draft.logits, piece)]

    return Json(await at.do(found), headers=FOREVER)


@router.get("/{id}/cache")
async def cache(at: At, id: DraftId, layer: int, what: What = "keys") -> Response:
    """The keys or values that a layer keeps, head by head, in the order of its slots."""
    return as_bytes(await at.do(lambda: at.session.drafts.kept(at.session.drafts.known(id), layer, what)))


@router.post("/beams")
async def beams(at: At, asked: Beams) -> Json:
    """A beam search with all that it looked at."""

    def searched() -> dict[str, Any]:
        loaded = at.session.model(asked.model).loaded
        model: Any = loaded.model
        prompt, writer = beginning(loaded, asked.text), loaded.tokenizer.target
        draft = _draft(at.session, asked)  # refuses what cannot be written
        tokens = torch.tensor([draft.ids], device=model.device)
        tree = beam_tree(
            model,
            Prompt(tokens, source=prompt.source),
            beams=asked.beams,
            max_new_tokens=min(asked.max_new_tokens, draft.left + 1),
            ends=writer.ends,
            penalty=asked.divides,
            filters=barred(writer),
            written=len(asked.written) + len(writer.forced if prompt.source is not None else ()),
        )
        return tree.as_dict(writer)

    return Json(await at.do(searched))


@router.post("/continue")
async def go_on(at: At, asked: Continue) -> StreamingResponse:
    """What the model writes by itself under edits: a line of JSON for each token."""
    written = await at.do(lambda: _edited(at.session, asked))

    async def found() -> AsyncIterator[dict[str, Any]]:
        while (line := await at.do(lambda: next(written, None))) is not None:
            yield line

    return lines(found())


def _edited(session: Session, asked: Continue) -> Iterator[dict[str, Any]]:
    explored = session.model(asked.model)
    loaded = explored.loaded
    model: Any = loaded.model
    prompt, writer = beginning(loaded, asked.text), loaded.tokenizer.target
    session.drafts.check(explored, prompt)
    held = session.lender(asked.model)
    edits = asked.spelled_out(held).changes(held)
    before = prompt.tokens[0].tolist()

    def told() -> Iterator[dict[str, Any]]:
        written: list[int] = []
        tokens = write_edited(
            model, prompt, edits, max_new_tokens=asked.max_new_tokens, ends=writer.ends, filters=barred(writer)
        )
        while True:
            with placed(asked, model):  # only while a token is made: others look at the model in between
                token = next(tokens, None)
            if token is None:
                return
            ended = token in writer.ends
            written += [] if ended else [token]
            text = writer.decode(written) if prompt.source is not None else writer.continuation(before, written)
            yield {"id": token, "piece": writer.pieces([token])[0], "text": text, "ended": ended}

    return told()
