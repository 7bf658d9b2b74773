"""Only texts of a certain form: those that a regular expression matches, or JSON that fits a schema.

The grammar is followed by ``llguidance``, an extra (``pip install 'pellucid[constrain]'``): token by token it says what
may come next, so that whatever is written can still become a text of that form. The end comes only where the text is
one already, and where nothing else may come the end is all that is left.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.rules import Rule, Written

SPECIAL = b"\xff"  # begins the name of a token that stands for no text: no text holds this byte
Text = tuple[int, ...]


@dataclass(frozen=True)
class Constraint(Rule):
    """Bars what would leave a grammar.

    It reads the new tokens alone, not the prompt. Rows are told apart by their text, so that beams may part and meet.

    Attributes:
        grammar: as ``llguidance`` reads it.
        vocabulary: the bytes of every token, as ``llguidance`` keeps them.
    """

    grammar: str
    vocabulary: Any
    _states: dict[Text, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def regex(cls, pattern: str, tokenizer: Tokenizer) -> Constraint:
        """As :meth:`Grammars.regex`."""
        return Grammars.of(tokenizer).regex(pattern)

    @classmethod
    def json(cls, schema: str | Mapping[str, Any], tokenizer: Tokenizer) -> Constraint:
        """As :meth:`Grammars.json`."""
        return Grammars.of(tokenizer).json(schema)

    def __call__(self, scores: Float[Tensor, "B V"], written: Written) -> Float[Tensor, "B V"]:
        texts = [tuple(text) for text in written.lists()]
        for text in sorted(set(texts), key=len):  # texts guessed ahead go on from one another
            self._states[text] = self._state(text)
        states = {text: self._states[text] for text in texts}
        self._states.clear()  # of the past only what can be gone on from
        self._states.update(states)
        allowed = {text: torch.frombuffer(bytearray(state.compute_logit_bias()), dtype=torch.uint8) > 0
                   for text, state in states.items()}  # fmt: skip
        masks = torch.stack([allowed[text] for text in texts]).to(scores.device)
        # Scores beyond the vocabulary belong to no token.
        beyond = scores.size(-1) - masks.size(1)
        masks = torch.nn.functional.pad(masks, (0, beyond)) if beyond > 0 else masks[:, : scores.size(-1)]
        return scores.masked_fill(~masks, -torch.inf)

    def _state(self, text: Text) -> Any:
        """Where the grammar stands after a text: one token on from a text that is known, or read from the start."""
        if text in self._states:
            return self._states[text]
        known = self._states.get(text[:-1]) if text else None
        if known is None:
            state = _llguidance().LLMatcher(self.vocabulary, self.grammar, log_level=0)
            state.consume_tokens(list(text))
        else:
            state = known.deep_copy()
            state.consume_token(text[-1])
        return state


@dataclass(frozen=True)
class Grammars:
    """Makes constraints for one tokenizer, whose vocabulary is read once.

    Attributes:
        loses_space: a text loses the space that its first token begins with.
    """

    vocabulary: Any
    loses_space: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Grammars:
        """For what a tokenizer cuts.

        Raises:
            UserError: for one whose texts have no end, or whose spaces are no tokens; where ``llguidance`` is missing.
        """
        return cls(*_vocabulary(tokenizer))

    def regex(self, pattern: str) -> Constraint:
        """Texts that a regular expression matches from the beginning to the end (Rust's syntax: no look-around).

        Raises:
            UserError: for a pattern that cannot be read.
        """
        whole = f"( ?)(?:{pattern})" if self.loses_space else pattern
        return self._checked(_llguidance().LLMatcher.grammar_from_regex(whole), "regex", f'"{pattern}"')

    def json(self, schema: str | Mapping[str, Any]) -> Constraint:
        """JSON that fits a schema; ``{}`` is any JSON. White space is written only where tokens carry it.

        Raises:
            UserError: for what is no schema, or asks for what cannot be had.
        """
        try:
            wanted = json.loads(schema) if isinstance(schema, str) else dict(schema)
        except ValueError as error:
            raise UserError("json schema", f"is no JSON ({error})", 'such as {"type": "object"}') from None
        if not isinstance(wanted, dict):
            raise UserError("json schema", f"found {json.dumps(wanted)[:80]}", "an object")
        loose = {"whitespace_flexible": self.loses_space}
        try:
            grammar = _llguidance().LLMatcher.grammar_from_json_schema(json.dumps(wanted), overrides=loose)
        except ValueError as error:  # nested too deeply, or half a character in a name
            raise UserError("json schema", f"cannot be read ({error})", "a schema that llguidance can follow") from None
        return self._checked(grammar, "json schema", json.dumps(wanted)[:80])

    def _checked(self, grammar: str, where: str, found: str) -> Constraint:
        if complaint := _llguidance().LLMatcher.validate_grammar(grammar, self.vocabulary):
            told = " ".join(line.strip() for line in complaint.splitlines() if line.strip())
            raise UserError(where, f"found {found}, of which llguidance says: {told[:300]}", "one it can follow")
        return Constraint(grammar, self.vocabulary)


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        hint = "install it with: pip install 'pellucid[constrain]'"
        raise UserError("constraint", "llguidance is not installed", "the constrain extra", hint) from None
    return llguidance


@dataclass(frozen=True)
class _Vocabulary:
    """What ``llguidance`` asks of a tokenizer."""

    tokenizer: Tokenizer
    tokens: Sequence[bytes]
    special_token_ids: Sequence[int]
    eos_token_id: int
    bos_token_id: int | None = None
    is_tokenizer_wrapper: bool = True

    def __call__(self, text: str | bytes) -> list[int]:
        """How a text that must come next is cut, with nothing added and nothing lost."""
        wanted = text.encode() if isinstance(text, str) else bytes(text)
        ids = self.tokenizer.encode(wanted.decode("utf-8", "replace"))
        if b"".join(self.tokens[i] for i in ids) == wanted:
            return ids
        cut: list[int] = []
        while wanted:  # a tokenizer that adds or drops spaces: the longest token that fits, one after the other
            found = next((n for n in range(len(wanted), 0, -1) if wanted[:n] in self.places), None)
            if found is None:
                break
            cut.append(self.places[wanted[:found]])
            wanted = wanted[found:]
        return cut

    @cached_property
    def places(self) -> dict[bytes, int]:
        """The token of some bytes."""
        return {token: i for i, token in enumerate(self.tokens) if not token.startswith(SPECIAL)}


def _vocabulary(tokenizer: Tokenizer) -> tuple[Any, bool]:
    """A vocabulary as ``llguidance`` keeps it, and whether its texts lose the space that their first token begins with.

    Raises:
        UserError: for a tokenizer whose texts have no end, or whose spaces are no tokens, as WordPiece's.
    """
    if not tokenizer.ends:
        raise UserError("constraint", "this tokenizer has no token that ends a text", "one that has")
    tokens = [_bytes_of(tokenizer, i) for i in range(tokenizer.vocab_size)]
    specials = [i for i, token in enumerate(tokens) if token.startswith(SPECIAL)]
    spaced = next((i for i, token in enumerate(tokens) if token.startswith(b" ") and token.strip()), None)
    loses_space = spaced is not None and not tokenizer.decode([spaced]).startswith(" ")
    if b" " not in tokens and spaced is not None:
        raise UserError("constraint", "this tokenizer has no token for a space alone", "any but WordPiece")
    wrapper = _Vocabulary(tokenizer, tokens, specials, tokenizer.ends[0])
    return _llguidance().LLTokenizer(wrapper, eos_token=list(tokenizer.ends)), loses_space


def _bytes_of(tokenizer: Tokenizer, i: int) -> bytes:
    """What a token adds to a text, or a name that no text holds."""
    own = tokenizer.bytes_of(i)
    return SPECIAL + (tokenizer.raw.id_to_token(i) or f"<{i}>").encode() if own is None else own
