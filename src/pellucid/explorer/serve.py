"""A server on this machine alone, until it is told to end."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import socket
import sys
import threading
import time

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from pellucid.explorer.app import create_app
from pellucid.explorer.session import Session
from pellucid.serve.listening import address, listen

HOST = "127.0.0.1"
PORT = 8642
TRIED = 64  # ports, from the usual one on
PATIENCE = 2  # seconds that requests under way may still take at the end


def free_socket(port: int | None = None) -> socket.socket:
    """A socket that listens here: on a port, on any free one for 0, on the usual one or the next for ``None``.

    Raises:
        UserError: for a port that is taken or may not be used.
    """
    return listen(HOST, *(range(PORT, PORT + TRIED) if port is None else [port]))


def server(app: FastAPI) -> uvicorn.Server:
    """A server for an app, not yet begun."""
    told = copy.deepcopy(LOGGING_CONFIG)
    told["filters"] = {"faults": {"()": Faults}}
    told["handlers"]["default"]["filters"] = ["faults"]
    settings = uvicorn.Config(
        app,
        log_config=told,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=PATIENCE,
        lifespan="off",
    )
    return uvicorn.Server(settings)


class Faults(logging.Filter):
    """Leaves out what is no fault: requests that were under way when the server was told to end."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        was_cut = kind is not None and issubclass(kind, asyncio.CancelledError)
        return not was_cut and "graceful shutdown exceeded" not in str(record.msg)


class Background:
    """A server in a thread of its own, which ends with the program."""

    def __init__(self, session: Session, port: int | None = 0) -> None:
        self.app = create_app(session)
        self._server = server(self.app)
        self._socket = free_socket(port)
        self.url = address(self._socket)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="pellucid-explorer", daemon=True
        )
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)

    @property
    def is_running(self) -> bool:
        """Whether it still answers."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Until it is closed, or Ctrl-C."""
        try:
            while self._thread.is_alive():
                time.sleep(0.2)  # no join: Python takes a thread for ended when Ctrl-C comes while one waits for it
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Answers what is under way and ends."""
        self._server.should_exit = True
        self._thread.join(PATIENCE + 3)
        self._socket.close()


def has_screen() -> bool:
    """Whether somebody sits before this machine, so that a browser can be opened for them."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform in ("darwin", "win32") or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))
