"""Who may ask a server at all: hosts, pages of other origins, and bodies of bounded length."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from fastapi import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pellucid.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]", "testserver")

Refuse = Callable[[int, UserError], Response]


class Guard:
    """Refuses other hosts, pages of other origins, and bodies that are too long.

    Args:
        hosts: by which the server may be addressed, so that no page from elsewhere can reach it under a name of its
            own, which it could let stand for this machine's address (DNS rebinding).
        addresses: whether any address will do too: a name is what such an attack needs.
        most_bytes: of a body. roomy: and of the bodies of some paths.
        refuse: makes the answer of a status and of what is wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        addresses: bool = False,
        most_bytes: int,
        roomy: Mapping[str, int] | None = None,
        refuse: Refuse,
    ) -> None:
        self.app, self.hosts, self.addresses = app, frozenset(hosts), addresses
        self.most_bytes, self.roomy, self.refuse = most_bytes, roomy or {}, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if (why := self._objection(headers, scope["path"])) is not None:
            await self.refuse(403, why)(scope, receive, send)
            return
        length, most = headers.get("content-length", "0"), self.roomy.get(scope["path"], self.most_bytes)
        if not (length.isascii() and length.isdigit()) or int(length) > most:
            too_long = UserError("request", f"a body of {length} bytes", f"at most {most:,}")
            await self.refuse(413, too_long)(scope, receive, send)
            return
        await self.app(scope, _bounded(receive, most), send)

    def _objection(self, headers: dict[str, str], path: str) -> UserError | None:
        host = host_of(f"//{headers.get('host', '')}")
        if host not in self.hosts and not (self.addresses and is_address(host)):
            found = f'found "{headers.get("host", "")}"'
            return UserError("host", found, "this machine", "open the address that was printed")
        origin = headers.get("origin")
        if origin is not None and host_of(origin) not in {host, *self.hosts}:
            return UserError("origin", f'found "{origin}"', "the server's own page")
        # A picture or a script of another page names no origin, and what it asks for may be hours of work.
        if headers.get("sec-fetch-site") == "cross-site" and path.startswith("/api/"):
            return UserError("request", "sent by a page from elsewhere", "the server's own page")
        return None


def host_of(url: str) -> str | None:
    """The name or address in a URL, in small letters and without its port."""
    try:
        return urlsplit(url).hostname
    except ValueError:  # brackets that hold no address
        return None


def is_address(host: str | None) -> bool:
    """Whether a host is an address, and no name."""
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return True


def _bounded(receive: Receive, most_bytes: int) -> Receive:
    """The body, cut where one of unstated length becomes too long."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most_bytes:
            raise HTTPException(413, f"at most {most_bytes:,} bytes")
        return message

    return limited
