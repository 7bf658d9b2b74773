"""Guesses change how fast a text is written, never which text, nor how often it is."""

import itertools
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from exploring import loaded
from families import small
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.run import Characters
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.decode import Prompt, generations
from pellucid.inference.engine import Engine, fast
from pellucid.inference.guesses import Draft, PromptLookup
from pellucid.inference.predict import complete
from pellucid.inference.rules import (
    FrequencyPenalty,
    MinLength,
    NoRepeat,
    PerPrompt,
    RepetitionPenalty,
    Written,
    apply,
    impossible,
)
from pellucid.inference.sampling import Sampling, Temperature, TopK
from pellucid.inference.speculative import speculate, speculative_stream
from pellucid.inference.writer import Plain
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded


def tiny(family, vocabulary, seed, layers=1, limit=None):
    """A random model of a few tokens, which repeats itself often enough for guesses to be right."""
    positions = parts.Rotary() if limit is None else parts.Learned(max_length=limit)
    stack = parts.Stack(
        d_model=16,
        num_layers=layers,
        attention=parts.Attention(num_heads=2),
        feed_forward=parts.FeedForward(d_ff=16),
        positions=positions,
        placement="pre",
    )
    front = config.Tokens(vocab_size=vocabulary)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        if family == "decoder":
            model = build(config.Decoder(front=front, stack=stack))
        else:
            model = build(config.EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.7)
    return model.eval()


def greedy(writer, prompts, sources, most, ends, rules):
    """One row at a time, one token at a time."""
    texts = []
    for i, prompt in enumerate(prompts):
        room = most if writer.limit is None else min(most, writer.limit - len(prompt) + 1)
        logits, rows = writer.prefill([prompt], None if sources is None else sources[i : i + 1])
        written, text = Written.of([prompt]), []
        for count in range(room):
            scores = apply(rules, logits.float(), written)
            if impossible(scores):
                break
            token = scores.argmax(-1)
            written = written.add(token)
            if token.item() in ends:
                break
            text.append(token.item())
            if count + 1 < room:
                logits = writer.extend(token[:, None], rows)[:, 0]
        texts.append(text)
    return texts


RULES = {
    "none": (),
    "filters": (Temperature(0.5), TopK(2)),
    "to-the-last": (NoRepeat(1),),  # each token once, then none is left
    "by-text": (RepetitionPenalty(1.3, whole=True), NoRepeat(3), MinLength(4, (1,)), FrequencyPenalty(0.5)),
}


@st.composite
def cases(draw, make):
    """A writer, what it is to write, and how it is guessed; ``make`` gives a writer from its size, seed and limit."""
    vocabulary, seed = draw(st.integers(3, 9)), draw(st.integers(0, 999))
    limit = draw(st.sampled_from([None, None, 14]))
    texts = st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=9)
    prompts = draw(st.lists(texts, min_size=1, max_size=4))
    sources = draw(st.lists(texts, min_size=len(prompts), max_size=len(prompts)))
    guesses = draw(st.integers(1, 5))
    if draw(st.booleans()):
        guesser = PromptLookup(draw(st.integers(1, 3)), guesses)
    else:  # sometimes the very same model, sometimes one whose positions end earlier
        other, its_limit = draw(st.sampled_from([seed, seed + 1])), draw(st.sampled_from([limit, 10]))
        guesser = Draft(make(vocabulary, other, its_limit), guesses)
    rules, ends = RULES[draw(st.sampled_from(list(RULES)))], draw(st.sampled_from([(), (1,), (0, 2)]))
    return make(vocabulary, seed, limit), prompts, sources, guesser, rules, ends, draw(st.integers(1, 12))


def law(case, *, reads):
    writer, prompts, sources, guesser, rules, ends, most = case
    sources = sources if reads else None
    found = speculate(
        writer, prompts, guesser, max_new_tokens=most, sources=sources, ends=ends, sampling=Sampling(rules)
    )
    assert found.texts == greedy(writer, prompts, sources, most, ends, rules)
    assert 0 <= found.accepted <= found.guessed


often = settings(max_examples=100, deadline=None, derandomize=True)
seldom = settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes


@often
@given(st.data())
def test_greedy_speculation_writes_what_greedy_writes(data):
    def make(vocabulary, seed, limit):
        return Table(torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed)), limit)

    law(data.draw(cases(make)), reads=False)


@pytest.mark.parametrize("family", ["decoder", "encoder_decoder"])
@pytest.mark.parametrize("kind", [Plain, Engine])
@seldom
@given(data=st.data())
def test_greedy_speculation_with_models(kind, family, data):
    def make(vocabulary, seed, limit):
        return kind(tiny(family, vocabulary, seed, limit=limit))

    law(data.draw(cases(make)), reads=family != "decoder")


def test_each_prompt_keeps_its_own_rules():
    writer = Plain(tiny("decoder", 6, 3))
    prompts, own = [[2, 3, 2, 3, 2], [4], [5, 5, 5]], ((NoRepeat(2),), (), (RepetitionPenalty(2.0),))
    found = speculate(
        writer, prompts, PromptLookup(1, 3), max_new_tokens=9, ends=(1,), sampling=Sampling([PerPrompt(own)])
    )
    alone = [greedy(writer, [p], None, 9, (1,), rules)[0] for p, rules in zip(prompts, own, strict=True)]
    assert found.texts == alone


def test_a_draft_that_is_the_model_is_always_right():
    model = Plain(tiny("decoder", 30, 5))
    found = speculate(model, [[3, 4, 5], [7]], Draft(model, 4), max_new_tokens=16)
    assert found.share == 1.0
    assert found.steps == 4  # the first token, then five at a time
    drawn = speculate(model, [[3, 4, 5], [7]], Draft(model, 4), max_new_tokens=16, sampling=Sampling(seed=1))
    assert drawn.share == 1.0


def test_a_prompt_that_repeats_is_looked_up():
    writer = Table(torch.eye(6).roll(1, dims=1) * 50)  # after 0 comes 1, after 1 comes 2, ...
    found = speculate(writer, [[0, 1, 2, 3, 4, 5] * 2], PromptLookup(3, 4), max_new_tokens=11)
    assert found.texts == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4]]
    assert (found.share, found.steps) == (1.0, 3)
    nothing = speculate(writer, [[0]], PromptLookup(3, 4), max_new_tokens=5)
    assert (nothing.texts, nothing.guessed, nothing.share) == ([[1, 2, 3, 4, 5]], 0, 0.0)


def test_rounds_are_told_as_they_come():
    writer = Table(torch.eye(6).roll(1, dims=1) * 50)
    rounds = list(speculative_stream(writer, [[0, 1] * 3, [3]], PromptLookup(1, 2), max_new_tokens=4, ends=(4,)))
    assert [taken.tokens for taken in rounds[0]] == [[2], [4]]
    assert all(second is None for _, second in rounds[1:])
    assert [token for first, _ in rounds for token in first.tokens] == [2, 3, 4]
    assert (rounds[0][1].ended, rounds[-1][0].ended) == ("end", "end")


@pytest.mark.parametrize("guesser", [PromptLookup(1, 3), None], ids=["lookup", "draft"])
@pytest.mark.parametrize(
    ("rules", "stop"),
    [((), 5), ((NoRepeat(1),), None), ((NoRepeat(2), MinLength(6, (1,))), None)],
    ids=["stop", "stuck", "rules"],
)
def test_all_that_is_told_is_told_of_guesses(guesser, rules, stop):
    model = tiny("decoder", 7, 8)
    writer, prompts, sampling = Engine(model), [[2, 3, 2, 3, 2], [4], [5, 5, 5]], Sampling(rules)
    stops = None if stop is None else [lambda text: len(text) == stop] * 3
    asked = {"max_new_tokens": 12, "ends": (1,), "sampling": sampling, "stops": stops, "logprobs": 2}
    found = speculate(writer, prompts, guesser or Draft(Engine(tiny("decoder", 7, 9)), 3), **asked).generations
    for prompt, one in zip(prompts, found, strict=True):
        own = None if stops is None else stops[:1]
        (alone,) = generations(model, Prompt(torch.tensor([prompt])), writer=writer, **{**asked, "stops": own})
        assert (one.tokens, one.reason) == (alone.tokens, alone.reason)
        assert [[token for token, _ in each.best] for each in one.likelihoods] == [
            [token for token, _ in each.best] for each in alone.likelihoods
        ]
        assert [each.logprob for each in one.likelihoods] == pytest.approx(
            [each.logprob for each in alone.likelihoods], abs=1e-4
        )
        assert 0 <= one.accepted <= one.guessed


def test_a_run_that_can_be_no_draft():
    large, other = fast(loaded("decoder")), fast(loaded("encoder_decoder"))
    assert Draft.of(large, large, 2).guesses == 2
    with pytest.raises(UserError, match="draft: a run without an engine"):
        Draft.of(loaded("decoder"), large)
    with pytest.raises(UserError, match="draft: a model of kind EncoderDecoder; expected one of kind Decoder"):
        Draft.of(other, large)
    cut = Tokenizer.train(Characters(), ["other letters, as many as there may be"])
    with pytest.raises(UserError, match="draft: its tokens are others"):
        Draft.of(fast(Loaded(large.model, cut, None)), large)
    with pytest.raises(UserError, match="guesser: a run without an engine"):
        complete(loaded("decoder"), ["the cat"], guesser=PromptLookup())


def test_a_draft_of_other_tokens_is_told():
    with pytest.raises(UserError, match=r"draft: found 7 tokens; expected 9 tokens"):
        speculate(Plain(tiny("decoder", 9, 1)), [[2]], Draft(Plain(tiny("decoder", 7, 1)), 2), max_new_tokens=3)
    with pytest.raises(UserError, match="guesses: found 0"):
        PromptLookup(2, 0)
    with pytest.raises(UserError, match=r"prompt: a sequence of 15 tokens; expected at most 14"):
        speculate(Plain(tiny("decoder", 9, 1, limit=14)), [[2] * 15], PromptLookup(2, 2), max_new_tokens=3)


@dataclass
class Lines:
    """Texts alone: what a table needs to remember."""

    texts: list

    @property
    def lengths(self):
        return [len(text) for text in self.texts]

    def select(self, rows):
        self.texts = [list(self.texts[row]) for row in rows]

    def crop(self, lengths):
        self.texts = [text[:length] for text, length in zip(self.texts, lengths, strict=True)]


@dataclass
class Table:
    """The scores of a token depend on the last one alone."""

    scores: torch.Tensor
    limit: int | None = None
    device = torch.device("cpu")

    def prefill(self, prompts, sources=None):
        return self.scores[torch.tensor([prompt[-1] for prompt in prompts])], Lines([list(p) for p in prompts])

    def extend(self, tokens, rows):
        rows.texts = [[*text, *new] for text, new in zip(rows.texts, tokens.tolist(), strict=True)]
        return self.scores[tokens]


SAMPLES, LENGTH = 6_000, 4


@pytest.mark.parametrize(
    "filters", [(), (Temperature(0.7), TopK(3)), (RepetitionPenalty(1.8),)], ids=["all", "cut", "rule"]
)
@pytest.mark.parametrize("guesser", ["lookup", "draft"])
def test_drawn_texts_are_as_frequent_as_without_guesses(guesser, filters):
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(11)) * 0.8
    table = Table(scores)
    if guesser == "lookup":
        way = PromptLookup(1, 2)
    else:
        way = Draft(Table(scores + torch.randn(4, 4, generator=torch.Generator().manual_seed(12))), 2)
    prompt = [0, 1, 2, 3, 1, 0, 2, 1]
    found = speculate(table, [prompt] * SAMPLES, way, max_new_tokens=LENGTH, sampling=Sampling(filters, seed=5))
    seen, pairs, rare = Counter(map(tuple, found.texts)), [], torch.zeros(2)
    for text in itertools.product(range(4), repeat=LENGTH):
        pair = torch.tensor([SAMPLES * likelihood(table, prompt, text, filters), seen[text]])
        assert pair[0] > 0 or pair[1] == 0
        if pair[0] < 5:  # too few for the distribution to hold: counted together
            rare += pair
        else:
            pairs.append(pair)
    expected, counted = torch.stack([*pairs, *([rare] if rare[0] > 0 else [])]).unbind(1)
    assert counted.sum() == SAMPLES
    chi, degrees = ((counted - expected) ** 2 / expected).sum(), len(expected) - 1
    assert chi < degrees + 4 * (2 * degrees) ** 0.5
    assert 0.05 < found.share < 0.95


def likelihood(table, prompt, text, filters):
    written, total, last = Written.of([prompt]), 1.0, prompt[-1]
    for token in text:
        p = apply(filters, table.scores[last : last + 1], written).softmax(-1)
        total, last = total * p[0, token].item(), token
        written = written.add(torch.tensor([token]))
    return total


def test_draws_are_seeded():
    writer, start = Plain(small("decoder")), [[5, 6, 5, 6], [7, 8]]
    runs = [
        speculate(writer, start, PromptLookup(1, 3), max_new_tokens=8, sampling=Sampling([TopK(20)], seed=seed)).texts
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
