"""Reading text files, with errors that say which line, byte or neighbour is meant; and where the cache is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from pellucid.errors import DataError

CHUNK = 1 << 20
LARGE = 16 << 20  # bytes from which on a text is read in pieces: the same on every machine, since it decides the split


@dataclass(frozen=True)
class LargeFile:
    """A document too large for memory: the bytes ``start`` to ``stop`` of a file, both at the beginning of a line.

    Iterating gives the text in pieces of whole lines, about a megabyte each; a line is never broken, however long.
    """

    path: Path
    start: int
    stop: int

    def __iter__(self) -> Iterator[str]:
        with self.path.open("rb") as file:
            file.seek(self.start)
            while (before := file.tell()) < self.stop:
                data = file.read(min(CHUNK, self.stop - before))
                if file.tell() < self.stop:
                    data += file.readline()
                yield decoded(data, self.path, before)

    def ends(self) -> tuple[bytes, bytes]:
        """Its first and its last megabyte."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            first = file.read(min(CHUNK, self.stop - self.start))
            file.seek(max(self.start, self.stop - CHUNK))
            return first, file.read(self.stop - file.tell())

    def split(self, share: float) -> tuple[LargeFile, LargeFile]:
        """Two documents, the first of about this share of the bytes, cut at the end of a line."""
        with self.path.open("rb") as file:
            file.seek(self.start + int((self.stop - self.start) * share))
            file.readline()
            cut = min(file.tell(), self.stop)
        return LargeFile(self.path, self.start, cut), LargeFile(self.path, cut, self.stop)


Document = str | LargeFile


def pieces(document: Document) -> Iterable[str]:
    """The text of a document in the pieces it can be read in."""
    return (document,) if isinstance(document, str) else document


def read_document(path: str | Path) -> Document:
    """A text file as a string, or as a :class:`LargeFile` where the tokenizer would not cut it in one piece.

    That takes up to 170 bytes for each of a text, measured: no more here than for the pieces that are cut together.
    """
    path = existing(path)
    size = path.stat().st_size
    return read_text(path) if size < LARGE else LargeFile(path, 0, size)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, line ends as ``\\n``.

    Raises:
        DataError: for a file that is missing, empty or not UTF-8 (at which line and byte).
    """
    path = existing(path)
    text = decoded(path.read_bytes(), path)
    if not text:
        raise DataError(path, "the file is empty", "text")
    return text


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, split at ``\\n`` only: other separators are text, and lines must not shift."""
    return read_text(path).removesuffix("\n").split("\n")


def decoded(data: bytes, path: Path, before: int = 0) -> str:
    """Bytes of a file as text; ``before`` bytes came earlier."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = "" if before else f"line {data.count(bytes([10]), 0, error.start) + 1}, "
        where = f"{path}, {line}byte {before + error.start}"
        found = f"found 0x{data[error.start]:02x}, which is not UTF-8"
        raise DataError(where, found, "text in UTF-8", _as_utf8(data, path.name)) from None
    return (text if before else text.removeprefix("\ufeff")).replace("\r\n", "\n")


def _as_utf8(data: bytes, name: str) -> str:
    """What makes text in UTF-8 of a file, as its first bytes tell."""
    if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):  # gzip, zip
        return "it is compressed: unpack it first"
    encoding = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "LATIN1"
    return f"convert it, for instance with: iconv -f {encoding} -t UTF-8 {name}"


def existing(path: str | Path) -> Path:
    """The path of a file that is there.

    Raises:
        DataError: if it is not, naming the file in that folder whose name is nearest.
    """
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        raise DataError(path, "this is a folder", "a file", _files_in(path))
    if not path.parent.is_dir():
        raise DataError(path, "no such file", hint=f"there is no folder {path.parent} either")
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    close = get_close_matches(path.name, names, n=1, cutoff=0.5)
    hint = f'did you mean "{path.parent / close[0]}"?' if close else _files_in(path.parent)
    raise DataError(path, "no such file", hint=hint)


def _files_in(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"the files in {folder} are {shown}" if names else f"there are no files in {folder}"


def cache_folder() -> Path:
    """Where downloads and token shards are kept: ``$PELLUCID_CACHE``, else ``~/.cache/pellucid/data``."""
    named = os.environ.get("PELLUCID_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "pellucid" / "data"
