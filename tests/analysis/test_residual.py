"""The lenses: at the end they are the model, at the start the tuned one is the plain one, and training helps."""

import pytest
import torch
from families import FAMILIES, describe, run, small

from pellucid.analysis.residual import logit_lens, residual_stream, stream_names
from pellucid.analysis.tuned_lens import TunedLens, lens_divergence, train_tuned_lens
from pellucid.config import model as config
from pellucid.config import parts
from pellucid.errors import UserError
from pellucid.models.build import build
from pellucid.trace import trace


def streamed(model, tokens, **arguments):
    """The states of the stream and the logits."""
    with torch.no_grad(), trace(model, watch=stream_names(model)) as tape:
        logits = run(model, tokens, **arguments)
    return residual_stream(model, tape.tensors), logits


def tokens(rows=2, length=7):
    return torch.randint(0, 61, (rows, length))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"placement": "post"}, {"placement": "both", "norm": parts.RMSNorm()}])
@torch.no_grad()
def test_at_the_last_layer_the_lens_is_the_model(family, changes):
    model = small(family, **changes)
    states, logits = streamed(model, tokens())
    assert states.shape == (3, 2, 7, 32)
    assert torch.equal(logit_lens(model, states[-1]), logits)
    assert not torch.allclose(logit_lens(model, states)[0], logits, atol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_where_no_layer_writes_every_layer_says_the_same(family):
    model = small(family)
    for name, parameter in model.named_parameters():
        if ".out." in name or ".down." in name:
            parameter.zero_()
    states, logits = streamed(model, tokens())
    for read in logit_lens(model, states):
        assert torch.allclose(read, logits)


@torch.no_grad()
def test_what_the_head_does_is_part_of_the_lens():
    """T5 scales the state, Gemma 2 squashes the logits."""
    settings = describe("decoder")
    model = build(
        config.Decoder(front=settings.front, stack=settings.stack, head=config.Language(scale=30, softcap=0.5))
    )
    states, logits = streamed(model.eval(), tokens())
    assert torch.equal(logit_lens(model, states)[-1], logits)
    assert 0.4 < logits.abs().max() <= 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tuned_lens_begins_as_the_logit_lens_and_gets_nearer(family):
    model, heard = small(family), []
    text, keep = tokens(40, 7), torch.ones(40, 7, dtype=torch.bool)
    keep[:, 5:] = False
    states = streamed(model, text, keep=keep)[0][:, keep]
    learned, held_out = states[:, :150], states[:, 150:]
    untrained = TunedLens(2, 32)
    assert torch.equal(untrained(states), states)

    before = lens_divergence(model, held_out).mean(-1)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    lens = train_tuned_lens(
        model, [learned[:, :75], learned[:, 75:]], steps=60, learning_rate=0.01, progress=lambda *at: heard.append(at)
    )
    with torch.no_grad():
        after = lens_divergence(model, lens(held_out)).mean(-1)
    assert bool((after[:-1] < 0.8 * before[:-1]).all())
    assert before[-1] == after[-1] == 0
    assert heard == [(step, 60) for step in range(1, 61)]
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@torch.no_grad()
def test_the_divergence_is_the_sum_that_defines_it():
    """Σ p ln(p / q), p being what the model says in the end."""
    model = small("decoder")
    states, logits = streamed(model, tokens())
    p, q = logits.softmax(-1), logit_lens(model, states[0]).softmax(-1)
    assert torch.allclose(lens_divergence(model, states)[0], (p * (p / q).log()).sum(-1), atol=1e-4)
    assert not torch.allclose(lens_divergence(model, states)[0], (q * (q / p).log()).sum(-1), atol=1e-2)


def test_a_tuned_lens_finds_a_basis_that_was_turned():
    model = small("decoder", num_layers=1)
    with torch.inference_mode():
        final = streamed(model, tokens(30, 9))[0][-1].flatten(0, 1)
        turned = torch.linalg.qr(torch.randn(32, 32)).Q
        states = torch.stack([final @ turned + 0.3, final])
    lens = train_tuned_lens(model, [states], steps=400, learning_rate=0.02)
    with torch.no_grad():
        before, after = (lens_divergence(model, x)[0].mean() for x in (states, lens(states)))
    assert before > 1
    assert after < 0.03 * before


def test_what_does_not_fit_is_told():
    model = small("decoder")
    with pytest.raises(UserError, match=r'"blocks.0.residual_pre": was not recorded. Watch it'):
        residual_stream(model, {})
    with pytest.raises(UserError, match="no batch"):
        train_tuned_lens(model, [])
    with pytest.raises(UserError, match=r"shape \(4, 5, 32\); expected 3 states of 32 features"):
        train_tuned_lens(model, [torch.zeros(4, 5, 32)])
    with pytest.raises(UserError, match=r"shape \(2, 5, 32\); expected 3 states of 32 features"):
        TunedLens(2, 32)(torch.zeros(2, 5, 32))
    settings = describe("encoder")
    embedding = build(config.Encoder(front=settings.front, stack=settings.stack, head=config.Embedding()))
    with pytest.raises(UserError, match="head of kind EmbeddingHead; expected a language head"):
        logit_lens(embedding, torch.zeros(1, 32))
    with pytest.raises(UserError, match="Linear: has no residual stream"):
        stream_names(torch.nn.Linear(2, 2))
