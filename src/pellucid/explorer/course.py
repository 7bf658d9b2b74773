"""The course of a run, as its folder tells it: losses, samples, checkpoints."""

from __future__ import annotations

from typing import Any

from pellucid.config.optimisation import CheckpointAverage
from pellucid.config.run import Run
from pellucid.errors import UserError
from pellucid.explorer.session import MAIN, Session
from pellucid.training.watch import METRICS, SAMPLES, read_records

MOST_POINTS = 4000  # of a curve; a longer one is thinned
MORE = "training.checkpoints.keep=20 training.checkpoints.every=100"


def course_of(session: Session) -> dict[str, Any]:
    """Everything that is known of how the first model of a session was trained.

    Returns ``steps`` (the logged ones, every ``every``-th of them), ``evaluations``, ``samples`` by step,
    ``checkpoints``, the ``planned`` number of steps, and ``advice``: what to do where something is missing.
    """
    folder = session.folder
    records = [] if folder is None else read_records(folder / METRICS)
    steps = [record for record in records if "loss" in record]
    every = -(-len(steps) // MOST_POINTS) or 1
    run = _run(session)
    return {
        "name": session.models[MAIN].name,
        "planned": None if run is None else run.training.steps,
        "steps": steps[::every],
        "every": every,
        "evaluations": [record for record in records if "validation" in record or "average" in record],
        "samples": [] if folder is None else read_records(folder / SAMPLES),
        "checkpoints": [{"key": key, "step": int(key[5:])} for key in session.checkpoints],
        "advice": _advice(session, run, has_curve=bool(steps)),
    }


def _run(session: Session) -> Run | None:
    try:
        return session.models[MAIN].loaded.run
    except UserError:  # published, or made in memory
        return None


def _advice(session: Session, run: Run | None, *, has_curve: bool) -> str | None:
    if session.folder is None or run is None:
        what = "is held in memory" if session.folder is None else "is a published one"
        return (
            f"This model {what}, so nothing tells how it was trained. Open the folder of a run instead: "
            "`pellucid explore runs/NAME`."
        )
    if not session.checkpoints:
        kept = run.training.checkpoints.keep
        found = f"training.checkpoints.keep is {kept}" if kept == 0 else "its checkpoints are gone"
        return (
            f"This run has kept no weights from its way ({found}). Train with `{MORE}` to keep twenty, or with "
            '`training.average.kind="checkpoints"` to keep a snapshot of every evaluation that is averaged.'
        )
    if len(session.checkpoints) < 4 and not isinstance(run.training.average, CheckpointAverage):
        return f"For a finer scale train with `{MORE}`: as many checkpoints stay, and one is written every 100 steps."
    return None if has_curve else f"There is no {METRICS} in this folder, so there is no curve."
