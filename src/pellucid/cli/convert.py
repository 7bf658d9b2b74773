"""Write a model in another format.

Example: `pellucid convert runs/notes exported --to hf`
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.common import Debug, Json, RunArgument, print_json, say


class Format(StrEnum):
    """What can be written."""

    hf = "hf"
    pellucid = "pellucid"
    onnx = "onnx"


def convert(
    source: RunArgument,
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write.", show_default=False)],
    to: Annotated[Format, typer.Option(help="hf for Hugging Face's libraries, vLLM, CTranslate2; pellucid; onnx.")],
    force: Annotated[bool, typer.Option("--force", help="Replace what is in DEST.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.models.convert import convert as run_conversion

    figures = run_conversion(source, dest, to.value, force=force)
    if json:
        print_json({"folder": str(dest), **figures})
        return
    say(f"{figures['parameters']:,} parameters as {figures['layout']} in {dest}")
