"""The names that scripts may use; what they are is told in :mod:`pellucid.doctor.reproduce`."""

from __future__ import annotations

from collections.abc import Callable

from pellucid.doctor.scripts import inside, reading, stepping, training
from pellucid.doctor.scripts.definition import AS_BATCH, Definition
from pellucid.doctor.subject import Subject

DEFINITIONS: dict[str, Callable[[Subject], Definition]] = {
    "as_batch": lambda subject: AS_BATCH,
    "sample": reading.sample,
    "sample_source": reading.sample_source,
    "translated": reading.translated,
    "call": reading.call,
    "masked": reading.masked,
    "masked_target": reading.masked_target,
    "step": stepping.step,
    "stepped": stepping.stepped,
    "reorder": stepping.reorder,
    "poison": stepping.poison,
    "loss_of": training.loss_of,
    "padded_loss": training.padded_loss,
    "batch_loss": training.batch_loss,
    "accumulate": training.accumulate,
    "schedule": training.schedule,
    "attention": inside.attention,
}
"""By name, in the order in which they stand in a script."""
