"""Sets of many small files, which come as one zip: fetched, unpacked and verified as a whole."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from pellucid.errors import DataError

CHUNK = 1 << 16


@dataclass(frozen=True)
class Archive:
    """Which members of a zip are wanted, and what they must be together.

    Attributes:
        address: of the zip, below the home of its set.
        folder: where the members stand in the zip, below whatever it is wrapped in, and here.
        names: a regular expression of their names; nothing else is unpacked.
        count: how many there are.
        sha256: of the lines ``SHA256  NAME`` of all of them, sorted by name, as ``sha256sum *`` prints them.
        largest: the zip has at most so many bytes.
        largest_file: and each member.
    """

    address: str
    folder: str
    names: str
    count: int
    sha256: str
    largest: int
    largest_file: int

    def members(self, folder: Path) -> list[Path]:
        """The files of the set in a folder, by name."""
        found = (folder / self.folder).iterdir() if (folder / self.folder).is_dir() else ()
        return sorted(path for path in found if re.fullmatch(self.names, path.name))

    def verify(self, folder: Path) -> None:
        """Raises:
        DataError: where the files are not what was published.
        """
        found = self.members(folder)
        if len(found) != self.count:
            hint = "delete the folder to fetch it again; a mirror is to be copied again"
            raise DataError(folder / self.folder, f"{len(found):,} files", f"{self.count:,}, as published", hint)
        if (digest := listing_digest(found)) != self.sha256:
            expected = f"{self.sha256}, as published"
            raise DataError(folder / self.folder, f"the sha256 of its listing is {digest}", expected)


def listing_digest(paths: Iterable[Path]) -> str:
    """The sha256 of ``SHA256  NAME`` lines."""
    lines = hashlib.sha256()
    for path in paths:
        lines.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n".encode())
    return lines.hexdigest()


def told(error: Exception) -> str:
    """What a connection ended with, in words: some errors have none of their own."""
    return " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__


def fetch_archive(archive: Archive, home: str, folder: Path, progress: Callable[[str, int, int], None]) -> None:
    """Downloads and unpacks a set into ``folder``, which has all of it or none.

    Raises:
        DataError: for a home that cannot be reached, and for what is not what was published.
    """
    address = f"{home}/{archive.address}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".arriving.") as arriving:
        made = Path(arriving) / archive.folder
        made.mkdir(parents=True)
        try:
            with (Path(arriving) / "zip").open("w+b") as zipped:
                with urlopen(address, timeout=30) as answer:
                    _copy(answer, zipped, archive, progress)
                _unpack(zipped, archive, made)
            archive.verify(Path(arriving))
        except (OSError, HTTPException) as error:  # also a connection that stalls or ends in the middle
            hint = f"without a network, put its files into DIR/{folder.name}/{archive.folder} and pass --mirror DIR"
            raise DataError(address, f"cannot be fetched ({told(error)})", hint=hint) from None
        except (DataError, zipfile.BadZipFile, zlib.error) as error:
            found = error.found if isinstance(error, DataError) else f"no whole zip ({error})"
            raise DataError(address, found, "what was published", "it may have changed at its home") from None
        shutil.rmtree(folder / archive.folder, ignore_errors=True)
        made.replace(folder / archive.folder)


def _copy(answer: IO[bytes], zipped: IO[bytes], archive: Archive, progress: Callable[[str, int, int], None]) -> None:
    announced = int(getattr(answer, "length", None) or 0)
    done = 0
    while chunk := answer.read(CHUNK):
        done += len(chunk)
        if done > archive.largest:
            raise DataError(archive.address, f"more than {archive.largest:,} bytes")
        zipped.write(chunk)
        progress(Path(archive.address).name, done, max(announced, done))


def _unpack(zipped: IO[bytes], archive: Archive, made: Path) -> None:
    """Members by their last names alone, so that none can be put anywhere else."""
    with zipfile.ZipFile(zipped) as opened:
        for member in opened.infolist():
            inside = Path(member.filename)
            if inside.parent.name != archive.folder or not re.fullmatch(archive.names, inside.name):
                continue
            if member.file_size > archive.largest_file:
                raise DataError(archive.address, f"{inside.name} has {member.file_size:,} bytes")
            with opened.open(member) as packed, (made / inside.name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
