"""The residual stream, read before its end: what each layer would say if it were the last.

Shapes: B batch, T positions, D d_model, V vocabulary, L layers, N = L + 1 states of the stream; * any axes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.analysis.passes import Tensors, recorded
from pellucid.analysis.streams import written_stream


def stream_names(model: nn.Module) -> list[str]:
    """The L + 1 names to watch for :func:`residual_stream`.

    Raises:
        UserError: for a model without a language head.
    """
    return written_stream(model)[0].states()


def residual_stream(model: nn.Module, tape: Tensors) -> Float[Tensor, "N B T D"]:
    """The states of the stream that becomes logits: what the first block was given, then what each block left.

    Of an encoder–decoder it is the decoder's.

    Args:
        tape: ``tape.tensors`` of a pass in which :func:`stream_names` were watched.

    Raises:
        UserError: for a model without a language head, or a state that was not recorded.
    """
    return torch.stack([recorded(tape, name) for name in stream_names(model)])


def logit_lens(model: nn.Module, states: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
    """The scores of tokens that the model's own last norm and head give to any state (nostalgebraist 2020).

    At the last state these are the model's logits. After norms that stand behind the sum (``post``) there is no last
    norm, and the head reads each state as it is. Call it outside the trace, which would take its norm for the model's.

    Raises:
        UserError: for a model without a language head.
    """
    stream, head = written_stream(model)
    return head.scores(stream.tower.final_norm(states))
