"""Our sides of ``decode.py``: the engine, and the plain modules with the plain loops as a row of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from decode_models import MODEL, Case
from torch import Tensor

from pellucid.data.tokenizers import Tokenizer
from pellucid.inference.batches import padded
from pellucid.inference.beam import Power, beam_search
from pellucid.inference.decode import Prompt, generate
from pellucid.inference.engine import fast
from pellucid.inference.predict import embed
from pellucid.models.checkpoint import Loaded
from pellucid.models.heads import EmbeddingHead, pool_mean
from pellucid.models.load import load

Side = Callable[[Case], list[Any]]
PENALTY = Power(1.0)  # the mean over the tokens, the end counted, as CTranslate2 and transformers have it too


def by_batches(case: Case, run: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Runs a case a batch at a time; results as the rows came."""
    found: dict[int, Any] = {}
    for places in case.chunks():
        found.update(zip(places, run([case.rows[i] for i in places]), strict=True))
    return [found[i] for i in range(len(case.rows))]


def _ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [tokenizer.text(ids) for ids in tokenizer.encode_batch(texts)]


# ---- with the engine, or with the model itself ---------------------------------------------------


def _engine(folder: Path, weights: Any) -> Loaded:
    return fast(_plain(folder), weights)


def _plain(folder: Path) -> Loaded:
    return load(folder / MODEL)


def _write(loaded: Loaded, case: Case) -> list[Any]:
    prompt = Prompt(torch.tensor(case.rows))
    return generate(loaded.model, prompt, max_new_tokens=case.new, writer=loaded.writer)


def _translate(loaded: Loaded, case: Case) -> list[Any]:
    target, pad = loaded.tokenizer.target, loaded.tokenizer.require("pad")

    def batch(rows: list[list[int]]) -> list[list[int]]:
        source, keep = padded(rows, pad, loaded.model.device)
        start = torch.tensor([[*target.start, *target.forced]]).expand(len(rows), -1)
        found = beam_search(
            loaded.model,
            Prompt(start, source=source, source_keep=keep),
            beams=case.beams,
            max_new_tokens=case.new,
            ends=target.ends,
            penalty=PENALTY,
            patience=1.0,  # as CTranslate2 stops, and transformers with early_stopping
            written=len(target.forced),
            writer=loaded.writer,
        )
        return [list(best[0].tokens) for best in found]

    return by_batches(case, batch)


# ---- the engine ----------------------------------------------------------------------------------


def engine_writes(folder: Path, weights: Any) -> Side:
    """Greedy, of a forced length."""
    loaded = _engine(folder, weights)
    return lambda case: _write(loaded, case)


def engine_translates(folder: Path, weights: Any) -> Side:
    """The best of a beam search; the engine is given one batch at a time, as the others are."""
    loaded = _engine(folder, weights)
    return lambda case: _translate(loaded, case)


def engine_embeds(folder: Path, weights: Any) -> Side:
    """Texts cut, sorted, grouped by its own budget of tokens and embedded, unless they come one by one."""
    loaded = fast(load(folder / MODEL), weights)

    def run(case: Case) -> list[Any]:
        if case.batch == 1:
            return [row for text in case.rows for row in embed(loaded, [text]).tolist()]
        return embed(loaded, case.rows).tolist()

    return run


# ---- the reference path --------------------------------------------------------------------------


def reference_writes(folder: Path, weights: str) -> Side:
    """:func:`pellucid.inference.decode.generate`."""
    loaded = _plain(folder)
    return lambda case: _write(loaded, case)


def reference_translates(folder: Path, weights: str) -> Side:
    """:func:`pellucid.inference.beam.beam_search`."""
    loaded = _plain(folder)
    return lambda case: _translate(loaded, case)


def reference_embeds(folder: Path, weights: str) -> Side:
    """The features of the model, pooled as ``pellucid embed`` pools them."""
    loaded = load(folder / MODEL)
    model, tokenizer = loaded.model, loaded.tokenizer
    head = model.head if isinstance(model.head, EmbeddingHead) else EmbeddingHead(pool=pool_mean, normalized=True)
    pad = tokenizer.require("pad")

    @torch.inference_mode()
    def batch(texts: list[str]) -> list[Any]:
        tokens, keep = padded(_ids(tokenizer, texts), pad, model.device)
        vectors: Tensor = head(model.features(tokens, keep=keep))
        return vectors.tolist()

    return lambda case: by_batches(case, batch)
