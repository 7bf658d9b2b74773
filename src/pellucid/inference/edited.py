"""Writing with edits in force: each token by a whole pass, so that an edit means what it means in a trace.

Shapes: B rows (1), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from pellucid.inference.decode import Prompt, WritingModel, room
from pellucid.inference.rules import AnyRule, Written, apply
from pellucid.models.encoder_decoder import EncoderDecoder
from pellucid.trace import Edit, edit


def write_edited(
    model: WritingModel,
    prompt: Prompt,
    edits: Mapping[str, Edit | Sequence[Edit]],
    *,
    max_new_tokens: int,
    ends: Sequence[int] = (),
    filters: Sequence[AnyRule] = (),
) -> Iterator[int]:
    """The likeliest tokens one after the other, up to one of ``ends``, which is yielded too.

    Nothing is kept from one token to the next. With a cache a step has one position, and an edit of position 3 would
    find it in the prompt alone; here position 3 is the same in every pass. Between two tokens the model is as it was.

    Args:
        prompt: of one row, without padding.
    """
    tokens, written = prompt.tokens, Written.after(prompt.tokens)
    for _ in range(room(model, prompt, max_new_tokens)):
        with torch.inference_mode(), edit(model, edits):
            inputs = (prompt.source, tokens) if isinstance(model, EncoderDecoder) else (tokens,)
            scores = model(*inputs)[:, -1].float()
        token = int(apply(filters, scores, written).argmax(dim=-1))
        yield token
        if token in ends:
            return
        written = written.add(tokens.new_tensor([token]))
        tokens = written.tokens
