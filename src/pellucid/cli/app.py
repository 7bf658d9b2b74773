"""``pellucid``: the commands put together, and errors told in one paragraph."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from pellucid.cli import (
    classify,
    convert,
    data,
    demo,
    diff,
    doctor,
    draw,
    embed,
    evaluate,
    explore,
    fill,
    generate,
    lab,
    serve,
    size,
    tag,
    trace,
    train,
    transcribe,
    translate,
)
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
for command in (
    demo, train, evaluate, generate, translate, fill, classify, tag, transcribe, draw, embed, convert, size, trace,
    diff, doctor, explore, serve, lab,
):  # fmt: skip
    app.command(help=command.__doc__)(getattr(command, command.__name__.rsplit(".", 1)[-1]))
app.add_typer(data.app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        print(f"pellucid {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


def main() -> None:
    """Runs a command; exit code 2 and no traceback for what the user can fix, unless ``--debug`` asks for it."""
    _speak_utf8()
    try:
        app()
    except SystemExit as left:
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        _fall_silent()  # the parser of commands has caught it, and calls it an error
    except PellucidError as error:
        if "--debug" in sys.argv:
            raise
        print(f"pellucid: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read our output has had enough
        _fall_silent()
    except OSError as error:  # a full disk, a folder that may not be written
        if "--debug" in sys.argv:
            raise
        print(f"pellucid: {error.filename or 'input or output'}: {error.strerror or error}.", file=sys.stderr)
        sys.exit(2)


def _speak_utf8() -> None:
    """Texts go in and out as UTF-8, as files do, whatever the system's own encoding; names that are none are escaped.

    A terminal keeps its encoding, and is shown an escape for what that has no sign for.
    """
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=stream.encoding if stream.isatty() else "utf-8", errors=errors)


def _fall_silent() -> None:
    """Ends well; what is still held back for an output that nobody reads goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
