"""What is wrong with a model of the session: what ``pl.doctor`` says of it, with the question at hand while it asks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, Literal

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from pellucid.doctor import Spec, examine
from pellucid.doctor.checks import CHECKS
from pellucid.doctor.levels import Level, within
from pellucid.doctor.report.parts import headline
from pellucid.explorer.passes import Explored
from pellucid.explorer.routes.given import At, Desk, ModelKey
from pellucid.explorer.session import MAIN, Session
from pellucid.explorer.wire import lines
from pellucid.explorer.worker import GoneError

router = APIRouter(prefix="/models/{key}")


@router.get("/doctor")
async def doctor(at: At, key: ModelKey, level: Literal["quick", "standard"] = "quick") -> StreamingResponse:
    """A line of JSON for each question before it is asked, then the report.

    The model is examined in one piece, as it is changed on the way and put back: nobody else sees it meanwhile. Whoever
    leaves ends it at the next question.
    """
    explored = await at.do(lambda: at.session.model(key))
    return lines(_examined(at, explored, level))


async def _examined(at: Desk, explored: Explored, level: Level) -> AsyncIterator[dict[str, Any]]:
    loop, heard = asyncio.get_running_loop(), asyncio.Queue[str | None]()
    left = threading.Event()

    def asked(question: str) -> None:
        if left.is_set():
            raise GoneError
        loop.call_soon_threadsafe(heard.put_nowait, question)

    def told() -> dict[str, Any]:
        kept, asked_of = at.session.reports, (explored.key, explored.identity, level)
        if asked_of not in kept:
            model, spec, build = explored.loaded.model, spec_of(at.session, explored), build_of(at.session, explored)
            report = examine(model, spec, level, build=build, progress=asked)
            questions = {check.name: check.question for check in CHECKS}
            kept[asked_of] = {**report.as_dict(), "headline": headline(report), "questions": questions}
        return kept[asked_of]

    work = asyncio.ensure_future(at.do(told))
    work.add_done_callback(lambda done: heard.put_nowait(None))
    total = sum(within(check.level, level) for check in CHECKS)
    try:
        done = 0
        while (question := await heard.get()) is not None:
            yield {"question": question, "done": done, "total": total}
            done += 1
        yield {"report": await work}
    finally:
        left.set()
        work.add_done_callback(lambda gone: gone.cancelled() or gone.exception())  # of which nobody will ask


def spec_of(session: Session, explored: Explored) -> Spec:
    """What the model cannot say of itself: what its tokenizer means by which id, and whether it has been trained."""
    trained = explored.step is not None or (session.folder is not None and explored.key == MAIN)
    if explored.sense == "picture":
        return Spec(pretrained=True if trained else None)
    source, target = explored.loaded.tokenizer, explored.loaded.tokenizer.target
    special = sorted({*source.special_ids, *target.special_ids})
    return Spec(
        pad_id=target.pad,
        bos_id=target.bos,
        eos_id=next(iter(target.ends), None),
        special_ids=tuple(special),
        pretrained=True if trained else None,
    )


def build_of(session: Session, explored: Explored) -> str:
    """Lines that make the model, for scripts that show a fault; none for one that is in memory alone."""
    if session.folder is None or explored.key != MAIN:
        return ""
    return f"import pellucid\n\nmodel = pellucid.load({str(session.folder)!r}).model"
