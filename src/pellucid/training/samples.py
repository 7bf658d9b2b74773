"""What a model writes while it learns: the same few inputs after every evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pellucid.config.run import Causal, SequenceToSequence
from pellucid.data.files import pieces
from pellucid.inference.predict import complete, translate
from pellucid.models.checkpoint import Loaded
from pellucid.training.session import Session

COUNT, LONGEST = 4, 48  # samples, and tokens written for each
PROMPT = 40  # characters of validation text given to a decoder

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
            case Causal():
                texts = [next(iter(pieces(document)), "") for document in _spread(session.corpus.validation)]
                prompts = [text[:PROMPT] for text in texts if len(text) >= PROMPT]
                return list(zip(prompts, complete(loaded, prompts, max_new_tokens=LONGEST), strict=True))
            case _:
                return []
    finally:
        session.model.train(was_training)


def _spread(examples: Sequence[Any]) -> list[Any]:
    """A few examples from all over."""
    return list(examples)[:: max(1, len(examples) // COUNT)][:COUNT]
