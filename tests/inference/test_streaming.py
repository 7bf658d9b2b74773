"""What a stream of a beam search has said stays said, and ends up as the best text."""

import pytest
import torch
from families import small

from pellucid.inference.beam import Candidate, Power, Wu, beam_search
from pellucid.inference.decode import Prompt
from pellucid.inference.sampling import Temperature
from pellucid.inference.streaming import StablePrefix

families = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


def start(family, rows=3):
    source = torch.randint(2, 61, (rows, 6)) if family == "encoder_decoder" else None
    return Prompt(torch.randint(2, 61, (rows, 3)), source=source)


@families
@pytest.mark.parametrize(("penalty", "extra"), [
    (Wu(0.6), {}),
    (Power(2.0), {"patience": 1.0}),
    (Power(0.0), {"bonuses": [lambda texts, over: [-0.3 * (len(t) % 3) for t in texts]] * 3}),
    (Wu(1.0), {"stops": [lambda text: text[-1] % 7 == 3] * 3}),
])  # fmt: skip
def test_what_is_said_is_the_beginning_of_the_best(family, penalty, extra):
    model, prompt, ends = small(family), start(family), tuple(range(8))
    sharp = (Temperature(0.4),)  # a search that agrees with itself early enough to say something before its end

    def search(observer):
        return beam_search(
            model, prompt, beams=3, max_new_tokens=12, ends=ends, penalty=penalty, filters=sharp,
            observer=observer, **extra,
        )  # fmt: skip

    best = [found[0].tokens for found in search(None)]
    said = [(), (), ()]

    def say(row, tokens):
        assert tokens
        said[row] = (*said[row], *tokens)
        assert best[row][: len(said[row])] == said[row]

    stable = StablePrefix(say, ends, bonuses="bonuses" in extra)
    for row, found in enumerate(search(stable)):
        stable.finish(row, found[0].tokens)
    assert said == best


def test_beams_that_agree_are_told_before_the_end():
    said = []
    stable = StablePrefix(lambda row, tokens: said.append((row, tokens)), ends=(1,))

    def kept(*each):
        return [Candidate(beam, token, -1.0, -1.0, "kept", place) for place, (beam, token) in enumerate(each)]

    stable(0, 1, kept((0, 5), (0, 6)))
    assert said == []
    stable(0, 2, kept((0, 7), (0, 8)))  # both go on from the first
    assert said == [(0, (5,))]
    stable(0, 3, [*kept((1, 9), (0, 9)), Candidate(0, 1, -9.0, -9.0, "finished")])  # an end that may still win
    stable(0, 4, kept((0, 4), (0, 2)))
    assert said == [(0, (5,))]
    stable(0, 5, [*kept((0, 3)), Candidate(0, 1, -2.0, -2.0, "finished")])  # a better one
    assert said == [(0, (5,)), (0, (8, 9, 4))]
    stable.finish(0, (5, 8, 9, 4))
    stable.finish(1, ())
    assert said == [(0, (5,)), (0, (8, 9, 4))]
