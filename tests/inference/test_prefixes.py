"""Remembering beginnings saves reading and changes nothing that is written."""

import random

import pytest
import torch
from families import VOCAB, small

from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.inference.engine import Engine
from pellucid.inference.guesses import PromptLookup
from pellucid.inference.prefixes import Prefixes, copied
from pellucid.inference.speculative import speculate
from pellucid.inference.writer import Plain

writers = pytest.mark.parametrize("kind", [Plain, Engine])
families = pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])


def written(writer, logits, rows, steps):
    """Scores and greedy tokens of the next steps."""
    scores, tokens = [logits], []
    for _ in range(steps):
        tokens.append(scores[-1].argmax(-1))
        scores.append(writer.extend(tokens[-1][:, None], rows)[:, 0])
    return torch.stack(scores), torch.stack(tokens)


@writers
@families
def test_prompts_that_begin_alike_are_scored_alike(kind, family):
    plain, chance = kind(small(family, positions=parts.Learned(max_length=24))), random.Random(4)
    cached = Prefixes(plain, tokens=60, shortest=2)
    stems = [[chance.randrange(VOCAB) for _ in range(9)] for _ in range(3)]
    for _ in range(6):
        prompts = [chance.choice(stems)[: chance.randint(1, 9)] for _ in range(chance.randint(1, 3))]
        prompts = [[*p, *(chance.randrange(VOCAB) for _ in range(chance.choice([0, 1, 2, 9])))] for p in prompts]
        sources = None if family == "decoder" else [[chance.choice([5, 6]), 9, 8] for _ in prompts]
        expected, tokens = written(plain, *plain.prefill(prompts, sources), 2)
        logits, rows = cached.prefill(prompts, sources)
        assert rows.lengths == [len(prompt) for prompt in prompts]
        found, its_tokens = written(cached, logits, rows, 2)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(its_tokens, tokens)
        assert cached.held <= 60
        assert cached.held == sum(len(prefix.tokens) for prefix in cached._kept)
    assert cached.hits > 1
    assert cached.reused > 0


@writers
def test_only_the_rest_is_read(kind):
    writer = Counting(kind(small("decoder")))
    cached = Prefixes(writer, tokens=1000, shortest=4)
    cached.prefill([list(range(10, 30))])
    assert (cached.hits, cached.misses, writer.fed) == (0, 1, 20)
    cached.prefill([[*range(10, 30), 5, 6], [*range(10, 20), 7]])
    assert (cached.hits, cached.misses, cached.reused) == (2, 1, 30)
    assert writer.fed == 20 + 2 + 1
    cached.prefill([list(range(10, 30))])  # the same again: its last token gives the scores
    assert writer.fed == 24
    cached.prefill([[10, 11, 12, 40]])  # too little in common
    assert (cached.hits, cached.misses) == (3, 2)


def test_the_longest_unused_is_forgotten():
    cached = Prefixes(Plain(small("decoder")), tokens=12, shortest=2)
    for start in (10, 20, 30):
        cached.prefill([[start, start + 1, start + 2, start + 3]])
    cached.prefill([[10, 11, 12, 13]])  # used again
    cached.prefill([[40, 41, 42, 43]])
    assert [prefix.tokens[0] for prefix in cached._kept] == [30, 10, 40]
    cached.prefill([[40, 41, 42, 43, 44, 45]])  # takes the place of what it begins with
    assert [len(prefix.tokens) for prefix in cached._kept] == [4, 6]
    cached.prefill([list(range(50))[:13]])  # more than all the room: its beginning
    assert [len(prefix.tokens) for prefix in cached._kept] == [12]
    cached.prefill([list(range(50))[:13]])
    assert cached.reused == 3 + 4 + 12
    cached.clear()
    assert (cached.held, cached._find(None, [40, 41])) == (0, (None, 0))
    with pytest.raises(UserError, match="prefix_tokens: found -1"):
        Prefixes(cached.writer, -1)


def test_what_is_kept_has_no_more_room_than_it_needs():
    cached = Prefixes(Engine(small("decoder")), tokens=100, shortest=2)
    for prompts in ([[5, 6, 7, 8]], [[9, 8, 7], [4, 5, 6, 7, 8, 9]]):
        cached.prefill(prompts)
    held = {prefix.tokens: prefix.rows.keys + prefix.rows.values for prefix in cached._kept}
    assert {len(tokens) for tokens in held} == {4, 3, 6}
    for tokens, slots in held.items():
        assert {tuple(each.shape[::2]) for each in slots} == {(1, len(tokens))}


@writers
def test_an_answer_is_kept_for_the_next_question(kind):
    writer = Counting(kind(small("decoder")))
    cached = Prefixes(writer, tokens=100, shortest=4)
    logits, rows = cached.prefill([[5, 6, 7, 8]])
    _, tokens = written(cached, logits, rows, 4)
    text = [5, 6, 7, 8, *tokens[:, 0].tolist()]
    cached.keep([text], rows)
    before = writer.fed
    logits, _ = cached.prefill([[*text, 9]])
    assert writer.fed == before + 1
    torch.testing.assert_close(logits, writer.prefill([[*text, 9]])[0], atol=1e-4, rtol=1e-4)


@writers
@families
def test_copies_go_their_own_way(kind, family):
    writer = kind(small(family))
    sources = None if family == "decoder" else [[5, 6], [7, 8, 9]]
    _, rows = writer.prefill([[5, 6, 7], [8, 9]], sources)
    for which in ([1], [0, 1], [1, 1]):
        again = copied(rows, which)
        writer.extend(torch.full((len(which), 2), 11), again)
        again.crop([1] * len(which))
        writer.extend(torch.full((len(which), 2), 12), again)
    expected = writer.extend(torch.tensor([[3], [4]]), writer.prefill([[5, 6, 7], [8, 9]], sources)[1])
    torch.testing.assert_close(writer.extend(torch.tensor([[3], [4]]), rows), expected, atol=1e-5, rtol=1e-5)


def test_guesses_go_on_from_known_beginnings():
    writer = Plain(small("decoder"))
    cached = Prefixes(writer, tokens=100, shortest=2)
    prompts = [[5, 6, 5, 6, 5], [5, 6, 5, 9]]
    for _ in range(2):
        found = speculate(cached, prompts, PromptLookup(1, 2), max_new_tokens=5)
        assert found.texts == speculate(writer, prompts, PromptLookup(1, 2), max_new_tokens=5).texts
    assert cached.hits == 2


class Counting:
    """A writer that counts what it is fed."""

    def __init__(self, writer):
        self.writer, self.limit, self.device, self.fed = writer, writer.limit, writer.device, 0

    def prefill(self, prompts, sources=None):
        self.fed += sum(map(len, prompts))
        return self.writer.prefill(prompts, sources)

    def extend(self, tokens, rows):
        self.fed += tokens.numel()
        return self.writer.extend(tokens, rows)
