"""Options of writing that `generate` and `translate` share, and what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.errors import UserError

if TYPE_CHECKING:
    from pellucid.data.tokenizers import Tokenizer
    from pellucid.inference.options import RuleOptions
    from pellucid.inference.translating import Output

Repetition = Annotated[
    float, typer.Option("--repetition-penalty", help="Divides scores of what was written (Keskar 2019); 1 is none.")
]
Presence = Annotated[
    float, typer.Option("--presence-penalty", help="Taken from the score of every token that was written.")
]
Frequency = Annotated[
    float, typer.Option("--frequency-penalty", help="Taken from a token's score as often as it was written.")
]
NoRepeatOption = Annotated[
    int, typer.Option("--no-repeat", min=0, help="No so many tokens in a row twice; 0 allows it.")
]
BadWord = Annotated[list[str] | None, typer.Option("--bad-word", help="Never written; may be given again.")]
Bias = Annotated[
    list[str] | None, typer.Option("--bias", metavar="ID=NUMBER", help="Added to a token's score; may be given again.")
]
MinTokens = Annotated[int, typer.Option("--min-tokens", min=0, help="No end before so many new tokens.")]
StopOption = Annotated[
    list[str] | None, typer.Option("--stop", help="Text that ends the output and is no part of it; may be given again.")
]
RegexOption = Annotated[
    str | None, typer.Option("--regex", help="Write only what this expression matches (extra: constrain).")
]
SchemaOption = Annotated[
    str | None,
    typer.Option("--schema", help="Write only JSON that fits this schema, a file or JSON itself (extra: constrain)."),
]
Logprobs = Annotated[
    int | None,
    typer.Option("--logprobs", min=0, help="With --json: each token's log-probability and those of the k likeliest."),
]


def rule_options(
    *,
    repetition: float,
    presence: float,
    frequency: float,
    no_repeat: int,
    bad_words: Sequence[str] | None,
    biases: Sequence[str] | None,
    min_tokens: int,
    regex: str | None,
    schema: str | None,
) -> RuleOptions:
    """What the options ask for.

    Raises:
        UserError: for a bias that is none, or a file that cannot be read.
    """
    from pellucid.inference.options import RuleOptions

    return RuleOptions(
        logit_bias=tuple(_bias(text) for text in biases or ()),
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        no_repeat=no_repeat,
        bad_words=tuple(bad_words or ()),
        min_tokens=min_tokens,
        regex=regex,
        json_schema=None if schema is None else _schema(schema),
    )


def _bias(text: str) -> tuple[int, float]:
    token, _, number = text.partition("=")
    try:
        if int(token) >= 0:
            return int(token), float(number)
    except ValueError:
        pass
    raise UserError("--bias", f'found "{text}"', "a token's id and a number, as 42=-1.5")


def _schema(text: str) -> str:
    """The text of a schema: itself, or what stands in a file."""
    if text.lstrip().startswith("{"):
        return text
    try:
        return Path(text).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("--schema", f"{text} cannot be read ({error})", "a file of JSON, or the JSON itself") from None


def told(output: Output, tokenizer: Tokenizer, *, guessing: bool = False) -> dict[str, Any]:
    """What else there is to say of an output, for JSON: its score, why it ended, its tokens with their likelihoods.

    Args:
        tokenizer: of what is written.
        guessing: whether something guessed ahead; then how often it did, and how often rightly, is told too.
    """
    found: dict[str, Any] = {}
    if output.score is not None:
        found["score"] = output.score
    if output.reason is not None:
        found["reason"] = output.reason
    if guessing:
        found |= {"guessed": output.guessed, "accepted": output.accepted}
    if output.likelihoods:
        pieces = tokenizer.pieces(one.token for one in output.likelihoods)
        found["tokens"] = [
            {
                "id": one.token,
                "piece": piece,
                "logprob": one.logprob,
                "best": [
                    {"id": other, "piece": tokenizer.pieces([other])[0], "logprob": logprob}
                    for other, logprob in one.best
                ],
            }
            for piece, one in zip(pieces, output.likelihoods, strict=True)
        ]
    return found
