"""Find out what is wrong with a Transformer. Exit code 0: healthy, 1: a check failed, 2: it could not be examined.

TARGET is a run, a folder in Hugging Face's format, or code of yours: `package.module:function` and `file.py:function`
name a function without arguments that returns a model, or a model and a `pellucid.Spec`; or a model; or a class that
needs no arguments. Naming code runs it.

Examples:

`pellucid doctor runs/notes`

`pellucid doctor model.py:GPT --kind decoder --level full`

`pellucid doctor mypackage.models:make --sarif doctor.sarif --html doctor.html --repro repros`
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import Debug, Device, Json, Seed, console, device_of, print_json
from pellucid.config.files import dump_json
from pellucid.errors import PellucidError, UserError

if TYPE_CHECKING:
    from pellucid.doctor.finding import Report
    from pellucid.doctor.opening import Target
    from pellucid.doctor.spec import Spec

COLOURS = {
    "FAIL": "bold red",
    "WARN": "yellow",
    "INCONCLUSIVE": "magenta",
    "PASS": "green",
    "SKIP": "dim",
    "head": "bold",
}
TARGET_HELP = "A run folder, a folder in Hugging Face's format, package.module:function or file.py:Class."


def doctor(
    target: Annotated[str, typer.Argument(metavar="TARGET", help=TARGET_HELP, show_default=False)],
    level: Annotated[
        str, typer.Option(help="quick: forward passes; standard: gradients too; full: short trainings too.")
    ] = "standard",
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A check or a category in place of all; may be repeated.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="decoder, encoder or encoder_decoder; else it is found out.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="How many tokens there are.")] = None,
    max_length: Annotated[int | None, typer.Option(help="The longest sequence.")] = None,
    window: Annotated[int | None, typer.Option(help="How many keys a query may see, itself included.")] = None,
    pad_id: Annotated[int | None, typer.Option(help="The token of padding.")] = None,
    bos_id: Annotated[int | None, typer.Option(help="That of the start.")] = None,
    eos_id: Annotated[int | None, typer.Option(help="That of the end.")] = None,
    declare: Annotated[
        list[str] | None, typer.Option(metavar="WORD", help="What is so on purpose, as no_left_pad; may be repeated.")
    ] = None,
    spec: Annotated[
        str | None,
        typer.Option(metavar="MODULE:SPEC", help="A pellucid.Spec in your code, for all else there is to say."),
    ] = None,
    sarif: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the findings for code review.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write them as test cases.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the report as Markdown.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as one page of HTML.")] = None,
    repro: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a script for each failure, torch alone, that shows it.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.doctor.opening import opened, spec_named
    from pellucid.doctor.spec import Spec

    said: dict[str, Any] = {
        "kind": kind, "vocab_size": vocab_size, "max_length": max_length, "window": window, "pad_id": pad_id,
        "bos_id": bos_id, "eos_id": eos_id, "declare": frozenset(declare or ()),
    }  # fmt: skip
    with redirect_stdout(sys.stderr) if json else nullcontext():  # code that is named may print what it likes
        told = Spec(**said) if spec is None else Spec(**said).over(spec_named(spec))
        found = opened(target, device=device_of(device), seed=seed)
        report = _examined(target, found, told.over(found.spec), level, only or [], seed, quiet=json)
    _write(report, found, {"sarif": sarif, "junit": junit, "markdown": markdown, "html": html}, repro)
    if json:
        print_json(report.as_dict())
    else:
        _show(report)
    raise typer.Exit(0 if report.healthy else 1)


def _examined(name: str, target: Target, spec: Spec, level: Any, only: list[str], seed: int, *, quiet: bool) -> Report:
    from pellucid.doctor.examine import examine
    from pellucid.doctor.finding import Status

    with _progress(quiet) as progress:
        try:
            report = examine(target.model, spec, level, only=only, seed=seed, build=target.build, progress=progress)
        except PellucidError:
            raise
        except Exception as error:  # a model that cannot be run is the user's to mend
            raise UserError(name, f"could not be examined: {type(error).__name__}: {error}") from error
    if not report.answered:
        first = next(iter(report.of(Status.INCONCLUSIVE, Status.SKIP)), None)
        raise UserError(name, "no question could be answered" + (f"; {first.check}: {first.seen}" if first else ""))
    return report


def _progress(quiet: bool) -> AbstractContextManager[Callable[[str], None]]:
    """Shows the question that is being asked, on a terminal."""
    if quiet or not console.is_terminal:
        return nullcontext(lambda question: None)
    return _Asking()


class _Asking:
    """A line on the terminal for each question, while it is asked."""

    def __enter__(self) -> Callable[[str], None]:
        self.status = console.status("looking at the model")
        self.status.start()
        return lambda question: self.status.update(question)

    def __exit__(self, *raised: object) -> None:
        self.status.stop()


def _show(report: Report) -> None:
    from rich.text import Text

    from pellucid.doctor.show import lines

    for line in lines(report):
        console.print(Text(line.text, style=COLOURS.get(line.style, "")))


def _write(report: Report, target: Target, files: dict[str, Path | None], repro: Path | None) -> None:
    from pellucid.doctor import report as forms

    texts = {
        "sarif": lambda: dump_json(forms.sarif(report, target.source)) + "\n",
        "junit": lambda: forms.junit(report),
        "markdown": lambda: forms.markdown(report),
        "html": lambda: forms.html(report),
    }
    for name, path in files.items():
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(texts[name](), encoding="utf-8")
    if repro is not None:
        repro.mkdir(parents=True, exist_ok=True)
        for finding in report.failed:
            if finding.script:
                (repro / f"{finding.check}.py").write_text(finding.repro(), encoding="utf-8")
