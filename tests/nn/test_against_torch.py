"""Our layers and PyTorch's own, with the same weights, give the same numbers."""

import pytest
import torch
from torch import nn

from pellucid.config import parts
from pellucid.models.build import _block
from pellucid.nn.masks import Mask, Sites

close = {"atol": 2e-6, "rtol": 1e-4}
B, T, S, D, H = 2, 6, 9, 32, 4
KEEP = torch.tensor([[True] * S, [True] * 5 + [False] * 4])


def sites(length, keep=None):
    return Sites.of(B, length, torch.device("cpu"), keep=keep)


def stack(placement, activation="relu"):
    return parts.Stack(
        d_model=D,
        num_layers=1,
        attention=parts.Attention(num_heads=H),
        feed_forward=parts.FeedForward(d_ff=48, activation=activation),
        placement=placement,
    )


def copy_attention(ours, theirs):
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    for layer, weight, bias in zip((ours.query, ours.key, ours.value), weights, biases, strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    ours.out.load_state_dict(theirs.out_proj.state_dict())


def norm_of(residual, placement):
    return residual.before if placement == "pre" else residual.after


def shake(module):
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)


@torch.no_grad()
def test_multi_head_attention():
    theirs = nn.MultiheadAttention(D, H, batch_first=True).eval()
    shake(theirs)
    ours = _block(stack("pre"), D).eval().cross_attention
    copy_attention(ours, theirs)
    x, source = torch.randn(B, T, D), torch.randn(B, S, D)
    expected, _ = theirs(x, source, source, key_padding_mask=~KEEP)
    out = ours(x, source, mask=Mask(query=sites(T), key=sites(S, KEEP)))
    torch.testing.assert_close(out, expected, **close)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("placement", ["post", "pre"])
@torch.no_grad()
def test_encoder_layer(placement, activation):
    theirs = nn.TransformerEncoderLayer(
        D, H, 48, dropout=0.0, activation=activation, batch_first=True, norm_first=placement == "pre"
    ).eval()
    shake(theirs)
    ours = _block(stack(placement, activation), None).eval()
    copy_attention(ours.self_attention, theirs.self_attn)
    ours.feed_forward.up.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down.load_state_dict(theirs.linear2.state_dict())
    norm_of(ours.self_attention_residual, placement).load_state_dict(theirs.norm1.state_dict())
    norm_of(ours.feed_forward_residual, placement).load_state_dict(theirs.norm2.state_dict())
    x = torch.randn(B, S, D)
    expected = theirs(x, src_key_padding_mask=~KEEP)
    out = ours(x, mask=Mask(query=sites(S, KEEP), key=sites(S, KEEP)))
    torch.testing.assert_close(out[KEEP], expected[KEEP], **close)


@pytest.mark.parametrize("placement", ["post", "pre"])
@torch.no_grad()
def test_decoder_layer(placement):
    theirs = nn.TransformerDecoderLayer(D, H, 48, dropout=0.0, batch_first=True, norm_first=placement == "pre").eval()
    shake(theirs)
    ours = _block(stack(placement), D).eval()
    copy_attention(ours.self_attention, theirs.self_attn)
    copy_attention(ours.cross_attention, theirs.multihead_attn)
    ours.feed_forward.up.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.down.load_state_dict(theirs.linear2.state_dict())
    residuals = (ours.self_attention_residual, ours.cross_attention_residual, ours.feed_forward_residual)
    for residual, norm in zip(residuals, (theirs.norm1, theirs.norm2, theirs.norm3), strict=True):
        norm_of(residual, placement).load_state_dict(norm.state_dict())
    x, source = torch.randn(B, T, D), torch.randn(B, S, D)
    hidden = nn.Transformer.generate_square_subsequent_mask(T)
    expected = theirs(x, source, tgt_mask=hidden, memory_key_padding_mask=~KEEP)
    causal = Mask(query=sites(T), key=sites(T), causal=True)
    out = ours(x, source, mask=causal, source_mask=Mask(query=sites(T), key=sites(S, KEEP)))
    torch.testing.assert_close(out, expected, **close)
