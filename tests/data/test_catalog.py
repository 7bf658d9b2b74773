"""Fetching and verifying published data; a folder stands for the network."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pellucid.data import CATALOG, get, load_catalog
from pellucid.data.catalog import CatalogFile, Entry, fetch
from pellucid.errors import DataError

CONTENT = b"some text\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PELLUCID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def home(tmp_path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "remote.txt").write_bytes(CONTENT)
    return folder


def entry(home: Path, content: bytes = CONTENT) -> Entry:
    file = CatalogFile("local.txt", "remote.txt", len(content), hashlib.sha256(content).hexdigest())
    return Entry("tiny", "a test", home.as_uri(), "public domain", (file,))


def test_a_file_is_downloaded_once(cache, home):
    seen = []
    folder = fetch(entry(home), progress=lambda *step: seen.append(step))
    assert folder == cache / "tiny"
    assert (folder / "local.txt").read_bytes() == CONTENT
    assert seen == [("local.txt", len(CONTENT), len(CONTENT))]
    (home / "remote.txt").unlink()
    assert fetch(entry(home)) == folder


def test_an_unreachable_home_names_the_address_and_the_way_around(cache, tmp_path):
    with pytest.raises(DataError, match=r"absent/remote\.txt: cannot be fetched .*DIR/tiny/local\.txt .*--mirror DIR"):
        fetch(entry(tmp_path / "absent"))
    assert list((cache / "tiny").iterdir()) == []


@pytest.mark.parametrize("content", [b"some teXt\n", CONTENT + b"and more" * 99, b"short"])
def test_a_download_that_is_not_what_was_published_leaves_nothing(cache, home, content):
    (home / "remote.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"home/remote\.txt: .*as published.*changed at its home"):
        fetch(entry(home))
    assert list((cache / "tiny").iterdir()) == []


def test_a_mirror_is_verified_and_read_in_place(tmp_path, home):
    folder = tmp_path / "mirror" / "tiny"
    folder.mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"mirror/tiny/local\.txt: the mirror lacks this file. Its home is file:.*remote\.txt"
    ):
        fetch(entry(home), mirror=tmp_path / "mirror")
    (folder / "local.txt").write_bytes(CONTENT)
    assert fetch(entry(home), mirror=tmp_path / "mirror") == folder
    (folder / "local.txt").write_bytes(CONTENT.upper())
    with pytest.raises(DataError, match=r"local\.txt: its sha256 is \w{64}; expected \w{64}, as published"):
        fetch(entry(home), mirror=tmp_path / "mirror")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(DataError, match='Did you mean "snips"'):
        get("snip")


def test_every_entry_is_complete():
    for name, found in CATALOG.items():
        assert found.name == name
        assert found.home.startswith("https://")
        assert found.terms
        assert all(len(file.sha256) == 64 and file.size > 0 for file in found.files)


@pytest.fixture
def mirror() -> Path:
    folder = Path(os.environ.get("PELLUCID_MIRROR", Path(__file__).parents[3] / "shared" / "data"))
    if not (folder / "multi30k").is_dir():
        pytest.skip("no mirror of the published data: set PELLUCID_MIRROR to a folder with multi30k, snips, ...")
    return folder


def test_the_published_files_give_the_published_splits(mirror):
    multi30k = load_catalog("multi30k", mirror)
    assert [len(part) for part in (multi30k.train, multi30k.validation, *multi30k.tests.values())] == [
        29000,
        1014,
        1000,
    ]
    assert load_catalog("multi30k", mirror, reverse=True).validation[0] == multi30k.validation[0][::-1]
    snips = load_catalog("snips", mirror)
    assert [len(part) for part in (snips.train, snips.validation, snips.tests["test"])] == [13084, 700, 700]
    assert len(snips.labels) == 7
    shakespeare = load_catalog("tinyshakespeare", mirror)
    assert [len(part[0]) for part in (shakespeare.train, shakespeare.validation)] == [1_003_854, 111_540]
    with pytest.raises(DataError, match=r"data\.reverse: snips is labelled, not pairs"):
        load_catalog("snips", mirror, reverse=True)
