"""Rules as people ask for them, in words of the text: turned into those of tokens, in the order that they belong in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pellucid.data.tokenizers import Tokenizer
from pellucid.inference.rules import (
    AnyRule,
    BadWords,
    FrequencyPenalty,
    LogitBias,
    MinLength,
    NoRepeat,
    PresencePenalty,
    RepetitionPenalty,
    check,
)

if TYPE_CHECKING:
    from pellucid.inference.constraints import Grammars


@dataclass(frozen=True)
class RuleOptions:
    """What is asked of a text.

    Attributes:
        logit_bias: pairs of a token's id and what is added to its score.
        repetition_penalty, presence_penalty, frequency_penalty: of :mod:`pellucid.inference.rules`.
        no_repeat: no so many tokens in a row twice; 0 allows it.
        bad_words: not written as the tokenizer cuts them, with or without a space before.
        min_tokens: no end before.
        regex, json_schema: the only form that may be written.
    """

    logit_bias: tuple[tuple[int, float], ...] = ()
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat: int = 0
    bad_words: tuple[str, ...] = ()
    min_tokens: int = 0
    regex: str | None = None
    json_schema: str | None = None

    def rules(self, tokenizer: Tokenizer, grammars: Grammars | None = None) -> tuple[AnyRule, ...]:
        """What changes scores, then what bars tokens.

        Args:
            tokenizer: of what is written.
            grammars: of that tokenizer, where many texts are asked for.

        Raises:
            UserError: for a setting that cannot work.
        """
        for token, _ in self.logit_bias:
            check(0 <= token < tokenizer.vocab_size, "logit_bias", token, f"ids from 0 to {tokenizer.vocab_size - 1}")
        rules: list[AnyRule] = []
        rules += [LogitBias(self.logit_bias)] if self.logit_bias else []
        rules += [RepetitionPenalty(self.repetition_penalty)] if self.repetition_penalty != 1 else []
        rules += [PresencePenalty(self.presence_penalty)] if self.presence_penalty else []
        rules += [FrequencyPenalty(self.frequency_penalty)] if self.frequency_penalty else []
        rules += [NoRepeat(self.no_repeat)] if self.no_repeat else []
        if words := sorted({cut for word in self.bad_words for cut in cuts(tokenizer, word)}):
            rules.append(BadWords(tuple(words)))
        rules += [MinLength(self.min_tokens, tokenizer.ends)] if self.min_tokens else []
        if self.regex is not None or self.json_schema is not None:
            from pellucid.inference.constraints import Grammars  # an extra, asked for only where it is needed

            grammars = grammars or Grammars.of(tokenizer)
            rules += [grammars.regex(self.regex)] if self.regex is not None else []
            rules += [grammars.json(self.json_schema)] if self.json_schema is not None else []
        return tuple(rules)


def cuts(tokenizer: Tokenizer, word: str) -> list[tuple[int, ...]]:
    """The tokens of a word at the beginning of a text and after a space."""
    found = [tokenizer.encode(text) for text in (word, f" {word.lstrip()}")]
    return [tuple(ids) for ids in found if ids]
