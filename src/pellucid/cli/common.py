"""What the commands share: options, reading input, loading a run, showing progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pellucid.config.files import dump_json
from pellucid.errors import UserError

if TYPE_CHECKING:
    from pellucid.inference.beam import LengthPenalty
    from pellucid.training.session import Session

RUN_HELP = "A run folder, a folder in Hugging Face's format, or owner/name on their hub."
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False)]
Texts = Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts; without any, lines of standard input.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Seed = Annotated[int, typer.Option(help="Decides every random choice.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto for the fastest there is.")]
Verify = Annotated[bool, typer.Option("--verify", help="Compare the files' checksums before use.")]
WeightsOption = Annotated[
    str, typer.Option(help="As they are read: float32; float16 (nearly exact), bfloat16 and int8 are faster.")
]
PENALTY = "wu:0.6"
LengthPenaltyOption = Annotated[
    str | None,
    typer.Option(
        help="wu:A divides by ((5+length)/6)^A (Wu et al. 2016), power:A by length^A (fairseq, Marian); A is wu:A.",
        show_default=PENALTY,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

console = Console(highlight=False, soft_wrap=True)


def device_of(name: str) -> str:
    """The device a name stands for.

    Raises:
        UserError: for a device that this machine has not.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in there:
        raise UserError("--device", f'found "{name}"', "cpu, cuda, mps or auto")
    if not there[kind]:
        raise UserError("--device", f'no "{name}" on this machine', "one of " + ", ".join(k for k in there if there[k]))
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if (number := name.removeprefix(kind).removeprefix(":")) and not (number.isdecimal() and int(number) < count):
        raise UserError("--device", f'no "{name}" on this machine', f"{kind}:0 to {kind}:{count - 1}")
    return name


def open_run(folder: Path, device: str, verify: bool = False) -> Any:
    """Loads a run or a published model for use."""
    from pellucid.models.load import load

    return load(folder, verify=verify, device=device_of(device))


def open_fast(folder: Path, device: str, verify: bool, weights: str) -> Any:
    """The same, for an engine to write or to read with."""
    from pellucid.inference.engine import fast
    from pellucid.inference.engine.products import known
    from pellucid.nn.memory import huge_pages

    kind = known(weights)
    if device_of(device) == "cpu":
        huge_pages()
    return fast(open_run(folder, device, verify), kind)


def penalty_of(text: str | None) -> LengthPenalty:
    """The length penalty that an option names, or the usual one.

    Raises:
        UserError: for one that is not known.
    """
    from pellucid.inference.beam import Power, Wu

    kinds: dict[str, type[Wu | Power]] = {"": Wu, "wu": Wu, "power": Power}
    kind, _, number = (text or PENALTY).rpartition(":")
    try:
        return kinds[kind](float(number))
    except (KeyError, ValueError):
        raise UserError("--length-penalty", f'found "{text}"', "wu:0.6, power:1.0 or the like") from None


def texts_or_stdin(texts: Sequence[str] | None) -> list[str]:
    """The texts given, or the lines of standard input.

    Raises:
        UserError: when there are none.
    """
    if texts:
        return list(texts)
    if sys.stdin.isatty():
        raise UserError("input", "no text", "texts as arguments, or lines on standard input")
    try:
        lines = [line.rstrip("\r\n") for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise UserError("standard input", f"not UTF-8 ({error})", "text in UTF-8") from None
    if not lines:
        raise UserError("standard input", "empty", "one text a line")
    return [lines[0].removeprefix("\ufeff"), *lines[1:]]  # some editors on Windows begin a file with that mark


def print_json(value: Any) -> None:
    """One object on one line."""
    print(dump_json(value), flush=True)


def say(text: str, quiet: bool = False) -> None:
    """A line for people."""
    if not quiet:
        console.print(text, markup=False)


class Report:
    """Shows training as it goes: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, steps: int, *, quiet: bool = False) -> None:
        self.steps, self.quiet, self.live = steps, quiet, console.is_terminal and not quiet
        self.tokens, self.done, self.began, self.spoke = 0, 0, time.perf_counter(), 0.0
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task = self.progress.add_task("", total=steps)

    def follow(self, events: Iterator[Any]) -> list[Any]:
        """Shows every event; returns all but the steps."""
        from pellucid.training.loop import Step

        others = []
        if self.live:
            self.progress.start()
        try:
            for event in events:
                if isinstance(event, Step):
                    self._step(event)
                else:
                    others.append(event)
                    self._other(event)
        finally:
            self.progress.stop()
        return others

    def _step(self, step: Any) -> None:
        self.tokens += step.tokens
        self.done += 1
        now = time.perf_counter()
        speed = self.tokens / (now - self.began)
        figures = f"loss {step.loss:.3f}  {speed:,.0f} tokens/s"
        if self.live:
            self.progress.update(self.task, completed=step.step, description=figures)
        elif not self.quiet and (now - self.spoke > 10 or step.step == self.steps):
            left = (now - self.began) / self.done * (self.steps - step.step)
            say(f"step {step.step}/{self.steps}  {figures}  {left:.0f} s left")
            self.spoke = now

    def _other(self, event: Any) -> None:
        from pellucid.training.fit import Evaluated, Remark, Resumed, Stopped

        match event:
            case Evaluated(step=step, evaluation=evaluation, best=best, averaged=averaged):
                mark = "  best so far, saved" if best else ""
                figures = f"loss {evaluation.loss:.4f}  accuracy {evaluation.accuracy:.2%}"
                what = f"average of {len(averaged)} checkpoints" if averaged else f"validation after step {step}"
                say(f"{what}: {figures}{mark}", self.quiet)
            case Remark(text=text):
                say(text, self.quiet)
            case Resumed(step=step, remarks=remarks):
                for remark in remarks:
                    say(remark, self.quiet)
                say(f"going on after step {step}", self.quiet)
            case Stopped(step=step, why=why):
                say(
                    f"stopped after step {step} ({why}); everything is saved, go on with `pellucid train --resume`",
                    self.quiet,
                )


def end_card(
    session: Session,
    folder: Path,
    command: str,
    results: dict[str, Any],
    *,
    seconds: float,
    processes: int = 1,
    resumed: bool = False,
) -> dict[str, str]:
    """Draws the curves of a run and writes its card; returns the card's rows for the terminal."""
    from pellucid.training.card import card_rows, measure, write_card
    from pellucid.training.curves import draw
    from pellucid.training.session import validation_batches

    drawn = {}
    try:
        draw(folder)
    except Exception as error:  # whatever a picture fails of must not lose the end of a run
        drawn = {"pictures": f"could not be drawn ({error})"}
    batches = validation_batches(session)
    batch = batches[len(batches) // 2]
    costs = measure(session, folder, batch, seconds=seconds, processes=processes, resumed=resumed)
    write_card(session, folder, command=command, results=results, costs=costs, chosen=session.chosen)
    return {**card_rows(session, folder, results, costs), **drawn}
