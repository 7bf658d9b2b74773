"""What tests of the explorer's page share: small models on servers, and how numbers are read from a page."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, replace
from urllib.parse import quote

import pytest
import torch
from families import STACK

from pellucid.config import model as config
from pellucid.config.run import Characters
from pellucid.data.tokenizers import Tokenizer
from pellucid.explorer.session import LAZY
from pellucid.inference.reading import read
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded
from pellucid.trace import trace

TEXT, TARGET = "the cat sat", "a dog"


def loaded(family: str, **parts) -> Loaded:
    """A small model with weights large enough for attention to be far from uniform, parts of its stack exchanged."""
    tokenizer = Tokenizer.train(Characters(), ["the cat sat on the mat", "a dog did not"])
    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    stack = replace(STACK, **parts)
    models = {
        "encoder": config.Encoder(front=front, stack=stack),
        "decoder": config.Decoder(front=front, stack=stack),
        "encoder_decoder": config.EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack),
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = build(models[family]).eval()
        for parameter in model.parameters():
            spread = 0.1 if parameter.dim() == 1 else 1.5 * parameter.size(-1) ** -0.5
            parameter.add_(torch.randn_like(parameter) * spread)
    return Loaded(model, tokenizer, None)


@dataclass(eq=False)
class Served:
    """A model on a server of its own.

    Attributes:
        url: of the page.
    """

    family: str
    loaded: Loaded
    session: object
    url: str

    @property
    def target(self) -> str | None:
        return TARGET if self.family == "encoder_decoder" else None

    def trace(self, text=TEXT, target="", **options):
        """The tape of what the page shows, from the model itself, taken as the server takes it."""
        reading = read(self.loaded, text, self.target if target == "" else target)
        return trace(self.loaded.model, reading.arguments, lazy=LAZY, **options)

    def pieces(self, text=TEXT, target=""):
        """What the model, and its decoder, reads."""
        reading = read(self.loaded, text, self.target if target == "" else target)
        return reading.pieces, reading.target

    def link(self, view: str, **pinned) -> str:
        """The address of a view with something chosen."""
        settings = {"view": view, "text": TEXT, **({"target": self.target} if self.target else {}), **pinned}
        return f"{self.url}#1?" + "&".join(f"{name}={quote(str(value))}" for name, value in settings.items())


def serve(app) -> tuple[str, object]:
    """Runs an app on a free port of this machine, in a thread; returns its address and the server."""
    import uvicorn

    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    threading.Thread(target=server.run, kwargs={"sockets": [free]}, daemon=True).start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.02)
    return f"http://127.0.0.1:{free.getsockname()[1]}/", server


# ---- reading the page ---------------------------------------------------------------------------


def value(locator) -> float:
    """The number behind a printed one, as the page has it: exact."""
    text = locator.get_attribute("data-value")
    assert text is not None, "this number has no data-value"
    return float(text.replace("Infinity", "inf").replace("NaN", "nan"))


def values(locator) -> list[float]:
    """The same for all that are found."""
    locator.first.wait_for()
    return [value(one) for one in locator.all()]


def same(numbers):
    """Equal as numbers computed in another order are: maps are not kept, but computed again when they are asked for."""
    return pytest.approx(numbers, rel=3e-6, abs=1e-9)


def cell(page, row: int, column: int, testid: str = "matrix") -> dict[str, float]:
    """The middle of a cell of a matrix, for ``locator.click(position=…)`` on its box; -1 is the labels."""
    box = page.get_by_test_id(f"{testid}-box")
    page.locator(f'[data-testid="{testid}-box"][data-cells]').wait_for()
    left, top, across, down = map(float, box.get_attribute("data-cells").split(","))
    x = left / 2 if column < 0 else left + (column + 0.5) * across
    y = top / 2 if row < 0 else top + (row + 0.5) * down
    return {"x": x, "y": y}
