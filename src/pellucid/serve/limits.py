"""How much one request, and all together, may ask for."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pellucid.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What the service agrees to.

    Attributes:
        rows: texts written at once.
        tokens: that those may come to in all; bounds the memory of keys and values.
        waiting: requests that wait for their turn; one more is told to come back later.
        prompt_tokens: of one prompt or source.
        new_tokens: of one text that is written.
        texts: in one request, choices included.
        beams: of one search.
        seconds: from the arrival of a request to its end.
        body_bytes: of a request.
    """

    rows: int = 64
    tokens: int = 1 << 17
    waiting: int = 256
    prompt_tokens: int = 8192
    new_tokens: int = 4096
    texts: int = 128
    beams: int = 16
    seconds: float = 300.0
    body_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for each in fields(self):
            if not (value := getattr(self, each.name)) > 0:
                raise UserError(f"limits.{each.name}", f"found {value}", "more than 0")
