"""``pellucid train --watch``: the doctor looks on, its figures go with the others, what it finds is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.config.run import Run
    from pellucid.data.batch import Batch, TrainingBatches
    from pellucid.doctor.record import Record
    from pellucid.models.build import Model
    from pellucid.training.fit import Observed, Observer
    from pellucid.training.loop import Step
    from pellucid.training.resume import Learner

MOST, LEAST, LOOKS = 100, 10, 20  # steps between two looks, and how many a short run gets


class Watching:
    """An observer for :func:`pellucid.training.fit.fit`.

    Args:
        run: that is trained, with its vocabulary known.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.every = max(LEAST, min(MOST, run.training.steps // LOOKS))
        self.records: list[Record] = []

    @contextmanager
    def __call__(self, learner: Learner, batches: TrainingBatches, after: int) -> Iterator[Observer]:
        """Looks at each measured step's own batch."""
        from pellucid.doctor import watch
        from pellucid.training.fit import Observed
        from pellucid.training.loop import shortened

        at = after

        def probe() -> dict[str, Any]:
            batch = shortened(batches[(at - 1) * self.run.training.accumulate], self.run.objective, at)
            return _arguments(learner.model, batch.to(learner.model.device))

        def look(step: Step) -> Observed:
            nonlocal at
            at = step.step
            record = watched.step(step.nats, gradient_norm=step.gradient_norm)
            return Observed() if record is None else self._observed(record)

        vocabulary = _vocabulary(self.run)
        with watch(
            learner.model, learner.optimizers, self.every, probe=probe, vocab_size=vocabulary, after=after
        ) as watched:
            self.records = watched.records
            yield look

    def summary(self) -> str:
        """One line for the end."""
        said = {finding.check for record in self.records for finding in record.new}
        found = ", ".join(sorted(said)) if said else "nothing that stayed wrong"
        return f"watched, every {self.every} steps: {found}"

    def _observed(self, record: Record) -> Observed:
        from pellucid.doctor.record import told
        from pellucid.training.fit import Observed

        notes = record.notes if len(self.records) == 1 else ()
        figures = {f"doctor/{name}": value for name, value in record.figures().items() if name != "loss"}
        return Observed(figures, [*map(told, record.new), *notes])


def _arguments(model: Model, batch: Batch) -> dict[str, Any]:
    """What a model of ours is called with, by name."""
    from pellucid.models.encoder import Encoder

    if batch.source is not None:
        given = {"source": batch.source, "target": batch.tokens, "source_keep": batch.source_keep, "keep": batch.keep}
    else:
        tokens = "inputs" if isinstance(model, Encoder) else "tokens"
        given = {tokens: batch.tokens, "keep": batch.keep, "positions": batch.positions, "segments": batch.segments}
    return {name: value for name, value in given.items() if value is not None}


def _vocabulary(run: Run) -> int | None:
    """V, where the loss asks for one of it."""
    from pellucid.config import model as config
    from pellucid.config.run import Classify

    described = run.model
    front = described.target if isinstance(described, config.EncoderDecoder) else described.front
    return front.vocab_size if isinstance(front, config.Tokens) and not isinstance(run.objective, Classify) else None
