"""What a model writes while it learns: the same few inputs after every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
            case SequenceToSequence():
                pairs = _spread(session.corpus.validation)
                said = translate(loaded, [pair.source for pair in pairs], max_new_tokens=LONGEST)
                return [(pair.source, out, pair.target) for pair, out in zip(pairs, said, strict=True)]
            case SpanCorruption():
                gaps = list(filter(None, map(_gapped, _beginnings(session))))
                return [(text, write_gap(loaded, text)[0].piece, missing) for text, missing in gaps]
            case Causal():
                texts = _beginnings(session)
                prompts = [text[:PROMPT] for text in texts if len(text) >= PROMPT]
                return list(zip(prompts, complete(loaded, prompts, max_new_tokens=LONGEST), strict=True))
            case _:
                return []
    finally:
        session.model.train(was_training)


def _beginnings(session: Session) -> list[str]:
    return [next(iter(pieces(document)), "") for document in _spread(session.corpus.validation)]


def _gapped(text: str) -> tuple[str, str] | None:
    """The first words of a text with a gap in place of some of them, and those; nothing for a text of too few."""
    words = text.split(" ")[:WORDS]
    if len(words) < WORDS:
        return None
    middle = WORDS // 2
    return " ".join([*words[:middle], GAP, *words[middle + 2 :]]), " ".join(words[middle : middle + 2])


def _spread(examples: Sequence[Any]) -> list[Any]:
    """A few examples from all over."""
    return list(examples)[:: max(1, len(examples) // COUNT)][:COUNT]
