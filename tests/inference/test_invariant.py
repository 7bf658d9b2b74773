"""Alone or among others: the same bits."""

import random

import pytest
import torch
from families import VOCAB, small

from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.inference.engine import Engine
from pellucid.inference.guesses import PromptLookup
from pellucid.inference.invariant import Invariant, group_for
from pellucid.inference.speculative import speculate
from pellucid.inference.writer import Plain

families = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
# A width that does not fill whole vectors, so that kernels come to their last few numbers.
ODD = {"feed_forward": parts.FeedForward(d_ff=46, activation="gelu_tanh"), "positions": parts.Rotary()}


def batch(family, size, seed=3):
    chance = random.Random(seed)
    prompts = [[chance.randrange(VOCAB) for _ in range(chance.choice([3, 5, 5]))] for _ in range(size)]
    sources = [[chance.randrange(VOCAB) for _ in range(chance.choice([4, 6]))] for _ in range(size)]
    return prompts, sources if family == "encoder_decoder" else None


@families
@pytest.mark.parametrize(("changes", "group"), [({}, 4), (ODD, 32), (ODD, 1)])
def test_scores_have_the_same_bits_alone_and_among_many(family, changes, group):
    writer = Invariant(Engine(small(family, **changes)), group)
    prompts, sources = batch(family, 32)
    tokens = torch.randint(0, VOCAB, (32, 3))
    together, rows = writer.prefill(prompts, sources)
    steps = [writer.extend(tokens[:, :1], rows), writer.extend(tokens[:, 1:], rows)]
    for i in (0, 7, 18, 31):
        alone, row = writer.prefill(prompts[i : i + 1], sources and sources[i : i + 1])
        assert torch.equal(alone[0], together[i])
        assert torch.equal(writer.extend(tokens[i : i + 1, :1], row)[0], steps[0][i])
        assert torch.equal(writer.extend(tokens[i : i + 1, 1:], row)[0], steps[1][i])


@families
@pytest.mark.parametrize("kind", [Plain, Engine])
def test_rows_that_come_and_go_are_those_of_the_writer(kind, family):
    plain = kind(small(family, **ODD))
    writer, chance = Invariant(plain, group=3), random.Random(1)
    prompts, sources = batch(family, 5)
    (_, rows), (_, expected) = (one.prefill(prompts, sources) for one in (writer, plain))
    for step in range(6):
        match step % 3:
            case 0:
                which = [chance.randrange(len(rows.lengths)) for _ in range(4)]
                rows.select(which)
                expected.select(which)
            case 1:
                cut = [max(1, length - chance.choice([0, 1])) for length in rows.lengths]
                rows.crop(cut)
                expected.crop(cut)
            case 2:
                more, their_sources = batch(family, 3, seed=step)
                rows.join(writer.prefill(more, their_sources)[1])
                expected.join(plain.prefill(more, their_sources)[1])
        assert rows.lengths == expected.lengths
        assert len(rows.groups) <= len(rows.lengths)
        tokens = torch.randint(0, VOCAB, (len(rows.lengths), 2))
        found, wanted = writer.extend(tokens, rows), plain.extend(tokens, expected)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("threads", [1, 2, 6, 64])
@pytest.mark.parametrize("widths", [(384, 1536), (768, 3072), (46, 128), (7,)])
def test_a_group_leaves_no_numbers_over(widths, threads):
    group = group_for(widths, threads)
    assert group == 1 or (8 <= group <= 64 and all(group * width % (32 * threads) == 0 for width in widths))
    assert group_for((384, 1536), 2) == 8


def test_groups_of_one_length_are_put_together():
    writer = Invariant(Plain(small("decoder")), group=4)
    _, rows = writer.prefill([[5, 6], [7, 8], [9, 9], [3, 4, 5]])
    assert len(rows.groups) == 2
    rows.crop([2, 1, 2, 2])
    assert sorted(group.length for group in rows.groups) == [1, 2]
    rows.select([0, 2, 3])
    assert len(rows.groups) == 1
    assert rows.lengths == [2, 2, 2]
    with pytest.raises(UserError, match="group: found 0"):
        Invariant(writer.writer, 0)


def test_guesses_do_not_depend_on_the_neighbours():
    writer = Invariant(Engine(small("decoder", **ODD)), group=4)
    prompts, _ = batch("decoder", 6)
    together = speculate(writer, prompts, PromptLookup(1, 2), max_new_tokens=6).texts
    assert together[:2] == [speculate(writer, [p], PromptLookup(1, 2), max_new_tokens=6).texts[0] for p in prompts[:2]]
