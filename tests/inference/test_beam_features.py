"""Beam search with patience, coverage, rules and stops, each against a search written in plain Python."""

import math
import random

import pytest
import torch
from families import VOCAB, small

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.inference.alignments import Coverage
from pellucid.inference.beam import Beams, Hypothesis, Power, Search, Wu, beam_search
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.rules import (
    BadWords,
    ForcedPrefix,
    FrequencyPenalty,
    LogitBias,
    MinLength,
    NoRepeat,
    PerPrompt,
    RepetitionPenalty,
    SoftPrefix,
    Written,
    apply,
)
from pellucid.inference.sampling import Never, Sampling
from pellucid.inference.writer import Plain
from pellucid.models.build import build
from pellucid.trace import trace

EOS, V = 1, 6
FAMILIES = ["decoder", "encoder_decoder"]


def tiny(family):
    stack = parts.Stack(
        d_model=16,
        num_layers=2,
        attention=parts.Attention(num_heads=2),
        feed_forward=parts.FeedForward(d_ff=16),
        placement="pre",
    )
    front = config.Tokens(vocab_size=V)
    if family == "decoder":
        model = build(config.Decoder(front=front, stack=stack))
    else:
        model = build(config.EncoderDecoder(source=front, encoder=stack, target=front, decoder=stack))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    return model.eval()


def prompt_of(family):
    source = torch.tensor([[2, 4, 3, 5], [4, 4, 2, 0]]) if family != "decoder" else None
    keep = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool() if family != "decoder" else None
    return Prompt(torch.tensor([[2, 0], [3, 2]]), source=source, source_keep=keep)


def logits_of(model, prompt, row, text):
    """(T, V) the scores of all that follows a prompt and a text."""
    ids = torch.tensor([[*prompt.tokens[row].tolist(), *text]])
    with torch.no_grad():
        if prompt.source is None:
            return model(ids)[0]
        kept = prompt.source[row][prompt.source_keep[row]][None]
        return model(kept, ids)[0]


def scores_of(model, prompt, row, text):
    """(T, V) their log-probabilities."""
    return logits_of(model, prompt, row, text).log_softmax(-1)


def plainly(model, prompt, row, width, longest, penalty, *, rules=(), patience=None, bonus=None, stops=None):
    """The search as its papers tell it, one text at a time, without a cache."""
    beams, found = [((), 0.0)], []
    for length in range(1, longest + 1):
        candidates = []
        for text, total in beams:
            written = Written(
                torch.tensor([[*prompt.tokens[row].tolist(), *text]]), torch.tensor([len(text)]), torch.tensor([row])
            )
            scores = apply(rules, scores_of(model, prompt, row, text)[-1:], written)[0]
            candidates += [(total + scores[token].item(), text, token) for token in range(V)]
        candidates = [one for one in sorted(candidates, key=lambda one: -one[0]) if one[0] > -math.inf]
        before, beams = beams, []
        for place, (total, text, token) in enumerate(candidates[: 2 * width] if stops is None else candidates):
            whole = (*text, token)
            if token == EOS or (stops and stops(whole)):
                if place < width:
                    said = text if token == EOS else whole
                    found.append((said, total / penalty(length) + (bonus(said, length) if bonus else 0.0)))
            elif len(beams) < width:
                beams.append((whole, total))
        found.sort(key=lambda one: -one[1])
        if patience is None:
            del found[width:]
        if not beams or length == longest:
            left, said = (beams, length) if beams else (before if not found else [], length - 1)
            found += [
                (text, total / penalty(said) + (bonus(text, said) if bonus else 0.0)) for text, total in left if text
            ]
            break
        if patience is not None and len(found) >= patience * width:
            break
    return sorted(found, key=lambda one: -one[1])[:width]


def same(found, expected):
    assert [one.tokens for one in found] == [text for text, _ in expected]
    assert [one.score for one in found] == pytest.approx([score for _, score in expected], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("patience", [None, 0.5, 1.0, 2.0])
def test_patience(family, patience):
    model, prompt = tiny(family), prompt_of(family)
    found = beam_search(model, prompt, beams=3, max_new_tokens=7, ends=(EOS,), penalty=Power(1.0), patience=patience)
    for row in range(2):
        same(found[row], plainly(model, prompt, row, 3, 7, Power(1.0), patience=patience))


RULES = {
    "bias": (LogitBias(((EOS, 3.0), (2, -2.0))),),
    "repetition": (RepetitionPenalty(2.0),),
    "frequency": (FrequencyPenalty(0.8),),
    "rising": (FrequencyPenalty(-0.8),),
    "no-repeat": (NoRepeat(2),),
    "words": (BadWords(((2, 3), (0,), (5, 5, 4))),),
    "min-length": (MinLength(4, (EOS,)),),
    "forced": (ForcedPrefix((4, 3)),),
    "soft": (SoftPrefix((4, 3, 3), 0.4),),
    "per-prompt": (PerPrompt(((NoRepeat(1),), (ForcedPrefix((5,)), Never((0,))))),),
    "together": (FrequencyPenalty(0.4), NoRepeat(2), BadWords(((3, 4),)), MinLength(2, (EOS,)), ForcedPrefix((4,))),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rules(family, rules):
    model, prompt = tiny(family), prompt_of(family)
    found = beam_search(model, prompt, beams=3, max_new_tokens=5, ends=(EOS,), penalty=Wu(0.6), filters=rules)
    for row in range(2):
        same(found[row], plainly(model, prompt, row, 3, 5, Wu(0.6), rules=rules))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(8))
def test_any_rules_in_any_order(family, seed):
    model, prompt, draw = tiny(family), prompt_of(family), random.Random(seed)
    rules = tuple(rule for own in draw.sample(sorted(RULES), 4) for rule in RULES[own])
    rules = tuple(draw.sample(rules, len(rules)))
    patience = draw.choice([None, 1.0, 1.5])
    found = beam_search(
        model, prompt, beams=3, max_new_tokens=5, ends=(EOS,), penalty=Power(1.0), filters=rules, patience=patience
    )
    greedy = generate(model, prompt, max_new_tokens=5, ends=(EOS,), sampling=Sampling(rules))
    for row in range(2):
        same(found[row], plainly(model, prompt, row, 3, 5, Power(1.0), rules=rules, patience=patience))
        alone = Written.of([prompt.tokens[row].tolist()])
        alone = Written(alone.tokens, alone.lengths, torch.tensor([row]))
        for count in range(5):
            scores = apply(rules, logits_of(model, prompt, row, greedy[row][:count])[-1:], alone)[0]
            likeliest = int(scores.argmax())
            if likeliest == EOS or scores.max() == -math.inf:
                assert len(greedy[row]) == count
                break
            assert greedy[row][count] == likeliest
            alone = alone.add(torch.tensor([likeliest]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_without_a_way_on_keeps_what_it_has(family):
    model, prompt = tiny(family), prompt_of(family)
    rules = (NoRepeat(1), Never((EOS, 4)))  # four tokens, each once, and no end
    found = beam_search(model, prompt, beams=2, max_new_tokens=9, ends=(EOS,), filters=rules)
    for row in range(2):
        assert sorted(found[row][0].tokens) == [0, 2, 3, 5]
        same(found[row], plainly(model, prompt, row, 2, 9, Wu(0.6), rules=rules))
    nothing = beam_search(model, prompt, beams=2, max_new_tokens=9, ends=(EOS,), filters=(Never(tuple(range(V))),))
    assert nothing == [[Hypothesis((), 0.0)]] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_stops_end_a_text_like_an_end_that_is_part_of_it(family):
    model, prompt = tiny(family), prompt_of(family)

    def stop(text):
        return tuple(text[-2:]) in {(2, 3), (4, 4), (5, 2)}

    found = beam_search(model, prompt, beams=3, max_new_tokens=6, ends=(EOS,), penalty=Power(1.0), stops=[stop, stop])
    for row in range(2):
        expected = plainly(model, prompt, row, 3, 6, Power(1.0), stops=stop)
        assert found[row][0].tokens == expected[0][0]
        assert found[row][0].score == pytest.approx(expected[0][1], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_stops_at_most_tokens_leave_a_search_its_way_on(family):
    model, prompt = tiny(family), prompt_of(family)
    for going in range(2, V):

        def stop(text, going=going):
            return text[-1] != going

        asked = {"ends": (EOS,), "penalty": Power(1.0), "stops": [stop, stop]}
        found = beam_search(model, prompt, beams=2, max_new_tokens=6, **asked)
        for row in range(2):
            expected = plainly(model, prompt, row, 2, 6, Power(1.0), stops=stop)
            assert found[row][0].tokens == expected[0][0]
            assert found[row][0].score == pytest.approx(expected[0][1], abs=1e-4)


@pytest.mark.parametrize("patience", [None, 1.0])
@pytest.mark.parametrize("layer", [-1, 0])
def test_coverage(patience, layer):
    model, prompt = tiny("encoder_decoder"), prompt_of("encoder_decoder")
    coverage = Coverage(0.7, layer)
    bonuses = coverage.bonuses(model, prompt)
    found = beam_search(
        model, prompt, beams=3, max_new_tokens=5, ends=(EOS,), penalty=Wu(0.6), patience=patience, bonuses=bonuses
    )
    name = f"decoder.blocks.{layer % 2}.cross_attention.weights"

    def penalty(row):
        def covered(text, said):
            source = prompt.source[row][prompt.source_keep[row]][None]
            start = prompt.tokens[row].tolist()
            with trace(model, watch=name) as tape:
                model(source, torch.tensor([[*start, *text]]))
            looked = tape[name][0].mean(0)  # (T, S)
            sums = [sum(looked[1 + j, i].item() for j in range(said)) for i in range(source.size(1))]
            return 0.7 * sum(math.log(min(total, 1.0)) for total in sums)

        return covered

    for row in range(2):
        same(found[row], plainly(model, prompt, row, 3, 5, Wu(0.6), patience=patience, bonus=penalty(row)))
    with pytest.raises(UserError, match="coverage: a model of kind Decoder; expected an encoder–decoder"):
        coverage.bonuses(tiny("decoder"), prompt_of("decoder"))
    with trace(model, watch="logits"), pytest.raises(UserError, match="traced already"):
        bonuses[0]([(2,)], 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_writer_finds_the_same(family):
    model, prompt = small(family), torch.randint(2, VOCAB, (3, 4))
    source = torch.randint(2, VOCAB, (3, 6)) if family != "decoder" else None
    rules = (NoRepeat(2), MinLength(2, (EOS,)))
    asked = {"beams": 3, "max_new_tokens": 5, "ends": (EOS,), "penalty": Power(1.0), "patience": 1.5, "filters": rules}
    expected = beam_search(model, Prompt(prompt, source=source), **asked)
    found = beam_search(model, Prompt(prompt, source=source), **asked, writer=Plain(model))
    for one, other in zip(found, expected, strict=True):
        same(one, [(text.tokens, text.score) for text in other])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Beams(0), "beams: found 0; expected 1 or more"),
    (lambda: Beams(2, patience=0.0), "patience: found 0.0"),
    (lambda: Coverage(-1.0), "coverage"),
])  # fmt: skip
def test_settings_that_cannot_work(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_search_needs_no_model():
    search = Search(Beams(2, (9,)), longest=3)
    judged = search.take([-0.1, -0.2, -0.3], [0, 0, 0], [9, 5, 6])
    assert [one.fate for one in judged] == ["finished", "kept", "kept"]
    assert search.steps(judged) == ([0, 0], [5, 6])
    assert not search.is_over
    search.take([-0.3, -9.0], [1, 0], [9, 5])
    assert search.is_over
    assert [one.tokens for one in search.best()] == [(), (6,)]
