"""Reading text, and what is said when it cannot be read."""

from __future__ import annotations

import gzip

import pytest

from pellucid.data import files
from pellucid.data.files import LargeFile, pieces, read_document, read_lines, read_text
from pellucid.errors import DataError


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    (tmp_path / "corpus.txt").write_text("text")
    with pytest.raises(DataError, match=r'no such file\. Did you mean ".*corpus\.txt"\?'):
        read_text(tmp_path / "corpsu.txt")
    with pytest.raises(DataError, match=r"The files in .* are corpus\.txt"):
        read_text(tmp_path / "zzz")
    with pytest.raises(DataError, match=r"There is no folder .*absent either"):
        read_text(tmp_path / "absent" / "corpus.txt")
    with pytest.raises(DataError, match="this is a folder; expected a file"):
        read_text(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty\.txt: the file is empty; expected text"):
        read_text(tmp_path / "empty.txt")


def test_a_wrong_encoding_is_told_by_line_and_byte(tmp_path):
    (tmp_path / "latin.txt").write_bytes("fine\nnaïve\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt, line 2, byte 7: found 0xef, which is not UTF-8; .*iconv"):
        read_text(tmp_path / "latin.txt")


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ("naïve\n".encode("utf-16"), r"iconv -f UTF-16 -t UTF-8 a\.txt"),
        (b"\xfe\xff" + "naïve\n".encode("utf-16-be"), r"iconv -f UTF-16 -t UTF-8 a\.txt"),
        (gzip.compress(b"naive\n"), "compressed: unpack it first"),
        (b"PK\x03\x04\x14\x00\xff", "compressed: unpack it first"),
    ],
    ids=["UTF-16", "UTF-16, big end first", "gzip", "zip"],
)
def test_what_a_file_is_instead_is_told_by_how_it_begins(tmp_path, data, hint):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=f"is not UTF-8; .*{hint}"):
        read_text(tmp_path / "a.txt")


def test_lines_end_at_newlines_only(tmp_path):
    (tmp_path / "lines.txt").write_bytes("\ufeffone\x85\u2028still one\r\ntwo\n".encode())
    assert read_lines(tmp_path / "lines.txt") == ["one\x85\u2028still one", "two"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_a_large_file_is_the_same_text_in_pieces(tmp_path, monkeypatch, share):
    monkeypatch.setattr(files, "CHUNK", 7)
    text = "é\n\nlonger than a chunk\n" * 5 + "no newline at the end"
    (tmp_path / "large.txt").write_text(text, encoding="utf-8")
    document = LargeFile(tmp_path / "large.txt", 0, len(text.encode()))
    assert "".join(document) == "".join(document) == text
    parts = document.split(share)
    assert "".join(piece for part in parts for piece in part) == text


def test_what_the_tokenizer_would_need_too_much_memory_for_is_read_in_pieces(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("text " * 100)
    assert read_document(tmp_path / "text.txt") == "text " * 100
    monkeypatch.setattr(files, "LARGE", 500)
    document = read_document(tmp_path / "text.txt")
    assert isinstance(document, LargeFile)
    assert "".join(pieces(document)) == "text " * 100
