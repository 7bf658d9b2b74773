"""Evaluate a run on its validation data, its named tests, or other data.

Example: `pellucid evaluate runs/en-de --test test_2017_flickr --beams 5 --length-penalty 1.5`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Json,
    LengthPenaltyOption,
    RunArgument,
    Verify,
    open_run,
    penalty_of,
    print_json,
    say,
)
from pellucid.cli.train import given_data
from pellucid.config.defaults import default_run, family_of, fitted
from pellucid.config.model import labels_of
from pellucid.config.run import Data, LabelledFiles, NamedData, ParallelFiles, TextFiles
from pellucid.errors import UserError, nearest


def evaluate(
    run: RunArgument,
    test: Annotated[str | None, typer.Option(help="A named test set of the data, instead of validation.")] = None,
    text: Annotated[Path | None, typer.Option(help="Another plain text.")] = None,
    source: Annotated[Path | None, typer.Option(help="Other pairs, source side.")] = None,
    target: Annotated[Path | None, typer.Option(help="Other pairs, target side.")] = None,
    labelled: Annotated[Path | None, typer.Option(help="Other labelled texts.")] = None,
    mirror: Annotated[str | None, typer.Option(help="A folder to read a catalogue set from.")] = None,
    beams: Annotated[int, typer.Option(help="Beams for translations; 1 is greedy.", min=1)] = 1,
    length_penalty: LengthPenaltyOption = None,
    weights: Annotated[
        str, typer.Option(help="What translations are written with, as in translate; the loss is of float32.")
    ] = "float32",
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    from pellucid.inference.engine import fast
    from pellucid.inference.engine.products import known
    from pellucid.inference.predict import translate

    if length_penalty is not None and beams == 1:
        raise UserError("--length-penalty", "one beam, which is not searched with", "--beams 5 or so beside it")
    given, kind = given_data([text] if text else None, source, target, labelled, None, None), known(weights)
    loaded = open_run(run, device, verify)
    examples, corpus = _examples(loaded, test, given, mirror)
    for name, idle in (("--beams", beams == 1), ("--weights", kind == "float32")):
        if corpus.kind != "pairs" and not idle:
            raise UserError(name, f"the data are {corpus.kind}, of which nothing is translated", "pairs beside it")

    def write(sources: list[str]) -> list[str]:
        return translate(fast(loaded, kind), sources, beams=beams, penalty=penalty_of(length_penalty))

    results = _scores(loaded, corpus, examples, write)
    if json:
        print_json({"run": str(run), "examples": len(examples), **results})
        return
    say(f"{len(examples):,} examples")
    for name, value in results.items():
        if isinstance(value, dict):
            say(f"{name:>14}  {value['score']:.2f}   {value['signature']}")
        else:
            say(f"{name:>14}  {value:.4f}" if isinstance(value, float) else f"{name:>14}  {value:,}")


def _examples(loaded: Any, test: str | None, given: Data | None, mirror: str | None) -> tuple[Any, Any]:
    from pellucid.data.corpora import load_corpus

    data = None if loaded.is_published else loaded.run.data
    if mirror and (given is not None or not isinstance(data, NamedData)):
        raise UserError("--mirror", "data that are no set of the catalogue", "a run that was trained on one")
    match given:
        case TextFiles(train=texts):
            data = replace(given, validation=texts)
        case ParallelFiles(source=source, target=target):
            data = replace(given, validation_source=source, validation_target=target)
        case LabelledFiles(train=examples):
            data = replace(given, validation=examples)
        case None if mirror and isinstance(data, NamedData):
            data = replace(data, mirror=mirror)
    if data is None:
        raise UserError("evaluate", "a published model says no data", "--text, --source and --target, or --labelled")
    corpus = load_corpus(data)
    if test is None:
        return corpus.validation, corpus
    if test not in corpus.tests:
        names = list(corpus.tests)
        raise UserError(
            f'test "{test}"', "no such test set", hint=nearest(test, names) if names else "this data has none"
        )
    return corpus.tests[test], corpus


def _scores(loaded: Any, corpus: Any, examples: Any, write: Callable[[list[str]], list[str]]) -> dict[str, Any]:
    """What the model itself loses, and of pairs how good what ``write`` makes of the sources is."""
    from pellucid.data.batches import evaluation_batches
    from pellucid.training.evaluate import evaluate as measure
    from pellucid.training.evaluate import quality

    model = loaded.model.config
    if loaded.is_published:
        usual = default_run(family_of(model), NamedData(name=""))
        objective, batch_tokens = fitted(usual.objective, model), usual.training.batch_tokens
    else:
        objective, batch_tokens = loaded.run.objective, loaded.run.training.batch_tokens
    labels = labels_of(model)
    batches = evaluation_batches(examples, loaded.tokenizer, objective, batch_tokens=batch_tokens, labels=labels)
    evaluation = measure(loaded.model, batches, objective)
    return quality(loaded.model, corpus, loaded.tokenizer, objective, examples, evaluation, write)
