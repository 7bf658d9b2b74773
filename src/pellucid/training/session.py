"""A run before it is trained: data read, tokenizer trained, model built."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from pellucid.config import model as config
from pellucid.config import run as config_of_run
from pellucid.config.defaults import default_run, family_of
from pellucid.config.model import labels_of, stacks
from pellucid.config.run import Causal, Masked, NoObjective, Run, SpanCorruption
from pellucid.config.start import Pretrained
from pellucid.data.batch import EvaluationBatches
from pellucid.data.batches import checked, evaluation_batches
from pellucid.data.corpora import load_corpus
from pellucid.data.corpus import Corpus, Examples
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import ConfigError
from pellucid.models.build import Model, build
from pellucid.models.checkpoint import load_description
from pellucid.models.foreign.folder import is_published
from pellucid.models.load import describe, find
from pellucid.training.distributed import ALONE, World
from pellucid.training.precision import fastest, slowness
from pellucid.training.start import prepare_parameters, take_over, with_own_labels


@dataclass(frozen=True)
class Session:
    """All that a run needs, loaded and built; ``chosen`` says what was decided by measurement, and why."""

    run: Run
    corpus: Corpus
    tokenizer: Tokenizer
    model: Model
    chosen: dict[str, str] = field(default_factory=dict)


def prepare(
    run: Run, *, corpus: Corpus | None = None, device: str | torch.device = "cpu", world: World = ALONE
) -> Session:
    """Reads the data, trains or loads the tokenizer, builds the model.

    Args:
        world: the processes that train together: all of them call this, and one of them measures.

    Raises:
        DataError: for data that cannot be read, or of another kind than the objective is about.
        ConfigError: for lengths beyond the model's positions, labels or tokens that it has no rows for, or a model that
            has nothing to learn from.
    """
    _check_length(run)
    run, chosen = _measured(run, torch.device(device).type, world)
    corpus = load_corpus(run.data) if corpus is None else corpus
    checked(corpus.train, run.objective)
    if isinstance(run.start, Pretrained):
        source, _, tokenizer = describe(run.start.path)
        own = _tokenizer_of_start(run, run.start)
        if run.tokenizer not in (own, default_run(family_of(run.model), run.data).tokenizer):  # that nobody asked for
            chosen["tokenizer"] = f"that of {run.start.path}, not the one that the run asks for"
        model = with_own_labels(run.model, source, corpus.labels)
        run = replace(run, model=model, tokenizer=own, conventions=tokenizer.conventions)
    else:
        tokenizer = Tokenizer.train(run.tokenizer, corpus.training_texts())
        if run.conventions is not None:  # as its folder will be read
            tokenizer = Tokenizer(tokenizer.raw, run.conventions)
        if isinstance(run.objective, SpanCorruption):
            tokenizer = tokenizer.with_sentinels(run.objective.sentinels)
    completed = run.completed(vocab_size=tokenizer.vocab_size, labels=corpus.labels)
    _check_labels(completed.model, corpus.labels)
    _check_vocabulary(completed.model, tokenizer)
    torch.manual_seed(run.seed)
    built = build(completed.model)
    if isinstance(run.start, Pretrained) and (new := take_over(built, run.start)):
        chosen["begins at random"] = ", ".join(new)
    prepare_parameters(built, run)
    return Session(completed, corpus, tokenizer, built.to(device), chosen)


def _tokenizer_of_start(run: Run, start: Pretrained) -> config_of_run.Tokenizer:
    """How the tokenizer of a start came about; for a published one, which does not say, as the run has it."""
    folder = find(start.path)
    return run.tokenizer if is_published(folder) else load_description(folder)[0].tokenizer


def reopen(folder: Path, *, device: str | torch.device = "cpu") -> Session:
    """The session of a run that was stopped or killed, for ``fit(..., resume=True)``.

    Raises:
        CheckpointError: for a folder that holds no run.
        DataError: for data that is no longer there.
    """
    run, tokenizer = load_description(folder)
    torch.manual_seed(run.seed)
    model = build(run.model)
    prepare_parameters(model, run)
    return Session(run, load_corpus(run.data), tokenizer, model.to(device))


def _measured(run: Run, device_type: str, world: World) -> tuple[Run, dict[str, str]]:
    """The run with every ``auto`` replaced by what is fastest here."""
    if (precision := run.training.precision) != "auto":
        slow = world.told(lambda: slowness(precision, device_type))
        return run, {"precision": f"{precision} ({slow}; training.precision=auto takes the fastest)"} if slow else {}
    choice, reason = world.told(lambda: fastest(device_type))  # two measurements need not agree
    training = replace(run.training, precision=choice)
    return replace(run, training=training), {"precision": f"{choice} ({reason})"}


def _check_labels(model: config.Model, labels: tuple[str, ...]) -> None:
    """Refuses data with a label that the head does not know."""
    known = labels_of(model)
    for label in labels:
        if label not in known:
            found = f'no "{label}", which the data has'
            raise ConfigError("model.head.labels", found, "all labels of the data", "leave it out: the data tells")


def _check_vocabulary(model: config.Model, tokenizer: Tokenizer) -> None:
    """Refuses a table of fewer rows than there are tokens to look up."""
    tables: dict[str, tuple[config.Front, Tokenizer]]
    if isinstance(model, config.EncoderDecoder):
        tables = {"source": (model.source, tokenizer), "target": (model.target, tokenizer.target)}
    else:
        tables = {"front": (model.front, tokenizer)}
    for name, (front, cut) in tables.items():
        if isinstance(front, config.Tokens) and front.vocab_size < cut.vocab_size:
            raise ConfigError(
                f"model.{name}.vocab_size",
                f"found {front.vocab_size}",
                f"at least {cut.vocab_size}, as many as the tokenizer has",
                f"set model.{name}.vocab_size=0, which stands for as many as there are",
            )


def _check_length(run: Run) -> None:
    objective = run.objective
    if isinstance(objective, NoObjective):
        raise ConfigError(
            "model.head",
            "an embedding head, which has nothing to learn from",
            "a masked-language or classification head",
            "`pellucid train classifier --from` puts a new head on it",
        )
    windows = isinstance(objective, Causal | Masked | SpanCorruption)
    name = "length" if windows else "max_length"
    length: int = getattr(objective, name)
    reads = max(length, objective.longest) if isinstance(objective, SpanCorruption) else length
    limit = min((stack.max_length for stack in stacks(run.model) if stack.max_length), default=None)
    if limit is not None and reads > limit:
        raise ConfigError(
            f"objective.{name}",
            f"found {length}" + (f", of which {reads} tokens are read" if reads > length else ""),
            f"at most {limit}, as many as the model has positions",
            f"lower objective.{name} or raise positions.max_length",
        )


def validation_batches(session: Session, examples: Examples | None = None) -> EvaluationBatches:
    """Batches that cover the validation data, or other examples, once."""
    examples = session.corpus.validation if examples is None else examples
    run = session.run
    return evaluation_batches(
        examples,
        session.tokenizer,
        run.objective,
        batch_tokens=run.training.batch_tokens,
        labels=labels_of(run.model),
    )
