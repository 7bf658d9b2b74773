"""Constrained writing: every text that is written has the form, and the best of that form is found."""

import itertools
import json
import re
import sys

import pytest
import tokenizers
import torch
from families import STACK

from pellucid.config import model as config
from pellucid.config.run import ByteBPE, Bytes, Characters, Unigram, WordPiece
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.beam import Power, beam_search
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.rules import MinLength, Written, apply
from pellucid.inference.sampling import Sampling, Temperature
from pellucid.models.build import build

pytest.importorskip("llguidance")
from pellucid.inference.constraints import Constraint, Grammars

TEXTS = ['{"name": "ab", "size": 12}', "a cab, a bad cab; 1234567890", '[true, false, null, -1.5e3] "x": {}']


@pytest.fixture(scope="module")
def characters():
    return Tokenizer.train(Characters(), ["abc01"])


def tiny(tokenizer, family="decoder", extra=0):
    front = config.Tokens(vocab_size=tokenizer.vocab_size + extra)
    if family == "decoder":
        model = build(config.Decoder(front=front, stack=STACK))
    else:
        model = build(config.EncoderDecoder(source=front, encoder=STACK, target=front, decoder=STACK))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def start(tokenizer, family, rows=3):
    source = torch.randint(5, tokenizer.vocab_size, (rows, 4)) if family != "decoder" else None
    return Prompt(torch.full((rows, 1), tokenizer.bos), source=source)


def test_what_may_come_is_what_can_still_match(characters):
    pattern = "(?:ab|ac)*0|b1*"
    rule = Constraint.regex(pattern, characters)
    every = ["".join(text) for n in range(7) for text in itertools.product("abc01", repeat=n)]
    whole = {text for text in every if re.fullmatch(pattern, text)}
    prefixes = {text[:n] for text in whole for n in range(len(text) + 1)}
    for text in (text for text in prefixes if len(text) < 4):
        ids = characters.encode(text)
        written = Written(torch.tensor([ids], dtype=torch.long), torch.tensor([len(ids)]), torch.tensor([0]))
        scores = rule(torch.zeros(1, characters.vocab_size + 3), written)[0]
        allowed = set(scores.isfinite().nonzero().flatten().tolist())
        expected = {i for c in "abc01" if text + c in prefixes for i in characters.encode(c)}
        assert allowed == expected | ({characters.eos} if text in whole else set()), text


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("seed", [None, 3])
def test_all_that_is_written_matches(characters, family, seed):
    model, rule = tiny(characters, family, extra=2), Constraint.regex("(ab|c0){1,3}1", characters)
    sampling = Sampling((rule, Temperature(1.5)), seed=seed)
    for row in generate(model, start(characters, family), max_new_tokens=9, ends=characters.ends, sampling=sampling):
        assert re.fullmatch("(ab|c0){1,3}1", characters.decode(row))


@pytest.mark.parametrize("family", ["decoder", "encoder-decoder"])
def test_a_wide_beam_finds_the_likeliest_text_that_matches(characters, family):
    model, prompt = tiny(characters, family), start(characters, family, rows=2)
    pattern = "[ab]{1,2}(0|1)c?"
    found = beam_search(model, prompt, beams=40, max_new_tokens=6, ends=characters.ends, penalty=Power(1.0),
                        filters=(Constraint.regex(pattern, characters), MinLength(3, characters.ends)))  # fmt: skip
    every = ["".join(text) for n in (3, 4) for text in itertools.product("abc01", repeat=n)]
    every = [text for text in every if re.fullmatch(pattern, text)]
    for row in range(2):
        scored = {}
        for text in every:
            ids = characters.encode(text)
            whole = torch.tensor([[characters.bos, *ids]])
            with torch.no_grad():
                logits = model(whole) if prompt.source is None else model(prompt.source[row : row + 1], whole)
            said = torch.tensor([*ids, characters.eos])
            scored[text] = logits[0].log_softmax(-1).gather(1, said[:, None]).sum().item() / len(said)
        best = sorted(scored, key=lambda text: -scored[text])
        assert [characters.decode(one.tokens) for one in found[row]] == best[:40]
        assert found[row][0].score == pytest.approx(scored[best[0]], abs=1e-4)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ab", "cab"]}, "size": {"type": "integer", "minimum": 0, "maximum": 20}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


CUTS = [Characters(), Bytes(), ByteBPE(vocab_size=300), Unigram(vocab_size=330)]


def marked():
    """Words carry the space before them as ▁, as SentencePiece has it, and a text loses its first."""
    pieces = ["<pad>", "<unk>", "<s>", "</s>", "▁", "▁a", "▁cab", "▁bad", "a", "b", "c", "d"]
    raw = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], unk_id=1))
    raw.pre_tokenizer, raw.decoder = tokenizers.pre_tokenizers.Metaspace(), tokenizers.decoders.Metaspace()
    raw.add_special_tokens(pieces[:4])
    return Tokenizer(raw)


def test_words_that_carry_their_spaces():
    tokenizer, texts = marked(), set()
    rule = Constraint.regex("a( bad)* cab", tokenizer)
    for seed in range(20):
        draws, ids, written = torch.Generator().manual_seed(seed), [], Written.of([()])
        while (token := rule(torch.rand(1, tokenizer.vocab_size, generator=draws), written).argmax(-1)) != 3:
            ids, written = [*ids, token.item()], written.add(token)
        texts.add(tokenizer.decode(ids))
    assert all(re.fullmatch("a( bad)* cab", text) for text in texts)
    assert len(texts) > 1
    with pytest.raises(UserError, match="no token for a space alone"):
        Constraint.regex("a", Tokenizer.train(WordPiece(vocab_size=90, lowercase=True), TEXTS))


@pytest.mark.parametrize("cut", CUTS, ids=lambda cut: type(cut).__name__)
def test_json_that_fits_a_schema_whatever_cuts_the_text(cut):
    tokenizer = Tokenizer.train(cut, TEXTS * 3)
    rule, text = Constraint.json(SCHEMA, tokenizer), Written.of([()])
    for seed in range(3):
        draws, ids, written = torch.Generator().manual_seed(seed), [], text
        while True:
            scores = apply((rule,), torch.rand(1, tokenizer.vocab_size, generator=draws), written)
            token = scores.argmax(dim=-1)
            if token.item() in tokenizer.ends:
                break
            ids, written = [*ids, token.item()], written.add(token)
        found = json.loads(tokenizer.decode(ids))
        assert found["name"] in ("ab", "cab")
        assert 0 <= found["size"] <= 20


def test_beams_part_and_meet(characters):
    rule = Constraint.regex("a*b", characters)
    a, b = characters.encode("ab")
    two = Written.of([(), ()]).add(torch.tensor([a, b]))
    first = rule(torch.zeros(2, characters.vocab_size), two).isfinite()
    assert first[0, [a, b]].all()
    assert first[1].nonzero().tolist() == [[characters.eos]]
    again = rule(torch.zeros(2, characters.vocab_size), two.select(torch.tensor([0, 0])).add(torch.tensor([b, a])))
    assert again.isfinite()[0].nonzero().tolist() == [[characters.eos]]
    assert again.isfinite()[1, [a, b]].all()
    replayed = Constraint.regex("a*b", characters)(torch.zeros(1, characters.vocab_size), two.select(torch.tensor([0])))
    assert torch.equal(replayed.isfinite(), first[:1])


@pytest.mark.parametrize(("make", "message"), [
    (lambda t: Constraint.regex("(ab", t), r"regex: found \"\(ab\", of which llguidance says: .*unclosed group"),
    (lambda t: Constraint.json("{", t), "json schema: is no JSON"),
    (lambda t: Constraint.json({"type": "objec"}, t), "json schema: .*objec"),
])  # fmt: skip
def test_forms_that_cannot_be_followed(characters, make, message):
    with pytest.raises(UserError, match=message):
        make(characters)


def test_a_vocabulary_is_read_once(characters):
    grammars = Grammars.of(characters)
    first, second, other = grammars.regex("a*b"), grammars.regex("a*b"), grammars.json({"enum": ["a"]})
    assert first == second != other
    assert hash(first) == hash(second)  # rows with equal rules are worked on together


def test_without_the_extra(characters, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"llguidance is not installed.*pip install 'pellucid\[constrain\]'"):
        Constraint.regex("a", characters)
