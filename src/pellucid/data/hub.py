"""Data sets of the Hugging Face hub, by way of the optional package ``datasets``."""

from __future__ import annotations

from typing import Any

from pellucid.config import run
from pellucid.data.corpus import Labelled, Pair
from pellucid.errors import DataError, nearest


def hub_examples(data: run.HubDataset, split: str) -> tuple[list[Any], int]:
    """The examples of one split, at least one: texts, :class:`Pair` or :class:`Labelled`; and how many rows were empty.

    One column is text; two are a pair, or a text and its label where the second column holds numbers. A dot reaches
    into a column of dictionaries, as in ``translation.de``. A row in which one of them is missing is dropped.

    Raises:
        DataError: without the package, or for a name, split or column that does not exist or holds no text.
    """
    if len(data.columns) not in (1, 2):
        raise DataError("data.columns", f"found {len(data.columns)}", "one (text) or two (a pair, or text and label)")
    where = f"{data.name}, {split}"
    table = _load(data, split, where)
    columns = [_column(table, column, where) for column in data.columns]
    rows = [row for row in zip(*columns, strict=True) if None not in row]
    if not rows:
        raise DataError(where, f"every row lacks {' or '.join(data.columns)}", "an example at least")
    return _examples(data, rows, table.features, where), len(table) - len(rows)


def _examples(data: run.HubDataset, rows: list[Any], features: Any, where: str) -> list[Any]:
    match rows[0]:
        case (_,):
            return _texts([text for (text,) in rows], data.columns[0], where)
        case (_, int()):
            texts, numbers = _texts([text for text, _ in rows], data.columns[0], where), [number for _, number in rows]
            if min(numbers) < 0:
                raise DataError(where, f"label {min(numbers)}, the mark of an unlabelled split", "another split")
            names = _names(features, data.columns[1])
            return [
                Labelled(text, names[number] if names else str(number))
                for text, number in zip(texts, numbers, strict=True)
            ]
        case _ if data.labelled:
            texts = _texts([text for text, _ in rows], data.columns[0], where)
            return [Labelled(text, str(label)) for text, (_, label) in zip(texts, rows, strict=True)]
        case _:
            sides = (_texts([row[i] for row in rows], column, where) for i, column in enumerate(data.columns))
            return [Pair(*row) for row in zip(*sides, strict=True)]


def _texts(values: list[Any], column: str, where: str) -> list[str]:
    """The same, all of which must be texts."""
    wrong = next((value for value in values if not isinstance(value, str)), None)
    if wrong is not None:
        raise DataError(f"{where}, {column}", f"found {str(wrong)[:60]!r}, no text", "a column of texts")
    return values


def _names(features: Any, path: str) -> list[str] | None:
    """What the numbers of a column are called, where the data set says it."""
    for key in path.split("."):
        try:
            features = features[key]
        except (KeyError, TypeError, LookupError):
            return None
    found: list[str] | None = getattr(features, "names", None)
    return found


def _load(data: run.HubDataset, split: str, where: str) -> Any:
    try:
        from datasets import load_dataset
    except ImportError:
        hint = 'run: pip install "pellucid[datasets]"'
        raise DataError(data.name, "the package datasets is not installed", hint=hint) from None
    try:
        table = load_dataset(data.name, data.subset, split=split)
    except Exception as error:  # the library raises whatever its readers raise
        raise DataError(where, f"cannot be loaded ({error})", hint="check the name, the subset and the split") from None
    if not len(table):
        raise DataError(where, "has no examples", "at least one")
    return table


def _column(table: Any, path: str, where: str) -> list[Any]:
    column, *inner = path.split(".")
    if column not in table.column_names:
        raise DataError(where, f'has no column "{column}"', hint=nearest(column, table.column_names))
    values = list(table[column])
    for key in inner:
        there = [value for value in values if value is not None]
        if not all(isinstance(value, dict) and key in value for value in there):
            odd = next(value for value in there if not isinstance(value, dict) or key not in value)
            raise DataError(where, f'"{path}" is not in its columns', hint=f"a row holds {str(odd)[:80]!r}")
        values = [None if value is None else value[key] for value in values]
    return values
