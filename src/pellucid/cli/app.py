"""``pellucid``: the commands put together, and errors told in one paragraph."""

from __future__ import annotations

import sys
from typing import Annotated

import click
import typer

from pellucid.cli import classify, data, demo, embed, evaluate, fill, generate, train, translate
from pellucid.errors import PellucidError
from pellucid.version import __version__

app = typer.Typer(
    name="pellucid",
    help="The Transformer you can see through: train, evaluate, generate, translate, and look inside.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (demo, train, evaluate, generate, translate, fill, classify, embed):
    app.command(help=command.__doc__)(getattr(command, command.__name__.rsplit(".", 1)[-1]))
app.add_typer(data.app, name="data")


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    """Options before the command."""
    if version:
        print(f"pellucid {__version__}")
        raise typer.Exit


def main() -> None:
    """Runs a command; exit code 2 and no traceback for what the user can fix, unless ``--debug`` asks for it."""
    try:
        sys.exit(app(standalone_mode=False))
    except (PellucidError, click.ClickException) as error:
        if "--debug" in sys.argv:
            raise
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"pellucid: {text}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        print("pellucid: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has had enough
        sys.stderr.close()
        sys.exit(0)
