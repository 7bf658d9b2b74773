"""Tokens on disk are the tokens in memory, or an error."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pellucid.config import run
from pellucid.data import Shards, Tokenizer, write_shards
from pellucid.data.encoding import encoded, token_type
from pellucid.errors import DataError

BYTES = Tokenizer.train(run.Bytes(), [])
DOCUMENTS = ["one", "two and more", "", "three"] * 7
TOKENS = np.concatenate(list(encoded(DOCUMENTS, BYTES)))


@pytest.fixture
def folder(tmp_path):
    write_shards(iter(DOCUMENTS), BYTES, tmp_path / "shards", shard_tokens=50)
    return tmp_path / "shards"


def test_every_slice_is_the_slice_in_memory(folder):
    shards = Shards(folder)
    assert len(shards) == len(TOKENS)
    for start in range(0, len(TOKENS) + 3, 7):
        for length in (0, 1, 49, 50, 51, 130, 1000):
            assert (shards[start : start + length] == TOKENS[start : start + length]).all()
    assert (shards[:] == TOKENS).all()
    assert (shards[-5:] == TOKENS[-5:]).all()


def test_the_folder_says_what_it_holds(folder):
    index = json.loads((folder / "index.json").read_text())
    assert index["format"] == 1
    assert index["dtype"] == "uint16"
    assert sum(index["counts"]) == len(TOKENS)
    assert index["counts"][:-1] == [50] * (len(index["counts"]) - 1)
    assert index["tokenizer"] == BYTES.fingerprint == Shards(folder).tokenizer_fingerprint


def test_an_id_takes_as_few_bytes_as_it_can():
    assert token_type(65_536) == np.dtype("<u2")
    assert token_type(65_537) == np.dtype("<u4")


def test_nothing_is_overwritten_and_nothing_half_written_is_left(folder, tmp_path):
    with pytest.raises(DataError, match=r"shards: exists already; expected a new folder"):
        write_shards(DOCUMENTS, BYTES, folder)

    def failing():
        yield "text"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shards(failing(), BYTES, tmp_path / "other")
    assert [entry.name for entry in tmp_path.iterdir()] == ["shards"]


def test_no_text_is_no_tokens(tmp_path):
    write_shards([], BYTES, tmp_path / "empty")
    assert len(Shards(tmp_path / "empty")) == 0
    assert len(Shards(tmp_path / "empty")[0:10]) == 0


def test_a_torn_shard_is_named_with_both_sizes(folder):
    shard = folder / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"shard-00001\.bin: 97 bytes; expected 100, as index\.json says.*torn"):
        Shards(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"shard-00001\.bin: 0 bytes"):
        Shards(folder)


def test_a_foreign_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"index\.json: no such file; expected the index of a folder of token shards"):
        Shards(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(DataError, match=r"index\.json: is torn or foreign"):
        Shards(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 2}')
    with pytest.raises(DataError, match=r"format 2; expected format 1"):
        Shards(tmp_path)
