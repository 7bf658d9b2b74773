"""Write on from a prompt with a decoder.

Examples:

`pellucid generate runs/notes "Once upon" --tokens 200 --temperature 0.8 --top-p 0.95`

`pellucid generate runs/notes "Once upon" --temperature 0 --draft runs/small-notes`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.common import (
    Debug,
    Device,
    Json,
    RunArgument,
    Texts,
    Verify,
    WeightsOption,
    open_fast,
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

if TYPE_CHECKING:
    from pellucid.inference.guesses import Guesser
    from pellucid.inference.rules import AnyRule
    from pellucid.inference.sampling import Sampling
    from pellucid.models.checkpoint import Loaded

GUESSES = 4
Lookup = Annotated[bool, typer.Option("--lookup", help="Guess ahead what followed the same words before.")]
DraftOption = Annotated[
    Path | None, typer.Option("--draft", metavar="RUN", help="A smaller model of the same tokens that guesses ahead.")
]
Guesses = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens guessed at once, with --lookup or --draft.", show_default=str(GUESSES)),
]


def generate(
    run: RunArgument,
    text: Texts = None,
    tokens: Annotated[int, typer.Option(help="At most so many new tokens.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1 safer, above 1 wilder; 0 is greedy.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Draw among the k likeliest.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest that reach p together.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Draw among those at least p times the likeliest.")] = None,
    typical: Annotated[float | None, typer.Option(help="Draw among the most typical that reach p together.")] = None,
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
    logprobs: Logprobs = None,
    lookup: Lookup = False,
    draft: DraftOption = None,
    guesses: Guesses = None,
    seed: Annotated[int, typer.Option(help="Decides the draws.")] = 0,
    weights: WeightsOption = "float32",
    device: Device = "auto",
    verify: Verify = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    if lookup and draft is not None:
        raise UserError("--draft", "--lookup too", "one way to guess")
    if guesses is not None and not lookup and draft is None:
        raise UserError("--guesses", "nothing that guesses", "--lookup or --draft beside it")
    if logprobs is not None and not json:
        raise UserError("--logprobs", "texts alone", "--json beside it")
    sampling = sampling_of(temperature, top_k, top_p, min_p, seed, typical=typical)
    asked = rule_options(
        repetition=repetition_penalty, presence=presence_penalty, frequency=frequency_penalty, no_repeat=no_repeat,
        bad_words=bad_word, biases=bias, min_tokens=min_tokens, regex=regex, schema=schema,
    )  # fmt: skip
    loaded, prompts = open_fast(run, device, verify, weights), texts_or_stdin(text)
    small = None if draft is None else open_fast(draft, device, verify, weights)
    settings: dict[str, Any] = {
        "max_new_tokens": tokens,
        "sampling": sampling,
        "rules": asked.rules(loaded.tokenizer),
        "stop": stop or (),
        "guesser": _guesser(loaded, small, lookup, guesses or GUESSES),
    }
    _print(loaded, prompts, settings, json=json, logprobs=logprobs)


def _print(
    loaded: Loaded, prompts: Sequence[str], settings: dict[str, Any], *, json: bool, logprobs: int | None
) -> None:
    """Writes on from each prompt; a text alone can be watched as it grows."""
    from pellucid.inference.predict import completions, write

    if len(prompts) == 1 and not json:
        pieces = write(loaded, prompts[0], **settings)
        print(prompts[0] + next(pieces, ""), end="", flush=True)  # nothing before it is known that it can write
        for piece in pieces:
            print(piece, end="", flush=True)
        print()
        return
    guessing = settings["guesser"] is not None
    for prompt, one in zip(prompts, completions(loaded, prompts, logprobs=logprobs, **settings), strict=True):
        if json:
            print_json({"prompt": prompt, "text": one.text, **told(one, loaded.tokenizer, guessing=guessing)})
        else:
            print(prompt + one.text)


def _guesser(loaded: Loaded, small: Loaded | None, lookup: bool, guesses: int) -> Guesser | None:
    """What guesses ahead, if anything does."""
    from pellucid.inference.guesses import Draft, PromptLookup

    if small is not None:
        return Draft.of(small, loaded, guesses)
    return PromptLookup(guesses=guesses) if lookup else None


def sampling_of(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
    *,
    typical: float | None = None,
) -> Sampling:
    """The pipeline that the options describe; a temperature of 0 is greedy."""
    from pellucid.inference.sampling import GREEDY, MinP, Sampling, Temperature, TopK, TopP, Typical

    if temperature == 0:
        return GREEDY
    filters: list[AnyRule] = [Temperature(temperature)]
    filters += [TopK(top_k)] if top_k is not None else []
    filters += [TopP(top_p)] if top_p is not None else []
    filters += [MinP(min_p)] if min_p is not None else []
    filters += [Typical(typical)] if typical is not None else []
    return Sampling(filters, seed=seed)
