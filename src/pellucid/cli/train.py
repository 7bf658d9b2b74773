"""Train a model from a recipe, or on your own text.

Examples:

`pellucid train decoder --text notes.txt --out runs/notes`

`pellucid train encoder-decoder --source en.txt --target de.txt --out runs/en-de training.steps=8000`

`pellucid train classifier --labelled mails.tsv --out runs/mails`

`pellucid train recipes/shakespeare-char.toml training.steps=500`

`pellucid train --resume runs/notes`
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import Debug, Device, Json, Report, device_of, print_json, say
from pellucid.config.defaults import FAMILIES, default_run
from pellucid.config.files import read_plain
from pellucid.config.run import Data, LabelledFiles, NamedData, ParallelFiles, Run, TextFiles
from pellucid.config.schema import from_dict, to_dict, with_overrides
from pellucid.errors import UserError, nearest

if TYPE_CHECKING:
    from pellucid.training.session import Session


def train(
    what: Annotated[
        str | None, typer.Argument(help="A recipe (.toml or .json), or one of " + ", ".join(FAMILIES) + ".")
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change.")] = None,
    text: Annotated[list[Path] | None, typer.Option(help="Plain text to model; may be repeated.")] = None,
    source: Annotated[Path | None, typer.Option(help="The source side, a text a line.")] = None,
    target: Annotated[Path | None, typer.Option(help="The target side, a text a line.")] = None,
    labelled: Annotated[Path | None, typer.Option(help="label<TAB>text lines (.tsv), or .jsonl.")] = None,
    data: Annotated[str | None, typer.Option(help="A set by name; see `pellucid data list`.")] = None,
    mirror: Annotated[str | None, typer.Option(help="A folder to read a catalogue set from.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME by default.")] = None,
    resume: Annotated[Path | None, typer.Option(help="A run folder to go on with, exactly where it stopped.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random choice.")] = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there already.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    if resume is not None:
        if what or settings:
            raise UserError("--resume", f"together with {what}", "a run folder alone, since its settings are its own")
        resume_in_folder(resume, device=device, json=json)
        return
    if what is None:
        raise UserError("train", "nothing to train", "a recipe or a family", "see `pellucid train --help`")
    given = _data(text, source, target, labelled, data, mirror)
    run = _run(what, given, mirror, settings or [])
    run = run if seed is None else replace(run, seed=seed)
    folder = out or Path("runs") / (Path(what).stem if _is_file(what) else what)
    run_in_folder(run, folder, device=device, force=force, json=json)


def run_in_folder(run: Run, folder: Path, *, device: str, force: bool, json: bool) -> None:
    """Prepares and trains a run, and leaves its card."""
    from pellucid.training.memory import keep_freed_memory
    from pellucid.training.session import fit, prepare

    if (folder / "model.safetensors").exists() and not force:
        raise UserError(folder, "a run is there already", hint="choose another --out, or replace it with --force")
    keep_freed_memory()
    say("reading the data and training the tokenizer …", json)
    session = prepare(run, device=device_of(device))
    parameters = sum(p.numel() for p in session.model.parameters())
    kind, count = type(session.model).__name__, len(session.corpus.train)
    say(f"{kind}: {parameters:,} parameters, {session.tokenizer.vocab_size:,} tokens, {count:,} examples", json)
    _finish(session, fit(session, folder), folder, json)


def resume_in_folder(folder: Path, *, device: str, json: bool) -> None:
    """Goes on with a run from its newest whole checkpoint."""
    from pellucid.training.memory import keep_freed_memory
    from pellucid.training.session import fit, reopen

    keep_freed_memory()
    session = reopen(folder, device=device_of(device))
    _finish(session, fit(session, folder, resume=True), folder, json)


def _finish(session: Session, events: Iterator[Any], folder: Path, json: bool) -> None:
    from pellucid.training.session import Evaluated, write_card

    others = Report(session.run.training.steps, quiet=json).follow(events)
    parameters = sum(p.numel() for p in session.model.parameters())
    evaluations = [event for event in others if isinstance(event, Evaluated)]
    if not evaluations:
        say("this run has ended already", json)
        return
    best = min(evaluations, key=lambda event: event.evaluation.loss)
    results = {"step": best.step, **best.evaluation.as_dict()}
    command = "pellucid " + shlex.join(sys.argv[1:])
    write_card(session, folder, command, {name: f"{value:.6g}" for name, value in results.items()})
    if json:
        print_json({"run": str(folder), "parameters": parameters, **results})
    else:
        figures = f"loss {best.evaluation.loss:.4f}, perplexity {best.evaluation.perplexity:.2f}"
        say(f"best: {figures}, after step {best.step}; saved in {folder}")


def _is_file(what: str) -> bool:
    return Path(what).suffix in (".toml", ".json")


def _run(what: str, given: Data | None, mirror: str | None, settings: list[str]) -> Run:
    if _is_file(what):
        plain = read_plain(what)
        if given is not None:
            plain["data"] = to_dict(given)
        elif mirror is not None:
            plain["data"] = {**plain.get("data", {}), "mirror": mirror}
    elif what in FAMILIES:
        if given is None:
            raise UserError("train", "no data", "--text, --source and --target, --labelled or --data")
        plain = to_dict(default_run(what, given))
    else:
        raise UserError(f'"{what}"', "no recipe and no family", "a .toml file or a family", nearest(what, FAMILIES))
    run: Run = from_dict(Run, with_overrides(plain, settings))
    return run


def _data(
    text: list[Path] | None,
    source: Path | None,
    target: Path | None,
    labelled: Path | None,
    name: str | None,
    mirror: str | None,
) -> Data | None:
    if (source is None) != (target is None):
        raise UserError("--source" if source is None else "--target", "missing", "both sides of the pairs")
    found: list[Data] = []
    if text:
        found.append(TextFiles(train=tuple(map(str, text))))
    if source and target:
        found.append(ParallelFiles(source=str(source), target=str(target)))
    if labelled:
        found.append(LabelledFiles(train=str(labelled)))
    if name:
        found.append(NamedData(name=name, mirror=mirror))
    if len(found) > 1:
        raise UserError("train", f"{len(found)} kinds of data", "one of --text, --source/--target, --labelled, --data")
    return found[0] if found else None
