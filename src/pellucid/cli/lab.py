"""Run an argument for the architecture: its claim, its figure, and whether it shows here.

Examples:

`pellucid lab`

`pellucid lab recall`

`pellucid lab recall scale --seeds 5 --out results`

`pellucid lab all --force`

`pellucid lab sounds --mirror data`

Each goes into a folder of its own with `result.json`, `figure.svg` and `figure.png`, and all of them into one page,
`report.html`. What has been measured is not measured again, so that a run that was broken off goes on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pellucid.cli.common import Debug, Json, console, print_json, say
from pellucid.errors import UserError

if TYPE_CHECKING:
    from pellucid.lab.experiment import Experiment


def lab(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Experiments; all for all, list or none for a list.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="How often each is run.", min=1, max=100)] = 3,
    out: Annotated[Path, typer.Option(help="The folder for results.")] = Path("lab"),
    mirror: Annotated[
        Path | None, typer.Option(help="A folder with published data, as `pellucid data get` has.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Measure again what has been measured.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.lab.catalogue import NAMES, find

    asked = list(dict.fromkeys(names or []))
    if not asked or asked == ["list"]:
        _list([find(name) for name in NAMES], json)
        return
    chosen = [find(name) for name in (NAMES if asked == ["all"] else asked)]
    if out.exists() and not out.is_dir():
        raise UserError("--out", f"{out} is a file", "a folder")
    _run(chosen, seeds, out, mirror, force, json)


def _list(experiments: list[Experiment], json: bool) -> None:
    if json:
        for one in experiments:
            print_json({"name": one.name, "question": one.question, "claim": one.claim, "minutes": one.minutes})
        return
    width = max(len(one.name) for one in experiments)
    for one in experiments:
        say(f"{one.name:{width}}  {one.minutes:2g} min  {one.question}")
    say(f"\nall{'':{width - 3}}  {sum(one.minutes for one in experiments):2g} min, with three seeds on two cores")


def _run(chosen: list[Experiment], seeds: int, out: Path, mirror: Path | None, force: bool, json: bool) -> None:
    from pellucid.lab.figures import PNG
    from pellucid.lab.report import write_report
    from pellucid.lab.running import MODEL, run

    missing: list[str] = []  # what needs data that cannot be had does not keep the others from running
    for nth, experiment in enumerate(chosen, 1):
        if not json:
            say(f"[{nth} of {len(chosen)}] {experiment.name}: {experiment.question}\n{experiment.claim}")
            say(f"{experiment.source}\n{experiment.setting}\n")
        heard = _quiet if json else _progress
        try:
            outcome = run(experiment, out / experiment.name, seeds=range(seeds), force=force, say=heard, mirror=mirror)
        except UserError as error:
            if len(chosen) == 1:
                raise
            say(f"\nleft out: {error}\n", quiet=json)
            missing.append(f"{experiment.name} ({error})")
            continue
        if json:
            print_json(outcome.as_dict())
            continue
        shows = "It shows." if outcome.verdict.shows else "It does not show."
        say(f"\n{shows} {outcome.verdict.said}")
        say(f"{sum(outcome.seconds.values()):.0f} s; figure in {out / experiment.name / PNG}")
        if (model := out / experiment.name / MODEL).is_dir():
            example = next(model.glob("example.*"))
            shown = "" if example.suffix == ".txt" else f" --text {example}"  # a text it begins with by itself
            say(f"the model: pellucid explore {model}{shown}")
        say("")
    if len(missing) < len(chosen):
        report = write_report(out)
        if not json:
            say(f"All of {out} on one page: {report}")
    if missing:
        raise UserError("lab", f"could not be run: {'; '.join(missing)}")


def _progress(text: str) -> None:
    console.print(f"  {text}", style="dim", markup=False)


def _quiet(text: str) -> None:
    """Says nothing: what is printed is JSON."""
