"""Offer a model over HTTP: completions as OpenAI's clients ask for them, translation, embeddings, labels.

Examples:

`pellucid serve runs/notes`

`curl localhost:8000/v1/completions -H 'content-type: application/json' -d '{"prompt": "Once upon", "max_tokens": 40}'`

`PELLUCID_API_KEY=secret pellucid serve runs/en-de --host 0.0.0.0 --weights int8`
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from pellucid.cli.common import Debug, Device, RunArgument, Verify, device_of, say
from pellucid.errors import UserError

PrefixTokens = Annotated[
    int, typer.Option(help="Of prompts, remembered for others that begin alike; 0 remembers none.", min=0)
]
InvariantOption = Annotated[
    bool, typer.Option("--invariant", help="The same bits, whoever is written beside a text; slower.")
]


def serve(
    run: RunArgument,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any that is free.", min=0, max=65535)] = 8000,
    name: Annotated[str | None, typer.Option(help="By which clients call the model; else the folder's.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="PELLUCID_API_KEY", help="What clients must show.", show_default=False)
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name by which clients reach this machine.")
    ] = None,
    weights: Annotated[str, typer.Option(help="float32, float16, bfloat16, int8; plain is the slow way.")] = "float32",
    rows: Annotated[int, typer.Option(help="Texts written at once.", min=1)] = 64,
    tokens: Annotated[int, typer.Option(help="That those may come to in all.", min=1)] = 1 << 17,
    waiting: Annotated[int, typer.Option(help="Requests that may wait; one more is told to come back.", min=1)] = 256,
    prompt_tokens: Annotated[int, typer.Option(help="Of one prompt or source, at most.", min=1)] = 8192,
    new_tokens: Annotated[int, typer.Option(help="Of one text that is written, at most.", min=1)] = 4096,
    seconds: Annotated[float, typer.Option(help="That one request may take.", min=0.1)] = 300.0,
    prefix_tokens: PrefixTokens = 0,
    invariant: InvariantOption = False,
    grace: Annotated[float, typer.Option(help="Seconds that what runs may take at the end.", min=1)] = 30.0,
    log_level: Annotated[str, typer.Option(help="info logs every request; warning only what is wrong.")] = "info",
    device: Device = "cpu",
    verify: Verify = False,
    debug: Debug = False,
) -> None:
    from pellucid.serve.app import create_app
    from pellucid.serve.limits import Limits
    from pellucid.serve.listening import address, listen
    from pellucid.serve.run import names_of
    from pellucid.serve.run import run as run_service
    from pellucid.serve.service import open_service

    if log_level not in ("debug", "info", "warning", "error"):
        raise UserError("--log-level", f'found "{log_level}"', "debug, info, warning or error")
    _check_key(os.environ.get("PELLUCID_API_KEY") if api_key is None else api_key)
    limits = Limits(
        rows=rows, tokens=tokens, waiting=waiting, prompt_tokens=prompt_tokens, new_tokens=new_tokens, seconds=seconds
    )
    service = open_service(run, name=name, weights=weights, device=device_of(device), verify=verify, limits=limits,
                           prefix_tokens=prefix_tokens, invariant=invariant)  # fmt: skip
    hosts, addresses = names_of(host, allow_host or ())
    app = create_app(service, hosts=hosts, addresses=addresses, api_key=api_key)
    listening = listen(host, port)
    say(f"{service.name} on {address(listening)} answers {', '.join(service.answers)}")
    if addresses and not api_key:
        say("other machines may ask, without a key: --api-key wants one")
    run_service(app, listening, grace=grace, level=log_level)


def _check_key(given: str | None) -> None:
    """Refuses a key of nothing, as a variable that was never set leaves it: everybody could ask."""
    if given is not None and not given.strip():
        expected = "a key, or neither --api-key nor PELLUCID_API_KEY where everybody may ask"
        raise UserError("--api-key", "an empty one", expected)
