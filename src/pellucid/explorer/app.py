"""The server behind the page: on this machine alone, bounded, and never a traceback."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.errors import CheckpointError, PellucidError, UserError
from pellucid.explorer import routes
from pellucid.explorer.session import Session
from pellucid.explorer.wire import Json
from pellucid.explorer.worker import BusyError, GoneError, Worker
from pellucid.version import __version__

STATIC = Path(__file__).parent / "static"
MOST_BYTES = 1 << 20  # of a body
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]", "testserver")


def create_app(session: Session, *, hosts: tuple[str, ...] = LOOPBACK) -> FastAPI:
    """The page and all that it asks for.

    Args:
        hosts: by which the server may be addressed. Others are refused, so that no page from elsewhere can reach it
            under a name of its own.

    Raises:
        CheckpointError: when the page was not built into this installation.
    """
    if not (STATIC / "index.html").exists():
        hint = "install pellucid again; from its sources, `pip install .` builds the page"
        raise CheckpointError(STATIC / "index.html", "the page is missing from this installation", hint=hint)
    app = FastAPI(title="pellucid explorer", version=__version__, docs_url=None, redoc_url=None)
    app.state.session, app.state.worker = session, Worker()
    app.add_middleware(Guard, hosts=hosts)
    for router in routes.ALL:
        app.include_router(router, prefix="/api")
    app.add_exception_handler(PellucidError, _told)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(GoneError, lambda request, error: Response(status_code=499))
    app.add_exception_handler(Exception, _broken)
    app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
    return app


class Guard:
    """Refuses other hosts, pages of other origins, and bodies that are too long."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if (why := self._objection(headers)) is not None:
            await Json({"error": why}, 403)(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            why = _error("request", f"a body of {length} bytes", f"at most {MOST_BYTES:,}")
            await Json({"error": why}, 413)(scope, receive, send)
            return
        await self.app(scope, _bounded(receive), send)

    def _objection(self, headers: dict[str, str]) -> dict[str, str] | None:
        host = urlsplit(f"//{headers.get('host', '')}").hostname
        if host not in self.hosts:
            return _error("host", f'found "{host}"', "this machine", "open the address that was printed")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).hostname not in self.hosts:
            return _error("origin", f'found "{origin}"', "the explorer's own page")
        return None


def _bounded(receive: Receive) -> Receive:
    """The body, cut where one of unstated length becomes too long."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_BYTES:
            raise HTTPException(413, f"at most {MOST_BYTES:,} bytes")
        return message

    return limited


def _error(where: str, found: str, expected: str = "", hint: str = "") -> dict[str, str]:
    return {"where": where, "found": found, "expected": expected, "hint": hint}


async def _told(request: Request, error: Exception) -> Response:
    """An error that whoever asked can fix."""
    if not isinstance(error, UserError):
        return Json({"error": _error("request", str(error))}, 422)
    busy = isinstance(error, BusyError)
    told = _error(error.where, error.found, error.expected, error.hint)
    return Json({"error": told}, 503 if busy else 422, headers={"Retry-After": "1"} if busy else None)


async def _misunderstood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return Json({"error": _error(where, str(first["msg"]))}, 422)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Json({"error": _error(request.url.path, str(error.detail))}, error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    """A fault of ours: said as such, the rest is on the terminal."""
    return Json({"error": _error("server", f"{type(error).__name__}: {error}", hint="see the terminal")}, 500)
