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
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import Debug, Device, Json, Report, device_of, end_card, print_json, say
from pellucid.config.defaults import FAMILIES, default_run
from pellucid.config.files import read_plain
from pellucid.config.run import Data, LabelledFiles, NamedData, ParallelFiles, Run, TextFiles
from pellucid.config.schema import from_dict, to_dict, with_overrides
from pellucid.errors import UserError, nearest

if TYPE_CHECKING:
    from pellucid.training.session import Session
    from pellucid.training.watch import Opener


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
    wandb: Annotated[str | None, typer.Option(help="Also log to this Weights & Biases project.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    if resume is not None:
        if what or settings:
            raise UserError("--resume", f"together with {what}", "a run folder alone, since its settings are its own")
        resume_in_folder(resume, device=device, json=json, wandb=wandb)
        return
    if what is None:
        raise UserError("train", "nothing to train", "a recipe or a family", "see `pellucid train --help`")
    given = _data(text, source, target, labelled, data, mirror)
    run = _run(what, given, mirror, settings or [])
    run = run if seed is None else replace(run, seed=seed)
    folder = out or Path("runs") / (Path(what).stem if _is_file(what) else what)
    run_in_folder(run, folder, device=device, force=force, json=json, wandb=wandb)


def run_in_folder(run: Run, folder: Path, *, device: str, force: bool, json: bool, wandb: str | None) -> None:
    """Prepares and trains a run, and leaves its card."""
    from pellucid.training.memory import keep_freed_memory
    from pellucid.training.session import prepare

    if (folder / "model.safetensors").exists() and not force:
        raise UserError(folder, "a run is there already", hint="choose another --out, or replace it with --force")
    watchers = _watchers(wandb, run)
    keep_freed_memory()
    say("reading the data and training the tokenizer …", json)
    session = prepare(run, device=device_of(device))
    parameters = sum(p.numel() for p in session.model.parameters())
    kind, count = type(session.model).__name__, len(session.corpus.train)
    say(f"{kind}: {parameters:,} parameters, {session.tokenizer.vocab_size:,} tokens, {count:,} examples", json)
    for setting, choice in session.chosen.items():
        say(f"{setting}: {choice}", json)
    _follow(session, folder, watchers, resume=False, json=json)


def resume_in_folder(folder: Path, *, device: str, json: bool, wandb: str | None) -> None:
    """Goes on with a run from its newest whole checkpoint."""
    from pellucid.training.memory import keep_freed_memory
    from pellucid.training.session import reopen

    keep_freed_memory()
    session = reopen(folder, device=device_of(device))
    _follow(session, folder, _watchers(wandb, session.run), resume=True, json=json)


def _watchers(wandb: str | None, run: Run) -> list[Opener]:
    from pellucid.training.watch import TensorBoard, WeightsAndBiases, require_wandb

    if wandb is None:
        return [TensorBoard]
    require_wandb()
    return [TensorBoard, partial(WeightsAndBiases, project=wandb, config=to_dict(run))]


def _follow(session: Session, folder: Path, watchers: list[Opener], *, resume: bool, json: bool) -> None:
    from pellucid.training.fit import Evaluated, fit

    began = time.perf_counter()
    others = Report(session.run.training.steps, quiet=json).follow(
        fit(session, folder, resume=resume, watchers=watchers)
    )
    parameters = sum(p.numel() for p in session.model.parameters())
    evaluations = [event for event in others if isinstance(event, Evaluated)]
    if not evaluations:
        say("this run has ended already", json)
        return
    best = min(evaluations, key=lambda event: event.evaluation.loss)
    results = {"step": best.step, **best.evaluation.as_dict()}
    command = "pellucid " + shlex.join(sys.argv[1:])
    rows = end_card(session, folder, command, results, seconds=time.perf_counter() - began)
    if json:
        print_json({"run": str(folder), "parameters": parameters, **results})
        return
    say("")
    for label, text in rows.items():
        say(f"{label:>14}  {text}")
    figures = f"loss {best.evaluation.loss:.4f}, perplexity {best.evaluation.perplexity:.2f}"
    say(f"\nbest: {figures}, after step {best.step}; saved in {folder}")


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
