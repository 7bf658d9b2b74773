"""Turn each text into a vector with an encoder.

Example: `pellucid embed runs/demo-encoder "a generator yields values" --json`
"""

from __future__ import annotations

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


def embed(
    run: RunArgument,
    text: Texts = None,
    weights: WeightsOption = "float32",
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.inference.predict import embed as run_embedding

    loaded, texts = open_fast(run, device, verify, weights), texts_or_stdin(text)
    for line, vector in zip(texts, run_embedding(loaded, texts).tolist(), strict=True):
        if json:
            print_json({"text": line, "embedding": vector})
        else:
            print(" ".join(f"{value:.5f}" for value in vector))
