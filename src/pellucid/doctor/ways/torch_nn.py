"""How PyTorch's own stacks of layers are called: vectors in, the causal mask from the caller, the batch first or not.

What they lack on purpose, positions and embeddings, their caller has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pellucid.doctor.spec import Batch, Kind, Spec

SECOND = {
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
}


def spec_of(model: Any) -> Spec | None:
    """For an instance of one of those classes itself; ``None`` for what is derived from them and for any other."""
    if type(model) not in SECOND:
        return None
    attention = next(part for part in model.modules() if isinstance(part, nn.MultiheadAttention))
    reads = isinstance(model, nn.TransformerEncoder | nn.TransformerEncoderLayer)
    kind: Kind = "encoder" if reads else "encoder_decoder"
    call = _read if reads else _whole if isinstance(model, nn.Transformer) else _decoded
    return Spec(
        kind=kind, features=attention.embed_dim, call=call, masked=True, positions="none", pooled=False,
        declare=frozenset({"no_positions"}),
    )  # fmt: skip


def _read(model: Any, batch: Batch) -> Tensor:
    return _first(model, model(_own(model, batch.ids), src_key_padding_mask=_hidden(batch.keep)))


def _whole(model: Any, batch: Batch) -> Tensor:
    assert batch.source is not None
    found = model(
        _own(model, batch.source), _own(model, batch.ids), tgt_mask=_causal(batch.ids),
        src_key_padding_mask=_hidden(batch.source_keep), memory_key_padding_mask=_hidden(batch.source_keep),
        tgt_key_padding_mask=_hidden(batch.keep),
    )  # fmt: skip
    return _first(model, found)


def _decoded(model: Any, batch: Batch) -> Tensor:
    assert batch.source is not None
    found = model(
        _own(model, batch.ids), _own(model, batch.source), tgt_mask=_causal(batch.ids),
        memory_key_padding_mask=_hidden(batch.source_keep), tgt_key_padding_mask=_hidden(batch.keep),
    )  # fmt: skip
    return _first(model, found)


def _causal(ids: Tensor) -> Tensor:
    return torch.ones(ids.size(1), ids.size(1), dtype=torch.bool, device=ids.device).triu(1)


def _hidden(keep: Tensor | None) -> Tensor | None:
    return None if keep is None else ~keep


def _own(model: Any, x: Tensor) -> Tensor:
    """(B, T, D) as the model has it."""
    return x if _batch_first(model) else x.transpose(0, 1)


_first = _own


def _batch_first(model: Any) -> bool:
    return next(part.batch_first for part in model.modules() if isinstance(part, nn.MultiheadAttention))
