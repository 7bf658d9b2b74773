"""Small models of every family, with any part exchanged."""

from __future__ import annotations

from dataclasses import replace

import torch

from pellucid.config import model as config
from pellucid.config import parts
from pellucid.models.build import build

VOCAB = 61
FAMILIES = ("encoder", "decoder", "encoder_decoder")

STACK = parts.Stack(
    d_model=32,
    num_layers=2,
    attention=parts.Attention(num_heads=4),
    feed_forward=parts.FeedForward(d_ff=48),
    positions=parts.Sinusoidal(),
    placement="pre",
)


def _attention(**changes):
    return {"attention": parts.Attention(**{"num_heads": 4, **changes})}


# Each choice of part that can matter, one at a time against the plain stack.
CHOICES = {
    "plain": {},
    "none": {"positions": parts.NoPositions()},
    "sines-first": {"positions": parts.Sinusoidal(interleaved=False)},
    "learned": {"positions": parts.Learned(max_length=40)},
    "rotary": {"positions": parts.Rotary()},
    "rotary-interleaved": {"positions": parts.Rotary(interleaved=True)},
    "rotary-half": {"positions": parts.Rotary(fraction=0.5)},
    "alibi": {"positions": parts.ALiBi()},
    "relative-bias": {"positions": parts.RelativeBias(buckets=8, max_distance=20)},
    "post": {"placement": "post"},
    "both": {"placement": "both"},
    "rms": {"norm": parts.RMSNorm()},
    "rms-plus-one": {"norm": parts.RMSNorm(plus_one=True)},
    "no-norm-bias": {"norm": parts.LayerNorm(bias=False)},
    "grouped": _attention(num_kv_heads=2),
    "multi-query": _attention(num_kv_heads=1),
    "wide-heads": _attention(head_dim=12, bias=False),
    "qk-norm": _attention(qk_norm=True),
    "scale": _attention(scale=0.2),
    "softcap": _attention(softcap=2.0),
    "explicit": _attention(kernel="explicit"),
    "window": {"windows": (3,)},
    "windows-differ": {"windows": (3, 0), "positions": parts.Rotary()},
    "window-bias": {"windows": (4,), "positions": parts.ALiBi()},
    "gelu": {"feed_forward": parts.FeedForward(d_ff=48, activation="gelu")},
    "gated": {"feed_forward": parts.FeedForward(d_ff=48, activation="silu", gated=True, bias=False)},
}


def describe(family: str, stack: parts.Stack = STACK, **changes):
    """The config of a small model."""
    stack = replace(stack, **changes)
    front = config.Tokens(vocab_size=VOCAB)
    match family:
        case "encoder":
            return config.Encoder(front=front, stack=stack, tie=("source", "output"))
        case "decoder":
            return config.Decoder(front=front, stack=stack)
        case _:
            scaled = config.Tokens(vocab_size=VOCAB, scaled=True)
            return config.EncoderDecoder(source=scaled, encoder=stack, target=scaled, decoder=stack)


def small(family: str, **changes):
    """A small model with weights large enough for attention to be far from uniform."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        model = build(describe(family, **changes)).eval()
        for parameter in model.parameters():
            spread = 0.1 if parameter.dim() == 1 else 1.5 * parameter.size(-1) ** -0.5
            parameter.add_(torch.randn_like(parameter) * spread)
    return model


def run(model, tokens, **arguments):
    """One pass; an encoder–decoder reads the tokens backwards as its source."""
    family = type(model).__name__
    if family != "EncoderDecoder":
        return model(tokens, **arguments)
    keep = arguments.pop("keep", None)
    source_keep = None if keep is None else keep.flip(1)
    return model(tokens.flip(1), tokens, keep=keep, source_keep=source_keep, **arguments)
