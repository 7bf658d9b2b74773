"""``pellucid``: the commands put together, and errors told in one paragraph."""

from __future__ import annotations

import os
import select
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

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
    output = _output()
    try:
        app()
    except SystemExit as left:  # the parser of commands catches a broken pipe itself, and says nothing
        if not isinstance(left.__context__, BrokenPipeError):
            raise
        _end_broken(left.__context__, output)
    except PellucidError as error:
        if "--debug" in sys.argv:
            raise
        print(f"pellucid: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError as error:
        _end_broken(error, output)
    except OSError as error:  # a full disk, a folder that may not be written
        if "--debug" in sys.argv:
            raise
        _tell(error)


def _speak_utf8() -> None:
    """Texts go in and out as UTF-8, as files do, whatever the system's own encoding; names that are none are escaped.

    A terminal keeps its encoding, and is shown an escape for what that has no sign for.
    """
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding=stream.encoding if stream.isatty() else "utf-8", errors=errors)


def _output() -> int | None:
    """Standard output by a number of its own: who prints tables turns the usual one to nowhere when its reader goes."""
    try:
        return os.dup(sys.stdout.fileno())
    except (AttributeError, OSError):  # a test's, a window's
        return None


def _end_broken(error: BrokenPipeError, output: int | None) -> NoReturn:
    """Ends as the system ends other programs whose reader has had enough: without a word, and not as if all were done.

    A connection that broke, while somebody still reads what is printed, is an error like others.
    """
    if output is None or not _is_unread(output):
        _tell(error)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where what is still held back goes
    sys.exit(128 + 13)  # SIGPIPE


def _is_unread(output: int) -> bool:
    """Whether a pipe has lost its reader; where the system cannot tell, it is what was told to be broken."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    return any(told & (select.POLLERR | select.POLLHUP) for _, told in poll.poll(0))


def _tell(error: OSError) -> NoReturn:
    print(f"pellucid: {error.filename or 'input or output'}: {error.strerror or error}.", file=sys.stderr)
    sys.exit(2)
