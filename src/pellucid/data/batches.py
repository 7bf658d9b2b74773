"""From examples and an objective to batches: the one place where the two are matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pellucid.config import run
from pellucid.data.batch import EvaluationBatches, TrainingBatches
from pellucid.data.buckets import EvaluationBuckets, LabelledRows, PairRows, Rows, TrainingBuckets
from pellucid.data.corpus import Examples, Labelled, Pair
from pellucid.data.files import Document
from pellucid.data.masking import Masking, Spans
from pellucid.data.ragged import Ragged
from pellucid.data.streams import token_stream
from pellucid.data.tokenizers import Tokenizer
from pellucid.data.windows import EvaluationWindows, HiddenSpans, HiddenTokens, NextToken, Task, TrainingWindows
from pellucid.errors import DataError, nearest


def training_batches(
    examples: Examples,
    tokenizer: Tokenizer,
    objective: run.Objective,
    *,
    batch_tokens: int,
    seed: int,
    labels: Sequence[str] = (),
) -> TrainingBatches:
    """Batches without end; ``batches[i]`` is a pure function of the seed and ``i``, so a run can go on at any step.

    Args:
        batch_tokens: tokens of a batch, padding included; of a pair, the longer side counts.
        labels: for :class:`Classify`, in the order of the classes.

    Raises:
        DataError: for examples of the wrong kind, a text too short for one window, one document to be kept apart from
            others, a label not in ``labels``.
    """
    fitting = checked(examples, objective)
    assert not isinstance(objective, run.NoObjective)  # has been refused
    match objective:
        case run.Causal(separate_documents=True) if len(fitting) == 1:
            raise DataError("objective.separate_documents", "one document", "two or more", "set it to false")
        case run.Causal() | run.Masked() | run.SpanCorruption():
            rows = max(1, batch_tokens // objective.length)
            return TrainingWindows(token_stream(fitting, tokenizer), task(objective, tokenizer), rows, seed)
        case run.SequenceToSequence() | run.Classify():
            return TrainingBuckets(example_rows(fitting, tokenizer, objective, labels), batch_tokens, seed)


def evaluation_batches(
    examples: Examples,
    tokenizer: Tokenizer,
    objective: run.Objective,
    *,
    batch_tokens: int,
    seed: int = 0,
    labels: Sequence[str] = (),
) -> EvaluationBatches:
    """Batches that cover every example, and every token to predict, exactly once. See :func:`training_batches`."""
    fitting = checked(examples, objective)
    assert not isinstance(objective, run.NoObjective)  # has been refused
    match objective:
        case run.Causal() | run.Masked() | run.SpanCorruption():
            rows = max(1, batch_tokens // objective.length)
            return EvaluationWindows(token_stream(fitting, tokenizer), task(objective, tokenizer), rows, seed)
        case run.SequenceToSequence() | run.Classify():
            return EvaluationBuckets(example_rows(fitting, tokenizer, objective, labels), batch_tokens)


def task(objective: run.Causal | run.Masked | run.SpanCorruption, tokenizer: Tokenizer) -> Task:
    """What is asked about a window of text, of which what stands around texts takes its part.

    Raises:
        DataError: for a special token that is missing, or windows that have no room beside what stands around them.
    """
    pad, around = tokenizer.require("pad"), tokenizer.conventions
    before, after = (around.before, around.after) if around else ((), ())
    match objective:
        case run.Causal():
            eos = tokenizer.require("eos") if objective.separate_documents else None
            return NextToken(_room(objective, before), pad, eos, before)
        case run.Masked():
            mask = tokenizer.require("mask")
            masking = Masking(objective.rate, mask, tokenizer.vocab_size, tokenizer.special_ids)
            return HiddenTokens(_room(objective, before + after), pad, masking, before, after)
        case run.SpanCorruption():
            spans = Spans(objective.rate, objective.span, tokenizer.require_sentinels(objective.sentinels))
            return HiddenSpans(objective.length, pad, tokenizer.start, tokenizer.require("eos"), spans)


def _room(objective: run.Causal | run.Masked, around: tuple[int, ...]) -> int:
    """The tokens of text in a window."""
    if objective.length <= len(around):
        found = f"windows of {objective.length}, of which {len(around)} stand around the text"
        raise DataError("objective.length", found, f"{len(around) + 1} or more")
    return objective.length - len(around)


def example_rows(
    examples: Sequence[Any],
    tokenizer: Tokenizer,
    objective: run.SequenceToSequence | run.Classify,
    labels: Sequence[str] = (),
) -> Rows:
    """Examples as token ids, over-long ones cut to ``max_length``."""
    pad = tokenizer.require("pad")
    longest = objective.max_length
    match objective:
        case run.SequenceToSequence():
            sides = zip((tokenizer, tokenizer.target), zip(*examples, strict=True), strict=True)
            sources, targets = (cut.encode_batch(side) for cut, side in sides)
            # A target that is cut has no eos among its labels: the text goes on, and nothing else would be true.
            return PairRows(
                source=Ragged.of([tokenizer.source(ids, longest) for ids in sources]),
                target=Ragged.of([tokenizer.target.written(ids)[: longest + 1] for ids in targets]),
                pad=pad,
                num_cut=sum(max(map(len, ids)) >= longest for ids in zip(sources, targets, strict=True)),
            )
        case run.Classify():
            texts, names = zip(*examples, strict=True)
            encoded = tokenizer.encode_batch(texts)
            return LabelledRows(
                text=Ragged.of([tokenizer.text(ids, longest) for ids in encoded]),
                labels=label_indices(names, labels),
                pad=pad,
                num_cut=sum(len(tokenizer.text(ids)) > longest for ids in encoded),
            )


def label_indices(names: Sequence[str], labels: Sequence[str]) -> Int[ndarray, "N"]:
    """The class of each example.

    Raises:
        DataError: for a name that is not among the labels.
    """
    index = {label: i for i, label in enumerate(labels)}
    for name in names:
        if name not in index:
            raise DataError("labels", f'no label "{name}"', "one the model knows", nearest(name, labels))
    return np.array([index[name] for name in names])


def checked(examples: Examples, objective: run.Objective) -> Sequence[Any]:
    """The examples, which are there and of the kind that the objective is about.

    Raises:
        DataError: if not.
    """
    if isinstance(objective, run.NoObjective):
        raise DataError(
            "data", "this model turns texts into vectors: no label to learn or to compare with", "`pellucid embed`"
        )
    kinds: dict[type, tuple[Any, str]] = {
        run.Causal: (Document, "documents of text"),
        run.Masked: (Document, "documents of text"),
        run.SpanCorruption: (Document, "documents of text"),
        run.SequenceToSequence: (Pair, "pairs of source and target"),
        run.Classify: (Labelled, "texts with a label"),
    }
    wanted, what = kinds[type(objective)]
    expected = f"{what}, which the objective {type(objective).__name__} is about"
    if not examples:
        raise DataError("data", "no examples", expected)
    if not isinstance(examples[0], wanted):
        raise DataError("data", f"found {type(examples[0]).__name__}, such as {str(examples[0])[:60]!r}", expected)
    return examples
