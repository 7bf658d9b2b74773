"""Rules change scores as those of ``transformers`` that go by the same name."""

import pytest
import torch

pytest.importorskip("transformers")

from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TypicalLogitsWarper,
)

from pellucid.inference.rules import BadWords, LogitBias, MinLength, NoRepeat, RepetitionPenalty, Written
from pellucid.inference.sampling import Typical

V = 7
WORDS = [[3], [1, 2], [4, 4, 0]]
BOTH = {
    "repetition": (RepetitionPenalty(1.3, whole=True), RepetitionPenaltyLogitsProcessor(1.3)),
    "no-repeat": (NoRepeat(2, whole=True), NoRepeatNGramLogitsProcessor(2)),
    "bad-words": (BadWords(tuple(map(tuple, WORDS))), NoBadWordsLogitsProcessor(WORDS, eos_token_id=6)),
    "bias": (LogitBias(((2, 1.5), (5, -3.0))), SequenceBiasLogitsProcessor([[[2], 1.5], [[5], -3.0]])),
    "min-length": (MinLength(4, (6,)), MinNewTokensLengthLogitsProcessor(3, 4, 6, device="cpu")),
    "typical": (Typical(0.6), TypicalLogitsWarper(0.6)),
}


@pytest.mark.parametrize(("ours", "theirs"), BOTH.values(), ids=BOTH)
def test_the_same_scores(ours, theirs):
    for length in (3, 5, 8):
        tokens, scores = torch.randint(0, V, (200, length)), torch.randn(200, V)
        rows = torch.arange(200)
        written = Written(tokens, torch.full((200,), length - 3), rows)
        mine = ours(scores) if isinstance(ours, Typical) else ours(scores, written)
        torch.testing.assert_close(mine, theirs(tokens, scores.clone()))
