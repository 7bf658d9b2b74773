"""Singular values of circuits: those of the matrices written out in full, and of heads made by hand."""

import pytest
import torch
from families import FAMILIES, small

from pellucid.analysis.circuits import ov_singular_values, qk_singular_values
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.nn.attention import Attention
from pellucid.nn.lora import adapt

CHOICES = {
    "plain": parts.Attention(num_heads=4),
    "grouped": parts.Attention(num_heads=4, num_kv_heads=2),
    "wide": parts.Attention(num_heads=4, head_dim=12, bias=False),
}


def written_out(attention):
    """The D × D matrices of every head, and of each the largest singular values."""
    K, ov, qk = attention.head_dim, [], []
    heads = attention.query.out_features // K
    shared = heads // (attention.key.out_features // K)
    for head in range(heads):
        own, group = slice(head * K, head * K + K), slice(head // shared * K, head // shared * K + K)
        ov.append(attention.out.weight[:, own] @ attention.value.weight[group])
        qk.append(attention.query.weight[own].T @ attention.key.weight[group])
    return [torch.linalg.svdvals(torch.stack(matrices).double())[:, :K] for matrices in (ov, qk)]


def attentions(model):
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Attention)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", CHOICES)
def test_they_are_those_of_the_whole_matrix(family, choice):
    found = attentions(small(family, attention=CHOICES[choice]))
    assert len(found) == (6 if family == "encoder_decoder" else 2)
    for _, attention in found:
        ov, qk = written_out(attention)
        assert torch.allclose(ov_singular_values(attention).double(), ov, rtol=1e-4)
        assert torch.allclose(qk_singular_values(attention).double(), qk, rtol=1e-4)


@torch.no_grad()
def test_heads_made_by_hand():
    """Head 0 copies eight coordinates, head 1 one of them three times as large, head 2 nothing."""
    attention = small("decoder").blocks[0].self_attention
    for layer in (attention.value, attention.out):
        layer.weight.zero_()
    attention.value.weight[:8, :8] = attention.out.weight[:8, :8] = torch.eye(8)
    attention.value.weight[8, 5], attention.out.weight[7, 8] = 1.5, -2.0
    values = ov_singular_values(attention)
    assert torch.allclose(values[0], torch.ones(8))
    assert torch.allclose(values[1], torch.tensor([3.0] + [0.0] * 7), atol=1e-6)
    assert values[2].abs().max() == 0


def test_a_source_of_another_width():
    settings = small("encoder_decoder").decoder.blocks[0].cross_attention
    cross = Attention(
        32, 4, 4, 8, d_source=20, bias=True, key_bias=True, out_bias=True, head_norm=torch.nn.Identity, scale=None,
        softcap=None, dropout=0.0, kernel=settings.kernel,
    )  # fmt: skip
    ov, qk = written_out(cross)
    assert torch.allclose(ov_singular_values(cross).double(), ov, rtol=1e-3, atol=1e-6)
    assert torch.allclose(qk_singular_values(cross).double(), qk, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_low_rank_terms_are_part_of_the_circuit():
    model = small("decoder")
    attention = model.blocks[0].self_attention
    before = ov_singular_values(attention), qk_singular_values(attention)
    adapt(model, ("value", "query"), rank=2, alpha=4, dropout=0.0)
    assert torch.equal(ov_singular_values(attention), before[0])
    for layer in (attention.value, attention.query):
        layer.lora_B.weight.normal_()
        layer.weight = torch.nn.Parameter(layer.merged())
    merged = [values.clone() for values in (written_out(attention))]
    for layer in (attention.value, attention.query):
        layer.weight.sub_(layer.scale * layer.lora_B.weight @ layer.lora_A.weight)
    assert torch.allclose(ov_singular_values(attention).double(), merged[0], rtol=1e-3, atol=1e-5)
    assert torch.allclose(qk_singular_values(attention).double(), merged[1], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(ov_singular_values(attention), before[0], rtol=1e-2)


def test_normed_queries_have_no_circuit():
    attention = small("decoder", attention=parts.Attention(num_heads=4, qk_norm=True)).blocks[0].self_attention
    assert ov_singular_values(attention).shape == (4, 8)
    with pytest.raises(UserError, match="queries and keys are normed"):
        qk_singular_values(attention)
