"""A loaded model whose texts an engine writes."""

from __future__ import annotations

from copy import copy

from pellucid.inference.engine.engine import Engine
from pellucid.inference.engine.products import Weights
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder import Encoder


def fast(loaded: Loaded, weights: Weights = "float32") -> Loaded:
    """The same model and tokenizer, but its texts are written by an engine.

    What :func:`pellucid.translate`, :func:`~pellucid.complete` and their kin are given instead. An encoder, which
    writes nothing, comes back as it is.

    Args:
        weights: the type that they are read in: ``float32`` writes the same texts, ``bfloat16`` and ``int8`` nearly.

    Raises:
        UserError: for ``int8`` where there is no kernel for it.
    """
    if isinstance(loaded.model, Encoder):
        return loaded
    quick = copy(loaded)
    quick.writer = Engine(loaded.model, weights)
    return quick
