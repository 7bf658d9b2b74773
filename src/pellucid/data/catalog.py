"""Published data sets by name: where they live, what their files must be, and how they are fetched and verified."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import IO
from urllib.request import urlopen

from pellucid.data.archives import Archive, fetch_archive, told
from pellucid.data.corpus import Corpus, Labelled, Languages, Pair
from pellucid.data.files import cache_folder, read_lines, read_text
from pellucid.errors import DataError, nearest

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CatalogFile:
    """One file: its name here, its address below the home of its data set, and what it must be."""

    name: str
    address: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A data set: its home, on what terms it may be used, its files, or the zip that they come in."""

    name: str
    about: str
    home: str
    terms: str
    files: tuple[CatalogFile, ...] = ()
    archive: Archive | None = None

    @property
    def bytes(self) -> int | None:
        """That are fetched; ``None`` where nobody knows before."""
        return sum(file.size for file in self.files) if self.archive is None else None


MULTI30K = Entry(
    name="multi30k",
    about="English-German captions of pictures, lower-cased and tokenised: 29,000 pairs (Elliott et al. 2016, 2017)",
    home="https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/tok",
    terms="for research and education, not commercial",
    files=(
        CatalogFile(
            "test_2017_flickr.lc.norm.tok.de",
            "test_2017_flickr.lc.norm.tok.de",
            65_228,
            "02067e4a9402786a4fcb8c1b6f4307e4a5073ced64800abead5273b54f5f31f6",
        ),
        CatalogFile(
            "test_2017_flickr.lc.norm.tok.en",
            "test_2017_flickr.lc.norm.tok.en",
            56_123,
            "c9d1dfd7a26add989382e534af235af9f0f658b2a30e7eb0efdaf142496ee54f",
        ),
        CatalogFile(
            "train.lc.norm.tok.de",
            "train.lc.norm.tok.de",
            2_150_008,
            "cb5a23529b65ec2061f1dc446192a9c37382b63cc75f81a0be59d34894b3a505",
        ),
        CatalogFile(
            "train.lc.norm.tok.en",
            "train.lc.norm.tok.en",
            1_837_696,
            "08925f8e0572bcd5a006702fc5fe20e2d77c6917d4eebd576fc20de6693c2119",
        ),
        CatalogFile(
            "val.lc.norm.tok.de",
            "val.lc.norm.tok.de",
            77_273,
            "97232bd273eceb7207f689527386a97e4be2616b18ada47576bdaf96c8ae1f00",
        ),
        CatalogFile(
            "val.lc.norm.tok.en",
            "val.lc.norm.tok.en",
            64_608,
            "46573ce391ae227f1c72f873392436a20ef18e0a6d518098cfbd70b77c8572ec",
        ),
    ),
)
TINYSHAKESPEARE = Entry(
    name="tinyshakespeare",
    about="1,115,394 characters of Shakespeare's plays (Karpathy 2015)",
    home="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare",
    terms="public domain",
    files=(
        CatalogFile(
            "input.txt",
            "input.txt",
            1_115_394,
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    ),
)
SNIPS = Entry(
    name="snips",
    about="14,484 spoken requests of seven intents (Coucke et al. 2018)",
    home="https://raw.githubusercontent.com/monologg/JointBERT/master/data/snips",
    terms="Apache-2.0, that of the repository",
    files=(
        CatalogFile(
            "dev.label",
            "dev/label",
            9_900,
            "9c1dd041216f647bcfca838aaf1a48eb5781e4404256d31ff07cd38a5436c52f",
        ),
        CatalogFile(
            "dev.seq.in",
            "dev/seq.in",
            33_629,
            "64e0f6d8ad8aab3a3828164d7d53731a0993d3ca1aed437ceaca6d3d568d410e",
        ),
        CatalogFile(
            "test.label",
            "test/label",
            10_120,
            "37a26da3ad079bb41c42c85a3a8f827eb47efec4c5917ce5d08f4b2736e4f830",
        ),
        CatalogFile(
            "test.seq.in",
            "test/seq.in",
            33_121,
            "c1e341173fcea2951a8ca371956a6f81c76de87b9583c62eb87edd6158fa3a7c",
        ),
        CatalogFile(
            "train.label",
            "train/label",
            184_532,
            "bfd7df6cf9dd76c5da5d8b61bc85f90386197bdd3d7510c1d324c051537b962f",
        ),
        CatalogFile(
            "train.seq.in",
            "train/seq.in",
            617_079,
            "04ad1e3f2121d83c6478f9a4b17d2dbdc21d06d6127f73cb7af835ed733f9855",
        ),
    ),
)
MNIST = Entry(
    name="mnist",
    about="70,000 images of handwritten digits, 28 x 28 (LeCun et al. 1998): for `pellucid lab mnist`",
    home="https://storage.googleapis.com/cvdf-datasets/mnist",
    terms="CC BY-SA 3.0",
    files=(
        CatalogFile(
            "train-images-idx3-ubyte.gz",
            "train-images-idx3-ubyte.gz",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        CatalogFile(
            "train-labels-idx1-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        CatalogFile(
            "t10k-images-idx3-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        CatalogFile(
            "t10k-labels-idx1-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
)
FSDD = Entry(
    name="fsdd",
    about="3,000 recordings of spoken digits, six speakers, 8 kHz (Jackson et al. 2018): for `pellucid lab sounds`",
    home="https://github.com/Jakobovski/free-spoken-digit-dataset",
    terms="CC BY-SA 4.0",
    archive=Archive(
        address="archive/refs/heads/master.zip",
        folder="recordings",
        names=r"[0-9]_[a-z]+_[0-9]+\.wav",
        count=3000,
        sha256="1801eae019c063377d98f831d3f93574f259475df7332bb0e3d1b080fb5e6959",
        largest=256 << 20,
        largest_file=1 << 20,
    ),
)
CATALOG: Mapping[str, Entry] = MappingProxyType(
    {entry.name: entry for entry in (MULTI30K, TINYSHAKESPEARE, SNIPS, MNIST, FSDD)}
)


def _unwatched(file: str, done: int, size: int) -> None:
    """Reports nothing."""


def get(name: str, mirror: str | Path | None = None, progress: Progress = _unwatched) -> Path:
    """The folder of a data set of the catalogue, every file verified; see :func:`fetch`."""
    if name not in CATALOG:
        raise DataError("data.name", f'no data set is called "{name}"', hint=nearest(name, CATALOG))
    return fetch(CATALOG[name], mirror, progress)


def fetch(entry: Entry, mirror: str | Path | None = None, progress: Progress = _unwatched) -> Path:
    """The folder of a data set: ``mirror/NAME``, read in place, or the cache, into which missing files are downloaded.

    Args:
        progress: called with the name of a file, the bytes that have arrived and the size.

    Raises:
        DataError: for a file that is not what was published, and for a home that cannot be reached.
    """
    if mirror is not None:
        folder = Path(mirror) / entry.name
        if entry.archive is not None:
            if not entry.archive.members(folder):
                hint = f"their home is {entry.home}/{entry.archive.address}"
                raise DataError(folder / entry.archive.folder, "the mirror lacks these files", hint=hint)
            entry.archive.verify(folder)
        for file in entry.files:
            if not (folder / file.name).is_file():
                raise DataError(
                    folder / file.name, "the mirror lacks this file", hint=f"its home is {entry.home}/{file.address}"
                )
            _verify(folder / file.name, file, "copy it again")
        return folder
    folder = cache_folder() / entry.name
    if entry.archive is not None:
        if not (folder / entry.archive.folder).is_dir():
            fetch_archive(entry.archive, entry.home, folder, progress)
        else:
            entry.archive.verify(folder)
    for file in entry.files:
        if not (folder / file.name).is_file():
            _download(f"{entry.home}/{file.address}", folder / file.name, file, progress)
        _verify(folder / file.name, file)
    return folder


def _verify(path: Path, file: CatalogFile, hint: str = "delete it to fetch it again") -> None:
    size = path.stat().st_size
    if size != file.size:
        raise DataError(path, f"{size:,} bytes", f"{file.size:,}, as published", hint)
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != file.sha256:
        raise DataError(path, f"its sha256 is {found}", f"{file.sha256}, as published", hint)


def _download(address: str, path: Path, file: CatalogFile, progress: Progress) -> None:
    """Fetches one file under another name and renames it once it is whole, so that no torn file is ever found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{file.name}.", delete=False) as arriving:
        try:
            with urlopen(address, timeout=30) as answer:
                _copy(answer, arriving, file, progress)
            arriving.close()
            _verify(Path(arriving.name), file)
            Path(arriving.name).replace(path)
        except (OSError, HTTPException) as error:  # also a connection that stalls or ends in the middle
            hint = f"without a network, put the file at DIR/{path.parent.name}/{file.name} and pass --mirror DIR"
            raise DataError(address, f"cannot be fetched ({told(error)})", hint=hint) from None
        except DataError as error:  # the temporary name means nothing to anyone
            raise DataError(address, error.found, error.expected, "the file may have changed at its home") from None
        finally:
            Path(arriving.name).unlink(missing_ok=True)


def _copy(answer: IO[bytes], arriving: IO[bytes], file: CatalogFile, progress: Progress) -> None:
    """Copies until the end, or one byte more than was announced, whichever is first."""
    done = 0
    while chunk := answer.read(min(1 << 16, file.size + 1 - done)):
        arriving.write(chunk)
        done += len(chunk)
        progress(file.name, done, file.size)


def load_catalog(name: str, mirror: str | Path | None = None, reverse: bool = False) -> Corpus:
    """A data set of the catalogue as a corpus; ``reverse`` exchanges source and target of pairs.

    Raises:
        DataError: for a set that holds no texts, and for one that cannot be had.
    """
    readers = {"multi30k": _multi30k, "snips": _snips, "tinyshakespeare": _tinyshakespeare}
    if name in CATALOG and name not in readers:
        raise DataError("data.name", f"{name} holds no texts", ", ".join(readers), CATALOG[name].about)
    folder = get(name, mirror)
    entry = CATALOG[name]
    notes = {"source": entry.home, "licence": entry.terms, "about": entry.about}
    corpus = readers[name](folder, notes)
    if reverse and corpus.kind != "pairs":
        raise DataError("data.reverse", f"{name} is {corpus.kind}, not pairs", "false")
    return corpus.reversed() if reverse else corpus


def _multi30k(folder: Path, notes: dict[str, str]) -> Corpus:
    def pairs(part: str) -> list[Pair]:
        source, target = (read_lines(folder / f"{part}.lc.norm.tok.{language}") for language in ("en", "de"))
        return [Pair(*sides) for sides in zip(source, target, strict=True)]

    test = "test_2017_flickr"
    return Corpus(
        kind="pairs",
        train=pairs("train"),
        validation=pairs("val"),
        tests={test: pairs(test)},
        notes=notes,
        split_by_moses=Languages("en", "de"),
    )


def _snips(folder: Path, notes: dict[str, str]) -> Corpus:
    def labelled(part: str) -> list[Labelled]:
        texts, labels = (read_lines(folder / f"{part}.{column}") for column in ("seq.in", "label"))
        return [Labelled(text.strip(), label.strip()) for text, label in zip(texts, labels, strict=True)]

    train = labelled("train")
    return Corpus(
        kind="labelled",
        train=train,
        validation=labelled("dev"),
        tests={"test": labelled("test")},
        labels=tuple(sorted({example.label for example in train})),
        notes=notes,
    )


def _tinyshakespeare(folder: Path, notes: dict[str, str]) -> Corpus:
    """The first 90 % of the characters to train on, the rest to validate on, as nanoGPT splits it."""
    text = read_text(folder / "input.txt")
    cut = int(len(text) * 0.9)
    return Corpus(kind="text", train=[text[:cut]], validation=[text[cut:]], notes=notes)
