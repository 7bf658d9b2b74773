"""A loaded model whose texts an engine writes, or reads."""

from __future__ import annotations

from copy import copy

from pellucid.inference.engine.encoder import EncoderEngine
from pellucid.inference.engine.engine import Engine
from pellucid.inference.engine.products import Weights
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder import Encoder
from pellucid.nn.embedding import TokenFront


def fast(loaded: Loaded, weights: Weights = "float32") -> Loaded:
    """The same model and tokenizer, but its texts are written by an engine; an encoder's are read by one.

    What :func:`pellucid.translate`, :func:`~pellucid.embed` and their kin are given instead. An encoder of images, for
    which there is no engine, comes back as it is.

    Args:
        weights: the type that they are read in: ``float32`` gives the same texts and vectors, ``float16`` nearly
            always, ``bfloat16`` and ``int8`` nearly.

    Raises:
        UserError: for ``int8`` or ``float16`` where there is no kernel for it.
    """
    model, quick = loaded.model, copy(loaded)
    if not isinstance(model, Encoder):
        quick.writer = Engine(model, weights)
    elif isinstance(model.embedding, TokenFront):
        quick.reader = EncoderEngine(model, weights)
    return quick
