"""Alternatives at every place, and what an encoder–decoder looked at, against passes over each text alone."""

import exploring
import pytest
import torch
from test_scores import loaded  # noqa: F401

from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.inference.alignments import align, without_unknown
from pellucid.inference.alternatives import alternatives
from pellucid.inference.rules import NoRepeat
from pellucid.inference.sampling import Never
from pellucid.inference.scores import score
from pellucid.inference.translating import Searching, translations
from pellucid.trace import trace


def is_two(loaded):  # noqa: F811
    return type(loaded.model).__name__ == "EncoderDecoder"


def test_alternatives(loaded):  # noqa: F811
    tokenizer, text = loaded.tokenizer, "a bad"
    source = "fed" if is_two(loaded) else None
    found = alternatives(loaded, text, source=source, top=3, max_new_tokens=4, rules=(NoRepeat(2),))
    written = tokenizer.encode(text)
    before = [tokenizer.bos] if source else []
    first = 0 if source else 1
    assert len(found) == len(written) + 1 - first
    read = torch.tensor([tokenizer.source(tokenizer.encode("fed"))])
    for place, best in enumerate(found, start=first):
        ids = torch.tensor([[*before, *written[:place]]])
        with torch.no_grad():
            table = (loaded.model(read, ids) if source else loaded.model(ids))[0, -1].softmax(-1)
        assert [one.token for one in best] == table.topk(3).indices.tolist()
        assert [one.probability for one in best] == pytest.approx(table.topk(3).values.tolist(), abs=1e-5)
        for one in best:
            assert one.piece == tokenizer.pieces([one.token])[0]
            assert one.is_chosen == (one.token == ([*written, tokenizer.eos][place]))
            assert one.text == tokenizer.decode(one.tokens)
            assert list(one.tokens[:place]) == written[:place]
            if one.token == tokenizer.eos:
                assert len(one.tokens) == place
    (alone,) = alternatives(loaded, text, [2], source=source, top=3, max_new_tokens=4, rules=(NoRepeat(2),))
    assert [(one.token, one.text) for one in alone] == [(one.token, one.text) for one in found[2 - first]]
    assert all(len(one.tokens) <= 3 for one in alternatives(loaded, text, [2], source=source, max_new_tokens=0)[0])
    with pytest.raises(UserError, match="no place 9; expected from"):
        alternatives(loaded, text, [9], source=source)
    with pytest.raises(UserError, match=r"a source; expected none|no source; expected one"):
        alternatives(loaded, text, source=None if source else "x")


def looked(loaded, source, target, layer):  # noqa: F811
    """(T, S) of the tokens of two texts, from a trace."""
    tokenizer = loaded.tokenizer
    name = f"decoder.blocks.{layer}.cross_attention.weights"
    read, written = tokenizer.encode(source), tokenizer.encode(target)
    with trace(loaded.model, watch=name) as tape, torch.no_grad():
        loaded.model(torch.tensor([tokenizer.source(read)]), torch.tensor([[tokenizer.bos, *written]]))
    return tape[name][0].mean(0)[: len(written), : len(read)]


def test_alignments(loaded):  # noqa: F811
    if not is_two(loaded):
        with pytest.raises(UserError, match="align: a model of kind Decoder"):
            align(loaded, ["a"], ["b"])
        return
    sources, targets = ["a bad cab", "fed"], ["dad face", "b"]
    for layer in (0, 1):
        for one, source, target in zip(align(loaded, sources, targets, layer=layer), sources, targets, strict=True):
            weights = looked(loaded, source, target, layer)
            assert (one.source, one.target) == (tuple(source), tuple(target))
            torch.testing.assert_close(torch.tensor(one.weights), weights)
            assert one.pairs == tuple((int(row.argmax()), place) for place, row in enumerate(weights))
    words = align(loaded, sources, targets, words=True)[0]
    weights = looked(loaded, *(texts[0] for texts in (sources, targets)), 1)
    parts, into = [range(2), range(2, 6), range(6, 9)], [range(4), range(4, 8)]  # a space belongs to the word before it
    merged = [[sum(weights[t, s].item() for t in rows for s in part) / len(rows) for part in parts] for rows in into]
    assert (words.source, words.target) == (("a", "bad", "cab"), ("dad", "face"))
    torch.testing.assert_close(torch.tensor(words.weights), torch.tensor(merged))
    assert words.pairs == tuple((max(range(3), key=row.__getitem__), place) for place, row in enumerate(merged))
    with pytest.raises(UserError, match="2 sources and 1 targets"):
        align(loaded, sources, ["a"])
    with pytest.raises(UserError, match="layer: found 2; expected from -2 to 1"):
        align(loaded, sources, targets, layer=2)


def test_unknown_words(loaded):  # noqa: F811
    if not is_two(loaded):
        return
    tokenizer, source = loaded.tokenizer, "abξdέf"
    target = [*tokenizer.encode("ab"), tokenizer.unk, *tokenizer.encode(" c"), tokenizer.unk]
    read = tokenizer.encode(source)
    assert read.count(tokenizer.unk) == 2
    name = "decoder.blocks.1.cross_attention.weights"
    with trace(loaded.model, watch=name) as tape, torch.no_grad():
        loaded.model(torch.tensor([tokenizer.source(read)]), torch.tensor([[tokenizer.bos, *target]]))
    best = tape[name][0].mean(0)[:, : len(read)].argmax(-1).tolist()
    assert without_unknown(loaded, source, target) == f"ab{source[best[2]]} c{source[best[5]]}"
    assert without_unknown(loaded, source, target[:2]) == "ab"


def test_prefixes_of_translations(loaded):  # noqa: F811
    if not is_two(loaded):
        return
    sources, heads = ["abba", "a cab", "fed"], ["fe", "", "dad"]
    for beams in (1, 3):
        forced = translations(loaded, sources, Searching(beams), max_new_tokens=8, prefixes=heads)
        for (one,), source, head in zip(forced, sources, heads, strict=True):
            assert one.text.startswith(head)
            ((alone,),) = translations(loaded, [source], Searching(beams), max_new_tokens=8, prefixes=[head])
            assert alone.tokens == one.tokens
        soft = translations(loaded, sources, Searching(beams), max_new_tokens=8, prefixes=heads, prefix_bias=0.999)
        free = translations(loaded, sources, Searching(beams), max_new_tokens=8, prefixes=heads, prefix_bias=0.0)
        assert all(one.text.startswith(head) for (one,), head in zip(soft, heads, strict=True))
        assert [one.text for (one,) in free] == [
            one.text for (one,) in translations(loaded, sources, Searching(beams), max_new_tokens=8)
        ]
    with pytest.raises(UserError, match="prefix: 1 for 3 texts"):
        translations(loaded, sources, prefixes=["a"])
    with pytest.raises(UserError, match="best: found 3; expected from 1 to 2"):
        Searching(2, best=3)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_what_follows_does_not_depend_on_the_other_places_asked_for(kind):
    model = exploring.loaded(kind, positions=parts.Learned(max_length=12))
    source, text = ("the cat" if kind == "encoder_decoder" else None), "the cat sat"[: 11 - (kind != "decoder")]
    never = (Never((model.tokenizer.eos,)),)
    found = alternatives(model, text, source=source, top=2, rules=never)
    first = 0 if source else 1
    for place in (1, 4, len(text)):
        (alone,) = alternatives(model, text, [place], source=source, top=2, rules=never)
        assert [one.tokens for one in alone] == [one.tokens for one in found[place - first]]
    assert max(len(one.tokens) for one in found[0]) > 10
    full = "the cat sat o"[: 12 - (kind != "decoder")]
    assert alternatives(model, full, source=source, top=2, rules=never)[-1][0].tokens[:-1] == tuple(
        model.tokenizer.encode(full)
    )


def test_an_unknown_word_of_an_empty_source_stays(loaded):  # noqa: F811
    if is_two(loaded):
        assert without_unknown(loaded, "", [loaded.tokenizer.unk, *loaded.tokenizer.encode("ab")]) == "ab"


def test_counts_that_cannot_be(loaded):  # noqa: F811
    source = "fed" if is_two(loaded) else None
    with pytest.raises(UserError, match="top: found 0; expected 1 or more"):
        alternatives(loaded, "ab", source=source, top=0)
    with pytest.raises(UserError, match="max_new_tokens: found -1"):
        alternatives(loaded, "ab", source=source, max_new_tokens=-1)
    with pytest.raises(UserError, match="likeliest tokens: found -1; expected 0 or more"):
        score(loaded, ["ab"], given=["a"], top=-1)
