"""Likelihoods of what is written and of what is given, against a pass over each text alone."""

from dataclasses import replace

import exploring
import pytest
import torch
from families import STACK

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.defaults import default_run, demo_run
from pellucid.config.run import Characters, TextFiles
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.alignments import Coverage, align
from pellucid.inference.decode import Prompt, generations
from pellucid.inference.rules import MinLength, NoRepeat
from pellucid.inference.sampling import Never, Sampling, Temperature
from pellucid.inference.scores import score
from pellucid.inference.translating import Searching, translations
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded

TEXTS = ["abba", "a cab", "b", "", "deaf dad faced a bad cafe"]


@pytest.fixture(scope="module", params=["decoder", "encoder-decoder"])
def loaded(request):
    tokenizer = Tokenizer.train(Characters(), ["abcdef abcdef"])
    torch.manual_seed(3)
    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    if request.param == "decoder":
        run, described = default_run("decoder", TextFiles(train=("x",))), config.Decoder(front=front, stack=STACK)
    else:
        run = demo_run("encoder-decoder")
        described = config.EncoderDecoder(source=front, encoder=STACK, target=front, decoder=STACK)
    model = build(described).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Loaded(model, tokenizer, replace(run, model=described))


def alone(loaded, source, before, said):
    """The log-probabilities (N, V) at the places of some tokens, by one pass over their text."""
    ids = torch.tensor([[*before, *said]])
    with torch.no_grad():
        logits = loaded.model(ids) if source is None else loaded.model(torch.tensor([source]), ids)
    return logits[0, len(before) - 1 : len(before) - 1 + len(said)].log_softmax(-1)


def test_texts_that_are_given(loaded):
    tokenizer, two = loaded.tokenizer, type(loaded.model).__name__ == "EncoderDecoder"
    given = [text[::-1] or "f" for text in TEXTS]
    for one, text, before in zip(score(loaded, TEXTS, given=given, top=3), TEXTS, given, strict=True):
        said = [*tokenizer.encode(text), *([tokenizer.eos] if two else [])]
        source = tokenizer.source(tokenizer.encode(before)) if two else None
        table = alone(loaded, source, [tokenizer.bos] if two else tokenizer.encode(before), said)
        assert list(one.tokens) == said
        assert one.pieces == tuple(tokenizer.pieces(said))
        assert one.logprob == pytest.approx(sum(table[i, token].item() for i, token in enumerate(said)), abs=1e-4)
        for place, likelihood in enumerate(one.likelihoods):
            assert [token for token, _ in likelihood.best] == table[place].topk(3).indices.tolist()
            assert likelihood.best[0][1] == pytest.approx(table[place].max().item(), abs=1e-4)
    with pytest.raises(UserError, match="5 texts and 1 given"):
        score(loaded, TEXTS, given=["a"])


def test_nothing_stands_before_a_first_token(loaded):
    if type(loaded.model).__name__ == "EncoderDecoder":
        with pytest.raises(UserError, match="no sources"):
            score(loaded, TEXTS)
        return
    first, *_, empty, last = score(loaded, TEXTS)
    assert first.likelihoods[0] is None
    table = alone(loaded, None, first.tokens[:1], first.tokens[1:])
    assert first.logprob == pytest.approx(
        sum(table[i, token].item() for i, token in enumerate(first.tokens[1:])), abs=1e-4
    )
    assert empty.tokens == ()
    assert last.likelihoods[1].best == ()


@pytest.mark.parametrize("seed", [None, 5])
def test_texts_that_are_written(loaded, seed):
    model, two = loaded.model, type(loaded.model).__name__ == "EncoderDecoder"
    tokens, source = torch.randint(5, 11, (4, 2)), torch.randint(5, 11, (4, 3)) if two else None
    sampling = Sampling((NoRepeat(2), Never((6,)), Temperature(0.7)), seed=seed)
    told = generations(model, Prompt(tokens, source=source), max_new_tokens=9, ends=(7,), sampling=sampling, logprobs=2)
    assert {one.reason for one in told} <= {"end", "length"}
    for row, one in enumerate(told):
        said = [*one.tokens, *([7] if one.reason == "end" else [])]
        assert len(one.likelihoods) == len(said)
        table = alone(loaded, source[row].tolist() if two else None, tokens[row].tolist(), said)
        for place, token in enumerate(said):
            assert one.likelihoods[place].token == token
            assert one.likelihoods[place].logprob == pytest.approx(table[place, token].item(), abs=1e-4)
            assert [other for other, _ in one.likelihoods[place].best] == table[place].topk(2).indices.tolist()
    assert generations(model, Prompt(tokens, source=source), max_new_tokens=2)[0].likelihoods == ()


def test_why_writing_ended(loaded):
    model, two = loaded.model, type(loaded.model).__name__ == "EncoderDecoder"
    tokens, source = torch.randint(5, 11, (3, 2)), torch.randint(5, 11, (3, 3)) if two else None
    prompt, V = Prompt(tokens, source=source), loaded.tokenizer.vocab_size
    stuck = Sampling((NoRepeat(1), Never(tuple(range(3, V)))))
    told = generations(model, prompt, max_new_tokens=9, sampling=stuck, logprobs=0)
    for one in told:
        assert one.reason == "stuck"
        assert sorted(one.tokens) == [0, 1, 2]
        assert len(one.likelihoods) == 3
    stops = [lambda text: len(text) == 2, lambda text: False, lambda text: text[-1] == 5]
    free = [one.tokens for one in generations(model, prompt, max_new_tokens=6)]
    first, second, third = generations(model, prompt, max_new_tokens=6, stops=stops)
    assert (first.tokens, first.reason) == (free[0][:2], "stop")
    assert (second.tokens, second.reason) == (free[1], "length")
    at = free[2].index(5) + 1 if 5 in free[2] else 6
    assert third.tokens == free[2][:at]


def test_scores_of_translations(loaded):
    if type(loaded.model).__name__ != "EncoderDecoder":
        return
    rules, sources = (MinLength(3, loaded.tokenizer.ends),), TEXTS[:3]
    found = translations(loaded, sources, Searching(4, best=3), max_new_tokens=6, rules=rules, logprobs=1)
    for best, source in zip(found, sources, strict=True):
        assert len(best) == 3
        assert best[0].score >= best[1].score >= best[2].score
        for one in best:
            ended = len(one.tokens) < 6
            assert [each.token for each in one.likelihoods] == [*one.tokens, *loaded.tokenizer.ends[:ended]]
            if ended:
                (again,) = score(loaded, [one.text], given=[source], top=1)
                assert sum(likelihood.logprob for likelihood in one.likelihoods) == pytest.approx(
                    again.logprob, abs=1e-4
                )
                assert one.score == pytest.approx(again.logprob / Searching().penalty(len(again.tokens)), abs=1e-4)


def test_a_text_that_fills_all_positions_is_looked_at_like_others():
    loaded = exploring.loaded("encoder_decoder", positions=parts.Learned(max_length=8))
    whole = {"max_new_tokens": 50, "rules": (Never(loaded.tokenizer.ends),), "logprobs": 1}
    ((one,),) = translations(loaded, ["cat"], Searching(2, coverage=Coverage(0.2)), **whole)
    assert len(one.tokens) == 8  # the last is never read
    assert [each.token for each in one.likelihoods] == list(one.tokens)
    (aligned,) = align(loaded, ["cat"], [one.text])
    assert len(aligned.target) == len(loaded.tokenizer.encode(one.text))
