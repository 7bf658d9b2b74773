"""Texts in batches: padded, sorted by length, for the model that can do what is asked.

Shapes: B texts, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.config import model as config
from pellucid.data.tokenizers import Tokenizer
from pellucid.errors import UserError
from pellucid.inference.rules import Filter
from pellucid.inference.sampling import Never
from pellucid.models.checkpoint import Loaded
from pellucid.models.decoder import Decoder
from pellucid.models.encoder import Encoder
from pellucid.models.encoder_decoder import EncoderDecoder

BATCH_TOKENS = (
    8192  # padded tokens of one batch: enough for the products to be efficient, little enough for any machine
)

Row = TypeVar("Row")
Result = TypeVar("Result")


def padded(
    rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"] | None]:
    """Rows of tokens as one tensor, padded on the right, and which of them are real (``None``: all)."""
    longest = max(len(row) for row in rows)
    tokens = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return tokens, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return tokens, torch.arange(longest, device=device) < lengths[:, None]


def barred(tokenizer: Tokenizer) -> tuple[Filter, ...]:
    """A filter for what a model was told never to write, where there is any."""
    never = tokenizer.conventions.never if tokenizer.conventions else ()
    return (Never(never),) if never else ()


def in_batches(
    rows: Sequence[Row],
    run: Callable[[list[Row]], list[Result]],
    rows_at_once: int = 256,
    length: Callable[[Any], int] = len,
    alike: Callable[[Any], Any] = lambda row: None,
) -> list[Result]:
    """Runs rows of like length together, so that little is padded; returns the results in the order asked.

    Args:
        alike: what rows that run together must have in common.
    """
    order = sorted(range(len(rows)), key=lambda i: -length(rows[i]))
    results: dict[int, Result] = {}
    with torch.inference_mode():
        while order:
            count = max(1, min(rows_at_once, BATCH_TOKENS // max(length(rows[order[0]]), 1), len(order)))
            common = alike(rows[order[0]])
            count = next((i for i in range(1, count) if alike(rows[order[i]]) != common), count)
            now, order = order[:count], order[count:]
            results.update(zip(now, run([rows[i] for i in now]), strict=True))
    return [results[i] for i in range(len(rows))]


M = TypeVar("M", Encoder, Decoder, EncoderDecoder)


def expect(
    loaded: Loaded, family: type[M], task: str, wanted: str, head: type | None = None, front: type = config.Tokens
) -> M:
    """The model of a run, where it can do a task.

    Raises:
        UserError: for a model of another family, front or head.
    """
    model = loaded.model
    own = model.config.source if isinstance(model.config, config.EncoderDecoder) else model.config.front
    fits = isinstance(own, front) and (head is None or isinstance(model.config.head, head))
    if not isinstance(model, family) or not fits:
        kinds = [type(part).__name__.lower() for part in (own, model.config.head)]
        found = f"a model of kind {type(model).__name__} that reads {kinds[0]}, with a head of kind {kinds[1]}"
        raise UserError(task, found, wanted, "see `pellucid --help` for what each family can do")
    return model
