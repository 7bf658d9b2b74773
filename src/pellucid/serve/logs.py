"""A line of JSON for every request, and for everything else that is logged."""

from __future__ import annotations

import json
import logging
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.serve.errors import fault
from pellucid.serve.metrics import Metrics

log = logging.getLogger("pellucid.serve")


class Lines(logging.Formatter):
    """Records as JSON; what is in ``record.fields`` stands beside the message."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def settings(level: str) -> dict[str, Any]:
    """For ``logging.config.dictConfig``: this service and its server, in lines of JSON on standard error."""
    quiet = {"handlers": ["lines"], "level": "WARNING", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": Lines}},
        "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "loggers": {
            "pellucid.serve": {"handlers": ["lines"], "level": level.upper(), "propagate": False},
            "uvicorn": quiet,
            "uvicorn.error": {"level": "WARNING"},
            "uvicorn.access": {"level": "CRITICAL"},
        },
    }


class Account:
    """Logs and counts every request, and answers those that a fault of ours has left without an answer."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, name, status, is_begun = time.perf_counter(), secrets.token_hex(8), 499, False
        state = scope.setdefault("state", {})

        async def noted(message: Message) -> None:
            nonlocal status, is_begun
            if message["type"] == "http.response.start":
                status, is_begun = message["status"], True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", name.encode())]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception:
            log.exception("a request failed", extra={"fields": {"id": name}})
            if is_begun:
                raise
            await fault().response()(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - began
            route = scope.get("route")
            self.metrics.answered(getattr(route, "path", "other"), status, seconds)
            read, written = state.get("tokens", (None, None))
            fields = {
                "id": name,
                "client": (scope.get("client") or ("",))[0],
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "seconds": round(seconds, 4),
                "tokens_read": read,
                "tokens_written": written,
            }
            log.info("request", extra={"fields": {key: value for key, value in fields.items() if value is not None}})
