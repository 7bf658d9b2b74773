"""What a page looks at: models, and passes through them that are kept while there is room.

A pass is one forward through one model: an input, edits, and the tape of all that happened. It is known by a hash of
the three, so that whatever is asked about it has one answer for ever; one that had to make room is run again when it is
asked for.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.config.start import Pretrained
from pellucid.errors import UserError, nearest
from pellucid.explorer.asked import Held, Input, Shown, Source
from pellucid.explorer.drafts import Drafts
from pellucid.explorer.passes import Explored, Pass, placed
from pellucid.inference.drawing import Autoencoder, drawn
from pellucid.inference.reading import Reading, padded, read, read_ids
from pellucid.inference.seen import opened, read_seen, see
from pellucid.models.build import Model, build
from pellucid.models.checkpoint import CHECKPOINTS, SNAPSHOTS, WEIGHTS, Loaded, load_weights
from pellucid.models.files import fill
from pellucid.nn.lora import merged_weights
from pellucid.trace import Tape, trace
from pellucid.trace.room import free
from pellucid.training.start import prepare_parameters

LAZY = ("*.mask", "*.scores", "*.weights")  # which grow with the square of the length
KNOWN_PASSES = 10_000
KEPT_CHECKPOINTS = 8  # read at a time: people go to and fro between a few
MAIN = "main"
MOST_SHOWN = 32  # pictures and sounds at a time


@dataclass(frozen=True)
class Limits:
    """How much a session takes on.

    Attributes:
        tokens: of one sequence.
        passes: kept at a time. bytes: of all tapes that are kept; an eighth of the free memory when left out.
    """

    tokens: int = 1024
    passes: int = 24
    bytes: int | None = None

    @cached_property
    def room(self) -> int:
        """Bytes of all tapes."""

        return self.bytes if self.bytes is not None else free(torch.device("cpu")) // 8


class Session:
    """The models and passes that a page looks at.

    Args:
        loaded: the model.
        name: what people call it.
        folder: of the run it comes from, with its checkpoints; ``None`` for a model in memory.
        others: more models by name, to be compared with it.
        shown: files by name, for a model that reads pictures or sounds: the first is what it begins with.
        coder: makes pixels of the codes that the model writes; ``None`` for one that writes texts alone.
    """

    def __init__(
        self,
        loaded: Loaded,
        name: str = "model",
        *,
        folder: Path | None = None,
        others: Mapping[str, Loaded] | None = None,
        limits: Limits | None = None,
        example: tuple[str, str | None] | None = None,
        shown: Mapping[str, bytes] | None = None,
        coder: Autoencoder | None = None,
    ) -> None:
        self.folder, self.limits, self.coder = folder, limits or Limits(), coder
        self.models = {MAIN: Explored(MAIN, name, loaded)}
        for key, other in (others or {}).items():
            self.models[key] = Explored(key, key, other)
        self._shown: OrderedDict[str, Any] = OrderedDict()  # pictures and waves, by name
        self._digests: dict[str, str] = {}  # of all files that were ever shown, by name
        names = [self.show(name, content) for name, content in (shown or {}).items()]
        self.example = example or (names[0] if names else _example(self.models[MAIN]), None)
        self.drafts = Drafts(self.limits.tokens)
        self.reports: dict[tuple[str, str, str], dict[str, Any]] = {}  # of the doctor: key, identity, level
        self._visited: OrderedDict[str, Explored] = OrderedDict()
        self._passes: OrderedDict[str, Pass] = OrderedDict()
        self._known: OrderedDict[str, Input] = OrderedDict()

    # ---- models --------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> dict[str, Path]:
        """The weights that the run left behind on its way, by key, the first first."""
        if self.folder is None:
            return {}
        steps = {path.name[5:]: path / WEIGHTS for path in (self.folder / CHECKPOINTS).glob("step-*")}
        steps |= {path.stem[5:]: path for path in (self.folder / SNAPSHOTS).glob("step-*.safetensors")}
        numbered = {int(step): path for step, path in steps.items() if step.isdigit()}  # a stray copy is none
        return {f"step-{step}": numbered[step] for step in sorted(numbered)}

    def model(self, key: str) -> Explored:
        """A model by its key; a checkpoint is read when it is first asked for.

        Raises:
            UserError: for a key that does not exist, with the nearest.
        """
        if key in self.models:
            return self.models[key]
        if key not in self._visited:
            weights = self.checkpoints.get(key)
            if weights is None:
                raise UserError(f'model "{key}"', "no such model", hint=nearest(key, [*self.models, *self.checkpoints]))
            main = self.models[MAIN]
            model = _at_step(main.loaded, weights)
            loaded = Loaded(model.to(main.loaded.model.device).eval(), main.loaded.tokenizer, main.loaded.run)
            self._visited[key] = Explored(key, f"{main.name}, step {key[5:]}", loaded, int(key[5:]))
            while len(self._visited) > KEPT_CHECKPOINTS:
                self._visited.popitem(last=False)
        self._visited.move_to_end(key)
        return self._visited[key]

    # ---- passes --------------------------------------------------------------------------------

    def run(self, asked: Input) -> Pass:
        """The pass for an input, run if it is not held.

        Raises:
            UserError: for an input that the model cannot read, or one too long.
        """
        explored = self.model(asked.model)
        files = {text: self._digests[text] for text in asked.texts if text in self._digests}
        about = json.dumps([asked.as_dict(), files], sort_keys=True)  # in another session a name is another file's
        id = hashlib.sha256(f"{explored.identity} {about}".encode()).hexdigest()[:16]
        if id in self._passes:
            self._passes.move_to_end(id)
            return self._passes[id]
        began = time.perf_counter()
        reading = self._read(explored, asked)
        edits = asked.changes(self.lender(asked.model))
        limit = self.limits.room // 2
        with placed(asked, explored.loaded.model):
            tape = trace(explored.loaded.model, reading.arguments, edits=edits, lazy=LAZY, limit=limit)
        _check_matched(asked, tape)
        made = Pass(id, asked, explored, reading, tape, time.perf_counter() - began)
        self._keep(made)
        return made

    def held(self, id: str) -> Pass:
        """A pass by its id, run again if it had to make room.

        Raises:
            UserError: for an id that this session has not given, or one of a model that was trained on since.
        """
        if id not in self._passes and id not in self._known:
            raise UserError(f'pass "{id}"', "not known to this session", hint="run the input again")
        made = self._passes[id] if id in self._passes else self.run(self._known[id])
        if made.id != id or not made.is_current:
            self._passes.pop(id, None)
            raise UserError(f'pass "{id}"', "the model has changed since", hint="run the input again")
        self._passes.move_to_end(id)
        return made

    def lender(self, model: str) -> Held:
        """What an edit takes from other passes: of an id, or of what the same model makes of another input."""

        def held(source: Source, name: str) -> Tensor:
            lent = self.held(source) if isinstance(source, str) else self.run(_alone(source, model))
            if name not in lent.tape.entries:
                raise UserError(f'"{name}"', "no such tensor in the other pass", hint=nearest(name, lent.tape.names))
            return lent.value(name)

        return held

    def show(self, name: str, content: bytes) -> str:
        """Takes a picture or a sound, which from then on is read in place of the text that is its name.

        Raises:
            UserError: for a file that is neither, or a model that reads text.
        """
        sense = self.models[MAIN].sense
        if sense == "text":
            raise UserError("file", "this model reads text", "one that reads pictures or sounds")
        digest = hashlib.sha256(content).hexdigest()[:8]
        if self._digests.get(name, digest) != digest:
            name = f"{digest} {name}"  # a name stands for one file as long as the page is open
        self._shown[name] = opened(sense, content, name)
        self._digests[name] = digest
        self._shown.move_to_end(name)
        while len(self._shown) > MOST_SHOWN:
            self._shown.popitem(last=False)
        return name

    def _seen(self, explored: Explored, asked: Input) -> Reading:
        if asked.ids is not None or asked.padding is not None:
            raise UserError("input", f"this model reads a {explored.sense}", "one as it is, without other tokens")
        if asked.text not in self._shown:
            known = [*self._shown]
            raise UserError(
                explored.sense,
                f'there is none called "{asked.text}"',
                "one that was opened",
                nearest(asked.text, known),
            )
        return read_seen(explored.loaded, see(explored.loaded, self._shown[asked.text]), asked.target)

    def _read(self, explored: Explored, asked: Input) -> Reading:
        if explored.sense != "text":
            return self._seen(explored, asked)
        if asked.ids is not None:
            reading = read_ids(explored.loaded, asked.ids.reads, asked.ids.writes)
        else:
            reading = read(explored.loaded, asked.text, asked.target, self.limits.tokens)
        if (padding := asked.padding) is not None:
            counts = (padding.reads, padding.writes)[: len(reading.inputs)]
            left = padding.side == "left"
            reading = padded(explored.loaded, reading, counts, left=left, told=padding.hidden)
        longest = max(ids.size(1) for ids in reading.inputs)
        if longest > self.limits.tokens:
            raise UserError("text", f"{longest:,} tokens", f"at most {self.limits.tokens:,}", "shorten it")
        if self.coder is None or explored.key != MAIN:
            return reading
        return replace(reading, drawn=drawn(reading, self.coder, explored.loaded.tokenizer.vocab_size))

    def _keep(self, made: Pass) -> None:
        self._passes[made.id] = made
        self._known[made.id] = made.asked
        self._known.move_to_end(made.id)
        while len(self._known) > KNOWN_PASSES:
            self._known.popitem(last=False)
        while len(self._passes) > 1 and (
            len(self._passes) > self.limits.passes
            or sum(each.nbytes for each in self._passes.values()) > self.limits.room
        ):
            self._passes.popitem(last=False)

    # ---- for the page --------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """What the page asks for first."""
        from pellucid.version import __version__

        text, target = self.example
        return {
            "version": __version__,
            "models": [explored.as_dict() for explored in self.models.values()],
            "checkpoints": list(self.checkpoints),
            "training": self.folder is not None and (self.folder / "metrics.jsonl").exists(),
            "limits": {"tokens": self.limits.tokens},
            "example": {"text": text, "target": target},
        }


def _at_step(loaded: Loaded, weights: Path) -> Model:
    """The model of a run with weights of its way, low-rank terms added to the matrices they stand beside."""
    model, start = build(loaded.model.config), loaded.run.start
    if not isinstance(start, Pretrained) or start.lora is None:
        load_weights(model, weights)
        return model
    adapted = build(loaded.model.config)
    prepare_parameters(adapted, loaded.run)
    load_weights(adapted, weights)
    for name, value in merged_weights(adapted):
        fill(model.get_parameter(name), value)
    return model


def _check_matched(asked: Input, tape: Tape) -> None:
    """An edit that changed nothing is a slip of the pen.

    Raises:
        UserError: for an edit of a tensor that the pass does not have, with the nearest name.
    """
    for pattern in tape.edits:
        if not any(pattern in entry.edited for entry in tape.entries.values()):
            raise UserError(f'edit of "{pattern}"', "no such tensor in this pass", hint=nearest(pattern, tape.names))


def _alone(source: Shown, model: str) -> Input:
    return Input(model=model, text=source.text, target=source.target)


def _example(explored: Explored) -> str:
    """A text to begin with, for a model of which nobody has said what it reads."""
    head = explored.description["head"]
    text = "The animal didn't cross the street because it was too tired"
    return text.replace("street", "<mask>") if head == "masked" else text
