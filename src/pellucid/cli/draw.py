"""Draw what a text asks for, with the model that `pellucid lab pictures` leaves.

Example: `pellucid draw lab/pictures/model "a handwritten seven" --count 8 --out seven.png`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.common import Debug, Json, RunArgument, Seed, Verify, open_run, print_json


def draw(
    run: RunArgument,
    text: Annotated[str, typer.Argument(help="What to draw, in words that it knows.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("drawn.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="How many images, side by side.")] = 1,
    size: Annotated[int, typer.Option(min=8, max=1024, help="Pixels of a side, each.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.01, help="The lower, the likelier what is drawn.")] = 0.6,
    seed: Seed = 0,
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from PIL import Image

    from pellucid.lab.drawing import images_after, load_coder, words_of
    from pellucid.models.load import find

    coder = load_coder(find(run))
    loaded = open_run(run, "cpu", verify)
    texts = words_of(text, loaded.tokenizer).expand(count, -1)
    images = images_after(loaded.model, coder, texts, temperature=temperature, seed=seed)
    grey = (255 - (images[:, 0].clamp(-1, 1) + 1) / 2 * 255).round().byte()
    strip = Image.fromarray(grey.permute(1, 0, 2).flatten(1).numpy())
    strip.resize((size * count, size), Image.Resampling.NEAREST).save(out, format="PNG")
    if json:
        print_json({"text": text, "file": str(out), "images": images[:, 0].tolist()})
    else:
        print(out)
