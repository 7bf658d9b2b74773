"""Fetching and verifying published data; a folder stands for the network."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from pellucid.cli.data import get_set
from pellucid.data import CATALOG, get, load_catalog
from pellucid.data.archives import Archive
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


@contextmanager
def broken(answer: bytes, hold: float = 0.0):
    """A server on this machine that says this much and no more, and after some seconds hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(answer)
                time.sleep(hold)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(("answer", "hold"), [
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nsome", 0.0),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome", 2.0),
    (b"", 2.0), (b"nonsense\r\n\r\n", 0.0), (b"", 0.0),
], ids=["cut short", "stalled", "silent", "no HTTP", "closed"])  # fmt: skip
def test_a_connection_that_breaks_names_the_address_and_the_way_around(cache, home, monkeypatch, answer, hold):
    monkeypatch.setattr("pellucid.data.catalog.urlopen", lambda address, timeout: urlopen(address, timeout=0.5))
    with broken(answer, hold) as address, pytest.raises(DataError, match=r"remote\.txt: cannot be fetched .*--mirror"):
        fetch(replace(entry(home), home=address))
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
        assert found.files or found.archive


# ---- many files in one zip ---------------------------------------------------------------------

RECORDINGS = {"0_ann_0.wav": b"zero", "1_ann_0.wav": b"one"}


def listing(files: dict[str, bytes]) -> str:
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def zipped_entry(home: Path, **changes) -> Entry:
    archive = Archive(
        address="all.zip", folder="recordings", names=r"[0-9]_[a-z]+_[0-9]+\.wav", count=2, sha256=listing(RECORDINGS),
        largest=10_000, largest_file=100,
    )  # fmt: skip
    return Entry("sounds", "a test", home.as_uri(), "public domain", archive=replace(archive, **changes))


def zip_at(home: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(home / "all.zip", "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)


def inside(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"set-master/recordings/{name}": content for name, content in files.items()}


def test_a_zip_is_unpacked_once_and_only_what_belongs_to_the_set(cache, home):
    zip_at(home, inside(RECORDINGS) | {"set-master/README": b"?", "set-master/recordings/notes.txt": b"?"})
    seen = []
    folder = fetch(zipped_entry(home), progress=lambda *step: seen.append(step))
    assert {path.name: path.read_bytes() for path in (folder / "recordings").iterdir()} == RECORDINGS
    assert [path.name for path in folder.iterdir()] == ["recordings"]
    size = (home / "all.zip").stat().st_size
    assert seen == [("all.zip", size, size)]
    (home / "all.zip").unlink()
    assert fetch(zipped_entry(home)) == folder
    (folder / "recordings" / "0_ann_0.wav").write_bytes(b"torn")
    with pytest.raises(DataError, match="recordings: the sha256 of its listing is"):
        fetch(zipped_entry(home))


def test_members_of_a_zip_cannot_be_put_elsewhere(cache, home):
    zip_at(home, inside(RECORDINGS) | {"../../recordings/9_eve_0.wav": b"out"})
    with pytest.raises(DataError, match="3 files"):
        fetch(zipped_entry(home))
    assert not list(cache.parent.rglob("9_eve_0.wav"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"count": 3}, "2 files"),
        ({"sha256": "0" * 64}, "the sha256 of its listing is"),
        ({"largest": 20}, "more than 20 bytes"),
        ({"largest_file": 3}, "0_ann_0.wav has 4 bytes"),
    ],
)
def test_a_zip_that_is_not_what_was_published_leaves_nothing(cache, home, changes, told):
    zip_at(home, inside(RECORDINGS))
    with pytest.raises(DataError, match=f"{told}.*what was published"):
        fetch(zipped_entry(home, **changes))
    assert list((cache / "sounds").iterdir()) == []


def test_a_torn_zip_and_none(cache, home):
    (home / "all.zip").write_bytes(b"PK torn")
    with pytest.raises(DataError, match="no whole zip"):
        fetch(zipped_entry(home))
    (home / "all.zip").unlink()
    with pytest.raises(DataError, match=r"cannot be fetched .*DIR/sounds/recordings and pass --mirror DIR"):
        fetch(zipped_entry(home))
    assert list((cache / "sounds").iterdir()) == []


def test_a_mirror_of_many_files_is_verified_and_read_in_place(tmp_path, home):
    mirrored = tmp_path / "mirror" / "sounds" / "recordings"
    with pytest.raises(DataError, match=r"the mirror lacks these files. Their home is file:.*all\.zip"):
        fetch(zipped_entry(home), mirror=tmp_path / "mirror")
    mirrored.mkdir(parents=True)
    for name, content in RECORDINGS.items():
        (mirrored / name).write_bytes(content)
    assert fetch(zipped_entry(home), mirror=tmp_path / "mirror") == mirrored.parent


def test_what_holds_no_texts_is_no_corpus():
    with pytest.raises(DataError, match="fsdd holds no texts; expected multi30k"):
        load_catalog("fsdd")


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


def test_the_command_fetches_and_says_what(cache, home, monkeypatch, capsys):
    monkeypatch.setattr("pellucid.data.catalog.CATALOG", {"tiny": entry(home)})
    get_set("tiny")
    said = capsys.readouterr()
    assert said.out.strip() == str(cache / "tiny")
    assert "fetching local.txt, 10 bytes" in said.err
