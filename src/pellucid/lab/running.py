"""An experiment run for several seeds into a folder: what was measured, the figure, the verdict.

What a seed gave is saved as soon as it is there, and not measured again: a run that was broken off goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pellucid.config.files import dump_json
from pellucid.data.catalog import get
from pellucid.errors import UserError
from pellucid.lab.experiment import Experiment, Kept, Measured, Say, Verdict
from pellucid.lab.figures import draw
from pellucid.models.files import write_whole
from pellucid.version import __version__

RESULT, MODEL = "result.json", "model"  # the model is that of the first seed, where one is kept


@dataclass(frozen=True)
class Outcome:
    """What came out of an experiment.

    Attributes:
        measured: by seed.
        seconds: that each seed took.
    """

    name: str
    question: str
    claim: str
    source: str
    setting: str
    measured: dict[str, Measured]
    seconds: dict[str, float]
    verdict: Verdict
    made_with: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def run(experiment: Experiment, folder: Path, *, seeds: Sequence[int] = (0, 1, 2), force: bool = False,
        say: Say = print, mirror: Path | None = None) -> Outcome:  # fmt: skip
    """Runs an experiment, or what is left of it, and writes ``result.json``, the figure and its model into a folder.

    Args:
        folder: of this experiment alone.
        force: whether seeds that have been run are run again.
        say: hears of every step.
        mirror: a folder with the published data that an experiment may need; without it they are fetched.

    Raises:
        UserError: for a folder that holds something else.
        DataError: for data that cannot be had.
    """
    folder.mkdir(parents=True, exist_ok=True)  # now, or minutes of measuring would have nowhere to go
    known = _known(experiment, folder, force)
    measured = {} if force else {seed: known[seed] for seed in map(str, seeds) if seed in known}
    data = _data(experiment, mirror, say) if any(str(seed) not in measured for seed in seeds) else ()
    for seed in seeds:
        if str(seed) in measured:
            say(f"seed {seed}: measured before")
            continue
        began = time.perf_counter()
        torch.manual_seed(seed)
        result = experiment.measure(seed, lambda text, seed=seed: say(f"seed {seed}: {text}"), *data)
        if isinstance(result, Kept):
            if not measured:
                result.save(folder / MODEL)
            result = result.measured
        measured[str(seed)] = result, time.perf_counter() - began
        _write(folder, _outcome(experiment, {**known, **measured}))
    outcome = _outcome(experiment, {**known, **measured})  # of every seed there is, also those that were not asked for
    _write(folder, outcome)
    draw(experiment, list(outcome.measured.values()), folder)
    return outcome


def _data(experiment: Experiment, mirror: Path | None, say: Say) -> tuple[Path, ...]:
    """The folder of the data that an experiment needs, if it needs any."""
    if experiment.data is None:
        return ()
    heard: set[str] = set()

    def progress(file: str, done: int, size: int) -> None:
        if file not in heard:
            say(f"fetching {file}")
        heard.add(file)

    return (get(experiment.data, mirror, progress),)


def read_outcome(folder: Path) -> Outcome | None:
    """What a folder holds of an experiment; ``None`` for nothing."""
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(**{**found, "verdict": Verdict(**found["verdict"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        found, hint = f"is no result of an experiment ({error})", "--force measures again"
        raise UserError(path, found, "one that `pellucid lab` wrote", hint) from None


def _known(experiment: Experiment, folder: Path, force: bool) -> dict[str, tuple[Measured, float]]:
    """What was measured before, by the same version and in the same setting; with ``force`` it need not be legible."""
    try:
        found = read_outcome(folder)
    except UserError:
        if not force:
            raise
        found = None
    if found is None:
        return {}
    if found.name != experiment.name:
        raise UserError(folder, f'holds the experiment "{found.name}"', f'"{experiment.name}", or an empty folder')
    if (found.setting, found.made_with) != (experiment.setting, _made_with()):
        return {}
    return {seed: (found.measured[seed], found.seconds[seed]) for seed in found.measured}


def _outcome(experiment: Experiment, measured: dict[str, tuple[Measured, float]]) -> Outcome:
    results = {seed: result for seed, (result, _) in measured.items()}
    return Outcome(
        name=experiment.name,
        question=experiment.question,
        claim=experiment.claim,
        source=experiment.source,
        setting=experiment.setting,
        measured=results,
        seconds={seed: round(seconds, 1) for seed, (_, seconds) in measured.items()},
        verdict=experiment.judge(list(results.values())),
        made_with=_made_with(),
    )


def _made_with() -> str:
    return f"pellucid {__version__}, torch {torch.__version__}"


def _write(folder: Path, outcome: Outcome) -> None:
    text = dump_json(outcome.as_dict())
    write_whole(folder / RESULT, lambda path: path.write_text(text, encoding="utf-8"))
