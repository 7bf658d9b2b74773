"""Encoder tasks: neither neighbours nor the way of reading change an answer."""

import copy
from dataclasses import replace

import pytest
import tokenizers
import torch
from families import CHOICES, STACK, small

from pellucid.config import model as config
from pellucid.config import parts, run
from pellucid.config.defaults import default_run
from pellucid.config.run import Characters, TextFiles
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import DataError, UserError
from pellucid.inference import encode, predict
from pellucid.inference.encode import EncoderTasks, in_budget, paired
from pellucid.inference.engine import EncoderEngine, fast
from pellucid.inference.reader import Padded
from pellucid.inference.tagging import Span, names
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded
from pellucid.trace import trace

TEXTS = ["abba", "a cab", "b", "deaf dad faced a bad cafe", "cab", "added", "a"]
PAIRS = [("abba", "a cab"), ("b", "deaf dad faced a bad cafe"), ("cab", "a"), ("added", "fed")]
GAPS = ["ab<mask>d", "<mask>ad <mask>a<mask>", "a <mask>ab", "<mask>"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(Characters(), ["abcdef abcdef"])


def loaded(tokenizer, head=None, types=0, **changes):
    torch.manual_seed(3)
    front = config.Tokens(vocab_size=tokenizer.vocab_size, token_types=types)
    model = config.Encoder(front=front, stack=replace(STACK, **changes), head=head or config.MaskedLanguage())
    built = build(model).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return Loaded(built, tokenizer, default_run("encoder", TextFiles(train=("x",))))


def tasks(model, way, budget=40):
    reader = EncoderEngine(model.model) if way == "packed" else Padded(model.model, model.tokenizer.require("pad"))
    return EncoderTasks(model, reader, budget=budget)


ways = pytest.mark.parametrize("way", ["padded", "packed"])


@pytest.mark.parametrize("choice", list(CHOICES))
def test_packed_states_are_those_of_each_text_alone(choice):
    model = small("encoder", **CHOICES[choice])
    texts = [torch.randint(2, 61, (length,)).tolist() for length in (5, 1, 9, 5, 3)]
    flat = EncoderEngine(model)(texts)
    assert flat.lengths == (5, 1, 9, 5, 3)
    for text, states in zip(texts, flat.each(), strict=True):
        with torch.no_grad():
            alone = model.features(torch.tensor([text])).states[0]
        torch.testing.assert_close(states, alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(Padded(model, 0)(texts).states, flat.states, atol=2e-5, rtol=1e-4)


@ways
@pytest.mark.parametrize("pooling", ["first", "mean", "max"])
@pytest.mark.parametrize("projected", [False, True])
def test_vectors(tokenizer, way, pooling, projected):
    model = loaded(tokenizer, config.Embedding(pooling=pooling, projected=projected))
    found = tasks(model, way).embed(TEXTS)
    alone = [model.model(torch.tensor([tokenizer.text(tokenizer.encode(text))]))[0] for text in TEXTS]
    torch.testing.assert_close(found, torch.stack(alone), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(TEXTS)))
    longer = tasks(model, way).embed(TEXTS[:2], pooling="max", normalized=False)
    states = model.model.features(torch.tensor([tokenizer.text(tokenizer.encode(TEXTS[1]))])).states[0]
    torch.testing.assert_close(longer[1], states.amax(0), atol=2e-5, rtol=1e-4)
    assert tasks(model, way).embed([]).shape == (0, 32)


@ways
@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("types", [0, 2])
def test_labels_of_texts_and_of_pairs(tokenizer, way, pooling, types):
    head = config.Classification(labels=("x", "y", "z"), pooling=pooling)
    model = loaded(tokenizer, head, types)
    mixed = [*TEXTS, *PAIRS]
    found = tasks(model, way).classify(mixed)
    for text, label in zip(mixed, found, strict=True):
        (alone,) = EncoderTasks(model).classify([text])
        assert alone.label == label.label
        assert alone.probabilities == pytest.approx(label.probabilities, abs=1e-5)
    ids, kinds = paired(tokenizer, *PAIRS[1])
    with torch.no_grad():
        given = {"token_types": torch.tensor([kinds])} if types else {}
        alone = model.model(torch.tensor([ids]), **given)
    torch.testing.assert_close(tasks(model, way).scores(PAIRS)[1], alone[0], atol=2e-5, rtol=1e-4)
    if types:  # which text a token belongs to is seen
        assert not torch.allclose(alone, model.model(torch.tensor([ids])))


@ways
def test_several_gaps_of_several_texts(tokenizer, way, monkeypatch):
    monkeypatch.setattr(encode, "GAPS_AT_ONCE", 2)
    model = loaded(tokenizer)
    found = tasks(model, way, budget=20).fill(GAPS, top=3)
    assert [len(text) for text in found] == [1, 3, 1, 1]
    for text, gaps in zip(GAPS, found, strict=True):
        (alone,) = EncoderTasks(model).fill([text], top=3)
        assert [[one.text for one in gap] for gap in alone] == [[one.text for one in gap] for gap in gaps]
        for gap, other in zip(gaps, alone, strict=True):
            values = [one.probability for one in gap]
            assert values == sorted(values, reverse=True)
            assert values == pytest.approx([one.probability for one in other], abs=1e-5)
    cut = encode.gapped(tokenizer, GAPS[1])
    scores = model.model(torch.tensor([tokenizer.excerpt(cut)]))[0].softmax(-1)
    places = [place for place, token in enumerate(cut) if token == tokenizer.require("mask")]
    for place, gap in zip(places, found[1], strict=True):
        assert gap[0].probability == pytest.approx(scores[place].max().item(), abs=1e-5)
        assert [gap[0].piece] == tokenizer.pieces([scores[place].argmax().item()])
    assert {gap[0].text for gap in found[1]} == {found[1][0][0].text}  # the best of each gap, in all of them
    with pytest.raises(UserError, match="0 gaps in 'abd'"):
        tasks(model, way).fill(["abd"])


def test_batches_fit_their_budget():
    lengths = [3, 9, 1, 9, 4, 4, 30, 2]
    batches = list(in_budget(lengths, 20))
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    assert batches[0] == [6]  # longer than the budget, alone
    assert all(len(batch) * max(lengths[i] for i in batch) <= 20 for batch in batches[1:])
    assert len(batches) == 3


def test_pairs_are_framed_as_their_tokenizer_does(tokenizer):
    ids, types = paired(tokenizer, "ab", "cad")
    bos, eos = tokenizer.require("bos"), tokenizer.require("eos")
    a, b = tokenizer.encode("ab"), tokenizer.encode("cad")
    assert ids == [bos, *a, eos, *b, eos]
    assert types == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [len(paired(tokenizer, "abcdef", text, 9)[0]) for text in ("a", "abcd", "abcdefabcdef")] == [9, 9, 9]
    assert paired(tokenizer, "abcdef", "a", 9)[0][-2:] == [*tokenizer.encode("a"), eos]  # the longer is cut
    raw = tokenizers.Tokenizer.from_str(tokenizer.raw.to_str())
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{raw.id_to_token(bos)} $A {raw.id_to_token(eos)}",
        pair="{0} $A {1} {1} $B:1 {1}:1".format(raw.id_to_token(bos), raw.id_to_token(eos)),
        special_tokens=[(raw.id_to_token(bos), bos), (raw.id_to_token(eos), eos)],
    )
    assert paired(Tokenizer(raw), "ab", "cad") == ([bos, *a, eos, eos, *b, eos], [0] * 5 + [1] * 4)
    assert len(paired(Tokenizer(raw), "abcdef", "abcdef", 12)[0]) == 12


LABELS = ("O", "B-A", "I-A", "B-B", "I-B")


@ways
def test_words_are_labelled_by_their_first_token(tokenizer, way):
    model = loaded(tokenizer, config.TokenClassification(labels=LABELS))
    found = tasks(model, way).tag(TEXTS)
    for text, words in zip(TEXTS, found, strict=True):
        cut = tokenizer.raw.encode(text, add_special_tokens=False)
        with torch.no_grad():
            likely = model.model(torch.tensor([tokenizer.text(cut.ids)]))[0, 1:-1].softmax(-1)  # between bos and eos
        firsts = [token for token, word in enumerate(cut.word_ids) if word not in cut.word_ids[:token]]
        assert [word.label for word in words] == [LABELS[likely[token].argmax()] for token in firsts]
        assert [word.probability for word in words] == pytest.approx([likely[i].max().item() for i in firsts], abs=1e-5)
        assert [word.text for word in words] == [text[word.start : word.end] for word in words]
    assert tasks(model, way).tag([""]) == [[]]
    names_of = predict.tag(model, TEXTS)
    assert names_of == [names(words, text) for words, text in zip(EncoderTasks(model).tag(TEXTS), TEXTS, strict=True)]
    with pytest.raises(UserError, match="tag: a model of kind Encoder"):
        tasks(loaded(tokenizer), way).tag(TEXTS)


def test_names_are_joined_as_in_conll():
    text = "Ada Lovelace of London met Mary Shelley Byron"
    labels = ["B-PER", "I-PER", "O", "I-LOC", "O", "B-PER", "I-PER", "B-PER"]
    starts = [text.index(word) for word in text.split()]
    words = [
        Span(label, word, start, start + len(word), 0.5 + 0.1 * (word == "Lovelace"))
        for label, word, start in zip(labels, text.split(), starts, strict=True)
    ]
    found = names(words, text)
    assert [(span.label, span.text) for span in found] == [
        ("PER", "Ada Lovelace"), ("LOC", "London"), ("PER", "Mary Shelley"), ("PER", "Byron"),
    ]  # fmt: skip
    assert found[0].probability == pytest.approx(0.55)
    assert [text[span.start : span.end] for span in found] == [span.text for span in found]
    spoken = [Span(label, word, 0, 0, 1.0) for label, word in (("NN", "a"), ("NN", "b"), ("VB", "c"))]
    assert [span.label for span in names(spoken, text)] == ["NN", "NN", "VB"]  # parts of speech are not joined


def test_one_label_is_a_score(tokenizer):
    model = loaded(tokenizer, config.Classification(labels=("relevant",)))
    scores = EncoderTasks(model).scores(PAIRS)
    assert scores.shape == (len(PAIRS), 1)
    told = [label.probability for label in EncoderTasks(model).classify(PAIRS)]
    assert told == pytest.approx(scores[:, 0].sigmoid().tolist())


def test_a_fast_model_is_read_by_its_engine(tokenizer):
    model = loaded(tokenizer, config.Embedding())
    quick = fast(model)
    assert isinstance(EncoderTasks(quick).read, EncoderEngine)
    assert isinstance(EncoderTasks(model).read, Padded)
    torch.testing.assert_close(predict.embed(quick, TEXTS), predict.embed(model, TEXTS), atol=2e-5, rtol=1e-4)


def test_a_traced_model_reads_itself(tokenizer):
    model = loaded(tokenizer)
    packed = EncoderEngine(model.model)
    with trace(model.model, watch="final_norm.out") as tape, pytest.warns(UserWarning, match="steps aside"):
        packed([[5, 6], [7]])
    assert list(tape)


def test_the_wrong_model_or_length_is_told(tokenizer):
    with pytest.raises(UserError, match=r"classify: a model of kind Encoder .* a head of kind maskedlanguage"):
        EncoderTasks(loaded(tokenizer)).classify(["a"])
    with pytest.raises(UserError, match=r"fill: a model of kind Encoder .* a head of kind embedding"):
        EncoderTasks(loaded(tokenizer, config.Embedding())).fill(["<mask>"])
    model = loaded(tokenizer, config.Embedding(), positions=parts.Learned(max_length=4))
    for way in ("padded", "packed"):
        with pytest.raises(UserError, match="a sequence of 27 tokens; expected at most 4"):
            tasks(model, way).embed(TEXTS)


def test_a_gap_behind_what_is_read_is_refused(tokenizer):
    shortened = copy.copy(tokenizer)
    shortened.conventions = run.Conventions(pad=tokenizer.pad, mask=tokenizer.mask, longest=4)
    with pytest.raises(UserError, match="a gap behind the first 4 tokens"):
        EncoderTasks(loaded(shortened)).fill(["abcdef<mask>"])


def test_pairs_may_be_lists_and_anything_else_is_refused(tokenizer):
    model = loaded(tokenizer, config.Classification(labels=("x", "y")))
    assert predict.classify(model, [list(PAIRS[0]), "abba"]) == predict.classify(model, [PAIRS[0], "abba"])
    for given in (("a", "b", "c"), ["a", 5], 5):
        with pytest.raises(UserError, match="a text, or a pair of texts"):
            predict.classify(model, [given])


def test_half_of_a_character_is_refused(tokenizer):
    half = "a\udce9"
    with pytest.raises(DataError, match="half of a character"):
        EncoderTasks(loaded(tokenizer, config.TokenClassification(labels=LABELS))).tag(["a", half])
    for pair in ((half, "b"), ("a", half)):
        with pytest.raises(DataError, match="half of a character"):
            EncoderTasks(loaded(tokenizer, config.Classification(labels=("x", "y")))).classify([pair])


def test_no_answers_are_refused(tokenizer):
    with pytest.raises(UserError, match="top: found 0; expected 1 or more"):
        EncoderTasks(loaded(tokenizer)).fill(["a<mask>"], top=0)


@ways
@pytest.mark.parametrize(
    "head",
    [
        config.MaskedLanguage(),
        config.Classification(labels=("x", "y")),
        config.TokenClassification(labels=LABELS),
        config.Embedding(projected=True),
    ],
    ids=lambda head: type(head).__name__,
)
def test_weights_held_in_half_precision_answer_every_question(tokenizer, way, head):
    model = loaded(tokenizer, head)
    half = Loaded(copy.deepcopy(model.model).bfloat16(), tokenizer, None)
    asked = tasks(half, way)
    match head:
        case config.MaskedLanguage():
            assert [len(text) for text in asked.fill(GAPS)] == [1, 3, 1, 1]
        case config.Classification():
            exact = tasks(model, way).scores(TEXTS)
            torch.testing.assert_close(asked.scores(TEXTS), exact, atol=0.1, rtol=0.1)
        case config.TokenClassification():
            assert [len(words) for words in asked.tag(TEXTS)] == [len(words) for words in tasks(model, way).tag(TEXTS)]
        case config.Embedding():
            torch.testing.assert_close(asked.embed(TEXTS), tasks(model, way).embed(TEXTS), atol=0.05, rtol=0.05)


def test_a_long_first_text_is_framed_as_a_short_one(tokenizer):
    bos, eos = tokenizer.require("bos"), tokenizer.require("eos")
    raw = tokenizers.Tokenizer.from_str(tokenizer.raw.to_str())
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="{} $A {}".format(*map(raw.id_to_token, (bos, eos))),
        pair="{0} $A {1} {1} $B:1 {1}:1".format(*map(raw.id_to_token, (bos, eos))),
        special_tokens=[(raw.id_to_token(bos), bos), (raw.id_to_token(eos), eos)],
    )
    framed = Tokenizer(raw, run.Conventions(pad=tokenizer.require("pad"), before=(bos,), after=(eos,), longest=10))
    for first in ("ab", "abcdefabcdef"):
        ids, _ = paired(framed, first, "cad")
        assert ids.count(eos) == 3
        assert len(ids) <= 10
