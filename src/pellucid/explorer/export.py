"""The page as one file that needs no server: built into it are the answers that a walk through one pass asks for.

They are the server's own, asked in this process. Whole tensors are kept, of which the page cuts what it shows; those
for which there is no room as exact numbers in eight bits, for pictures alone. What is not there the page says.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import torch
from fastapi import FastAPI
from torch import Tensor

from pellucid.errors import CheckpointError, UserError
from pellucid.explorer import app as server
from pellucid.explorer.passes import Pass
from pellucid.explorer.questions import Question, asked, compared, questions
from pellucid.explorer.session import MAIN, Session
from pellucid.explorer.wire import as_bytes
from pellucid.explorer.worker import Worker
from pellucid.models.files import write_whole

PAGE = "alone.html"
PLACE = "<!-- answers -->"  # where the built page takes them
BUDGET = 24.0  # MB
SHARE = 2 / 3  # of the budget for tensors, the rest for other answers

Result = TypeVar("Result")
Recorded = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]


def export_html(
    session: Session,
    path: str | Path,
    *,
    text: str | None = None,
    target: str | None = None,
    budget: float = BUDGET,
    app: FastAPI | None = None,
) -> Path:
    """Saves the page, and what a model does with one text, as one HTML file.

    Args:
        session: whose first model it is of; a second one is there to be compared.
        text, target: what is read, and written; the session's example when left out.
        budget: the most that the answers may take, in MB. All tensors of a small model fit exactly; of a large one the
            pictures of attention go first, then the smallest tensors.
        app: a server of this session that is running, so that the two take turns.

    Raises:
        UserError: for a text that the model cannot read, or a file that cannot be written.
        CheckpointError: when the page was not built into this installation.
    """
    path, page = Path(path), server.STATIC / PAGE
    if not page.exists():
        hint = "install pellucid again; from its sources, `pip install .` builds the page"
        raise CheckpointError(page, "the page is missing from this installation", hint=hint)
    if budget <= 0:
        raise UserError("budget", f"found {budget}", "more than 0, in MB")
    if not path.parent.is_dir():
        raise UserError(path, f"there is no folder {path.parent}", "a file in a folder that exists")
    example = session.example if text is None else (text, target)
    with ThreadPoolExecutor(1) as own:  # a notebook's thread has a loop already
        asker = Asker(app or server.create_app(session))
        kept = own.submit(lambda: asyncio.run(_recorded(session, example, asker, int(budget * 1e6)))).result()
    # A browser ends a script at its closing tag, wherever it stands; in JSON "<" can be written otherwise.
    script = json.dumps(kept, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    whole = page.read_text(encoding="utf-8").replace(PLACE, f"<script>window.__pellucid__={script}</script>", 1)
    try:
        write_whole(path, lambda part: part.write_text(whole, encoding="utf-8"))
    except OSError as error:
        raise UserError(path, f"cannot be written ({error})") from None
    return path


# ---- what is kept --------------------------------------------------------------------------------


async def _recorded(session: Session, example: tuple[str, str | None], asker: Asker, room: int) -> dict[str, Any]:
    text, target = example
    mains = await asker.passes(_bodies(session, text, target))
    held = await asker.do(partial(session.held, mains[0]))
    share = int(SHARE * room / len(mains))

    def whole(id: str) -> dict[str, Recorded]:
        return dict(_tensors(session.held(id), share))

    tensors = {id: await asker.do(partial(whole, id)) for id in mains}
    spent = sum(len(one["octets"]) for each in tensors.values() for one in each.values())
    room -= spent
    for other in mains[1:]:
        room = await asker.ask(compared(held, await asker.do(partial(session.held, other))), room)
    await asker.ask(questions(session, held), room)
    if (first := asker.answers.get("GET /api/session")) is not None:
        first["json"]["example"] = {"text": text, "target": target}  # this page begins with what it has the answers to
    return {"answers": asker.answers, "tensors": tensors}


def _bodies(session: Session, text: str, target: str | None) -> list[dict[str, Any]]:
    return [asked(session, text, target, key) for key in session.models]


def _tensors(held: Pass, room: int) -> Iterable[tuple[str, Recorded]]:
    """Every tensor, exactly where there is room: maps before others, then the smallest first; else in eight bits."""

    def importance(name: str) -> tuple[bool, int]:
        return not name.endswith(".weights"), math.prod(held.tape.entry(name).shape)

    for name in sorted(held.tape.entries, key=importance):
        value = held.value(name)
        for encoding in ("f32", "sqrt8" if _is_share(name, value) else "sym8"):
            kept = _kept(value, encoding)
            if len(kept["octets"]) <= room:
                room -= len(kept["octets"])
                yield name, kept
                break


def _is_share(name: str, value: Tensor) -> bool:
    return name.endswith(".weights") or value.dtype == torch.bool


def _kept(value: Tensor, encoding: str) -> Recorded:
    answer = as_bytes(value, encoding)
    kept: Recorded = {"shape": list(value.shape), "octets": base64.b64encode(bytes(answer.body)).decode()}
    if encoding != "f32":
        kept |= {"encoding": encoding, "high": float(answer.headers["x-high"])}
    return kept


# ---- asking the server in this process -----------------------------------------------------------


class Asker:
    """Asks a server without a network, and keeps what it answers as the page looks it up.

    Args:
        app: the server.

    Attributes:
        answers: by "GET path" or "POST path body", parameters sorted and not escaped, bodies as sorted JSON.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.answers: dict[str, Recorded] = {}

    async def passes(self, bodies: Iterable[dict[str, Any]]) -> list[str]:
        """Runs passes as the page does; their ids.

        Raises:
            UserError: when the first is refused. Another model need not read the same text.
        """
        ids: list[str] = []
        for body in bodies:
            status, headers, content = await self._call("/api/passes", body)
            answer = json.loads(content)
            if status == 200:
                self._keep("/api/passes", body, headers, content)
                ids.append(answer["id"])
                await self._alike(ids[0], answer, body)
            elif not ids:
                why = answer["error"]
                raise UserError(why["where"], why["found"], why["expected"], why["hint"])
        return ids

    async def _alike(self, first: str, answer: dict[str, Any], body: dict[str, Any]) -> None:
        """A second model reads the first one's tokens, as the view that compares has it."""
        main = self.answers[_key("/api/passes", {**body, "model": MAIN})]["json"]
        if answer["id"] == first or answer["reads"]["pieces"] != main["reads"]["pieces"]:
            return
        ids = {"reads": main["reads"]["ids"], **({"writes": main["writes"]["ids"]} if main["writes"] else {})}
        given = {"model": body["model"], "text": "", "ids": ids}
        status, headers, content = await self._call("/api/passes", given)
        if status == 200:
            self._keep("/api/passes", given, headers, content)

    async def do(self, work: Callable[[], Result]) -> Result:
        """Looks at the model itself when its turn comes, as a request does: a page may be open beside this."""
        worker: Worker = self._app.state.worker
        return await asyncio.wrap_future(worker.submit(work))

    async def ask(self, wanted: Iterator[Question], room: int) -> int:
        """Keeps the answers to questions until there is no room left; how much there is then."""
        while (question := await self.do(lambda: next(wanted, None))) is not None:
            path, body = question
            status, headers, content = await self._call(path, body)
            if status != 200:
                continue  # this model does not have it: its view says so
            spent = len(content) * (1 if "json" in headers["content-type"] else 4 / 3)
            if spent > room:
                break
            room -= int(spent)
            self._keep(path, body, headers, content)
        return room

    def _keep(self, path: str, body: Any, headers: dict[str, str], content: bytes) -> None:
        match headers["content-type"].split(";")[0]:
            case "application/json":
                kept: Recorded = {"json": json.loads(content)}
            case "application/x-ndjson":
                kept = {"json": [json.loads(line) for line in content.splitlines()]}
            case _:
                own = {name: value for name, value in headers.items() if name.startswith("x-")}
                kept = {"octets": base64.b64encode(content).decode(), "headers": own}
        self.answers[_key(path, body)] = kept

    async def _call(self, path: str, body: Any) -> Answer:
        """One request, by the protocol that servers speak with apps."""
        parts = urlsplit(path)
        content = b"" if body is None else json.dumps(body).encode()
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET" if body is None else "POST",
            "scheme": "http",
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [
                (b"host", b"localhost"),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(content)).encode()),
            ],
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
        }
        receive, send, answer = _wires(content)
        await self._app(scope, receive, send)
        return answer()


Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Any], Awaitable[None]]


def _wires(content: bytes) -> tuple[Receive, Send, Callable[[], Answer]]:
    """Both ends of a request, and the answer once it is there."""
    sent: list[dict[str, Any]] = [{"type": "http.request", "body": content, "more_body": False}]
    told: list[Any] = []

    async def receive() -> dict[str, Any]:
        if sent:
            return sent.pop()
        await asyncio.Event().wait()  # whoever asked never leaves
        raise AssertionError

    async def send(message: Any) -> None:
        told.append(message)

    def answer() -> Answer:
        headers = {name.decode().lower(): value.decode() for name, value in told[0]["headers"]}
        return told[0]["status"], headers, b"".join(message.get("body", b"") for message in told[1:])

    return receive, send, answer


def _key(path: str, body: Any) -> str:
    """As the page looks it up: web/src/api/recorded.ts."""
    parts = urlsplit(path)
    parameters = sorted(f"{name}={value}" for name, value in parse_qsl(parts.query, keep_blank_values=True))
    plain = unquote(parts.path) + ("?" + "&".join(parameters) if parameters else "")
    if body is None:
        return f"GET {plain}"
    return f"POST {plain} {json.dumps(body, sort_keys=True, separators=(',', ':'), ensure_ascii=False)}"
