"""Exact resume: all that a run needs to go on as if it had never stopped.

``checkpoints/step-N/`` holds the weights, the optimiser's moments, the random state and ``state.json`` with the sha256
of each. The folder is written under another name, synced and renamed, so that one that exists is whole. Where the data
stands is not saved: batch n is a function of the seed and n.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pellucid.errors import CheckpointError
from pellucid.models.build import Model
from pellucid.models.checkpoint import WEIGHTS, checksum, load_weights, save_weights, write_whole

OPTIMIZER, RANDOM, STATE = "optimizer.safetensors", "random.safetensors", "state.json"


@dataclass(frozen=True)
class Position:
    """How far a run has come: steps done, and the best validation loss so far."""

    step: int = 0
    best: float = float("inf")


def save_checkpoint(folder: Path, model: Model, adam: torch.optim.Optimizer, position: Position, keep: int) -> None:
    """Writes ``checkpoints/step-N`` of a run folder and removes all but the newest ``keep``.

    Raises:
        CheckpointError: when it cannot be written; earlier checkpoints stay.
    """
    checkpoints = folder / "checkpoints"
    final, part = checkpoints / f"step-{position.step}", checkpoints / ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        save_weights(model, part / WEIGHTS)
        write_whole(part / OPTIMIZER, lambda path: save_file(_moments(model, adam), path))
        write_whole(part / RANDOM, lambda path: save_file(_random_state(), path))
        sums = {name: checksum(part / name) for name in (WEIGHTS, OPTIMIZER, RANDOM)}
        state = {"format": 1, "step": position.step, "best": position.best, "checksums": sums, "threads": _threads()}
        write_whole(part / STATE, lambda path: path.write_text(json.dumps(state, indent=2) + "\n"))
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _sync(checkpoints)
    except OSError as error:
        raise CheckpointError(final, f"cannot be written ({error})", hint="earlier checkpoints are untouched") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in list(_newest_first(folder))[max(keep, 1) :]:
        shutil.rmtree(old)


def restore(folder: Path, model: Model, adam: torch.optim.Optimizer) -> tuple[Position, list[str]]:
    """Fills model, optimiser and random state from the newest whole checkpoint of a run.

    Returns:
        Where the run stands, and what is to be said of checkpoints that were passed over.

    Raises:
        CheckpointError: when there is no checkpoint, or none that is whole.
    """
    passed_over: list[str] = []
    for path in _newest_first(folder):
        try:
            state = _verified(path)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        load_weights(model, path / WEIGHTS)
        _restore_moments(model, adam, load_file(path / OPTIMIZER))
        _restore_random(load_file(path / RANDOM))
        if state["threads"] != _threads():
            passed_over.append(
                f"{path}: saved with {state['threads']} threads, going on with {_threads()}: not equal in every bit"
            )
        return Position(state["step"], state["best"]), passed_over
    found = "; ".join(passed_over) or "no checkpoint"
    raise CheckpointError(folder / "checkpoints", found, "one to go on from", "start the run anew with --force")


def _verified(path: Path) -> dict[str, object]:
    try:
        state = json.loads((path / STATE).read_text())
        torn = [name for name, expected in state["checksums"].items() if checksum(path / name) != expected]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"not a whole checkpoint ({error})") from None
    if torn:
        raise CheckpointError(path / torn[0], "torn: its sha256 is not the one saved with it")
    return dict(state)


def _newest_first(folder: Path) -> Iterator[Path]:
    found = [path for path in (folder / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    yield from sorted(found, key=lambda path: -int(path.name[5:]))


def _moments(model: Model, adam: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.cpu()
        for name, parameter in model.named_parameters()
        for key, value in adam.state[parameter].items()
    }


def _restore_moments(model: Model, adam: torch.optim.Optimizer, moments: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for full_name, value in moments.items():
        name, _, key = full_name.rpartition("/")
        parameter = parameters[name]
        adam.state[parameter][key] = value.to(parameter.device)


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state |= {f"cuda:{i}": value for i, value in enumerate(torch.cuda.get_rng_state_all())}
    return state


def _restore_random(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    devices = [value for name, value in sorted(state.items()) if name.startswith("cuda:")]
    if devices and torch.cuda.device_count() == len(devices):
        torch.cuda.set_rng_state_all(devices)


def _threads() -> int:
    return torch.get_num_threads()


def _sync(folder: Path) -> None:
    """Makes a rename last through a power cut, where folders can be synced."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
