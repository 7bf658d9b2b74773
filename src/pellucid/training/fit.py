"""A run in its folder: train, evaluate along the way, keep the best, be ready to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType

from torch import nn

from pellucid.config.model import labels_of
from pellucid.config.optimisation import CheckpointAverage, ExponentialAverage, Training
from pellucid.data.batch import EvaluationBatches, TrainingBatches
from pellucid.data.batches import training_batches
from pellucid.data.buckets import TrainingBuckets
from pellucid.errors import UserError
from pellucid.models.checkpoint import CONFIG, WEIGHTS, clear_run, save_description, save_run
from pellucid.training.average import Running, Snapshots
from pellucid.training.card import SHOWN
from pellucid.training.distributed import ALONE, BEGUN_BY, World
from pellucid.training.evaluate import Evaluation, evaluate
from pellucid.training.loop import Step, train
from pellucid.training.objectives import Criterion
from pellucid.training.optim import optimizer
from pellucid.training.precision import doubts
from pellucid.training.resume import Learner, Position, drop_checkpoints, restore, save_checkpoint
from pellucid.training.samples import samples
from pellucid.training.session import Session, validation_batches
from pellucid.training.watch import METRICS, NoSink, Opener, Sinks, best_of, open_sinks, read_records

LOG_EVERY = 10  # steps between lines of metrics.jsonl
INTERRUPTED = "interrupted"  # why a run has stopped


@dataclass(frozen=True)
class Evaluated:
    """What the validation data said after a step, and whether it is the best so far.

    ``averaged`` lists the steps whose weights were averaged; none for those of the step itself.
    """

    step: int
    evaluation: Evaluation
    best: bool
    averaged: tuple[int, ...] = ()


@dataclass(frozen=True)
class Resumed:
    """The run goes on after a step; remarks say what was passed over or cannot be equal."""

    step: int
    remarks: list[str]


@dataclass(frozen=True)
class Stopped:
    """The run ended early, because it was asked to or got no better; everything up to this step is saved."""

    step: int
    why: str


@dataclass(frozen=True)
class Remark:
    """Something the user should know; the run goes on."""

    text: str


Event = Step | Evaluated | Stopped | Resumed | Remark


@dataclass(frozen=True)
class Observed:
    """What somebody who looks on saw after a step: figures for ``metrics.jsonl`` by name, and remarks."""

    figures: Mapping[str, float] = field(default_factory=dict)
    remarks: Sequence[str] = ()


Observer = Callable[[Step], Observed]
"""Looks on: called after each step, and must leave the training as it is."""

OpenObserver = Callable[[Learner, TrainingBatches, int], AbstractContextManager[Observer]]
"""Makes one for what learns, the batches that it learns from, and the steps that were done before."""


@contextmanager
def nobody(learner: Learner, batches: TrainingBatches, after: int) -> Iterator[Observer]:
    """An observer that sees nothing."""
    yield lambda step: Observed()


def fit(
    session: Session,
    folder: Path,
    *,
    resume: bool = False,
    watchers: Sequence[Opener] = (),
    observer: OpenObserver = nobody,
    world: World = ALONE,
) -> Iterator[Event]:
    """Trains into a run folder, yielding what happens.

    The weights in the folder are the best on the validation data so far; ``checkpoints/`` holds what is needed to go
    on, which with ``resume`` is done: bit for bit as if the run had never stopped, up to rounding on a GPU. The first
    Ctrl-C ends the run after the step at hand, with everything saved and nothing evaluated that was not due.

    Args:
        watchers: where figures go beside ``metrics.jsonl``.
        observer: looks on; in the process that writes alone.
        world: the processes that train together. All of them call this; the first one writes.

    Raises:
        TrainingError: for a loss or a gradient that is not finite; what was saved stays.
        CheckpointError: when the folder cannot be written, or there is nothing to go on from.
        DataError: for data that makes no batch, before anything in the folder is touched.
    """
    run = session.run
    batches, validation = _batches(session), validation_batches(session)
    criterion = world.spread(Criterion(session.model, run.objective))  # before the optimiser sees the weights
    learner, position = _learner(session), Position(data=session.corpus.fingerprint)
    remarks: list[str] = []
    if resume:
        position, told = _restored(folder, learner, position.data)
        yield Resumed(position.step, told + doubts(run.training.precision, learner.model.device))
    elif world.leads:
        remarks += _begun(session, folder, batches, world)
        remarks += doubts(run.training.precision, learner.model.device)
    opened = open_sinks(folder, position.step, watchers, remarks.append) if world.leads else Sinks(NoSink())
    with opened as sinks, observer(learner, batches, position.step) as look, _interrupts() as interrupted:
        keeper = _Keeper(session, folder, learner, validation, criterion, world, sinks, remarks.append, position)
        yield from keeper.left_over()
        for step in _steps(session, learner, batches, criterion, world, position.step):
            cut = world.any(interrupted.is_set()) and step.step < run.training.steps
            keeper.take(step)
            remarks += keeper.noted(look(step))
            yield step
            yield from keeper.followed(cut)
            yield from map(Remark, remarks)
            remarks.clear()
            if keeper.ended:
                yield Stopped(step.step, keeper.ended)
                return


def _restored(folder: Path, learner: Learner, data: str) -> tuple[Position, list[str]]:
    """Where a run stands that goes on with some data, and what is to be said of that."""
    position, told = restore(folder, learner)
    if position.data not in ("", data):
        told.append(f"{folder}: the data are others than before: texts for validation may have been trained on")
    return replace(position, data=data), told


def _learner(session: Session) -> Learner:
    average, model = session.run.training.average, session.model
    running = Running(model, average.decay) if isinstance(average, ExponentialAverage) else None
    return Learner(model, optimizer(model, session.run.training.optimizer), running)


def _batches(session: Session) -> TrainingBatches:
    run = session.run
    return training_batches(
        session.corpus.train,
        session.tokenizer,
        run.objective,
        batch_tokens=run.training.batch_tokens,
        seed=run.seed,
        labels=labels_of(run.model),
    )


def _begun(session: Session, folder: Path, batches: TrainingBatches, world: World) -> list[str]:
    """Makes room for a run in its folder; returns a word on examples that lose their end, where some do."""
    if (folder / CONFIG).exists():  # else what is called so is no run's
        for name in (*SHOWN, BEGUN_BY):
            (folder / name).unlink(missing_ok=True)
    clear_run(folder)
    world.sign(folder)
    save_description(folder, session.tokenizer, session.run)
    if not isinstance(batches, TrainingBuckets) or not batches.num_cut:
        return []
    count = len(batches.rows.lengths)
    return [f"{batches.num_cut:,} of {count:,} examples are longer than objective.max_length and lose their end"]


def _steps(
    session: Session,
    learner: Learner,
    batches: TrainingBatches,
    criterion: nn.Module,
    world: World,
    after: int,
) -> Iterator[Step]:
    run = session.run
    return train(
        learner.model,
        batches,
        run.objective,
        run.training,
        optimizers=learner.optimizers,
        after=after,
        measure_every=LOG_EVERY,
        seed=run.seed,
        world=world,
        criterion=criterion,
    )


@dataclass
class _Keeper:
    """Evaluates, tells, and keeps the best weights in the run folder."""

    session: Session
    folder: Path
    learner: Learner
    validation: EvaluationBatches
    criterion: nn.Module
    world: World
    sinks: Sinks
    remark: Callable[[str], None]
    position: Position

    def __post_init__(self) -> None:
        average = self.session.run.training.average
        self.ended = ""  # why, where it did so early
        self.writes_samples = self.world.size == 1
        self.snapshots = None
        if isinstance(average, CheckpointAverage):
            self.snapshots = Snapshots(self.folder, average, self.position.step)
        if self.position.step:  # after its last checkpoint an early end may have made a better average
            best = min(self.position.best, self.world.told(partial(_kept, self.folder)))
            self.position = replace(self.position, best=best)

    def take(self, step: Step) -> None:
        """Takes note of a step that was done."""
        self.position = replace(self.position, step=step.step)
        if self.learner.average is not None:
            self.learner.average.update(self.learner.model, step.step)
        if step.step % LOG_EVERY == 0 or step.step == 1 or _due(step.step, self.session.run.training).evaluate:
            self.sinks.scalars(step.step, _figures(step))

    def noted(self, seen: Observed) -> Sequence[str]:
        """Logs what somebody who looks on saw; returns what they remark."""
        if seen.figures:
            self.sinks.scalars(self.position.step, dict(seen.figures))
        return seen.remarks

    def followed(self, cut: bool) -> Iterator[Evaluated]:
        """What is due after the step: evaluations and a checkpoint; and whether the run ends here."""
        step, training = self.position.step, self.session.run.training
        due, ends = _due(step, training), step == training.steps
        if due.evaluate:
            yield self.evaluated()
        self.ended = "" if ends or not due.evaluate else self.no_better()
        if due.save or self.ended or cut:
            save_checkpoint(self.folder, self.learner, self.position, training.checkpoints.keep)
        if due.evaluate and self.writes_samples:
            self.sample()
        if ends or self.ended:
            yield from self.average()
        if ends and training.checkpoints.keep == 0 and self.world.leads:
            drop_checkpoints(self.folder)  # of a Ctrl-C on the way: nobody goes on from there
        if cut and not self.ended:
            self.make_usable()
            self.ended = INTERRUPTED

    def evaluated(self) -> Evaluated:
        """Evaluates the weights at hand, or their running average."""
        with self.shown_weights():
            event = self._judged(())
        if self.snapshots is not None:
            self.snapshots.add(self.learner.model, self.position.step, event.evaluation.loss)
        return event

    def sample(self) -> None:
        """Logs what the same weights write; where they cannot, says so once: no sample is worth the training."""
        try:
            with self.shown_weights():
                shown = samples(self.session)
        except UserError as error:
            self.writes_samples = False
            self.remark(f"no samples are written: {error}")
            return
        if shown:
            self.sinks.texts(self.position.step, "samples", shown)

    def shown_weights(self) -> AbstractContextManager[None]:
        """A context in which the model has the weights that are evaluated and saved."""
        average = self.learner.average
        return nullcontext() if average is None else average.in_place(self.learner.model)

    def no_better(self) -> str:
        """Why the run should end early, if it should."""
        patience = self.session.run.training.patience
        return f"no better for {patience} evaluations" if 0 < patience <= self.position.stale else ""

    def average(self) -> Iterator[Evaluated]:
        """Evaluates the mean of the snapshots, where there are any; the model keeps it."""
        if self.snapshots is None:
            return
        self.world.any(False)  # all wait here: the first process has written the last snapshot before others read it
        if len(steps := self.snapshots.steps()) > 1:
            self.snapshots.average_into(self.learner.model)
            yield self._judged(tuple(steps))

    def left_over(self) -> Iterator[Evaluated]:
        """The average of a run that was killed after its last step and before it had one."""
        if self.position.step == self.session.run.training.steps:
            records = read_records(self.folder / METRICS)  # an early end before has left an average of its own
            made = any(record["step"] == self.position.step and "average" in record for record in records)
            if self.world.any(self.world.leads and not made):
                yield from self.average()

    def make_usable(self) -> None:
        """Saves the weights at hand where no evaluation has chosen any; the first that does replaces them."""
        if not (self.folder / WEIGHTS).exists():
            with self.shown_weights():
                save_run(self.folder, self.learner.model, self.session.tokenizer, self.session.run)

    def _judged(self, averaged: tuple[int, ...]) -> Evaluated:
        run, model = self.session.run, self.learner.model
        evaluation = evaluate(
            model,
            self.validation,
            run.objective,
            run.training.precision,
            world=self.world,
            criterion=self.criterion,
        )
        best = evaluation.loss < self.position.best
        if best:
            save_run(self.folder, model, self.session.tokenizer, run)
            self.position = replace(self.position, best=evaluation.loss, stale=0)
        else:
            self.position = replace(self.position, stale=self.position.stale + 1)
        kind = "average" if averaged else "validation"
        figures = {f"{kind}/{name}": value for name, value in evaluation.as_dict().items()}
        self.sinks.scalars(self.position.step, {**figures, "best": best})
        return Evaluated(self.position.step, evaluation, best, averaged)


def _kept(folder: Path) -> float:
    """The loss of the weights in a run folder, as its metrics tell."""
    best = best_of(folder)
    return float("inf") if best is None else float(best["loss"])


def _figures(step: Step) -> dict[str, float]:
    """What is logged of a step; what was not measured is left out."""
    values = asdict(step)
    values.pop("step")
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class _Due:
    evaluate: bool
    save: bool


def _due(step: int, training: Training) -> _Due:
    """What a step is followed by; it depends on nothing else, so that a run that goes on does what it would have."""
    ends = step == training.steps
    evaluates = ends or bool(training.evaluate_every and step % training.evaluate_every == 0)
    every = training.checkpoints.every
    saves = step % every == 0 or ends if every else evaluates
    return _Due(evaluates, saves and training.checkpoints.keep > 0)


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
