"""The service: routes, and everything that stands before them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from pellucid.serve import completions, native, status
from pellucid.serve.errors import ErrorBody, ServiceError, install, refuse
from pellucid.serve.guard import LOOPBACK, Guard
from pellucid.serve.logs import Account
from pellucid.serve.service import Service
from pellucid.version import __version__

OPEN = ("/healthz", "/readyz")  # asked by what keeps services running, which has no key
REFUSALS = {
    400: "The request cannot be answered; the message says what to change.",
    401: "No API key, or a wrong one.",
    404: "No such model.",
    408: "Not done within the time that is allowed.",
    413: "A body that is too long.",
    429: "Too many requests wait; Retry-After says when to come back.",
    503: "Not ready, or ending.",
}


def create_app(
    service: Service, *, hosts: Collection[str] = LOOPBACK, addresses: bool = False, api_key: str | None = None
) -> FastAPI:
    """All that a service answers.

    Args:
        hosts: by which it may be addressed, and pages of which may ask.
        addresses: whether any address will do too, as where it listens to other machines.
        api_key: what clients must show; ``None`` for nothing.
    """

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start(service.warm)
        yield
        await service.worker.stop()

    refusals = {number: {"model": ErrorBody, "description": told} for number, told in REFUSALS.items()}
    app = FastAPI(
        title="pellucid",
        version=__version__,
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
        lifespan=living,
        responses=refusals,  # type: ignore[arg-type]
    )
    app.state.service = service
    install(app)
    for router in (completions.router, native.router, status.router):
        app.include_router(router)
    if api_key is not None:
        app.add_middleware(Key, key=api_key)
    # Pages from elsewhere have been refused by the guard; a browser asks those of these hosts before it lets them ask.
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"])
    app.add_middleware(Guard, hosts=hosts, addresses=addresses, most_bytes=service.limits.body_bytes, refuse=refuse)
    app.add_middleware(Account, metrics=service.metrics)
    return app


class Key:
    """Refuses whoever does not show the key."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self.app, self.digest = app, _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN or self._shown(scope):
            await self.app(scope, receive, send)
            return
        wrong = ServiceError(401, "no API key, or a wrong one: send Authorization: Bearer KEY", code="invalid_api_key")
        await wrong.response()(scope, receive, send)

    def _shown(self, scope: Scope) -> bool:
        """Compares digests, in a time that does not depend on how much is right, nor on lengths."""
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, key = given.partition(b" ")
        return hmac.compare_digest(_digest(key.strip()), self.digest) and kind.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
