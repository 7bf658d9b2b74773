"""Translate texts with an encoder–decoder.

Example: `pellucid translate runs/demo-encoder-decoder "3 Mart 2021 Çarşamba" --beams 4`
"""

from __future__ import annotations

from typing import Annotated

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Json,
    LengthPenaltyOption,
    RunArgument,
    Texts,
    Verify,
    open_run,
    penalty_of,
    print_json,
    texts_or_stdin,
)


def translate(
    run: RunArgument,
    text: Texts = None,
    beams: Annotated[int, typer.Option(min=1, help="Texts carried on side by side; 1 is greedy.")] = 1,
    length_penalty: LengthPenaltyOption = "wu:0.6",
    from_language: Annotated[str | None, typer.Option(help="The source's token in a model of many, as de_DE.")] = None,
    to_language: Annotated[str | None, typer.Option(help="The target's token in a model of many, as en_XX.")] = None,
    tokens: Annotated[int | None, typer.Option(help="At most so many; the source's length + 50 by default.")] = None,
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.inference.predict import translate as run_translation

    loaded, sources = open_run(run, device, verify), texts_or_stdin(text)
    targets = run_translation(
        loaded,
        sources,
        beams=beams,
        penalty=penalty_of(length_penalty),
        max_new_tokens=tokens,
        source_language=from_language,
        target_language=to_language,
    )
    for source, target in zip(sources, targets, strict=True):
        if json:
            print_json({"source": source, "target": target})
        else:
            print(target)
