"""Sockets that listen."""

from __future__ import annotations

import os
import socket

from pellucid.errors import UserError


def listen(host: str, *ports: int) -> socket.socket:
    """A socket that listens on the first of these ports that is free; 0 is any that is.

    Raises:
        UserError: for ports that are taken or may not be used, or a host that is not this machine's.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"host {host}", f"cannot be used ({error})", "an address of this machine") from None
    why = ""
    for port in ports:
        found = socket.socket(family, kind, protocol)
        if os.name == "posix":
            # Else a port stays closed for a minute after its last server; on Windows this would share one in use.
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((place[0], port, *place[2:]))
            found.listen(1024)
        except (OSError, OverflowError) as error:
            found.close()
            why = str(error)
        else:
            return found
    where = f"--port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"
    raise UserError(where, f"cannot be used ({why})", "a free port from 1 to 65535", "--port 0 takes any free one")


def address(listening: socket.socket) -> str:
    """The URL of a socket's server, for clients on this machine or elsewhere."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
