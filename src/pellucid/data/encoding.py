"""Documents to tokens, in chunks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pellucid.data.files import Document, pieces
from pellucid.data.tokenizers import Tokenizer

TOGETHER = 16  # pieces of a megabyte handed to the tokenizer at once, which takes up to 170 bytes for each of a text


def token_type(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id: two bytes for nearly all tokenizers."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


def encoded(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Int[ndarray, "tokens"]]:
    """The tokens of some documents, chunk after chunk; an eos follows each when there are several."""
    parts = _parts(documents)
    dtype = token_type(tokenizer.vocab_size)
    while group := list(islice(parts, TOGETHER)):
        texts = iter(tokenizer.encode_batch([part for part in group if part is not None]))
        yield np.fromiter(
            chain.from_iterable([tokenizer.require("eos")] if part is None else next(texts) for part in group), dtype
        )


def _parts(documents: Iterable[Document]) -> Iterator[str | None]:
    """Pieces of text, and ``None`` where a document ends and was not the only one."""
    number = 0
    for number, document in enumerate(documents, 1):
        if number > 1:
            yield None
        yield from pieces(document)
    if number > 1:
        yield None
