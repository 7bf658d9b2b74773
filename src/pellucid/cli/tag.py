"""Find the names in each text, or label each of its words, with a model that labels tokens.

Example: `pellucid tag dslim/bert-base-NER "Ada Lovelace lived in London." --json`
"""

from __future__ import annotations

from dataclasses import asdict
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


def tag(
    run: RunArgument,
    text: Texts = None,
    words: Annotated[bool, typer.Option("--words", help="The label of every word, and not names alone.")] = False,
    weights: WeightsOption = "float32",
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.inference.predict import tag as run_tagger

    loaded, texts = open_fast(run, device, verify, weights), texts_or_stdin(text)
    for line, found in zip(texts, run_tagger(loaded, texts, words=words), strict=True):
        if json:
            print_json({"text": line, "spans": [asdict(span) for span in found]})
        else:
            for span in found:
                print(f"{span.label}\t{span.probability:.2%}\t{span.start}\t{span.end}\t{span.text}")
            print()
