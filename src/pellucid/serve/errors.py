"""What is told when a request is not answered, in the form that clients of OpenAI's service know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pellucid.errors import PellucidError, UserError

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ErrorTold(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Why there is no answer."""

    error: ErrorTold


class ServiceError(Exception):
    """A request that is not answered as asked.

    Args:
        param: the part of the request that is at fault.
        code: a word for programs.
        retry_after: seconds after which it is worth asking again.
        in_vain: asking the same again is not; OpenAI's client, which would by itself, is told so.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int = 0,
        in_vain: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after, self.in_vain = retry_after, in_vain

    def body(self) -> dict[str, Any]:
        """As JSON."""
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """As an answer."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.in_vain:
            headers["x-should-retry"] = "false"
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return Json(self.body(), self.status, headers)


class GoneError(Exception):
    """Whoever asked has left."""


def dumped(content: Any) -> bytes:
    """JSON in ASCII: a text may hold halves of characters, which no encoding takes."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dumped(content)


def fault() -> ServiceError:
    """A fault of ours; the log has the rest."""
    return ServiceError(500, "a fault of the service; its log says more", code="internal_error")


def of_user(error: UserError, status: int = 400, param: str | None = None) -> ServiceError:
    """Something that whoever asked can mend."""
    return ServiceError(status, str(error), param=param)


def refuse(status: int, why: UserError) -> Response:
    """An answer that says what is wrong."""
    return of_user(why, status).response()


def install(app: FastAPI) -> None:
    """Every error of an app is answered in this form."""
    app.add_exception_handler(ServiceError, _told)
    app.add_exception_handler(PellucidError, _of_ours)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(GoneError, lambda request, error: Response(status_code=499))


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return error.response()


async def _of_ours(request: Request, error: Exception) -> Response:
    return ServiceError(400, str(error)).response()


async def _misunderstood(request: Request, error: Exception) -> Response:
    """The first thing that is wrong with a request; of what may be several things, by the nearest."""
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    alike = [each for each in errors if each["loc"][:2] == errors[0]["loc"][:2]]
    first = max(alike, key=lambda each: len(each["loc"]))
    param = ".".join(_place(first, error.body)) or None
    if first["type"] == "extra_forbidden":
        message = f"{param} is not supported here"
    elif first["type"] == "json_invalid":
        message, param = "the body is no JSON", None
    elif first["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
        message = 'the body is not said to be JSON: send the header "Content-Type: application/json"'
    else:
        message = f"{param or 'request'}: {first['msg']}"
    return ServiceError(400, message, param=param).response()


def _place(found: Mapping[str, Any], sent: Any) -> list[str]:
    """The way to what is wrong in what was sent, without the names of the types that were tried."""
    place: list[str] = []
    for part in found["loc"]:
        if part in ("body", "query", "path") and not place:
            continue
        is_in = part in sent if isinstance(sent, dict) else isinstance(sent, list) and isinstance(part, int)
        if is_in:
            sent = sent[part]
        if is_in or (found["type"] == "missing" and isinstance(sent, dict)):
            place.append(str(part))
    return place


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = ServiceError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    response = told.response()
    response.headers.update(error.headers or {})
    return response
