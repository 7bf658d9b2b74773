"""From what a config calls data to a corpus: files of text, pairs or labels, hub data sets, sets that come along."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from pellucid.config import run
from pellucid.data.catalog import CATALOG, load_catalog
from pellucid.data.corpus import Corpus, Labelled, Pair
from pellucid.data.dates import load_dates
from pellucid.data.files import Document, LargeFile, read_document, read_lines
from pellucid.data.hub import hub_examples
from pellucid.data.python_docs import load_python_docs
from pellucid.data.reversal import load_reversal
from pellucid.data.terms import load_languages, load_terms
from pellucid.data.tokenizers import check_whole
from pellucid.errors import DataError, nearest

BUILT_IN: Mapping[str, str] = {
    "dates": "dates as written in every language of CLDR, to ISO 8601 (pairs)",
    "python-docs": "the language reference that comes with Python (text)",
    "reversal": "numbers to write backwards, longer ones to test on (pairs)",
    "terms": "CLDR names of languages, countries, currencies and units, from English (pairs)",
    "languages": "the same names, each with its language (labelled)",
}

Example = TypeVar("Example", Pair, Labelled)


def load_corpus(data: run.Data) -> Corpus:
    """Reads the data of a run. The same config and files give the same split.

    Raises:
        DataError: for data that cannot be read as what it should be, naming the file and the line.
    """
    match data:
        case run.TextFiles():
            return _text(data)
        case run.ParallelFiles():
            return _parallel(data)
        case run.LabelledFiles():
            return _labelled(data)
        case run.HubDataset():
            return _hub(data)
        case run.NamedData():
            return _named(data)
        case run.NoData():
            raise DataError(
                "data", "this run was converted and has none", "--text, --source and --target, or --labelled"
            )


# ---- text --------------------------------------------------------------------------------------


def _text(data: run.TextFiles) -> Corpus:
    documents = [read_document(path) for path in data.train]
    if not documents:
        raise DataError("data.train", "no file is named", "at least one")
    if data.validation:
        train, validation = documents, [read_document(path) for path in data.validation]
    else:
        train, validation = _split_text(documents, data.held_out)
    if not train or not validation:
        found = f"{data.held_out} of the text leaves nothing to {'validate' if train else 'train'} on"
        expected = f"a {'larger' if train else 'smaller'} share"
        raise DataError("data.held_out", found, expected, "or name a validation file")
    return Corpus(kind="text", train=train, validation=validation, notes={"files": list(data.train)})


def _split_text(documents: Sequence[Document], held_out: float) -> tuple[list[Document], list[Document]]:
    """The first and the last of the text, cut at a character as nanoGPT does it (large files: at a line)."""
    left = int(sum(map(_size, documents)) * (1 - held_out))
    train: list[Document] = []
    validation: list[Document] = []
    for document in documents:
        size = _size(document)
        if left >= size:
            train.append(document)
        elif left <= 0:
            validation.append(document)
        else:
            first, last = _split_document(document, left)
            train.append(first)
            validation.append(last)
        left -= size
    return train, validation


def _split_document(document: Document, at: int) -> tuple[Document, Document]:
    if isinstance(document, LargeFile):
        return document.split(at / _size(document))
    return document[:at], document[at:]


def _size(document: Document) -> int:
    return document.stop - document.start if isinstance(document, LargeFile) else len(document)


# ---- pairs -------------------------------------------------------------------------------------


def _parallel(data: run.ParallelFiles) -> Corpus:
    pairs, empty = _read_pairs(data.source, data.target)
    if data.validation_source is not None and data.validation_target is not None:
        train = pairs
        validation, more = _read_pairs(data.validation_source, data.validation_target)
        empty += more
    else:
        train, validation = _hold_out(pairs, range(len(pairs)), data.held_out, "pairs")
    notes = {"files": [data.source, data.target], "pairs_with_an_empty_side_dropped": empty}
    return Corpus(kind="pairs", train=train, validation=validation, notes=notes)


def _read_pairs(source_path: str, target_path: str) -> tuple[list[Pair], int]:
    """The pairs of two files, and how many were dropped because a side is blank."""
    source, target = read_lines(source_path), read_lines(target_path)
    if len(source) != len(target):
        raise DataError(
            f"{source_path} and {target_path}",
            f"{len(source):,} and {len(target):,} lines",
            "as many in both, since line n of one is the translation of line n of the other",
        )
    sides = zip(source, target, strict=True)
    pairs = [Pair(one.strip(), other.strip()) for one, other in sides if one.strip() and other.strip()]
    if not pairs:
        raise DataError(f"{source_path} and {target_path}", "every pair has a blank side", "text on both")
    return pairs, len(source) - len(pairs)


# ---- labels ------------------------------------------------------------------------------------


def _labelled(data: run.LabelledFiles) -> Corpus:
    examples = _read_labelled(data.train)
    if data.validation is not None:
        train, validation = examples, _read_labelled(data.validation)
    else:
        repeated = _repeated(examples)
        if not repeated:
            hint = "is it label<TAB>text? If so, name a validation file"
            raise DataError(data.train, "no label has a text to spare", "labels of several, to hold some out", hint)
        train, validation = _hold_out(examples, repeated, data.held_out, "examples")
    labels = _labels(train, validation, data.validation or data.train)
    return Corpus(kind="labelled", train=train, validation=validation, labels=labels, notes={"files": [data.train]})


def _read_labelled(path: str) -> list[Labelled]:
    read = _from_json if Path(path).suffix in (".jsonl", ".json") else _from_tsv
    lines = read_lines(path)
    if sorted(part.strip().casefold() for part in lines[0].split("\t")) == ["label", "text"]:
        raise DataError(f"{path}, line 1", "a header", "label<TAB>text from the first line on", "delete it")
    examples = [read(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not examples:
        raise DataError(path, "every line is blank", "a text and its label on each")
    return examples


def _from_tsv(line: str, where: str) -> Labelled:
    label, tab, text = line.partition("\t")
    if not tab:
        raise DataError(where, "no tab in this line", "label<TAB>text", "or name the file .jsonl if it is JSON")
    if not text.strip() or not label.strip():
        raise DataError(
            where, "a label without a text" if label.strip() else "a text without a label", "label<TAB>text"
        )
    return Labelled(text.strip(), label.strip())


def _from_json(line: str, where: str) -> Labelled:
    expected = '{"text": ..., "label": ...} on one line'
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(where, f"not JSON ({error.msg} at column {error.colno})", expected) from None
    except (ValueError, RecursionError) as error:  # of numbers and nestings without end
        raise DataError(where, f"not read ({error})", expected) from None
    if not isinstance(entry, dict):
        raise DataError(where, f"found {type(entry).__name__}", expected)
    for key in ("text", "label"):
        if key not in entry:
            raise DataError(where, f'no "{key}"', expected, f"its keys are {', '.join(entry) or 'none'}")
        if entry[key] is None or isinstance(entry[key], dict | list):
            raise DataError(where, f'"{key}" is {json.dumps(entry[key])[:60]}', "a string or a number")
        if not (said := str(entry[key])).strip():
            raise DataError(where, f'"{key}" is {json.dumps(said)[:60]}', "more than spaces")
        check_whole(said, f'{where}, "{key}"')
    return Labelled(str(entry["text"]), str(entry["label"]))


def _repeated(examples: Sequence[Labelled]) -> list[int]:
    """The examples that can be held out without taking a label's last one from training: all but its first text."""
    first: dict[str, str] = {}
    for example in examples:
        first.setdefault(example.label, example.text)
    kept = set(first.values())
    return [i for i, example in enumerate(examples) if example.text not in kept]


def _labels(train: Sequence[Labelled], validation: Sequence[Labelled], where: str) -> tuple[str, ...]:
    labels = sorted({example.label for example in train})
    for example in validation:
        if example.label not in labels:
            hint = nearest(example.label, labels)
            raise DataError(where, f'the label "{example.label}" is not in the training data', "a known label", hint)
    return tuple(labels)


def _hold_out(
    examples: Sequence[Example], eligible: Iterable[int], share: float, what: str
) -> tuple[list[Example], list[Example]]:
    """A fixed random share to validate on: files are often sorted, so that their end is unlike the rest.

    What is read more than once is held out whole, whatever its targets or labels, since what was learned by heart
    tells nothing.
    """
    candidates, texts = list(eligible), [example[0] for example in examples]
    copies = Counter(texts)
    left, held_out = min(int(len(examples) * share), len(candidates)), set[str]()
    for i in Random(0).sample(candidates, left):
        if left > 0 and texts[i] not in held_out:
            held_out.add(texts[i])
            left -= copies[texts[i]]
    train = [example for example in examples if example[0] not in held_out]
    validation = [example for example in examples if example[0] in held_out]
    if not train or not validation:
        raise DataError(
            "data.held_out",
            f"{share} of {len(examples)} {what} leaves none to {'validate' if train else 'train'} on",
            f"at least {math.ceil(1000 / len(examples)) / 1000:g}, and less than all",
            "or name validation files",
        )
    return train, validation


# ---- the hub -----------------------------------------------------------------------------------


def _hub(data: run.HubDataset) -> Corpus:
    (train, empty), (validation, more) = (
        hub_examples(data, split) for split in (data.train_split, data.validation_split)
    )
    notes = {"source": f"huggingface.co/datasets/{data.name}", "subset": data.subset}
    if empty or more:
        notes["rows_with_an_empty_column_dropped"] = str(empty + more)
    match train[0]:
        case Labelled():
            labels = _labels(train, validation, f"{data.name}, {data.validation_split}")
            return Corpus(kind="labelled", train=train, validation=validation, labels=labels, notes=notes)
        case Pair():
            return Corpus(kind="pairs", train=train, validation=validation, notes=notes)
        case _:
            return Corpus(kind="text", train=train, validation=validation, notes=notes)


# ---- names -------------------------------------------------------------------------------------


def _named(data: run.NamedData) -> Corpus:
    if data.name in BUILT_IN and data.reverse:
        raise DataError("data.reverse", f"{data.name} has one direction only", "false")
    if data.name in BUILT_IN and data.mirror is not None:
        raise DataError("data.mirror", f"{data.name} comes with pellucid", "none", "leave --mirror out")
    match data.name:
        case "dates":
            return load_dates()
        case "python-docs":
            return load_python_docs()
        case "reversal":
            return load_reversal()
        case "terms":
            return load_terms()
        case "languages":
            return load_languages()
        case name if name in CATALOG:
            return load_catalog(name, data.mirror, data.reverse)
        case name:
            raise DataError("data.name", f'no data set is called "{name}"', hint=nearest(name, [*BUILT_IN, *CATALOG]))
