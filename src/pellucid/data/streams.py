"""A text as one stream of tokens: an array where it fits into memory, else shards on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pellucid.data.encoding import encoded, token_type
from pellucid.data.files import Document, LargeFile, cache_folder
from pellucid.data.shards import Shards, write_shards
from pellucid.data.tokenizers import Tokenizer
from pellucid.data.windows import Stream
from pellucid.errors import DataError


def token_stream(documents: Sequence[Document], tokenizer: Tokenizer) -> Stream:
    """The tokens of a text. Those of a :class:`LargeFile` are written to the cache folder once, and found again."""
    if not any(isinstance(document, LargeFile) for document in documents):
        return np.concatenate([np.empty(0, token_type(tokenizer.vocab_size)), *encoded(documents, tokenizer)])
    folder = cache_folder() / "shards" / _key(documents, tokenizer)
    if not folder.exists():
        try:
            write_shards(documents, tokenizer, folder)
        except DataError:  # another process of the same run may have been faster, which is as good
            if not folder.exists():
                raise
    return Shards(folder)


def _key(documents: Sequence[Document], tokenizer: Tokenizer) -> str:
    """Sixteen hex digits that change with the tokenizer, the files, and what of them is read."""
    identity = [tokenizer.fingerprint]
    for document in documents:
        if isinstance(document, LargeFile):
            found = document.path.stat()
            identity.append(
                f"{document.path.resolve()} {found.st_size} {found.st_mtime_ns} {document.start} {document.stop}"
            )
        else:
            identity.append(document)
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
