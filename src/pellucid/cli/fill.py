"""Fill the gap in a text with an encoder.

Example: `pellucid fill runs/demo-encoder "The <mask> statement raises an exception."`
"""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Json,
    RunArgument,
    Texts,
    Verify,
    WeightsOption,
    open_fast,
    print_json,
    texts_or_stdin,
)


def fill(
    run: RunArgument,
    text: Texts = None,
    top: Annotated[int, typer.Option(min=1, help="How many answers to show.")] = 5,
    weights: WeightsOption = "float32",
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.inference.predict import fill as run_fill

    loaded = open_fast(run, device, verify, weights)
    for line in texts_or_stdin(text):
        answers = run_fill(loaded, line, top=top)
        if json:
            print_json({"text": line, "answers": [answer.__dict__ for answer in answers]})
            continue
        for answer in answers:
            print(f"{answer.probability:7.2%}  {answer.text}")
