"""Stop strings: found where they are in the text, wherever tokens part, and never shown."""

import random

import pytest
import torch
from families import STACK

from pellucid.config import model as config
from pellucid.config.defaults import default_run
from pellucid.config.run import ByteBPE, Bytes, Characters, TextFiles
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference import predict
from pellucid.inference.sampling import Sampling
from pellucid.inference.stopping import Release, Spoken, Stop, StopStrings
from pellucid.models.build import build
from pellucid.models.checkpoint import Loaded


def tokenizers():
    return [
        Tokenizer.train(Characters(), ["ab cé"]),
        Tokenizer.train(Bytes(), ["x"]),
        Tokenizer.train(ByteBPE(vocab_size=300), ["ab ab abc cab é caba bacabé"] * 9),
    ]


CUTTERS = pytest.mark.parametrize("tokenizer", tokenizers(), ids=["characters", "bytes", "pairs"])


def texts(count=300):
    draw = random.Random(1)
    for _ in range(count):
        stops = tuple("".join(draw.choices("ab cé", k=draw.randint(1, 3))) for _ in range(draw.randint(0, 3)))
        yield "".join(draw.choices("ab cé", k=draw.randint(0, 12))), stops, draw


def test_what_is_released_is_the_text_up_to_the_first_stop():
    for text, strings, draw in texts():
        stops, shown, fed = StopStrings(strings), "", 0
        release = Release(stops)
        while fed < len(text) and not release.is_over:
            size = draw.randint(1, 4)
            shown += release.feed(text[fed : fed + size])
            fed += size
            assert stops.cut(text).startswith(shown)
            # What is held back could still become a stop string.
            behind = text[len(shown) : fed]
            assert release.is_over or not behind or any(string.startswith(behind) for string in strings)
        assert release.is_over == (stops.find(text[:fed]) is not None)
        assert release.is_over or shown + release.rest() == text == stops.cut(text)


@CUTTERS
def test_a_stop_is_seen_with_its_last_token(tokenizer):
    for text, strings, draw in texts(150):
        ids, stops = tokenizer.encode(text), StopStrings(strings)
        before = tuple(tokenizer.encode("ab"[: draw.randint(0, 2)]))
        stop = Stop(tokenizer, stops, before)
        for count in range(1, len(ids) + 1):
            now = stops.find(tokenizer.decode(ids[:count])) is not None
            assert stop(ids[:count]) == now, (text, strings, count)
            if now:
                break


@CUTTERS
def test_text_grows_in_whole_characters(tokenizer):
    for text, _, draw in texts(150):
        ids = tokenizer.encode(text)
        before = tokenizer.encode("é a"[: draw.randint(0, 3)])
        spoken, shown = Spoken(tokenizer, before), ""
        for token in ids:
            new = spoken.add(token)
            assert "�" not in new
            shown += new
        assert shown + spoken.rest() == tokenizer.continuation(before, ids) == text


def test_a_torn_character_is_told_at_the_end():
    tokenizer = Tokenizer.train(Bytes(), ["x"])
    spoken = Spoken(tokenizer)
    assert [spoken.add(token) for token in tokenizer.encode("aé")[:2]] == ["a", ""]
    assert spoken.rest() == "�"


@pytest.fixture(scope="module")
def writer():
    tokenizer = Tokenizer.train(Characters(), ["ab"])
    torch.manual_seed(3)
    model = build(config.Decoder(front=config.Tokens(vocab_size=tokenizer.vocab_size), stack=STACK)).eval()
    return Loaded(model, tokenizer, default_run("decoder", TextFiles(train=("x",))))


@pytest.mark.parametrize("seed", [0, 1])
def test_writing_ends_before_a_stop_string(writer, seed):
    free = predict.complete(writer, ["a", "bb"], max_new_tokens=20, sampling=Sampling(seed=seed))
    stop = ["aab", "bba"]
    told = predict.completions(writer, ["a", "bb"], max_new_tokens=20, sampling=Sampling(seed=seed), stop=stop)
    for one, whole in zip(told, free, strict=True):
        assert one.text == StopStrings(tuple(stop)).cut(whole)
        assert one.reason in (("stop",) if one.text != whole else ("end", "length"))
    pieces = list(predict.write(writer, "a", max_new_tokens=20, sampling=Sampling(seed=seed), stop=stop))
    (alone,) = predict.complete(writer, ["a"], max_new_tokens=20, sampling=Sampling(seed=seed), stop=stop)
    assert "".join(pieces) == alone
    with pytest.raises(UserError, match="stop: found an empty text"):
        predict.complete(writer, ["a"], stop=[""])
