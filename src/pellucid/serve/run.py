"""A service on a port, until it is told to end."""

from __future__ import annotations

import math
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from pellucid.errors import UserError
from pellucid.serve.guard import LOOPBACK, host_of, is_address
from pellucid.serve.listening import address, listen
from pellucid.serve.logs import settings

PORT = 8000
PATIENCE = 120  # seconds for a model to become warm
GRACE = 30  # seconds that what runs may still take when the service ends
SWITCH = 1e-3  # seconds after which a busy thread lets another in: the model's must not wait long between two products


class Server(uvicorn.Server):
    """Tells its service when it is about to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.service.is_ending = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def server(app: FastAPI, *, grace: float = GRACE, level: str = "info") -> Server:
    """A server for an app, not yet begun. When told to end, it takes no more, and what runs is finished."""
    return Server(
        uvicorn.Config(
            app,
            log_config=settings(level),
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=None if math.isinf(grace) else math.ceil(grace),
            server_header=False,
        )
    )


def run(app: FastAPI, listening: socket.socket, *, grace: float = GRACE, level: str = "info") -> None:
    """Serves until SIGINT or SIGTERM."""
    sys.setswitchinterval(SWITCH)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended
        server(app, grace=grace, level=level).run(sockets=[listening])


class Background:
    """A service in a thread of its own, as in a test or a notebook; a context manager.

    Args:
        port: 0 for any that is free.
    """

    def __init__(self, app: FastAPI, port: int = 0, *, grace: float = GRACE, level: str = "warning") -> None:
        self.app, self.service = app, app.state.service
        self._server, self._socket = server(app, grace=grace, level=level), listen("127.0.0.1", port)
        self.url = address(self._socket)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)
        self._thread.start()
        until = time.monotonic() + PATIENCE
        while self._thread.is_alive() and not self.service.is_ready and time.monotonic() < until:
            time.sleep(0.01)

    def close(self) -> None:
        """Finishes what runs, and ends."""
        self.service.is_ending = True
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def names_of(host: str, allowed: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The names by which a service on this address may be asked, and whether any address will do.

    A service for this machine alone takes its own names only. One for others takes any address: a page that wants to
    reach it under a false name needs a name.

    Raises:
        UserError: for what is no name alone, which no request could bring.
    """
    names = (*LOOPBACK, *map(_name, allowed))
    if host in LOOPBACK:
        return names, False
    return (*names, host.lower(), socket.gethostname().lower()), True


def _name(given: str) -> str:
    name = given.strip("[]").lower()
    if not is_address(name) and host_of(f"//{name}") != name:
        raise UserError("--allow-host", f'found "{given}"', "a name alone, such as example.org")
    return name
