"""What tests of the service share: small models on servers of their own."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace

import httpx
from exploring import loaded
from families import STACK

from pellucid.config import model as config
from pellucid.config.run import Characters
from pellucid.data.tokenizers import Tokenizer
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded
from pellucid.serve.app import create_app
from pellucid.serve.limits import Limits
from pellucid.serve.run import Background
from pellucid.serve.service import of_loaded

TINY = replace(STACK, num_layers=1)


def classifier(head: config.Classification | config.TokenClassification | None = None) -> Loaded:
    tokenizer = Tokenizer.train(Characters(), ["the cat sat on the mat", "a dog did not"])
    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    head = head or config.Classification(labels=("x", "y"), pooling="mean")
    return Loaded(build(config.Encoder(front=front, stack=TINY, head=head)).eval(), tokenizer, None)


@contextmanager
def served(model, *, limits=None, api_key=None, grace=30, slow=0.0, **more):
    """A model on a port of this machine; ``slow`` seconds are added to every step, ``more`` is as for the service."""
    service = of_loaded(model, "demo", limits=limits or Limits(), **more)
    if slow:
        step = service.worker.scheduler.step

        def slowly():
            time.sleep(slow)
            return step()

        service.worker.scheduler.step = slowly
    with Background(create_app(service, api_key=api_key), grace=grace, level="error") as background:
        yield background


def endless(model, **more):
    """What asks for a text that does not end by itself."""
    return {"prompt": "a", "temperature": 0, "logit_bias": {str(model.tokenizer.eos): -100}, **more}


def http(background, **headers):
    return httpx.Client(base_url=background.url, timeout=60, headers=headers)


def settled(background, seconds=10.0):
    """Waits until nothing is on its way; True when the thread has nothing left either."""
    worker, until = background.service.worker, time.monotonic() + seconds
    while time.monotonic() < until:
        left = worker.open or worker._tickets or worker.rows or worker.scheduler.has_work
        if not left:
            return True
        time.sleep(0.02)
    return False


__all__ = ["classifier", "endless", "http", "loaded", "served", "settled"]
