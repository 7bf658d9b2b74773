"""Gaps that an encoder–decoder fills by writing what is missing, as it was trained to do by span corruption.

Raffel et al. 2020, §3.1.4: a sentinel stands in place of a span, and what is written is the sentinel and the span.
"""

from __future__ import annotations

import math

import torch

from pellucid.errors import UserError
from pellucid.inference.beam import Power, beam_search
from pellucid.inference.decode import Prompt
from pellucid.inference.encode import Fill
from pellucid.inference.reading import GAP, before_gap
from pellucid.inference.sampling import Never
from pellucid.models.checkpoint import Loaded
from pellucid.models.encoder_decoder import EncoderDecoder

LONGEST = 32  # tokens of a span


def write_gap(loaded: Loaded, text: str, *, top: int = 1) -> list[Fill]:
    """The likeliest spans for the one ``<mask>`` in a text, of any number of tokens each, by beam search.

    A probability is that of the whole span and of its end, among all that could be written.

    Raises:
        UserError: for a model whose vocabulary has no sentinels, or a text that has not exactly one gap.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, EncoderDecoder) or len(tokenizer.sentinels) < 1:
        raise UserError("fill", "this model was not trained to write what is missing", "one with <extra_id_0>")
    if (gaps := text.count(GAP)) != 1:
        raise UserError("fill", f"{gaps} gaps in {text!r}", f"one {GAP}", f'try "the {GAP} statement"')
    left, right = text.split(GAP)
    first, *others = tokenizer.sentinels
    kept = before_gap(tokenizer, left)
    before = tokenizer.encode(kept)
    source = tokenizer.source([*before, first, *tokenizer.encode(right)])
    start, read = (torch.tensor([ids], device=model.device) for ids in ([*tokenizer.start, first], source))
    ends = (*tokenizer.ends, *others[:1])
    text_alone = Never(tuple(tokenizer.special_ids - set(ends)))
    (found,) = beam_search(model, Prompt(start, source=read), beams=max(top, 4), max_new_tokens=LONGEST, ends=ends,
                           penalty=Power(0.0), filters=(text_alone,), writer=loaded.writer)  # fmt: skip
    spans = [(tokenizer.continuation(before, one.tokens), one.score) for one in found[:top]]
    return [Fill(kept + span + right, span.strip(), math.exp(score)) for span, score in spans]
