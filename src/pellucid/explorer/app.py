"""The server behind the page: on this machine alone, bounded, and never a traceback."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from pellucid.errors import CheckpointError, PellucidError, UserError
from pellucid.explorer import routes
from pellucid.explorer.session import Session
from pellucid.explorer.wire import Json
from pellucid.explorer.worker import BusyError, GoneError, Worker
from pellucid.serve.guard import LOOPBACK, Guard
from pellucid.version import __version__

STATIC = Path(__file__).parent / "static"
MOST_BYTES = 1 << 20  # of a body
MOST_OF_A_FILE = 16 << 20  # a photograph, half a minute of sound


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
    app.add_middleware(Guard, hosts=hosts, most_bytes=MOST_BYTES, roomy={"/api/shown": MOST_OF_A_FILE}, refuse=_refuse)
    for router in routes.ALL:
        app.include_router(router, prefix="/api")
    app.add_exception_handler(PellucidError, _told)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(GoneError, lambda request, error: Response(status_code=499))
    app.add_exception_handler(Exception, _broken)
    app.mount("/", StaticFiles(directory=STATIC, html=True), name="page")
    return app


def _refuse(status: int, why: UserError) -> Response:
    return Json({"error": _error(why.where, why.found, why.expected, why.hint)}, status)


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
