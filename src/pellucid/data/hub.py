"""Data sets of the Hugging Face hub, by way of the optional package ``datasets``."""

from __future__ import annotations

from typing import Any

from pellucid.config import run
from pellucid.data.corpus import Labelled, Pair
from pellucid.errors import DataError, nearest


def hub_examples(data: run.HubDataset, split: str) -> list[Any]:
    """The examples of one split, at least one: texts, :class:`Pair` or :class:`Labelled`.

    One column is text; two are a pair, or a text and its label where the second column holds numbers. A dot reaches
    into a column of dictionaries, as in ``translation.de``.

    Raises:
        DataError: without the package, or for a name, split or column that does not exist.
    """
    if len(data.columns) not in (1, 2):
        raise DataError("data.columns", f"found {len(data.columns)}", "one (text) or two (a pair, or text and label)")
    where = f"{data.name}, {split}"
    table = _load(data, split, where)
    columns = [_column(table, column, where) for column in data.columns]
    match columns:
        case [texts]:
            return texts
        case [texts, [int(), *_] as numbers]:
            names = getattr(table.features[data.columns[1]], "names", None)
            if min(numbers) < 0:
                raise DataError(where, f"label {min(numbers)}, the mark of an unlabelled split", "another split")
            labels = [names[number] if names else str(number) for number in numbers]
            return [Labelled(*row) for row in zip(texts, labels, strict=True)]
        case [texts, labels] if data.labelled:
            return [Labelled(text, str(label)) for text, label in zip(texts, labels, strict=True)]
        case _:
            return [Pair(*row) for row in zip(*columns, strict=True)]


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
        if not isinstance(values[0], dict) or key not in values[0]:
            raise DataError(where, f'"{path}" is not in its columns', hint=f"a row holds {values[0]!r}")
        values = [value[key] for value in values]
    return values
