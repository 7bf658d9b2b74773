"""Windows of text: every token asked once, every batch a function of seed and index."""

from __future__ import annotations

import pytest
import torch

from pellucid.config import run
from pellucid.data import IGNORE, Tokenizer, evaluation_batches, training_batches
from pellucid.data.files import LargeFile
from pellucid.errors import DataError

BYTES = Tokenizer.train(run.Bytes(), [])
TEXT = "".join(chr(97 + (i * i) % 26) for i in range(1003))
DOCUMENTS = ["first document", "second", "", "the third and last document"]


def read(examples, objective, batch_tokens=64, training=False):
    make = training_batches if training else evaluation_batches
    return make(examples, BYTES, objective, batch_tokens=batch_tokens, seed=3)


def same(one, other) -> bool:
    pairs = ((getattr(one, name), getattr(other, name)) for name in vars(one))
    return all(a is b is None or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("length", [7, 16, 1002, 5000])
def test_evaluation_predicts_every_token_but_the_first_exactly_once(length):
    labels = torch.cat([batch.labels.flatten() for batch in read([TEXT], run.Causal(length=length))])
    assert labels[labels != IGNORE].tolist() == BYTES.encode(TEXT)[1:]


@pytest.mark.parametrize("length", [7, 16, 5000])
def test_evaluation_reads_every_token_exactly_once(length):
    batches = read([TEXT], run.Masked(length=length))
    restored = [torch.where(batch.labels == IGNORE, batch.tokens, batch.labels) for batch in batches]
    real = [
        tokens.flatten() if batch.keep is None else tokens[batch.keep]
        for tokens, batch in zip(restored, batches, strict=True)
    ]
    assert torch.cat(real).tolist() == BYTES.encode(TEXT)


@pytest.mark.parametrize("length", [7, 16, 5000])
def test_what_a_published_model_sees_around_a_text_is_read_and_not_asked_for(length):
    bos, eos = BYTES.bos, BYTES.eos
    conventions = run.Conventions(
        pad=BYTES.pad, mask=BYTES.mask, before=(bos,), after=(eos,), start=(bos,), ends=(eos,)
    )
    published = Tokenizer(BYTES.raw, conventions)
    written = [*evaluation_batches([TEXT], published, run.Causal(length=length), batch_tokens=64)]
    assert all(batch.tokens.size(1) <= length and (batch.tokens[:, 0] == bos).all() for batch in written)
    labels = torch.cat([batch.labels.flatten() for batch in written])
    assert labels[labels != IGNORE].tolist() == BYTES.encode(TEXT)[1:]

    read = b""
    for batch in evaluation_batches([TEXT], published, run.Masked(length=length), batch_tokens=64):
        restored = torch.where(batch.labels == IGNORE, batch.tokens, batch.labels)
        for row, real in enumerate(torch.ones_like(restored).bool() if batch.keep is None else batch.keep):
            first, *text, last = restored[row][real].tolist()
            assert (first, last, len(text) <= length - 2) == (bos, eos, True)
            read += published.decode(text).encode()
    assert read.decode() == TEXT


def test_a_window_has_room_for_text():
    conventions = run.Conventions(pad=BYTES.pad, before=(1, 2), start=(1,), ends=(2,))
    with pytest.raises(DataError, match=r"objective\.length: windows of 2, of which 2 stand around the text"):
        evaluation_batches([TEXT], Tokenizer(BYTES.raw, conventions), run.Causal(length=2), batch_tokens=64)


def test_labels_are_the_tokens_one_further_on():
    batch = read([TEXT], run.Causal(length=16), training=True)[5]
    assert batch.tokens.shape == (4, 16)
    assert torch.equal(batch.tokens[:, 1:], batch.labels[:, :-1])
    assert batch.keep is None
    assert batch.num_labels == batch.num_tokens == 64


@pytest.mark.parametrize("objective", [run.Causal(length=16), run.Masked(length=16)])
def test_a_batch_is_a_function_of_seed_and_index(objective):
    batches, again = (read([TEXT], objective, training=True) for _ in range(2))
    _ = [again[i] for i in (9, 2)]
    assert all(same(batches[i], again[i]) for i in (0, 7, 10**9))
    assert not same(batches[0], batches[1])
    other_seed = training_batches([TEXT], BYTES, objective, batch_tokens=64, seed=4)
    assert not same(batches[0], other_seed[0])


def test_evaluation_hides_the_same_tokens_every_time():
    one, other = (list(read([TEXT], run.Masked(length=16))) for _ in range(2))
    assert all(same(*pair) for pair in zip(one, other, strict=True))


def test_the_last_window_is_padded_and_says_so():
    batches = read([TEXT], run.Causal(length=16), batch_tokens=10_000)
    (batch,) = batches
    assert batch.keep is not None
    assert batch.keep.sum() == len(TEXT) - 1 == batch.num_labels == batch.num_tokens
    assert (batch.tokens[~batch.keep] == BYTES.pad).all()
    assert (batch.labels[~batch.keep] == IGNORE).all()


def test_documents_end_with_eos_when_there_are_several():
    (batch,) = read(DOCUMENTS, run.Causal(length=500), batch_tokens=1)
    whole = [*batch.tokens[0].tolist(), batch.labels[0, -1].item()]
    assert whole == [i for text in DOCUMENTS for i in (*BYTES.encode(text), BYTES.eos)]
    (alone,) = read(DOCUMENTS[:1], run.Causal(length=500), batch_tokens=1)
    assert BYTES.eos not in alone.labels


def test_documents_kept_apart_restart_and_ask_nothing_across():
    (batch,) = read(DOCUMENTS, run.Causal(length=500, separate_documents=True), batch_tokens=1)
    position, segment, expected = [], [], []
    for number, text in enumerate(DOCUMENTS):
        ids = [*BYTES.encode(text), BYTES.eos]
        position += range(len(ids))
        segment += [number] * len(ids)
        expected += [*ids[1:], IGNORE]  # at an eos the next document is not asked for
    assert batch.positions[0].tolist() == position[:-1]  # the last eos is predicted, not read
    assert batch.segments[0].tolist() == segment[:-1]
    assert batch.labels[0].tolist() == expected[:-1]


def test_one_document_is_kept_apart_from_nothing():
    apart = run.Causal(length=16, separate_documents=True)
    with pytest.raises(DataError, match=r"objective\.separate_documents: one document; expected two or more"):
        read([TEXT], apart, training=True)
    assert read([TEXT], apart)  # of two, one may be held out


def test_a_text_too_short_for_a_window_is_refused():
    with pytest.raises(DataError, match=r"objective\.length: 5 tokens of training text; expected at least 17"):
        read(["short"], run.Causal(length=16), training=True)
    with pytest.raises(DataError, match=r"the validation text: 1 tokens; expected more than 1"):
        read(["s"], run.Causal(length=16))


def test_a_text_exactly_as_long_as_a_window_is_that_window():
    batch = read([TEXT[:17]], run.Causal(length=16), training=True)[0]
    assert batch.tokens[0].tolist() == BYTES.encode(TEXT[:16])


def test_a_large_file_gives_the_batches_its_text_would_give(tmp_path, monkeypatch):
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pellucid.data.files.CHUNK", 100)
    text = "".join(f"line {i} of a file\n" for i in range(100))
    (tmp_path / "a.txt").write_text(text)
    large = LargeFile(tmp_path / "a.txt", 0, len(text))
    for objective in (run.Causal(length=16), run.Masked(length=16)):
        for _ in range(2):  # written the first time, found the second
            in_memory, on_disk = (read([document], objective, training=True) for document in (text, large))
            assert all(same(in_memory[i], on_disk[i]) for i in range(3))
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 1
