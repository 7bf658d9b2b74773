"""Text in, text out: order, padding and batches do not matter; the wrong model is told."""

from dataclasses import replace

import pytest
import torch
from families import STACK

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.config.defaults import default_run, demo_run
from pellucid.config.run import Characters, TextFiles
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference import predict
from pellucid.inference.sampling import Never, Sampling, TopK
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded

TEXTS = ["abba", "a cab", "b", "deaf dad faced a bad cafe", "cab", "added", "a"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(Characters(), ["abcdef abcdef"])


def loaded(tokenizer, family, **changed):
    torch.manual_seed(3)
    stack = replace(STACK, **changed)
    front = config.Tokens(vocab_size=tokenizer.vocab_size)
    text = TextFiles(train=("x",))
    match family:
        case "decoder":
            run, model = default_run("decoder", text), config.Decoder(front=front, stack=stack)
        case "encoder-decoder":
            run = demo_run("encoder-decoder")
            model = config.EncoderDecoder(source=front, encoder=STACK, target=front, decoder=STACK)
        case "encoder":
            run, model = default_run("encoder", text), config.Encoder(front=front, stack=STACK)
        case "classifier":
            head = config.Classification(labels=("x", "y", "z"), pooling="mean")
            run, model = default_run("classifier", text), config.Encoder(front=front, stack=STACK, head=head)
    built = build(model).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Loaded(built, tokenizer, replace(run, model=model))


@pytest.mark.parametrize("beams", [1, 3])
def test_translations_do_not_depend_on_their_neighbours(tokenizer, beams):
    model = loaded(tokenizer, "encoder-decoder")
    together = predict.translate(model, TEXTS, beams=beams, max_new_tokens=12)
    alone = [predict.translate(model, [text], beams=beams, max_new_tokens=12)[0] for text in TEXTS]
    assert together == alone


def test_completions_do_not_depend_on_their_neighbours(tokenizer):
    model = loaded(tokenizer, "decoder")
    together = predict.complete(model, TEXTS, max_new_tokens=9)
    assert together == [predict.complete(model, [text], max_new_tokens=9)[0] for text in TEXTS]
    assert predict.complete(model, [""], max_new_tokens=3)


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_draws_of_one_call_are_all_others(tokenizer, family, monkeypatch):
    run = loaded(tokenizer, family)
    monkeypatch.setattr("pellucid.inference.batches.BATCH_TOKENS", 8)  # batches of a few rows
    write = predict.complete if family == "decoder" else predict.translate
    asked = {"max_new_tokens": 12, "rules": [Never(tuple(tokenizer.special_ids))], "sampling": Sampling(seed=5)}
    drawn = write(run, ["ab"] * 24, **asked)
    assert len(set(drawn)) == 24
    assert write(run, ["ab"] * 24, **asked) == drawn


@pytest.mark.parametrize("beams", [1, 3])
def test_rules_that_bar_everything_leave_an_empty_text(tokenizer, beams):
    run = loaded(tokenizer, "encoder-decoder")
    nothing = [Never(tuple(range(tokenizer.vocab_size)))]
    assert predict.translate(run, ["abba", "cab"], beams=beams, rules=nothing) == ["", ""]


def test_lengths_do_not_depend_on_their_neighbours(tokenizer):
    model = loaded(tokenizer, "encoder-decoder")
    assert predict.translate(model, TEXTS) == [predict.translate(model, [text])[0] for text in TEXTS]
    assert predict.translate(model, TEXTS, beams=2) == [predict.translate(model, [text], beams=2)[0] for text in TEXTS]

    model = loaded(tokenizer, "decoder", positions=parts.Learned(max_length=30))
    (short,) = predict.completions(model, ["b"], max_new_tokens=25, rules=[Never(tokenizer.ends)])
    both = predict.completions(model, [*TEXTS[3:], "b"], max_new_tokens=25, rules=[Never(tokenizer.ends)])
    assert both[-1] == short
    assert len(short.tokens) == 25
    assert len(both[0].tokens) == 30 + 1 - len(TEXTS[3])  # the last is never fed back


def test_a_stream_is_the_completion_in_pieces(tokenizer):
    model, sampling = loaded(tokenizer, "decoder"), Sampling([TopK(5)], seed=7)
    pieces = list(predict.write(model, "bad", max_new_tokens=20, sampling=sampling))
    assert "".join(pieces) == predict.complete(model, ["bad"], max_new_tokens=20, sampling=sampling)[0]


def test_labels_and_vectors_do_not_depend_on_their_neighbours(tokenizer):
    model = loaded(tokenizer, "classifier")
    for text, found in zip(TEXTS, predict.classify(model, TEXTS), strict=True):
        (alone,) = predict.classify(model, [text])
        assert alone.label == found.label
        assert alone.probabilities == pytest.approx(found.probabilities, abs=1e-5)
        assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    vectors = predict.embed(model, TEXTS)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(TEXTS)))
    torch.testing.assert_close(
        vectors, torch.cat([predict.embed(model, [text]) for text in TEXTS]), atol=1e-5, rtol=1e-4
    )


def test_filling_a_gap(tokenizer):
    model = loaded(tokenizer, "encoder")
    answers = predict.fill(model, "ab<mask>d", top=3)
    assert len(answers) == 3
    assert answers[0].probability >= answers[1].probability >= answers[2].probability
    assert all(answer.text.startswith("ab") and answer.text.endswith("d") for answer in answers)
    with pytest.raises(UserError, match=r"0 gaps.*one <mask>"):
        predict.fill(model, "abd")


@pytest.mark.parametrize(("task", "family"), [
    (lambda model: predict.translate(model, ["a"]), "decoder"),
    (lambda model: predict.complete(model, ["a"]), "encoder"),
    (lambda model: predict.fill(model, "<mask>"), "classifier"),
    (lambda model: predict.classify(model, ["a"]), "encoder"),
    (lambda model: predict.embed(model, ["a"]), "encoder-decoder"),
])  # fmt: skip
def test_the_wrong_model_is_told(tokenizer, task, family):
    with pytest.raises(UserError, match=r"a model of kind .* expected"):
        task(loaded(tokenizer, family))
