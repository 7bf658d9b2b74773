"""Translate texts with an encoder–decoder.

Example: `pellucid translate runs/demo-encoder-decoder "3 Mart 2021 Çarşamba" --beams 4`
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Json,
    LengthPenaltyOption,
    RunArgument,
    Texts,
    Verify,
    WeightsOption,
    open_fast,
    penalty_of,
    print_json,
    texts_or_stdin,
)
from pellucid.cli.rules import (
    BadWord,
    Bias,
    Frequency,
    Logprobs,
    MinTokens,
    NoRepeatOption,
    Presence,
    RegexOption,
    Repetition,
    SchemaOption,
    StopOption,
    rule_options,
    told,
)
from pellucid.errors import UserError

Patience = Annotated[
    float | None,
    typer.Option(help="Stop at so many times the beams of finished texts (Kasai 2022); else when none can improve."),
]
CoverageOption = Annotated[
    float, typer.Option("--coverage", help="Penalty β for what is left out of the source (Wu et al. 2016); 0 is none.")
]
Prefix = Annotated[str | None, typer.Option("--prefix", help="What every target begins with.")]
Tokens = Annotated[int | None, typer.Option(min=1, help="At most so many; the source's length + 50 by default.")]
PrefixBias = Annotated[
    float | None, typer.Option("--prefix-bias", help="Draw towards the prefix with so much of 1 instead of forcing it.")
]


def translate(
    run: RunArgument,
    text: Texts = None,
    beams: Annotated[int, typer.Option(min=1, help="Texts carried on side by side; 1 is greedy.")] = 1,
    length_penalty: LengthPenaltyOption = None,
    patience: Patience = None,
    coverage: CoverageOption = 0.0,
    best: Annotated[int, typer.Option(min=1, help="So many targets of each source, best first.")] = 1,
    prefix: Prefix = None,
    prefix_bias: PrefixBias = None,
    from_language: Annotated[str | None, typer.Option(help="The source's token in a model of many, as de_DE.")] = None,
    to_language: Annotated[str | None, typer.Option(help="The target's token in a model of many, as en_XX.")] = None,
    tokens: Tokens = None,
    repetition_penalty: Repetition = 1.0,
    presence_penalty: Presence = 0.0,
    frequency_penalty: Frequency = 0.0,
    no_repeat: NoRepeatOption = 0,
    bad_word: BadWord = None,
    bias: Bias = None,
    min_tokens: MinTokens = 0,
    stop: StopOption = None,
    regex: RegexOption = None,
    schema: SchemaOption = None,
    replace_unknown: Annotated[bool, typer.Option(help="Copy the source's word for an unknown token.")] = False,
    align: Annotated[bool, typer.Option("--align", help="With --json: the source word of each target word.")] = False,
    logprobs: Logprobs = None,
    weights: WeightsOption = "float32",
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    asked = rule_options(
        repetition=repetition_penalty, presence=presence_penalty, frequency=frequency_penalty, no_repeat=no_repeat,
        bad_words=bad_word, biases=bias, min_tokens=min_tokens, regex=regex, schema=schema,
    )  # fmt: skip
    search = {"beams": beams, "penalty": penalty_of(length_penalty), "patience": patience, "best": best}
    searching = {"--length-penalty": length_penalty, "--patience": patience, "--coverage": coverage or None}
    _refuse_idle({} if beams > 1 else searching, "one beam, which is not searched with", "--beams 4 or so beside it")
    _refuse_idle({} if json else {"--logprobs": logprobs, "--align": align or None}, "texts alone", "--json beside it")
    _refuse_idle({} if prefix else {"--prefix-bias": prefix_bias}, "no prefix", "--prefix beside it")
    loaded, sources = open_fast(run, device, verify, weights), texts_or_stdin(text)
    languages = (from_language, to_language)
    settings = {
        "max_new_tokens": tokens, "languages": languages, "stop": stop or (), "logprobs": logprobs,
        "prefixes": None if prefix is None else [prefix] * len(sources), "prefix_bias": prefix_bias,
        "replace_unknown": replace_unknown, "rules": asked.rules(loaded.tokenizer.target),
    }  # fmt: skip
    for source, found in zip(sources, _found(loaded, sources, search, coverage, settings), strict=True):
        _print(loaded, source, found, languages, json=json, align=align)


def _refuse_idle(options: dict[str, Any], found: str, expected: str) -> None:
    """Refuses options that could not be obeyed, if they were given."""
    for option, value in options.items():
        if value is not None:
            raise UserError(option, found, expected)


def _found(
    loaded: Any, sources: list[str], search: dict[str, Any], coverage: float, settings: dict[str, Any]
) -> list[list[Any]]:
    from pellucid.inference.alignments import Coverage
    from pellucid.inference.translating import Searching, translations

    covering = Coverage(coverage) if coverage else None
    return translations(loaded, sources, Searching(**search, coverage=covering), **settings)


def _print(
    loaded: Any, source: str, found: list[Any], languages: tuple[str | None, str | None], *, json: bool, align: bool
) -> None:
    for one in found:
        if json:
            more = _aligned(loaded, source, one.text, languages) if align else {}
            print_json({"source": source, "target": one.text, **told(one, loaded.tokenizer.target), **more})
        else:
            print(one.text)


def _aligned(loaded: Any, source: str, target: str, languages: tuple[str | None, str | None]) -> dict[str, Any]:
    """The words of both texts, and for each of the target's the source's that it looked at most."""
    from pellucid.inference.alignments import align
    from pellucid.models.checkpoint import Loaded

    wrote = Loaded(loaded.model, loaded.tokenizer.in_languages(*languages), None)
    (found,) = align(wrote, [source], [target], words=True)
    return {"words": {"source": found.source, "target": found.target, "pairs": found.pairs}}
