"""What clients send. Settings that are not known are refused, as an answer that ignores them would be another's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from pellucid.data.tokenizers import check_whole
from pellucid.errors import DataError

Number = Annotated[float, Field(allow_inf_nan=False)]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]
Strings = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]
Stops = Annotated[list[Stop], Field(max_length=16)]
Penalty = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class Sent(BaseModel):
    """Anything that clients send."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _nothing_asked(cls, sent: Any) -> Any:
        """``null`` for a setting that is not known changes no answer, and clients send what they were sent."""
        if not isinstance(sent, dict):
            return sent
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: value for name, value in sent.items() if value is not None or name in known}

    @field_validator("*")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """A text that was cut inside an emoji ends in half of a character, which no tokenizer knows."""
        try:
            for text in _texts_in(value):
                check_whole(text, "text")
        except DataError as error:
            raise ValueError(str(error)) from None
        return value


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in a value, however deep."""
    parts = [value]
    while parts:
        match parts.pop():
            case str() as text:
                yield text
            case dict() as table:
                parts += [*table, *table.values()]
            case list() as row:
                parts += row


class Body(Sent):
    """Any of them."""

    model: str | None = None
    user: str | None = Field(None, description="Accepted and not used.")


class Schema(Sent):
    """A JSON schema with a name, as OpenAI's clients send it."""

    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = Field(None, description="Accepted: the form is always kept to.")


class Form(Sent):
    """What an answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class Choosing(Body):
    """How tokens are chosen."""

    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = 1.0
    top_k: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Penalty | None = 0.0
    frequency_penalty: Penalty | None = 0.0
    repetition_penalty: Annotated[float, Field(gt=0.001, le=100, allow_inf_nan=False)] | None = 1.0
    no_repeat: Annotated[int, Field(ge=1, le=1000)] | None = Field(None, description="No so many tokens come twice.")
    logit_bias: dict[str, Penalty] | None = None
    bad_words: Stops | None = Field(None, description="Never written.")
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(None, description="No end before.")
    regex: Annotated[str, Field(min_length=1, max_length=2000)] | None = Field(
        None, description="The form of the text."
    )
    response_format: Form | None = None


class StreamOptions(Sent):
    """What a stream tells besides."""

    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="Accepted and not used.")


class Writing(Choosing):
    """What is common to completions and conversations."""

    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    stop: Stop | Stops | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    beams: Annotated[int, Field(ge=1, le=1024)] | None = Field(None, description="A search instead of draws.")


class CompletionBody(Writing):
    """``POST /v1/completions``."""

    prompt: str | Annotated[list[str], Field(fail_fast=True)] | Ids | Annotated[list[Ids], Field(fail_fast=True)] = ""
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(None, description="16, where there is room.")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = False


class Part(Sent):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Sent):
    """What somebody said."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[Part]
    name: str | None = None
    refusal: str | None = Field(None, description="Accepted and not used: an answer of this service has it.")


class ChatBody(Writing):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class EmbeddingBody(Body):
    """``POST /v1/embeddings``."""

    input: str | Strings
    encoding_format: Literal["float", "base64"] | None = "float"


class TranslateBody(Choosing):
    """``POST /translate``: greedy or a search, unless a temperature is given."""

    text: str | Strings
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = 0.0
    beams: Annotated[int, Field(ge=1, le=1024)] | None = 1
    hypotheses: Annotated[int, Field(ge=1, le=1024)] | None = Field(1, description="So many of a search, best first.")
    length_penalty: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] | None = Field(
        0.6, description="A of ((5 + length) / 6)^A (Wu et al. 2016)."
    )
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(None, description="The source's length + 50.")
    source_language: str | None = None
    target_language: str | None = None
    stream: bool | None = False


class FillBody(Body):
    """``POST /fill``."""

    text: str
    top: Annotated[int, Field(ge=1, le=100)] = 5


class ClassifyBody(Body):
    """``POST /classify``."""

    text: str | Strings


class TagBody(Body):
    """``POST /tag``."""

    text: str | Strings
    words: bool = Field(False, description="The label of every word, and not names alone.")


class ScoreBody(Body):
    """``POST /score``."""

    text: str
    given: str | None = Field(None, description="What it stands after: a source, a prompt, the first of a pair.")
    top: Annotated[int, Field(ge=0, le=20)] = Field(0, description="So many of the likeliest at each place.")


class AlternativesBody(Body):
    """``POST /alternatives``."""

    text: str
    source: str | None = Field(None, description="What an encoder–decoder read.")
    positions: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)] | None = None
    top: Annotated[int, Field(ge=1, le=100)] = 5
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="That follow each; at most 64.")


def listed(value: Any) -> list[Any]:
    """One thing as a list of one."""
    return value if isinstance(value, list) else [value]
