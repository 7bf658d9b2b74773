"""Name the label of each text, or of each image file, with a classifier.

Example: `pellucid classify runs/snips "play some jazz" --json`
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


def classify(
    run: RunArgument,
    text: Texts = None,
    weights: WeightsOption = "float32",
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.data.images import open_image
    from pellucid.inference.predict import IMAGES_AT_ONCE
    from pellucid.inference.predict import classify as run_classifier

    loaded, texts = open_fast(run, device, verify, weights), texts_or_stdin(text)
    at_once = len(texts) if loaded.images is None else IMAGES_AT_ONCE  # of photographs few fit into memory
    for start in range(0, len(texts), at_once):
        lines = texts[start : start + at_once]
        inputs = lines if loaded.images is None else [open_image(path) for path in lines]
        for line, found in zip(lines, run_classifier(loaded, inputs), strict=True):
            if json:
                print_json({"text": line, "label": found.label, "probabilities": found.probabilities})
            else:
                print(f"{found.label}\t{found.probability:.2%}\t{line}")
