"""What a model writes while it learns: the same few inputs after every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pellucid.config.model import stacks
from pellucid.config.run import Causal, SequenceToSequence, SpanCorruption
from pellucid.data.files import pieces
from pellucid.inference.gaps import write_gap
from pellucid.inference.predict import complete, translate
from pellucid.inference.reading import GAP
from pellucid.models.checkpoint import Loaded
from pellucid.training.session import Session

COUNT, LONGEST = 4, 48  # samples, and tokens written for each
PROMPT = 40  # characters of validation text given to a decoder,
WORDS = 12  # and words to an encoder–decoder that restores spans, without two in the middle

Sample = tuple[str, ...]


def samples(session: Session) -> list[Sample]:
    """(input, output, reference) of a few validation examples, greedily; none for objectives that write nothing."""
    loaded = Loaded(session.model, session.tokenizer, session.run)
    was_training = session.model.training
    session.model.eval()
    try:
        match session.run.objective:
            case SequenceToSequence(max_length=longest):
                pairs = _spread(session.corpus.validation)
                sources = [_within(longest, pair.source, session) for pair in pairs]
                said = translate(loaded, sources, max_new_tokens=LONGEST)
                return [(source, out, pair.target) for source, out, pair in zip(sources, said, pairs, strict=True)]
            case SpanCorruption():
                limit = stacks(session.run.model)[0].max_length
                gaps = filter(None, map(_gapped, _beginnings(session)))
                fitting = [(text, missing) for text, missing in gaps if _within(limit, text, session) == text]
                return [(text, write_gap(loaded, text)[0].piece, missing) for text, missing in fitting]
            case Causal():
                limit = stacks(session.run.model)[-1].max_length
                texts = [text[:PROMPT] for text in _beginnings(session) if len(text) >= PROMPT]
                prompts = [_within(limit, text, session) for text in texts]
                return list(zip(prompts, complete(loaded, prompts, max_new_tokens=LONGEST), strict=True))
            case _:
                return []
    finally:
        session.model.train(was_training)


def _within(limit: int | None, text: str, session: Session) -> str:
    """A text that the model reads as so many tokens at most: halved until it does."""
    tokenizer = session.tokenizer
    is_prompt = isinstance(session.run.objective, Causal)
    framed: Callable[[list[int]], list[int]] = tokenizer.prompt if is_prompt else tokenizer.source
    while limit is not None and text and len(framed(tokenizer.encode(text))) > limit:
        text = text[: len(text) // 2]
    return text


def _beginnings(session: Session) -> list[str]:
    return [next(iter(pieces(document)), "") for document in _spread(session.corpus.validation)]


def _gapped(text: str) -> tuple[str, str] | None:
    """The first words of a text with a gap in place of some of them, and those; none for too few or with a gap."""
    words = text.split(" ")[:WORDS]
    if len(words) < WORDS or any(GAP in word for word in words):
        return None
    middle = WORDS // 2
    return " ".join([*words[:middle], GAP, *words[middle + 2 :]]), " ".join(words[middle : middle + 2])


def _spread(examples: Sequence[Any]) -> list[Any]:
    """A few examples from all over."""
    return list(examples)[:: max(1, len(examples) // COUNT)][:COUNT]
