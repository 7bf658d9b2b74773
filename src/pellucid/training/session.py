"""A run before it is trained: data read, tokenizer trained, model built."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from pellucid.config.model import stacks
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
from pellucid.models.load import describe
from pellucid.training.precision import fastest
from pellucid.training.start import prepare_parameters, take_over


@dataclass(frozen=True)
class Session:
    """All that a run needs, loaded and built; ``chosen`` says what was decided by measurement, and why."""

    run: Run
    corpus: Corpus
    tokenizer: Tokenizer
    model: Model
    chosen: dict[str, str] = field(default_factory=dict)


def prepare(run: Run, *, corpus: Corpus | None = None, device: str | torch.device = "cpu") -> Session:
    """Reads the data, trains or loads the tokenizer, builds the model.

    Raises:
        DataError: for data that cannot be read, or of another kind than the objective is about.
        ConfigError: for lengths beyond the model's positions, or a model that has nothing to learn from.
    """
    _check_length(run)
    run, chosen = _measured(run, torch.device(device).type)
    corpus = load_corpus(run.data) if corpus is None else corpus
    checked(corpus.train, run.objective)
    if isinstance(run.start, Pretrained):
        _, _, tokenizer = describe(run.start.path)
        run = replace(run, conventions=tokenizer.conventions)
    else:
        tokenizer = Tokenizer.train(run.tokenizer, corpus.training_texts())
        if isinstance(run.objective, SpanCorruption):
            tokenizer = tokenizer.with_sentinels(run.objective.sentinels)
    completed = run.completed(vocab_size=tokenizer.vocab_size, labels=corpus.labels)
    torch.manual_seed(run.seed)
    model = build(completed.model)
    if isinstance(run.start, Pretrained) and (new := take_over(model, run.start)):
        chosen["begins at random"] = ", ".join(new)
    prepare_parameters(model, run)
    return Session(completed, corpus, tokenizer, model.to(device), chosen)


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


def _measured(run: Run, device_type: str) -> tuple[Run, dict[str, str]]:
    """The run with every ``auto`` replaced by what is fastest here."""
    if run.training.precision != "auto":
        return run, {}
    choice, reason = fastest(device_type)
    training = replace(run.training, precision=choice)
    return replace(run, training=training), {"precision": f"{choice} ({reason})"}


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
    limit = min((stack.max_length for stack in stacks(run.model) if stack.max_length), default=None)
    if limit is not None and length > limit:
        raise ConfigError(
            f"objective.{name}",
            f"found {length}",
            f"at most {limit}, as many as the model has positions",
            f"lower objective.{name} or raise positions.max_length",
        )


def validation_batches(session: Session, examples: Examples | None = None) -> EvaluationBatches:
    """Batches that cover the validation data, or other examples, once."""
    examples = session.corpus.validation if examples is None else examples
    run = session.run
    return evaluation_batches(
        examples, session.tokenizer, run.objective, batch_tokens=run.training.batch_tokens, labels=session.corpus.labels
    )
