"""Data sets that come with the package or can be fetched.

Example: `pellucid data get multi30k`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from pellucid.cli.common import Debug, Json, console, print_json, say

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command("list")
def list_sets(json: Json = False) -> None:
    """Every set that `--data NAME` knows."""
    from pellucid.data.catalog import CATALOG
    from pellucid.data.corpora import BUILT_IN

    for name, about in BUILT_IN.items():
        if json:
            print_json({"name": name, "about": about, "built_in": True})
        else:
            say(f"{name:16} {about}")
    for entry in CATALOG.values():
        if json:
            row = {"name": entry.name, "about": entry.about, "home": entry.home, "terms": entry.terms}
            print_json({**row, "built_in": False, "bytes": entry.bytes})
        else:
            say(f"{entry.name:16} {entry.about}\n{'':16} {entry.terms}; from {entry.home}")


@app.command("get")
def get_set(
    name: Annotated[str, typer.Argument(help="A name of `pellucid data list`.")],
    mirror: Annotated[Path | None, typer.Option(help="A folder that holds NAME/FILE already.")] = None,
    debug: Debug = False,
) -> None:
    """Fetch a set from its home, or check a mirror; every file's sha256 is verified."""
    from pellucid.data.catalog import get

    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=console,
                  transient=True, disable=not console.is_terminal) as bar:  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def show(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=size)
                if not console.is_terminal:
                    print(f"fetching {file}, {size:,} bytes", file=sys.stderr)
            bar.update(tasks[file], completed=done, total=size)

        folder = get(name, mirror, show)
    print(folder)
