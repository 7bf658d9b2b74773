"""Where the figures of a run go: ``metrics.jsonl`` always, TensorBoard and Weights & Biases where asked for.

A name such as ``validation/loss`` is one figure of a group: TensorBoard draws groups together, ``metrics.jsonl`` nests
them. Samples are texts: what went in, what came out and, where there is one, what should have.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Protocol, TextIO

from pellucid.errors import CheckpointError, PellucidError, UserError
from pellucid.models.files import write_whole

METRICS, SAMPLES, TENSORBOARD, WANDB_ID = "metrics.jsonl", "samples.jsonl", "tensorboard", "wandb-id.txt"
FIELDS = ("input", "output", "reference")  # of a sample; the last may be missing

Samples = Sequence[tuple[str, ...]]


class Sink(Protocol):
    """Something that keeps the figures of a run."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Figures by name, after a step."""

    def texts(self, step: int, name: str, samples: list[tuple[str, ...]]) -> None:
        """Samples as (input, output) or (input, output, reference), under a name, after a step."""

    def close(self) -> None:
        """Writes what is still to be written; nothing comes after."""


class NoSink:
    """Keeps nothing: for processes that train along but do not write."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        pass

    def texts(self, step: int, name: str, samples: list[tuple[str, ...]]) -> None:
        pass

    def close(self) -> None:
        pass


Opener = Callable[[Path, int], Sink]
"""Makes a sink for a run folder that goes on after a step; 0 begins anew. ``TensorBoard`` is one."""


class MetricsFile:
    """``metrics.jsonl`` in the run folder, and ``samples.jsonl`` beside it: an object a line, flushed at once.

    A figure that is not finite is left out, since JSON has no number for it.

    Args:
        folder: of the run; made where it is missing.
        after: the step that the run goes on after: lines of later steps are cut off, and a torn one with them.

    Raises:
        CheckpointError: when a file cannot be written, here and later: a run whose course is lost should not go on.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        self._folder = folder
        self._files: dict[str, TextIO] = {}
        for name in (METRICS, SAMPLES):
            _cut_back(folder / name, after)
        self._open(METRICS)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        line: dict[str, Any] = {"step": step}
        for name, value in values.items():
            if not math.isfinite(value):
                continue
            *groups, last = name.split("/")
            place = line
            for group in groups:
                place = place.setdefault(group, {})
            place[last] = value
        self._append(METRICS, line)

    def texts(self, step: int, name: str, samples: list[tuple[str, ...]]) -> None:
        named = [dict(zip(FIELDS, sample, strict=False)) for sample in samples]
        self._append(SAMPLES, {"step": step, "name": name, "samples": named})

    def close(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # whatever could not be flushed has been told
                file.close()

    def _append(self, name: str, line: dict[str, Any]) -> None:
        file = self._files.get(name) or self._open(name)
        try:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
        except OSError as error:
            raise _unwritable(self._folder / name, error) from None

    def _open(self, name: str) -> TextIO:
        try:
            # Half a surrogate pair becomes \udXXX, which is how JSON writes it.
            file = (self._folder / name).open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise _unwritable(self._folder / name, error) from None
        self._files[name] = file
        return file


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    hint = "make room or choose another folder; a run with checkpoints goes on with `pellucid train --resume`"
    return CheckpointError(path, f"cannot be written ({error})", hint=hint)


def _cut_back(path: Path, after: int) -> None:
    """Leaves what happened up to a step."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not after:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None
    if path.exists():
        kept = [line for line, record in _whole_lines(path) if record["step"] <= after]
        write_whole(path, lambda part: part.write_bytes("".join(f"{line}\n" for line in kept).encode()))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The objects of ``metrics.jsonl`` or ``samples.jsonl``; none where there is no such file.

    A torn line, as a killed process leaves it, is passed over.
    """
    return [record for _, record in _whole_lines(path)] if path.exists() else []


def best_of(folder: Path) -> dict[str, Any] | None:
    """The step and the figures of the weights that a run has kept, whoever trained them; ``None`` where none are."""
    kept = [record for record in read_records(folder / METRICS) if record.get("best")]
    if not kept:
        return None
    return {"step": kept[-1]["step"], **(kept[-1].get("average") or kept[-1]["validation"])}


def _whole_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    # Not splitlines(): a sample may hold one of the rarer line breaks.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                yield line, record


class TensorBoard:
    """``tensorboard/`` in the run folder; look with ``tensorboard --logdir RUN``.

    What an earlier process wrote of steps after ``after`` is no longer shown.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if not after:
            shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder / TENSORBOARD), purge_step=after + 1 if after else None)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()  # a killed run keeps what it has shown, as in metrics.jsonl

    def texts(self, step: int, name: str, samples: list[tuple[str, ...]]) -> None:
        self._writer.add_text(name, _table(samples), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _table(samples: Samples) -> str:
    """A table in Markdown, in which the texts stand as they are."""
    rows = [FIELDS, ("---",) * len(FIELDS), *([_literal(text) for text in sample] for sample in samples)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _literal(text: str) -> str:
    """Every sign that could be read as Markdown or HTML as its number, and line breaks kept."""
    signs = (sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in text)
    return "".join(signs).replace("&#10;", "<br>")


def require_wandb() -> ModuleType:
    """The ``wandb`` package.

    Raises:
        UserError: when it is not installed; says how to get it.
    """
    try:
        import wandb
    except ImportError:
        hint = "install it with: pip install 'pellucid[wandb]'"
        raise UserError("Weights & Biases", "the package wandb is missing", hint=hint) from None
    return wandb


class WeightsAndBiases:
    """A run of Weights & Biases, under an id kept in the run folder, so that a resumed run goes on in the same place.

    Figures are drawn over our step: theirs only ever grows, and would refuse what a resumed run does again. With
    ``WANDB_MODE=offline`` nothing needs a network; ``wandb sync`` sends it later.

    Args:
        folder: of the run, whose name is shown and which takes the files.
        after: the step that the run goes on after.
        project: where it is filed.
        config: the settings of the run, plain values.

    Raises:
        UserError: when the package is not installed or nobody is logged in.
    """

    def __init__(
        self, folder: Path, after: int = 0, *, project: str = "pellucid", config: Mapping[str, Any] | None = None
    ) -> None:
        self._wandb: Any = require_wandb()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run: Any = self._wandb.init(
                project=project,
                name=folder.resolve().name,
                id=_run_id(folder / WANDB_ID, anew=not after),
                resume="allow",
                dir=str(folder),
                config=dict(config or {}),
                settings=self._wandb.Settings(console="off", quiet=True),
            )
        except self._wandb.errors.UsageError as error:
            hint = "log in with `wandb login`, or set WANDB_MODE=offline and send the run later with `wandb sync`"
            raise UserError("Weights & Biases", str(error).strip().rstrip("."), hint=hint) from None
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log({**values, "step": step})

    def texts(self, step: int, name: str, samples: list[tuple[str, ...]]) -> None:
        rows = [[*sample, ""][: len(FIELDS)] for sample in samples]
        self._run.log({name: self._wandb.Table(columns=list(FIELDS), data=rows), "step": step})

    def close(self) -> None:
        self._run.finish()


def _run_id(path: Path, *, anew: bool) -> str:
    if anew or not path.exists():
        write_whole(path, lambda part: part.write_text(secrets.token_hex(4) + "\n", encoding="utf-8"))
    return path.read_text(encoding="utf-8").strip()


class Sinks:
    """Passes everything on to several sinks.

    The first one must work, and its errors are the caller's. One of the others that fails, on a full disk or without a
    network, is told of once and then left out: no picture of a training is worth the training.

    Args:
        first: usually :class:`MetricsFile`.
        others: may fail.
        remark: takes the one sentence about each that did.
    """

    def __init__(self, first: Sink, others: Sequence[Sink] = (), remark: Callable[[str], None] = print) -> None:
        self._first, self._others, self._remark = first, list(others), remark

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._first.scalars(step, values)
        self._each(lambda sink: sink.scalars(step, values))

    def texts(self, step: int, name: str, samples: list[tuple[str, ...]]) -> None:
        self._first.texts(step, name, samples)
        self._each(lambda sink: sink.texts(step, name, samples))

    def close(self) -> None:
        self._first.close()
        self._each(lambda sink: sink.close())
        self._others.clear()

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _each(self, act: Callable[[Sink], None]) -> None:
        for sink in list(self._others):
            try:
                act(sink)
            except Exception as error:
                self._others.remove(sink)
                self._remark(_failed(type(sink).__name__, error))
                with contextlib.suppress(Exception):
                    sink.close()


def _failed(name: str, error: Exception) -> str:
    return f"{name} failed and is left out from here on ({error or type(error).__name__}); {METRICS} has all figures"


def open_sinks(
    folder: Path, after: int = 0, openers: Sequence[Opener] = (), remark: Callable[[str], None] = print
) -> Sinks:
    """The sinks of a run that goes on after a step: its :class:`MetricsFile` and whatever else can be opened.

    Raises:
        CheckpointError: when ``metrics.jsonl`` cannot be written.
        UserError: when what was asked for is not installed or not set up.
    """
    first, others = MetricsFile(folder, after), []
    for opener in openers:
        try:
            others.append(opener(folder, after))
        except PellucidError:
            Sinks(first, others, remark).close()
            raise
        except Exception as error:
            remark(_failed(getattr(opener.func if isinstance(opener, partial) else opener, "__name__", "sink"), error))
    return Sinks(first, others, remark)
