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
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to draw, in words that it knows.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("drawn.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="How many images, side by side.")] = 1,
    size: Annotated[int, typer.Option(min=8, max=1024, help="Pixels of a side, each.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.01, help="The lower, the likelier what is drawn.")] = 0.6,
    seed: Seed = 0,
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.data.images import write_grey
    from pellucid.inference.drawing import CODES, codes_after, greys, load_coder, words_of
    from pellucid.models.load import find

    coder = load_coder(find(run))
    loaded = open_run(run, "cpu", verify)
    texts = words_of(text, loaded.tokenizer).expand(count, -1)
    codes = codes_after(loaded.model, texts, temperature=temperature, seed=seed)
    strip = greys(coder.decode(codes)).permute(1, 0, 2).flatten(1)  # side by side
    write_grey(strip, out, size=(size * count, size))
    if json:
        words = loaded.tokenizer.vocab_size - CODES
        whole = [" ".join((text, *loaded.tokenizer.pieces(row))) for row in (codes + words).tolist()]
        print_json({"text": text, "file": str(out), "whole": whole})
    else:
        print(out)
