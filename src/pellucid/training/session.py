"""A run from its config to its folder: prepare, train, evaluate along the way, keep the best."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch

from pellucid.config.model import stacks
from pellucid.config.parts import Stack
from pellucid.config.run import Causal, Masked, Run, Training
from pellucid.data.batches import evaluation_batches, training_batches
from pellucid.data.corpora import load_corpus
from pellucid.data.corpus import Corpus
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import ConfigError
from pellucid.models.build import Model, build
from pellucid.models.checkpoint import load_description, save_description, save_run, write_whole
from pellucid.training.evaluate import Evaluation, evaluate
from pellucid.training.loop import Step, train
from pellucid.training.optim import optimizer
from pellucid.training.resume import Position, restore, save_checkpoint
from pellucid.version import __version__

LOG_EVERY = 10  # steps between lines of metrics.jsonl


@dataclass(frozen=True)
class Session:
    """All that a run needs, loaded and built."""

    run: Run
    corpus: Corpus
    tokenizer: Tokenizer
    model: Model


@dataclass(frozen=True)
class Evaluated:
    """What the validation data said after a step, and whether it is the best so far."""

    step: int
    evaluation: Evaluation
    best: bool


@dataclass(frozen=True)
class Resumed:
    """The run goes on after a step; remarks say what was passed over or cannot be equal."""

    step: int
    remarks: list[str]


@dataclass(frozen=True)
class Stopped:
    """The run was asked to end early; everything up to this step is saved."""

    step: int


def prepare(run: Run, *, corpus: Corpus | None = None, device: str | torch.device = "cpu") -> Session:
    """Reads the data, trains or loads the tokenizer, builds the model.

    Raises:
        DataError: for data that cannot be read.
        ConfigError: for lengths beyond the model's positions.
    """
    _check_length(run)
    corpus = load_corpus(run.data) if corpus is None else corpus
    tokenizer = Tokenizer.train(run.tokenizer, corpus.training_texts())
    completed = run.completed(vocab_size=tokenizer.vocab_size, labels=corpus.labels)
    torch.manual_seed(run.seed)
    return Session(completed, corpus, tokenizer, build(completed.model).to(device))


def reopen(folder: Path, *, device: str | torch.device = "cpu") -> Session:
    """The session of a run that was stopped or killed, for ``fit(..., resume=True)``.

    Raises:
        CheckpointError: for a folder that holds no run.
        DataError: for data that is no longer there.
    """
    run, tokenizer = load_description(folder)
    torch.manual_seed(run.seed)
    return Session(run, load_corpus(run.data), tokenizer, build(run.model).to(device))


def _check_length(run: Run) -> None:
    objective = run.objective
    length = objective.length if isinstance(objective, Causal | Masked) else objective.max_length
    limit = min((stack.max_length for stack in stacks(run.model) if stack.max_length), default=None)
    if limit is not None and length > limit:
        name = "length" if isinstance(objective, Causal | Masked) else "max_length"
        raise ConfigError(
            f"objective.{name}",
            f"found {length}",
            f"at most {limit}, as many as the model has positions",
            f"lower objective.{name} or raise positions.max_length",
        )


def validation_batches(session: Session, examples: Sequence[Any] | None = None) -> Sequence[Any]:
    """Batches that cover the validation data, or other examples, once."""
    examples = session.corpus.validation if examples is None else examples
    run = session.run
    return evaluation_batches(
        examples, session.tokenizer, run.objective, batch_tokens=run.training.batch_tokens, labels=session.corpus.labels
    )


def fit(session: Session, folder: Path, *, resume: bool = False) -> Iterator[Step | Evaluated | Stopped | Resumed]:
    """Trains into a run folder, yielding what happens.

    The weights in the folder are the best on the validation data so far; ``checkpoints/`` holds what is needed to go
    on, which with ``resume`` is done: bit for bit as if the run had never stopped. The first Ctrl-C ends the run after
    the step at hand, with everything saved.

    Raises:
        TrainingError: for a loss that is not finite; what was saved stays.
        CheckpointError: when the folder cannot be written, or there is nothing to go on from.
    """
    run, model = session.run, session.model
    batches = training_batches(
        session.corpus.train,
        session.tokenizer,
        run.objective,
        batch_tokens=run.training.batch_tokens,
        seed=run.seed,
        labels=session.corpus.labels,
    )
    adam, position, validation = optimizer(model, run.training.optimizer), Position(), validation_batches(session)
    if resume:
        position, remarks = restore(folder, model, adam)
        yield Resumed(position.step, remarks)
    else:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        save_description(folder, session.tokenizer, run)
    with _metrics(folder, position.step) as metrics, _interrupts() as interrupted:
        for step in train(model, batches, run.objective, run.training, adam=adam, after=position.step):
            stops = interrupted.is_set() and step.step < run.training.steps
            due = _due(step.step, run.training, stops)
            if step.step % LOG_EVERY == 0 or step.step == 1 or due.evaluate:
                _log(metrics, step=step.step, loss=step.loss, learning_rate=step.learning_rate, tokens=step.tokens,
                     gradient_norm=step.gradient_norm, seconds=step.seconds)  # fmt: skip
            yield step
            position = replace(position, step=step.step)
            if due.evaluate:
                evaluation = evaluate(model, validation, run.objective, run.training.precision)
                is_best = evaluation.loss < position.best
                if is_best:
                    save_run(folder, model, session.tokenizer, run)
                    position = replace(position, best=evaluation.loss)
                _log(metrics, step=step.step, validation=evaluation.as_dict(), best=is_best)
                yield Evaluated(step.step, evaluation, is_best)
            if due.save:
                save_checkpoint(folder, model, adam, position, run.training.keep_checkpoints)
            if stops:
                yield Stopped(step.step)
                return


@dataclass(frozen=True)
class _Due:
    evaluate: bool
    save: bool


def _due(step: int, training: Training, stops: bool) -> _Due:
    """What a step is followed by."""
    ends = stops or step == training.steps
    evaluates = ends or bool(training.evaluate_every and step % training.evaluate_every == 0)
    saves = step % training.save_every == 0 or ends if training.save_every else evaluates
    return _Due(evaluates, stops or (saves and training.keep_checkpoints > 0))


@contextmanager
def _metrics(folder: Path, after: int) -> Iterator[TextIO]:
    """The log of a run, cut back to what happened up to a step."""
    path = folder / "metrics.jsonl"
    if after:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= after]
        write_whole(path, lambda part: part.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8"))
    with path.open("a" if after else "w", encoding="utf-8") as metrics:
        yield metrics


def _log(metrics: TextIO, **values: Any) -> None:
    metrics.write(json.dumps(values) + "\n")
    metrics.flush()


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turns the first Ctrl-C into a flag, so that a step is never cut in half; the second ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may handle signals
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def write_card(session: Session, folder: Path, command: str, results: dict[str, Any]) -> None:
    """The README of a run: what it is, on what data, by which command, with what result."""
    model, run = session.model, session.run
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tower: Stack = stacks(run.model)[-1]
    notes = "\n".join(f"- {name}: {_short(value)}" for name, value in session.corpus.notes.items())
    figures = "\n".join(f"| {name} | {value} |" for name, value in results.items())
    text = f"""# {folder.name}

A {type(model).__name__} of {parameters:,} parameters (d_model {tower.d_model}), trained by pellucid {__version__}
with torch {torch.__version__} on {platform.machine()}:

    {command}

## Result

| what | figure |
|---|---|
{figures}

## Data

- training examples: {len(session.corpus.train):,}
{notes}

All settings are in `config.toml`, the course of training in `metrics.jsonl`.
"""
    write_whole(folder / "README.md", lambda path: path.write_text(text, encoding="utf-8"))


def _short(value: Any, limit: int = 400) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= limit else text[:limit].rsplit(",", 1)[0] + ", …"
