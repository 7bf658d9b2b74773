"""Exact resume: all that a run needs to go on as if it had never stopped.

``checkpoints/step-N/`` holds the weights, their running average where there is one, the optimiser's moments, the random
state, and ``state.json`` with the sha256 of each and what it was computed by: device, processes, threads. The folder is
written under another name, synced and renamed, so that one that exists is whole. Where the data stands is not saved:
batch n is a function of the seed and n.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from pellucid.errors import CheckpointError
from pellucid.models.build import Model
from pellucid.models.checkpoint import CHECKPOINTS, WEIGHTS, load_weights
from pellucid.models.files import checksum, fill, whole, write_tensors, write_whole, writes
from pellucid.training.average import Running
from pellucid.training.optim import Optimizers

OPTIMIZER, RANDOM, AVERAGE = "optimizer.safetensors", "random.safetensors", "average.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Position:
    """How far a run has come: steps done, the best validation loss so far, evaluations since without a better one.

    Attributes:
        data: what it came so far with, by :attr:`~pellucid.data.corpus.Corpus.fingerprint`.
    """

    step: int = 0
    best: float = float("inf")
    stale: int = 0
    data: str = ""


@dataclass(frozen=True)
class Learner:
    """All that changes while a run trains."""

    model: Model
    optimizers: Optimizers
    average: Running | None = None


def save_checkpoint(folder: Path, learner: Learner, position: Position, keep: int) -> None:
    """Writes ``checkpoints/step-N`` of a run folder and removes all but the newest ``keep``.

    One of a later step goes too: that the run stands here shows that it was torn.

    Raises:
        CheckpointError: when it cannot be written; earlier checkpoints stay.
    """
    files = _tensors(learner)
    if not writes():  # gathering what is split took all processes
        return
    checkpoints = folder / CHECKPOINTS
    final, part = checkpoints / f"step-{position.step}", checkpoints / ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        for name, tensors in files.items():
            write_tensors(tensors, part / name)
        sums = {path.name: checksum(path) for path in sorted(part.iterdir())}
        state = {"format": 1, **asdict(position), "checksums": sums, **_computed_by(learner.model.device)}
        write_whole(part / STATE, lambda path: path.write_text(json.dumps(state, indent=2) + "\n"))
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
        _sync(checkpoints)
    except OSError as error:
        raise CheckpointError(final, f"cannot be written ({error})", hint="earlier checkpoints are untouched") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    found = list(_newest_first(folder))
    newest = found.index(final)
    for old in found[:newest] + found[newest + max(keep, 1) :]:
        shutil.rmtree(old, ignore_errors=True)  # one that cannot be removed ends no run


def restore(folder: Path, learner: Learner) -> tuple[Position, list[str]]:
    """Fills weights, averages, moments, random state and number of threads from the newest whole checkpoint of a run.

    Returns:
        Where the run stands, and what is to be said of checkpoints that were passed over.

    Raises:
        CheckpointError: when there is no checkpoint, none that is whole, or one of another model.
    """
    passed_over: list[str] = []
    for path in _newest_first(folder):
        try:
            state = _verified(path)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        load_weights(learner.model, path / WEIGHTS)
        if learner.average is not None:
            for name, value in load_file(path / AVERAGE).items():
                fill(learner.average.weights[name], value)
        _restore_moments(learner, path / OPTIMIZER)
        _restore_random(load_file(path / RANDOM), learner.model.device)
        passed_over += _restored_threads(path, state, learner.model.device)
        return Position(state["step"], state["best"], state["stale"], state.get("data", "")), passed_over
    found = "; ".join(passed_over) or "no checkpoint"
    raise CheckpointError(folder / CHECKPOINTS, found, "one to go on from", "start the run anew with --force")


def drop_checkpoints(folder: Path) -> None:
    """Removes them all."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _verified(path: Path) -> dict[str, Any]:
    try:
        state = json.loads((path / STATE).read_text())
        torn = [name for name, expected in state["checksums"].items() if checksum(path / name) != expected]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(path, f"not a whole checkpoint ({error})") from None
    if torn:
        raise CheckpointError(path / torn[0], "torn: its sha256 is not the one saved with it")
    return dict(state)


def _newest_first(folder: Path) -> Iterator[Path]:
    found = [path for path in (folder / CHECKPOINTS).glob("step-*") if path.name[5:].isdigit()]
    yield from sorted(found, key=lambda path: -int(path.name[5:]))


def _tensors(learner: Learner) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds, by file, in one piece."""
    parameters = dict(learner.model.named_parameters())
    moments = {
        f"{name}/{key}": whole(value).cpu()
        for name, parameter in parameters.items()
        for key, value in learner.optimizers.state(parameter).items()
    }
    weights = {name: whole(parameter.detach()).cpu() for name, parameter in parameters.items()}
    files = {WEIGHTS: weights, OPTIMIZER: moments, RANDOM: _random_state(learner.model.device)}
    if learner.average is not None:
        files[AVERAGE] = {name: whole(value).cpu() for name, value in learner.average.weights.items()}
    return files


def _restore_moments(learner: Learner, path: Path) -> None:
    parameters = dict(learner.model.named_parameters())
    for full_name, value in load_file(path).items():
        name, _, key = full_name.rpartition("/")
        if name not in parameters:
            raise CheckpointError(path, f"moments of {name}", "those of this run's model", "was config.toml changed?")
        moment = value.to(parameters[name].device)
        if value.shape == parameters[name].shape:
            moment = torch.zeros_like(parameters[name])  # split among processes where the parameter is
            fill(moment, value)
        learner.optimizers.state(parameters[name])[key] = moment


def _computed_by(device: torch.device) -> dict[str, Any]:
    """What decides the order in which sums are taken, and with it the last bits."""
    processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return {"device": name, "processes": processes, "threads": torch.get_num_threads()}


def _restored_threads(path: Path, state: Mapping[str, Any], device: torch.device) -> list[str]:
    """As many threads as before where nothing else is another; returns why no bit is promised, where none is."""
    now = _computed_by(device)
    before = {name: state.get(name, value) for name, value in now.items()}
    same = {**now, "threads": before["threads"]} == before
    if same and before["threads"] <= (os.cpu_count() or 1):
        torch.set_num_threads(before["threads"])
        return [f"{path}: sums on a GPU have no fixed order: not equal in every bit"] if device.type == "cuda" else []
    saved, going_on = (", ".join(f"{name} {value}" for name, value in of.items()) for of in (before, now))
    return [f"{path}: saved with {saved}, going on with {going_on}: not equal in every bit"]


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def _restore_random(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


def _sync(folder: Path) -> None:
    """Makes a rename last through a power cut, where folders can be synced: not on Windows, nor on every network's."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
