"""Tokens on disk, for texts larger than memory: ``shard-00000.bin``, ... and an ``index.json`` that describes them."""

from __future__ import annotations

import json
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pellucid.data.encoding import encoded, token_type
from pellucid.data.files import Document
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import DataError

FORMAT = 1
SHARD_TOKENS = 1 << 26  # 128 MiB of two-byte tokens


def write_shards(
    documents: Iterable[Document], tokenizer: Tokenizer, folder: str | Path, shard_tokens: int = SHARD_TOKENS
) -> None:
    """Tokenises documents one after another into a new folder, which appears when it is complete.

    Raises:
        DataError: if the folder exists.
    """
    folder = Path(folder)
    _refuse(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        counts = _write_tokens(encoded(documents, tokenizer), unfinished, shard_tokens)
        index = {
            "format": FORMAT,
            "dtype": token_type(tokenizer.vocab_size).name,
            "counts": counts,
            "tokenizer": tokenizer.fingerprint,
        }
        (unfinished / "index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)
        _refuse(folder)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _refuse(existing: Path) -> None:
    if existing.exists():
        raise DataError(existing, "exists already", "a new folder", "delete it, or choose another")


def _write_tokens(chunks: Iterable[Int[ndarray, "tokens"]], folder: Path, shard_tokens: int) -> list[int]:
    """Fills one shard after another and says how many tokens each holds."""
    counts = [0]
    for chunk in chunks:
        while len(chunk):
            if counts[-1] == shard_tokens:
                counts.append(0)
            fitting, chunk = np.split(chunk, [shard_tokens - counts[-1]])
            with (folder / shard_name(len(counts) - 1)).open("ab") as file:
                fitting.tofile(file)
            counts[-1] += len(fitting)
    return [count for count in counts if count]


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.bin"


class Shards:
    """The tokens of a folder as if they were one array: ``len`` and slices, read from disk as they are asked for.

    Raises:
        DataError: for a folder without an index, or a shard whose size disagrees with it.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        index = _read_index(folder / "index.json")
        self.tokenizer_fingerprint: str = index["tokenizer"]
        self._dtype = np.dtype(index["dtype"]).newbyteorder("<")
        counts: list[int] = index["counts"]
        self._ends = list(accumulate(counts))
        self._shards = [self._map(folder / shard_name(number), count) for number, count in enumerate(counts)]

    def _map(self, path: Path, count: int) -> Int[ndarray, "tokens"]:
        size = path.stat().st_size if path.is_file() else 0
        if size != count * self._dtype.itemsize:
            expected = f"{count * self._dtype.itemsize:,}, as index.json says"
            raise DataError(path, f"{size:,} bytes", expected, "the shard is torn: write the folder again")
        return np.memmap(path, self._dtype, mode="r")

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, span: slice) -> Int[ndarray, "tokens"]:
        start, stop, step = span.indices(len(self))
        if step != 1:
            raise ValueError(f"shards are read forward, one token after another; found a step of {step}")
        parts = [np.empty(0, self._dtype)]
        number = bisect_right(self._ends, start)
        while start < stop:
            begin = self._ends[number - 1] if number else 0
            end = min(stop, self._ends[number])
            parts.append(self._shards[number][start - begin : end - begin])
            start, number = end, number + 1
        return np.concatenate(parts)


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise DataError(path, f"format {index['format']}", f"format {FORMAT}", "it was written by another version")
        dtype, counts, _ = (index[key] for key in ("dtype", "counts", "tokenizer"))
        if dtype not in ("uint16", "uint32") or not all(isinstance(count, int) and count > 0 for count in counts):
            raise ValueError(f"dtype {dtype!r}, counts {counts!r}"[:100])
    except FileNotFoundError:
        raise DataError(path, "no such file", "the index of a folder of token shards") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"is torn or foreign ({error!r})", "the index of a folder of token shards") from None
    return index
