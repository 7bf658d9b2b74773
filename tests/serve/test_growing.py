"""Text that grows is the text that would be decoded at once, in whole characters and without stop strings."""

from random import Random

import pytest

from pellucid.config.run import ByteBPE, Bytes, Characters, Unigram, WordPiece
from pellucid.data.tokenizers import Tokenizer
from pellucid.serve.text import Growing

HALF = "\ufffd"
TEXTS = ["the cat sat on the mat", "a dög did nöt – 日本 😀", "Don't, he said (twice): 'no'."] * 4
KINDS = [
    ByteBPE(vocab_size=300),
    Bytes(),
    Characters(),
    Unigram(vocab_size=320),
    WordPiece(vocab_size=320, lowercase=False),
]


@pytest.fixture(params=KINDS, ids=lambda kind: type(kind).__name__, scope="module")
def tokenizer(request):
    return Tokenizer.train(request.param, TEXTS)


def grown(growing, ids, random):
    parts = []
    while ids and not growing.is_stopped:
        count = random.randint(1, 4)
        parts.append(growing.add(ids[:count]))
        ids = ids[count:]
    return [*parts, growing.end()]


def test_pieces_are_the_text(tokenizer):
    random = Random(1)
    for text in TEXTS[:3]:
        for cut in (0, 1, 5):
            ids = tokenizer.encode(text)
            before, after = ids[:cut], ids[cut:]
            growing = Growing(tokenizer, before)
            parts = grown(growing, after, random)
            assert "".join(parts) == tokenizer.continuation(before, after)
            assert not any(HALF in part for part in parts)
            assert growing.count == len(after)


def test_a_text_ends_before_its_stop_string():
    tokenizer = Tokenizer.train(Bytes(), TEXTS)
    whole = "the cat sat on the mat"
    for stop in ("sat", "at", " on t", "mat", "x"):
        for seed in range(5):
            growing = Growing(tokenizer, (), [stop, "zzz"])
            text = "".join(grown(growing, tokenizer.encode(whole), Random(seed)))
            assert text == whole.split(stop)[0]
            assert growing.is_stopped == (stop in whole)
            assert growing.count == (whole.index(stop) + len(stop) if stop in whole else len(whole))


def test_what_might_begin_a_stop_string_is_held_back():
    tokenizer = Tokenizer.train(Bytes(), TEXTS)
    growing = Growing(tokenizer, (), ["mat"])
    assert growing.add(tokenizer.encode("a ma")) == "a "
    assert growing.add(tokenizer.encode("p m")) == "map "
    assert growing.end() == "m"


def test_half_a_character_is_told_at_the_end_alone():
    tokenizer = Tokenizer.train(Bytes(), TEXTS)
    growing = Growing(tokenizer)
    first, *others = tokenizer.encode("ö")
    assert growing.add([first]) == ""
    assert Growing(tokenizer).add([first, *others]) == "ö"
    assert growing.end() == HALF
